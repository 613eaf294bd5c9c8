//! VDI, with every field in reach.

use super::{le32, le64, put, zero};

pub(crate) const BLOCK: usize = 1 << 20;
pub(crate) const MAP: usize = 512;

pub(crate) fn dynamic(raw: &[u8]) -> Vec<u8> {
    let blocks = raw.len().div_ceil(BLOCK);
    let data = (MAP + blocks * 4).next_multiple_of(512);
    let mut bytes = vec![0; data];
    put(&mut bytes, 0, b"<<< Oracle VM VirtualBox Disk Image >>>\n");
    for (at, value) in [
        (0x40, 0xbeda_107f),
        (0x44, 0x1_0001),
        (0x48, 0x190),
        (0x4c, 1),
        (0x154, MAP as u32),
        (0x158, data as u32),
        (0x168, 512),
        (0x178, BLOCK as u32),
        (0x180, blocks as u32),
    ] {
        le32(&mut bytes, at, value);
    }
    le64(&mut bytes, 0x170, raw.len() as u64);
    put(&mut bytes, 0x188, &[0x33; 16]);
    let mut used = 0;
    for (n, block) in raw.chunks(BLOCK).enumerate() {
        let entry = if zero(block) { [u32::MAX, u32::MAX - 1][n % 2] } else { used };
        le32(&mut bytes, MAP + n * 4, entry);
        if !zero(block) {
            bytes.extend_from_slice(block);
            bytes.resize(data + (used as usize + 1) * BLOCK, 0);
            used += 1;
        }
    }
    le32(&mut bytes, 0x184, used);
    bytes
}
