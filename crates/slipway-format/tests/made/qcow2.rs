//! qcow2, with every field in reach.

use std::io::Write;

pub(crate) const CLUSTER: usize = 4096;
pub(crate) const SIZE: u64 = 4 << 20;
pub(crate) const L1: usize = CLUSTER;
pub(crate) const REFCOUNTS: usize = 2 * CLUSTER;
pub(crate) const L2: usize = 4 * CLUSTER;
pub(crate) const DATA: usize = 5 * CLUSTER;
pub(crate) const PACKED: usize = 6 * CLUSTER;
pub(crate) const LEN: usize = 8 * CLUSTER;
const COPIED: u64 = 1 << 63;

/// A qcow2 image of 4 MiB in clusters of 4 KiB: one plain cluster, one packed, one zero, the rest not there.
pub(crate) struct Made(pub(crate) Vec<u8>);

impl Made {
    pub(crate) fn new() -> Made {
        let mut made = Made(vec![0; LEN]);
        made.0[..4].copy_from_slice(b"QFI\xfb");
        made.u32(4, 3).u32(20, 12).u64(24, SIZE).u32(36, 2).u64(40, L1 as u64);
        made.u64(48, REFCOUNTS as u64).u32(56, 1).u32(96, 4).u32(100, 104);
        made.u64(REFCOUNTS, 3 * CLUSTER as u64);
        made.u64(L1, L2 as u64 | COPIED);
        made.0[DATA..PACKED].fill(7);
        let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        deflate.write_all(&[9; CLUSTER]).unwrap();
        let packed = deflate.finish().unwrap();
        made.0[PACKED..PACKED + packed.len()].copy_from_slice(&packed);
        made.u64(L2, DATA as u64 | COPIED).u64(L2 + 8, 1 << 62 | PACKED as u64).u64(L2 + 16, 1);
        made
    }

    pub(crate) fn extended() -> Made {
        let mut made = Made(vec![0; 5 << 16]);
        made.0[..4].copy_from_slice(b"QFI\xfb");
        made.u32(4, 3).u32(20, 16).u64(24, SIZE).u32(36, 1).u64(40, 1 << 16).u64(48, 2 << 16).u32(56, 1);
        made.u64(72, 1 << 4).u32(96, 4).u32(100, 104);
        made.u64(1 << 16, 3 << 16 | COPIED);
        made.0[4 << 16..].fill(7);
        made.u64(3 << 16, 4 << 16 | COPIED).u64((3 << 16) + 8, 0b11);
        made
    }

    pub(crate) fn u32(&mut self, at: usize, value: u32) -> &mut Made {
        self.bytes(at, &value.to_be_bytes())
    }

    pub(crate) fn u64(&mut self, at: usize, value: u64) -> &mut Made {
        self.bytes(at, &value.to_be_bytes())
    }

    pub(crate) fn bytes(&mut self, at: usize, bytes: &[u8]) -> &mut Made {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn cut(&mut self, len: usize) -> &mut Made {
        self.0.truncate(len);
        self
    }
}
