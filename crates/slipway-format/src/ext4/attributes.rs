//! Extended attributes, and what is stored as one: the rest of small data within the inode.

use super::{Ext4, Ext4Error, Inode, damaged, u16_at, u32_at};

const MAGIC: u32 = 0xea02_0000;
const HEADER_LEN: usize = 32;
const ENTRY_LEN: usize = 16;
/// The name index of `system`; its `data` is the rest of the inode's inline data.
const INDEX_SYSTEM: u8 = 7;

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attribute {
    /// Its prefix and name, as `user.note`; a prefix without a name is a number.
    pub name: Vec<u8>,
    /// Its value; of one that has an inode of its own only a checksum and the length.
    pub value: Vec<u8>,
}

fn prefix(index: u8) -> Option<&'static str> {
    Some(match index {
        0 => "",
        1 => "user.",
        2 => "system.posix_acl_access",
        3 => "system.posix_acl_default",
        4 => "trusted.",
        6 => "security.",
        INDEX_SYSTEM => "system.",
        8 => "system.richacl",
        _ => return None,
    })
}

/// Hears prefix index, name and value of each attribute.
type Each<'a> = &'a mut dyn FnMut(u8, &[u8], Vec<u8>);

/// Reads entries from `list` on; values lie relative to `base`.
fn entries_read(list: &[u8], base: &[u8], each: Each<'_>) -> Result<(), Ext4Error> {
    let mut at = 0;
    while list.len() >= at + ENTRY_LEN && u32_at(list, at) != 0 {
        let (name_len, index) = (usize::from(list[at]), list[at + 1]);
        let name = list.get(at + ENTRY_LEN..at + ENTRY_LEN + name_len);
        let name = name.ok_or_else(|| damaged("the name of an attribute reaches too far"))?;
        let (offset, inode) = (usize::from(u16_at(list, at + 2)), u32_at(list, at + 4));
        let (size, hash) = (u32_at(list, at + 8) as usize, u32_at(list, at + 12));
        let value = match inode {
            0 if size == 0 => Vec::new(),
            0 => {
                let value = offset.checked_add(size).and_then(|end| base.get(offset..end));
                value.ok_or_else(|| damaged("the value of an attribute reaches too far"))?.to_vec()
            }
            // The kernel's own hash over the value.
            _ => [hash.to_le_bytes(), (size as u32).to_le_bytes()].concat(),
        };
        each(index, name, value);
        at += ENTRY_LEN + name_len.next_multiple_of(4);
    }
    Ok(())
}

impl Ext4 {
    fn attributes_each(&self, inode: &Inode, each: Each<'_>) -> Result<(), Ext4Error> {
        if u32_at(&inode.extra, 0) == MAGIC {
            let list = &inode.extra[4..];
            entries_read(list, list, each)?;
        }
        if inode.attributes_block != 0 {
            let block = self.block(inode.attributes_block)?;
            if u32_at(&block, 0) != MAGIC {
                return Err(damaged(format!("block {} holds no attributes", inode.attributes_block)));
            }
            entries_read(&block[HEADER_LEN..], &block, each)?;
        }
        Ok(())
    }

    /// All extended attributes, in order of their names.
    ///
    /// # Errors
    /// When they are not where they should be.
    pub fn attributes(&self, inode: &Inode) -> Result<Vec<Attribute>, Ext4Error> {
        let mut all = Vec::new();
        self.attributes_each(inode, &mut |index, name, value| {
            if index == INDEX_SYSTEM && name == b"data" {
                return;
            }
            let prefix = prefix(index).map_or_else(|| format!("{index}."), str::to_owned);
            all.push(Attribute { name: [prefix.as_bytes(), name].concat(), value });
        })?;
        all.sort();
        Ok(all)
    }

    /// The bytes of a file or directory that lie within its inode.
    pub(super) fn inline_data(&self, inode: &Inode) -> Result<Vec<u8>, Ext4Error> {
        let mut data = inode.block.to_vec();
        self.attributes_each(inode, &mut |index, name, value| {
            if index == INDEX_SYSTEM && name == b"data" {
                data.extend_from_slice(&value);
            }
        })?;
        data.truncate(usize::try_from(inode.size).unwrap_or(usize::MAX));
        Ok(data)
    }
}
