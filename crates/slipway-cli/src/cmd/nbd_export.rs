//! `slipway nbd-export`: versions as read-only network block devices.

use crate::context::Context;
use crate::failure::{Failure, exit, path_shown};
use crate::human::{clean, count, size};
use crate::output::{Output, facts};
use crate::refs::version_ref;
use slipway_transfer::{
    Cancel, FrameCache, NbdEvent, NbdExport, NbdExports, NbdLimits, NbdListener, NbdSocket, ReaderOptions,
    RemoteReader, nbd_serve, nbd_tcp_uri, nbd_unix_uri,
};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// Serve versions as read-only network block devices (NBD)
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Bytes are fetched as they are read, and verified before they are given out. Prints the address of each export, the \
first of which is also the default one (''); then serves until Ctrl-C or SIGTERM. Without --socket and --listen the \
socket lies in a folder that only you can enter. See docs/nbd.md.

Examples:
  slipway nbd-export me/os:3 --socket /run/os.sock
  qemu-system-x86_64 -snapshot -drive 'file=nbd+unix:///?socket=/run/os.sock,format=raw'
  nbd-client -unix /run/os.sock /dev/nbd0 -readonly && mount -o ro,noload /dev/nbd0 /mnt
  nbdcopy 'nbd+unix:///?socket=/run/os.sock' os.raw
  slipway nbd-export me/os:3 me/data --listen 127.0.0.1:10809")]
pub(crate) struct Args {
    #[arg(help = "owner/name[:N|:channel][@root]", required = true, value_name = "REF")]
    references: Vec<String>,
    /// Listen on this unix socket, which only you can use
    #[arg(long, value_name = "PATH", conflicts_with = "listen")]
    socket: Option<PathBuf>,
    /// Listen on TCP; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Let --listen take an address that other machines reach: whoever reaches it reads the image
    #[arg(long, requires = "listen")]
    allow_remote: bool,
    /// End when the last client has gone
    #[arg(long)]
    once: bool,
    /// Memory for what was read, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    cache: u64,
    #[command(flatten)]
    output: Output,
}

/// What is served, for programs.
#[derive(serde::Serialize)]
struct Answer {
    #[serde(rename = "ref")]
    reference: String,
    uri: String,
    size: u64,
    sector_size: u32,
    root: String,
}

/// The same complaint of the same kind is repeated after this time at the earliest.
const SAY_AGAIN: Duration = Duration::from_secs(10);

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    if let Some(at) = args.listen.filter(|at| !at.ip().is_loopback() && !args.allow_remote) {
        return Err(Failure::usage(format!(
            "--listen {at} is reachable from other machines, and NBD asks for no token"
        ))
        .next("listen on 127.0.0.1, or add --allow-remote if every machine that reaches it may read the image"));
    }
    let stop = cx.control(|_| ()).cancel;
    let exports = exports_open(&args, cx, &stop).await?;
    let (_folder, listener) = listen(&args).await?;
    // A signal is how a server ends, so it is no failure.
    cx.on_interrupt_tidy("clients were cut off; start it again when you like");
    let (served, answers): (Vec<_>, Vec<_>) = exports.into_iter().unzip();
    let answers = answers_complete(answers, &listener)?;
    print(&args.output, &answers)?;
    let total = answers.iter().map(|answer| answer.size).sum();
    cx.note(&format!(
        "serving {} ({}), read-only; Ctrl-C ends it",
        count(answers.len() as u64, "version"),
        size(total)
    ));
    let exports = NbdExports::new(served);
    let tell = teller(cx.clone());
    let ended = nbd_serve(&listener, &exports, &NbdLimits::default(), args.once, &stop, tell).await;
    let served = ended.map_err(|why| Failure::io("accepting on", Path::new(&place(&listener)), &why))?;
    cx.note(&format!("{}, {} read", count(served.connections, "connection"), size(served.bytes)));
    Ok(())
}

/// Finds every version before anything is served.
async fn exports_open(args: &Args, cx: &Context, stop: &Cancel) -> Result<Vec<(NbdExport, Answer)>, Failure> {
    let cache = FrameCache::memory(args.cache << 20);
    let mut exports: Vec<(NbdExport, Answer)> = Vec::new();
    for text in &args.references {
        let wanted = version_ref(text)?;
        cx.client()?.version_resolve(&wanted).await?;
        let options = ReaderOptions { cancel: stop.clone(), ..ReaderOptions::default() };
        let reader = RemoteReader::open(&cx.client_patient()?, &wanted, &cache, options).await?;
        let name = reader.content().name();
        if exports.iter().any(|(export, _)| export.names.contains(&name)) {
            return Err(Failure::usage(format!("{name} is named twice")).next("name each version once"));
        }
        let root = reader.content().version().root.to_string();
        let (size, sector_size) = (reader.size(), reader.sector_size());
        let mut names = vec![name.clone()];
        // Two channels of one image may be served; the plain name is the first one's.
        if *text != name && !exports.iter().any(|(export, _)| export.names.contains(text)) {
            names.push(text.clone());
        }
        let description = format!("Slipway version {name}, root {root}");
        let answer = Answer { reference: name, uri: String::new(), size, sector_size, root };
        exports.push((NbdExport { names, description, source: Arc::new(reader) }, answer));
    }
    Ok(exports)
}

