//! The service's side of a container: begins its shim, watches it, stops and removes it, and finds it again after a restart.

use super::cgroup::{CgroupLayout, CgroupPlace};
use super::confine::reaches_devices;
use super::devices::devices_guard;
use super::exec::Order;
use super::files::{ContainerFiles, Status, process_begun, process_start, write};
use super::log::Log;
use super::shim::report_read;
use super::spawn::halt_signal;
use super::spec::{Spec, spec_of};
use crate::crash::crash_point;
use crate::refusal::{DriverError, Refusal};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use slipway_api::node::{Container, Exit};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Between looks at processes that were killed and are not gone.
const CLEAR_WAIT_MAX: Duration = Duration::from_millis(500);

/// How containers are run.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Holds `containers/`.
    pub run_dir: PathBuf,
    /// The program of the shim and its arguments; the container's directory is added, and its report goes to standard output.
    pub shim: Vec<String>,
    /// Tells services of one machine apart in the control groups.
    pub node: String,
    /// Bytes of a log file before the next one is begun.
    pub log_max: u64,
}

/// Runs containers.
#[derive(Clone, Debug)]
pub struct Runtime {
    config: RuntimeConfig,
    layout: CgroupLayout,
}

/// How a container stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Running {
    /// Its shim and its init are there.
    Yes(Status),
    /// It has ended.
    Ended(Exit),
    /// It was begun, and neither runs nor has said how it ended: its shim was killed, or the node restarted.
    Lost,
    /// It was never begun.
    No,
}

impl Runtime {
    /// With the control groups that this machine has.
    pub fn new(config: RuntimeConfig) -> Self {
        Self { config, layout: CgroupLayout::detect() }
    }

    /// The directory of a container.
    pub fn files(&self, id: u64) -> ContainerFiles {
        ContainerFiles::new(&self.config.run_dir, id)
    }

    fn place(&self, id: u64) -> CgroupPlace {
        self.layout.place(&self.config.node, id)
    }

    /// Starts a container's init in a tree; when this returns, it was executed, or it is said at which step it was not.
    ///
    /// # Errors
    /// 400 for what the request has wrong, 500 with the step that failed; nothing is left running.
    pub fn start(&self, id: u64, container: &Container, root: &Path, privileged: bool) -> Result<Status, Refusal> {
        let place = self.place(id);
        let spec = spec_of(id, container, root.to_owned(), place.clone(), privileged, self.config.log_max)?;
        let files = self.files(id);
        let begun = (|| {
            crash_point("runtime.dir.before");
            fs::DirBuilder::new().recursive(true).mode(0o700).create(files.dir())?;
            crash_point("runtime.dir.after");
            files.begin()?;
            crash_point("runtime.begin.after");
            write(&files.spec(), &spec)?;
            crash_point("runtime.spec.after");
            Ok::<_, std::io::Error>(())
        })();
        begun.map_err(|error| DriverError::on_file("container", files.dir().display(), &error))?;
        let limits = container.resources.clone().unwrap_or_default();
        let started =
            place.make(&limits).and_then(|()| devices_settle(&place, &spec)).and_then(|()| self.shim_spawn(&files));
        if started.is_err() {
            // What was begun of it goes with its groups.
            if let Err(error) = place.kill().and_then(|()| place.remove()) {
                tracing::warn!(id, %error, "clearing away a container that did not start");
            }
        }
        crash_point("runtime.start.after");
        started.map_err(Refusal::from)
    }

    fn shim_spawn(&self, files: &ContainerFiles) -> Result<Status, DriverError> {
        let failed = |error: std::io::Error| DriverError::other("shim", error.to_string());
        let (report, to_report) = std::io::pipe().map_err(failed)?;
        let mut words = self.config.shim.iter();
        let program = words.next().map_or("", String::as_str);
        let mut command = Command::new(program);
        command.args(words).arg(files.dir()).stdin(Stdio::null()).stdout(to_report).stderr(Stdio::null());
        crash_point("runtime.spawn.before");
        let mut child = command.spawn().map_err(failed)?;
        crash_point("runtime.spawn.after");
        // The command keeps the writing end until it goes.
        drop(command);
        if let Err(error) = report_read(report) {
            // It is at its end.
            let _ = child.wait();
            return Err(error);
        }
        // From here on it is reaped by whoever sees its end through its descriptor.
        files.status().ok_or_else(|| DriverError::other("shim", "the shim wrote no status"))
    }

