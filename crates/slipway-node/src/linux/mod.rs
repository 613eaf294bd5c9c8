//! The kernel of this machine. Every file here is one kind of thing that it has; each thing that we make carries our mark.

mod address;
mod beneath;
mod bind;
mod catalogue;
mod credentials;
mod exports;
mod filesystem;
mod holders;
mod iscsi;
mod local;
mod loops;
mod mountinfo;
mod mountpoint;
mod nbd;
mod netlink;
mod nfs;
mod overlay;
mod program;
mod rbd;
mod rpc;
mod syscall;
mod uri;

pub(crate) use beneath::open as beneath_open;
pub use nbd::{NBD_REPLY_HEAD, NbdStream, Server as NbdServer, nbd_info_reply, nbd_info_request};
pub(crate) use syscall::{device_program_attach, device_program_load, mount_no_devices, mount_read_only};

use crate::crash::crash_point;
use crate::kernel::{Found, Kernel, Make};
use crate::object::{Driver, Proof, What};
use crate::refusal::DriverError;
use exports::Exports;
use mountpoint::Mountpoint;
use nbd::Watch;
use rustix::fs::OFlags;
use rustix::io::Errno;
use slipway_api::node::{Attach, AttachKind, MountKind, ObjectId, StepError};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Less than the deadline of [`NodeConfig`](crate::NodeConfig) by default.
const PATIENCE: Duration = Duration::from_secs(25);

/// This machine's kernel, as far as one service uses it.
#[derive(Clone, Debug)]
pub struct Linux {
    run_dir: PathBuf,
    state_dir: PathBuf,
    /// Begins the name of whatever has no place in our directories; other services of ours on this node have another.
    mark: String,
    /// Keeps network block devices connected.
    watch: Watch,
    iscsi: iscsi::Iscsi,
    /// How long a driver that waits for a server may take, so that it ends before the service gives its call up.
    patience: Duration,
}

impl Linux {
    /// Makes the run directory a private mount, so that nothing that is mounted below it is seen, or kept busy, by other namespaces.
    ///
    /// # Errors
    /// When a directory cannot be made, or the mount.
    pub fn open(run_dir: &Path, state_dir: &Path) -> Result<Self, DriverError> {
        for dir in [run_dir, state_dir, &run_dir.join("mounts"), &run_dir.join("overlays"), &state_dir.join("uppers")] {
            folder_make(dir)?;
        }
        for dir in [run_dir.join("nbd"), run_dir.join("exports"), state_dir.join("credentials")] {
            folder_make(&dir)?;
        }
        let run_dir = fs::canonicalize(run_dir).map_err(|error| io_error("open", run_dir, &error))?;
        let state_dir = fs::canonicalize(state_dir).map_err(|error| io_error("open", state_dir, &error))?;
        if !mountinfo::mounts()?.iter().any(|mount| mount.path == run_dir) {
            crash_point("linux.private.before");
            rustix::mount::mount_bind(&run_dir, &run_dir).map_err(|errno| system("mount", &run_dir, errno))?;
            crash_point("linux.private.bound");
        }
        rustix::mount::mount_change(&run_dir, rustix::mount::MountPropagationFlags::PRIVATE)
            .map_err(|errno| system("mount", &run_dir, errno))?;
        crash_point("linux.private.after");
        // FNV-1a: a name for people and us, not a secret.
        let hash = run_dir
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        let iscsi = iscsi::Iscsi::new(&run_dir, &format!("slipway-{:08x}-", hash as u32))?;
        let watch = Watch::new(&run_dir.join("nbd"), Exports::new(&run_dir, &state_dir, Vec::new()));
        Ok(Self { run_dir, state_dir, mark: format!("slipway:{:08x}:", hash as u32), watch, iscsi, patience: PATIENCE })
    }

    /// The program, and its arguments, that gives a version of a catalogue as an NBD export; the folder of the attachment is added. Without
    /// it attachments of kind `slipway` are refused. To be said before anything is made or found.
    pub fn with_export(mut self, program: Vec<String>) -> Self {
        let exports = Exports::new(&self.run_dir, &self.state_dir, program);
        self.watch = Watch::new(&self.run_dir.join("nbd"), exports);
        self
    }

