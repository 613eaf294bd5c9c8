//! The header of a sparse extent, and the footer that replaces it in a stream.

use super::SECTOR;
use crate::DiskError;
use crate::container::{Container, le16, le32, le64};

const HEADER_LEN: usize = 512;
const VERSION_MAX: u32 = 3;
const NEWLINES: u32 = 1;
const REDUNDANT: u32 = 1 << 1;
const ZEROED: u32 = 1 << 2;
const COMPRESSED: u32 = 1 << 16;
const MARKERS: u32 = 1 << 17;
const DEFLATE: u16 = 1;
/// Says that the real grain directory is in the footer.
const AT_END: u64 = u64::MAX;
const FOOTER_MARKER: u32 = 3;
/// 4 KiB to 2 MiB; VMware's and QEMU's are 64 KiB.
const GRAIN_SECTORS: std::ops::RangeInclusive<u64> = 8..=4096;
const TABLE_ENTRIES_MAX: u32 = 512;

/// A checked header. Positions and lengths are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    version: u32,
    flags: u32,
    pub(super) size: u64,
    pub(super) grain_len: u64,
    /// Entries of one grain table.
    pub(super) table_entries: u64,
    pub(super) directory_at: u64,
    /// Where the second grain directory is, if there is one.
    pub(super) redundant_at: Option<u64>,
    /// What lies before the first grain.
    pub(super) overhead: u64,
    pub(super) descriptor: (u64, u64),
    /// Grains are compressed, each behind a marker.
    pub(super) packed: bool,
    /// A grain table's 1 means zeros.
    pub(super) zeroed: bool,
}

/// Reads the header, or what the footer says in its place.
pub(super) fn header_read(container: &Container) -> Result<Header, DiskError> {
    let bytes = container.part("the header", 0, HEADER_LEN)?;
    let front = header_parse(container, &bytes, "the header")?;
    if le64(&bytes, 56) != AT_END {
        return Ok(front);
    }
    // The last three sectors are the footer's marker, the footer, and the marker of the end.
    let marker_at = container.len().saturating_sub(3 * SECTOR);
    let last = container.part("the footer", marker_at, 3 * SECTOR as usize)?;
    let (marker, rest) = last.split_at(SECTOR as usize);
    let (footer, end) = rest.split_at(SECTOR as usize);
    let footer_there = le32(marker, 8) == 0 && le32(marker, 12) == FOOTER_MARKER && footer.starts_with(b"KDMV");
    let end_there = end[..16].iter().all(|byte| *byte == 0);
    if !footer_there || !end_there {
        return Err(container.damaged(format!(
            "its grain directory is said to be at the end, but there is no footer in its last 1536 bytes (at byte {marker_at}); it was cut off"
        )));
    }
    if le64(footer, 56) == AT_END {
        return Err(container.damaged("its footer says that the grain directory is in the footer"));
    }
    let whole = header_parse(container, footer, "the footer")?;
    let alike = |header: &Header| {
        (header.version, header.flags, header.size, header.grain_len, header.table_entries, header.packed)
    };
    if alike(&whole) != alike(&front) {
        return Err(container.damaged("its header and its footer describe two different disks"));
    }
    // The text is where the header says; some writers leave it out of the footer.
    Ok(Header { descriptor: front.descriptor, overhead: front.overhead, ..whole })
}

fn header_parse(container: &Container, bytes: &[u8], what: &str) -> Result<Header, DiskError> {
    let (version, flags) = (le32(bytes, 4), le32(bytes, 8));
    if !(1..=VERSION_MAX).contains(&version) {
        return Err(container.refused(format!("{what} has version {version}; 1 to {VERSION_MAX} are read")));
    }
    let unknown = flags & !(NEWLINES | REDUNDANT | ZEROED | COMPRESSED | MARKERS);
    if unknown != 0 {
        return Err(container.refused(format!("{what} has unknown flags ({unknown:#x})")));
    }
    if flags & NEWLINES != 0 && bytes[73..77] != *b"\n \r\n" {
        return Err(container.damaged(format!(
            "the newline bytes of {what} were changed: it was transferred as text; transfer it again as binary"
        )));
    }
    let (compressed, markers) = (flags & COMPRESSED != 0, flags & MARKERS != 0);
    match (compressed, le16(bytes, 77)) {
        (false, 0) | (true, DEFLATE) => {}
        (compressed, method) => {
            let said = if compressed { "compressed" } else { "not compressed" };
            return Err(container.refused(format!("{what} says that grains are {said}, by method {method}")));
        }
    }
    if compressed != markers {
        return Err(container.refused(format!("{what} has compressed grains without markers, or markers without")));
    }
    let bytes_of = |at: usize, name: &str| {
        let sectors = le64(bytes, at);
        let len = sectors.checked_mul(SECTOR).filter(|len| *len <= i64::MAX as u64);
        len.ok_or_else(|| container.damaged(format!("the {name} in {what} is {sectors} sectors")))
    };
    let grain_sectors = le64(bytes, 20);
    if !grain_sectors.is_power_of_two() || !GRAIN_SECTORS.contains(&grain_sectors) {
        return Err(container.refused(format!(
            "{what} says that grains have {grain_sectors} sectors; a power of two from 8 to 4096 is read"
        )));
    }
    let table_entries = le32(bytes, 44);
    if !(1..=TABLE_ENTRIES_MAX).contains(&table_entries) {
        return Err(container.damaged(format!("{what} says that grain tables have {table_entries} entries")));
    }
    // Where it is not here, it is never looked at.
    let directory_at = if le64(bytes, 56) == AT_END { 0 } else { bytes_of(56, "place of the grain directory")? };
    let redundant_at = match (flags & REDUNDANT, le64(bytes, 48)) {
        (0, _) | (_, 0 | AT_END) => None,
        _ => Some(bytes_of(48, "place of the redundant grain directory")?),
    };
    Ok(Header {
        version,
        flags,
        size: bytes_of(12, "capacity")?,
        grain_len: grain_sectors * SECTOR,
        table_entries: table_entries.into(),
        directory_at,
        redundant_at,
        overhead: bytes_of(64, "overhead")?,
        descriptor: (bytes_of(28, "place of the text")?, bytes_of(36, "length of the text")?),
        packed: compressed,
        zeroed: flags & ZEROED != 0,
    })
}
