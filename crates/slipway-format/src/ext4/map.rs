//! Where the bytes of a file lie: extents (ext4), or blocks of pointers (ext2, ext3).

use super::{Ext4, Ext4Error, FileKind, Inode, damaged, u16_at, u32_at};

const EXTENT_MAGIC: u16 = 0xf30a;
/// An extent with a greater length is not written yet and reads as zeros.
const EXTENT_WRITTEN_MAX: u16 = 32_768;
/// The kernel never makes deeper trees.
const DEPTH_MAX: u16 = 5;
/// Runs of one file that are kept: a file of this many pieces is none that a file system made.
const RUNS_MAX: usize = 2_000_000;

/// A run of a file that is stored; what no run covers is zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Its first byte in the file.
    pub at: u64,
    /// Its first byte in the file system.
    pub disk: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// Runs in order, joined.
struct Runs {
    block_size: u64,
    list: Vec<Mapped>,
    /// The next block of the file that may come.
    next: u64,
}

impl Runs {
    fn push(&mut self, ext4: &Ext4, logical: u64, physical: u64, blocks: u64, written: bool) -> Result<(), Ext4Error> {
        // Growing without end or overlap: a tree that points at itself is found out at once.
        if logical < self.next || blocks == 0 {
            return Err(damaged(format!("block {logical} of a file comes twice")));
        }
        self.next = logical + blocks;
        if !written {
            return Ok(());
        }
        let end = physical.checked_add(blocks).filter(|end| *end <= ext4.superblock.blocks);
        if physical == 0 || end.is_none() {
            return Err(damaged(format!("a file's block {physical} lies outside")));
        }
        let run =
            Mapped { at: logical * self.block_size, disk: physical * self.block_size, len: blocks * self.block_size };
        let full = self.list.len() >= RUNS_MAX;
        match self.list.last_mut() {
            Some(last) if last.at + last.len == run.at && last.disk + last.len == run.disk => last.len += run.len,
            _ if full => return Err(damaged("a file in too many pieces")),
            _ => self.list.push(run),
        }
        Ok(())
    }
}

impl Ext4 {
    /// Where a file's, directory's or long link's bytes lie; empty for what is stored within the inode. Runs may reach past the file's
    /// end within its last block, and beyond.
    ///
    /// # Errors
    /// When the tree of extents or pointers cannot be what it says.
    pub fn runs(&self, inode: &Inode) -> Result<Vec<Mapped>, Ext4Error> {
        let stored = matches!(inode.kind, FileKind::File | FileKind::Directory | FileKind::Link);
        if !stored || inode.inline || inode.link_is_short() {
            return Ok(Vec::new());
        }
        let mut runs = Runs { block_size: self.superblock.block_size, list: Vec::new(), next: 0 };
        match inode.extents {
            true => self.extents_walk(&inode.block, None, &mut runs)?,
            false => self.pointers_walk(inode, &mut runs)?,
        }
        Ok(runs.list)
    }

    fn extents_walk(&self, node: &[u8], depth: Option<u16>, runs: &mut Runs) -> Result<(), Ext4Error> {
        let (magic, entries, here) = (u16_at(node, 0), usize::from(u16_at(node, 2)), u16_at(node, 6));
        let fits = magic == EXTENT_MAGIC && 12 + entries * 12 <= node.len();
        // Each level says how deep it is, so that no path goes on for ever.
        if !fits || here > DEPTH_MAX || depth.is_some_and(|depth| here + 1 != depth) {
            return Err(damaged("a node of an extent tree is none"));
        }
        for entry in node[12..].chunks_exact(12).take(entries) {
            let logical = u64::from(u32_at(entry, 0));
            if here == 0 {
                let len = u16_at(entry, 4);
                let written = len <= EXTENT_WRITTEN_MAX;
                let blocks = if written { len } else { len - EXTENT_WRITTEN_MAX };
                let physical = u64::from(u32_at(entry, 8)) | u64::from(u16_at(entry, 6)) << 32;
                runs.push(self, logical, physical, blocks.into(), written)?;
            } else {
                if logical < runs.next {
                    return Err(damaged("an extent tree is not in order"));
                }
                let child = u64::from(u32_at(entry, 4)) | u64::from(u16_at(entry, 8)) << 32;
                let before = runs.next;
                self.extents_walk(&self.node(child)?, Some(here), runs)?;
                // A node without extents moves nothing on, and could be repeated at will.
                if runs.next == before {
                    return Err(damaged("an empty node in an extent tree"));
                }
            }
        }
        Ok(())
    }

