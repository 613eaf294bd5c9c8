//! Block devices as targets.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, SeekFrom, flock, ioctl_blksszget, seek};
use rustix::io::Errno;

use super::{Cleanup, Opened, Shape};
use crate::error::TargetError;
use crate::sysfs::{Dev, Mount, Tree, mounts_parse, swaps_parse};
use crate::target::TargetKind;

/// `udev` holds its shared lock for as long as it probes a device; that is waited for.
const LOCK_TRIES: u32 = 60;
/// Reading a partition table and setting up a loop device claim a device for a moment.
const CLAIM_TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(50);

/// Mount points that the running system cannot do without.
const SYSTEM_MOUNTS: [&str; 7] = ["/", "/usr", "/var", "/boot", "/boot/efi", "/efi", "/boot/firmware"];

pub(super) fn open(path: &Path, shape: &Shape) -> Result<Opened, TargetError> {
    let io = |act| move |source| TargetError::Io { act, path: path.to_owned(), source };
    let dev = Dev::from_raw(fs::metadata(path).map_err(io("looking at"))?.rdev());
    let tree = Tree::at("/sys");
    use_refuse(path, dev, &tree, &Uses::now())?;
    if tree.is_read_only(dev) {
        return Err(TargetError::ReadOnly(path.to_owned()));
    }
    let file = claim(path)?;
    let meta = file.metadata().map_err(io("looking at"))?;
    if !meta.file_type().is_block_device() || Dev::from_raw(meta.rdev()) != dev {
        return Err(TargetError::Kind { path: path.to_owned(), kind: "thing that changes while it is opened" });
    }
    lock(path, &file, FlockOperation::NonBlockingLockExclusive)?;
    let size = size_fitting(path, &file, shape)?;
    // What an earlier flash wrote and did not live to flush reads back from memory and would count as there: its zeros
    // as disarmed, its data as in place.
    file.sync_data().map_err(io("flushing"))?;
    let model = tree.model(dev);
    Ok(Opened { path: path.to_owned(), kind: TargetKind::Device, file, size, model, cleanup: Cleanup::nothing() })
}

/// The device's size in bytes, once it is known that the image fits on it.
pub(super) fn size_fitting(path: &Path, file: &File, shape: &Shape) -> Result<u64, TargetError> {
    let io = |act| move |source| TargetError::Io { act, path: path.to_owned(), source };
    let sector_size = ioctl_blksszget(file).map_err(|errno| io("asking the sector size of")(errno.into()))?;
    let size = seek(file, SeekFrom::End(0)).map_err(|errno| io("asking the size of")(errno.into()))?;
    if size == 0 {
        return Err(TargetError::NoMedium(path.to_owned()));
    }
    if sector_size != shape.sector_size {
        return Err(TargetError::SectorSize { path: path.to_owned(), target: sector_size, image: shape.sector_size });
    }
    if size < shape.size {
        return Err(TargetError::TooSmall { path: path.to_owned(), size, needed: shape.size });
    }
    Ok(size)
}

/// O_EXCL on a block device is the kernel's own claim: whatever mounts, swaps or stacks holds one too.
fn claim(path: &Path) -> Result<File, TargetError> {
    let flags = OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    for _ in 0..CLAIM_TRIES {
        return match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => Ok(File::from(file)),
            Err(Errno::BUSY) => {
                sleep(PAUSE);
                continue;
            }
            Err(Errno::ROFS) => Err(TargetError::ReadOnly(path.to_owned())),
            Err(Errno::NXIO | Errno::NOMEDIUM) => Err(TargetError::NoMedium(path.to_owned())),
            Err(errno) => Err(TargetError::Io { act: "opening", path: path.to_owned(), source: errno.into() }),
        };
    }
    Err(TargetError::Busy(path.to_owned()))
}

/// `udev` leaves a device alone while this lock is held (systemd's "Locking Block Device Access").
pub(super) fn lock(path: &Path, file: &File, lock: FlockOperation) -> Result<(), TargetError> {
    for _ in 0..LOCK_TRIES {
        match flock(file, lock) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) => sleep(PAUSE),
            Err(errno) => return Err(TargetError::Io { act: "locking", path: path.to_owned(), source: errno.into() }),
        }
    }
    Err(TargetError::Locked(path.to_owned()))
}

/// A block device that is mounted.
pub(crate) struct Mounted {
    dev: Dev,
    pub(crate) at: String,
    /// Whether the file system may change what is on the device.
    writable: bool,
}

/// What the kernel uses block devices for.
pub(crate) struct Uses {
    /// Mounted devices; a mount may have two, for the device that its source names differs for btrfs.
    mounts: Vec<Mounted>,
    swaps: Vec<Dev>,
    loops: Vec<(String, Dev)>,
}

impl Uses {
    pub(crate) fn now() -> Uses {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let mut mounts = Vec::new();
        for Mount { dev, at, source, writable } in mounts_parse(&read("/proc/self/mountinfo")) {
            let named = Path::new(&source).is_absolute().then(|| Dev::of_path(Path::new(&source))).flatten();
            let named = named.filter(|named| *named != dev);
            mounts.extend(named.map(|dev| Mounted { dev, at: at.clone(), writable }));
            mounts.push(Mounted { dev, at, writable });
        }
        let swaps = swaps_parse(&read("/proc/swaps")).iter().filter_map(|path| Dev::of_path(path)).collect();
        let backed = |(name, file): (String, std::path::PathBuf)| Some((name, Dev::of_path(&file)?));
        let loops = Tree::at("/sys").loops().into_iter().filter_map(backed).collect();
        Uses { mounts, swaps, loops }
    }

    /// Where the device, or something that lies on it, is mounted.
    pub(crate) fn mounted(&self, above: &BTreeSet<Dev>) -> Option<&Mounted> {
        self.mounts.iter().find(|used| above.contains(&used.dev))
    }

    /// The same, where the file system may write.
    pub(crate) fn mounted_to_write(&self, above: &BTreeSet<Dev>) -> Option<&Mounted> {
        self.mounts.iter().find(|used| used.writable && above.contains(&used.dev))
    }
}

fn use_refuse(path: &Path, dev: Dev, tree: &Tree, uses: &Uses) -> Result<(), TargetError> {
    let path = || path.to_owned();
    let system = uses.mounts.iter().filter(|used| SYSTEM_MOUNTS.contains(&used.at.as_str()));
    for used in system {
        if tree.below(used.dev).contains(&dev) {
            return Err(TargetError::System { path: path(), at: used.at.clone() });
        }
    }
    let above = tree.above(dev);
    if let Some(used) = uses.mounted(&above) {
        return Err(TargetError::Mounted { path: path(), device: tree.name(used.dev), at: used.at.clone() });
    }
    if let Some(swap) = uses.swaps.iter().find(|swap| above.contains(swap)) {
        return Err(TargetError::Swap { path: path(), device: tree.name(*swap) });
    }
    for part in &above {
        if let Some(holder) = tree.holders(*part).first() {
            return Err(TargetError::Held { path: path(), device: tree.name(*part), holder: tree.name(*holder) });
        }
    }
    // A loop device over the whole disk holds no claim, and reaches its partitions too.
    let whole = tree.disk_of(dev);
    match uses.loops.iter().find(|(_, backing)| above.contains(backing) || whole == Some(*backing)) {
        Some((holder, device)) => {
            Err(TargetError::Held { path: path(), device: tree.name(*device), holder: holder.clone() })
        }
        None => Ok(()),
    }
}
