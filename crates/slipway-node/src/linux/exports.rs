//! Processes that attachments need: each gives a version of a catalogue as an NBD export, or speaks TLS with an NBD server. Each has a session of its own, outlives the service, is
//! found again by the files in its folder, and ends when that is gone.

use super::credentials::Credentials;
use super::{folder_make, io_error};
use crate::container::{file_write, process_open, process_start};
use crate::crash::crash_point;
use crate::export::{ExportFiles, ExportReport, ExportSpec, TunnelSecrets, VersionSpec};
use crate::refusal::DriverError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use slipway_api::VersionRef;
use slipway_api::node::{AttachSlipway, ObjectId, StepError};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// From the start of a process until it listens.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a process may take to end before it is killed, and then to vanish.
const END: Duration = Duration::from_secs(3);
/// A report has a reference and a sentence.
const REPORT_MAX: u64 = 64 << 10;

/// Which process it is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Status {
    pid: u32,
    /// In ticks since boot: tells it from a later process of the same number.
    start: u64,
}

/// The processes of one service.
#[derive(Clone, Debug)]
pub(super) struct Exports {
    folder: PathBuf,
    credentials: Credentials,
    /// The program and its arguments; the folder of the attachment is added.
    program: Vec<String>,
}

impl Exports {
    pub(super) fn new(run_dir: &Path, state_dir: &Path, program: Vec<String>) -> Self {
        Self { folder: run_dir.join("exports"), credentials: Credentials::at(&state_dir.join("credentials")), program }
    }

    pub(super) fn files(&self, id: ObjectId) -> ExportFiles {
        ExportFiles::at(&self.folder.join(id.to_string()))
    }

    /// Those that there is a folder of.
    pub(super) fn ids(&self) -> Vec<ObjectId> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// What is wrong with the server of a version.
    pub(super) fn trouble(&self, id: ObjectId) -> Option<StepError> {
        let why = self.files(id).trouble()?;
        let text = format!(
            "the Slipway server is away: {why}; what is not in memory is waited for, at most 30 s, and fails then"
        );
        Some(StepError { step: "slipway".into(), errno: None, text })
    }

    /// Starts the process of an attachment; nothing of it is left when that does not work.
    pub(super) fn begin(&self, id: ObjectId, spec: ExportSpec) -> Result<ExportReport, DriverError> {
        if self.program.is_empty() {
            let mut error =
                DriverError::request("export", "this service was not told the program that such attachments need");
            error.status = 501;
            return Err(error);
        }
        // Before anything is made: a wrong name is the request's own fault.
        let secrets = self.secrets(&spec)?;
        let files = self.files(id);
        folder_make(files.dir())?;
        crash_point("exports.folder.after");
        self.start(&files, spec, &secrets).inspect_err(|_| {
            if let Err(error) = self.stop(id) {
                tracing::warn!(id, %error, "clearing away an export that did not come about");
            }
        })
    }

    /// Starts the process again if it is not there.
    pub(super) fn ensure(&self, id: ObjectId) -> Result<(), DriverError> {
        let files = self.files(id);
        if running(&files).is_some() {
            return Ok(());
        }
        let spec = files.spec().map_err(|error| io_error("read", &files.spec_path(), &error))?;
        let secrets = self.secrets(&spec)?;
        self.start(&files, spec, &secrets).map(drop)
    }

    /// Ends the process and removes its folder. That there is none is success.
    pub(super) fn stop(&self, id: ObjectId) -> Result<(), DriverError> {
        let files = self.files(id);
        crash_point("exports.stop.before");
        end(&files)?;
        crash_point("exports.stop.ended");
        let removed = fs::remove_dir_all(files.dir());
        crash_point("exports.stop.after");
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("rmdir", files.dir(), &error)),
            _ => Ok(()),
        }
    }

    fn start(&self, files: &ExportFiles, spec: ExportSpec, secrets: &[u8]) -> Result<ExportReport, DriverError> {
        file_write(&files.spec_path(), &spec).map_err(|error| io_error("write", &files.spec_path(), &error))?;
        crash_point("exports.spawn.before");
        let mut child = self.spawn(files, secrets)?;
        crash_point("exports.spawn.after");
        let told = (|| {
            let pid = child.id();
            let status = Status { pid, start: process_start(pid).unwrap_or_default() };
            file_write(&files.status_path(), &status)
                .map_err(|error| io_error("write", &files.status_path(), &error))?;
            crash_point("exports.status.after");
            report_read(&mut child)
        })();
        let told = told.inspect_err(|_| {
            let _ = child.kill();
        });
        // One that outlives the service is reaped by whoever takes its children; until then by this.
        std::thread::spawn(move || child.wait());
        let told = told?;
        match (&told, spec) {
            (ExportReport::Ready { reference, .. }, ExportSpec::Version(spec)) => {
                // From here on it is this version, wherever a channel goes.
                let pinned = ExportSpec::Version(VersionSpec { reference: reference.clone(), ..spec });
                file_write(&files.spec_path(), &pinned)
                    .map_err(|error| io_error("write", &files.spec_path(), &error))?;
                crash_point("exports.ready.after");
            }
            (ExportReport::Ready { .. } | ExportReport::Listening | ExportReport::Failed { .. }, _) => {}
        }
        match told {
            ExportReport::Ready { .. } | ExportReport::Listening => Ok(told),
            ExportReport::Failed { of_request, error } => {
                Err(DriverError { status: if of_request { 400 } else { 500 }, error, holders: Vec::new() })
            }
        }
    }

    fn spawn(&self, files: &ExportFiles, secrets: &[u8]) -> Result<Child, DriverError> {
        let log = File::create(files.log()).map_err(|error| io_error("create", &files.log(), &error))?;
        let program = self.program.first().map_or("", String::as_str);
        let mut command = Command::new(program);
        command.args(&self.program[1..]).arg(files.dir()).env_clear();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().map_err(|error| io_error("spawn", Path::new(program), &error))?;
        if let Some(mut stdin) = child.stdin.take() {
            // The process reads it before all else; one that died already says so by its report.
            let _ = stdin.write_all(secrets);
        }
        Ok(child)
    }

    /// What a process gets on its standard input.
    fn secrets(&self, spec: &ExportSpec) -> Result<Vec<u8>, DriverError> {
        match spec {
            ExportSpec::Version(spec) => {
                self.credentials.token("slipway.token_ref", &spec.token_ref).map(String::into_bytes)
            }
            ExportSpec::Tunnel(spec) => {
                let read = |field: &str, name: &str| self.credentials.text(&format!("nbd.tls.{field}"), name);
                let secrets = TunnelSecrets {
                    ca: read("ca_ref", &spec.ca_ref)?,
                    cert: read("cert_ref", &spec.cert_ref)?,
                    key: read("key_ref", &spec.key_ref)?,
                };
                serde_json::to_vec(&secrets).map_err(|error| DriverError::other("credentials", error.to_string()))
            }
        }
    }
}

