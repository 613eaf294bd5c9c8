//! Files as block devices.

use super::holders::device_holders;
use super::{base_of, beneath, io_error, program, syscall, system};
use crate::crash::crash_point;
use crate::kernel::Found;
use crate::object::{Driver, Proof};
use crate::refusal::DriverError;
use rustix::fs::OFlags;
use rustix::io::Errno;
use slipway_api::node::{AttachKind, AttachLoopback, Base};
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use syscall::LoopInfo;

/// How often a race for a free device is run again: each loss means that somebody else got one.
const RACES: usize = 1000;
/// How long the kernel may take to load its module, if it does not have loop devices yet.
const MODULE_MAX: Duration = Duration::from_secs(10);

pub(super) fn make(mark: &str, block: &AttachLoopback, on: Option<&Proof>) -> Result<Proof, DriverError> {
    let root = match block.base {
        Base::Root => Path::new("/"),
        Base::Mount => base_of(on),
    };
    let (file, read_only) = file_open(root, block)?;
    let block_size = match block.sector_size {
        0 => 0,
        512 | 4096 => block.sector_size as u32,
        other => {
            return Err(DriverError::request("loop_configure", format!("sector_size {other} is neither 512 nor 4096")));
        }
    };
    let mut info = LoopInfo::new();
    (info.offset, info.sizelimit) = (block.offset, block.size_limit);
    info.flags = if read_only { syscall::LO_FLAGS_READ_ONLY } else { 0 }
        | if block.read_partitions { syscall::LO_FLAGS_PARTSCAN } else { 0 }
        | if block.direct_io { syscall::LO_FLAGS_DIRECT_IO } else { 0 };
    configure(mark, file.as_fd(), block_size, info).map(|device| proof(&device.path))
}

/// A device that is open here.
pub(super) struct Device {
    pub(super) path: PathBuf,
    /// Keeps a device that goes with its last user.
    _open: File,
}

/// A read-only device of a file that has no name, which goes with its last user: the descriptor here, and later a mount of it.
pub(super) fn of_memory(mark: &str, file: BorrowedFd<'_>) -> Result<Device, DriverError> {
    let mut info = LoopInfo::new();
    info.flags = syscall::LO_FLAGS_READ_ONLY | syscall::LO_FLAGS_AUTOCLEAR;
    configure(mark, file, 0, info)
}