    /// Undoes what [`open`](Self::open) mounted; refused by the kernel while anything is mounted below.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn close(&self) -> Result<(), DriverError> {
        rustix::mount::unmount(&self.run_dir, rustix::mount::UnmountFlags::NOFOLLOW)
            .map_err(|errno| system("umount", &self.run_dir, errno))
    }

    /// The same with another time for drivers that wait for a server: less than [`NodeConfig::deadline`](crate::NodeConfig).
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    fn until(&self) -> Instant {
        Instant::now() + self.patience
    }

    fn mark(&self, id: ObjectId) -> String {
        format!("{}{id}", self.mark)
    }

    /// Of a device that belongs to a mount, so that it is not taken for an attachment.
    fn mark_of_image(&self, id: ObjectId) -> String {
        format!("{}image{id}", self.mark)
    }

    fn mountpoint(&self, id: ObjectId, kind: MountKind) -> Mountpoint {
        Mountpoint::new(&self.run_dir.join("mounts"), id, kind)
    }
}

impl Kernel for Linux {
    fn make(&self, make: &Make) -> Result<Proof, DriverError> {
        match &make.what {
            What::Attach(attach) => self.attach_make(make, attach),
            What::Mount(mount) => {
                let kind = mount.kind.ok_or_else(no_driver)?;
                let at = self.mountpoint(make.id, kind);
                let made = match (kind, &mount.attach, &mount.bind, &mount.overlay) {
                    (MountKind::Attach, Some(block), _, _) => filesystem::make(&at, block, make.on.first()),
                    (MountKind::Bind, _, Some(block), _) => bind::make(&at, block, make.on.first()),
                    (MountKind::Overlay, _, _, Some(block)) => {
                        overlay::make(&at, &self.overlay_dirs(make.id, &block.persist), block, &make.on)
                    }
                    (MountKind::Nfs, ..) => {
                        let block = mount.nfs.as_ref().ok_or_else(no_driver);
                        block.and_then(|block| nfs::make(&at, block))
                    }
                    (MountKind::Uri, ..) => {
                        let block = mount.uri.as_ref().ok_or_else(no_driver);
                        block.and_then(|block| uri::make(&at, &self.mark_of_image(make.id), block))
                    }
                    _ => Err(no_driver()),
                };
                made.inspect_err(|_| at.remove())
            }
            What::Container(_) => Err(no_driver()),
        }
    }

    fn undo(&self, id: ObjectId, driver: Driver, _: Option<&Proof>) -> Result<(), DriverError> {
        match driver {
            Driver::Attach(AttachKind::Local) => Ok(()),
            Driver::Attach(AttachKind::Loopback) => loops::undo(&self.mark(id)),
            Driver::Mount(kind @ (MountKind::Attach | MountKind::Bind)) => self.mountpoint(id, kind).unmount(),
            Driver::Mount(MountKind::Overlay) => {
                self.mountpoint(id, MountKind::Overlay).unmount()?;
                overlay::dirs_remove(&self.overlay_dirs(id, ""))
            }
            Driver::Attach(AttachKind::Iscsi) => self.iscsi.undo(id, self.until()),
            Driver::Attach(AttachKind::Rbd) => rbd::undo(&self.rbd_mark(id)),
            Driver::Mount(MountKind::Nfs) => nfs::undo(&self.mountpoint(id, MountKind::Nfs)),
            Driver::Attach(kind @ (AttachKind::Nbd | AttachKind::Slipway)) => {
                nbd::undo(&self.watch, id, &nbd::mark(&self.mark, kind, id))
            }
            Driver::Mount(MountKind::Uri) => uri::undo(&self.mountpoint(id, MountKind::Uri), &self.mark_of_image(id)),
        }
    }

    fn found(&self) -> Result<Vec<Found>, DriverError> {
        let mut found = loops::found(&self.mark)?;
        found.extend(nbd::found(&self.watch, &self.mark)?);
        found.extend(self.iscsi.found()?);
        found.extend(rbd::found(&self.rbd_tag())?);
        found.extend(mountpoint::found(&self.run_dir.join("mounts"))?);
        Ok(found)
    }

