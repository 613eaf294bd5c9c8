//! The ext2, ext3 and ext4 file systems (Linux, Documentation/filesystems/ext4), read from hostile input: names, inodes, where files lie, and
//! what differs between two of them.
//!
//! What is deliberately absent: writing, checking of checksums (a comparison wants to say what is there), and replaying the journal: an image
//! that was taken while its file system was in use is read as it lies there, and [`Ext4::needs_replay`] says so.

mod attributes;
mod compare;
mod directory;
mod inode;
mod map;
mod superblock;

pub use attributes::Attribute;
pub use compare::{Change, ChangeKind, CompareLimits, Compared, trees_compare};
pub use directory::Entry;
pub use inode::{FileKind, Inode};
pub use map::Mapped;

use crate::ReadAt;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use superblock::Superblock;

/// The inode of the root directory.
pub const ROOT_INODE: u32 = 2;
/// Blocks of metadata that are kept, all together; forgotten all at once when there are more.
const CACHE_BYTES: usize = 16 << 20;

/// Why a file system, or something in it, is not read.
#[derive(Debug, thiserror::Error)]
pub enum Ext4Error {
    /// There is none.
    #[error("there is no ext2, ext3 or ext4 file system")]
    Absent,
    /// It uses something that this reader does not know.
    #[error("the ext4 file system uses {0}, which is not read")]
    Unknown(String),
    /// A structure cannot be what it says.
    #[error("the ext4 file system is damaged: {0}")]
    Damaged(String),
    /// More was read than the caller allows: hostile, or far larger than expected.
    #[error("the ext4 file system needs more than {0} bytes of metadata, which is the limit")]
    TooMuch(u64),
    /// The image could not be read.
    #[error("reading the image: {0}")]
    Io(#[from] io::Error),
}

fn damaged(what: impl Into<String>) -> Ext4Error {
    Ext4Error::Damaged(what.into())
}

/// A part of an image, such as a partition.
#[derive(Clone, Debug)]
pub struct Window<R> {
    inner: R,
    start: u64,
    len: u64,
}

impl<R: ReadAt> Window<R> {
    /// None if it reaches past the end.
    pub fn new(inner: R, start: u64, len: u64) -> Option<Self> {
        (start.checked_add(len)? <= inner.len()).then_some(Self { inner, start, len })
    }
}

impl<R: ReadAt> ReadAt for Window<R> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        match end {
            Some(_) => self.inner.read_exact_at(buf, self.start + offset),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A file system that can be read. It is for one thread.
pub struct Ext4 {
    source: Box<dyn ReadAt>,
    superblock: Superblock,
    cache: RefCell<HashMap<u64, Rc<[u8]>>>,
    read: Cell<u64>,
    most: u64,
}

impl Ext4 {
    /// Opens the file system that begins with the source. No more than `most` bytes of metadata are read from it, ever: repeated reads of what is no
    /// longer cached count again, so that no loop of pointers goes on for long.
    ///
    /// # Errors
    /// [`Ext4Error::Absent`] if there is none, [`Ext4Error::Unknown`] if it uses what is not read.
    pub fn open(source: Box<dyn ReadAt>, most: u64) -> Result<Self, Ext4Error> {
        let superblock = Superblock::read(&*source)?;
        Ok(Self { source, superblock, cache: RefCell::default(), read: Cell::new(0), most })
    }

    /// Bytes of a block.
    pub fn block_size(&self) -> u64 {
        self.superblock.block_size
    }

    /// Its UUID.
    pub fn uuid(&self) -> [u8; 16] {
        self.superblock.uuid
    }

    /// Its journal was not replayed: it was in use when the image was taken, and some of what it says may be older than it should be.
    pub fn needs_replay(&self) -> bool {
        self.superblock.needs_replay
    }

    /// Inodes that it has room for.
    pub fn inode_count(&self) -> u32 {
        self.superblock.inodes
    }

    /// A block of metadata.
    fn block(&self, number: u64) -> Result<Rc<[u8]>, Ext4Error> {
        if let Some(block) = self.cache.borrow().get(&number) {
            return Ok(Rc::clone(block));
        }
        let size = self.superblock.block_size;
        let block = self.bytes(self.block_at(number)?, size as usize)?;
        let block: Rc<[u8]> = block.into();
        let mut cache = self.cache.borrow_mut();
        if cache.len() >= CACHE_BYTES / size as usize {
            cache.clear();
        }
        cache.insert(number, Rc::clone(&block));
        Ok(block)
    }

    /// Where a block begins.
    fn block_at(&self, number: u64) -> Result<u64, Ext4Error> {
        if number == 0 || number >= self.superblock.blocks {
            return Err(damaged(format!("block {number} of {}", self.superblock.blocks)));
        }
        Ok(number * self.superblock.block_size)
    }

    /// A block that points at others. Each look counts, also at one that is cached: a few blocks can be made into a tree without end.
    fn node(&self, number: u64) -> Result<Rc<[u8]>, Ext4Error> {
        self.charge(self.superblock.block_size)?;
        self.block(number)
    }

    fn charge(&self, bytes: u64) -> Result<(), Ext4Error> {
        let read = self.read.get() + bytes;
        if read > self.most {
            return Err(Ext4Error::TooMuch(self.most));
        }
        self.read.set(read);
        Ok(())
    }

    fn bytes(&self, at: u64, len: usize) -> Result<Vec<u8>, Ext4Error> {
        self.charge(len as u64)?;
        let mut bytes = vec![0; len];
        self.source.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |two| u16::from_le_bytes([two[0], two[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}
