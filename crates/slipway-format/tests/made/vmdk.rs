//! VMDK: sparse with two grain directories, and a stream with its grain directory at the end.

use super::{le32, le64, put, zero};
use std::io::Write;

pub(crate) const GRAIN: usize = 64 << 10;
const TABLE_ENTRIES: usize = 512;
pub(crate) const TEXT_AT: usize = 512;
const TEXT_LEN: usize = 20 * 512;
/// Sectors before the first grain of a stream.
const OVERHEAD: usize = 128;

/// The text of a disk in one file.
pub(crate) fn text(create_type: &str, sectors: usize) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"{create_type}\"\n\n\
         # Extent description\nRW {sectors} SPARSE \"disk.vmdk\"\n\n# The Disk Data Base\n#DDB\n\nddb.adapterType = \"ide\"\n"
    )
}

fn header(raw_len: usize, version: u32, flags: u32, overhead: usize) -> Vec<u8> {
    let mut header = vec![0; 512];
    put(&mut header, 0, b"KDMV");
    le32(&mut header, 4, version);
    le32(&mut header, 8, flags);
    le64(&mut header, 12, (raw_len / 512) as u64);
    le64(&mut header, 20, (GRAIN / 512) as u64);
    le64(&mut header, 28, (TEXT_AT / 512) as u64);
    le64(&mut header, 36, (TEXT_LEN / 512) as u64);
    le32(&mut header, 44, TABLE_ENTRIES as u32);
    le64(&mut header, 64, overhead as u64);
    put(&mut header, 73, b"\n \r\n");
    header
}

/// Where the parts of [`sparse`] are, in bytes.
pub(crate) struct Places {
    pub(crate) redundant_directory: usize,
    pub(crate) redundant_table: usize,
    pub(crate) directory: usize,
    pub(crate) table: usize,
    pub(crate) grains: usize,
}

pub(crate) fn places(raw_len: usize) -> Places {
    let tables = raw_len.div_ceil(GRAIN * TABLE_ENTRIES);
    let both = 512 + tables * TABLE_ENTRIES * 4;
    let redundant_directory = TEXT_AT + TEXT_LEN;
    let directory = redundant_directory + both;
    Places {
        redundant_directory,
        redundant_table: redundant_directory + 512,
        directory,
        table: directory + 512,
        grains: (directory + both).next_multiple_of(GRAIN),
    }
}

/// A monolithicSparse disk with two grain directories.
pub(crate) fn sparse(raw: &[u8]) -> Vec<u8> {
    let at = places(raw.len());
    let mut bytes = header(raw.len(), 1, 3, at.grains / 512);
    le64(&mut bytes, 48, (at.redundant_directory / 512) as u64);
    le64(&mut bytes, 56, (at.directory / 512) as u64);
    put(&mut bytes, TEXT_AT, text("monolithicSparse", raw.len() / 512).as_bytes());
    bytes.resize(at.grains, 0);
    for (n, grain) in raw.chunks(GRAIN).enumerate() {
        let (table, entry) = (n / TABLE_ENTRIES, n % TABLE_ENTRIES);
        let place = if zero(grain) { 0 } else { (bytes.len() / 512) as u32 };
        for (directory, tables) in [(at.directory, at.table), (at.redundant_directory, at.redundant_table)] {
            let table_at = tables + table * TABLE_ENTRIES * 4;
            le32(&mut bytes, directory + table * 4, (table_at / 512) as u32);
            le32(&mut bytes, table_at + entry * 4, place);
        }
        if place != 0 {
            let end = bytes.len() + GRAIN;
            bytes.extend_from_slice(grain);
            bytes.resize(end, 0);
        }
    }
    bytes
}

fn marker(bytes: &mut Vec<u8>, sectors: u64, kind: u32) {
    let at = bytes.len();
    le64(bytes, at, sectors);
    le32(bytes, at + 8, 0);
    le32(bytes, at + 12, kind);
    bytes.resize(at + 512, 0);
}

/// A grain as it lies in a stream.
pub(crate) fn packed_grain(sector: u64, grain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(grain).unwrap();
    let packed = encoder.finish().unwrap();
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend((packed.len() as u32).to_le_bytes());
    bytes.extend(packed);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// Where the first grain of a stream begins.
pub(crate) const STREAM_GRAINS: usize = OVERHEAD * 512;

/// A streamOptimized disk, as VMware's exporters write it.
pub(crate) fn stream(raw: &[u8]) -> Vec<u8> {
    let mut front = header(raw.len(), 3, 0x3_0001, OVERHEAD);
    le64(&mut front, 56, u64::MAX);
    put(&mut front, 77, &1_u16.to_le_bytes());
    let mut bytes = front.clone();
    put(&mut bytes, TEXT_AT, text("streamOptimized", raw.len() / 512).as_bytes());
    bytes.resize(STREAM_GRAINS, 0);
    let mut directory = Vec::new();
    for (n, part) in raw.chunks(GRAIN * TABLE_ENTRIES).enumerate() {
        let mut table = vec![0; TABLE_ENTRIES * 4];
        for (m, grain) in part.chunks(GRAIN).enumerate().filter(|(_, grain)| !zero(grain)) {
            le32(&mut table, m * 4, (bytes.len() / 512) as u32);
            let mut whole = grain.to_vec();
            whole.resize(GRAIN, 0);
            bytes.extend(packed_grain(((n * TABLE_ENTRIES + m) * GRAIN / 512) as u64, &whole));
        }
        let empty = zero(&table);
        if !empty {
            marker(&mut bytes, (table.len() / 512) as u64, 1);
        }
        le32(&mut directory, n * 4, if empty { 0 } else { (bytes.len() / 512) as u32 });
        if !empty {
            bytes.extend(table);
        }
    }
    directory.resize(directory.len().next_multiple_of(512), 0);
    marker(&mut bytes, (directory.len() / 512) as u64, 2);
    le64(&mut front, 56, (bytes.len() / 512) as u64);
    bytes.extend(directory);
    marker(&mut bytes, 1, 3);
    bytes.extend(front);
    marker(&mut bytes, 0, 0);
    bytes
}
