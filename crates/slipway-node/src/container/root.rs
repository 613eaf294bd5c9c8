//! The tree that a container sees: its image as the root, with the file systems that belong into one, and nothing of the node.

use super::files::ContainerFiles;
use super::spec::Spec;
use crate::linux::{beneath_open, mount_no_devices, mount_read_only, mounted_below};
use crate::refusal::DriverError;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, mknodat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
    unmount,
};
use slipway_api::node::Namespace;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

const DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

fn failed(step: &str, what: &str, errno: Errno) -> DriverError {
    DriverError::system(step, errno, what)
}

/// A terminal as a mount that is nowhere yet; it must be made in the mount namespace that the terminal was opened in.
pub(super) fn console_tree(terminal: &OwnedFd) -> Result<OwnedFd, DriverError> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(terminal, "", clone).map_err(|errno| failed("open_tree", "console", errno))
}

/// Makes the image the root of this process, which has a mount namespace of its own; `console` is from [`console_tree`].
pub(super) fn root_enter(spec: &Spec, files: &ContainerFiles, console: &OwnedFd) -> Result<(), DriverError> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|errno| failed("make_private", "/", errno))?;
    let name = spec.root.display().to_string();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, &spec.root, flags).map_err(|errno| failed("open_tree", &name, errno))?;
    if spec.read_only {
        mount_read_only(&tree, true).map_err(|errno| failed("mount_setattr", &name, errno))?;
    }
    if !spec.privileged {
        mount_no_devices(&tree).map_err(|errno| failed("mount_setattr", &name, errno))?;
    }
    move_mount(&tree, "", CWD, &spec.root, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| failed("move_mount", &name, errno))?;
    let notify = spec.systemd.then(|| host_dir(files)).transpose()?;
    rustix::process::chdir(&spec.root).map_err(|errno| failed("chdir", &name, errno))?;
    furnish(spec, console, notify)?;
    pivot()
}

/// The new root takes the place of the old one, which is then nowhere. The initramfs cannot be moved away: there every other mount goes first.
fn pivot() -> Result<(), DriverError> {
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => unmount(".", UnmountFlags::DETACH).map_err(|errno| failed("umount", "the old root", errno))?,
        Err(Errno::INVAL) => {
            // A copy that is nowhere, since what the image is mounted in goes too, and would take it along.
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
            let tree = open_tree(CWD, ".", flags).map_err(|errno| failed("open_tree", "the image", errno))?;
            for path in mounted_below(Path::new("/"))?.into_iter().rev().filter(|path| path != Path::new("/")) {
                // What covers it is gone already, or it was covered: both are as good.
                let _ = unmount(&path, UnmountFlags::DETACH);
            }
            move_mount(&tree, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .map_err(|errno| failed("move_mount", "/", errno))?;
            rustix::process::fchdir(&tree).map_err(|errno| failed("chdir", "the image", errno))?;
            rustix::process::chroot(".").map_err(|errno| failed("chroot", ".", errno))?;
        }
        Err(errno) => return Err(failed("pivot_root", "the image", errno)),
    }
    rustix::process::chdir("/").map_err(|errno| failed("chdir", "/", errno))
}

/// A file system that is nowhere yet.
struct Fresh<'a> {
    kind: &'a str,
    options: &'a [(&'a str, &'a str)],
    attr: MountAttrFlags,
}

impl Fresh<'_> {
    fn make(&self) -> Result<OwnedFd, DriverError> {
        let wrong = |errno| failed("mount", self.kind, errno);
        let context = fsopen(self.kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(wrong)?;
        for (key, value) in self.options {
            match value.is_empty() {
                true => fsconfig_set_flag(context.as_fd(), *key),
                false => fsconfig_set_string(context.as_fd(), *key, *value),
            }
            .map_err(wrong)?;
        }
        fsconfig_create(context.as_fd()).map_err(wrong)?;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, self.attr).map_err(wrong)
    }
}

/// Puts a file system at a path of the image, which must have, or may be given, a directory there.
fn put(at: &str, tree: impl AsFd) -> Result<(), DriverError> {
    let place = match beneath_open(Path::new("."), at, DIR) {
        Err(error) if error.error.errno.as_deref() == Some("ENOENT") => {
            match mkdirat(CWD, at.trim_start_matches('/'), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => beneath_open(Path::new("."), at, DIR),
                Err(errno) => Err(failed("mkdir", &format!("{at}, which the image has not"), errno)),
            }
        }
        opened => opened,
    }?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", &place, "", flags).map_err(|errno| failed("move_mount", at, errno))
}

