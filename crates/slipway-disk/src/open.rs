//! Opening a target: every reason to refuse it is looked for before the first byte is read.

mod device;
mod file;
mod read;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use slipway_format::gpt::backup_header_matches;

use crate::error::TargetError;
use crate::faults::Faults;
use crate::medium::Medium;
use crate::port::Port;
use crate::reader::TargetReader;
use crate::sysfs::{Dev, Tree};
use crate::target::{Target, TargetFacts, TargetKind};

/// What the image needs of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Bytes.
    pub size: u64,
    /// Logical sector size the image was made for: 512 or 4096.
    pub sector_size: u32,
}

impl Shape {
    fn check(&self) -> Result<(), TargetError> {
        match self.size > 0 && matches!(self.sector_size, 512 | 4096) {
            true => Ok(()),
            false => Err(TargetError::Shape { size: self.size, sector_size: self.sector_size }),
        }
    }
}

/// How a target may be opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TargetOptions {
    /// Create a regular file where there is nothing. It is sparse, exactly the image's size, and removed again
    /// unless the writing is sealed.
    pub create: bool,
    /// Let a regular file that is too small grow. It gets its old size back when nothing was written.
    pub grow: bool,
}

/// Opens `path` to hold an image of this shape: a regular file, or a block device (also through symbolic links
/// such as `/dev/disk/by-id/…`). The target is locked, a device also claimed exclusively, until it is dropped.
///
/// # Errors
/// One [`TargetError`] for each reason to refuse it.
pub fn target_open(path: &Path, shape: &Shape, options: &TargetOptions, faults: Faults) -> Result<Target, TargetError> {
    shape.check()?;
    let opened = match kind_of(path)? {
        Kind::Absent if options.create => file::create(path, shape)?,
        Kind::Absent => return Err(TargetError::Missing(path.to_owned())),
        Kind::File => file::open(path, shape, options)?,
        Kind::Device(real) => device::open(&real, shape)?,
    };
    finish(opened, shape, OFlags::RDWR, faults)
}

/// Opens `path` only to be compared with an image of this shape: a regular file or a block device, symbolic links
/// followed. It is opened read-only, so one that cannot be written will do, and so will one that is in use; whoever
/// flashes it keeps it for itself, and any number may read it together.
///
/// # Errors
/// One [`TargetError`] for each reason to refuse it.
pub fn target_open_to_read(path: &Path, shape: &Shape, faults: Faults) -> Result<TargetReader, TargetError> {
    shape.check()?;
    let (opened, mounted_at) = read::open(path, shape)?;
    Ok(TargetReader::new(finish(opened, shape, OFlags::RDONLY, faults)?, mounted_at))
}

/// Where a device, or something on it, is mounted.
pub(crate) fn device_mount(dev: Dev) -> Option<String> {
    let above = Tree::at("/sys").above(dev);
    device::Uses::now().mounted(&above).map(|used| used.at.clone())
}

/// Where a regular file is mounted for writing by way of a loop device. Its bytes change then although nobody opens it.
pub(crate) fn file_mount(meta: &fs::Metadata) -> Option<String> {
    let tree = Tree::at("/sys");
    let same = |other: &Path| fs::metadata(other).is_ok_and(|it| it.dev() == meta.dev() && it.ino() == meta.ino());
    let mut loops = tree.loops();
    loops.retain(|(_, backing)| same(backing));
    if loops.is_empty() {
        return None;
    }
    let uses = device::Uses::now();
    let devices = loops.iter().filter_map(|(name, _)| tree.named(name)).filter(|dev| !tree.is_read_only(*dev));
    devices.into_iter().find_map(|dev| uses.mounted_to_write(&tree.above(dev)).map(|used| used.at.clone()))
}

/// An opened file or device, all checks done.
struct Opened {
    /// First, so that a file is removed while its lock is still held.
    cleanup: Cleanup,
    path: PathBuf,
    kind: TargetKind,
    file: File,
    size: u64,
    model: Option<String>,
}

