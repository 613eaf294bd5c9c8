//! What a person sees when something does not work: what, on what, why, and the next step.

use crate::style::Paint;
use slipway_api::{ApiError, Code, NameError, Problem, ReferenceError};
use slipway_transfer::TransferError;
use std::path::Path;
use std::sync::Arc;

/// Exit codes that no wire code stands for; all of them are listed in `docs/exit-codes.md`.
pub(crate) mod exit {
    /// Failed, and nothing more precise fits.
    pub(crate) const FAILED: u8 = 1;
    /// The command line or the request is not right.
    pub(crate) const USAGE: u8 = 2;
    /// What was named is not there.
    pub(crate) const NOT_FOUND: u8 = 3;
    /// No token, or no right.
    pub(crate) const AUTH: u8 = 4;
    /// Something else is there already, or came first.
    pub(crate) const CONFLICT: u8 = 5;
    /// No space left.
    pub(crate) const SPACE: u8 = 6;
    /// Bytes are not what they should be.
    pub(crate) const VERIFY: u8 = 7;
    /// Not done yet; asking again later may help.
    pub(crate) const TRY_AGAIN: u8 = 8;
    /// The target is refused: mounted, busy, the system's disk, too small, other sector size.
    pub(crate) const TARGET: u8 = 10;
    /// The storage of a server no longer takes writes.
    pub(crate) const POISONED: u8 = 70;
    /// Ctrl-C.
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// The end of a command that did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What was done, to what, and why it did not work, as one sentence without a final stop.
    pub(crate) what: String,
    /// The next step; names a command where one helps.
    pub(crate) next: Option<String>,
    /// The exit code.
    pub(crate) exit: u8,
}

/// A failure of which nobody has said yet what comes next. It can only become a [`Failure`] by saying that, so that no error leaves
/// a person without a next step by oversight.
#[must_use]
pub(crate) struct Unadvised {
    what: String,
    exit: u8,
}

impl Unadvised {
    /// The failure with its next step.
    pub(crate) fn next(self, next: impl Into<String>) -> Failure {
        Failure { what: self.what, next: Some(next.into()), exit: self.exit }
    }

    /// The failure alone; `_reason` says to whoever reads the code why there is nothing to do next.
    pub(crate) fn alone(self, _reason: &'static str) -> Failure {
        Failure { what: self.what, next: None, exit: self.exit }
    }
}

impl Failure {
    /// What went wrong, with its exit code; `next` must follow.
    #[expect(clippy::new_ret_no_self, reason = "the next step is what is missing to a failure")]
    pub(crate) fn new(exit: u8, what: impl Into<String>) -> Unadvised {
        Unadvised { what: what.into(), exit }
    }

    /// A wrong command line.
    pub(crate) fn usage(what: impl Into<String>) -> Unadvised {
        Self::new(exit::USAGE, what)
    }

    /// The same failure with another next step.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// A file or stream that could not be used: `act` is like `reading`.
    pub(crate) fn io(act: &str, what: &Path, why: &std::io::Error) -> Self {
        let text = format!("{act} {}: {}", path_shown(what), reason(why));
        match why.kind() {
            std::io::ErrorKind::NotFound => Self::new(exit::NOT_FOUND, text)
                .next(format!("check the path, for example with 'ls -l {}'", parent_shown(what))),
            std::io::ErrorKind::PermissionDenied => {
                Self::new(exit::AUTH, text).next("run it as a user who may, or change the rights of the file")
            }
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::new(exit::SPACE, text).next("make room there, then run the same command again")
            }
            _ => Self::new(exit::FAILED, text)
                .next("look at the system's log ('dmesg'), then run the same command again"),
        }
    }

    /// Writes it to stderr, so that nothing in it can steer the terminal.
    pub(crate) fn print(&self, paint: Paint) {
        eprint!("{}", self.rendered(paint));
    }

    /// What [`Failure::print`] writes.
    pub(crate) fn rendered(&self, paint: Paint) -> String {
        let mut text = format!("{} {}\n", paint.bad("slipway:"), crate::human::clean(&self.what));
        if let Some(next) = &self.next {
            text.push_str(&format!("  {} {}\n", paint.strong("next:"), crate::human::clean(next)));
        }
        text
    }
}

