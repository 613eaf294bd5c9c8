//! Several trees as one.

use super::mountpoint::Mountpoint;
use super::{folder_make, io_error, mountinfo, system};
use crate::crash::crash_point;
use crate::object::Proof;
use crate::refusal::DriverError;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use slipway_api::node::MountOverlay;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

/// The kernel takes options of one page.
const OPTIONS_MAX: usize = 4095;

/// Where changes go.
#[derive(Clone, Debug)]
pub(super) struct Dirs {
    /// Removed with the overlay.
    pub(super) own: PathBuf,
    /// Kept under a name.
    pub(super) kept: Option<PathBuf>,
}

pub(super) fn make(at: &Mountpoint, dirs: &Dirs, block: &MountOverlay, on: &[Proof]) -> Result<Proof, DriverError> {
    let made = mounted(at, dirs, block, on);
    if made.is_err() {
        at.remove();
        if let Err(error) = dirs_remove(dirs) {
            tracing::warn!(%error, "clearing away an overlay that did not come about");
        }
    }
    made
}

fn mounted(at: &Mountpoint, dirs: &Dirs, block: &MountOverlay, on: &[Proof]) -> Result<Proof, DriverError> {
    name_check(&block.persist)?;
    let mut lowers: Vec<String> = on.iter().map(|proof| proof.mountpoint.clone()).collect();
    let mut proof = at.proof();
    let mut options = String::new();
    folder_make(&dirs.own)?;
    if block.ro {
        if lowers.len() == 1 {
            // Without a place for changes the kernel wants two trees at least.
            let empty = dirs.own.join("empty");
            folder_make(&empty)?;
            lowers.push(empty.display().to_string());
        }
    } else {
        if block.size > 0 && dirs.kept.is_none() {
            let data = CString::new(format!("size={},mode=0700", block.size)).unwrap_or_default();
            crash_point("overlay.tmpfs.before");
            mount("tmpfs", &dirs.own, "tmpfs", MountFlags::empty(), data.as_c_str())
                .map_err(|errno| system("mount", &dirs.own, errno))?;
            crash_point("overlay.tmpfs.after");
        }
        let place = dirs.kept.as_ref().unwrap_or(&dirs.own);
        let (upper, work) = (place.join("upper"), place.join("work"));
        crash_point("overlay.upper.before");
        for dir in [&upper, &work] {
            folder_make(dir)?;
        }
        // What is at the top of the tree is what its lowest layer says, not our 0700.
        permissions_copy(Path::new(&lowers[0]), &upper)?;
        crash_point("overlay.upper.after");
        options = format!(",upperdir={},workdir={}", upper.display(), work.display());
        proof.detail.insert("upperdir".to_owned(), upper.display().to_string().into());
        proof.detail.insert("workdir".to_owned(), work.display().to_string().into());
    }
    let data = format!("lowerdir={}{options}", lowers.join(":"));
    if data.len() > OPTIONS_MAX {
        let text = format!("{} lower mounts are more than the kernel takes at once", on.len());
        return Err(DriverError::request("mount", text));
    }
    at.prepare(true)?;
    let data = CString::new(data).map_err(|_| DriverError::request("mount", "a path has a NUL in it"))?;
    let flags = if block.ro { MountFlags::RDONLY } else { MountFlags::empty() };
    crash_point("overlay.mount.before");
    mount("overlay", at.path(), "overlay", flags, data.as_c_str())
        .map_err(|errno| system("mount", at.path(), errno))?;
    crash_point("overlay.mount.after");
    Ok(proof)
}

fn name_check(name: &str) -> Result<(), DriverError> {
    let good = name.len() <= 64
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    match good {
        true => Ok(()),
        false => Err(DriverError::request(
            "persist",
            format!(
                "'{}' is no name: letters, digits, '.', '_' and '-', at most 64, no dot first",
                name.escape_debug()
            ),
        )),
    }
}

fn permissions_copy(from: &Path, to: &Path) -> Result<(), DriverError> {
    let facts = fs::metadata(from).map_err(|error| io_error("stat", from, &error))?;
    fs::set_permissions(to, facts.permissions()).map_err(|error| io_error("chmod", to, &error))
}

/// Removes what is not kept.
pub(super) fn dirs_remove(dirs: &Dirs) -> Result<(), DriverError> {
    if mountinfo::mounts()?.iter().any(|mount| mount.path == dirs.own) {
        crash_point("overlay.tmpfs_unmount.before");
        unmount(&dirs.own, UnmountFlags::NOFOLLOW).map_err(|errno| system("umount", &dirs.own, errno))?;
        crash_point("overlay.tmpfs_unmount.after");
    }
    crash_point("overlay.dirs_remove.before");
    match fs::remove_dir_all(&dirs.own) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("rmdir", &dirs.own, &error)),
        _ => {
            crash_point("overlay.dirs_remove.after");
            Ok(())
        }
    }
}
