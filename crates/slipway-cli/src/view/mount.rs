//! The mount: what it may be put over, and how it ends.

use super::files::{Access, Files};
use crate::failure::{Failure, exit, path_shown, reason};
use fuser::{Config, MountOption, Notifier, Session, SessionACL};
use rustix::mount::{UnmountFlags, unmount};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::oneshot;

/// What stands as the source in the table of mounts.
const SOURCE: &str = "slipway";
/// Threads that take the kernel's questions; none of them waits for the server.
const THREADS: usize = 4;
/// What the kernel reads ahead, in KiB: the longest read that it makes at once.
const READ_AHEAD_KIB: u32 = 1024;

/// Finds out whether a view can be put over this folder, and takes away a dead one that lies there.
///
/// # Errors
/// When it is missing, no folder, not empty, or something else is mounted over it.
pub(crate) fn mountpoint_check(path: &Path) -> Result<PathBuf, Failure> {
    let shown = path_shown(path);
    if let Err(why) = std::fs::metadata("/dev/fuse") {
        return Err(Failure::new(exit::NOT_FOUND, format!("looking at /dev/fuse: {}", reason(&why)))
            .next("load the kernel's module: 'modprobe fuse'"));
    }
    let mut path_full = std::path::absolute(path).map_err(|why| Failure::io("looking at", path, &why))?;
    if let Err(why) = std::fs::metadata(&path_full).and_then(|_| answer_check(&path_full)) {
        // A program that ended without unmounting leaves a mount that nothing answers.
        if is_dead(&why) {
            if mount_source(&path_full).as_deref() != Some(SOURCE) {
                return Err(Failure::new(exit::CONFLICT, format!("{shown} is a dead mount of another program"))
                    .next(format!("'umount -l {shown}' takes it away")));
            }
            unmount(&path_full, UnmountFlags::DETACH).map_err(|why| Failure::io("unmounting", path, &why.into()))?;
            tracing::info!("took away the dead view at {shown}");
        } else if why.kind() == ErrorKind::NotFound {
            return Err(Failure::new(exit::NOT_FOUND, format!("{shown} does not exist"))
                .next(format!("make it: 'mkdir -p {shown}'")));
        } else {
            return Err(Failure::io("looking at", path, &why));
        }
    }
    path_full = path_full.canonicalize().map_err(|why| Failure::io("looking at", path, &why))?;
    if !path_full.is_dir() {
        return Err(Failure::usage(format!("{shown} is no folder")).next("name an empty folder"));
    }
    if let Some(source) = mount_source(&path_full) {
        return Err(Failure::new(
            exit::CONFLICT,
            format!("{} is mounted over {shown} already", crate::human::clean(&source)),
        )
        .next(format!("'umount {shown}' takes it away; or name another folder")));
    }
    let mut inside = std::fs::read_dir(&path_full).map_err(|why| Failure::io("reading", path, &why))?;
    if inside.next().is_some() {
        return Err(Failure::new(
            exit::CONFLICT,
            format!("{shown} is not empty, and the view would hide what is in it"),
        )
        .next("name an empty folder"));
    }
    Ok(path_full)
}

fn is_dead(why: &std::io::Error) -> bool {
    why.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error())
}

/// Fails if a view is mounted there and nobody answers for it. The kernel keeps the facts of a folder for a while, so they alone prove nothing.
fn answer_check(path: &Path) -> std::io::Result<()> {
    match mount_source(path).as_deref() {
        Some(SOURCE) => std::fs::read_dir(path).map(drop).or_else(|why| if is_dead(&why) { Err(why) } else { Ok(()) }),
        _ => Ok(()),
    }
}

/// What is mounted exactly there, if anything: the last line wins.
fn mount_source(path: &Path) -> Option<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let wanted = path.to_str()?;
    table.lines().rev().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        (octal_read(front.split(' ').nth(4)?) == wanted).then(|| octal_read(back.split(' ').nth(1).unwrap_or("")))
    })
}

