//! Files and block devices that are only to be compared.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{Cleanup, Opened, Shape, device, device_mount, file, file_mount, kind_said};
use crate::error::TargetError;
use crate::sysfs::{Dev, Tree};
use crate::target::TargetKind;

/// Opens what the path leads to for reading, and says where it is mounted.
pub(super) fn open(path: &Path, shape: &Shape) -> Result<(Opened, Option<String>), TargetError> {
    let io = |act| move |source| TargetError::Io { act, path: path.to_owned(), source };
    let real = match real(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(TargetError::Missing(path.to_owned())),
        other => other.map_err(io("looking at"))?,
    };
    kind(path, &fs::metadata(&real).map_err(io("looking at"))?)?;
    // O_NONBLOCK: what has become a pipe meanwhile would hold us up before we see that it is one.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(&real, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NXIO | Errno::NOMEDIUM) => return Err(TargetError::NoMedium(real)),
        Err(errno) => return Err(io("opening")(errno.into())),
    };
    let meta = file.metadata().map_err(io("looking at"))?;
    let shared = FlockOperation::NonBlockingLockShared;
    let (kind, size, model, mounted_at) = match kind(path, &meta)? {
        TargetKind::Device => {
            let dev = Dev::from_raw(meta.rdev());
            device::lock(&real, &file, shared)?;
            let size = device::size_fitting(&real, &file, shape)?;
            (TargetKind::Device, size, Tree::at("/sys").model(dev), device_mount(dev))
        }
        TargetKind::File => {
            file::lock(&real, &file, shared)?;
            (TargetKind::File, meta.len(), None, file_mount(&meta))
        }
    };
    flush(&file).map_err(io("flushing"))?;
    if size < shape.size {
        return Err(TargetError::TooSmall { path: real, size, needed: shape.size });
    }
    Ok((Opened { path: real, kind, file, size, model, cleanup: Cleanup::nothing() }, mounted_at))
}

/// Where the path leads, if its last part is a link.
fn real(path: &Path) -> io::Result<PathBuf> {
    match fs::symlink_metadata(path)?.file_type().is_symlink() {
        true => fs::canonicalize(path),
        false => Ok(path.to_owned()),
    }
}

fn kind(path: &Path, meta: &Metadata) -> Result<TargetKind, TargetError> {
    match meta.file_type() {
        kind if kind.is_file() => Ok(TargetKind::File),
        kind if kind.is_block_device() => Ok(TargetKind::Device),
        kind => Err(TargetError::Kind { path: path.to_owned(), kind: kind_said(kind) }),
    }
}

/// What is only in memory is neither read past the page cache nor seen by SEEK_DATA. Where we may not flush, on a
/// read-only device or file system, nothing waits to be.
fn flush(file: &File) -> io::Result<()> {
    match rustix::fs::fdatasync(file) {
        Err(Errno::ROFS | Errno::INVAL | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