/// The operating system's words for an error, without Rust's `(os error N)`.
pub(crate) fn reason(why: &std::io::Error) -> String {
    let text = why.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text).to_owned();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) if why.raw_os_error().is_some() => first.to_lowercase().chain(chars).collect(),
        _ => text,
    }
}

/// A path as it may be shown; `-` is shown as what it means.
pub(crate) fn path_shown(path: &Path) -> String {
    crate::human::clean(&path.display().to_string())
}

fn parent_shown(path: &Path) -> String {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => path_shown(parent),
        _ => ".".into(),
    }
}

impl From<ReferenceError> for Failure {
    fn from(why: ReferenceError) -> Self {
        let next = match &why {
            ReferenceError::Shape(_) | ReferenceError::Name { .. } => {
                "references look like me/os, jan/os:3 or jan/os:stable; 'slipway image ls' lists them"
            }
            ReferenceError::Root(_) => "'slipway image show REF -o json' prints the root of each version",
            ReferenceError::VersionNotExpected(_) => "leave out the part after ':'",
        };
        Self::usage(why.to_string()).next(next)
    }
}

impl From<NameError> for Failure {
    fn from(why: NameError) -> Self {
        Self::usage(why.to_string()).next("choose a name like 'debian-13' or 'stable'")
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let mut what = problem.title.clone();
        if let (Some(field), false) = (&problem.field, problem.title.contains(problem.field.as_deref().unwrap_or(""))) {
            what.push_str(&format!(" (at '{field}')"));
        }
        if let (Code::Internal, Some(id)) = (problem.code, &problem.request_id) {
            what.push_str(&format!(" (request {id})"));
        }
        let ours = match problem.code {
            Code::NotFound => Some(missing_hint(&problem.title)),
            Code::Conflict if problem.title.starts_with("task") => Some(missing_hint(&problem.title)),
            code => command_hint(code),
        };
        // What the API says to everybody is said here in terms of commands.
        let theirs = problem.hint.filter(|hint| hint != problem.code.hint());
        let next = match (ours, theirs) {
            (Some(ours), None) => Some(ours.to_owned()),
            // A wrong token is mended here and not by the request, whatever the server says of it.
            (Some(ours), Some(_)) if problem.code == Code::Unauthenticated => Some(ours.to_owned()),
            (_, theirs) => theirs,
        };
        Self { what, next, exit: problem.code.exit_code() }
    }
}

/// The command that lists what there is instead of what is not there.
fn missing_hint(title: &str) -> &'static str {
    match title.split(' ').next() {
        Some("user") => "'slipway user ls' lists users; moderators and admins may ask",
        Some("task") => "'slipway task ls' lists the tasks that you can see",
        Some("token") => "'slipway token ls' lists your tokens",
        _ => "'slipway image ls' lists what you can read",
    }
}

