//! VHD, with every field in reach.

use super::{be32, be64, put};

pub(crate) const BLOCK: usize = 512 << 10;
pub(crate) const HEADER_AT: usize = 512;
pub(crate) const TABLE_AT: usize = 1536;

/// The geometry of the specification's appendix, for sizes below 31 heads' worth is enough: (cylinders, heads, sectors).
pub(crate) fn footer(size: u64, kind: u32, creator: &[u8; 4], geometry: (u16, u8, u8)) -> Vec<u8> {
    let mut footer = vec![0; 512];
    put(&mut footer, 0, b"conectix");
    be32(&mut footer, 8, 2);
    be32(&mut footer, 12, 0x1_0000);
    be64(&mut footer, 16, if kind == 2 { u64::MAX } else { HEADER_AT as u64 });
    put(&mut footer, 28, creator);
    be64(&mut footer, 40, size);
    be64(&mut footer, 48, size);
    put(&mut footer, 56, &geometry.0.to_be_bytes());
    put(&mut footer, 58, &[geometry.1, geometry.2]);
    be32(&mut footer, 60, kind);
    sum(&mut footer, 0, 512, 64);
    footer
}

/// Makes the checksum of `len` bytes from `from` on fit.
pub(crate) fn sum(bytes: &mut Vec<u8>, from: usize, len: usize, at: usize) {
    be32(bytes, from + at, 0);
    let sum: u32 = bytes[from..from + len].iter().map(|byte| u32::from(*byte)).sum();
    be32(bytes, from + at, !sum);
}

pub(crate) fn fixed(raw: &[u8], creator: &[u8; 4], geometry: (u16, u8, u8)) -> Vec<u8> {
    [raw, &footer(raw.len() as u64, 2, creator, geometry)].concat()
}

/// A dynamic disk in which only the sectors that are not zero are marked as written. In the places of the others lies `stale`.
pub(crate) fn dynamic(raw: &[u8], stale: u8) -> Vec<u8> {
    let blocks = raw.len().div_ceil(BLOCK);
    let footer = footer(raw.len() as u64, 3, b"win ", (1, 1, 1));
    let mut bytes = footer.clone();
    let mut header = vec![0; 1024];
    put(&mut header, 0, b"cxsparse");
    be64(&mut header, 8, u64::MAX);
    be64(&mut header, 16, TABLE_AT as u64);
    be32(&mut header, 24, 0x1_0000);
    be32(&mut header, 28, blocks as u32);
    be32(&mut header, 32, BLOCK as u32);
    sum(&mut header, 0, 1024, 36);
    bytes.extend(header);
    bytes.resize((TABLE_AT + blocks * 4).next_multiple_of(512), 0xff);
    for (n, block) in raw.chunks(BLOCK).enumerate() {
        if super::zero(block) {
            continue;
        }
        let begin = bytes.len();
        be32(&mut bytes, TABLE_AT + n * 4, (begin / 512) as u32);
        let mut bitmap = vec![0; (BLOCK / 512 / 8).next_multiple_of(512)];
        let mut data = vec![stale; BLOCK];
        for (m, sector) in block.chunks(512).enumerate().filter(|(_, sector)| !super::zero(sector)) {
            bitmap[m / 8] |= 0x80 >> (m % 8);
            data[m * 512..m * 512 + sector.len()].copy_from_slice(sector);
        }
        bytes.extend(bitmap);
        bytes.extend(data);
    }
    bytes.extend(footer);
    bytes
}

/// Changes both copies of the footer of a dynamic disk, and makes their checksums fit.
pub(crate) fn footers_change(bytes: &mut Vec<u8>, at: usize, part: &[u8]) {
    for from in [0, bytes.len() - 512] {
        put(bytes, from + at, part);
        sum(bytes, from, 512, 64);
    }
}

/// Changes the dynamic disk's header, and makes its checksum fit.
pub(crate) fn header_change(bytes: &mut Vec<u8>, at: usize, part: &[u8]) {
    put(bytes, HEADER_AT + at, part);
    sum(bytes, HEADER_AT, 1024, 36);
}
