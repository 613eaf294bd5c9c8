//! A container's shim: a small process with one thread that makes the init, keeps its output, and writes down how it ended. It needs no
//! service while it runs, and none can take its container from it by dying.

use super::confine::{confine, person};
use super::files::{ContainerFiles, Status, process_start};
use super::log::Log;
use super::oom::OomWatch;
use super::root::{console_tree, root_enter};
use super::runtime::now_ms;
use super::spawn::{Forked, inherited_close, namespaces_leave, process_fork, program_become};
use super::spec::Spec;
use crate::crash::crash_point;
use crate::refusal::DriverError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use rustix::pty::OpenptFlags;
use rustix::thread::UnshareFlags;
use slipway_api::node::{Exit, Namespace, StepError};
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::ExitCode;

/// Begins what a shim reports; the rest of the line is JSON.
const STARTED: &str = "started";
const FAILED: &str = "failed";

/// What came of a start.
pub(super) fn report_read(mut report: impl Read) -> Result<(), DriverError> {
    let mut text = String::new();
    // Ends when the shim closes its end, whether it said anything or died.
    let _ = report.read_to_string(&mut text);
    match text.trim().split_once(' ') {
        _ if text.trim() == STARTED => Ok(()),
        Some((FAILED, json)) => Err(failure_parse(json)),
        _ => Err(DriverError::other("shim", "the shim ended before it had started the init")),
    }
}

pub(super) fn failure_parse(json: &str) -> DriverError {
    let error = serde_json::from_str::<StepError>(json);
    let error = error.unwrap_or_else(|_| StepError { step: "shim".into(), errno: None, text: json.to_owned() });
    DriverError { status: 500, error, holders: Vec::new() }
}

/// The shim of the container whose directory this is. Standard output, a pipe, hears whether its init was executed, and is closed then.
/// Returns when the container has ended.
pub fn shim_run(dir: &Path) -> ExitCode {
    inherited_close();
    let Ok(mut report) = report_take() else { return ExitCode::FAILURE };
    crash_point("shim.begin");
    match start(&ContainerFiles::at(dir)) {
        Ok(shim) => {
            // The service may be gone; the container runs all the same.
            let _ = writeln!(report, "{STARTED}");
            drop(report);
            crash_point("shim.started");
            shim.watch();
            ExitCode::SUCCESS
        }
        Err(error) => {
            let json = serde_json::to_string(&error.error).unwrap_or_default();
            let _ = writeln!(report, "{FAILED} {json}");
            ExitCode::FAILURE
        }
    }
}

/// Who waits for the report waits for its end: so nothing else may keep the pipe open, here or in the init.
fn report_take() -> std::io::Result<File> {
    let report = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(File::from(report))
}

struct Shim {
    files: ContainerFiles,
    log: Log,
    init: Pid,
    init_fd: OwnedFd,
    output: OwnedFd,
    console: OwnedFd,
    notify: Option<UnixDatagram>,
    status: Status,
    oom: OomWatch,
}

fn failed(step: &str, errno: Errno) -> DriverError {
    DriverError::system(step, errno, "the shim")
}

fn io_failed(step: &str, error: &std::io::Error) -> DriverError {
    DriverError::other(step, error.to_string())
}

