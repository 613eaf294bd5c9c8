use std::io;
use std::time::Duration;

/// Why a guest did not do what the test wanted.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// This machine failed.
    #[error("{act} {what}: {source}")]
    Io {
        /// "reading", "starting" …
        act: &'static str,
        /// What.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A program or file that the lab needs is not there.
    #[error("{what} is not there; 'cargo xtask test' installs it (package {package})")]
    Missing {
        /// Its name.
        what: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program of this machine said no.
    #[error("{what}: {said}")]
    Refused {
        /// What was run.
        what: String,
        /// What it said.
        said: String,
    },
    /// The guest ended before it had done what was asked for.
    #[error("the guest ended {during}; its console:\n{console}")]
    Ended {
        /// "while it booted", "while it ran …".
        during: String,
        /// The end of what its kernel and init said.
        console: String,
    },
    /// The guest took too long. It may still run.
    #[error("the guest took more than {limit:?} {during}; its console:\n{console}")]
    TimedOut {
        /// The limit.
        limit: Duration,
        /// "to boot", "to run …".
        during: String,
        /// The end of what its kernel and init said, and of what the script printed.
        console: String,
    },
}

impl LabError {
    pub(crate) fn io(act: &'static str, what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { act, what, source }
    }
}
