//! A host on directories of its own, an image to run, and a look at what is left.

use serde_json::{Value, json};
use slipway_api::node::{Container, ContainerState};
use slipway_node::{Host, HostConfig, Linux, NodeConfig, Refusal, Which};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) const LONG: Duration = Duration::from_secs(20);

const TOOLS: &[&str] =
    &["sh", "sleep", "cat", "ls", "id", "true", "false", "dd", "echo", "env", "pwd", "stty", "ps", "tty"];

pub(crate) struct Lab {
    host: Option<Arc<Host>>,
    pub(crate) top: tempfile::TempDir,
    boot: String,
    pub(crate) node_config: NodeConfig,
    /// In place of the shim, from the next opening on.
    pub(crate) shim: Option<Vec<String>>,
}

/// A tree with busybox in it.
fn root_make(root: &Path) {
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "run"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for name in TOOLS {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\njan:x:1234:4321::/:/bin/sh\n").unwrap();
}

pub(crate) fn tool(program: &str, args: &[&str]) {
    let said = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(said.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&said.stderr));
}

pub(crate) fn config(top: &Path, boot: &str, node_config: &NodeConfig) -> HostConfig {
    let program = std::env::current_exe().unwrap().display().to_string();
    HostConfig {
        run_dir: top.join("run"),
        state_dir: top.join("state"),
        shim: vec![program.clone(), "shim".into()],
        exec: vec![program, "exec".into()],
        export: Vec::new(),
        node: top.file_name().unwrap().to_string_lossy().trim_start_matches('.').to_owned(),
        log_max: 64 << 10,
        boot_id: boot.to_owned(),
        node_config: node_config.clone(),
    }
}

