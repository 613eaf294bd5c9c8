//! Programs beside a container's init, and their streams.

use super::{Host, Which};
use crate::container::{CgroupPlace, ORDER_MAX, Word, exec_place, now_ms, word_send, word_take};
use crate::refusal::{DriverError, Refusal};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::Winsize;
use slipway_api::node::{ContainerState, ExecRequest, Exit};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

const ROWS: u16 = 24;
const COLUMNS: u16 = 80;

/// A program that runs beside an init. When this is dropped, it and all that it began is killed.
#[derive(Debug)]
pub struct Exec {
    /// What it reads; close it for its end of file. None with a terminal.
    pub stdin: Option<OwnedFd>,
    /// What it says. None with a terminal.
    pub stdout: Option<OwnedFd>,
    /// What it says of errors. None with a terminal.
    pub stderr: Option<OwnedFd>,
    /// The near end of its terminal, to read and write; reading gives `EIO` when nobody has the far end any more.
    pub terminal: Option<OwnedFd>,
    /// Its number on the node.
    pub pid: u32,
    socket: OwnedFd,
    place: CgroupPlace,
    end: Mutex<End>,
}

#[derive(Debug)]
struct End {
    helper: Child,
    exit: Option<Exit>,
}

impl Host {
    /// Runs a program beside the init of a container that runs. When this returns, it was executed.
    ///
    /// # Errors
    /// 400 for what the request has wrong, 404, 409 when the container does not run, 500 with the step that failed; nothing is left then.
    pub fn exec_spawn(&self, which: &Which, request: ExecRequest) -> Result<Exec, Refusal> {
        let container = self.container(which)?;
        if container.state != ContainerState::Running {
            let hint = format!(
                "container {} is {}; a program can only be run in a running one",
                container.id,
                container.state.as_str()
            );
            return Err(Refusal::busy(Vec::new()).hint(hint));
        }
        let gone = || Refusal::busy(Vec::new()).hint(format!("container {} has just ended", container.id));
        let mut order = self.runtime.exec_order(container.id).ok_or_else(gone)?;
        order.spec.argv = argv_of(&request)?;
        for (name, value) in &request.env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(wrong("env", format!("'{}' cannot be set", name.escape_debug())));
            }
        }
        // It is no init: what only that has to know is not passed on.
        order.spec.env.retain(|(name, _)| name != "NOTIFY_SOCKET" && !request.env.contains_key(name));
        order.spec.env.extend(request.env);
        if request.tty && !order.spec.env.iter().any(|(name, _)| name == "TERM") {
            order.spec.env.push(("TERM".into(), "xterm".into()));
        }
        if !request.cwd.is_empty() {
            if !request.cwd.starts_with('/') {
                return Err(wrong("cwd", "it is not an absolute path in the container".into()));
            }
            order.spec.cwd = request.cwd;
        }
        if !request.user.is_empty() {
            order.spec.user = request.user;
        }
        order.terminal = request.tty.then(|| (request.rows.unwrap_or(ROWS), request.cols.unwrap_or(COLUMNS)));
        if serde_json::to_vec(&order).map_or(usize::MAX, |text| text.len()) > ORDER_MAX {
            return Err(wrong("argv", format!("words and environment are more than {ORDER_MAX} bytes")));
        }
        self.exec_begin(&order).map_err(Refusal::from)
    }

    fn exec_begin(&self, order: &crate::container::Order) -> Result<Exec, DriverError> {
        let failed = |step: &str, errno: Errno| DriverError::system(step, errno, "a program beside the init");
        let flags = SocketFlags::CLOEXEC;
        let (socket, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(|errno| failed("socketpair", errno))?;
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed("pipe", errno));
        let streams = if order.terminal.is_none() { Some((pipe()?, pipe()?, pipe()?)) } else { None };
        let program = self.exec.first().map_or("", String::as_str);
        let mut command = Command::new(program);
        command.args(self.exec.iter().skip(1)).env_clear();
        command.stdin(far).stdout(Stdio::null()).stderr(Stdio::null());
        let helper = command.spawn().map_err(|error| DriverError::other("exec", format!("{program}: {error}")))?;
        drop(command);
        let place = exec_place(&order.spec.cgroup, helper.id());
        // From here on, whatever happens, dropping it clears away.
        let end = Mutex::new(End { helper, exit: None });
        let mut exec = Exec { stdin: None, stdout: None, stderr: None, terminal: None, pid: 0, socket, place, end };
        let sent = match streams {
            Some(((input, to_input), (output, to_output), (errors, to_errors))) => {
                (exec.stdin, exec.stdout, exec.stderr) = (Some(to_input), Some(output), Some(errors));
                word_send(&exec.socket, order, &[input.as_fd(), to_output.as_fd(), to_errors.as_fd()])
            }
            None => word_send(&exec.socket, order, &[]),
        };
        sent.map_err(|errno| failed("sendmsg", errno))?;
        loop {
            match word_take::<Word>(&exec.socket).map_err(|errno| failed("recvmsg", errno))? {
                Some((Word::Terminal, fds)) => exec.terminal = fds.into_iter().next(),
                Some((Word::Started(pid), _)) => {
                    exec.pid = pid;
                    return Ok(exec);
                }
                Some((Word::Failed(error), _)) => {
                    let status =
                        if error.step == "user" || error.errno.as_deref() == Some("ENOENT") { 400 } else { 500 };
                    return Err(DriverError { status, error, holders: Vec::new() });
                }
                Some((Word::Ended(_), _)) | None => {
                    return Err(DriverError::other("exec", "the helper ended before it had started the program"));
                }
            }
        }
    }
}

