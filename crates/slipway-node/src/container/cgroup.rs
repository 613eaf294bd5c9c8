//! Control groups: version 2 where it has the controllers, version 1 for those that it has not. Only directories of our own are written to;
//! what the node's controllers are set to above them stays as it is, but for making them available below.

use crate::crash::crash_point;
use crate::refusal::DriverError;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use slipway_api::node::Resources;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const TOP: &str = "slipway";
/// The version 1 controllers that limits, pausing, killing and keeping from devices need.
const V1: &[&str] = &["memory", "cpu", "pids", "blkio", "freezer", DEVICES];
/// In this hierarchy the processes are one group deeper: who may mount it in the container sees the inner one, and cannot loosen the outer.
const DEVICES: &str = "devices";
const INNER: &str = "in";
/// Ends the name of the group beside a container's own in which its shim is, outside of its limits.
const SHIM: &str = ".shim";
/// How long processes may take to vanish from a group after they were killed.
const VANISH: Duration = Duration::from_secs(5);

/// Where the hierarchies are mounted.
#[derive(Clone, Debug, Default)]
pub struct CgroupLayout {
    v2: Option<PathBuf>,
    v1: Vec<(String, PathBuf)>,
}

/// The groups of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlace {
    /// In version 2.
    pub v2: Option<PathBuf>,
    /// In version 1: the controller and the group.
    pub v1: Vec<(String, PathBuf)>,
}

impl CgroupLayout {
    /// Looks at what this machine has mounted.
    pub fn detect() -> Self {
        let mut layout = Self::default();
        let top = Path::new("/sys/fs/cgroup");
        for at in [top.to_owned(), top.join("unified")] {
            if at.join("cgroup.controllers").exists() {
                layout.v2 = Some(at);
                break;
            }
        }
        for controller in V1 {
            let at = top.join(controller);
            if at.join("cgroup.procs").exists() && !at.join("cgroup.controllers").exists() {
                layout.v1.push(((*controller).to_owned(), at));
            }
        }
        layout
    }

    /// The numbers of all containers of a service that have a group.
    pub fn found(&self, node: &str) -> BTreeSet<u64> {
        let tops = self.v2.iter().chain(self.v1.iter().map(|(_, at)| at)).map(|at| at.join(TOP).join(node));
        let entries = tops.flat_map(|top| fs::read_dir(top).into_iter().flatten().flatten());
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// The place of one container, whether it is made or not. `node` tells services of one machine apart.
    pub fn place(&self, node: &str, id: u64) -> CgroupPlace {
        let name = format!("{TOP}/{node}/{id}");
        CgroupPlace {
            v2: self.v2.as_ref().map(|at| at.join(&name)),
            v1: self.v1.iter().map(|(controller, at)| (controller.clone(), at.join(&name))).collect(),
        }
    }
}

fn failed(step: &str, path: &Path, error: &io::Error) -> DriverError {
    let text = path.display().to_string();
    match Errno::from_io_error(error) {
        Some(errno) => DriverError::system(step, errno, text),
        None => DriverError::other(step, format!("{text}: {error}")),
    }
}

fn set(dir: &Path, file: &str, value: &str) -> Result<(), DriverError> {
    let path = dir.join(file);
    fs::write(&path, value).map_err(|error| failed("cgroup", &path, &error))
}

impl CgroupPlace {
    fn dirs(&self) -> impl Iterator<Item = &PathBuf> {
        self.v2.iter().chain(self.v1.iter().map(|(_, dir)| dir))
    }

    pub(super) fn v1_dir(&self, controller: &str) -> Option<&Path> {
        self.v1.iter().find(|(name, _)| name == controller).map(|(_, dir)| dir.as_path())
    }

    /// Where a controller's files are: version 2 if it has the controller there.
    fn v2_with(&self, file: &str) -> Option<&Path> {
        self.v2.as_deref().filter(|dir| dir.join(file).exists())
    }

    /// Makes the groups with their limits.
    ///
    /// # Errors
    /// What the kernel said; a limit that this machine cannot hold is an error too.
    pub fn make(&self, limits: &Resources) -> Result<(), DriverError> {
        crash_point("cgroup.make.before");
        for dir in self.dirs() {
            group_make(dir).map_err(|error| failed("cgroup", dir, &error))?;
            // Each hierarchy is a step of its own.
            crash_point("cgroup.make.after");
        }
        if let Some(dir) = &self.v2 {
            // From the top down to our own: what a parent does not hand on, no child has.
            let parents: Vec<&Path> = dir.ancestors().skip(1).take(3).collect();
            for parent in parents.into_iter().rev() {
                let has = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
                for controller in ["memory", "cpu", "pids", "io"] {
                    if has.split_whitespace().any(|word| word == controller) {
                        // Refused where the parent has processes of its own: then the limits below say what is missing.
                        let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
                    }
                }
            }
        }
        self.limits_set(limits)?;
        crash_point("cgroup.limits.after");
        Ok(())
    }

