//! A program beside a container's init: in its namespaces, its control groups and its confinement.
//!
//! A helper process with one thread, this program executed again, stands between: its standard input is a socket that brings the order with
//! the streams, and takes back how it went. When the other end is closed, whoever closed it, all that the program has begun is killed.

use super::cgroup::CgroupPlace;
use super::confine::{confine, person};
use super::runtime::{now_ms, process_open};
use super::shim::{failure_parse, words};
use super::spawn::{Forked, process_fork, program_become};
use super::spec::Spec;
use crate::refusal::DriverError;
use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use slipway_api::node::{Exit, Namespace, StepError};
use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;
use std::time::Duration;

/// The longest order: words and environment together.
pub(crate) const ORDER_MAX: usize = 96 << 10;
/// `/dev/ptmx`.
const PTMX: (u32, u32) = (5, 2);

/// What a helper is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The container's, with the words, the environment, the directory and the user of this program.
    pub(crate) spec: Spec,
    /// The container's init.
    pub(crate) init: u32,
    /// When it was started.
    pub(crate) init_start: u64,
    /// A terminal of this many rows and columns, instead of streams.
    pub(crate) terminal: Option<(u16, u16)>,
}

/// What a helper says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Word {
    /// The near end of the terminal comes with this.
    Terminal,
    /// The program was executed.
    Started(u32),
    /// It was not.
    Failed(StepError),
    /// It has ended, and nothing that it began is left.
    Ended(Exit),
}

/// The groups of one program, below those of its container.
pub(crate) fn exec_place(container: &CgroupPlace, helper: u32) -> CgroupPlace {
    container.below(&format!("exec-{helper}"))
}

/// Sends one message with descriptors.
pub(crate) fn word_send(socket: impl AsFd, word: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let text = serde_json::to_vec(word).map_err(|_| Errno::INVAL)?;
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    sendmsg(socket, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// Takes one message; `None` when the other end is closed.
pub(crate) fn word_take<T: DeserializeOwned>(socket: impl AsFd) -> Result<Option<(T, Vec<OwnedFd>)>, Errno> {
    let mut text = vec![0; 2 * ORDER_MAX];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let taken = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            taken => break taken?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    match taken.bytes {
        0 => Ok(None),
        len => serde_json::from_slice(&text[..len]).map(|word| Some((word, fds))).map_err(|_| Errno::BADMSG),
    }
}

fn failed(step: &str, errno: Errno) -> DriverError {
    DriverError::system(step, errno, "a program beside the init")
}

/// The helper of one program. Returns when it has ended.
pub fn exec_run() -> ExitCode {
    let Ok(socket) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3) else { return ExitCode::FAILURE };
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return ExitCode::FAILURE };
    let aside = rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&null));
    let _ = rustix::process::setsid();
    let Ok(Some((mut order, streams))) = word_take::<Order>(&socket) else { return ExitCode::FAILURE };
    order.spec.cgroup = exec_place(&order.spec.cgroup, std::process::id());
    let place = order.spec.cgroup.clone();
    let begun = aside.map_err(|errno| failed("dup", errno)).and_then(|()| begin(order, streams, &socket));
    let ended = match begun {
        Ok((pid, child)) => {
            // Who has hung up meanwhile is noticed below.
            let _ = word_send(&socket, &Word::Started(pid), &[]);
            Word::Ended(end_wait(&place, &socket, &child))
        }
        Err(error) => Word::Failed(error.error),
    };
    while let Err(error) = place.kill().and_then(|()| place.remove()) {
        // Held still with its container; it dies when that goes on.
        tracing::debug!(%error, "removing what a program has left");
        std::thread::sleep(Duration::from_secs(1));
    }
    let _ = word_send(&socket, &ended, &[]);
    ExitCode::SUCCESS
}

