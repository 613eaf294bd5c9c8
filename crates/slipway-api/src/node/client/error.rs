use crate::node::NodeProblem;

/// Why a call to a node came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NodeError {
    /// The service said no, and why.
    #[error("{act}: {}", said(.problem))]
    Refused {
        /// What was being done.
        act: String,
        /// The HTTP status.
        status: u16,
        /// Its words.
        problem: Box<NodeProblem>,
    },
    /// The service cannot be reached, or went away in the middle.
    #[error("{act}: {reason}")]
    Unreached {
        /// What was being done.
        act: String,
        /// What the system or the network said.
        reason: String,
        /// What kind of obstacle it is.
        why: Unreached,
    },
    /// The answer is not what the API promises.
    #[error("{act}: {reason}")]
    Protocol {
        /// What was being done.
        act: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The client's own configuration cannot be used.
    #[error("{0}")]
    Config(String),
}

/// Why a service cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreached {
    /// There is no such socket.
    NoSocket,
    /// This user may not open the socket.
    NotAllowed,
    /// Nobody listens.
    NoListener,
    /// The server's certificate, or ours, is not trusted.
    NotTrusted,
    /// No answer in time.
    TimedOut,
    /// The connection was there and broke.
    Broke,
    /// Something else, such as a host that has no address.
    Other,
}

impl NodeError {
    /// The exit code of the command line for this failure.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { status, problem, .. } => match status {
                400 | 405 | 415 | 422 => 2,
                401 | 403 => 4,
                404 => 3,
                409 => 5,
                413 | 507 => 6,
                408 | 429 | 503 | 504 => 8,
                _ if problem.error.as_ref().is_some_and(|error| error.errno.as_deref() == Some("ENOSPC")) => 6,
                _ => 1,
            },
            Self::Unreached { why: Unreached::NotAllowed, .. } => 4,
            Self::Unreached { .. } => 9,
            Self::Protocol { .. } => 1,
            Self::Config(_) => 2,
        }
    }

    /// The HTTP status, if the service answered with one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Unreached { .. } | Self::Protocol { .. } | Self::Config(_) => None,
        }
    }

    pub(super) fn protocol(act: &str, reason: impl Into<String>) -> Self {
        Self::Protocol { act: act.to_owned(), reason: reason.into() }
    }

    /// What reqwest says, by its innermost cause, which alone says something.
    pub(super) fn transport(act: &str, server: &str, error: &reqwest::Error) -> Self {
        let mut cause: &(dyn std::error::Error + 'static) = error;
        let mut kind = None;
        while let Some(inner) = cause.source() {
            cause = inner;
            kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind).or(kind);
        }
        let text = cause.to_string();
        let text = match text.split_once(" (os error") {
            // The system's words begin a sentence; here they go on with one.
            Some((words, _)) => {
                words.chars().take(1).flat_map(char::to_lowercase).chain(words.chars().skip(1)).collect()
            }
            None => text,
        };
        let why = match kind {
            _ if ["certificate", "UnknownIssuer", "BadSignature", "HandshakeFailure"]
                .iter()
                .any(|word| text.contains(word)) =>
            {
                Unreached::NotTrusted
            }
            _ if error.is_timeout() => Unreached::TimedOut,
            Some(std::io::ErrorKind::NotFound) if error.is_connect() => Unreached::NoSocket,
            Some(std::io::ErrorKind::PermissionDenied) => Unreached::NotAllowed,
            Some(std::io::ErrorKind::ConnectionRefused) => Unreached::NoListener,
            _ if !error.is_connect() => Unreached::Broke,
            _ => Unreached::Other,
        };
        let reason = match why {
            Unreached::Broke => format!("the connection to {server} broke: {text}"),
            Unreached::TimedOut => format!("no answer from {server} in time"),
            _ => format!("the node service at {server} cannot be reached: {text}"),
        };
        Self::Unreached { act: act.to_owned(), reason, why }
    }
}

/// Words of the ImageAPI that say nothing which the step does not say better.
const EMPTY_WORDS: &[&str] = &["invalid data type", "operation failed", "internal server error", "object is busy"];

fn said(problem: &NodeProblem) -> String {
    match &problem.error {
        Some(error) if EMPTY_WORDS.contains(&problem.message.as_str()) => error.text.clone(),
        Some(error) => format!("{}: {}", problem.message, error.text),
        None => problem.message.clone(),
    }
}