/// A folder that only we can enter; it goes with this value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Failure> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_dir());
        let name = format!("slipway-nbd-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let folder = runtime.unwrap_or_else(std::env::temp_dir).join(name);
        let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|why| Failure::io("making", &folder, &why))?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// The folder of the socket if we made one, and the listener: in this order, so that the socket is gone before its folder.
async fn listen(args: &Args) -> Result<(Option<Folder>, NbdListener), Failure> {
    if let Some(at) = args.listen {
        let listener = TcpListener::bind(at).await;
        let listener = listener.map_err(|why| listen_failure(Path::new(&at.to_string()), &why))?;
        return Ok((None, NbdListener::Tcp(listener)));
    }
    let folder = if args.socket.is_none() { Some(Folder::new()?) } else { None };
    let path = match (&args.socket, &folder) {
        (Some(path), _) => std::path::absolute(path).map_err(|why| Failure::io("listening on", path, &why))?,
        (None, folder) => folder.as_ref().map(|folder| folder.0.join("socket")).unwrap_or_default(),
    };
    let socket = NbdSocket::bind(&path).map_err(|why| listen_failure(&path, &why))?;
    Ok((folder, NbdListener::Unix(socket)))
}

fn listen_failure(at: &Path, why: &io::Error) -> Failure {
    let failure = Failure::io("listening on", at, why);
    match why.kind() {
        io::ErrorKind::AddrInUse | io::ErrorKind::AlreadyExists => {
            Failure { exit: exit::CONFLICT, ..failure }.next("choose another place, or end what has it")
        }
        io::ErrorKind::AddrNotAvailable => failure.next("listen on an address that this machine has: 'ip addr'"),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => Failure { exit: exit::USAGE, ..failure }
            .next("the path of a unix socket has at most 107 bytes: choose a shorter one"),
        _ => failure,
    }
}

/// Writes the addresses down. The default export has the shortest one, which is what most want.
fn answers_complete(mut answers: Vec<Answer>, listener: &NbdListener) -> Result<Vec<Answer>, Failure> {
    let alone = answers.len() == 1;
    for answer in &mut answers {
        let name = if alone { "" } else { &answer.reference };
        answer.uri = match listener {
            NbdListener::Unix(socket) => nbd_unix_uri(name, socket.path()),
            NbdListener::Tcp(listener) => {
                let at = listener.local_addr().map_err(|why| Failure::io("asking for", Path::new("the port"), &why))?;
                nbd_tcp_uri(name, at)
            }
        };
    }
    Ok(answers)
}

fn print(output: &Output, answers: &[Answer]) -> Result<(), Failure> {
    if output.for_programs() {
        return output.list(answers, |_| crate::output::Table::new(&[]));
    }
    match answers {
        [only] => crate::output::print(&format!("{}\n", only.uri)),
        all => {
            let rows: Vec<_> = all.iter().map(|answer| (answer.reference.as_str(), answer.uri.clone())).collect();
            crate::output::print(&facts(&rows))
        }
    }
}

fn place(listener: &NbdListener) -> String {
    match listener {
        NbdListener::Unix(socket) => path_shown(socket.path()),
        NbdListener::Tcp(listener) => listener.local_addr().map_or_else(|_| "TCP".into(), |at| at.to_string()),
    }
}

/// Says what a person should know, each thing now and then: a client that reads on and on would fill the screen.
fn teller(cx: Context) -> impl Fn(NbdEvent) + Send + Sync + 'static {
    let said: Mutex<HashMap<String, Instant>> = Mutex::default();
    let now_and_then = move |key: &str, text: &str| {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|_, at| at.elapsed() < SAY_AGAIN);
        if !said.contains_key(key) {
            said.insert(key.to_owned(), Instant::now());
            eprintln!("slipway: {}", clean(text));
        }
    };
    move |event| match event {
        NbdEvent::Opened { peer, export } => cx.detail(&format!("{peer} opened {export}")),
        NbdEvent::Closed { peer, why: None } => cx.detail(&format!("{peer} left")),
        NbdEvent::Closed { peer, why: Some(why) } => cx.detail(&format!("{peer} was cut off: {why}")),
        NbdEvent::Refused { peer } => now_and_then("refused", &format!("{peer} was turned away: too many connections")),
        NbdEvent::Failed { peer, offset, len, why } => {
            now_and_then(&why, &format!("reading {len} bytes at {offset} for {peer}: {why}"));
        }
    }
}
