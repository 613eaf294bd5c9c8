//! A running guest.

use crate::LabError;
use crate::channel::{Channel, Waited};
use crate::kernel::Kernel;
use crate::processor::group_processor;
use crate::script::boot_make;
use crate::spec::{GuestSpec, Root};
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a command may take unless the test says otherwise.
const RUN_LIMIT: Duration = Duration::from_secs(120);
/// How long a command may say nothing before the guest is woken.
const NUDGE: Duration = Duration::from_secs(2);
/// How long a guest may take to stop before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// As much of a console as a person wants to read in a failed test.
const CONSOLE_TAIL: usize = 6000;

/// A kernel that runs. Dropped, it is stopped, and killed if it does not stop.
pub struct Guest {
    child: Child,
    stdin: Mutex<Option<ChildStdin>>,
    channel: Arc<Channel>,
    listener: Option<JoinHandle<()>>,
    next: AtomicU64,
    folder: TempDir,
    /// Kept as long as the guest runs.
    _spec: GuestSpec,
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit code; 128 + N if signal N ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

/// A command that runs in the guest beside others.
pub struct Job<'a> {
    guest: &'a Guest,
    number: u64,
    line: String,
}

impl Guest {
    /// Boots a guest and waits until it takes commands.
    ///
    /// # Errors
    /// When something is not installed, or the guest does not get ready; the error has its console.
    pub fn boot(spec: &GuestSpec) -> Result<Self, LabError> {
        let kernel = Kernel::find()?;
        let folder = tempfile::Builder::new()
            .prefix("slipway-guest.")
            .tempdir()
            .map_err(LabError::io("making", "a folder for the guest"))?;
        let share = folder.path().join("lab");
        std::fs::create_dir(&share).map_err(LabError::io("making", share.display().to_string()))?;
        let mut command = kernel_command(spec, &kernel, folder.path(), &share)?;
        let console = folder.path().join("console");
        let file = File::create(&console).map_err(LabError::io("making", console.display().to_string()))?;
        let name = || kernel.program.display().to_string();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .process_group(0)
            .spawn()
            .map_err(LabError::io("starting", name()))?;
        let channel = Arc::new(Channel::default());
        let listener = child.stdout.take().map(|stdout| {
            let channel = channel.clone();
            std::thread::spawn(move || channel.listen(stdout))
        });
        let stdin = Mutex::new(child.stdin.take());
        let guest = Self { child, stdin, channel, listener, next: AtomicU64::new(0), folder, _spec: spec.clone() };
        match guest.channel.wait(spec.boot_limit, |heard| heard.up.then_some(())) {
            Waited::Found(()) => Ok(guest),
            Waited::Ended => Err(guest.ended("while it booted".into())),
            Waited::TimedOut => {
                let why = guest.timed_out(spec.boot_limit, "to boot".into(), "");
                // Its init does not listen yet.
                guest.kill();
                Err(why)
            }
        }
    }

    /// Runs shell lines to their end, at most two minutes.
    ///
    /// # Errors
    /// When they take longer, or the guest ends. An exit code other than 0 is no error.
    pub fn run(&self, script: &str) -> Result<Output, LabError> {
        self.begin(script)?.finish(RUN_LIMIT)
    }

    /// Runs shell lines that must succeed and gives what they printed.
    ///
    /// # Panics
    /// When they do not, with all that is known. `set -e` holds for them.
    #[track_caller]
    pub fn ok(&self, script: &str) -> String {
        match self.run(&format!("set -e\n{script}")) {
            Ok(Output { code: 0, stdout, .. }) => stdout,
            Ok(Output { code, stdout, stderr }) => {
                panic!("in the guest, exit code {code}:\n{script}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
            }
            Err(why) => panic!("{why}"),
        }
    }

    /// Starts shell lines and does not wait for them.
    ///
    /// # Errors
    /// When the guest has ended.
    pub fn begin(&self, script: &str) -> Result<Job<'_>, LabError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.part(number, "sh");
        std::fs::write(&path, script).map_err(LabError::io("writing", path.display().to_string()))?;
        let line = script.trim().lines().find(|line| *line != "set -e").unwrap_or_default().to_owned();
        let job = Job { guest: self, number, line };
        match self.say(&number.to_string()) {
            true => Ok(job),
            false => Err(self.ended(format!("before it ran '{}'", job.line))),
        }
    }

