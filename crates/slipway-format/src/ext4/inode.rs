use super::{Ext4, Ext4Error, u16_at, u32_at};
use std::rc::Rc;

const FLAG_EXTENTS: u32 = 0x8_0000;
const FLAG_INLINE: u32 = 0x1000_0000;
/// Flags that say how a file is stored, not what it is: two files that differ only in them are the same to who reads them.
const FLAGS_OF_STORAGE: u32 = FLAG_EXTENTS | FLAG_INLINE | 0x1000 | 0x4_0000 | 0x20_0000;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A pipe.
    Pipe,
    /// A socket.
    Socket,
    /// Nothing that there is.
    Other,
}

/// An inode: what a file is, without its name and bytes.
#[derive(Clone, Debug)]
pub struct Inode {
    /// Its number.
    pub number: u32,
    /// What it is.
    pub kind: FileKind,
    /// Permissions, with set-id and sticky bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Names that it has.
    pub links: u16,
    /// When its bytes last changed, in nanoseconds since 1970.
    pub modified: i128,
    /// When it was made, if the file system says so.
    pub created: Option<i128>,
    /// A number that changes when an inode is used again.
    pub generation: u32,
    /// Flags that people set, such as immutable.
    pub flags: u32,
    pub(super) extents: bool,
    pub(super) inline: bool,
    /// The 60 bytes that hold pointers, extents or small data.
    pub(super) block: [u8; 60],
    pub(super) attributes_block: u64,
    /// Of extended attributes within the inode.
    pub(super) extra: Rc<[u8]>,
}

impl Inode {
    /// For a device: major and minor number.
    pub fn device(&self) -> Option<(u32, u32)> {
        if !matches!(self.kind, FileKind::Character | FileKind::Block) {
            return None;
        }
        let (old, new) = (u32_at(&self.block, 0), u32_at(&self.block, 4));
        match old {
            0 => Some(((new & 0xf_ff00) >> 8, (new & 0xff) | ((new >> 12) & 0xf_ff00))),
            old => Some(((old >> 8) & 0xff, old & 0xff)),
        }
    }

    /// Its bytes lie within the inode.
    pub fn is_inline(&self) -> bool {
        self.inline
    }
}

impl Ext4 {
    /// An inode.
    ///
    /// # Errors
    /// When there is no such inode, or its bytes cannot be read.
    pub fn inode(&self, number: u32) -> Result<Inode, Ext4Error> {
        let at = self.inode_at(number)?;
        let (size, block_size) = (self.superblock.inode_size as usize, self.superblock.block_size);
        // Inodes never cross blocks.
        let block = self.block(at / block_size)?;
        let within = (at % block_size) as usize;
        let raw = &block[within..within + size];
        let mode = u16_at(raw, 0);
        let extra_len = if size > 128 { usize::from(u16_at(raw, 0x80)) } else { 0 };
        let has = |end: usize| size > 128 && 128 + extra_len >= end;
        let seconds = |low: usize, extra: usize| {
            let (low, more) = (u32_at(raw, low) as i32, if has(extra + 4) { u32_at(raw, extra) } else { 0 });
            let seconds = i64::from(low) + (i64::from(more & 3) << 32);
            i128::from(seconds) * 1_000_000_000 + i128::from(more >> 2)
        };
        let flags = u32_at(raw, 0x20);
        let kind = kind_of(mode);
        let high =
            if matches!(kind, FileKind::File | FileKind::Directory) { u64::from(u32_at(raw, 0x6c)) << 32 } else { 0 };
        let mut pointers = [0; 60];
        pointers.copy_from_slice(&raw[0x28..0x64]);
        let extra = match size > 128 && 128 + extra_len + 4 <= size {
            true => raw[128 + extra_len..].into(),
            false => Rc::from(&[][..]),
        };
        Ok(Inode {
            number,
            kind,
            mode: mode & 0o7777,
            uid: u32::from(u16_at(raw, 0x2)) | u32::from(u16_at(raw, 0x78)) << 16,
            gid: u32::from(u16_at(raw, 0x18)) | u32::from(u16_at(raw, 0x7a)) << 16,
            size: high | u64::from(u32_at(raw, 0x4)),
            links: u16_at(raw, 0x1a),
            modified: seconds(0x10, 0x88),
            created: has(0x98).then(|| seconds(0x90, 0x94)),
            generation: u32_at(raw, 0x64),
            flags: flags & !FLAGS_OF_STORAGE,
            extents: flags & FLAG_EXTENTS != 0,
            inline: flags & FLAG_INLINE != 0,
            block: pointers,
            attributes_block: u64::from(u32_at(raw, 0x68)) | u64::from(u16_at(raw, 0x76)) << 32,
            extra,
        })
    }
}

fn kind_of(mode: u16) -> FileKind {
    match mode & 0xf000 {
        0x8000 => FileKind::File,
        0x4000 => FileKind::Directory,
        0xa000 => FileKind::Link,
        0x2000 => FileKind::Character,
        0x6000 => FileKind::Block,
        0x1000 => FileKind::Pipe,
        0xc000 => FileKind::Socket,
        _ => FileKind::Other,
    }
}
