use super::{Ext4, Ext4Error, damaged, u16_at, u32_at};
use crate::ReadAt;

const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_LEN: usize = 1024;
const MAGIC: u16 = 0xef53;

const SPARSE_SUPER2: u32 = 0x200;
const FILETYPE: u32 = 0x2;
const RECOVER: u32 = 0x4;
const META_BG: u32 = 0x10;
const EXTENTS: u32 = 0x40;
const BITS_64: u32 = 0x80;
const MMP: u32 = 0x100;
const FLEX_BG: u32 = 0x200;
const EA_INODE: u32 = 0x400;
const CSUM_SEED: u32 = 0x2000;
const LARGEDIR: u32 = 0x4000;
const INLINE_DATA: u32 = 0x8000;
const ENCRYPT: u32 = 0x1_0000;
const CASEFOLD: u32 = 0x2_0000;
/// Features that change how it is read, and that are known here.
const KNOWN: u32 = FILETYPE
    | RECOVER
    | META_BG
    | EXTENTS
    | BITS_64
    | MMP
    | FLEX_BG
    | EA_INODE
    | CSUM_SEED
    | LARGEDIR
    | INLINE_DATA
    | ENCRYPT
    | CASEFOLD;
const SPARSE_SUPER: u32 = 0x1;

/// What is needed of the superblock.
#[derive(Debug)]
pub(super) struct Superblock {
    pub(super) block_size: u64,
    pub(super) blocks: u64,
    pub(super) inodes: u32,
    pub(super) inode_size: u64,
    pub(super) uuid: [u8; 16],
    pub(super) needs_replay: bool,
    inodes_per_group: u32,
    blocks_per_group: u64,
    first_data_block: u64,
    descriptor_len: u64,
    first_meta_group: Option<u64>,
    sparse: bool,
    backups: Option<[u32; 2]>,
}

impl Superblock {
    pub(super) fn read(source: &dyn ReadAt) -> Result<Self, Ext4Error> {
        if source.len() < SUPERBLOCK_AT + SUPERBLOCK_LEN as u64 {
            return Err(Ext4Error::Absent);
        }
        let mut raw = vec![0; SUPERBLOCK_LEN];
        source.read_exact_at(&mut raw, SUPERBLOCK_AT)?;
        if u16_at(&raw, 0x38) != MAGIC {
            return Err(Ext4Error::Absent);
        }
        let (compat, incompat, ro_compat) = (u32_at(&raw, 0x5c), u32_at(&raw, 0x60), u32_at(&raw, 0x64));
        let old = u32_at(&raw, 0x4c) == 0;
        if !old && incompat & !KNOWN != 0 {
            return Err(Ext4Error::Unknown(format!("features {:#x}", incompat & !KNOWN)));
        }
        let log = u32_at(&raw, 0x18);
        if log > 6 {
            return Err(damaged(format!("blocks of 2^{} KiB", log)));
        }
        let block_size = 1024u64 << log;
        let wide = !old && incompat & BITS_64 != 0;
        let high = if wide { u64::from(u32_at(&raw, 0x150)) << 32 } else { 0 };
        let said = high | u64::from(u32_at(&raw, 0x4));
        // What lies behind the end of the image cannot be read, whatever the superblock says.
        let blocks = said.min(source.len() / block_size);
        let inode_size = if old { 128 } else { u64::from(u16_at(&raw, 0x58)) };
        if !inode_size.is_power_of_two() || inode_size < 128 || inode_size > block_size {
            return Err(damaged(format!("inodes of {inode_size} bytes")));
        }
        let descriptor_len = match (wide, u64::from(u16_at(&raw, 0xfe))) {
            (false, _) | (true, 0) => 32,
            (true, len) if len.is_power_of_two() && (32..=1024).contains(&len) => len,
            (true, len) => return Err(damaged(format!("group descriptors of {len} bytes"))),
        };
        let (blocks_per_group, inodes_per_group) = (u64::from(u32_at(&raw, 0x20)), u32_at(&raw, 0x28));
        if blocks_per_group == 0 || inodes_per_group == 0 {
            return Err(damaged("groups without blocks or inodes"));
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&raw[0x68..0x78]);
        let sparse2 = compat & SPARSE_SUPER2 != 0;
        Ok(Self {
            block_size,
            blocks,
            inodes: u32_at(&raw, 0),
            inode_size,
            uuid,
            needs_replay: !old && incompat & RECOVER != 0,
            inodes_per_group,
            blocks_per_group,
            first_data_block: u64::from(u32_at(&raw, 0x14)),
            descriptor_len,
            first_meta_group: (!old && incompat & META_BG != 0).then(|| u64::from(u32_at(&raw, 0x104))),
            sparse: old || ro_compat & SPARSE_SUPER != 0,
            backups: sparse2.then(|| [u32_at(&raw, 0x24c), u32_at(&raw, 0x250)]),
        })
    }

    /// The block that descriptor block `index` lies in.
    fn descriptor_block(&self, index: u64) -> u64 {
        match self.first_meta_group {
            Some(first) if index >= first => {
                let group = index * (self.block_size / self.descriptor_len);
                let start = self.first_data_block.saturating_add(group.saturating_mul(self.blocks_per_group));
                start.saturating_add(u64::from(self.has_superblock(group)))
            }
            _ => self.first_data_block.saturating_add(1).saturating_add(index),
        }
    }

    /// Whether a group begins with a copy of the superblock.
    fn has_superblock(&self, group: u64) -> bool {
        if let Some(backups) = self.backups {
            return group == 0 || backups.iter().any(|backup| u64::from(*backup) == group);
        }
        let power = |base: u64| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        };
        group <= 1 || !self.sparse || [3, 5, 7].into_iter().any(power)
    }
}

impl Ext4 {
    /// Where an inode's bytes begin; none if its group says that none of its inodes was ever used.
    pub(super) fn inode_at(&self, number: u32) -> Result<u64, Ext4Error> {
        let superblock = &self.superblock;
        if number == 0 || number > superblock.inodes {
            return Err(damaged(format!("inode {number} of {}", superblock.inodes)));
        }
        let (group, index) = ((number - 1) / superblock.inodes_per_group, (number - 1) % superblock.inodes_per_group);
        let per_block = superblock.block_size / superblock.descriptor_len;
        let block = self.block(superblock.descriptor_block(u64::from(group) / per_block))?;
        let at = (u64::from(group) % per_block * superblock.descriptor_len) as usize;
        let descriptor = &block[at..at + superblock.descriptor_len as usize];
        let high = if superblock.descriptor_len >= 64 { u64::from(u32_at(descriptor, 0x28)) << 32 } else { 0 };
        let table = high | u64::from(u32_at(descriptor, 0x8));
        let within = u64::from(index) * superblock.inode_size;
        let block = table.saturating_add(within / superblock.block_size);
        Ok(self.block_at(block)? + within % superblock.block_size)
    }
}