impl Lab {
    pub(crate) fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        root_make(&top.path().join("root"));
        let image = top.path().join("image.squashfs").display().to_string();
        tool("mksquashfs", &[&top.path().join("root").display().to_string(), &image, "-quiet", "-no-progress"]);
        let mut lab = Self { host: None, top, boot: "one".into(), node_config: NodeConfig::default(), shim: None };
        lab.open();
        lab
    }

    pub(crate) fn open(&mut self) {
        let mut config = config(self.top.path(), &self.boot, &self.node_config);
        if let Some(shim) = &self.shim {
            config.shim.clone_from(shim);
        }
        self.host = Some(Host::open(config).unwrap());
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        self.host.as_ref().unwrap()
    }

    /// The service goes, and its containers stay.
    pub(crate) fn close(&mut self) {
        let weak = Arc::downgrade(&self.host.take().unwrap());
        let begun = Instant::now();
        while weak.strong_count() > 0 {
            assert!(begun.elapsed() < LONG, "the host is still held");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn restart(&mut self) {
        self.close();
        self.open();
    }

    pub(crate) fn boot_set(&mut self, boot: &str) {
        boot.clone_into(&mut self.boot);
    }

    /// All that a restart of the node takes: the processes, the mounts, the loop devices, the groups, the run directory.
    pub(crate) fn node_gone(&self, init: &str) {
        tool("kill", &["-9", init]);
        let begun = Instant::now();
        while processes().iter().any(|(_, words)| words.contains(&self.at("run").display().to_string())) {
            assert!(begun.elapsed() < LONG);
            std::thread::sleep(Duration::from_millis(5));
        }
        let run = self.at("run");
        tool("umount", &["--recursive", "--lazy", &run.display().to_string()]);
        let image = self.at("image.squashfs").display().to_string();
        let loops =
            Command::new("losetup").args(["--associated", &image, "--noheadings", "-O", "NAME"]).output().unwrap();
        for device in String::from_utf8(loops.stdout).unwrap().split_whitespace() {
            tool("losetup", &["--detach", device]);
        }
        fs::remove_dir_all(&run).unwrap();
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    /// The image as Kraken asks for it: a squashfs file, on a loop device, below an overlay.
    pub(crate) fn nested(&self) -> Value {
        json!({"kind": "overlay", "overlay": {"lower": [{"kind": "attach", "attach": {"fs_type": "squashfs", "attach": {
            "kind": "loopback", "loopback": {"path": self.at("image.squashfs"), "base": "root", "ro": true},
        }}}]}})
    }

    /// A container of this image; `more` wins.
    pub(crate) fn described(&self, command: &str, more: Value) -> Container {
        let mut whole = json!({"command": command, "mount": self.nested(), "state": "running"});
        for (key, value) in more.as_object().unwrap() {
            whole[key] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    pub(crate) fn create(&self, command: &str, more: Value) -> Result<Container, Refusal> {
        self.host().container_create(self.described(command, more), true)
    }

    /// Runs a line of shell.
    pub(crate) fn sh(&self, line: &str, more: Value) -> Container {
        self.create(&format!("/bin/sh -c \"{line}\""), more).unwrap()
    }

    pub(crate) fn get(&self, id: u64) -> Container {
        self.host().container(&Which::Id(id)).unwrap()
    }

    pub(crate) fn set(&self, id: u64, state: ContainerState) -> Result<Container, Refusal> {
        self.host().container_set(&Which::Id(id), state)
    }

    pub(crate) fn delete(&self, id: u64, force: bool) -> Result<Container, Refusal> {
        self.host().container_delete(&Which::Id(id), force)
    }

    pub(crate) fn until(&self, id: u64, fits: impl Fn(&Container) -> bool) -> Container {
        let begun = Instant::now();
        loop {
            let container = self.get(id);
            if fits(&container) {
                return container;
            }
            assert!(begun.elapsed() < LONG, "{container:?}\n{}", self.log(id));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn until_state(&self, id: u64, state: ContainerState) -> Container {
        self.until(id, |container| container.state == state)
    }

    pub(crate) fn log(&self, id: u64) -> String {
        fs::read_to_string(self.get(id).logfile).unwrap_or_default()
    }

    /// Waits until a container has said something.
    pub(crate) fn heard(&self, id: u64, text: &str) {
        let begun = Instant::now();
        while !self.log(id).contains(text) {
            assert!(begun.elapsed() < LONG, "{}", self.log(id));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What happened to an object, in order.
    pub(crate) fn told(&self, id: u64) -> Vec<String> {
        let batch = self.host().events().after(0, Duration::ZERO);
        batch.events.into_iter().filter(|event| event.object == id).map(|event| event.what).collect()
    }

    /// Deletes everything, and looks at what is left of it anywhere: nothing may be.
    pub(crate) fn census(mut self) {
        let host = self.host().clone();
        for container in host.containers() {
            self.delete(container.id, true).unwrap();
        }
        let begun = Instant::now();
        while !(host.attaches().is_empty() && host.mounts().is_empty()) {
            assert!(begun.elapsed() < LONG, "{:?} {:?}", host.attaches(), host.mounts());
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(host);
        self.close();
        let closed = Linux::open(&self.at("run"), &self.at("state")).unwrap();
        // The host's last thread may just be closing its files.
        while let Err(error) = closed.close() {
            assert!(begun.elapsed() < LONG, "{error}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let top = self.top.path().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&top), "{mounts}");
        let node = self.top.path().file_name().unwrap().to_string_lossy().trim_start_matches('.').to_owned();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            for at in [hierarchy.path(), hierarchy.path().join("..")] {
                let group = at.join("slipway").join(&node);
                let left = fs::read_dir(&group).into_iter().flatten().flatten().map(|entry| entry.path());
                let left: Vec<_> = left.filter(|path| path.is_dir()).collect();
                assert!(left.is_empty(), "{left:?}");
                let _ = fs::remove_dir(&group);
            }
        }
        for dir in ["run/containers", "run/mounts", "run/overlays", "state/containers"] {
            let left: Vec<_> =
                fs::read_dir(self.at(dir)).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
        let loops = Command::new("losetup").args(["--list", "--noheadings", "-O", "BACK-FILE"]).output().unwrap();
        assert!(!String::from_utf8_lossy(&loops.stdout).contains(&top));
        let processes = processes();
        assert!(!processes.iter().any(|(_, words)| words.contains(&top)), "{processes:?}");
    }
}

/// A time to sleep that no other test on this machine sleeps for, so that its processes are known by it.
pub(crate) fn mark(n: u32) -> String {
    format!("{}{n}", 100_000 + std::process::id())
}

/// Every process with its command line.
pub(crate) fn processes() -> Vec<(u32, String)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        (!words.is_empty()).then(|| (pid, String::from_utf8_lossy(&words).replace('\0', " ")))
    })
    .collect()
}
