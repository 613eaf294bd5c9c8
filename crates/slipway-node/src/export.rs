//! What the service and the process that gives it a version of a catalogue tell each other: by files in a folder of the run directory, a token
//! on standard input, and a report on standard output. The process is the program's own (it links what fetches and verifies, which this crate does not).

use serde::{Deserialize, Serialize};
use slipway_api::node::StepError;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What the process does before all else: it keeps nothing that the service inherited, leaves its session, and takes standard output, where one
/// report goes, for itself. Who waits for that waits for its end, so nothing else may keep the pipe open.
///
/// # Errors
/// When there is no standard output.
pub fn export_begin() -> io::Result<File> {
    crate::container::inherited_close();
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"slipway-export");
    let report = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    rustix::stdio::dup2_stdout(&File::options().read(true).write(true).open("/dev/null")?)?;
    Ok(File::from(report))
}

/// The folder of one attachment's process.
#[derive(Clone, Debug)]
pub struct ExportFiles(PathBuf);

/// What is to be exported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportSpec {
    /// `owner/name[:N|:channel][@root]`; once it was found, with number and root.
    pub reference: String,
    /// The server's URL.
    pub server: String,
    /// The name of the file that holds the token; the service reads it, and its content comes on standard input.
    pub token_ref: String,
}

/// What a process says, on one line, when it listens or knows that it will not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportReport {
    /// It listens.
    Ready {
        /// `owner/name:N@root`: what does not move.
        reference: String,
        /// Bytes.
        size: u64,
        /// 512 or 4096.
        sector_size: u32,
    },
    /// It will not.
    Failed {
        /// Of whoever asked (the version, the token), not of the server or this node.
        of_request: bool,
        /// Why.
        error: StepError,
    },
}

impl ExportFiles {
    /// That is at this path.
    pub fn at(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    /// The folder itself. The process ends when it is gone.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// Where the process listens.
    pub fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }

    pub(crate) fn spec_path(&self) -> PathBuf {
        self.0.join("spec.json")
    }

    pub(crate) fn status_path(&self) -> PathBuf {
        self.0.join("status.json")
    }

    /// What the process has to say to people.
    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// What is to be exported.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn spec(&self) -> io::Result<ExportSpec> {
        Ok(serde_json::from_slice(&std::fs::read(self.spec_path())?)?)
    }
}

impl ExportReport {
    /// Says it.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        to.write_all(&line)
    }
}
