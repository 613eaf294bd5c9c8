use std::ops::Range;

use crate::error::FormatError;
use crate::frame_decode::DecodedFrame;
use crate::ids::ChunkId;

/// The receipt that these bytes have this id. Only this module makes one, so what demands it cannot be given unchecked bytes.
#[derive(Clone, Copy, Debug)]
pub struct Verified<'a> {
    id: ChunkId,
    bytes: &'a [u8],
}

impl<'a> Verified<'a> {
    pub fn id(&self) -> &ChunkId {
        &self.id
    }

    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Hashes `bytes` and compares.
///
/// # Errors
/// [`FormatError::Mismatch`] when the bytes have another id.
pub fn verify<'a>(bytes: &'a [u8], id: &ChunkId) -> Result<Verified<'a>, FormatError> {
    if ChunkId::of(bytes) == *id { Ok(Verified { id: *id, bytes }) } else { Err(FormatError::Mismatch { id: *id }) }
}

/// A frame's raw bytes and what is known of the chunks that were looked for in them: they may be verified on one thread and used on another.
#[derive(Debug)]
pub struct VerifiedFrame {
    raw: Vec<u8>,
    /// As they were asked for; `None`: the bytes are not that chunk.
    chunks: Vec<Option<(ChunkId, Range<usize>)>>,
}

impl VerifiedFrame {
    /// Verifies each of `wanted`: its place in the raw bytes, its length, and its id.
    pub fn new<'a>(frame: DecodedFrame, wanted: impl IntoIterator<Item = (u32, u32, &'a ChunkId)>) -> Self {
        let chunk = |(at, len, id): (u32, u32, &ChunkId)| {
            frame.verify(at, len, id).ok().map(|_| (*id, at as usize..at as usize + len as usize))
        };
        let chunks = wanted.into_iter().map(chunk).collect();
        Self { raw: frame.into_raw(), chunks }
    }

    /// Chunk `index` of those that were wanted, if it is what its id says.
    pub fn chunk(&self, index: usize) -> Option<Verified<'_>> {
        let (id, range) = self.chunks.get(index)?.as_ref()?;
        Some(Verified { id: *id, bytes: &self.raw[range.clone()] })
    }

    /// The memory of the raw bytes, for [`DecodedFrame::decode_in`].
    pub fn into_raw(self) -> Vec<u8> {
        self.raw
    }
}

#[cfg(test)]
mod tests {
    use super::VerifiedFrame;
    use crate::frame_decode::DecodedFrame;
    use crate::ids::ChunkId;
    use crate::{FrameBuilder, Framer};

    #[test]
    fn only_what_is_there_is_given_out() {
        let (one, two) = (ChunkId::of(&[1; 4096]), ChunkId::of(&[2; 8192]));
        let mut frame = FrameBuilder::new();
        frame.push(one, &[1; 4096]);
        frame.push(two, &[2; 8192]);
        let mut framer = Framer::new(1, 3);
        let mut frames = framer.submit(frame.take());
        frames.extend(framer.drain());
        let decoded = DecodedFrame::decode(&frames[0].bytes).unwrap();
        let wanted = [(4096, 8192, &two), (0, 4096, &two), (0, 4096, &one), (8192, 8192, &two), (u32::MAX, 1, &one)];
        let verified = VerifiedFrame::new(decoded, wanted);
        let given: Vec<_> =
            (0..6).map(|n| verified.chunk(n).map(|chunk| (*chunk.id(), chunk.bytes().to_vec()))).collect();
        let (first, third) = ((two, vec![2; 8192]), (one, vec![1; 4096]));
        assert_eq!(given, [Some(first), None, Some(third), None, None, None]);
        assert_eq!(verified.into_raw().len(), 12_288);
    }
}