    fn pointers_walk(&self, inode: &Inode, runs: &mut Runs) -> Result<(), Ext4Error> {
        let per_block = self.superblock.block_size / 4;
        let wanted = inode.size.div_ceil(self.superblock.block_size);
        let mut logical = 0;
        for slot in 0..15 {
            let pointer = u32_at(&inode.block, slot * 4);
            let level = slot.saturating_sub(11) as u32;
            self.pointer_walk(pointer, level, logical, wanted, runs)?;
            logical += per_block.pow(level);
        }
        Ok(())
    }

    fn pointer_walk(
        &self,
        pointer: u32,
        level: u32,
        logical: u64,
        wanted: u64,
        runs: &mut Runs,
    ) -> Result<(), Ext4Error> {
        if pointer == 0 || logical >= wanted {
            return Ok(());
        }
        if level == 0 {
            return runs.push(self, logical, pointer.into(), 1, true);
        }
        let per_block = self.superblock.block_size / 4;
        let (block, before) = (self.node(pointer.into())?, runs.next);
        for (index, raw) in block.chunks_exact(4).enumerate() {
            let at = logical + index as u64 * per_block.pow(level - 1);
            self.pointer_walk(u32_at(raw, 0), level - 1, at, wanted, runs)?;
        }
        match runs.next > before {
            true => Ok(()),
            false => Err(damaged(format!("block {pointer} of a file points at nothing"))),
        }
    }

    /// Fills `buf` with a file's bytes from `at` on, zeros where nothing is stored. `runs` are those of the file. Its bytes do not count as
    /// metadata.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn file_read(&self, inode: &Inode, runs: &[Mapped], at: u64, buf: &mut [u8]) -> Result<(), Ext4Error> {
        buf.fill(0);
        if inode.inline {
            let data = self.inline_data(inode)?;
            let from = usize::try_from(at).unwrap_or(usize::MAX).min(data.len());
            let len = buf.len().min(data.len() - from);
            buf[..len].copy_from_slice(&data[from..from + len]);
            return Ok(());
        }
        let end = at + buf.len() as u64;
        let first = runs.partition_point(|run| run.at + run.len <= at);
        for run in runs[first..].iter().take_while(|run| run.at < end) {
            let (from, until) = (run.at.max(at), (run.at + run.len).min(end));
            let part = &mut buf[(from - at) as usize..(until - at) as usize];
            self.source.read_exact_at(part, run.disk + (from - run.at))?;
        }
        Ok(())
    }

    /// What a symbolic link says.
    ///
    /// # Errors
    /// When it is longer than a block, or cannot be read.
    pub fn link_read(&self, inode: &Inode) -> Result<Vec<u8>, Ext4Error> {
        if inode.size > self.superblock.block_size {
            return Err(damaged(format!("a link of {} bytes", inode.size)));
        }
        if inode.link_is_short() {
            return Ok(inode.block[..(inode.size as usize).min(60)].to_vec());
        }
        let mut target = vec![0; inode.size as usize];
        self.file_read(inode, &self.runs(inode)?, 0, &mut target)?;
        Ok(target)
    }
}

impl Inode {
    /// A link that stands where others have their pointers.
    fn link_is_short(&self) -> bool {
        self.kind == FileKind::Link && self.size < 60 && !self.inline && !self.extents
    }
}
