//! A segment and its layout, made so that a place is found quickly.

use crate::frames::{Frame, FrameKey};
use slipway_chunk::{ChunkAt, ChunkId, Extent, Layout, Segment};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A segment, where its extents begin, and the newest layout that is known.
pub(crate) struct SegmentMap {
    segment: Arc<Segment>,
    /// Where each extent begins in the segment.
    starts: Vec<u32>,
    layout: Mutex<Option<Arc<LayoutMap>>>,
}

/// A part of a hole, or of a chunk, that is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece<'a> {
    /// Where it begins in the segment.
    pub(crate) at: u64,
    pub(crate) len: u32,
    /// `None`: a hole.
    pub(crate) chunk: Option<&'a ChunkId>,
    /// The whole chunk's length.
    pub(crate) chunk_len: u32,
    /// Bytes of the chunk before the piece.
    skip: u32,
    extent: u32,
}

impl Piece<'_> {
    /// Copies its bytes out of a frame that has the chunk at `at`, into the part of the segment that begins at `from`; `false` when
    /// the frame has no such chunk.
    pub(crate) fn copy(&self, frame: &Frame, at: u32, from: u64, buf: &mut [u8]) -> bool {
        let Some(bytes) = self.chunk.and_then(|id| frame.chunk(at, self.chunk_len, id)) else { return false };
        let to = (self.at - from) as usize;
        buf[to..to + self.len as usize].copy_from_slice(&bytes[self.skip as usize..(self.skip + self.len) as usize]);
        true
    }

    /// Whether the frame has its chunk at `at`.
    pub(crate) fn is_in(&self, frame: &Frame, at: u32) -> bool {
        self.chunk.is_some_and(|id| frame.chunk(at, self.chunk_len, id).is_some())
    }
}

impl SegmentMap {
    pub(crate) fn new(segment: Arc<Segment>) -> Self {
        let mut next = 0;
        let starts = segment.extents().iter().map(|extent| {
            next += extent.len();
            next - extent.len()
        });
        let starts = starts.collect();
        Self { segment, starts, layout: Mutex::default() }
    }

    pub(crate) fn segment(&self) -> &Segment {
        &self.segment
    }

    pub(crate) fn layout(&self) -> Option<Arc<LayoutMap>> {
        self.newest().clone()
    }

    pub(crate) fn layout_set(&self, layout: Arc<LayoutMap>) {
        *self.newest() = Some(layout);
    }

    fn newest(&self) -> MutexGuard<'_, Option<Arc<LayoutMap>>> {
        self.layout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of memory that it takes.
    pub(crate) fn cost(&self) -> u64 {
        let extents = self.starts.len() * (size_of::<Extent>() + size_of::<u32>());
        extents as u64 + self.newest().as_ref().map_or(0, |layout| layout.cost()) + 256
    }

    /// The pieces of `len` bytes from `from` on, within the segment.
    pub(crate) fn pieces(&self, from: u64, len: u64) -> impl Iterator<Item = Piece<'_>> {
        let end = from + len;
        // The extent that begins at or before `from`.
        let first = self.starts.partition_point(|start| u64::from(*start) <= from).saturating_sub(1);
        let extents = self.segment.extents().iter().zip(&self.starts).enumerate().skip(first);
        extents.take_while(move |(_, (_, start))| u64::from(**start) < end).map(move |(extent, (what, start))| {
            let start = u64::from(*start);
            let (at, until) = (start.max(from), end.min(start + u64::from(what.len())));
            let chunk = match what {
                Extent::Hole { .. } => None,
                Extent::Chunk { id, .. } => Some(id),
            };
            let (len, skip) = ((until - at) as u32, (at - start) as u32);
            Piece { at, len, chunk, chunk_len: what.len(), skip, extent: extent as u32 }
        })
    }
}

/// Where each chunk of a segment lies.
pub(crate) struct LayoutMap {
    packs: Vec<Arc<str>>,
    frames: Vec<FrameRow>,
    /// For each extent the number of its frame and the place in it; of no meaning for a hole.
    places: Vec<(u32, u32)>,
}

#[derive(Clone, Copy)]
struct FrameRow {
    key: FrameKey,
    pack: u32,
    len: u32,
    raw_len: u32,
}

/// A frame, and what is wanted of it: places in its raw bytes, and what shall be there.
pub(crate) struct Want<'a> {
    pub(crate) frame: u32,
    pub(crate) pieces: Vec<(u32, Piece<'a>)>,
}

impl LayoutMap {
    /// # Errors
    /// The chunk that the layout does not place.
    pub(crate) fn new(segment: &Segment, layout: &Layout) -> Result<Self, ChunkId> {
        let places: HashMap<(ChunkId, u32), &ChunkAt> =
            layout.chunks.iter().map(|chunk| ((chunk.id, chunk.len), chunk)).collect();
        let place = |extent: &Extent| match *extent {
            Extent::Hole { .. } => Ok((u32::MAX, 0)),
            Extent::Chunk { id, len } => places.get(&(id, len)).map(|chunk| (chunk.frame, chunk.at)).ok_or(id),
        };
        let row = |frame: &slipway_chunk::FrameAt| FrameRow {
            key: FrameKey { pack: layout.packs[frame.pack as usize].id, offset: frame.offset },
            pack: frame.pack,
            len: frame.len,
            raw_len: frame.raw_len,
        };
        Ok(Self {
            packs: layout.packs.iter().map(|pack| pack.address.as_str().into()).collect(),
            places: segment.extents().iter().map(place).collect::<Result<_, _>>()?,
            frames: layout.frames.iter().map(row).collect(),
        })
    }

    pub(crate) fn key(&self, frame: u32) -> FrameKey {
        self.frames[frame as usize].key
    }

    pub(crate) fn address(&self, frame: u32) -> &Arc<str> {
        &self.packs[self.frames[frame as usize].pack as usize]
    }

    /// A frame's length in its pack and its raw length.
    pub(crate) fn lens(&self, frame: u32) -> (u32, u32) {
        let row = &self.frames[frame as usize];
        (row.len, row.raw_len)
    }

    /// The frames that these chunks lie in, each once, in the order of the image.
    pub(crate) fn wants<'a>(&self, pieces: Vec<Piece<'a>>) -> Vec<Want<'a>> {
        let mut wants: Vec<Want<'a>> = Vec::new();
        let mut known: HashMap<u32, usize> = HashMap::new();
        for piece in pieces {
            let (frame, at) = self.places[piece.extent as usize];
            let n = *known.entry(frame).or_insert_with(|| {
                wants.push(Want { frame, pieces: Vec::new() });
                wants.len() - 1
            });
            wants[n].pieces.push((at, piece));
        }
        wants
    }

    fn cost(&self) -> u64 {
        let texts: usize = self.packs.iter().map(|address| address.len() + 32).sum();
        (texts + self.frames.len() * size_of::<FrameRow>() + self.places.len() * 8) as u64
    }
}
