//! Connectix's and Microsoft's VHD, fixed and dynamic (Virtual Hard Disk Image Format Specification 1.0, 2006).

use crate::blocks::{Blocks, Map, Place};
use crate::container::{Claims, Container, Pages, be16, be32, be64};
use crate::{Disk, DiskError, Limits, ReadAt};

const FORMAT: &str = "VHD";
const SECTOR: u64 = 512;
const FOOTER_LEN: u64 = 512;
const HEADER_LEN: usize = 1024;
const VERSION: u32 = 0x0001_0000;
/// Bit 0 is "temporary", bit 1 is always set.
const FEATURES: u32 = 3;
const UNUSED: u32 = u32::MAX;
const BLOCK_MIN: u32 = 4096;
const BLOCK_MAX: u32 = 256 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Fixed,
    Dynamic { header_at: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Footer {
    kind: Kind,
    size: u64,
}

/// Opens a VHD. What has a footer in front is dynamic, what has one only at the end is fixed.
pub(crate) fn vhd_open(bytes: Box<dyn ReadAt>, limits: &Limits) -> Result<Box<dyn Disk>, DiskError> {
    let container = Container::new(FORMAT, bytes);
    let last_at = container.len().saturating_sub(FOOTER_LEN);
    let front = container.part("the footer's copy", 0, FOOTER_LEN as usize)?;
    let last = container.part("the footer", last_at, FOOTER_LEN as usize)?;
    if !last.starts_with(b"conectix") {
        return Err(container.damaged(format!(
            "there is no footer in its last 512 bytes (at byte {last_at}): it was cut off, or something was added to it"
        )));
    }
    let footer = footer_parse(&container, &last, "the footer at the end")?;
    limits.size_check(FORMAT, footer.size)?;
    match footer.kind {
        Kind::Fixed => {
            container.range_check("the disk before the footer", 0, footer.size.saturating_add(FOOTER_LEN))?;
            Ok(Box::new(Blocks { container, map: Flat, size: footer.size, sector_size: SECTOR as u32 }))
        }
        Kind::Dynamic { header_at } => {
            if !front.starts_with(b"conectix") {
                return Err(container.damaged("the copy of the footer at byte 0 is missing"));
            }
            if footer_parse(&container, &front, "the footer's copy at byte 0")? != footer {
                return Err(container.damaged("the footer and its copy at byte 0 describe two different disks"));
            }
            let map = table_open(&container, header_at, footer.size)?;
            Ok(Box::new(Blocks { container, map, size: footer.size, sector_size: SECTOR as u32 }))
        }
    }
}

/// The one's complement of the sum of all bytes but the checksum's own at `at`.
fn checksum(bytes: &[u8], at: usize) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    !(sum(bytes) - sum(&bytes[at..at + 4]))
}

fn footer_parse(container: &Container, bytes: &[u8], what: &str) -> Result<Footer, DiskError> {
    let said = be32(bytes, 64);
    if said != checksum(bytes, 64) {
        return Err(container.damaged(format!("the checksum of {what} does not fit")));
    }
    let features = be32(bytes, 8);
    if features & !FEATURES != 0 {
        return Err(container.refused(format!("{what} asks for unknown features ({features:#x})")));
    }
    let version = be32(bytes, 12);
    if version != VERSION {
        return Err(container.refused(format!("{what} has version {version:#x}; only 0x10000 is read")));
    }
    let kind = match be32(bytes, 60) {
        2 => Kind::Fixed,
        3 => Kind::Dynamic { header_at: be64(bytes, 16) },
        4 => {
            return Err(container.refused(
                "it is a differencing disk and names its parent's file; merge it into the parent first (Hyper-V's 'Merge-VHD')",
            ));
        }
        other => {
            return Err(
                container.refused(format!("{what} says disk type {other}; only 2 (fixed) and 3 (dynamic) are read"))
            );
        }
    };
    Ok(Footer { kind, size: size_of(bytes) })
}

/// The size of the disk before this footer, whose checksum fits, if it is a fixed one.
pub(crate) fn fixed_size(footer: &[u8]) -> Option<u64> {
    (be32(footer, 60) == 2).then(|| size_of(footer))
}

/// The size of the disk. Virtual PC goes by the geometry (cylinders × heads × sectors), which cannot say every size, and everyone
/// else by the size field. This is QEMU's rule (`block/vpc.c`, since 10.0): by the program that made the image, and always the size
/// field when the geometry is the largest there is. Older QEMUs went by the geometry for every maker that they did not know.
fn size_of(footer: &[u8]) -> u64 {
    const GEOMETRY_MAX: u64 = 65_535 * 16 * 255;
    let sectors = u64::from(be16(footer, 56)) * u64::from(footer[58]) * u64::from(footer[59]);
    let by_geometry = matches!(&footer[28..32], b"vpc " | b"qemu") && sectors != GEOMETRY_MAX;
    if by_geometry { sectors * SECTOR } else { be64(footer, 48) / SECTOR * SECTOR }
}

/// The data of a fixed disk lies before its footer as it is.
struct Flat;

impl Map for Flat {
    fn place_at(&mut self, container: &Container, offset: u64) -> Result<(Place, u64), DiskError> {
        Ok(match container.data_next(offset) {
            Some(next) if next > offset => (Place::Zeros, next - offset),
            Some(_) => (Place::At(offset), u64::MAX - offset),
            None => (Place::Zeros, u64::MAX - offset),
        })
    }
}

