//! `slipway-agent export DIR`, which the service runs for each attachment that needs a process: reads a version of a catalogue, verifies it, and
//! gives it as an NBD export on a unix socket in that folder, or leads to an NBD server over TLS (`tunnel.rs`). It ends when the folder is gone,
//! and needs no service while it runs.

use crate::failure::{Failure, clean};
use crate::presence::{self, Noted, Reads};
use slipway_api::node::StepError;
use slipway_api::{Client, ClientConfig, VersionRef};
use slipway_node::{ExportFiles, ExportReport, ExportSpec, TunnelSpec, VersionSpec, export_begin};
use slipway_transfer::{
    Cancel, FrameCache, NbdEvent, NbdExport, NbdExports, NbdLimits, NbdListener, NbdSocket, ReaderOptions,
    RemoteReader, TransferError, nbd_serve,
};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// Memory for what was read.
const CACHE: u64 = 64 << 20;
/// The server must answer while the request for the attachment waits.
const CONNECT: Duration = Duration::from_secs(5);
/// More is no token.
const TOKEN_MAX: u64 = 4096;
/// Between looks whether the attachment is still there.
const LOOK: Duration = Duration::from_secs(1);
/// The same complaint is repeated after this time at the earliest, …
const SAY_AGAIN: Duration = Duration::from_secs(10);
/// … and the log, which lies in memory, has an end.
const LINES_MAX: u32 = 5000;

/// Runs until the attachment goes. Standard input has the token; standard output, a pipe, hears one report.
pub(crate) fn run(dir: &Path, ca: Option<&Path>) -> ExitCode {
    let Ok(mut report) = export_begin() else { return ExitCode::FAILURE };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    crate::log_begin("warn");
    let files = ExportFiles::at(dir);
    // What is written to a disk may be what makes room for this process' own memory. Without it that merely takes longer.
    let _ = rustix::process::configure_io_flusher_behavior(true);
    let (step, ended) = match files.spec() {
        Ok(ExportSpec::Version(spec)) => ("slipway", version_run(&files, &spec, ca, &mut report)),
        Ok(ExportSpec::Tunnel(spec)) => ("nbd_tls", tunnel_run(&files, spec, &mut report)),
        Err(why) => ("export", Err(unread("what to export", why))),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{}", failure.rendered());
            // What was not found or may not be read is for whoever asked; the rest is for whoever runs the server or this node.
            let error = StepError { step: step.into(), errno: None, text: clean(&failure.what) };
            let _ = ExportReport::Failed { of_request: matches!(failure.exit, 2..=4), error }.write(&mut report);
            ExitCode::from(failure.exit)
        }
    }
}

fn unread(what: &str, why: io::Error) -> Failure {
    Failure::new(1, format!("reading {what}: {why}"), "attach it again, or look at the service's settings")
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()
        .map_err(crate::threads_missing)
}

fn tunnel_run(files: &ExportFiles, spec: TunnelSpec, report: &mut File) -> Result<(), Failure> {
    let secrets = crate::tunnel::secrets_read()?;
    let runtime = runtime()?;
    let stop = Cancel::new();
    let ended = runtime.block_on(async {
        tokio::spawn(end_wait(files.dir().to_owned(), stop.clone()));
        crate::tunnel::serve(files, spec, &secrets, report, &stop).await
    });
    runtime.shutdown_timeout(LOOK);
    ended
}

/// Says that it listens, and nothing more after that.
pub(crate) fn report_say(word: &ExportReport, report: &mut File) -> Result<(), Failure> {
    // Nobody who waits for it any more: then the attachment was given up.
    word.write(&mut *report).map_err(|why| Failure::new(1, format!("reporting: {why}"), "attach it again"))?;
    *report = File::open("/dev/null").map_err(|why| Failure::new(1, format!("/dev/null: {why}"), "look at /dev"))?;
    Ok(())
}

fn token_read() -> Result<Option<String>, Failure> {
    let mut text = String::new();
    let read = io::stdin().lock().take(TOKEN_MAX).read_to_string(&mut text);
    read.map_err(|why| Failure::new(1, format!("reading the token: {why}"), "attach it again"))?;
    Ok(Some(text.trim().to_owned()).filter(|token| !token.is_empty()))
}