fn start(files: &ContainerFiles) -> Result<Shim, DriverError> {
    let text = std::fs::read(files.spec()).map_err(|error| io_failed("spec", &error))?;
    let spec: Spec = serde_json::from_slice(&text).map_err(|error| DriverError::other("spec", error.to_string()))?;
    let mut log = Log::open(&files.log(), spec.id, spec.log_max).map_err(|error| io_failed("log", &error))?;
    // Neither the service's terminal nor its signals are ours.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"slipway-shim");
    let _ = log.line(now_ms(), "starting container");
    crash_point("shim.log.after");
    spec.cgroup.shim_enter()?;
    crash_point("shim.group.after");
    let notify = spec.systemd.then(|| notify_open(files)).transpose()?;
    let (output, to_output) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed("pipe", errno))?;
    let (failure, to_failure) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed("pipe", errno))?;
    let pty = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let console = rustix::pty::openpt(pty).map_err(|errno| failed("openpt", errno))?;
    rustix::pty::grantpt(&console)
        .and_then(|()| rustix::pty::unlockpt(&console))
        .map_err(|errno| failed("openpt", errno))?;
    let peer = rustix::pty::ioctl_tiocgptpeer(&console, pty).map_err(|errno| failed("openpt", errno))?;
    let console_tree = console_tree(&peer)?;
    let oom = OomWatch::new(&spec.cgroup);
    namespaces_leave(UnshareFlags::NEWPID).map_err(|errno| failed("unshare", errno))?;
    crash_point("shim.fork.before");
    let init = match process_fork().map_err(|errno| failed("fork", errno))? {
        Forked::Child => {
            drop((output, failure, console));
            let error = init_become(&spec, files, to_output, &console_tree);
            let mut out = File::from(to_failure);
            let _ = out.write_all(serde_json::to_string(&error.error).unwrap_or_default().as_bytes());
            std::process::exit(127);
        }
        Forked::Parent(pid) => pid,
    };
    drop((to_output, to_failure, peer, console_tree));
    crash_point("shim.fork.after");
    let init_fd = pidfd_open(init, PidfdFlags::empty()).map_err(|errno| failed("pidfd_open", errno))?;
    let mut said = String::new();
    // Ends with the init's exec, which closes the other end, or with what went wrong before.
    let _ = File::from(failure).read_to_string(&mut said);
    if !said.is_empty() {
        let _ = waitid(WaitId::PidFd(init_fd.as_fd()), WaitIdOptions::EXITED);
        let error = failure_parse(&said);
        let _ = log.line(now_ms(), &format!("container did not start: {error}"));
        return Err(error);
    }
    crash_point("shim.exec.after");
    let (pid, shim) = (init.as_raw_nonzero().get().cast_unsigned(), std::process::id());
    let status = Status {
        pid,
        pid_start: process_start(pid).unwrap_or_default(),
        shim,
        shim_start: process_start(shim).unwrap_or_default(),
        started_at_ms: now_ms(),
        ready: !spec.systemd,
        ooms: 0,
    };
    crash_point("shim.status.before");
    files.status_write(&status).map_err(|error| io_failed("status", &error))?;
    crash_point("shim.status.after");
    Ok(Shim { files: files.clone(), log, init, init_fd, output, console, notify, status, oom })
}

fn notify_open(files: &ContainerFiles) -> Result<UnixDatagram, DriverError> {
    let path = files.notify();
    let opened = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixDatagram::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    });
    opened.map_err(|error| io_failed("notify", &error))
}

/// Turns this process into the container's init; comes back only with what did not work.
fn init_become(spec: &Spec, files: &ContainerFiles, output: OwnedFd, console: &OwnedFd) -> DriverError {
    let ready = prepare(spec, files, console).and_then(|()| words(spec)).and_then(|words| {
        streams(&output)?;
        let cwd = spec.cwd.as_str();
        rustix::process::chdir(cwd)
            .map_err(|errno| DriverError::system("chdir", errno, format!("{cwd} in the image")))?;
        Ok(words)
    });
    match ready {
        Ok((argv, env)) => {
            DriverError::system("exec", program_become(&argv, &env), format!("{} in the image", spec.argv[0]))
        }
        Err(error) => error,
    }
}

pub(super) type Words = (Vec<CString>, Vec<CString>);

pub(super) fn words(spec: &Spec) -> Result<Words, DriverError> {
    let wrong = |_| DriverError::request("exec", "a word of the command or the environment has a NUL in it");
    let argv = spec.argv.iter().map(|word| CString::new(word.as_str())).collect::<Result<_, _>>().map_err(wrong)?;
    let env = spec.env.iter().map(|(name, value)| CString::new(format!("{name}={value}"))).collect::<Result<_, _>>();
    Ok((argv, env.map_err(wrong)?))
}

/// Nothing to read, and both outputs to the shim.
fn streams(output: &OwnedFd) -> Result<(), DriverError> {
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty());
    let null = null.map_err(|errno| DriverError::system("open", errno, "/dev/null in the container"))?;
    rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(output))
        .and_then(|()| rustix::stdio::dup2_stderr(output))
        .map_err(|errno| DriverError::system("dup", errno, "the container's output"))
}

fn prepare(spec: &Spec, files: &ContainerFiles, console: &OwnedFd) -> Result<(), DriverError> {
    spec.cgroup.enter()?;
    let flags = spec.namespaces.iter().fold(UnshareFlags::NEWNS, |flags, namespace| {
        flags
            | match namespace {
                Namespace::Cgroup => UnshareFlags::NEWCGROUP,
                Namespace::Ipc => UnshareFlags::NEWIPC,
                Namespace::Net => UnshareFlags::NEWNET,
                Namespace::Uts => UnshareFlags::NEWUTS,
                // These every container has, or none.
                Namespace::Mnt | Namespace::Pid | Namespace::Time | Namespace::User => UnshareFlags::empty(),
            }
    });
    namespaces_leave(flags).map_err(|errno| failed("unshare", errno))?;
    let _ = rustix::process::setsid();
    if !spec.hostname.is_empty() {
        rustix::system::sethostname(spec.hostname.as_bytes()).map_err(|errno| failed("sethostname", errno))?;
    }
    root_enter(spec, files, console)?;
    let init = spec.argv.first().map_or("", String::as_str);
    let facts = std::fs::metadata(init).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::NOENT);
        DriverError::system("init", errno, format!("{init} in the image"))
    })?;
    if !facts.is_file() || facts.permissions().mode() & 0o111 == 0 {
        return Err(DriverError::request("init", format!("{init} in the image is not an executable file")));
    }
    let person = person(spec)?;
    confine(spec, person.as_ref())
}

