//! What the service and the process that an attachment needs tell each other: by files in a folder of the run directory, secrets on standard
//! input, and a report on standard output. The process gives a version of a catalogue, or speaks TLS with an NBD server. It is the program's own
//! (it links what fetches and verifies, and what encrypts, which this crate does not).

use crate::linux::NbdServer;
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
#[serde(untagged)]
pub enum ExportSpec {
    /// A version of a catalogue.
    Version(VersionSpec),
    /// What an NBD server gives over TLS.
    Tunnel(TunnelSpec),
}

/// A version of a catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionSpec {
    /// `owner/name[:N|:channel][@root]`; once it was found, with number and root.
    pub reference: String,
    /// The server's URL.
    pub server: String,
    /// The name of the file that holds the token; the service reads it, and its content comes on standard input.
    pub token_ref: String,
}

/// An NBD server that is spoken to over TLS. The files are those of [`NbdTls`](slipway_api::node::NbdTls); the service reads them, and their
/// content comes on standard input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelSpec {
    /// Where it is, and which export is wanted.
    pub nbd: NbdServer,
    /// The file with the CA.
    pub ca_ref: String,
    /// The file with the node's certificate; empty for none.
    pub cert_ref: String,
    /// The file with its key.
    pub key_ref: String,
    /// The name that the server's certificate must have.
    pub name: String,
}

/// The content of those files: PEM.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct TunnelSecrets {
    /// The CA.
    pub ca: String,
    /// The node's certificate, or nothing.
    pub cert: String,
    /// Its key, or nothing.
    pub key: String,
}

impl std::fmt::Debug for TunnelSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelSecrets").finish_non_exhaustive()
    }
}

/// What a tunnel says first on each connection, on one line; then the server speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TunnelWord {
    /// The server is there and has proven itself; its greeting is over.
    Open {
        /// What was agreed on in the greeting.
        no_zeroes: bool,
    },
    /// It is not.
    Failed {
        /// 400 or 500, as in the answer to a request.
        status: u16,
        /// Why.
        error: StepError,
    },
}

/// What a process says, on one line, when it listens or knows that it will not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportReport {
    /// It listens; what a connection comes to is said on that.
    Listening,
    /// It listens, and has found the version.
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

    /// What is wrong with the server, if anything is.
    pub(crate) fn trouble(&self) -> Option<String> {
        std::fs::read_to_string(self.0.join("trouble")).ok()
    }

    /// Says what is wrong with the server, or that nothing is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn trouble_write(&self, trouble: Option<&str>) -> io::Result<()> {
        let path = self.0.join("trouble");
        match trouble {
            Some(text) => {
                let part = path.with_extension("part");
                std::fs::write(&part, text)?;
                std::fs::rename(part, path)
            }
            None => match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
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
