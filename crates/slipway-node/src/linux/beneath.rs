//! Paths that cannot leave the tree that they begin in, whatever `..` and symlinks they, or the tree, have.

use super::system;
use crate::refusal::DriverError;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Opens `path` within `root`. What it names may be a directory or a file, never a device's or process' magic link.
///
/// # Errors
/// 400 when there is nothing of that name, else what the system said.
pub(crate) fn open(root: &Path, path: &str, flags: OFlags) -> Result<OwnedFd, DriverError> {
    let top = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| system("open", root, errno))?;
    if path.contains('\0') {
        return Err(DriverError::request("open", format!("'{}' has a NUL in it", path.escape_debug())));
    }
    let inside = path.trim_start_matches('/');
    let inside = if inside.is_empty() { "." } else { inside };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(&top, inside, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Ok(file) => return Ok(file),
            // Something was renamed on the way.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG)) => {
                let mut error = system("open", &root.join(inside), errno);
                error.status = 400;
                return Err(error);
            }
            Err(errno) => return Err(system("open", &root.join(inside), errno)),
        }
    }
}
