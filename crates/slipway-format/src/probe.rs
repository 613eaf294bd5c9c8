//! A look at the first bytes of an image: which partition table, which file system, which sector size.

use crate::gpt::parse_header;
use crate::mbr::mbr_parse;

/// How many bytes [`probe`] can use; fewer tell less. The farthest magic is btrfs's at 64 KiB.
pub const PROBE_LEN: usize = 128 << 10;

/// The partition table of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionTable {
    /// None: a bare file system, or nothing.
    None,
    /// A master boot record.
    Mbr,
    /// A GUID partition table, its primary header valid, in sectors of this size.
    Gpt {
        /// 512 or 4096.
        sector_size: u32,
    },
}

/// What the first bytes say. A guess for people and defaults: nothing is decided by it that could lose bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// The partition table.
    pub table: PartitionTable,
    /// The file system that fills the image, as `blkid` and `mount -t` call it.
    pub file_system: Option<&'static str>,
    /// The logical sector size of the disk the image was made for, when something in it depends on one.
    pub sector_size_hint: Option<u32>,
}

/// Looks at the beginning of an image ([`PROBE_LEN`] bytes, or all there are).
pub fn probe(first: &[u8]) -> Probe {
    let gpt_at = |sector_size: usize| {
        let sector = first.get(sector_size..2 * sector_size)?;
        parse_header(sector).ok().filter(|header| header.my_lba == 1)
    };
    let table = match (gpt_at(512), gpt_at(4096)) {
        (Some(_), None) => PartitionTable::Gpt { sector_size: 512 },
        (None, Some(_)) => PartitionTable::Gpt { sector_size: 4096 },
        // Both valid is a relic beside a table. The one whose usable range leaves the other's sector out of
        // the partitions cannot be told from here, so the common size is taken.
        (Some(_), Some(_)) => PartitionTable::Gpt { sector_size: 512 },
        (None, None) => PartitionTable::None,
    };
    let file_system = file_system(first);
    let table = match table {
        PartitionTable::None if file_system.is_none() && mbr_parse(first).is_some() => PartitionTable::Mbr,
        other => other,
    };
    let sector_size_hint = match table {
        PartitionTable::Gpt { sector_size } => Some(sector_size),
        PartitionTable::None if file_system == Some("vfat") => {
            fat_sector_size(first).filter(|size| matches!(size, 512 | 4096))
        }
        PartitionTable::None | PartitionTable::Mbr => None,
    };
    Probe {
        file_system: match table {
            // Leftovers of an older file system do not describe a partitioned disk.
            PartitionTable::Gpt { .. } | PartitionTable::Mbr => None,
            PartitionTable::None => file_system,
        },
        table,
        sector_size_hint,
    }
}

fn has(first: &[u8], at: usize, magic: &[u8]) -> bool {
    first.get(at..at + magic.len()) == Some(magic)
}

fn u32_at(first: &[u8], at: usize) -> Option<u32> {
    let bytes = first.get(at..at + 4)?;
    Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn file_system(first: &[u8]) -> Option<&'static str> {
    if has(first, 0, b"XFSB") {
        return Some("xfs");
    }
    if has(first, 0, b"hsqs") {
        return Some("squashfs");
    }
    if has(first, 0x1_0040, b"_BHRfS_M") {
        return Some("btrfs");
    }
    if let Some(found) = ext(first) {
        return Some(found);
    }
    if [4096, 8192, 16384, 65536].iter().any(|page| has(first, page - 10, b"SWAPSPACE2")) {
        return Some("swap");
    }
    fat_sector_size(first).map(|_| "vfat")
}

/// The ext family by its features, as `blkid` tells them apart: journal, and what ext3 does not know.
fn ext(first: &[u8]) -> Option<&'static str> {
    const SUPERBLOCK: usize = 1024;
    const COMPAT_JOURNAL: u32 = 0x4;
    const INCOMPAT_EXT3: u32 = 0x2 | 0x4 | 0x10;
    const RO_COMPAT_EXT3: u32 = 0x1 | 0x2 | 0x4;
    if !has(first, SUPERBLOCK + 56, &[0x53, 0xef]) {
        return None;
    }
    let compat = u32_at(first, SUPERBLOCK + 92)?;
    let incompat = u32_at(first, SUPERBLOCK + 96)?;
    let ro_compat = u32_at(first, SUPERBLOCK + 100)?;
    Some(if incompat & !INCOMPAT_EXT3 != 0 || ro_compat & !RO_COMPAT_EXT3 != 0 {
        "ext4"
    } else if compat & COMPAT_JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    })
}

