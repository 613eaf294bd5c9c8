//! A virtual disk inside a container file, whatever the container.

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use slipway_chunk::{Fill, SparseRead};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A container file's bytes, read at any place. Its length does not change while it is read.
pub trait ReadAt: Send {
    /// Bytes of the container.
    fn len(&self) -> u64;

    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] past the end.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// The first byte from `offset` on that may be other than zero; none when only zeros follow. Who does not know says `offset`.
    fn data_next(&self, offset: u64) -> Option<u64> {
        Some(offset)
    }

    /// Whether there is nothing in it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A file as it was long when it was opened.
#[derive(Debug)]
pub struct FileAt {
    file: File,
    len: u64,
}

impl FileAt {
    /// Takes an open file; nothing else is ever opened by what is read from it.
    ///
    /// # Errors
    /// When its length cannot be had.
    pub fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file, len })
    }

    /// Takes only the first `len` bytes of an open file, which are there.
    pub fn with_len(file: File, len: u64) -> Self {
        Self { file, len }
    }

    /// What the system says of the file.
    ///
    /// # Errors
    /// When it says nothing.
    pub fn metadata(&self) -> io::Result<std::fs::Metadata> {
        self.file.metadata()
    }
}

impl ReadAt for FileAt {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(buf, offset)
    }

    fn data_next(&self, offset: u64) -> Option<u64> {
        // The descriptor's own position, which this moves, is used by nothing.
        match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(at) => Some(at.max(offset)),
            Err(Errno::NXIO) => None,
            Err(_) => Some(offset),
        }
    }
}

impl ReadAt for Vec<u8> {
    fn len(&self) -> u64 {
        self.as_slice().len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= ReadAt::len(self));
        let Some(end) = end else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        buf.copy_from_slice(&self[offset as usize..end as usize]);
        Ok(())
    }
}

/// A raw disk as a container describes it. Opening one has checked the container's tables.
pub trait Disk: Send {
    /// Bytes of the raw disk.
    fn size(&self) -> u64;

    /// 512 or 4096.
    fn sector_size(&self) -> u32 {
        512
    }

    /// Fills the front of `buf` (never empty) with the disk's bytes from `offset` (below [`size`](Self::size)) on, or names a hole
    /// there. Holes begin and end as [`SparseRead::fill`] asks, if `offset` is a multiple of [`slipway_chunk::BLOCK`].
    ///
    /// # Errors
    /// An [`io::Error`] that carries a [`DiskError`] when the container is at fault.
    fn fill_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<Fill>;
}

/// Why a container is not read. Carried inside an [`io::Error`] where it comes up while reading.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// There is nothing in it.
    #[error("it is empty: an image has at least one byte")]
    Empty,
    /// It is not what somebody says that it is.
    #[error("it is no {what}")]
    Not {
        /// "xz stream", "qcow2 image".
        what: &'static str,
    },
    /// It asks for something that is refused on principle, such as another file.
    #[error("this {format} image is refused: {reason}")]
    Refused {
        /// The container's name, as people write it.
        format: &'static str,
        /// What it asks for, and what to do instead.
        reason: String,
    },
    /// Its tables or streams are damaged, or contradict each other.
    #[error("this {format} image is damaged: {reason}")]
    Damaged {
        /// The container's name, as people write it.
        format: &'static str,
        /// What is wrong where.
        reason: String,
    },
    /// Its disk is larger than the caller allows.
    #[error("this {format} image holds a disk of {size} bytes, more than the {cap} that are allowed")]
    TooLarge {
        /// The container's name, as people write it.
        format: &'static str,
        /// Bytes of the raw disk.
        size: u64,
        /// The cap in bytes.
        cap: u64,
    },
    /// The container's file could not be read.
    #[error("reading the {format} image: {source}")]
    Io {
        /// The container's name, as people write it.
        format: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl From<DiskError> for io::Error {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::Io { source, .. } => source,
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// Reads a disk once from front to back.
pub struct DiskReading<D> {
    disk: D,
    at: u64,
}

impl<D: Disk> DiskReading<D> {
    /// Begins at the front.
    pub fn new(disk: D) -> Self {
        Self { disk, at: 0 }
    }
}

impl<D: Disk> SparseRead for DiskReading<D> {
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<Fill> {
        if self.at >= self.disk.size() {
            return Ok(Fill::End);
        }
        let fill = self.disk.fill_at(self.at, buf)?;
        self.at += match fill {
            Fill::Data(len) => len as u64,
            Fill::Hole(len) => len,
            Fill::End => 0,
        };
        Ok(fill)
    }
}

impl<D: Disk + ?Sized> Disk for Box<D> {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn sector_size(&self) -> u32 {
        (**self).sector_size()
    }

    fn fill_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<Fill> {
        (**self).fill_at(offset, buf)
    }
}
