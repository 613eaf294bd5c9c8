//! Where mounts of ours are: `mounts/KIND-NUMBER` in the run directory, so that the name alone says what to do with it.

use super::holders::mount_holders;
use super::{folder_make, io_error, mountinfo, syscall, system};
use crate::crash::crash_point;
use crate::kernel::Found;
use crate::object::{Driver, Proof};
use crate::refusal::DriverError;
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};
use slipway_api::node::{MountKind, ObjectId};
use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the kernel may say farewell to a server that does not answer.
const CUT_OFF_LIMIT: Duration = Duration::from_secs(2);

/// A place for one mount.
#[derive(Clone, Debug)]
pub(super) struct Mountpoint(PathBuf);

impl Mountpoint {
    pub(super) fn new(mounts: &Path, id: ObjectId, kind: MountKind) -> Self {
        Self(mounts.join(format!("{}-{id}", kind.as_str())))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the directory, or the file, that is mounted on.
    pub(super) fn prepare(&self, is_dir: bool) -> Result<(), DriverError> {
        crash_point("mountpoint.prepare.before");
        match is_dir {
            true => folder_make(&self.0)?,
            false => fs::File::create(&self.0).map(drop).map_err(|error| io_error("create", &self.0, &error))?,
        }
        crash_point("mountpoint.prepare.after");
        Ok(())
    }

    /// Attaches a mount that is nowhere yet.
    pub(super) fn put(&self, tree: impl AsFd) -> Result<Proof, DriverError> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        crash_point("mountpoint.put.before");
        move_mount(tree, "", rustix::fs::CWD, &self.0, flags).map_err(|errno| system("move_mount", &self.0, errno))?;
        crash_point("mountpoint.put.after");
        Ok(self.proof())
    }

    pub(super) fn proof(&self) -> Proof {
        Proof { mountpoint: self.0.display().to_string(), ..Proof::default() }
    }

    fn is_mounted(&self) -> Result<bool, DriverError> {
        Ok(mountinfo::mounts()?.iter().any(|mount| mount.path == self.0))
    }

    /// What the file system that is on top there says of itself; none if nothing is mounted.
    pub(super) fn options(&self) -> Result<Option<String>, DriverError> {
        let on_top = mountinfo::mounts()?.into_iter().rfind(|mount| mount.path == self.0);
        Ok(on_top.map(|mount| mount.options))
    }

    /// Takes it away although its server is gone: what waits for the server ends with an error, what was not written is lost.
    ///
    /// # Errors
    /// Busy, if somebody uses it; then nothing was cut off.
    pub(super) fn unmount_cut_off(&self) -> Result<(), DriverError> {
        let path = CString::new(self.0.as_os_str().as_bytes()).map_err(|_| DriverError::other("umount", "a NUL"))?;
        while self.is_mounted()? {
            // Marks a mount that nobody uses, and refuses one that somebody does: the kernel's only question that has no effect on those
            // who use it. The mark means nothing to the next unmount.
            if unmount(&self.0, UnmountFlags::NOFOLLOW | UnmountFlags::EXPIRE) == Err(Errno::BUSY) {
                return Err(system("umount", &self.0, Errno::BUSY).held_by(mount_holders(&self.0)));
            }
            match syscall::unmount_apart(&path, UnmountFlags::NOFOLLOW | UnmountFlags::FORCE, CUT_OFF_LIMIT) {
                Ok(()) | Err(Errno::TIMEDOUT) => {}
                Err(errno) => return Err(system("umount", &self.0, errno)),
            }
        }
        self.unmount()
    }

    /// Takes it away, or says who keeps it. That it is not mounted, or not there, is success.
    pub(super) fn unmount(&self) -> Result<(), DriverError> {
        while self.is_mounted()? {
            crash_point("mountpoint.unmount.before");
            match unmount(&self.0, UnmountFlags::NOFOLLOW) {
                Ok(()) => crash_point("mountpoint.unmount.after"),
                Err(errno @ Errno::BUSY) => {
                    return Err(system("umount", &self.0, errno).held_by(mount_holders(&self.0)));
                }
                Err(errno) => return Err(system("umount", &self.0, errno)),
            }
        }
        crash_point("mountpoint.remove.before");
        let gone = match fs::symlink_metadata(&self.0) {
            Ok(facts) if facts.is_dir() => fs::remove_dir(&self.0),
            Ok(_) => fs::remove_file(&self.0),
            Err(error) => Err(error),
        };
        match gone {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("rmdir", &self.0, &error)),
            _ => {
                crash_point("mountpoint.remove.after");
                Ok(())
            }
        }
    }

    /// After a mount that did not come about. What does not go now is found and removed at the next start.
    pub(super) fn remove(&self) {
        if let Err(error) = self.unmount() {
            tracing::warn!(%error, "clearing away a mount that did not come about");
        }
    }
}

/// Every place of ours, whether something is mounted there or not.
pub(super) fn found(mounts: &Path) -> Result<Vec<Found>, DriverError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(mounts).map_err(|error| io_error("readdir", mounts, &error))? {
        let path = entry.map_err(|error| io_error("readdir", mounts, &error))?.path();
        let named = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.rsplit_once('-'));
        let Some((kind, id)) = named else { continue };
        let kind = MountKind::ALL.iter().find(|known| known.as_str() == kind);
        if let (Some(kind), Ok(id)) = (kind, id.parse()) {
            let proof = Mountpoint(path.clone()).proof();
            found.push(Found { id, driver: Driver::Mount(*kind), proof });
        }
    }
    Ok(found)
}