/// Spaces and the like stand as `\040` in the table of mounts.
fn octal_read(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let code = rest.get(1..4).filter(|_| first == b'\\').and_then(|digits| str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &rest[4..];
            }
            None => {
                out.push(first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A view that is mounted.
pub(crate) struct Mounted {
    path: PathBuf,
    /// `None` once it has said how it ended.
    ended: Option<oneshot::Receiver<std::io::Result<()>>>,
}

impl Mounted {
    /// Mounts; from then on the kernel asks `files`. Gives also the way to tell the kernel things.
    ///
    /// # Errors
    /// When the kernel, or `fusermount3` for who is not root, refuses.
    pub(crate) fn mount(path: &Path, files: Files, allow_other: bool) -> Result<(Self, Notifier), Failure> {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName(SOURCE.into()),
            MountOption::Subtype(SOURCE.into()),
            MountOption::RO,
            MountOption::NoDev,
            MountOption::NoSuid,
            MountOption::NoExec,
            MountOption::NoAtime,
            MountOption::DefaultPermissions,
        ];
        config.acl = if allow_other { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(THREADS);
        config.clone_fd = true;
        let session = Session::new(files, path, &config).map_err(|why| refused(path, &why))?;
        let notifier = session.notifier();
        let (told, ended) = oneshot::channel();
        let run = move || {
            // Nobody listens when the view ends before it was ready.
            let _ = told.send(session.run());
        };
        let spawned = std::thread::Builder::new().name("view".into()).spawn(run);
        spawned.map_err(|why| {
            Failure::new(exit::FAILED, format!("starting a thread: {}", reason(&why)))
                .next("look at the limits of this account with 'ulimit -a'")
        })?;
        read_ahead_raise(path);
        Ok((Self { path: path.to_owned(), ended: Some(ended) }, notifier))
    }

    /// Returns when somebody else has unmounted it.
    pub(crate) async fn ended(&mut self) -> std::io::Result<()> {
        let Some(ended) = &mut self.ended else { return Ok(()) };
        let said = ended.await.unwrap_or(Ok(()));
        self.ended = None;
        said
    }

    /// Unmounts. Where files are still in use, the name goes at once and the rest when this process ends.
    pub(crate) async fn unmount(mut self) {
        let shown = path_shown(&self.path);
        let path = self.path.clone();
        let gone = tokio::task::spawn_blocking(move || match unmount(&path, UnmountFlags::empty()) {
            Err(rustix::io::Errno::BUSY) => {
                tracing::warn!(
                    "{} is still in use: who has files of it open gets errors from now on",
                    path_shown(&path)
                );
                unmount(&path, UnmountFlags::DETACH)
            }
            // Only the helper may do it for who is not root.
            Err(rustix::io::Errno::PERM) => {
                let helper = std::process::Command::new("fusermount3").args(["-u", "-z", "--"]).arg(&path).status();
                if helper.is_ok_and(|status| status.success()) { Ok(()) } else { Err(rustix::io::Errno::PERM) }
            }
            done => done,
        });
        match gone.await {
            Ok(Ok(()) | Err(rustix::io::Errno::INVAL)) => {}
            Ok(Err(why)) => tracing::warn!("unmounting {shown}: {}", reason(&why.into())),
            Err(_) => tracing::warn!("unmounting {shown}: a thread ended in a panic"),
        }
        let _ = tokio::time::timeout(Duration::from_secs(2), self.ended()).await;
    }
}

fn refused(path: &Path, why: &std::io::Error) -> Failure {
    let text = why.to_string();
    let (code, next) = match () {
        () if text.contains("user_allow_other") => {
            (exit::AUTH, "leave out --allow-other and --group, or put 'user_allow_other' into /etc/fuse.conf")
        }
        () if text.contains("fusermount") || why.kind() == ErrorKind::NotFound => {
            (exit::FAILED, "run it as root, or install fuse3 for 'fusermount3'")
        }
        () if why.kind() == ErrorKind::PermissionDenied => {
            (exit::AUTH, "run it as root, or as the user whose folder that is")
        }
        () => (exit::FAILED, "run it as root; 'dmesg' may say more"),
    };
    Failure::new(code, format!("mounting at {}: {}", path_shown(path), reason(why))).next(next)
}

/// The kernel begins with 128 KiB for every file system of this kind; only root can change it, and only the speed depends on it.
fn read_ahead_raise(path: &Path) {
    let Ok(facts) = std::fs::metadata(path) else { return };
    let (major, minor) = (rustix::fs::major(facts.dev()), rustix::fs::minor(facts.dev()));
    let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(why) = std::fs::write(&setting, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(%setting, %why, "raising what the kernel reads ahead");
    }
}

/// Whose the files shall be.
pub(crate) fn access_of(group: Option<&str>) -> Result<Access, Failure> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = match group {
        None => rustix::process::getegid().as_raw(),
        Some(group) => group_find(group)?,
    };
    Ok(Access { uid, gid })
}

fn group_find(group: &str) -> Result<u32, Failure> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    let find = |table: &str| {
        let line = table.lines().find(|line| line.split(':').next() == Some(group))?.to_owned();
        line.split(':').nth(2)?.parse().ok()
    };
    if let Some(gid) = std::fs::read_to_string("/etc/group").ok().and_then(|table| find(&table)) {
        return Ok(gid);
    }
    // Groups may also come from a directory service.
    let asked = std::process::Command::new("getent").args(["group", "--", group]).output().ok();
    asked.and_then(|asked| find(&String::from_utf8_lossy(&asked.stdout))).ok_or_else(|| {
        Failure::new(exit::NOT_FOUND, format!("group '{}' does not exist", crate::human::clean(group)))
            .next("'getent group' lists the groups; 'groupadd --system NAME' makes one")
    })
}

#[cfg(test)]
mod tests {
    use super::{group_find, mount_source, mountpoint_check, octal_read};

    #[test]
    fn the_table_of_mounts_is_read() {
        assert_eq!(octal_read(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(octal_read(r"/a\04"), r"/a\04");
        assert!(mount_source("/proc".as_ref()).is_some());
        assert_eq!(mount_source("/proc/self".as_ref()), None);
    }

    #[test]
    fn folders_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        assert!(mountpoint_check(&missing).unwrap_err().next.unwrap().contains("mkdir"));
        assert!(mountpoint_check(folder.path()).is_ok());
        std::fs::write(&missing, b"").unwrap();
        assert!(mountpoint_check(&missing).unwrap_err().what.contains("no folder"));
        assert!(mountpoint_check(folder.path()).unwrap_err().what.contains("not empty"));
        assert!(mountpoint_check("/proc".as_ref()).unwrap_err().what.contains("already"));
    }

    #[test]
    fn groups_are_found_by_name_and_number() {
        assert_eq!(group_find("root").unwrap(), 0);
        assert_eq!(group_find("4711").unwrap(), 4711);
        assert_eq!(group_find("no-such-group-here").unwrap_err().exit, 3);
    }
}