/// The command that helps with this code, when the server gave no hint of its own.
fn command_hint(code: Code) -> Option<&'static str> {
    match code {
        Code::Unauthenticated => {
            Some("'slipway login URL' makes a new token; 'slipway config show --origin' says which one was used")
        }
        Code::Forbidden => {
            Some("'slipway token ls' shows what your tokens may do; ask the owner or an admin for the right")
        }
        Code::NotFound => Some(missing_hint("image")),
        Code::Gone => Some("run the same command again"),
        Code::NameTaken => Some("choose another name; 'slipway image ls --trash' also shows what is in the trash"),
        Code::Conflict | Code::PreconditionFailed => {
            Some("look at it again with 'slipway image show REF', then repeat")
        }
        Code::Pinned => {
            Some("'slipway image protect REF --off' and 'slipway channel ls REF' show and take off what keeps it")
        }
        Code::ChunksMissing | Code::SegmentsMissing | Code::ChunksGone | Code::SpaceChanged | Code::OffsetMismatch => {
            Some("run the same push again; what has arrived is not sent twice")
        }
        Code::QuotaExceeded => {
            Some("'slipway quota' shows what counts, the trash included; an admin raises it with 'slipway user quota'")
        }
        Code::TooLarge | Code::NoSpace => {
            Some("'slipway image rm' and 'slipway prune' free space; an admin can raise limits")
        }
        Code::DigestMismatch | Code::BadImage => Some("check the file and send it again"),
        Code::ClientTooOld => Some("install the newer slipway that belongs to this server"),
        Code::SlowDown => Some("wait a little, then run the same command again"),
        Code::Internal => Some("look for the request id in the server's log"),
        Code::Damaged => Some("an admin should run 'slipway check'; other versions may still be whole"),
        Code::TimedOut => Some("check the network between here and the server, then run the same command again"),
        Code::NotImplemented => Some("the message says what the server lacks; a newer server may have it"),
        Code::Unavailable => Some("wait until the server is back, then run the same command again"),
        Code::InvalidRequest
        | Code::InvalidName
        | Code::MethodNotAllowed
        | Code::UnsupportedMedia
        | Code::RangeNotSatisfiable
        | Code::IdempotencyMismatch => Some("'slipway COMMAND --help' shows what is expected"),
        Code::Unknown => Some("this program may be too old for the server: 'slipway doctor' shows both versions"),
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let exit = error.exit_code();
        match error {
            ApiError::Problem(problem) => (*problem).into(),
            // Two CAs that servers made for themselves have the same name, so that of another one is only seen by the signature.
            ApiError::Transport { .. } if ["UnknownIssuer", "BadSignature"].iter().any(|word| chain(&error).contains(word)) => Self::new(exit, chain(&error))
                .next("if the server made its own CA, 'slipway login URL --ca FILE' keeps it (or set SLIPWAY_CA); 'slipway doctor' shows its certificate"),
            ApiError::Transport { .. } if chain(&error).contains("certificate") => Self::new(exit, chain(&error))
                .next("'slipway doctor' shows the server's certificate, for which names it is and how long it lasts"),
            ApiError::Transport { .. } => Self::new(exit, chain(&error))
                .next("check that the server runs and that the address is right: 'slipway doctor'"),
            ApiError::Protocol { .. } => Self::new(exit, chain(&error))
                .next("check that the address is that of a Slipway server: 'slipway config show --origin'"),
            ApiError::Config(_) => {
                Self::new(exit, chain(&error)).next("'slipway config show --origin' says where each setting comes from")
            }
        }
    }
}

impl From<TransferError> for Failure {
    fn from(why: TransferError) -> Self {
        let code = why.exit_code();
        let what = chain(&why);
        let next = match why {
            TransferError::Api(why) => return why.into(),
            TransferError::Target(why) => return why.into(),
            TransferError::Disk(why) => return why.into(),
            TransferError::Io { .. } if code == exit::VERIFY => {
                "it is damaged or cut off: test it with 'gzip -t', 'xz -t', 'zstd -t' or 'qemu-img check', and push a whole one"
            }
            TransferError::Io { act, name, source } => {
                return Self { exit: code, ..Self::io(act, Path::new(&name), &source) };
            }
            TransferError::Format { .. } | TransferError::Document { .. } => {
                "an admin should run 'slipway check' on the server"
            }
            TransferError::BadChunk { .. } => {
                "the server was told; an admin should run 'slipway check'; other versions may still be whole"
            }
            TransferError::Changed { .. } => "stop what writes to it, or push a snapshot of it",
            TransferError::NotRepeatable { .. } => "run the same command again; what has arrived is not sent twice",
            TransferError::DigestDiffers { .. } => {
                "check that it is the file that was meant; nothing was made on the server"
            }
            TransferError::ReadBack { .. } => "the target does not keep what is written to it: use another one",
            TransferError::Shared(why) => match Arc::try_unwrap(why) {
                Ok(why) => return why.into(),
                Err(_) => "run the same command again",
            },
            TransferError::Cancelled => "run the same command again: it goes on where it stopped",
            TransferError::Panicked => "please report this, with what -vv prints",
        };
        Self::new(code, what).next(next)
    }
}