    /// A folder that both sides see, the guest as `/lab`; the test may put files there.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().join("lab")
    }

    /// What its kernel and init have said so far.
    pub fn console(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How long it has kept processors busy so far: its kernel, and every process of it, each of which is one here.
    pub fn processor(&self) -> Duration {
        group_processor(self.child.id())
    }

    /// Stops it as `poweroff -f` does: nothing is unmounted, file systems are not flushed.
    ///
    /// # Errors
    /// When it does not stop and had to be killed.
    pub fn stop(mut self) -> Result<ExitStatus, LabError> {
        self.say("off");
        let status = self.wait(STOP_LIMIT);
        status.ok_or_else(|| self.timed_out(STOP_LIMIT, "to stop".into(), ""))
    }

    /// Takes the power away.
    pub fn kill(self) {
        drop(self.stdin.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.group_kill();
    }

    fn part(&self, number: u64, kind: &str) -> PathBuf {
        self.folder.path().join("lab").join(format!("{number}.{kind}"))
    }

    /// Writes a line to the channel; false when nobody listens any more.
    fn say(&self, line: &str) -> bool {
        let mut stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner);
        stdin.as_mut().is_some_and(|stdin| writeln!(stdin, "{line}").and_then(|()| stdin.flush()).is_ok())
    }

    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            if Instant::now() >= until {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Each process of the guest is one here, in the group of its kernel.
    fn group_kill(&self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // That it has ended already is as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    fn ended(&self, during: String) -> LabError {
        LabError::Ended { during, console: tail(&self.console()) }
    }

    fn timed_out(&self, limit: Duration, during: String, printed: &str) -> LabError {
        LabError::TimedOut { limit, during, console: format!("{}\n{}", tail(&self.console()), tail(printed)) }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.say("off");
        drop(self.stdin.lock().unwrap_or_else(PoisonError::into_inner).take());
        if self.wait(STOP_LIMIT).is_none() {
            self.group_kill();
            let _ = self.child.wait();
        }
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        if std::thread::panicking() {
            eprintln!("--- the guest's console\n{}", tail(&self.console()));
        }
    }
}

impl Job<'_> {
    /// Waits for its end, at most so long.
    ///
    /// # Errors
    /// When it takes longer (it then still runs), or the guest ends.
    pub fn finish(self, limit: Duration) -> Result<Output, LabError> {
        let read = |kind| {
            let bytes = std::fs::read(self.guest.part(self.number, kind)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let until = Instant::now() + limit;
        let waited = loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.guest.channel.wait(left.min(NUDGE), |heard| heard.done.remove(&self.number)) {
                // Now and then this kind of kernel does not hear of a line until the next one comes.
                Waited::TimedOut if left > NUDGE => drop(self.guest.say("")),
                waited => break waited,
            }
        };
        match waited {
            Waited::Found(code) => Ok(Output { code, stdout: read("out"), stderr: read("err") }),
            Waited::Ended => Err(self.guest.ended(format!("while it ran '{}'", self.line))),
            Waited::TimedOut => {
                let printed = format!("{}{}", read("out"), read("err"));
                Err(self.guest.timed_out(limit, format!("to run '{}'", self.line), &printed))
            }
        }
    }

    /// Whether it still runs.
    pub fn runs(&self) -> bool {
        matches!(
            self.guest.channel.wait(Duration::ZERO, |heard| heard.done.get(&self.number).copied()),
            Waited::TimedOut
        )
    }
}

/// The command line of the kernel, with its init and initramfs written to `folder`.
fn kernel_command(spec: &GuestSpec, kernel: &Kernel, folder: &Path, share: &Path) -> Result<Command, LabError> {
    let boot = boot_make(spec, kernel, share)?;
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(LabError::io("writing", path.display().to_string()))?;
        Ok(path)
    };
    let mut command = match &spec.net {
        Some(net) => net.command(&kernel.program),
        None => Command::new(&kernel.program),
    };
    match (&spec.root, &boot.initramfs) {
        (Root::Initramfs(_), Some(archive)) => {
            command.arg(format!("initrd={}", write("initramfs", archive)?.display()));
        }
        (Root::Host, _) | (Root::Initramfs(_), None) => {
            let init = write("init", boot.init.as_bytes())?;
            std::fs::set_permissions(&init, std::fs::Permissions::from_mode(0o755))
                .map_err(LabError::io("making executable", init.display().to_string()))?;
            command.args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"]);
            command.arg(format!("init={}", init.display()));
        }
    }
    command.arg(format!("mem={}M", spec.memory_mib));
    // The console goes to stderr, the command channel is the first serial line: stdin and stdout.
    command.args(["con=null", "con0=null,fd:2", "ssl=null", "ssl0=fd:0,fd:1", "quiet", "panic=1"]);
    command.arg(format!("uml_dir={}", folder.display())).arg("umid=kernel");
    if let Some(net) = &spec.net {
        command.arg(net.kernel_word(spec.seat));
    }
    command.args(&spec.kernel_words).env_clear();
    command.env("TMPDIR", memory_folder(spec, folder)).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    Ok(command)
}

/// Where the kernel keeps the guest's memory, in a file without a name: in this machine's memory if it may and has room there.
fn memory_folder<'a>(spec: &GuestSpec, folder: &'a Path) -> &'a Path {
    let shm = Path::new("/dev/shm");
    let fits = rustix::fs::statvfs(shm).is_ok_and(|facts| {
        let room = facts.f_bavail.saturating_mul(facts.f_frsize);
        room / 2 > u64::from(spec.memory_mib) << 20 && !facts.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC)
    });
    if fits { shm } else { folder }
}

fn tail(text: &str) -> String {
    let skip = text.len().saturating_sub(CONSOLE_TAIL);
    let skip = (skip..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    text[skip..].to_owned()
}
