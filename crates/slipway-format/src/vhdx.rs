//! Microsoft's VHDX, fixed and dynamic, with the replay of its log (MS-VHDX, revision 6.0).

mod log;
mod regions;

use crate::blocks::{Blocks, Map, Place};
use crate::container::{Claims, Container, Pages, le16, le32, le64};
use crate::{Disk, DiskError, Limits, ReadAt};
use regions::Metadata;

const FORMAT: &str = "VHDX";
const MIB: u64 = 1 << 20;
/// The first MiB holds headers and region tables; everything else lies in whole MiB behind it.
const HEADERS_AT: [u64; 2] = [64 << 10, 128 << 10];
const HEADER_LEN: usize = 4096;
const GUID_NONE: [u8; 16] = [0; 16];

/// What is used of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    sequence: u64,
    log_guid: [u8; 16],
    log_at: u64,
    log_len: u64,
}

/// CRC-32C of `bytes` with the four bytes of the checksum itself, at `at`, taken as zeros.
fn checksum(bytes: &[u8], at: usize) -> u32 {
    let crc = crc32c::crc32c(&bytes[..at]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &bytes[at + 4..])
}

/// Opens a VHDX.
pub(crate) fn vhdx_open(bytes: Box<dyn ReadAt>, limits: &Limits) -> Result<Box<dyn Disk>, DiskError> {
    let container = Container::new(FORMAT, bytes);
    if container.part("the file identifier", 0, 8)? != b"vhdxfile" {
        return Err(container.damaged("it has no VHDX signature at byte 0"));
    }
    let header = header_choose(&container)?;
    let container = if header.log_guid == GUID_NONE { container } else { log::log_replay(container, &header)? };
    let regions = regions::regions_read(&container)?;
    let metadata = regions::metadata_read(&container, regions.metadata)?;
    limits.size_check(FORMAT, metadata.size)?;
    let (table_at, table_len) = regions.table;
    let map = BlockTable { pages: Pages::default(), table_at, block_len: metadata.block_len, ratio: metadata.ratio() };
    let map = table_check(&container, map, table_len, &metadata, [regions.table, regions.metadata])?;
    Ok(Box::new(Blocks { container, map, size: metadata.size, sector_size: metadata.sector_size }))
}

/// The valid header with the larger sequence number.
fn header_choose(container: &Container) -> Result<Header, DiskError> {
    let first = header_read(container, HEADERS_AT[0])?;
    let second = header_read(container, HEADERS_AT[1])?;
    match (first, second) {
        (Some(first), Some(second)) if first.sequence == second.sequence && first != second => {
            Err(container.damaged("its two headers have the same sequence number and differ"))
        }
        (Some(first), Some(second)) => Ok(if first.sequence >= second.sequence { first } else { second }),
        (Some(only), None) | (None, Some(only)) => Ok(only),
        (None, None) => Err(container.damaged("neither of its two headers has a checksum that fits")),
    }
}

/// `None` when there is no header there that was wholly written.
fn header_read(container: &Container, at: u64) -> Result<Option<Header>, DiskError> {
    let bytes = container.part("a header", at, HEADER_LEN)?;
    if !bytes.starts_with(b"head") || le32(&bytes, 4) != checksum(&bytes, 4) {
        return Ok(None);
    }
    let (log_version, version) = (le16(&bytes, 64), le16(&bytes, 66));
    if version != 1 || log_version != 0 {
        return Err(container.refused(format!(
            "the header at byte {at} has version {version} and log version {log_version}; only 1 and 0 are read"
        )));
    }
    let mut log_guid = GUID_NONE;
    log_guid.copy_from_slice(&bytes[48..64]);
    let (log_len, log_at) = (u64::from(le32(&bytes, 68)), le64(&bytes, 72));
    Ok(Some(Header { sequence: le64(&bytes, 8), log_guid, log_at, log_len }))
}

/// Every block lies in the file, outside of the tables, and is used once; no state is unknown.
fn table_check(
    container: &Container,
    mut map: BlockTable,
    table_len: u64,
    metadata: &Metadata,
    kept: [(u64, u64); 2],
) -> Result<BlockTable, DiskError> {
    let blocks = metadata.size.div_ceil(map.block_len);
    let entries = blocks + (blocks - 1) / map.ratio;
    if table_len / 8 < entries {
        return Err(container.damaged(format!(
            "its block allocation table has room for {} entries, but its disk needs {entries}",
            table_len / 8
        )));
    }
    let mut claims = Claims::new(container, map.block_len);
    for block in 0..blocks {
        let Some(at) = map.block_at(container, block)? else { continue };
        let len = map.block_len.min(metadata.size - block * map.block_len);
        container.range_check(&format!("block {block}"), at, len)?;
        let over_tables = kept.iter().any(|(from, kept)| at < from + kept && *from < at + len);
        if at < MIB || over_tables {
            return Err(container.damaged(format!("block {block} lies at byte {at}, over headers or tables")));
        }
        if !claims.claim(at, len) {
            return Err(container.damaged(format!("block {block} lies at byte {at}, where another block lies")));
        }
    }
    Ok(map)
}

struct BlockTable {
    pages: Pages,
    table_at: u64,
    block_len: u64,
    /// After so many blocks the table has an entry for a sector bitmap, which only disks with a parent use.
    ratio: u64,
}

impl BlockTable {
    fn block_at(&mut self, container: &Container, block: u64) -> Result<Option<u64>, DiskError> {
        let entry_at = self.table_at + (block + block / self.ratio) * 8;
        let entry = self.pages.le64(container, "the block allocation table", entry_at)?;
        match entry & 7 {
            // Not present, undefined, zero, unmapped: the disk has no parent, so all of them read as zeros.
            0..=3 => Ok(None),
            6 => Ok(Some(entry & !(MIB - 1))),
            7 => Err(container.refused(format!(
                "block {block} is partially present: the rest is in a parent, whose file is not opened; merge it first (Hyper-V's 'Merge-VHD')"
            ))),
            state => Err(container.damaged(format!("block {block} has the unknown state {state}"))),
        }
    }
}

impl Map for BlockTable {
    fn place_at(&mut self, container: &Container, offset: u64) -> Result<(Place, u64), DiskError> {
        let within = offset % self.block_len;
        let place = match self.block_at(container, offset / self.block_len)? {
            Some(at) => Place::At(at + within),
            None => Place::Zeros,
        };
        Ok((place, self.block_len - within))
    }
}
