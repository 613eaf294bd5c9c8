//! A container's directory in the run directory: what the service and the shim tell each other, by files that are renamed into place.

use crate::crash::crash_point;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use slipway_api::node::Exit;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The directory of one container.
#[derive(Clone, Debug)]
pub struct ContainerFiles(PathBuf);

/// What a shim says while its init runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The init, as the node numbers it.
    pub pid: u32,
    /// When the kernel started the init, in ticks since boot: tells it from a later process of the same number.
    pub pid_start: u64,
    /// The shim.
    pub shim: u32,
    /// When the kernel started the shim.
    pub shim_start: u64,
    /// When, in milliseconds since 1970.
    pub started_at_ms: i64,
    /// Whether the init has said that it is ready.
    pub ready: bool,
    /// How many of its processes the kernel has killed for want of memory.
    #[serde(default)]
    pub ooms: u64,
}

impl ContainerFiles {
    /// Of the container of this number.
    pub fn new(run_dir: &Path, id: u64) -> Self {
        Self(run_dir.join("containers").join(id.to_string()))
    }

    /// That is at this path.
    pub fn at(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    pub(super) fn spec(&self) -> PathBuf {
        self.0.join("spec.json")
    }

    /// Its output and the service's lines.
    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    fn status_path(&self) -> PathBuf {
        self.0.join("status.json")
    }

    fn exit_path(&self) -> PathBuf {
        self.0.join("exit.json")
    }

    pub(super) fn notify(&self) -> PathBuf {
        self.0.join("host/notify")
    }

    /// What the shim says, if it has said anything since the last start.
    pub fn status(&self) -> Option<Status> {
        read(&self.status_path())
    }

    /// How the init ended, if it has since the last start.
    pub fn exit(&self) -> Option<Exit> {
        read(&self.exit_path())
    }

    pub(super) fn status_write(&self, status: &Status) -> io::Result<()> {
        write(&self.status_path(), status)
    }

    pub(super) fn exit_write(&self, exit: &Exit) -> io::Result<()> {
        write(&self.exit_path(), exit)
    }

    /// Forgets how an earlier run went.
    pub(super) fn begin(&self) -> io::Result<()> {
        for path in [self.status_path(), self.exit_path()] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Whole or not at all.
pub(crate) fn write<T: Serialize>(path: &Path, what: &T) -> io::Result<()> {
    let part = path.with_extension("part");
    crash_point("files.write.before");
    let written = (|| {
        let mut file = fs::File::create(&part)?;
        file.write_all(&serde_json::to_vec(what)?)?;
        file.sync_data()?;
        crash_point("files.write.written");
        fs::rename(&part, path)
    })();
    if written.is_err() {
        // On a full disk it would take the room that is left.
        let _ = fs::remove_file(&part);
    }
    crash_point("files.write.after");
    written
}

/// When the kernel started a process that runs, in ticks since boot; `None` when there is none of that number, or it has ended and was only
/// not reaped yet.
pub(crate) fn process_start(pid: u32) -> Option<u64> {
    process_read(pid).filter(|(state, _)| !matches!(state.as_str(), "Z" | "X")).map(|(_, start)| start)
}

/// The same of one that may have ended.
pub(super) fn process_begun(pid: u32) -> Option<u64> {
    process_read(pid).map(|(_, start)| start)
}

fn process_read(pid: u32) -> Option<(String, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may have anything in it; behind it comes the state, and the start, field 22, as the 20th.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.to_owned();
    Some((state, fields.nth(18)?.parse().ok()?))
}