fn wrong(field: &str, why: String) -> Refusal {
    Refusal::new(400, "invalid data type").hint(format!("{field}: {why}"))
}

fn argv_of(request: &ExecRequest) -> Result<Vec<String>, Refusal> {
    let argv = match (request.command.is_empty(), request.argv.is_empty()) {
        (false, true) => shell_words::split(&request.command).map_err(|why| wrong("command", why.to_string()))?,
        (true, false) => request.argv.clone(),
        (false, false) => return Err(wrong("argv", "command and argv are given; one is enough".into())),
        (true, true) => Vec::new(),
    };
    if argv.first().is_none_or(String::is_empty) {
        return Err(wrong("command", "it is empty".into()));
    }
    if argv.iter().any(|word| word.contains('\0')) {
        return Err(wrong("argv", "a word has a NUL in it".into()));
    }
    Ok(argv)
}

impl Exec {
    /// Waits until it has ended, and gives how; nothing that it began is left then. Blocks.
    pub fn wait(&self) -> Exit {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(exit) = &end.exit {
            return exit.clone();
        }
        let exit = match word_take::<Word>(&self.socket) {
            Ok(Some((Word::Ended(exit), _))) => exit,
            _ => {
                // The helper was killed itself: then this is for us to do.
                if let Err(error) = self.place.kill().and_then(|()| self.place.remove()) {
                    tracing::warn!(%error, "clearing away a program whose helper was killed");
                }
                Exit { signal: Some(9), at_ms: now_ms(), ..Exit::default() }
            }
        };
        let _ = end.helper.wait();
        end.exit = Some(exit.clone());
        exit
    }

    /// Kills it, and all that it began.
    pub fn kill(&self) {
        // The helper sees the end of the socket.
        let _ = shutdown(&self.socket, Shutdown::Write);
    }

    /// Tells its terminal, if it has one, a new size.
    pub fn resize(&self, rows: u16, cols: u16) {
        if let Some(terminal) = &self.terminal {
            let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
            let _ = rustix::termios::tcsetwinsize(terminal, size);
        }
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        self.kill();
        self.wait();
    }
}