/// An error and its sources on one line, each said once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = one_line(&error.to_string());
    let mut last = text.clone();
    let mut source = error.source();
    while let Some(inner) = source {
        let said = match inner.downcast_ref::<std::io::Error>() {
            Some(io) => reason(io),
            None => one_line(&inner.to_string()),
        };
        // Some errors repeat their outer one, others are repeated by it.
        let more = said.strip_prefix(&last).unwrap_or(&said).trim_start_matches(": ");
        if !text.to_lowercase().contains(&more.to_lowercase()) {
            text.push_str(": ");
            text.push_str(more);
        }
        last = said;
        source = inner.source();
    }
    numberless(&text)
}

/// The first and the last line of a text: what lies between them in the errors of parsers is a drawing.
fn one_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    match (lines.next(), lines.next_back()) {
        (Some(first), Some(last)) => format!("{first}: {last}"),
        (Some(only), None) => only.to_owned(),
        (None, _) => String::new(),
    }
}

/// Takes Rust's `(os error N)` out, wherever it is: the words before it say the same.
pub(crate) fn numberless(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(part.split_once(')').map_or("", |(_, rest)| rest));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Failure, chain, exit, numberless};
    use slipway_api::{Code, Problem};
    use slipway_transfer::TransferError;
    use std::io::{Error, ErrorKind};

    #[test]
    fn numbers_of_errors_are_left_out() {
        assert_eq!(numberless("a: refused (os error 111) (http://x)"), "a: refused (http://x)");
        assert_eq!(numberless("plain (really)"), "plain (really)");
    }

    #[derive(Debug)]
    struct Nested(&'static str, Option<Box<Nested>>);

    impl std::fmt::Display for Nested {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Nested {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            self.1.as_deref().map(|inner| inner as &dyn std::error::Error)
        }
    }

    #[test]
    fn each_cause_is_said_once() {
        for (texts, shown) in [
            (&["opening a", "no such file"][..], "opening a: no such file"),
            (&["opening a: no such file", "no such file"], "opening a: no such file"),
            (&["opening a", "opening a: timed out", "timed out"], "opening a: timed out"),
            (
                &["reading c", "TOML error at line 1\n  |\n1 | x\nunknown field\n"],
                "reading c: TOML error at line 1: unknown field",
            ),
        ] {
            let nested = texts.iter().rev().fold(None, |inner, text| Some(Box::new(Nested(text, inner)))).unwrap();
            assert_eq!(chain(&*nested), shown);
        }
    }

    #[test]
    fn every_code_has_a_next_step() {
        for code in Code::ALL.iter().chain([&Code::Unknown]) {
            let failure = Failure::from(Problem::new(*code, "reading me/os: it is so"));
            assert!(failure.next.is_some(), "{code:?}");
            assert_eq!(failure.exit, code.exit_code());
        }
    }

    #[test]
    fn exit_codes_are_those_of_the_transfer() {
        for (kind, code) in [
            (ErrorKind::NotFound, exit::NOT_FOUND),
            (ErrorKind::PermissionDenied, exit::AUTH),
            (ErrorKind::StorageFull, exit::SPACE),
            (ErrorKind::FileTooLarge, exit::SPACE),
            (ErrorKind::UnexpectedEof, exit::VERIFY),
            (ErrorKind::InvalidData, exit::VERIFY),
            (ErrorKind::Other, exit::FAILED),
        ] {
            let why = TransferError::Io { act: "writing", name: "out.raw".into(), source: Error::from(kind) };
            let wanted = why.exit_code();
            let failure = Failure::from(why);
            assert_eq!((failure.exit, failure.exit), (wanted, code));
            assert!(failure.what.starts_with("writing out.raw: "), "{}", failure.what);
        }
    }
}
