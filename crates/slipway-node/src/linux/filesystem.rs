//! The file system of a device, of any type that the kernel has.

use super::mountpoint::Mountpoint;
use super::{syscall, system};
use crate::crash::crash_point;
use crate::object::Proof;
use crate::refusal::DriverError;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};
use slipway_api::node::MountAttach;
use std::path::Path;

/// What a mount is asked for, taken apart: flags of the mount, and options of the file system.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) attr: u32,
    /// `key` or `key=value`, as the file system takes them.
    pub(super) own: Vec<String>,
}

/// Words of mount(8) that are flags of the mount. Those that only undo a default are accepted and mean nothing.
const FLAGS: &[(&str, MountAttrFlags)] = &[
    ("ro", MountAttrFlags::MOUNT_ATTR_RDONLY),
    ("nosuid", MountAttrFlags::MOUNT_ATTR_NOSUID),
    ("nodev", MountAttrFlags::MOUNT_ATTR_NODEV),
    ("noexec", MountAttrFlags::MOUNT_ATTR_NOEXEC),
    ("noatime", MountAttrFlags::MOUNT_ATTR_NOATIME),
    ("strictatime", MountAttrFlags::MOUNT_ATTR_STRICTATIME),
    ("nodiratime", MountAttrFlags::MOUNT_ATTR_NODIRATIME),
    ("relatime", MountAttrFlags::MOUNT_ATTR_RELATIME),
];
const DEFAULTS: &[&str] = &["defaults", "rw", "suid", "dev", "exec", "atime", "diratime", "async", "auto", "loop"];

/// File systems that have no writable form. Said so when they are mounted, since the kernel refuses a second mount of a device that does
/// not say the same as the first.
const READ_ONLY: &[&str] = &["squashfs", "erofs", "iso9660", "cramfs", "romfs"];

/// Bytes of the name of a file system: many more than any has.
const NAME_MAX: usize = 255;

/// Takes options apart; each may be several with commas, as in fstab.
pub(super) fn options(given: &[String]) -> Options {
    let mut options = Options::default();
    for word in given.iter().flat_map(|given| given.split(',')).filter(|word| !word.is_empty()) {
        if let Some((_, flag)) = FLAGS.iter().find(|(name, _)| *name == word) {
            options.attr |= flag.bits();
        } else if !DEFAULTS.contains(&word) {
            options.own.push(word.to_owned());
        }
    }
    options
}

pub(super) fn make(at: &Mountpoint, block: &MountAttach, on: Option<&Proof>) -> Result<Proof, DriverError> {
    let device = on.map(|proof| proof.device.as_str()).unwrap_or_default();
    if block.fs_type.is_empty() || block.fs_type.len() > NAME_MAX || block.fs_type.contains(['/', '\0']) {
        return Err(DriverError::request("fsopen", format!("fs_type '{}' is no file system", block.fs_type)));
    }
    let mut options = options(block.mount_options.as_deref().unwrap_or_default());
    if READ_ONLY.contains(&block.fs_type.as_str()) || is_read_only(device)? {
        options.attr |= MountAttrFlags::MOUNT_ATTR_RDONLY.bits();
    }
    if options.attr & MountAttrFlags::MOUNT_ATTR_RDONLY.bits() != 0 {
        // Of the file system too, so that it does not even replay a journal where it need not.
        options.own.insert(0, "ro".to_owned());
    }
    let tree = mounted(&block.fs_type, device, &options)?;
    at.prepare(true)?;
    at.put(tree)
}

fn is_read_only(device: &str) -> Result<bool, DriverError> {
    let path = Path::new(device);
    let opened =
        rustix::fs::open(path, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty());
    let opened = opened.map_err(|errno| system("open", path, errno))?;
    syscall::is_read_only(&opened).map_err(|errno| system("blkroget", path, errno))
}

/// A mount that is nowhere yet: it goes with its descriptor.
pub(super) fn mounted(fs_type: &str, source: &str, options: &Options) -> Result<OwnedFd, DriverError> {
    let failed = |step: &str, what: &str, errno: Errno| DriverError::system(step, errno, what.to_owned());
    let context = fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| match errno {
        Errno::NODEV => DriverError::request("fsopen", format!("this kernel has no file system '{fs_type}'")),
        errno => failed("fsopen", fs_type, errno),
    })?;
    let said = |step: &str, what: &str, errno: Errno| {
        let mut error = failed(step, what, errno);
        let reasons = reasons(&context);
        if !reasons.is_empty() {
            error.error.text = format!("{} ({reasons})", error.error.text);
        }
        error
    };
    fsconfig_set_string(context.as_fd(), "source", source).map_err(|errno| said("fsconfig", source, errno))?;
    for option in &options.own {
        let set = match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(context.as_fd(), key, value),
            None => fsconfig_set_flag(context.as_fd(), option.as_str()),
        };
        set.map_err(|errno| {
            let mut error = said("fsconfig", option, errno);
            error.status = 400;
            error
        })?;
    }
    crash_point("filesystem.create.before");
    fsconfig_create(context.as_fd()).map_err(|errno| said("mount", &format!("{fs_type} of {source}"), errno))?;
    crash_point("filesystem.create.after");
    let attr = MountAttrFlags::from_bits_retain(options.attr);
    let tree = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attr);
    let tree = tree.map_err(|errno| said("fsmount", source, errno))?;
    crash_point("filesystem.mount.after");
    Ok(tree)
}

/// What the file system has to say: each read of its context gives a line such as `e ext4: bad superblock`.
fn reasons(context: &OwnedFd) -> String {
    let mut lines = Vec::new();
    let mut line = [0; 1024];
    while let Ok(len @ 1..) = rustix::io::read(context, &mut line) {
        let text = String::from_utf8_lossy(&line[..len]);
        lines.push(text.trim().trim_start_matches(['e', 'w', 'i']).trim().to_owned());
    }
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::{MountAttrFlags, options};

    #[test]
    fn words_are_flags_or_options() {
        let given = ["ro,noatime".to_owned(), "errors=remount-ro".to_owned(), "rw,,defaults,nodelalloc".to_owned()];
        let found = options(&given);
        let flags = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOATIME;
        assert_eq!(
            (found.attr, found.own),
            (flags.bits(), vec!["errors=remount-ro".to_owned(), "nodelalloc".to_owned()])
        );
    }
}
