use twox_hash::XxHash3_64;

use crate::error::FormatError;
use crate::{BLOCK, FRAME_RAW_MAX};

/// How an image is cut; part of its manifest, so that anybody can cut it again the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkerParams {
    /// A chunk of fewer blocks is not ended by a hash.
    pub min_blocks: u16,
    /// So many low bits of a block's hash must be zero to end a chunk; 2^n blocks on average.
    pub mask_bits: u8,
    /// A chunk of so many blocks ends.
    pub max_blocks: u16,
    /// The seed of XXH3.
    pub seed: u64,
}

/// The most blocks of one chunk: a chunk must fit in a frame.
const BLOCKS_MAX: u16 = (FRAME_RAW_MAX / BLOCK) as u16;
const MASK_BITS_MAX: u8 = 16;
/// A block whose last bytes are so many zeros probably ends a file: file systems fill a file's last block up with zeros. Files end anywhere
/// in a block, so 1 of 64 ends is not seen; blocks within a file that look like this are cut there the same way wherever they lie.
const FILE_END_ZEROS: usize = 64;

impl Default for ChunkerParams {
    /// 8 KiB to 128 KiB. The seed is the text "slipway1".
    fn default() -> Self {
        Self { min_blocks: 2, mask_bits: 3, max_blocks: 32, seed: u64::from_le_bytes(*b"slipway1") }
    }
}

impl ChunkerParams {
    /// The longest chunk in bytes, at most [`FRAME_RAW_MAX`].
    pub fn max_len(&self) -> usize {
        usize::from(self.blocks_max()) * BLOCK
    }

    /// Checks 1 ≤ min ≤ max ≤ 64 and mask bits ≤ 16.
    pub fn check(&self) -> Result<(), FormatError> {
        let what = "chunker parameters";
        if self.min_blocks == 0 {
            let rule = "the shortest chunk has at least 1 block";
            return Err(FormatError::NotCanonical { what, rule });
        }
        if self.min_blocks > self.max_blocks {
            let rule = "the shortest chunk is longer than the longest";
            return Err(FormatError::NotCanonical { what, rule });
        }
        if self.max_blocks > BLOCKS_MAX {
            return Err(FormatError::TooLarge {
                what: "longest chunk in blocks",
                value: self.max_blocks.into(),
                max: BLOCKS_MAX.into(),
            });
        }
        if self.mask_bits > MASK_BITS_MAX {
            return Err(FormatError::TooLarge {
                what: "mask bits",
                value: self.mask_bits.into(),
                max: MASK_BITS_MAX.into(),
            });
        }
        Ok(())
    }

    /// Clamped, so that cutting ends whatever the fields say; [`check`](Self::check) is what refuses them.
    fn blocks_max(&self) -> u16 {
        self.max_blocks.clamp(1, BLOCKS_MAX)
    }

    fn ends_chunk(&self, block: &[u8]) -> bool {
        let mask = (1_u64 << self.mask_bits.min(MASK_BITS_MAX)) - 1;
        ends_file(block) || XxHash3_64::oneshot_with_seed(self.seed, block) & mask == 0
    }
}

fn ends_file(block: &[u8]) -> bool {
    block.last_chunk::<FILE_END_ZEROS>().is_some_and(|end| is_zero(end))
}

/// The next piece of an image and its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Zero blocks; a run may come in parts.
    Hole(usize),
    /// One chunk.
    Data(usize),
}

/// Cuts the next piece off the front of `buf`.
///
/// `buf` begins at a piece border, `room` is what is left of this segment (a multiple of [`BLOCK`], not 0),
/// and `eof` says that `buf` ends where the image ends or a known hole begins. `None` means undecided: give more bytes;
/// [`ChunkerParams::max_len`] + [`BLOCK`] bytes always decide. A chunk ends before a zero block, at the end of
/// the segment or image, after `max_blocks`, or, when it has at least `min_blocks`, after a block whose last 64 bytes are zero
/// or whose hash has `mask_bits` low zero bits. The last partial block of an image is a block of its own bytes.
pub fn piece_next(params: &ChunkerParams, buf: &[u8], room: u64, eof: bool) -> Option<Piece> {
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let (span, closed) = match buf.get(..room) {
        Some(span) => (span, true),
        None => (buf, eof),
    };
    let block_at = |at: usize| match span.get(at..at + BLOCK) {
        Some(block) => Some(block),
        None if closed && at < span.len() => Some(&span[at..]),
        None => None,
    };

    let mut block = block_at(0)?;
    if is_zero(block) {
        let mut len = block.len();
        while let Some(next) = block_at(len) {
            if !is_zero(next) {
                break;
            }
            len += next.len();
        }
        return Some(Piece::Hole(len));
    }

    let mut len = 0;
    for blocks in 1.. {
        len += block.len();
        if blocks >= params.blocks_max() {
            break;
        }
        // The cheap questions come first: most chunks that end at a hole are never hashed for a cut.
        let next = block_at(len);
        let must_end = match next {
            Some(next) => is_zero(next),
            None => closed,
        };
        if must_end || (blocks >= params.min_blocks && params.ends_chunk(block)) {
            break;
        }
        block = next?;
    }
    Some(Piece::Data(len))
}

