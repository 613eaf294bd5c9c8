//! A directory or file of the node, or of another mount, in a second place.

use super::mountpoint::Mountpoint;
use super::{base_of, beneath, syscall, system};
use crate::crash::crash_point;
use crate::object::Proof;
use crate::refusal::DriverError;
use rustix::fs::{FileType, OFlags};
use rustix::mount::{OpenTreeFlags, open_tree};
use slipway_api::node::{Base, MountBind};
use std::path::Path;

pub(super) fn make(at: &Mountpoint, block: &MountBind, on: Option<&Proof>) -> Result<Proof, DriverError> {
    let root = match block.base {
        Base::Root => Path::new("/"),
        Base::Mount => base_of(on),
    };
    let what = Path::new(&block.path);
    let from = beneath::open(root, &block.path, OFlags::PATH)?;
    let facts = rustix::fs::fstat(&from).map_err(|errno| system("stat", what, errno))?;
    let is_dir = FileType::from_raw_mode(facts.st_mode) == FileType::Directory;
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if block.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(&from, "", flags).map_err(|errno| system("open_tree", what, errno))?;
    crash_point("bind.clone.after");
    if block.ro {
        // Before it is anywhere, so that nobody ever sees it writable.
        syscall::mount_read_only(&tree, block.recursive).map_err(|errno| system("mount_setattr", what, errno))?;
        crash_point("bind.read_only.after");
    }
    at.prepare(is_dir)?;
    at.put(tree)
}