fn furnish(spec: &Spec, console: &OwnedFd, notify: Option<OwnedFd>) -> Result<(), DriverError> {
    let (nosuid, nodev, noexec) =
        (MountAttrFlags::MOUNT_ATTR_NOSUID, MountAttrFlags::MOUNT_ATTR_NODEV, MountAttrFlags::MOUNT_ATTR_NOEXEC);
    let none: &[(&str, &str)] = &[];
    put("/proc", Fresh { kind: "proc", options: none, attr: nosuid | nodev | noexec }.make()?)?;
    let sys = Fresh {
        kind: "sysfs",
        options: &[("ro", "")],
        attr: nosuid | nodev | noexec | MountAttrFlags::MOUNT_ATTR_RDONLY,
    };
    put("/sys", sys.make()?)?;
    put("/dev", Fresh { kind: "tmpfs", options: &[("mode", "0755"), ("size", "4m")], attr: nosuid }.make()?)?;
    devices(console)?;
    let pts = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    put("/dev/pts", Fresh { kind: "devpts", options: &pts, attr: nosuid | noexec }.make()?)?;
    let tmp: &[(&str, &str)] = &[("mode", "1777")];
    put("/dev/shm", Fresh { kind: "tmpfs", options: tmp, attr: nosuid | nodev }.make()?)?;
    put("/dev/mqueue", Fresh { kind: "mqueue", options: none, attr: nosuid | nodev | noexec }.make()?)?;
    if let Some(notify) = notify {
        let run: &[(&str, &str)] = &[("mode", "0755")];
        put("/run", Fresh { kind: "tmpfs", options: run, attr: nosuid | nodev }.make()?)?;
        put("/tmp", Fresh { kind: "tmpfs", options: tmp, attr: nosuid | nodev }.make()?)?;
        put("/run/host", notify)?;
    }
    if spec.namespaces.contains(&Namespace::Cgroup) {
        cgroups(spec)?;
    }
    if spec.privileged { Ok(()) } else { node_hide() }
}

/// What of `/proc` changes the node, so is only to be read.
const READ_ONLY: &[&str] =
    &["proc/sys", "proc/sysrq-trigger", "proc/bus", "proc/fs", "proc/irq", "proc/acpi", "proc/scsi"];
/// What of `/proc` and `/sys` tells of the node, so is not there.
const HIDDEN: &[&str] = &["proc/kcore", "proc/keys", "proc/timer_list", "proc/kmsg", "proc/interrupts", "sys/firmware"];

/// Root in a container is root for the files of `/proc` too, whatever capabilities it lacks: so those that reach the node are covered.
fn node_hide() -> Result<(), DriverError> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let copy = |path: &str| open_tree(CWD, path, clone).map_err(|errno| failed("open_tree", path, errno));
    for path in READ_ONLY.iter().filter(|path| Path::new(path).exists()) {
        cover(path, &copy(path)?)?;
    }
    for path in HIDDEN.iter().filter(|path| Path::new(path).exists()) {
        let empty: &[(&str, &str)] = &[("size", "4k"), ("mode", "0555")];
        let tree = match Path::new(path).is_dir() {
            true => Fresh { kind: "tmpfs", options: empty, attr: MountAttrFlags::empty() }.make()?,
            false => copy("dev/null")?,
        };
        cover(path, &tree)?;
    }
    Ok(())
}

/// Mounts a tree, read-only, over what is there.
fn cover(at: &str, tree: &OwnedFd) -> Result<(), DriverError> {
    let place = openat(CWD, at, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed("open", at, errno))?;
    mount_read_only(tree, false).map_err(|errno| failed("mount_setattr", at, errno))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", &place, "", flags).map_err(|errno| failed("move_mount", at, errno))
}

/// The container's own part of each hierarchy, as its cgroup namespace shows it.
fn cgroups(spec: &Spec) -> Result<(), DriverError> {
    let attr = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let v2 = || Fresh { kind: "cgroup2", options: &[], attr }.make();
    // systemd needs version 2 alone, and no controller in it; beside version 1 it would want a hierarchy of that version for itself. The limits
    // of version 1 hold all the same, from outside.
    if spec.cgroup.v1.is_empty() || (spec.systemd && spec.cgroup.v2.is_some()) {
        return put("/sys/fs/cgroup", v2()?);
    }
    put("/sys/fs/cgroup", Fresh { kind: "tmpfs", options: &[("mode", "0755"), ("size", "64k")], attr }.make()?)?;
    if spec.cgroup.v2.is_some() {
        put("/sys/fs/cgroup/unified", v2()?)?;
    }
    for (controller, _) in &spec.cgroup.v1 {
        let tree = Fresh { kind: "cgroup", options: &[(controller, "")], attr }.make()?;
        put(&format!("/sys/fs/cgroup/{controller}"), tree)?;
    }
    Ok(())
}

fn devices(console: &OwnedFd) -> Result<(), DriverError> {
    let dev = openat(CWD, "dev", DIR | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed("open", "/dev", errno))?;
    // The modes are meant as they are.
    rustix::process::umask(Mode::empty());
    let nodes = [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    for (name, major, minor) in nodes {
        let number = rustix::fs::makedev(major, minor);
        mknodat(&dev, name, rustix::fs::FileType::CharacterDevice, Mode::from_raw_mode(0o666), number)
            .map_err(|errno| failed("mknod", name, errno))?;
    }
    for (to, name) in [
        ("pts/ptmx", "ptmx"),
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ] {
        symlinkat(to, &dev, name).map_err(|errno| failed("symlink", name, errno))?;
    }
    for name in ["pts", "shm", "mqueue"] {
        mkdirat(&dev, name, Mode::from_raw_mode(0o755)).map_err(|errno| failed("mkdir", name, errno))?;
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let place = openat(&dev, "console", flags, Mode::from_raw_mode(0o600))
        .map_err(|errno| failed("create", "console", errno))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(console, "", &place, "", flags).map_err(|errno| failed("move_mount", "console", errno))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(())
}

/// The directory by which systemd speaks to its manager, as a mount that is nowhere yet.
fn host_dir(files: &ContainerFiles) -> Result<OwnedFd, DriverError> {
    let dir = files.dir().join("host");
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, &dir, clone).map_err(|errno| failed("open_tree", &dir.display().to_string(), errno))
}