    fn limits_set(&self, limits: &Resources) -> Result<(), DriverError> {
        let none =
            |what: &str| DriverError::other("cgroup", format!("this machine has no control group that limits {what}"));
        if limits.memory > 0 {
            let (memory, swap) = (limits.memory.to_string(), limits.swap.unwrap_or(0));
            if let Some(dir) = self.v2_with("memory.max") {
                set(dir, "memory.max", &memory)?;
                let _ = fs::write(dir.join("memory.swap.max"), swap.to_string());
            } else if let Some(dir) = self.v1_dir("memory") {
                set(dir, "memory.limit_in_bytes", &memory)?;
                // Memory and swap together; there is no such file without swap accounting.
                let _ = fs::write(dir.join("memory.memsw.limit_in_bytes"), (limits.memory + swap).to_string());
            } else {
                return Err(none("memory"));
            }
        }
        if limits.cpu_millis > 0 {
            let quota = (limits.cpu_millis * 100).max(1000);
            if let Some(dir) = self.v2_with("cpu.max") {
                set(dir, "cpu.max", &format!("{quota} 100000"))?;
            } else if let Some(dir) = self.v1_dir("cpu") {
                set(dir, "cpu.cfs_period_us", "100000")?;
                set(dir, "cpu.cfs_quota_us", &quota.to_string())?;
            } else {
                return Err(none("processors"));
            }
        }
        if limits.cpu_weight > 0 {
            if let Some(dir) = self.v2_with("cpu.weight") {
                set(dir, "cpu.weight", &limits.cpu_weight.to_string())?;
            } else if let Some(dir) = self.v1_dir("cpu") {
                set(dir, "cpu.shares", &(limits.cpu_weight * 1024 / 100).clamp(2, 262_144).to_string())?;
            } else {
                return Err(none("processors"));
            }
        }
        if limits.pids > 0 {
            let dir = self.v2_with("pids.max").or_else(|| self.v1_dir("pids")).ok_or_else(|| none("processes"))?;
            set(dir, "pids.max", &limits.pids.to_string())?;
        }
        for limit in &limits.io {
            let facts =
                fs::metadata(&limit.device).map_err(|error| failed("cgroup", Path::new(&limit.device), &error))?;
            let number = format!("{}:{}", rustix::fs::major(facts.rdev()), rustix::fs::minor(facts.rdev()));
            let each = [
                ("rbps", "read_bps_device", limit.read_bps),
                ("wbps", "write_bps_device", limit.write_bps),
                ("riops", "read_iops_device", limit.read_iops),
                ("wiops", "write_iops_device", limit.write_iops),
            ];
            for (key, file, value) in each.into_iter().filter(|(_, _, value)| *value > 0) {
                if let Some(dir) = self.v2_with("io.max") {
                    set(dir, "io.max", &format!("{number} {key}={value}"))?;
                } else if let Some(dir) = self.v1_dir("blkio") {
                    set(dir, &format!("blkio.throttle.{file}"), &format!("{number} {value}"))?;
                } else {
                    return Err(none("devices"));
                }
            }
        }
        Ok(())
    }

    /// Groups of their own for a part of the processes, where the same limits hold.
    pub(super) fn below(&self, name: &str) -> Self {
        let v1 = self.v1.iter().map(|(controller, dir)| match controller.as_str() {
            DEVICES => (controller.clone(), dir.join(INNER).join(name)),
            _ => (controller.clone(), dir.join(name)),
        });
        Self { v2: self.v2.as_ref().map(|dir| dir.join(name)), v1: v1.collect() }
    }

    /// Makes groups within groups that are there.
    ///
    /// # Errors
    /// When those are gone.
    pub(super) fn make_below(&self) -> Result<(), DriverError> {
        self.dirs().try_for_each(|dir| fs::create_dir(dir).map_err(|error| failed("cgroup", dir, &error)))
    }

    /// Puts the calling process into the groups.
    pub(super) fn enter(&self) -> Result<(), DriverError> {
        let inner = self.v1.iter().map(|(controller, dir)| match controller.as_str() {
            DEVICES => dir.join(INNER),
            _ => dir.clone(),
        });
        self.v2.iter().cloned().chain(inner).try_for_each(|dir| {
            group_make(&dir).map_err(|error| failed("cgroup", &dir, &error))?;
            set(&dir, "cgroup.procs", "0")
        })
    }

    /// Where the shim is, in version 2: by this hierarchy systemd knows which processes are a unit's.
    fn shim_dir(&self) -> Option<PathBuf> {
        self.v2.as_ref().map(|dir| {
            let mut name = dir.clone().into_os_string();
            name.push(SHIM);
            name.into()
        })
    }