/// Whether all bytes are zero. A block that begins with another byte, the common case, costs one comparison.
pub fn is_zero(bytes: &[u8]) -> bool {
    const STEP: usize = 256;
    let Some((first, _)) = bytes.split_first_chunk::<8>() else {
        return bytes.iter().all(|&byte| byte == 0);
    };
    if u64::from_ne_bytes(*first) != 0 {
        return false;
    }
    let (steps, rest) = bytes.as_chunks::<STEP>();
    // No branch inside a step, so that the compiler makes vector instructions of it.
    steps.iter().all(|step| {
        let (words, _) = step.as_chunks::<8>();
        let any = words.iter().fold(0, |any, word| any | u64::from_ne_bytes(*word));
        any == 0
    }) && rest.iter().fold(0, |any, byte| any | byte) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_seen_at_every_place() {
        for len in [0, 1, 7, 8, 9, 255, 256, 257, 511, 4096, 4099] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes), "{len}");
            for at in 0..len {
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes), "{at} of {len}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn limits_of_parameters() {
        fn check(min_blocks: u16, mask_bits: u8, max_blocks: u16, good: bool) {
            let params = ChunkerParams { min_blocks, mask_bits, max_blocks, seed: 0 };
            assert_eq!(params.check().is_ok(), good, "{params:?}");
        }
        check(1, 0, 1, true);
        check(64, 16, 64, true);
        check(0, 3, 32, false);
        check(33, 3, 32, false);
        check(2, 3, 65, false);
        check(2, 17, 32, false);
        check(0, 0, 0, false);
        assert!(ChunkerParams::default().check().is_ok());
    }

    /// Each letter is a block: `.` zero, else data; a lower-case final letter is a partial block.
    fn image(map: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for block in map.bytes() {
            let fill = if block.is_ascii_punctuation() { 0 } else { block };
            let len = if block.is_ascii_lowercase() || block == b',' { 100 } else { BLOCK };
            bytes.extend(std::iter::repeat_n(fill, len));
        }
        bytes
    }

    /// A mask that no block of the tests meets leaves only the other rules.
    fn params() -> ChunkerParams {
        ChunkerParams { min_blocks: 2, mask_bits: 16, max_blocks: 4, seed: 1 }
    }

    #[test]
    fn rules_in_turn() {
        fn check(map: &str, room: usize, eof: bool, want: Option<Piece>) {
            let room = (room * BLOCK) as u64;
            let got = piece_next(&params(), &image(map), room, eof);
            assert_eq!(got, want, "{map:?} room {room} eof {eof}");
        }
        let (hole, data) = (Piece::Hole, Piece::Data);
        check("", 9, true, None);
        check("", 9, false, None);
        check("a", 9, false, None);
        check("a", 9, true, Some(data(100)));
        check(",", 9, false, None);
        check(",", 9, true, Some(hole(100)));
        check("..,", 9, true, Some(hole(2 * BLOCK + 100)));
        check("..,", 9, false, Some(hole(2 * BLOCK)));
        check("..A", 9, false, Some(hole(2 * BLOCK)));
        check("....", 3, false, Some(hole(3 * BLOCK)));
        check("A.", 9, false, Some(data(BLOCK)));
        check("AB", 9, false, None);
        check("AB", 9, true, Some(data(2 * BLOCK)));
        check("AB", 2, false, Some(data(2 * BLOCK)));
        check("ABC", 2, false, Some(data(2 * BLOCK)));
        check("ABc", 9, true, Some(data(2 * BLOCK + 100)));
        check("ABc", 9, false, None);
        check("ABCD", 9, false, Some(data(4 * BLOCK)));
        check("ABCDEF", 9, true, Some(data(4 * BLOCK)));
        check("AB,", 9, true, Some(data(2 * BLOCK)));
    }

    #[test]
    fn hash_ends_a_chunk_from_the_minimum_on() {
        let always = ChunkerParams { mask_bits: 0, ..params() };
        let bytes = image("ABCDEF");
        assert_eq!(piece_next(&always, &bytes, 1 << 28, false), Some(Piece::Data(2 * BLOCK)));
        // Undecided with one block: the minimum is not reached and the next block may be zero.
        assert_eq!(piece_next(&always, &bytes[..BLOCK], 1 << 28, false), None);
        assert_eq!(piece_next(&always, &bytes[..2 * BLOCK], 1 << 28, false), Some(Piece::Data(2 * BLOCK)));
    }

    #[test]
    fn a_file_end_ends_a_chunk_from_the_minimum_on() {
        fn check(zeros: [usize; 3], want: usize) {
            let mut bytes = image("ABCDEF");
            for (n, zeros) in zeros.into_iter().enumerate() {
                bytes[(n + 1) * BLOCK - zeros..(n + 1) * BLOCK].fill(0);
            }
            let got = piece_next(&params(), &bytes, 1 << 28, false);
            assert_eq!(got, Some(Piece::Data(want * BLOCK)), "{zeros:?}");
        }
        check([0, 0, 0], 4);
        check([0, 64, 0], 2);
        check([0, 63, 64], 3);
        check([0, 4095, 0], 2);
        // The first block alone is below the minimum.
        check([64, 0, 0], 4);
        check([64, 64, 0], 2);
        // What follows a hole's border is decided by the hole.
        check([0, 0, 4096], 2);
    }

    #[test]
    fn senseless_parameters_still_end() {
        for max_blocks in [0, 1000] {
            let params = ChunkerParams { min_blocks: 0, mask_bits: 255, max_blocks, seed: 0 };
            let bytes = vec![1; params.max_len() + BLOCK];
            let piece = piece_next(&params, &bytes, 1 << 28, false);
            assert!(matches!(piece, Some(Piece::Data(len)) if len <= FRAME_RAW_MAX));
        }
    }
}
