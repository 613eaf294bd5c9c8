use super::{Ext4, Ext4Error, FileKind, Inode, damaged, u16_at, u32_at};
use std::collections::BTreeMap;

/// Bytes of one directory that are read.
const DIRECTORY_MAX: u64 = 1 << 30;

/// What a directory says of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The inode.
    pub inode: u32,
}

impl Ext4 {
    /// The names in a directory, without `.` and `..`, and at most `most` of them.
    ///
    /// # Errors
    /// When it is no directory, has too many names, or its blocks are not what they should be.
    pub fn directory(&self, inode: &Inode, most: usize) -> Result<BTreeMap<Vec<u8>, Entry>, Ext4Error> {
        if inode.kind != FileKind::Directory {
            return Err(damaged(format!("inode {} is no directory", inode.number)));
        }
        let mut names = BTreeMap::new();
        if inode.is_inline() {
            // Instead of `.` and `..` there is the parent's number alone. The two parts are lists of their own.
            let data = self.inline_data(inode)?;
            let (first, second) = data.split_at(data.len().min(60));
            self.names_read(first.get(4..).unwrap_or_default(), most, &mut names)?;
            self.names_read(second, most, &mut names)?;
            return Ok(names);
        }
        let size = self.superblock.block_size;
        let runs = self.runs(inode)?;
        if inode.size > DIRECTORY_MAX {
            return Err(damaged(format!("a directory of {} bytes", inode.size)));
        }
        for run in runs {
            for index in 0..run.len / size {
                if run.at + index * size >= inode.size {
                    break;
                }
                // The nodes of a directory's index look like empty lists, which is what they are for.
                let block = self.block(run.disk / size + index)?;
                self.names_read(&block, most, &mut names)?;
            }
        }
        Ok(names)
    }

    fn names_read(&self, list: &[u8], most: usize, names: &mut BTreeMap<Vec<u8>, Entry>) -> Result<(), Ext4Error> {
        let mut at = 0;
        while at + 8 <= list.len() {
            let (inode, stride) = (u32_at(list, at), usize::from(u16_at(list, at + 4)));
            // Without file types its length has two bytes, of which the second is always zero, or a type all the same.
            let name_len = usize::from(list[at + 6]);
            // The length of a whole block of 64 KiB does not fit; it is written as 0 or 65535.
            let stride = match stride {
                0 | 0xffff if list.len() >= 0x1_0000 => list.len() - at,
                stride => stride,
            };
            if stride < 8 || at + stride > list.len() {
                return Err(damaged("an entry of a directory reaches too far"));
            }
            if inode != 0 {
                let name = list.get(at + 8..at + 8 + name_len).filter(|_| 8 + name_len <= stride);
                let name = name.ok_or_else(|| damaged("a name in a directory reaches too far"))?;
                // A slash or a zero in a name is nothing that a kernel writes, but names are only shown here, so it is told as it is.
                if name.is_empty() {
                    return Err(damaged("an entry of a directory has no name"));
                }
                if name != b"." && name != b".." {
                    if names.len() >= most {
                        return Err(damaged(format!("a directory with more than {most} names")));
                    }
                    if names.insert(name.to_vec(), Entry { inode }).is_some() {
                        return Err(damaged("a name stands twice in a directory"));
                    }
                }
            }
            at += stride;
        }
        Ok(())
    }
}
