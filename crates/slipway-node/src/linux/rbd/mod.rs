//! Images of a Ceph cluster as block devices, by the kernel's own client.
//!
//! A map has no place for a mark but the name of its key: `key=slipway-…-ID`, which the kernel shows in the map's `config_info`. The key
//! itself is in the keyring of the one thread that asks for the map, is read while the kernel does, and is revoked and gone after it.

mod options;

use super::holders::disk_holders;
use super::{io_error, program, syscall, sysfs_read, system};
use crate::crash::crash_point;
use crate::kernel::Found;
use crate::object::{Driver, Proof};
use crate::refusal::{DriverError, object_holder};
use base64::Engine;
use rustix::fs::OFlags;
use rustix::io::Errno;
use slipway_api::node::{AttachKind, AttachRbd, Holder, ObjectId};
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const BUS: &str = "/sys/bus/rbd";
/// Ends the key's name of a map that is to be unmapped by force.
const FORCE: &str = "-force";
/// A Ceph key has 28 bytes; no kind of it has more.
const KEY_MAX: usize = 256;
/// How long a device file may take to be there.
const DEVICE_WAIT: Duration = Duration::from_secs(5);
/// How often, and how long between, a device is tried again that somebody only looks at.
const LOOKS: usize = 50;
const LOOK: Duration = Duration::from_millis(10);

pub(super) fn make(mark: &str, block: &AttachRbd, patience: Duration) -> Result<Proof, DriverError> {
    let wanted = block.options.clone().unwrap_or_default();
    let name = format!("{mark}{}", if wanted.force { FORCE } else { "" });
    let line = options::line(block, &name, patience)?;
    program::module_need("rbd", Path::new(BUS), Instant::now() + patience)?;
    let map = {
        let _key = Key::add(&name, &wanted.secret, Instant::now() + patience)?;
        crash_point("rbd.map.before");
        bus_write(&["add_single_major", "add"], &line).map_err(|errno| refused(block, errno)).and_then(|()| {
            crash_point("rbd.map.after");
            let gone = || DriverError::other("map", "the kernel mapped the image, but does not show it");
            marked(mark)?.ok_or_else(gone)
        })
    };
    let map = match map {
        Ok(map) => map,
        Err(error) => {
            // A map that was given up may be there after all.
            if let Err(left) = undo(mark) {
                tracing::warn!(%left, "unmapping what was not mapped in whole");
            }
            return Err(error);
        }
    };
    match map.alone_check().and_then(|()| map.device_wait()) {
        Ok(()) => Ok(map.proof()),
        Err(error) => {
            undo(mark)?;
            Err(error)
        }
    }
}

/// Removes the map of a mark: by the mark alone, since the number in our notes may be another's by now.
pub(super) fn undo(mark: &str) -> Result<(), DriverError> {
    let Some(map) = marked(mark)? else { return Ok(()) };
    let line = format!("{}{}", map.number, if map.is_forced() { " force" } else { "" });
    crash_point("rbd.unmap.before");
    for look in 0.. {
        match bus_write(&["remove_single_major", "remove"], &line) {
            // Somebody else was faster.
            Ok(()) | Err(Errno::NOENT) => {
                crash_point("rbd.unmap.after");
                return Ok(());
            }
            // What only looks at a device, such as udev, is gone in a moment.
            Err(Errno::BUSY) if look < LOOKS => std::thread::sleep(LOOK),
            Err(errno) => {
                let device = map.device();
                let holders = if errno == Errno::BUSY { disk_holders(&device) } else { Vec::new() };
                return Err(system("unmap", &device, errno).held_by(holders));
            }
        }
    }
    Ok(())
}

pub(super) fn found(tag: &str) -> Result<Vec<Found>, DriverError> {
    let found = maps()?.into_iter().filter_map(|map| {
        let id = map.key()?.strip_prefix(tag)?.trim_end_matches(FORCE).parse().ok()?;
        Some(Found { id, driver: Driver::Attach(AttachKind::Rbd), proof: map.proof() })
    });
    Ok(found.collect())
}

/// A key in the keyring of this thread, until it is dropped.
struct Key(i32);

impl Key {
    fn add(name: &str, secret: &str, until: Instant) -> Result<Self, DriverError> {
        let wrong =
            || DriverError::request("key", "rbd.options.secret is no Ceph key as 'ceph auth get-key' prints it");
        let mut payload = base64::engine::general_purpose::STANDARD.decode(secret).map_err(|_| wrong())?;
        if payload.is_empty() || payload.len() > KEY_MAX {
            return Err(wrong());
        }
        let name = CString::new(name).map_err(|_| wrong())?;
        let mut added = syscall::key_add(c"ceph", &name, &payload);
        if added == Err(Errno::NOENT) {
            // The kernel could not find AES, and perhaps cannot load modules by itself.
            if let Ok(modprobe) = program::find("modprobe", "kmod") {
                // What is built in, or not there, is seen by the next try.
                let _ = program::run(&modprobe, &["-q", "-a", "aes_generic", "cbc"], until);
            }
            added = syscall::key_add(c"ceph", &name, &payload);
        }
        payload.fill(0);
        added.map(Self).map_err(|errno| match errno {
            Errno::INVAL => wrong(),
            Errno::NOENT => {
                DriverError::system("key", errno, "the kernel has no cbc(aes); load the modules aes_generic and cbc")
            }
            Errno::NODEV => {
                DriverError::system("key", errno, "the kernel has no keys for Ceph; load the module libceph")
            }
            _ => DriverError::system("key", errno, "adding the key to the kernel's keyring"),
        })
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        syscall::key_remove(self.0);
    }
}

