//! Why something was not done: a status, a code and a message as the ImageAPI has them, and what it does not say: step, holders, hint.

use slipway_api::node::{Holder, NodeProblem, ObjectId, StepError};

/// An answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub problem: Box<NodeProblem>,
}

impl Refusal {
    /// With the status as its code.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        let problem =
            NodeProblem { code: status, message: message.into(), error: None, holders: Vec::new(), hint: None };
        Self { status, problem: Box::new(problem) }
    }

    /// 422 with one of the codes of a body or query that does not fit its schema.
    pub fn invalid(code: u16, message: impl Into<String>) -> Self {
        let mut refusal = Self::new(422, message);
        refusal.problem.code = code;
        refusal
    }

    /// 404: no such object, or one of another kind.
    pub fn not_found(what: &str, which: impl std::fmt::Display) -> Self {
        let mut refusal = Self::new(404, "not found");
        refusal.problem.hint = Some(format!("there is no {what} {which} on this node"));
        refusal
    }

    /// 409: something keeps it.
    pub fn busy(holders: Vec<Holder>) -> Self {
        let mut refusal = Self::new(409, "object is busy");
        refusal.problem.holders = holders;
        refusal
    }

    /// 500: the kernel or a server said no.
    pub fn failed(error: StepError) -> Self {
        let mut refusal = Self::new(500, "operation failed");
        refusal.problem.error = Some(error);
        refusal
    }

    /// What to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.problem.hint = Some(hint.into());
        self
    }
}

/// What a driver says when it could not do its work. The status is 500 unless the request itself was wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", .error.step, .error.text)]
pub struct DriverError {
    /// 400 when the request names something that is not there or not of the right kind, 409 when it is busy, else 500.
    pub status: u16,
    /// Where it stopped.
    pub error: StepError,
    /// Who keeps it, if it is busy.
    pub holders: Vec<Holder>,
}

impl DriverError {
    /// The system refused a step on an object: `text` says what on what.
    pub fn system(step: &str, errno: rustix::io::Errno, text: impl Into<String>) -> Self {
        let status = if errno == rustix::io::Errno::BUSY { 409 } else { 500 };
        let reason = std::io::Error::from(errno);
        let error =
            StepError { step: step.into(), errno: Some(errno_name(errno)), text: format!("{}: {reason}", text.into()) };
        Self { status, error, holders: Vec::new() }
    }

    /// Something on a file of ours did not work: always 500, whatever the system said.
    pub(crate) fn on_file(step: &str, what: impl std::fmt::Display, error: &std::io::Error) -> Self {
        let errno = rustix::io::Errno::from_io_error(error).map(errno_name);
        let error = StepError { step: step.into(), errno, text: format!("{what}: {error}") };
        Self { status: 500, error, holders: Vec::new() }
    }

    /// The request is wrong.
    pub fn request(step: &str, text: impl Into<String>) -> Self {
        let error = StepError { step: step.into(), errno: None, text: text.into() };
        Self { status: 400, error, holders: Vec::new() }
    }

    /// It did not work, and no call of the system says why.
    pub fn other(step: &str, text: impl Into<String>) -> Self {
        Self { status: 500, ..Self::request(step, text) }
    }

    /// It did not come to an end in its time.
    pub fn timed_out(step: &str, text: impl Into<String>) -> Self {
        let mut error = Self::other(step, text);
        error.error.errno = Some("ETIMEDOUT".into());
        error
    }

    /// Something keeps it, and no call of the system says so.
    pub fn busy(step: &str, text: impl Into<String>) -> Self {
        Self { status: 409, ..Self::request(step, text) }
    }

    /// Who keeps it.
    pub fn held_by(mut self, holders: Vec<Holder>) -> Self {
        self.holders = holders;
        self
    }

    /// Whether it may go later by itself.
    pub fn is_busy(&self) -> bool {
        self.status == 409
    }
}

impl From<DriverError> for Refusal {
    fn from(error: DriverError) -> Self {
        let message = match error.status {
            400 => "invalid data type",
            409 => "object is busy",
            _ => "operation failed",
        };
        let mut refusal = Self::new(error.status, message);
        refusal.problem.error = Some(error.error);
        refusal.problem.holders = error.holders;
        refusal
    }
}

/// `EBUSY` for 16; the number where there is no name here.
pub fn errno_name(errno: rustix::io::Errno) -> String {
    use rustix::io::Errno as E;
    let known = [
        (E::PERM, "EPERM"),
        (E::NOENT, "ENOENT"),
        (E::IO, "EIO"),
        (E::NXIO, "ENXIO"),
        (E::NOEXEC, "ENOEXEC"),
        (E::AGAIN, "EAGAIN"),
        (E::NOMEM, "ENOMEM"),
        (E::ACCESS, "EACCES"),
        (E::NOTBLK, "ENOTBLK"),
        (E::BUSY, "EBUSY"),
        (E::EXIST, "EEXIST"),
        (E::XDEV, "EXDEV"),
        (E::NODEV, "ENODEV"),
        (E::NOTDIR, "ENOTDIR"),
        (E::ISDIR, "EISDIR"),
        (E::INVAL, "EINVAL"),
        (E::MFILE, "EMFILE"),
        (E::NFILE, "ENFILE"),
        (E::FBIG, "EFBIG"),
        (E::NOSPC, "ENOSPC"),
        (E::ROFS, "EROFS"),
        (E::RANGE, "ERANGE"),
        (E::LOOP, "ELOOP"),
        (E::NAMETOOLONG, "ENAMETOOLONG"),
        (E::NOSYS, "ENOSYS"),
        (E::TIMEDOUT, "ETIMEDOUT"),
        (E::CONNREFUSED, "ECONNREFUSED"),
        (E::HOSTUNREACH, "EHOSTUNREACH"),
        (E::NETUNREACH, "ENETUNREACH"),
        (E::CONNRESET, "ECONNRESET"),
        (E::STALE, "ESTALE"),
        (E::OPNOTSUPP, "EOPNOTSUPP"),
        (E::PROTONOSUPPORT, "EPROTONOSUPPORT"),
        (E::KEYREJECTED, "EKEYREJECTED"),
    ];
    match known.iter().find(|(known, _)| *known == errno) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("errno {}", errno.raw_os_error()),
    }
}

/// An object of this node as the holder of another.
pub(crate) fn object_holder(object: &str, id: ObjectId) -> Holder {
    Holder::Object { object: object.to_owned(), id }
}
