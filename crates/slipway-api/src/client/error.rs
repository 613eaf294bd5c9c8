use crate::{Code, Problem};

/// Why a call came to nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApiError {
    /// The server said no, and why.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// The server cannot be reached, or went away in the middle.
    #[error("{act}: {reason}")]
    Transport {
        /// What was being done.
        act: String,
        /// What the network said.
        reason: String,
    },
    /// The answer is not what the API promises; another program may be listening there.
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

impl ApiError {
    /// The exit code of the command line for this failure.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Problem(problem) => problem.code.exit_code(),
            Self::Transport { .. } => 9,
            Self::Protocol { .. } => 1,
            Self::Config(_) => 2,
        }
    }

    /// The code of the problem, if the server named one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Problem(problem) => Some(problem.code),
            Self::Transport { .. } | Self::Protocol { .. } | Self::Config(_) => None,
        }
    }

    pub(super) fn protocol(act: &str, reason: impl Into<String>) -> Self {
        Self::Protocol { act: act.to_owned(), reason: reason.into() }
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

/// The innermost cause, which alone says something; the outer texts repeat the URL, and with it a capability.
pub(super) fn transport(error: &reqwest::Error) -> String {
    let act = match (error.is_connect(), error.is_timeout()) {
        (true, _) => "the server cannot be reached",
        (false, true) => "no answer in time",
        (false, false) => "the connection broke",
    };
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause.and_then(|cause| cause.source()) {
        cause = Some(inner);
    }
    match cause {
        Some(cause) => format!("{act}: {cause}"),
        None => act.to_owned(),
    }
}