    /// Puts the calling process, a shim, beside the container that it keeps. It must not stay in the group of the service: there whoever ends
    /// the service with all that is its own (`systemctl kill`) would end every shim, and with it its container.
    pub(super) fn shim_enter(&self) -> Result<(), DriverError> {
        self.shim_dir().map_or(Ok(()), |dir| {
            group_make(&dir).map_err(|error| failed("cgroup", &dir, &error))?;
            set(&dir, "cgroup.procs", "0")
        })
    }

    /// Removes the groups below that of the devices' hierarchy.
    pub(super) fn inner_remove(&self) -> Result<(), DriverError> {
        self.v1_dir(DEVICES).map_or(Ok(()), |dir| remove_tree(&dir.join(INNER)))
    }

    /// Every process in them.
    pub fn processes(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self.dirs().flat_map(|dir| processes_below(dir)).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Kills every process in them, and waits until none is left.
    ///
    /// # Errors
    /// When some do not vanish.
    pub fn kill(&self) -> Result<(), DriverError> {
        let begun = Instant::now();
        crash_point("cgroup.kill.before");
        if let Some(dir) = self.v2.as_deref().filter(|dir| dir.join("cgroup.kill").exists()) {
            set(dir, "cgroup.kill", "1")?;
        }
        // A frozen process does not die in version 1.
        self.freeze(false)?;
        loop {
            let left = self.processes();
            if left.is_empty() {
                crash_point("cgroup.kill.after");
                return Ok(());
            }
            for pid in &left {
                if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
                    // It may have ended meanwhile.
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            if begun.elapsed() > VANISH {
                return Err(DriverError::system("cgroup_kill", Errno::BUSY, format!("processes {left:?}")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Holds every process still, or lets them go on.
    ///
    /// # Errors
    /// When this machine has no freezer.
    pub fn freeze(&self, still: bool) -> Result<(), DriverError> {
        crash_point("cgroup.freeze.before");
        self.freeze_set(still)?;
        crash_point("cgroup.freeze.after");
        Ok(())
    }

    fn freeze_set(&self, still: bool) -> Result<(), DriverError> {
        if let Some(dir) = self.v2_with("cgroup.freeze") {
            return set(dir, "cgroup.freeze", if still { "1" } else { "0" });
        }
        match self.v1_dir("freezer") {
            Some(dir) if dir.exists() => set(dir, "freezer.state", if still { "FROZEN" } else { "THAWED" }),
            Some(_) => Ok(()),
            None if still => Err(DriverError::other("cgroup", "this machine has no freezer")),
            None => Ok(()),
        }
    }

    /// The file of version 2 that counts what happens for want of memory.
    pub(super) fn memory_events(&self) -> Option<PathBuf> {
        self.v2_with("memory.events").map(|dir| dir.join("memory.events"))
    }

    /// How often the kernel has killed something in them for want of memory.
    pub fn oom_kills(&self) -> u64 {
        match (self.memory_events(), self.v1_dir("memory")) {
            (Some(file), _) => oom_kills_in(&file),
            (None, Some(dir)) => oom_kills_below(dir),
            (None, None) => 0,
        }
    }

    /// Removes the groups with those that the container made in them.
    ///
    /// # Errors
    /// When a process is left in one of them.
    pub fn remove(&self) -> Result<(), DriverError> {
        crash_point("cgroup.remove.before");
        // First the one that nobody looks for by itself.
        if let Some(dir) = self.shim_dir() {
            remove_tree(&dir)?;
        }
        crash_point("cgroup.shim_remove.after");
        for dir in self.dirs() {
            remove_tree(dir)?;
            crash_point("cgroup.remove.after");
            // The last container takes the service's own groups with it; while others are there, the kernel refuses.
            for parent in dir.ancestors().skip(1).take(2) {
                let _ = fs::remove_dir(parent);
            }
        }
        Ok(())
    }
}

/// Makes a group with those above it, which another container, the last one but this, may just have taken away.
fn group_make(dir: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match fs::create_dir_all(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < 100 => tries += 1,
            done => return done,
        }
    }
}

fn oom_kills_in(file: &Path) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

/// Version 1 counts where the killed one was.
fn oom_kills_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    oom_kills_in(&dir.join("memory.oom_control")) + below.map(|entry| oom_kills_below(&entry.path())).sum::<u64>()
}

fn processes_below(dir: &Path) -> Vec<u32> {
    let own = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<u32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids.extend(processes_below(&entry.path()));
        }
    }
    pids
}

fn remove_tree(dir: &Path) -> Result<(), DriverError> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    let begun = Instant::now();
    loop {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The last process is reaped, and still counted for a moment.
            Err(error) if error.raw_os_error() == Some(16) && begun.elapsed() < VANISH => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(failed("cgroup", dir, &error)),
            Ok(()) => return Ok(()),
        }
    }
}
