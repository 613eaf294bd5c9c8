//! Sessions and their units, as the kernel shows them. A disk is found by its session and number, never by its name.

use crate::linux::{io_error, sysfs_read, sysfs_write};
use crate::refusal::DriverError;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SESSIONS: &str = "/sys/class/iscsi_session";
const DEVICES: &str = "/sys/class/scsi_device";
const LOOK: Duration = Duration::from_millis(10);
/// How long a disk may take from its unit's first answer to its device file.
const DISK_WAIT: Duration = Duration::from_secs(10);
/// How long the kernel may take to take a unit or a session away that nobody uses.
const GONE_WAIT: Duration = Duration::from_secs(10);

/// A session of the kernel.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// Its number.
    pub(super) sid: u64,
    /// The name of the interface that it was opened through.
    pub(super) iface: String,
    host: u64,
    target: u64,
}

/// Every session that was opened through an interface whose name begins so.
pub(super) fn sessions(prefix: &str) -> Result<Vec<Session>, DriverError> {
    let top = Path::new(SESSIONS);
    let entries = match fs::read_dir(top) {
        Ok(entries) => entries,
        // The kernel has no iSCSI so far.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("readdir", top, &error)),
    };
    // One that goes while it is looked at is not there.
    Ok(entries
        .flatten()
        .filter_map(|entry| session(&entry.path()))
        .filter(|one| one.iface.starts_with(prefix))
        .collect())
}

fn session(path: &Path) -> Option<Session> {
    let sid = path.file_name()?.to_str()?.strip_prefix("session")?.parse().ok()?;
    let iface = sysfs_read(&path.join("ifacename"))?;
    let target = sysfs_read(&path.join("target_id"))?.parse().ok()?;
    // …/host3/session7/iscsi_session/session7
    let place = fs::canonicalize(path).ok()?;
    let host = place.iter().find_map(|part| part.to_str()?.strip_prefix("host")?.parse().ok())?;
    Some(Session { sid, iface, host, target })
}

impl Session {
    /// A value of it; none when it is gone, or the value has never been set.
    pub(super) fn value(&self, name: &str) -> Option<String> {
        sysfs_read(&Path::new(SESSIONS).join(format!("session{}", self.sid)).join(name))
            .filter(|value| value != "(null)")
    }

    /// Whether its connection stands.
    pub(super) fn is_up(&self) -> bool {
        self.value("state").as_deref() == Some("LOGGED_IN")
    }

    /// Makes requests wait so long for a connection that is lost. A daemon that took the session over without a record of it has set its
    /// own default.
    pub(super) fn dead_timeout(&self, seconds: u64) -> Result<(), DriverError> {
        let wanted = seconds.to_string();
        if self.value("recovery_tmo").is_none_or(|now| now == wanted) {
            return Ok(());
        }
        sysfs_write("recovery_tmo", &Path::new(SESSIONS).join(format!("session{}/recovery_tmo", self.sid)), &wanted)
    }

    /// Waits until its connection stands.
    pub(super) fn up_wait(&self, until: Instant) -> bool {
        wait(until, || self.is_up())
    }

    /// Host, channel, target and unit, as the kernel names a device.
    pub(super) fn address(&self, lun: u64) -> String {
        format!("{}:0:{}:{lun}", self.host, self.target)
    }

    fn unit(&self, lun: u64) -> PathBuf {
        Path::new(DEVICES).join(self.address(lun)).join("device")
    }

    /// Whether the kernel has this unit.
    pub(super) fn has(&self, lun: u64) -> bool {
        self.unit(lun).exists()
    }

    /// The name of a unit's disk.
    pub(super) fn disk(&self, lun: u64) -> Option<String> {
        let disk = fs::read_dir(self.unit(lun).join("block")).ok()?.flatten().next()?;
        disk.file_name().into_string().ok()
    }

    /// The numbers of all its units.
    fn units(&self) -> Vec<u64> {
        let prefix = self.address(0).trim_end_matches('0').to_owned();
        let entries = fs::read_dir(DEVICES).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix(&prefix)?.parse().ok()).collect()
    }

    /// The names of all its disks.
    pub(super) fn disks(&self) -> Vec<String> {
        self.units().into_iter().filter_map(|lun| self.disk(lun)).collect()
    }

    /// Has the kernel look for one unit and nothing else, and gives the name of its disk.
    pub(super) fn scan(&self, lun: u64, until: Instant) -> Result<String, DriverError> {
        let scan = PathBuf::from(format!("/sys/class/scsi_host/host{}/scan", self.host));
        sysfs_write("scan", &scan, &format!("0 {} {lun}", self.target))?;
        let target = self.value("targetname").unwrap_or_default();
        if !self.has(lun) {
            let text = format!(
                "the target {target} has no unit {lun}, or does not show it to this initiator; check lun, initiator and the target's access list"
            );
            return Err(DriverError::other("scan", text));
        }
        // The kernel makes the device file first and the queue, which is set next, last.
        let is_whole = |disk: &String| {
            Path::new("/dev").join(disk).exists()
                && Path::new("/sys/block").join(disk).join("queue/rotational").exists()
        };
        let found = || self.disk(lun).filter(is_whole);
        if wait((Instant::now() + DISK_WAIT).min(until), || found().is_some())
            && let Some(disk) = found()
        {
            return Ok(disk);
        }
        let kind = sysfs_read(&self.unit(lun).join("type")).unwrap_or_default();
        let text = match kind.as_str() {
            "0" => format!("no disk came for unit {lun} of {target} in time; is the kernel module sd_mod there?"),
            _ => format!("unit {lun} of {target} is no disk (SCSI type {kind})"),
        };
        Err(DriverError::other("scan", text))
    }

    /// Sets how many requests of a unit are under way at once.
    pub(super) fn queue_depth(&self, lun: u64, depth: u64) -> Result<(), DriverError> {
        sysfs_write("queue_depth", &self.unit(lun).join("queue_depth"), &depth.to_string())
    }

    /// Takes a unit away and waits until it is gone.
    pub(super) fn remove(&self, lun: u64) -> Result<(), DriverError> {
        let unit = self.unit(lun);
        if !unit.exists() {
            return Ok(());
        }
        match sysfs_write("delete", &unit.join("delete"), "1") {
            Err(error) if unit.exists() => return Err(error),
            Ok(()) | Err(_) => {}
        }
        match wait(Instant::now() + GONE_WAIT, || !unit.exists() && !self.units().contains(&lun)) {
            true => Ok(()),
            false => {
                let text = format!("the kernel still has the unit {} after {GONE_WAIT:?}", self.address(lun));
                Err(DriverError::timed_out("delete", text))
            }
        }
    }

    /// Waits until the session is gone, and its units, which the kernel takes away a moment later.
    pub(super) fn gone_wait(&self) -> bool {
        let path = Path::new(SESSIONS).join(format!("session{}", self.sid));
        wait(Instant::now() + GONE_WAIT, || !path.exists() && self.units().is_empty())
    }
}

fn wait(until: Instant, is_so: impl Fn() -> bool) -> bool {
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}
