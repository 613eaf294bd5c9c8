use std::cell::RefCell;

use zstd::bulk::Compressor;

use crate::FRAME_RAW_MAX;
use crate::frame_header::{Codec, FRAME_CHUNKS_MAX, FrameHeader};
use crate::ids::ChunkId;

/// Chunks that will be compressed together: id and length of each, and their bytes one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawFrame {
    pub chunks: Vec<(ChunkId, u32)>,
    pub raw: Vec<u8>,
}

/// A frame as it is stored and sent. `raw_len` in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedFrame {
    pub bytes: Vec<u8>,
    pub chunks: Vec<(ChunkId, u32)>,
    pub raw_len: u32,
}

thread_local! {
    /// Making a context costs more than compressing a frame's first chunks, so each thread keeps one with its level.
    static COMPRESSOR: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
}

impl RawFrame {
    /// Compresses with zstd at `level` (1 to 19; others are clamped), or stores plain when that saves less than 3 %.
    ///
    /// # Panics
    /// When the chunks do not describe the raw bytes, or break the limits of a frame; [`FrameBuilder`] makes frames that hold them.
    pub fn encode(&self, level: i32) -> EncodedFrame {
        let sum: usize = self.chunks.iter().map(|&(_, len)| len as usize).sum();
        assert_eq!(sum, self.raw.len(), "the chunks describe the raw bytes");
        assert!((1..=FRAME_RAW_MAX).contains(&sum), "a frame has 1 byte to 256 KiB");
        assert!(self.chunks.len() <= FRAME_CHUNKS_MAX, "a frame has at most 256 chunks");
        let raw_len = sum as u32;
        let mut header = FrameHeader {
            codec: Codec::Plain,
            key_id: 0,
            base: Vec::new(),
            raw_len,
            payload_len: raw_len,
            lens: self.chunks.iter().map(|&(_, len)| len).collect(),
        };
        let head_len = header.header_len();

        let mut bytes = vec![0; head_len + zstd::compress_bound(sum)];
        let squeezed = compress(&self.raw, &mut bytes[head_len..], level.clamp(1, 19));
        match squeezed {
            Some(len) if len + sum * 3 / 100 < sum => {
                header.codec = Codec::Zstd;
                header.payload_len = len as u32;
                bytes.truncate(head_len + len);
                bytes.shrink_to_fit();
            }
            Some(_) | None => {
                bytes.truncate(head_len);
                bytes.extend_from_slice(&self.raw);
            }
        }
        bytes[..head_len].copy_from_slice(&header.encode());
        EncodedFrame { bytes, chunks: self.chunks.clone(), raw_len }
    }
}

/// `None` when zstd has no memory for a context; the frame is then stored plain, which is always right.
fn compress(raw: &[u8], space: &mut [u8], level: i32) -> Option<usize> {
    COMPRESSOR.with_borrow_mut(|slot| {
        if !matches!(slot, Some((kept, _)) if *kept == level) {
            *slot = Some((level, Compressor::new(level).ok()?));
        }
        let (_, compressor) = slot.as_mut()?;
        compressor.compress_to_buffer(raw, space).ok()
    })
}

/// Gathers chunks, in the order of the image, until a frame is full.
#[derive(Debug, Default)]
pub struct FrameBuilder {
    frame: RawFrame,
}

impl FrameBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a chunk of `len` bytes may still be pushed. An empty one holds any chunk.
    pub fn fits(&self, len: usize) -> bool {
        self.frame.raw.len() + len <= FRAME_RAW_MAX && self.frame.chunks.len() < FRAME_CHUNKS_MAX
    }

    /// # Panics
    /// When the chunk is empty or does not [fit](Self::fits).
    pub fn push(&mut self, id: ChunkId, bytes: &[u8]) {
        assert!(!bytes.is_empty() && self.fits(bytes.len()), "the chunk fits in the frame");
        if self.frame.raw.capacity() == 0 {
            self.frame.raw.reserve_exact(FRAME_RAW_MAX);
        }
        self.frame.chunks.push((id, bytes.len() as u32));
        self.frame.raw.extend_from_slice(bytes);
    }

    pub fn is_empty(&self) -> bool {
        self.frame.chunks.is_empty()
    }

    /// Raw bytes gathered so far.
    pub fn raw_len(&self) -> usize {
        self.frame.raw.len()
    }

    /// Takes what was gathered, and begins anew.
    pub fn take(&mut self) -> RawFrame {
        std::mem::take(&mut self.frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame_header::FRAME_HEADER_MIN;

    fn one(raw: Vec<u8>) -> EncodedFrame {
        let mut builder = FrameBuilder::new();
        builder.push(ChunkId::of(&raw), &raw);
        builder.take().encode(3)
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut reader = blake3::Hasher::new().finalize_xof();
        reader.fill(&mut bytes);
        bytes
    }

    #[test]
    fn plain_when_zstd_saves_little() {
        fn check(zeros: usize, want: Codec) {
            let mut raw = noise(100_000);
            raw[..zeros].fill(0);
            let frame = one(raw);
            let (header, _) = FrameHeader::decode(&frame.bytes).unwrap().unwrap();
            assert_eq!(header.codec, want, "{zeros}");
            assert_eq!(header.frame_len(), frame.bytes.len());
        }
        check(0, Codec::Plain);
        check(2_500, Codec::Plain);
        check(4_000, Codec::Zstd);
        check(100_000, Codec::Zstd);
        assert_eq!(one(vec![1]).bytes.len(), FRAME_HEADER_MIN + 4 + 1);
    }

    #[test]
    fn a_builder_is_full_by_bytes_or_by_count() {
        let mut builder = FrameBuilder::new();
        assert!(builder.is_empty() && builder.fits(FRAME_RAW_MAX) && !builder.fits(FRAME_RAW_MAX + 1));
        let id = ChunkId::of(b"a");
        builder.push(id, &[1; 4096]);
        assert!(builder.fits(FRAME_RAW_MAX - 4096) && !builder.fits(FRAME_RAW_MAX - 4095));
        assert_eq!(builder.take().chunks, [(id, 4096)]);
        for _ in 0..FRAME_CHUNKS_MAX {
            assert!(builder.fits(1));
            builder.push(id, b"a");
        }
        assert!(!builder.fits(1));
        assert_eq!(builder.raw_len(), FRAME_CHUNKS_MAX);
        assert_eq!(builder.take().encode(1).raw_len, 256);
        assert!(builder.is_empty());
    }

    #[test]
    #[should_panic(expected = "fits")]
    fn a_full_builder_refuses() {
        FrameBuilder::new().push(ChunkId::of(b""), &vec![0; FRAME_RAW_MAX + 1]);
    }
}