/// Makes the process. When this returns, it was executed.
fn begin(order: Order, streams: Vec<OwnedFd>, socket: &OwnedFd) -> Result<(u32, OwnedFd), DriverError> {
    let init = process_open(order.init, order.init_start)
        .ok_or_else(|| DriverError::other("pidfd_open", "the container's init has ended"))?;
    let (failure, to_failure) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed("pipe", errno))?;
    // Not where the container has gone meanwhile: nobody would remove them.
    order.spec.cgroup.make_below()?;
    // That of the next child.
    move_into_thread_name_spaces(init.as_fd(), ThreadNameSpaceType::PROCESS_ID)
        .map_err(|errno| failed("setns", errno))?;
    let pid = match process_fork().map_err(|errno| failed("fork", errno))? {
        Forked::Child => {
            drop(failure);
            let error = program_enter(&order, &init, streams, socket);
            let mut out = File::from(to_failure);
            let _ = out.write_all(serde_json::to_string(&error.error).unwrap_or_default().as_bytes());
            std::process::exit(127);
        }
        Forked::Parent(pid) => pid,
    };
    // Whoever reads the other ends waits for their end.
    drop((to_failure, streams));
    let child = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| failed("pidfd_open", errno))?;
    let mut said = String::new();
    // Ends with the exec, which closes the other end, or with what went wrong before.
    let _ = File::from(failure).read_to_string(&mut said);
    if said.is_empty() {
        return Ok((pid.as_raw_nonzero().get().cast_unsigned(), child));
    }
    let _ = waitid(WaitId::PidFd(child.as_fd()), WaitIdOptions::EXITED);
    Err(failure_parse(&said))
}

/// Waits until the program has ended, or nobody is interested any more; then nothing of it is left running.
fn end_wait(place: &CgroupPlace, socket: &OwnedFd, child: &OwnedFd) -> Exit {
    loop {
        let mut waits = [PollFd::new(child, PollFlags::IN), PollFd::new(socket, PollFlags::IN)];
        match poll(&mut waits, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => break,
        }
        // Nothing more is ever said to a helper: whatever comes is the end.
        if waits.iter().any(|wait| !wait.revents().is_empty()) {
            break;
        }
    }
    while place.kill().is_err() {
        std::thread::sleep(Duration::from_secs(1));
    }
    let mut exit = Exit { at_ms: now_ms(), ..Exit::default() };
    if let Ok(Some(status)) = waitid(WaitId::PidFd(child.as_fd()), WaitIdOptions::EXITED) {
        exit.code = status.exit_status();
        exit.signal = status.terminating_signal();
    }
    exit
}

/// In the new process: becomes the program, or says why not.
fn program_enter(order: &Order, init: &OwnedFd, streams: Vec<OwnedFd>, socket: &OwnedFd) -> DriverError {
    let ready = enter(order, init, streams, socket).and_then(|()| {
        let mut spec = order.spec.clone();
        spec.argv[0] = program_find(&spec)?;
        let person = person(&spec)?;
        confine(&spec, person.as_ref())?;
        let cwd = spec.cwd.as_str();
        rustix::process::chdir(cwd)
            .map_err(|errno| DriverError::system("chdir", errno, format!("{cwd} in the container")))?;
        Ok((words(&spec)?, spec.argv.swap_remove(0)))
    });
    match ready {
        Ok(((argv, env), program)) => {
            DriverError::system("exec", program_become(&argv, &env), format!("{program} in the container"))
        }
        Err(error) => error,
    }
}

