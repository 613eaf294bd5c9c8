//! Regular files as targets.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::{Cleanup, Opened, Shape, TargetOptions};
use crate::error::TargetError;
use crate::sysfs::{Tree, swaps_parse};
use crate::target::TargetKind;

pub(super) fn create(path: &Path, shape: &Shape) -> Result<Opened, TargetError> {
    let io = |act| move |source| TargetError::Io { act, path: path.to_owned(), source };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file =
        rustix::fs::open(path, flags, Mode::from_raw_mode(0o666)).map_err(|errno| io("creating")(errno.into()))?;
    let file = File::from(file);
    let meta = file.metadata().map_err(io("looking at"))?;
    // From here on an error removes it again.
    let cleanup = Cleanup::created(path, &meta);
    lock(path, &file, FlockOperation::NonBlockingLockExclusive)?;
    file.set_len(shape.size).map_err(io("setting the size of"))?;
    Ok(Opened { path: path.to_owned(), kind: TargetKind::File, file, size: shape.size, model: None, cleanup })
}

pub(super) fn open(path: &Path, shape: &Shape, options: &TargetOptions) -> Result<Opened, TargetError> {
    let io = |act| move |source| TargetError::Io { act, path: path.to_owned(), source };
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::ROFS) => return Err(TargetError::ReadOnly(path.to_owned())),
        Err(Errno::TXTBSY) => return Err(TargetError::Busy(path.to_owned())),
        Err(errno) => return Err(io("opening")(errno.into())),
    };
    let meta = file.metadata().map_err(io("looking at"))?;
    if !meta.is_file() {
        // It was replaced between the look and the opening.
        return Err(TargetError::Kind { path: path.to_owned(), kind: "thing that changes while it is opened" });
    }
    lock(path, &file, FlockOperation::NonBlockingLockExclusive)?;
    use_refuse(path, meta.dev(), meta.ino())?;
    // Data not yet on the disk may not yet be seen by SEEK_DATA.
    file.sync_data().map_err(io("flushing"))?;
    let mut cleanup = Cleanup::nothing();
    let mut size = file.metadata().map_err(io("looking at"))?.len();
    if size < shape.size {
        if !options.grow {
            return Err(TargetError::TooSmall { path: path.to_owned(), size, needed: shape.size });
        }
        let again = file.try_clone().map_err(io("opening"))?;
        cleanup = Cleanup::grown(again, size);
        file.set_len(shape.size).map_err(io("setting the size of"))?;
        size = shape.size;
    }
    Ok(Opened { path: path.to_owned(), kind: TargetKind::File, file, size, model: None, cleanup })
}

pub(super) fn lock(path: &Path, file: &File, lock: FlockOperation) -> Result<(), TargetError> {
    match flock(file, lock) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(TargetError::Locked(path.to_owned())),
        // Some network file systems have no locks; two flashes at once are then the user's care.
        Err(Errno::OPNOTSUPP | Errno::NOLCK | Errno::NOSYS) => Ok(()),
        Err(errno) => Err(TargetError::Io { act: "locking", path: path.to_owned(), source: errno.into() }),
    }
}

/// Refuses a file that the kernel uses: as swap space, or behind a loop device.
fn use_refuse(path: &Path, dev: u64, ino: u64) -> Result<(), TargetError> {
    let same = |other: &Path| fs::metadata(other).is_ok_and(|meta| meta.dev() == dev && meta.ino() == ino);
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    if let Some(swap) = swaps_parse(&swaps).into_iter().find(|swap| same(swap)) {
        return Err(TargetError::Swap { path: path.to_owned(), device: swap.display().to_string() });
    }
    if let Some((holder, file)) = Tree::at("/sys").loops().into_iter().find(|(_, file)| same(file)) {
        let device = file.display().to_string();
        return Err(TargetError::Held { path: path.to_owned(), device, holder });
    }
    Ok(())
}