/// Waits until a device that goes with its last user has gone.
pub(super) fn gone_wait(mark: &str) -> Result<(), DriverError> {
    for _ in 0..LOOKS {
        if marked(mark)?.is_none() {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
    match marked(mark)? {
        Some(path) => Err(system("loop_clear", &path, Errno::BUSY).held_by(device_holders(&path))),
        None => Ok(()),
    }
}

/// Makes a free device one of the file, with the mark as its name.
fn configure(mark: &str, file: BorrowedFd<'_>, block_size: u32, mut info: LoopInfo) -> Result<Device, DriverError> {
    info.file_name[..mark.len().min(63)].copy_from_slice(&mark.as_bytes()[..mark.len().min(63)]);
    let read_only = info.flags & syscall::LO_FLAGS_READ_ONLY != 0;
    let control = Path::new("/dev/loop-control");
    program::module_need("loop", control, Instant::now() + MODULE_MAX)?;
    let opened = OpenOptions::new().read(true).write(true).open(control);
    let opened = opened.map_err(|error| io_error("loop_get_free", control, &error))?;
    for _ in 0..RACES {
        let number = syscall::loop_free(&opened).map_err(|errno| system("loop_get_free", control, errno))?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = match device_open(&path, read_only) {
            Ok(device) => device,
            // Another has taken and perhaps removed it since.
            Err(Errno::NOENT | Errno::NXIO | Errno::BUSY) => continue,
            Err(errno) => return Err(system("open", &path, errno)),
        };
        crash_point("loops.configure.before");
        match syscall::loop_configure(&device, file, block_size, &info) {
            Ok(()) => {
                crash_point("loops.configure.after");
                return Ok(Device { path, _open: device });
            }
            Err(Errno::BUSY) => {}
            // The file system below cannot do direct transfers: the device is the same without them.
            Err(Errno::INVAL) if info.flags & syscall::LO_FLAGS_DIRECT_IO != 0 => {
                info.flags &= !syscall::LO_FLAGS_DIRECT_IO;
            }
            Err(errno) => return Err(system("loop_configure", &path, errno)),
        }
    }
    Err(DriverError::other("loop_get_free", format!("others took the free loop device {RACES} times in a row")))
}

fn proof(path: &Path) -> Proof {
    Proof { device: path.display().to_string(), ..Proof::default() }
}

fn device_open(path: &Path, read_only: bool) -> Result<File, Errno> {
    OpenOptions::new()
        .read(true)
        .write(!read_only)
        .open(path)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Opens the file for writing too, unless that is not wanted or not possible.
fn file_open(root: &Path, block: &AttachLoopback) -> Result<(OwnedFd, bool), DriverError> {
    let read_only = |file| (file, true);
    if block.ro {
        return regular(beneath::open(root, &block.path, OFlags::RDONLY | OFlags::NONBLOCK)?, block).map(read_only);
    }
    match beneath::open(root, &block.path, OFlags::RDWR | OFlags::NONBLOCK) {
        Ok(file) => regular(file, block).map(|file| (file, false)),
        Err(error) if matches!(error.error.errno.as_deref(), Some("EROFS" | "EACCES" | "EPERM")) => {
            regular(beneath::open(root, &block.path, OFlags::RDONLY | OFlags::NONBLOCK)?, block).map(read_only)
        }
        Err(error) if error.error.errno.as_deref() == Some("EISDIR") => {
            Err(DriverError::request("open", format!("{} is a directory", block.path)))
        }
        Err(error) => Err(error),
    }
}

fn regular(file: OwnedFd, block: &AttachLoopback) -> Result<OwnedFd, DriverError> {
    let facts = rustix::fs::fstat(&file).map_err(|errno| system("stat", Path::new(&block.path), errno))?;
    match rustix::fs::FileType::from_raw_mode(facts.st_mode) {
        rustix::fs::FileType::RegularFile | rustix::fs::FileType::BlockDevice => Ok(file),
        _ => Err(DriverError::request("open", format!("{} is neither a regular file nor a block device", block.path))),
    }
}

/// How often, and how long between, a device is tried again that somebody only looks at.
const LOOKS: usize = 50;
const LOOK: Duration = Duration::from_millis(10);

/// The device that carries a mark, if there is one.
fn marked(mark: &str) -> Result<Option<PathBuf>, DriverError> {
    Ok(all()?.into_iter().find(|(name, _)| name == mark).map(|(_, path)| path))
}

/// Every loop device in use with the name that it was given.
fn all() -> Result<Vec<(String, PathBuf)>, DriverError> {
    let blocks = Path::new("/sys/block");
    let mut found = Vec::new();
    for entry in fs::read_dir(blocks).map_err(|error| io_error("readdir", blocks, &error))? {
        let name = entry.map_err(|error| io_error("readdir", blocks, &error))?.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with("loop")) else { continue };
        if !blocks.join(name).join("loop/backing_file").exists() {
            continue;
        }
        let path = Path::new("/dev").join(name);
        let Ok(device) = device_open(&path, true) else { continue };
        if let Ok(info) = syscall::loop_status(&device) {
            let len = info.file_name.iter().position(|byte| *byte == 0).unwrap_or(64);
            found.push((String::from_utf8_lossy(&info.file_name[..len]).into_owned(), path));
        }
    }
    Ok(found)
}

/// Removes the device of a mark: by the mark alone, since the number in our notes may be another's by now.
pub(super) fn undo(mark: &str) -> Result<(), DriverError> {
    // What only looks at a device, such as udev or another request of ours, is gone in a moment.
    for _ in 0..LOOKS {
        match clear(mark) {
            Err(error) if error.is_busy() && error.holders.is_empty() => std::thread::sleep(LOOK),
            done => return done,
        }
    }
    clear(mark)
}

fn clear(mark: &str) -> Result<(), DriverError> {
    let Some(path) = marked(mark)? else { return Ok(()) };
    let busy = |errno| system("loop_clear", &path, errno).held_by(device_holders(&path));
    // Who has it mounted or claimed refuses us here.
    let exclusive = rustix::fs::open(&path, OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC, rustix::fs::Mode::empty());
    let device = exclusive.map_err(busy)?;
    let before = syscall::loop_status(&device).map_err(|errno| system("loop_status", &path, errno))?;
    crash_point("loops.clear.before");
    syscall::loop_clear(&device).map_err(busy)?;
    crash_point("loops.clear.after");
    match syscall::loop_status(&device) {
        // With other users the kernel has only marked it to be cleared after them: not what was asked for.
        Ok(info) if info.flags & syscall::LO_FLAGS_AUTOCLEAR != 0 && info.file_name == before.file_name => {
            let restored = syscall::loop_status_set(&device, &before);
            restored.map_err(|errno| system("loop_status", &path, errno))?;
            drop(device);
            Err(busy(Errno::BUSY))
        }
        _ => Ok(()),
    }
}

pub(super) fn found(mark: &str) -> Result<Vec<Found>, DriverError> {
    let ours = all()?.into_iter().filter_map(|(name, path)| {
        let id = name.strip_prefix(mark)?.parse().ok()?;
        Some(Found { id, driver: Driver::Attach(AttachKind::Loopback), proof: proof(&path) })
    });
    Ok(ours.collect())
}
