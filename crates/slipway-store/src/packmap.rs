//! A pack's footer in the flat form in which chunks are looked up.

use slipway_chunk::{ChunkId, Footer};

/// Where a frame lies in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameSpot {
    pub offset: u64,
    pub len: u32,
    pub raw_len: u32,
    /// Ordinal of its first chunk.
    pub first: u32,
    pub chunks: u32,
}

/// Where a chunk lies in its pack; its ordinal is its place in the list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChunkSpot {
    pub id: ChunkId,
    pub len: u32,
    /// Offset in the raw bytes of the frame.
    pub at: u32,
    pub frame: u32,
}

#[derive(Debug)]
pub(crate) struct PackMap {
    pub frames: Vec<FrameSpot>,
    pub chunks: Vec<ChunkSpot>,
}

impl PackMap {
    pub(crate) fn from_footer(footer: &Footer) -> PackMap {
        let total = footer.frames.iter().map(|frame| frame.chunks.len()).sum();
        let mut frames = Vec::with_capacity(footer.frames.len());
        let mut chunks: Vec<ChunkSpot> = Vec::with_capacity(total);
        // A footer is at most 64 MiB, so its ordinals fit 32 bits.
        for (number, frame) in footer.frames.iter().enumerate() {
            frames.push(FrameSpot {
                offset: frame.offset,
                len: frame.len,
                raw_len: frame.raw_len,
                first: chunks.len() as u32,
                chunks: frame.chunks.len() as u32,
            });
            let mut at = 0;
            for &(id, len) in &frame.chunks {
                chunks.push(ChunkSpot { id, len, at, frame: number as u32 });
                at += len;
            }
        }
        PackMap { frames, chunks }
    }

    /// Ids and lengths of a frame's chunks.
    pub(crate) fn frame_chunks(&self, frame: &FrameSpot) -> Vec<(ChunkId, u32)> {
        let first = frame.first as usize;
        self.chunks[first..first + frame.chunks as usize].iter().map(|chunk| (chunk.id, chunk.len)).collect()
    }

    /// Bytes that it takes in memory.
    pub(crate) fn weight(&self) -> usize {
        self.frames.len() * size_of::<FrameSpot>() + self.chunks.len() * size_of::<ChunkSpot>()
    }
}