/// The bytes per sector of a FAT boot sector, `None` when it is none.
fn fat_sector_size(first: &[u8]) -> Option<u32> {
    let boot = first.get(..512)?;
    let named = has(first, 54, b"FAT12   ") || has(first, 54, b"FAT16   ") || has(first, 82, b"FAT32   ");
    let jump = boot[0] == 0xe9 || (boot[0] == 0xeb && boot[2] == 0x90);
    let size = u32::from(u16::from_le_bytes([boot[11], boot[12]]));
    let cluster = boot[13];
    (named
        && jump
        && boot[510..] == [0x55, 0xaa]
        && matches!(size, 512 | 1024 | 2048 | 4096)
        && cluster.is_power_of_two())
    .then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpt::Header;
    use crate::mbr::protective_mbr;

    fn image(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; PROBE_LEN];
        for (at, part) in parts {
            bytes[*at..at + part.len()].copy_from_slice(part);
        }
        bytes
    }

    fn gpt(sector_size: u32) -> Vec<u8> {
        let header = Header {
            my_lba: 1,
            alternate_lba: 9999,
            first_usable_lba: 34,
            last_usable_lba: 9900,
            disk_guid: uuid::Uuid::from_u128(1),
            entries_lba: 2,
            entry_count: 128,
            entry_len: 128,
            entries_crc: 0,
        };
        header.encode(sector_size)
    }

    fn fat(sector_size: u16) -> Vec<u8> {
        let mut boot = vec![0; 512];
        boot[..3].copy_from_slice(&[0xeb, 0x58, 0x90]);
        boot[11..13].copy_from_slice(&sector_size.to_le_bytes());
        boot[13] = 8;
        boot[82..90].copy_from_slice(b"FAT32   ");
        boot[510..].copy_from_slice(&[0x55, 0xaa]);
        boot
    }

    #[test]
    fn rows() {
        fn check(bytes: &[u8], table: PartitionTable, file_system: Option<&str>, hint: Option<u32>) {
            let found = probe(bytes);
            assert_eq!((found.table, found.file_system, found.sector_size_hint), (table, file_system, hint));
        }
        let none = PartitionTable::None;
        check(&[], none, None, None);
        check(&[0; 100], none, None, None);
        check(&image(&[]), none, None, None);
        check(&image(&[(0, b"XFSB")]), none, Some("xfs"), None);
        check(&image(&[(0, b"hsqs")]), none, Some("squashfs"), None);
        check(&image(&[(0x1_0040, b"_BHRfS_M")]), none, Some("btrfs"), None);
        check(&image(&[(4086, b"SWAPSPACE2")]), none, Some("swap"), None);
        check(&image(&[(1080, &[0x53, 0xef])]), none, Some("ext2"), None);
        check(&image(&[(1080, &[0x53, 0xef]), (1116, &[4])]), none, Some("ext3"), None);
        check(&image(&[(1080, &[0x53, 0xef]), (1116, &[4]), (1120, &[0x42])]), none, Some("ext4"), None);
        check(&image(&[(0, &fat(512))]), none, Some("vfat"), Some(512));
        check(&image(&[(0, &fat(4096))]), none, Some("vfat"), Some(4096));
        check(&image(&[(0, &fat(513))]), none, None, None);
        let small = PartitionTable::Gpt { sector_size: 512 };
        let large = PartitionTable::Gpt { sector_size: 4096 };
        check(&image(&[(0, &protective_mbr(10_000)), (512, &gpt(512))]), small, None, Some(512));
        check(&image(&[(0, &protective_mbr(10_000)), (4096, &gpt(4096))]), large, None, Some(4096));
        check(&image(&[(512, &gpt(512)), (1080, &[0x53, 0xef])]), small, None, Some(512));
        check(&image(&[(512, &gpt(512)), (4096, &gpt(4096))]), small, None, Some(512));
        check(&image(&[(0, &protective_mbr(10_000))]), PartitionTable::Mbr, None, None);
        let mut bad = gpt(512);
        bad[60] ^= 1;
        check(&image(&[(0, &protective_mbr(10_000)), (512, &bad)]), PartitionTable::Mbr, None, None);
    }

    #[test]
    fn cut_anywhere() {
        let whole = image(&[(0, &fat(512)), (512, &gpt(512)), (1080, &[0x53, 0xef])]);
        for len in (0..5000).chain([65_600, 65_608, PROBE_LEN]) {
            let found = probe(&whole[..len]);
            assert_eq!(found.table != PartitionTable::None, len >= 1024, "{len}");
        }
    }
}