/// Why the kernel did not map, in words that say what to do.
fn refused(block: &AttachRbd, errno: Errno) -> DriverError {
    let options = block.options.clone().unwrap_or_default();
    let image = spec(&block.pool, &options.namespace, &block.image, options::snapshot(block));
    let (name, monitors) = (&options.name, block.monitors.join(", "));
    let text = match errno {
        Errno::NOENT => format!("{image} is not there; check pool, namespace, image and snapshot"),
        Errno::INVAL | Errno::ACCESS | Errno::PERM => format!(
            "{image}: the cluster does not accept the key of client.{name}, or does not let it do this; or an option is unknown to this kernel, or wants a feature that the image does not have. Check 'ceph auth get client.{name}'; the kernel's log may say more"
        ),
        Errno::NXIO => format!(
            "{image} has features that this kernel does not know; the kernel's log names them, 'rbd feature disable' takes them away"
        ),
        Errno::TIMEDOUT | Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::IO => {
            format!("{image}: no monitor answered in time of {monitors}; check that they are right and can be reached")
        }
        Errno::ROFS => format!("{image} can only be read; ask for it with options.ro"),
        Errno::BUSY => format!("{image} is locked by another client"),
        _ => image,
    };
    DriverError::system("map", errno, text)
}

fn spec(pool: &str, namespace: &str, image: &str, snapshot: &str) -> String {
    let namespace = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
    let snapshot = if snapshot == "-" { String::new() } else { format!("@{snapshot}") };
    format!("{pool}/{namespace}{image}{snapshot}")
}

/// Writes to the first of these files that the kernel has.
fn bus_write(files: &[&str], line: &str) -> Result<(), Errno> {
    let path = files.iter().map(|file| Path::new(BUS).join(file)).find(|path| path.exists()).ok_or(Errno::NODEV)?;
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    rustix::io::write(&file, line.as_bytes()).map(drop)
}

/// A map that the kernel has.
struct Map {
    number: u64,
    path: PathBuf,
}

fn maps() -> Result<Vec<Map>, DriverError> {
    let top = Path::new(BUS).join("devices");
    let entries = match fs::read_dir(&top) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("readdir", &top, &error)),
    };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(numbers.map(|number: u64| Map { number, path: top.join(number.to_string()) }).collect())
}

fn marked(mark: &str) -> Result<Option<Map>, DriverError> {
    Ok(maps()?.into_iter().find(|map| map.key().is_some_and(|key| key.strip_suffix(FORCE).unwrap_or(&key) == mark)))
}

impl Map {
    fn value(&self, name: &str) -> String {
        sysfs_read(&self.path.join(name)).unwrap_or_default()
    }

    /// The name of the key that it was mapped with.
    fn key(&self) -> Option<String> {
        let line = self.value("config_info");
        let options = line.split(' ').nth(1)?;
        options.split(',').find_map(|option| option.strip_prefix("key=")).map(str::to_owned)
    }

    fn is_forced(&self) -> bool {
        self.key().is_some_and(|key| key.ends_with(FORCE))
    }

    fn device(&self) -> PathBuf {
        PathBuf::from(format!("/dev/rbd{}", self.number))
    }

    fn writes(&self) -> bool {
        sysfs_read(Path::new(&format!("/sys/block/rbd{}/ro", self.number))).as_deref() == Some("0")
    }

    /// What it is a map of.
    fn of(&self) -> [String; 5] {
        ["cluster_fsid", "pool", "pool_ns", "name", "current_snap"].map(|name| self.value(name))
    }

    /// Any number of maps of one image on one node may be read; one that writes is alone.
    fn alone_check(&self) -> Result<(), DriverError> {
        let of = self.of();
        let other = maps()?
            .into_iter()
            .find(|other| other.number != self.number && other.of() == of && (other.writes() || self.writes()));
        let Some(other) = other else { return Ok(()) };
        let text = format!(
            "{} is mapped on this node already, as {}, and one of both may write; refer to it by its id, or map both with options.ro",
            spec(&of[1], &of[2], &of[3], &of[4]),
            other.device().display()
        );
        Err(DriverError::busy("map", text).held_by(vec![other.holder()]))
    }

    /// Whose it is: an object of ours, or the device of somebody else.
    fn holder(&self) -> Holder {
        let id: Option<ObjectId> = self
            .key()
            .filter(|key| key.starts_with("slipway-"))
            .and_then(|key| key.trim_end_matches(FORCE).rsplit('-').next()?.parse().ok());
        match id {
            Some(id) => object_holder("attach", id),
            None => Holder::Device { name: format!("rbd{}", self.number) },
        }
    }

    fn device_wait(&self) -> Result<(), DriverError> {
        let until = Instant::now() + DEVICE_WAIT;
        while !self.device().exists() {
            if Instant::now() >= until {
                let text = format!("{} did not appear within {DEVICE_WAIT:?}", self.device().display());
                return Err(DriverError::timed_out("map", text));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn proof(&self) -> Proof {
        let mut proof = Proof { device: self.device().display().to_string(), ..Proof::default() };
        proof.detail.insert("device_id".into(), self.number.into());
        proof
    }
}