impl Shim {
    /// Copies output and hears of readiness until the init has ended and its output with it.
    fn watch(mut self) {
        let mut buffer = vec![0; 16 << 10];
        for source in [&self.output, &self.console] {
            let _ = rustix::fs::fcntl_setfl(source, OFlags::NONBLOCK);
        }
        let mut console_open = true;
        loop {
            let mut waits = vec![PollFd::new(&self.init_fd, PollFlags::IN), PollFd::new(&self.output, PollFlags::IN)];
            if let Some(notify) = &self.notify {
                waits.push(PollFd::new(notify, PollFlags::IN));
            }
            if console_open {
                waits.push(PollFd::new(&self.console, PollFlags::IN));
            }
            let oom_at = self.oom.wait().map(|wait| waits.push(wait)).map(|()| waits.len() - 1);
            let most = self.oom.wait_most().map(|most| Timespec { tv_sec: 0, tv_nsec: most.subsec_nanos().into() });
            match poll(&mut waits, most.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => break,
            }
            let ended = waits[0].revents().contains(PollFlags::IN);
            let oom = oom_at.is_some_and(|at| !waits[at].revents().is_empty());
            drop(waits);
            if oom || most.is_some() {
                self.oom_look(oom);
            }
            self.output_copy(&mut buffer);
            console_open = self.console_copy(&mut buffer) && console_open;
            self.readiness_hear(&mut buffer);
            if ended {
                break;
            }
        }
        crash_point("shim.ended");
        let exit = self.exit_get();
        // Children of the init die with its pid namespace; what they said until then belongs to it.
        self.output_copy(&mut buffer);
        self.console_copy(&mut buffer);
        let how = match (exit.code, exit.signal) {
            (Some(0), _) => "process ended, exit code (0)".to_owned(),
            (Some(code), _) => format!("process ended in error state: exit status {code}"),
            (None, signal) => format!("process ended in error state: signal {}", signal.unwrap_or_default()),
        };
        let _ = self.log.line(exit.at_ms, &how);
        crash_point("shim.exit.before");
        // The last word: who reads it may rely on all the rest being there.
        if let Err(error) = self.files.exit_write(&exit) {
            let _ = self.log.line(exit.at_ms, &format!("writing down how it ended: {error}"));
        }
        crash_point("shim.exit.after");
    }

    fn output_copy(&mut self, buffer: &mut [u8]) {
        while let Ok(len @ 1..) = rustix::io::read(&self.output, &mut *buffer) {
            // A full disk loses output, never the container.
            let _ = self.log.output(&buffer[..len]);
        }
    }

    /// False once nobody can write there any more.
    fn console_copy(&mut self, buffer: &mut [u8]) -> bool {
        loop {
            match rustix::io::read(&self.console, &mut *buffer) {
                Ok(0) | Err(Errno::IO) => return false,
                Ok(len) => {
                    let _ = self.log.output(&buffer[..len]);
                }
                Err(_) => return true,
            }
        }
    }

    fn oom_look(&mut self, heard: bool) {
        if let Some(kills) = self.oom.look(heard) {
            self.status.ooms = kills;
            let _ = self.files.status_write(&self.status);
            let _ = self.log.line(now_ms(), "a process was killed for want of memory");
        }
    }

    fn readiness_hear(&mut self, buffer: &mut [u8]) {
        let Some(notify) = &self.notify else { return };
        while let Ok(len) = notify.recv(buffer) {
            let is_ready = buffer[..len].split(|byte| *byte == b'\n').any(|line| line == b"READY=1");
            if is_ready && !self.status.ready {
                self.status.ready = true;
                let _ = self.files.status_write(&self.status);
                let _ = self.log.line(now_ms(), "container ready");
            }
        }
    }

    fn exit_get(&mut self) -> Exit {
        let mut exit = Exit { at_ms: now_ms(), ..Exit::default() };
        if let Ok(Some(status)) = waitid(WaitId::Pid(self.init), WaitIdOptions::EXITED) {
            (exit.code, exit.signal) = match status.terminating_signal() {
                // The kernel's word for reboot(2) in a pid namespace: halted, or to be begun again. No other hand can end a first process by
                // these, so its system was shut down in order.
                Some(libc::SIGINT | libc::SIGHUP) => (Some(0), None),
                signal => (status.exit_status(), signal),
            };
        }
        self.oom_look(false);
        exit.oom = self.oom.kills() > 0;
        exit
    }
}