    fn time_more(&self, what: &What) -> Duration {
        match what {
            What::Mount(mount) => mount.uri.as_ref().map(uri::time_more).unwrap_or_default(),
            What::Attach(_) | What::Container(_) => Duration::ZERO,
        }
    }

    fn is_there(&self, driver: Driver, proof: &Proof) -> bool {
        driver == Driver::Attach(AttachKind::Local) && local::is_there(proof)
    }

    fn troubles(&self) -> BTreeMap<ObjectId, StepError> {
        let mut troubles = self.watch.troubles();
        troubles.extend(self.iscsi.troubles());
        troubles
    }
}

impl Linux {
    /// Begins the names of the keys that our maps are known by: [`mark`](Self::mark) without what options of the kernel cannot hold.
    fn rbd_tag(&self) -> String {
        self.mark.replace(':', "-")
    }

    fn rbd_mark(&self, id: ObjectId) -> String {
        format!("{}{id}", self.rbd_tag())
    }

    fn attach_make(&self, make: &Make, attach: &Attach) -> Result<Proof, DriverError> {
        let id = make.id;
        let Attach { local, loopback, nbd, slipway, iscsi, rbd, .. } = attach;
        match (attach.kind.ok_or_else(no_driver)?, local, loopback, nbd, slipway) {
            (AttachKind::Local, Some(block), ..) => local::make(block),
            (AttachKind::Loopback, _, Some(block), ..) => loops::make(&self.mark(id), block, make.on.first()),
            (kind @ AttachKind::Nbd, _, _, Some(block), _) => {
                nbd::make(&self.watch, id, nbd::mark(&self.mark, kind, id), block)
            }
            (kind @ AttachKind::Slipway, .., Some(block)) => {
                catalogue::make(&self.watch, id, nbd::mark(&self.mark, kind, id), block)
            }
            (AttachKind::Iscsi, ..) => {
                iscsi.as_ref().ok_or_else(no_driver).and_then(|block| self.iscsi.make(id, block, self.until()))
            }
            (AttachKind::Rbd, ..) => {
                rbd.as_ref().ok_or_else(no_driver).and_then(|block| rbd::make(&self.rbd_mark(id), block, self.patience))
            }
            _ => Err(no_driver()),
        }
    }

    fn overlay_dirs(&self, id: ObjectId, persist: &str) -> overlay::Dirs {
        let own = self.run_dir.join("overlays").join(id.to_string());
        let kept = (!persist.is_empty()).then(|| self.state_dir.join("uppers").join(persist));
        overlay::Dirs { own, kept }
    }
}

/// Where something is mounted at or below a path, in the order of mounting.
pub(crate) fn mounted_below(top: &Path) -> Result<Vec<PathBuf>, DriverError> {
    Ok(mountinfo::mounts()?.into_iter().map(|mount| mount.path).filter(|path| path.starts_with(top)).collect())
}

fn no_driver() -> DriverError {
    let mut error = DriverError::request("driver", "no driver found for this object type");
    error.status = 501;
    error
}

/// A directory that only root looks into.
fn folder_make(dir: &Path) -> Result<(), DriverError> {
    crash_point("linux.folder.before");
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| io_error("mkdir", dir, &error))?;
    crash_point("linux.folder.after");
    Ok(())
}

fn system(step: &str, path: &Path, errno: Errno) -> DriverError {
    DriverError::system(step, errno, path.display().to_string())
}

fn io_error(step: &str, path: &Path, error: &std::io::Error) -> DriverError {
    match Errno::from_io_error(error) {
        Some(errno) => system(step, path, errno),
        None => DriverError::other(step, format!("{}: {error}", path.display())),
    }
}

/// A value of sysfs without its line feed; none when it cannot be read.
fn sysfs_read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

/// Writes a value to sysfs in one call, as the kernel wants it.
fn sysfs_write(step: &str, path: &Path, value: &str) -> Result<(), DriverError> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty());
    let file = file.map_err(|errno| system(step, path, errno))?;
    rustix::io::write(&file, value.as_bytes()).map(drop).map_err(|errno| system(step, path, errno))
}

/// The tree that a path begins at: the node's own, or a mount of ours.
fn base_of(on: Option<&Proof>) -> &Path {
    on.map_or(Path::new("/"), |proof| Path::new(&proof.mountpoint))
}