fn finish(opened: Opened, shape: &Shape, access: OFlags, faults: Faults) -> Result<Target, TargetError> {
    let Opened { path, kind, file, size, model, cleanup } = opened;
    let device = kind == TargetKind::Device;
    let direct = direct_open(&path, &file, access);
    let align = if device { u64::from(shape.sector_size) } else { 4096 };
    let mut medium = Medium::new(Port::new(&path, file, direct, device, size, align, faults));
    let sector = u64::from(shape.sector_size);
    // The last sector matters only where it is not the image's own.
    let last = (size / sector).saturating_sub(1) * sector;
    let old_backup_gpt = size > shape.size
        && last + sector > shape.size
        && last > 0
        && backup_header_matches(medium.read(last, sector as usize)?, last / sector);
    let facts = TargetFacts {
        path,
        kind,
        size,
        sector_size: shape.sector_size,
        tail_bytes: size - shape.size,
        old_backup_gpt,
        fresh: cleanup.is_created(),
        direct: medium.is_direct(),
        model,
    };
    Ok(Target { medium, facts, shape: *shape, cleanup })
}

/// The same inode once more with `O_DIRECT`. `None` where that is refused.
pub(crate) fn direct_open(path: &Path, file: &File, access: OFlags) -> Option<File> {
    let flags = access | OFlags::CLOEXEC | OFlags::DIRECT | OFlags::NOFOLLOW;
    let direct = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    let (one, other) = (file.metadata().ok()?, direct.metadata().ok()?);
    // The path may have been replaced since; then only the locked inode counts.
    (one.dev() == other.dev() && one.ino() == other.ino() && one.rdev() == other.rdev()).then_some(direct)
}

enum Kind {
    Absent,
    File,
    /// A block device, with links resolved.
    Device(PathBuf),
}

fn kind_of(path: &Path) -> Result<Kind, TargetError> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kind::Absent),
        Err(source) => return Err(TargetError::Io { act: "looking at", path: path.to_owned(), source }),
    };
    let kind = meta.file_type();
    if kind.is_file() {
        return Ok(Kind::File);
    }
    if kind.is_block_device() {
        return Ok(Kind::Device(path.to_owned()));
    }
    if kind.is_symlink() {
        let real = fs::canonicalize(path).ok();
        return match real.filter(|real| fs::metadata(real).is_ok_and(|meta| meta.file_type().is_block_device())) {
            Some(real) => Ok(Kind::Device(real)),
            None => {
                let to = fs::read_link(path).unwrap_or_default();
                Err(TargetError::Link { path: path.to_owned(), to })
            }
        };
    }
    Err(TargetError::Kind { path: path.to_owned(), kind: kind_said(kind) })
}

/// What is neither a regular file nor a block device.
fn kind_said(kind: fs::FileType) -> &'static str {
    if kind.is_dir() {
        "directory"
    } else if kind.is_char_device() {
        "character device"
    } else if kind.is_fifo() {
        "pipe"
    } else if kind.is_socket() {
        "socket"
    } else {
        "thing of unknown kind"
    }
}

/// What is undone when a target is dropped before its writing was sealed.
pub(crate) struct Cleanup(Undo);

enum Undo {
    Nothing,
    /// The file was created here: it is removed, if the path still leads to it.
    Create {
        path: PathBuf,
        dev: u64,
        ino: u64,
    },
    /// The file was grown here: it gets its size back, unless it was written to meanwhile.
    Grow {
        file: File,
        size: u64,
    },
}

impl Cleanup {
    pub(crate) fn nothing() -> Cleanup {
        Cleanup(Undo::Nothing)
    }

    fn created(path: &Path, file: &fs::Metadata) -> Cleanup {
        Cleanup(Undo::Create { path: path.to_owned(), dev: file.dev(), ino: file.ino() })
    }

    fn grown(file: File, size: u64) -> Cleanup {
        Cleanup(Undo::Grow { file, size })
    }

    pub(crate) fn is_created(&self) -> bool {
        matches!(self.0, Undo::Create { .. })
    }

    /// The file is now written to: growing is not undone any more, creating still is.
    pub(crate) fn written(&mut self) {
        if matches!(self.0, Undo::Grow { .. }) {
            self.keep();
        }
    }

    /// What was made stays.
    pub(crate) fn keep(&mut self) {
        self.0 = Undo::Nothing;
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        match &self.0 {
            Undo::Nothing => {}
            Undo::Create { path, dev, ino } => {
                if fs::symlink_metadata(path).is_ok_and(|meta| meta.dev() == *dev && meta.ino() == *ino) {
                    let _ = fs::remove_file(path);
                }
            }
            Undo::Grow { file, size } => {
                let _ = file.set_len(*size);
            }
        }
    }
}