fn version_run(files: &ExportFiles, spec: &VersionSpec, ca: Option<&Path>, report: &mut File) -> Result<(), Failure> {
    let token = token_read()?;
    let ca_pem = ca.map(std::fs::read).transpose().map_err(|why| unread("the CA of the server", why))?;
    let runtime = runtime()?;
    let ended = runtime.block_on(serve(files, spec, token, ca_pem, report));
    runtime.shutdown_timeout(LOOK);
    ended
}

async fn serve(
    files: &ExportFiles,
    spec: &VersionSpec,
    token: Option<String>,
    ca_pem: Option<Vec<u8>>,
    report: &mut File,
) -> Result<(), Failure> {
    let wanted: VersionRef = spec.reference.parse().map_err(|why: slipway_api::ReferenceError| {
        Failure::new(2, why.to_string(), "references look like jan/os, jan/os:3 or jan/os:stable")
    })?;
    let config =
        ClientConfig { token, ca_pem, connect_timeout: CONNECT, attempts: 2, ..ClientConfig::new(&spec.server) };
    let client = Client::new(&config).map_err(TransferError::from)?;
    let stop = Cancel::new();
    let options = ReaderOptions { cancel: stop.clone(), ..ReaderOptions::default() };
    let reader = RemoteReader::open(&client, &wanted, &FrameCache::memory(CACHE), options).await?;
    let socket = files.socket();
    let listener = NbdSocket::bind(&socket)
        .map_err(|why| Failure::new(1, format!("listening on {}: {why}", socket.display()), "attach it again"))?;
    let name = reader.content().name();
    let reference = format!("{name}@{}", reader.content().version().root);
    let ready = ExportReport::Ready { reference, size: reader.size(), sector_size: reader.sector_size() };
    let description = format!("Slipway version {name}");
    let pinned = reader.content().name().parse::<VersionRef>();
    let reads = Reads::default();
    let source = Arc::new(Noted { reader, reads: reads.clone() });
    let export = NbdExport { names: vec![name], description, source };
    // What an earlier process had to say is over.
    let _ = files.trouble_write(None);
    if let Ok(pinned) = pinned {
        tokio::spawn(presence::watch(reads, client.clone(), pinned, files.clone(), stop.clone()));
    }
    report_say(&ready, report)?;
    tokio::spawn(end_wait(files.dir().to_owned(), stop.clone()));
    let (exports, listener) = (NbdExports::new(vec![export]), NbdListener::Unix(listener));
    let ended = nbd_serve(&listener, &exports, &NbdLimits::default(), false, &stop, teller()).await;
    ended.map(drop).map_err(|why| Failure::new(1, format!("taking connections: {why}"), "look at this node's limits"))
}

/// Stops with the attachment, or when the service says so.
async fn end_wait(dir: std::path::PathBuf, stop: Cancel) {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return stop.cancel() };
    while dir.exists() {
        tokio::select! {
            _ = terminate.recv() => break,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    stop.cancel();
}

/// Writes down what could not be read, each reason now and then.
fn teller() -> impl Fn(NbdEvent) + Send + Sync + 'static {
    let said: Mutex<(u32, HashMap<String, Instant>)> = Mutex::default();
    move |event| {
        let (key, text) = match event {
            NbdEvent::Opened { .. } | NbdEvent::Closed { why: None, .. } => return,
            NbdEvent::Closed { why: Some(why), .. } => (why.clone(), format!("the kernel's connection ended: {why}")),
            NbdEvent::Refused { .. } => ("refused".to_owned(), "too many connections".to_owned()),
            NbdEvent::Failed { offset, len, why, .. } => {
                (why.clone(), format!("reading {len} bytes at {offset}: {why}"))
            }
        };
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        let (lines, at) = &mut *said;
        at.retain(|_, at| at.elapsed() < SAY_AGAIN);
        if *lines < LINES_MAX && !at.contains_key(&key) {
            *lines += 1;
            at.insert(key, Instant::now());
            eprintln!("{}", clean(&text));
        }
    }
}