/// Checks what does not need the server of a version.
pub(super) fn version_spec(block: &AttachSlipway) -> Result<VersionSpec, DriverError> {
    let wrong = |text: String| Err(DriverError::request("slipway", text));
    if let Err(error) = block.reference.parse::<VersionRef>() {
        return wrong(format!("slipway.ref: {error}"));
    }
    let host = block.server.strip_prefix("https://").or_else(|| block.server.strip_prefix("http://"));
    match host {
        // What it holds before an @ would be a secret in a place that is shown.
        Some(host) if !host.is_empty() && !host.contains('@') && !host.contains(char::is_whitespace) => {}
        Some(host) if host.contains('@') => {
            return wrong("slipway.server holds a name or password; use token_ref".into());
        }
        _ => return wrong("slipway.server is no http:// or https:// URL".into()),
    }
    Ok(VersionSpec {
        reference: block.reference.clone(),
        server: block.server.clone(),
        token_ref: block.token_ref.clone(),
    })
}

fn running(files: &ExportFiles) -> Option<rustix::fd::OwnedFd> {
    let status: Status = serde_json::from_slice(&fs::read(files.status_path()).ok()?).ok()?;
    let process = process_open(status.pid, status.start)?;
    // One that has ended and was not reaped is there no more.
    (!ended(&process, Duration::ZERO)).then_some(process)
}

fn ended(process: &rustix::fd::OwnedFd, wait: Duration) -> bool {
    let wait = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: i64::from(wait.subsec_nanos()) };
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&wait)).is_ok_and(|ready| ready > 0)
}

fn end(files: &ExportFiles) -> Result<(), DriverError> {
    let Some(process) = running(files) else { return Ok(()) };
    for signal in [Signal::TERM, Signal::KILL] {
        match pidfd_send_signal(&process, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(DriverError::system("signal", errno, files.dir().display().to_string())),
        }
        if ended(&process, END) {
            return Ok(());
        }
    }
    Err(DriverError::other("signal", format!("the process of {} does not end", files.dir().display())))
}

/// Waits for the process' word.
fn report_read(child: &mut Child) -> Result<ExportReport, DriverError> {
    let broken = |text: &str| DriverError::other("export", text);
    let Some(mut stdout) = child.stdout.take() else { return Err(broken("the process has no output")) };
    let until = Instant::now() + PATIENCE;
    let mut text = Vec::new();
    while !text.contains(&b'\n') {
        let left = until.saturating_duration_since(Instant::now());
        let wait = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&wait)) {
            Ok(0) => return Err(broken(&format!("the server gave no answer in {} s", PATIENCE.as_secs()))),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(DriverError::system("poll", errno, "the process of the attachment")),
        }
        let mut part = [0; 4096];
        match stdout.read(&mut part) {
            Ok(len @ 1..) => text.extend_from_slice(&part[..len]),
            Ok(0) => return Err(broken("the process of the attachment ended without a word")),
            Err(error) => return Err(DriverError::other("export", error.to_string())),
        }
        if text.len() as u64 > REPORT_MAX {
            return Err(broken("the process of the attachment says too much"));
        }
    }
    serde_json::from_slice(&text).map_err(|_| broken("the process of the attachment says something else"))
}

#[cfg(test)]
mod tests {
    use super::version_spec;
    use slipway_api::node::AttachSlipway;

    #[test]
    fn what_is_asked_for_is_checked_first() {
        let spec = |reference: &str, server: &str| {
            let block = AttachSlipway { reference: reference.into(), server: server.into(), token_ref: String::new() };
            version_spec(&block).map(|spec| spec.server).map_err(|error| error.error.text)
        };
        assert_eq!(spec("me/os:3", "https://s:1").as_deref(), Ok("https://s:1"));
        for (reference, server, word) in [
            ("os", "http://s", "slipway.ref"),
            ("me/os:!", "http://s", "slipway.ref"),
            ("me/os", "s", "slipway.server"),
            ("me/os", "ftp://s", "slipway.server"),
            ("me/os", "http://", "slipway.server"),
            ("me/os", "http://me:hunter2@s", "token_ref"),
        ] {
            let text = spec(reference, server).unwrap_err();
            assert!(text.contains(word) && !text.contains("hunter2"), "{text}");
        }
    }
}