    /// How a container stands now.
    pub fn running(&self, id: u64) -> Running {
        let files = self.files(id);
        if let Some(exit) = files.exit() {
            return Running::Ended(exit);
        }
        match files.status() {
            Some(status) if process_start(status.shim) == Some(status.shim_start) => Running::Yes(status),
            // It may have written its last word in between.
            Some(_) => files.exit().map_or(Running::Lost, Running::Ended),
            None => Running::No,
        }
    }

    /// Waits until a container has ended, for at most `wait`; `None` if it runs on.
    pub fn wait(&self, id: u64, wait: Duration) -> Option<Running> {
        let until = Instant::now() + wait;
        loop {
            let Running::Yes(status) = self.running(id) else { return Some(self.running(id)) };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            match process_open(status.shim, status.shim_start) {
                Some(shim) => {
                    let wait = rustix::event::Timespec {
                        tv_sec: left.as_secs() as i64,
                        tv_nsec: i64::from(left.subsec_nanos()),
                    };
                    let _ = poll(&mut [PollFd::new(&shim, PollFlags::IN)], Some(&wait));
                    reap(&shim);
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Asks the init to end, waits for `grace`, and kills what is left. Returns when no process of the container is left.
    ///
    /// # Errors
    /// When processes do not vanish although they were killed.
    pub fn stop(&self, id: u64, systemd: bool, grace: Duration) -> Result<(), DriverError> {
        self.stop_ask(id, systemd)?;
        self.wait(id, grace);
        self.kill(id)
    }

    /// Asks the init to end, if it runs; with systemd, to shut its system down.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn stop_ask(&self, id: u64, systemd: bool) -> Result<(), DriverError> {
        let Running::Yes(status) = self.running(id) else { return Ok(()) };
        // What is held still hears no signal.
        self.place(id).freeze(false)?;
        let signal = if systemd { halt_signal() } else { Signal::TERM };
        let Some(init) = process_open(status.pid, status.pid_start) else { return Ok(()) };
        crash_point("runtime.signal.before");
        match pidfd_send_signal(&init, signal) {
            Ok(()) | Err(Errno::SRCH) => {
                crash_point("runtime.signal.after");
                Ok(())
            }
            Err(errno) => Err(DriverError::system("signal", errno, format!("container {id}"))),
        }
    }

    /// Kills every process of a container. Returns when none is left, and its shim has written down how it ended.
    ///
    /// # Errors
    /// When processes do not vanish although they were killed.
    pub fn kill(&self, id: u64) -> Result<(), DriverError> {
        self.place(id).kill()?;
        self.wait(id, Duration::from_secs(5));
        Ok(())
    }

    /// What a program beside the init of a container that runs needs to know, with the container's own words.
    pub(crate) fn exec_order(&self, id: u64) -> Option<Order> {
        let Running::Yes(status) = self.running(id) else { return None };
        let spec = serde_json::from_slice(&fs::read(self.files(id).spec()).ok()?).ok()?;
        Some(Order { spec, init: status.pid, init_start: status.pid_start, terminal: None })
    }

    /// The shim of a container that runs: readable when it has ended. Then it is to be reaped.
    pub fn shim_open(&self, id: u64) -> Option<OwnedFd> {
        let status = self.files(id).status()?;
        process_open(status.shim, status.shim_start)
    }

    /// Puts a line of the service into a container's log; for when its shim does not write there.
    pub fn note(&self, id: u64, text: &str) {
        let files = self.files(id);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(files.dir());
        let noted = made
            .and_then(|()| Log::open(&files.log(), id, self.config.log_max))
            .and_then(|mut log| log.line(now_ms(), text));
        if let Err(error) = noted {
            tracing::warn!(id, %error, "writing to a container's log");
        }
    }

    /// Every container that something is left of: a directory, a control group or a shim.
    ///
    /// # Errors
    /// When the run directory cannot be read.
    pub fn found(&self) -> std::io::Result<BTreeSet<u64>> {
        let top = self.config.run_dir.join("containers");
        let mut ids: BTreeSet<u64> = shims(&top).into_iter().map(|(_, id)| id).collect();
        ids.extend(self.layout.found(&self.config.node));
        match fs::read_dir(top) {
            Ok(entries) => {
                ids.extend(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(ids)
    }

    /// Kills whatever was begun for a container that does not run as its files say: a shim of an earlier service that was still at it.
    ///
    /// # Errors
    /// When processes do not vanish although they were killed.
    pub fn clear(&self, id: u64) -> Result<(), DriverError> {
        let top = self.config.run_dir.join("containers");
        let mut wait = Duration::from_millis(1);
        loop {
            let left: Vec<u32> = shims(&top).into_iter().filter(|(_, of)| *of == id).map(|(pid, _)| pid).collect();
            for pid in left.iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
                // It may have ended meanwhile.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            self.place(id).kill()?;
            if left.is_empty() {
                return Ok(());
            }
            // One that the kernel holds may take long.
            std::thread::sleep(wait);
            wait = (wait * 2).min(CLEAR_WAIT_MAX);
        }
    }

    /// Holds a container still, or lets it go on.
    ///
    /// # Errors
    /// When this machine has no freezer.
    pub fn pause(&self, id: u64, still: bool) -> Result<(), DriverError> {
        self.place(id).freeze(still)
    }

    /// Forgets a container that has ended: its groups, and its directory with its log.
    ///
    /// # Errors
    /// Busy when one of its processes is left.
    pub fn remove(&self, id: u64) -> Result<(), DriverError> {
        self.place(id).remove()?;
        let files = self.files(id);
        crash_point("runtime.remove.before");
        match fs::remove_dir_all(files.dir()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(DriverError::other("container", format!("{}: {error}", files.dir().display())))
            }
            _ => {
                crash_point("runtime.remove.after");
                Ok(())
            }
        }
    }

    /// The log of a container, from its beginning or from that of the last file.
    ///
    /// # Errors
    /// When there is none.
    pub fn log(&self, id: u64) -> std::io::Result<File> {
        File::open(self.files(id).log())
    }
}

/// Keeps a container from the node's devices. Without a control group that can, one that could make or mount them is refused; any other has
/// no nodes but those of its `/dev`, since its image is mounted without devices.
fn devices_settle(place: &CgroupPlace, spec: &Spec) -> Result<(), DriverError> {
    if spec.privileged || devices_guard(place)? || !reaches_devices(spec)? {
        return Ok(());
    }
    let text = "this node has no control group that keeps a container from its devices (mount cgroup version 2, or devices of version 1); \
                a systemd or CAP_MKNOD container without it must be privileged";
    Err(DriverError::other("devices", text))
}

/// Every process whose last word is the directory of a container: shims, and inits that are not yet what they become.
fn shims(top: &Path) -> Vec<(u32, u64)> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let last = words.strip_suffix(&[0])?.rsplit(|byte| *byte == 0).next()?;
        let dir = Path::new(std::str::from_utf8(last).ok()?);
        Some((pid, dir.strip_prefix(top).ok()?.to_str()?.parse().ok()?))
    })
    .collect()
}

/// Forgets a child that has ended; other people's children are not touched.
pub(crate) fn reap(child: &OwnedFd) {
    let _ = waitid(WaitId::PidFd(child.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
}

pub(crate) fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// A process, if it is still the one that was started then.
pub(crate) fn process_open(pid: u32, start: u64) -> Option<OwnedFd> {
    let fd = pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()?;
    // Looked at with the descriptor held, so that the number cannot go to another in between.
    (process_begun(pid) == Some(start)).then_some(fd)
}
