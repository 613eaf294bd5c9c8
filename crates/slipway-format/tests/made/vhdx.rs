//! VHDX, with every field in reach, logical sectors of 4096 bytes, and a log that was not replayed.

use super::{le32, le64, put, zero};
use uuid::{Uuid, uuid};

pub(crate) const MIB: usize = 1 << 20;
pub(crate) const HEADERS: [usize; 2] = [64 << 10, 128 << 10];
pub(crate) const REGIONS: [usize; 2] = [192 << 10, 256 << 10];
pub(crate) const LOG: usize = MIB;
pub(crate) const METADATA: usize = 2 * MIB;
/// The first item; the others follow, each 64 bytes on: parameters, size, id, logical, physical.
pub(crate) const ITEMS: usize = METADATA + (64 << 10);
pub(crate) const TABLE: usize = 3 * MIB;
pub(crate) const DATA: usize = 4 * MIB;
pub(crate) const LOG_GUID: [u8; 16] = *b"the log's own id";

pub(crate) const GUIDS: [Uuid; 5] = [
    uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b"),
    uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8"),
    uuid!("beca12ab-b2e6-4523-93ef-c309e000c746"),
    uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f"),
    uuid!("cda348c7-445d-4471-9cc9-e9885251c556"),
];
pub(crate) const PARENT_LOCATOR: Uuid = uuid!("a8d35f2d-b30b-454d-abf7-d3d84834ab0c");

/// Makes the CRC-32C of `len` bytes from `from` on fit.
pub(crate) fn sum(bytes: &mut Vec<u8>, from: usize, len: usize) {
    le32(bytes, from + 4, 0);
    let crc = crc32c::crc32c(&bytes[from..from + len]);
    le32(bytes, from + 4, crc);
}

/// Makes all checksums of headers and region tables fit.
pub(crate) fn seal(bytes: &mut Vec<u8>) {
    HEADERS.iter().for_each(|at| sum(bytes, *at, 4096));
    REGIONS.iter().for_each(|at| sum(bytes, *at, 64 << 10));
}

fn region(bytes: &mut Vec<u8>, n: usize, guid: Uuid, at: usize) {
    for table in REGIONS {
        let entry = table + 16 + n * 32;
        put(bytes, entry, &guid.to_bytes_le());
        le64(bytes, entry + 16, at as u64);
        le32(bytes, entry + 24, MIB as u32);
        le32(bytes, entry + 28, 1);
    }
}

/// A dynamic disk without a log.
pub(crate) fn dynamic(raw: &[u8], block_len: usize, sector: u32) -> Vec<u8> {
    let mut bytes = vec![0; DATA];
    put(&mut bytes, 0, b"vhdxfile");
    for (n, at) in HEADERS.into_iter().enumerate() {
        put(&mut bytes, at, b"head");
        le64(&mut bytes, at + 8, 7 + n as u64);
        put(&mut bytes, at + 16, &[0x11; 32]);
        put(&mut bytes, at + 66, &1_u16.to_le_bytes());
        le32(&mut bytes, at + 68, MIB as u32);
        le64(&mut bytes, at + 72, LOG as u64);
    }
    for at in REGIONS {
        put(&mut bytes, at, b"regi");
        le32(&mut bytes, at + 8, 2);
    }
    region(&mut bytes, 0, uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08"), TABLE);
    region(&mut bytes, 1, uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e"), METADATA);
    put(&mut bytes, METADATA, b"metadata");
    put(&mut bytes, METADATA + 10, &5_u16.to_le_bytes());
    for (n, (guid, len)) in GUIDS.iter().zip([8, 8, 16, 4, 4]).enumerate() {
        let entry = METADATA + 32 + n * 32;
        put(&mut bytes, entry, &guid.to_bytes_le());
        le32(&mut bytes, entry + 16, (ITEMS - METADATA + n * 64) as u32);
        le32(&mut bytes, entry + 20, len);
        le32(&mut bytes, entry + 24, if n == 0 { 4 } else { 6 });
    }
    le32(&mut bytes, ITEMS, block_len as u32);
    le64(&mut bytes, ITEMS + 64, raw.len() as u64);
    put(&mut bytes, ITEMS + 128, &[0x22; 16]);
    le32(&mut bytes, ITEMS + 192, sector);
    le32(&mut bytes, ITEMS + 256, 4096);
    let ratio = ((sector as usize) << 23) / block_len;
    for (n, block) in raw.chunks(block_len).enumerate() {
        let entry = TABLE + (n + n / ratio) * 8;
        if zero(block) {
            le64(&mut bytes, entry, [0, 1, 2, 3][n % 4]);
        } else {
            let at = bytes.len();
            le64(&mut bytes, entry, at as u64 | 6);
            bytes.extend_from_slice(block);
            bytes.resize(at + block_len, 0);
        }
    }
    seal(&mut bytes);
    bytes
}

/// What a log entry does.
#[derive(Clone)]
pub(crate) enum Write {
    /// 4096 bytes at this byte of the file.
    Bytes(u64, Vec<u8>),
    /// So many zeros at this byte of the file.
    Zeros(u64, u64),
}

/// One entry of a log of one sector of descriptors.
pub(crate) fn log_entry(sequence: u64, tail: u32, file_len: u64, writes: &[Write]) -> Vec<u8> {
    let mut entry = vec![0; 4096];
    put(&mut entry, 0, b"loge");
    le32(&mut entry, 12, tail);
    le64(&mut entry, 16, sequence);
    le32(&mut entry, 24, writes.len() as u32);
    put(&mut entry, 32, &LOG_GUID);
    le64(&mut entry, 48, file_len);
    le64(&mut entry, 56, file_len);
    for (n, write) in writes.iter().enumerate() {
        let at = 64 + n * 32;
        match write {
            Write::Bytes(to, bytes) => {
                put(&mut entry, at, b"desc");
                put(&mut entry, at + 4, &bytes[4092..]);
                put(&mut entry, at + 8, &bytes[..8]);
                le64(&mut entry, at + 16, *to);
                let data = entry.len();
                put(&mut entry, data, b"data");
                le32(&mut entry, data + 4, (sequence >> 32) as u32);
                put(&mut entry, data + 8, &bytes[8..4092]);
                le32(&mut entry, data + 4092, sequence as u32);
            }
            Write::Zeros(to, len) => {
                put(&mut entry, at, b"zero");
                le64(&mut entry, at + 8, *len);
                le64(&mut entry, at + 16, *to);
            }
        }
        le64(&mut entry, at + 24, sequence);
    }
    let len = entry.len();
    le32(&mut entry, 8, len as u32);
    sum(&mut entry, 0, len);
    entry
}

/// Lays entries into the log from `at` on, around its end, and says in the headers that it is to be replayed.
pub(crate) fn log_write(bytes: &mut Vec<u8>, mut at: usize, entries: &[Vec<u8>]) {
    for entry in entries {
        for sector in entry.chunks(4096) {
            put(bytes, LOG + at % MIB, sector);
            at += sector.len();
        }
    }
    for header in HEADERS {
        put(bytes, header + 48, &LOG_GUID);
    }
    seal(bytes);
}
