//! What can go wrong, named by act and object. The cause is the error's `source`, not part of its text.

use std::io;
use std::path::PathBuf;

use slipway_format::gpt::GptError;

/// Why a path was refused as a target. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The image has no bytes, or a sector size that is neither 512 nor 4096.
    #[error("an image of {size} bytes in sectors of {sector_size} cannot be written anywhere")]
    Shape {
        /// Its size in bytes.
        size: u64,
        /// Its sector size in bytes.
        sector_size: u32,
    },
    /// There is nothing at the path and it was not to be created.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// Neither a regular file nor a block device.
    #[error("{} is a {kind}, not a regular file or a block device", .path.display())]
    Kind {
        /// The path.
        path: PathBuf,
        /// What it is: directory, character device, …
        kind: &'static str,
    },
    /// A symbolic link that does not lead to a block device. Only device names are followed.
    #[error("{} is a symbolic link to {}; name the file itself", .path.display(), .to.display())]
    Link {
        /// The link.
        path: PathBuf,
        /// What it says.
        to: PathBuf,
    },
    /// Another program holds the lock: another flash to the same target, or `udev` at work for long.
    #[error("{} is being written by another program", .0.display())]
    Locked(PathBuf),
    /// The device, a partition of it, or something built on it is mounted.
    #[error("{} is in use: {device} is mounted on {at}", .path.display())]
    Mounted {
        /// The target.
        path: PathBuf,
        /// The mounted device's kernel name.
        device: String,
        /// The mount point.
        at: String,
    },
    /// The running system lives on it.
    #[error("{} is the disk this system runs from: {at} lies on it", .path.display())]
    System {
        /// The target.
        path: PathBuf,
        /// The mount point that lies on it.
        at: String,
    },
    /// It is swap space.
    #[error("{} is in use: {device} is swap space", .path.display())]
    Swap {
        /// The target.
        path: PathBuf,
        /// The device or file that is swapped to.
        device: String,
    },
    /// A device mapper, RAID or loop device is built on it.
    #[error("{} is in use: {holder} is built on {device}", .path.display())]
    Held {
        /// The target.
        path: PathBuf,
        /// The part of it that is held.
        device: String,
        /// Who holds it.
        holder: String,
    },
    /// The kernel refused exclusive access and nothing above says why.
    #[error("{} is in use: the kernel gives no exclusive access (mounted elsewhere, RAID, LVM or another program)", .0.display())]
    Busy(PathBuf),
    /// It cannot be written.
    #[error("{} is read-only", .0.display())]
    ReadOnly(PathBuf),
    /// It is smaller than the image.
    #[error("{} has {size} bytes, the image needs {needed}", .path.display())]
    TooSmall {
        /// The target.
        path: PathBuf,
        /// Its bytes.
        size: u64,
        /// The image's bytes.
        needed: u64,
    },
    /// Its logical sectors have another size: the image's partition table would mean other places.
    #[error("{} has sectors of {target} bytes, the image was made for {image}", .path.display())]
    SectorSize {
        /// The target.
        path: PathBuf,
        /// Its logical sector size.
        target: u32,
        /// The image's.
        image: u32,
    },
    /// A card reader without a card, a loop device without a file.
    #[error("{} holds no medium", .0.display())]
    NoMedium(PathBuf),
    /// Asking or opening went wrong.
    #[error("{act} {}", .path.display())]
    Io {
        /// What was tried: "opening", "locking" …
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Reading the opened target went wrong.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// What went wrong with an opened target or source.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// One operation failed.
    #[error("{act} {} at byte {at}", .path.display())]
    Io {
        /// "reading", "writing", "punching a hole in".
        act: &'static str,
        /// The target or source.
        path: PathBuf,
        /// Where.
        at: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A flush failed. What was written since the last one may be lost even where reading shows it, and the kernel
    /// reports this only once: the flash has failed.
    #[error("flushing {}: what was written may be lost", .path.display())]
    Flush {
        /// The target.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A flush failed before; nothing more is written.
    #[error("flushing {} failed before; flash it again", .0.display())]
    Poisoned(PathBuf),
    /// The range is not inside the image or the target.
    #[error("bytes {at} to {} lie outside of {} ({size} bytes)", .at.saturating_add(*.len), .path.display())]
    OutOfRange {
        /// The target.
        path: PathBuf,
        /// Where the range begins.
        at: u64,
        /// Its length.
        len: u64,
        /// How far it may reach.
        size: u64,
    },
    /// What was read back is not what was written.
    #[error("{} at byte {at} reads back other bytes than were written", .path.display())]
    ReadBack {
        /// The target.
        path: PathBuf,
        /// Where the differing part begins.
        at: u64,
    },
    /// The partition table cannot be moved to the end of the target.
    #[error("fixing the partition table of {}", .path.display())]
    Gpt {
        /// The target.
        path: PathBuf,
        /// Why.
        #[source]
        source: GptError,
    },
}
