//! An opened target, still unchanged.

use std::path::PathBuf;

use crate::aligned::ReadBuffer;
use crate::error::DiskError;
use crate::medium::Medium;
use crate::open::{Cleanup, Shape};
use crate::writing::Writing;

/// What a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// A regular file.
    File,
    /// A block device.
    Device,
}

/// What is known about an opened target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetFacts {
    /// The path with links to a device resolved: `/dev/sda` for `/dev/disk/by-id/…`.
    pub path: PathBuf,
    /// File or device.
    pub kind: TargetKind,
    /// Its size in bytes.
    pub size: u64,
    /// Its logical sector size; for a file the image's.
    pub sector_size: u32,
    /// Bytes beyond the image, which stay untouched.
    pub tail_bytes: u64,
    /// Whether the last sector, beyond the image, holds a valid backup GPT header of an older table. It is zeroed
    /// before the first write.
    pub old_backup_gpt: bool,
    /// Whether the file was created by this opening; it is removed again unless sealed.
    pub fresh: bool,
    /// Whether reads and writes pass by the page cache. `false`: the file system refuses `O_DIRECT`, and read-back
    /// relies on the kernel dropping cached pages when told so.
    pub direct: bool,
    /// Vendor and model as the kernel knows them, control characters removed.
    pub model: Option<String>,
}

/// An opened, locked, unchanged target. Dropping it leaves everything as it was.
pub struct Target {
    /// Before `medium`, so that a file is removed while its lock is still held.
    pub(crate) cleanup: Cleanup,
    pub(crate) medium: Medium,
    pub(crate) facts: TargetFacts,
    pub(crate) shape: Shape,
}

impl Target {
    /// What is known about it.
    pub fn facts(&self) -> &TargetFacts {
        &self.facts
    }

    /// The image's size and sector size it was opened for.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Reads `len` bytes at `at`, past the page cache where [`TargetFacts::direct`]. The tail may be read too.
    ///
    /// # Errors
    /// [`DiskError::OutOfRange`] beyond the target's end, [`DiskError::Io`].
    pub fn read(&mut self, at: u64, len: usize) -> Result<&[u8], DiskError> {
        self.medium.read(at, len).map(|bytes| &*bytes)
    }

    /// As [`Target::read`], into memory that the caller keeps; several threads may read at once.
    ///
    /// # Errors
    /// As [`Target::read`].
    pub fn read_into(&self, at: u64, len: usize, into: &mut ReadBuffer) -> Result<(), DiskError> {
        self.medium.read_into(at, len, into)
    }

    /// When `at` lies in a hole of a regular file: how many bytes from there are zeros for certain, within the image.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub fn hole_at(&self, at: u64) -> Result<Option<u64>, DiskError> {
        hole_clip(self.medium.data_next(at), self.shape.size, at)
    }

    /// Begins to write. Nothing happens on the target before the first differing byte.
    ///
    /// # Errors
    /// Reading what the guarded ranges hold.
    pub fn writing(self) -> Result<Writing, DiskError> {
        Writing::begin(self)
    }
}

/// The hole from `at` to where data begins, within an image of `size` bytes.
pub(crate) fn hole_clip(data: Result<Option<u64>, DiskError>, size: u64, at: u64) -> Result<Option<u64>, DiskError> {
    let end = data?.map(|next| next.min(size));
    Ok(end.and_then(|end| end.checked_sub(at)).filter(|len| *len > 0))
}