fn enter(order: &Order, init: &OwnedFd, streams: Vec<OwnedFd>, socket: &OwnedFd) -> Result<(), DriverError> {
    let spec = &order.spec;
    // While the node's hierarchies can be seen.
    spec.cgroup.enter()?;
    let always = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME;
    let spaces = spec.namespaces.iter().fold(always, |spaces, namespace| {
        spaces
            | match namespace {
                Namespace::Cgroup => ThreadNameSpaceType::CONTROL_GROUP,
                Namespace::Net => ThreadNameSpaceType::NETWORK,
                Namespace::Ipc | Namespace::Uts => ThreadNameSpaceType::empty(),
                // These every container has, or none.
                Namespace::Mnt | Namespace::Pid | Namespace::Time | Namespace::User => ThreadNameSpaceType::empty(),
            }
    });
    // The root and the directory become those of the namespace.
    move_into_thread_name_spaces(init.as_fd(), spaces).map_err(|errno| failed("setns", errno))?;
    let _ = rustix::process::setsid();
    let streams = match order.terminal {
        Some((rows, columns)) => {
            let terminal = terminal_open(rows, columns, socket)?;
            rustix::process::ioctl_tiocsctty(&terminal).map_err(|errno| failed("tiocsctty", errno))?;
            let more = [terminal.try_clone(), terminal.try_clone()];
            let [one, two] = more.map(|copy| copy.map_err(|error| DriverError::other("dup", error.to_string())));
            vec![terminal, one?, two?]
        }
        None => streams,
    };
    let [input, output, errors] = &streams[..] else {
        return Err(DriverError::other("streams", "three were to come with the order"));
    };
    rustix::stdio::dup2_stdin(input)
        .and_then(|()| rustix::stdio::dup2_stdout(output))
        .and_then(|()| rustix::stdio::dup2_stderr(errors))
        .map_err(|errno| failed("dup", errno))
}

/// A terminal of the container's own; its near end goes to whoever asked. What the container has put in the place of its `/dev/pts` is not
/// believed.
fn terminal_open(rows: u16, columns: u16, socket: &OwnedFd) -> Result<OwnedFd, DriverError> {
    let wrong = |step: &str, errno| DriverError::system(step, errno, "/dev/pts/ptmx in the container");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let looked = rustix::fs::stat("/dev/pts/ptmx").map_err(|errno| wrong("stat", errno))?;
    let near = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty()).map_err(|errno| wrong("open", errno))?;
    let facts = rustix::fs::fstat(&near).map_err(|errno| wrong("stat", errno))?;
    let is_one = |rdev| (rustix::fs::major(rdev), rustix::fs::minor(rdev)) == PTMX;
    if !is_one(facts.st_rdev) || !is_one(looked.st_rdev) {
        return Err(DriverError::other("open", "/dev/pts/ptmx in the container is no terminal multiplexer"));
    }
    rustix::pty::unlockpt(&near).map_err(|errno| wrong("unlockpt", errno))?;
    let far = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let far = rustix::pty::ioctl_tiocgptpeer(&near, far).map_err(|errno| wrong("tiocgptpeer", errno))?;
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&near, size).map_err(|errno| wrong("tcsetwinsize", errno))?;
    // It is read and written by whoever asked, who expects to wait.
    let blocking = rustix::fs::fcntl_getfl(&near).unwrap_or(OFlags::RDWR).difference(OFlags::NONBLOCK);
    rustix::fs::fcntl_setfl(&near, blocking).map_err(|errno| wrong("fcntl", errno))?;
    word_send(socket, &Word::Terminal, &[near.as_fd()]).map_err(|errno| failed("sendmsg", errno))?;
    Ok(far)
}

/// The program as a path: a bare name is looked for as a shell does.
fn program_find(spec: &Spec) -> Result<String, DriverError> {
    let name = spec.argv.first().map_or("", String::as_str);
    if name.contains('/') {
        return Ok(name.to_owned());
    }
    let path = spec.env.iter().find(|(key, _)| key == "PATH").map_or("", |(_, value)| value.as_str());
    let found = path.split(':').map(|dir| format!("{}/{name}", dir.trim_end_matches('/'))).find(|path| {
        std::fs::metadata(path).is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
    });
    found.ok_or_else(|| {
        DriverError::system("exec", Errno::NOENT, format!("'{}' in PATH of the container", name.escape_debug()))
    })
}
