//! What a range held, as one hash for each block: enough to tell later which blocks differ, without reading it again.

use slipway_chunk::{BLOCK, ChunkId};

/// The first 16 bytes of a block's BLAKE3 hash.
pub type Print = [u8; 16];

/// One for each of the image's blocks of 4 KiB in a range that begins at `at`; at its ends of the part of a block that lies in it.
pub fn prints(at: u64, bytes: &[u8]) -> impl Iterator<Item = Print> {
    blocks(at, bytes.len()).map(|(from, to)| print(&bytes[from..to]))
}

pub(crate) fn print(block: &[u8]) -> Print {
    let mut print = Print::default();
    print.copy_from_slice(&ChunkId::of(block).as_bytes()[..size_of::<Print>()]);
    print
}

/// The image's blocks `from..to` in a range of `len` bytes at `at`, in bytes from `at`.
pub(crate) fn blocks(at: u64, len: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let to = (from + BLOCK - ((at + from as u64) % BLOCK as u64) as usize).min(len);
        let block = (from, to);
        from = to;
        (block.0 < len).then_some(block)
    })
}

#[cfg(test)]
mod tests {
    use super::{blocks, prints};

    #[test]
    fn blocks_end_where_those_of_the_image_do() {
        let cut = |at, len| blocks(at, len).collect::<Vec<_>>();
        assert_eq!(cut(8192, 8192), [(0, 4096), (4096, 8192)]);
        assert_eq!(cut(4000, 200), [(0, 96), (96, 200)]);
        assert_eq!(cut(4095, 4098), [(0, 1), (1, 4097), (4097, 4098)]);
        assert_eq!(cut(4096, 0), []);
        let bytes: Vec<u8> = (0..10_000_u32).map(|n| (n % 251) as u8).collect();
        let (all, part) = (prints(0, &bytes), prints(4096, &bytes[4096..]));
        assert!(all.skip(1).eq(part), "a print is that of the block, wherever the range begins");
        assert_eq!(prints(0, &bytes).count(), 3);
    }
}