fn table_open(container: &Container, header_at: u64, size: u64) -> Result<BlockTable, DiskError> {
    let header = container.part("the dynamic disk's header", header_at, HEADER_LEN)?;
    if !header.starts_with(b"cxsparse") {
        return Err(container.damaged(format!("there is no dynamic disk header at byte {header_at}")));
    }
    if be32(&header, 36) != checksum(&header, 36) {
        return Err(container.damaged("the checksum of the dynamic disk's header does not fit"));
    }
    let version = be32(&header, 24);
    if version != VERSION {
        return Err(container.refused(format!("its dynamic header has version {version:#x}; only 0x10000 is read")));
    }
    if header[40..56].iter().any(|byte| *byte != 0) || header[64..576].iter().any(|byte| *byte != 0) {
        return Err(container.refused("it names a parent file, but does not call itself a differencing disk"));
    }
    let block_len = be32(&header, 32);
    if !block_len.is_power_of_two() || !(BLOCK_MIN..=BLOCK_MAX).contains(&block_len) {
        return Err(container.refused(format!(
            "its blocks have {block_len} bytes; a power of two from {BLOCK_MIN} to {BLOCK_MAX} is read"
        )));
    }
    let (table_at, entries) = (be64(&header, 16), u64::from(be32(&header, 28)));
    let block_len = u64::from(block_len);
    let blocks = size.div_ceil(block_len);
    if entries < blocks {
        return Err(container
            .damaged(format!("its block allocation table has {entries} entries, too few for a disk of {size} bytes")));
    }
    if !table_at.is_multiple_of(SECTOR) {
        return Err(container.damaged(format!("its block allocation table is said to begin at byte {table_at}")));
    }
    container.range_check("the block allocation table", table_at, entries * 4)?;
    let bitmap_len = (block_len / SECTOR / 8).next_multiple_of(SECTOR);
    let mut table = BlockTable {
        pages: Pages::default(),
        table_at,
        block_len,
        bitmap: Bitmap { block: u64::MAX, whole: false, bits: vec![0; bitmap_len as usize] },
    };
    let kept = [
        (0, FOOTER_LEN, "the footer's copy"),
        (header_at, HEADER_LEN as u64, "the dynamic disk's header"),
        (table_at, entries * 4, "the block allocation table"),
        (container.len() - FOOTER_LEN, FOOTER_LEN, "the footer"),
    ];
    let mut claims = Claims::new(container, bitmap_len + block_len);
    for block in 0..blocks {
        let Some(at) = table.block_at(container, block)? else { continue };
        let len = bitmap_len + block_len.min(size - block * block_len);
        container.range_check(&format!("block {block}"), at, len)?;
        if let Some((_, _, what)) = kept.iter().find(|(from, kept, _)| at < from + kept && *from < at + len) {
            return Err(container.damaged(format!("block {block} lies at byte {at}, over {what}")));
        }
        if !claims.claim(at, len) {
            return Err(container.damaged(format!("block {block} lies at byte {at}, where another block lies")));
        }
    }
    Ok(table)
}

/// Which sectors of a block were ever written: one bit each, the first sector's is the highest of the first byte.
struct Bitmap {
    block: u64,
    whole: bool,
    bits: Vec<u8>,
}

struct BlockTable {
    pages: Pages,
    table_at: u64,
    block_len: u64,
    bitmap: Bitmap,
}

impl BlockTable {
    fn block_at(&mut self, container: &Container, block: u64) -> Result<Option<u64>, DiskError> {
        Ok(match self.pages.be32(container, "the block allocation table", self.table_at + block * 4)? {
            UNUSED => None,
            sector => Some(u64::from(sector) * SECTOR),
        })
    }

    fn bitmap_load(&mut self, container: &Container, block: u64, at: u64) -> Result<(), DiskError> {
        if self.bitmap.block != block {
            self.bitmap.block = u64::MAX;
            container.read("a block's sector bitmap", at, &mut self.bitmap.bits)?;
            let used = (self.block_len / SECTOR / 8) as usize;
            self.bitmap.whole = self.bitmap.bits[..used].iter().all(|bits| *bits == 0xff);
            self.bitmap.block = block;
        }
        Ok(())
    }

    /// Whether this sector of the loaded block was written, and how many sectors from it on are alike.
    fn sectors_alike(&self, sector: u64) -> (bool, u64) {
        let bit = |sector: u64| self.bitmap.bits[(sector / 8) as usize] >> (7 - sector % 8) & 1 == 1;
        let last = self.block_len / SECTOR;
        if self.bitmap.whole {
            return (true, last - sector);
        }
        let written = bit(sector);
        let mut end = sector + 1;
        while end < last && bit(end) == written {
            end += 1;
        }
        (written, end - sector)
    }
}

impl Map for BlockTable {
    fn place_at(&mut self, container: &Container, offset: u64) -> Result<(Place, u64), DiskError> {
        let (block, within) = (offset / self.block_len, offset % self.block_len);
        let Some(at) = self.block_at(container, block)? else { return Ok((Place::Zeros, self.block_len - within)) };
        self.bitmap_load(container, block, at)?;
        let (written, sectors) = self.sectors_alike(within / SECTOR);
        let len = sectors * SECTOR - within % SECTOR;
        // A sector that was never written is zeros, whatever lies in its place: the disk has no parent.
        let place = if written { Place::At(at + self.bitmap.bits.len() as u64 + within) } else { Place::Zeros };
        Ok((place, len))
    }
}
