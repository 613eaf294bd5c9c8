//! Reading a version at any place: for `/disk`, NBD and whoever looks into an image.

mod ahead;
mod load;
mod map;
mod patience;

pub(crate) use map::SegmentMap;

use crate::frames::{Failure, FrameCache};
use crate::{Cancel, RemoteContent, TransferError};
use ahead::Streams;
use map::{LayoutMap, Piece};
use slipway_api::{Client, VersionRef};
use slipway_chunk::{ChunkId, Extent, PackId, SEGMENT_LEN, Segment, SegmentId};
use std::io;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;

/// The id of a segment that is one hole and has the full length.
static HOLE_ID: LazyLock<Option<SegmentId>> =
    LazyLock::new(|| Segment::new(vec![Extent::Hole { len: SEGMENT_LEN as u32 }]).ok().map(|segment| segment.id()));

/// How a reader behaves.
#[derive(Clone, Debug)]
pub struct ReaderOptions {
    /// Bytes that are fetched ahead of a reader that goes on and on; 0 for none.
    pub ahead: u64,
    /// How long the server may be silent before a read fails.
    pub patience: Duration,
    /// Fails every read that waits for the server.
    pub cancel: Cancel,
}

impl Default for ReaderOptions {
    fn default() -> Self {
        Self { ahead: 24 << 20, patience: Duration::from_secs(30), cancel: Cancel::new() }
    }
}

/// A stretch of an image that is a hole, or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Its first byte in the image.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// It reads as zeros and is stored nowhere.
    pub hole: bool,
}

/// Reads a version at any place; cheap to clone, for any number of threads. Every chunk is verified before a byte of it is given out: a
/// chunk that is damaged is an error, and the server is told of it.
///
/// The methods that read wait for the network, so they want a thread that may wait: not a task of the runtime, but
/// `spawn_blocking` or a thread of its own.
#[derive(Clone)]
pub struct RemoteReader(Arc<Inner>);

struct Inner {
    content: RemoteContent,
    cache: FrameCache,
    runtime: Handle,
    options: ReaderOptions,
    streams: Mutex<Streams>,
    /// One thread fetches a document, the others wait for it.
    fetching: [Mutex<()>; 16],
}

/// A chunk that the server gave wrong bytes for, or none.
struct Lost<'a> {
    piece: Piece<'a>,
    why: Failure,
    pack: PackId,
}

impl RemoteReader {
    /// Finds the version that a reference means and reads its manifest.
    ///
    /// # Errors
    /// As [`RemoteContent::open`].
    pub async fn open(
        client: &Client,
        reference: &VersionRef,
        cache: &FrameCache,
        options: ReaderOptions,
    ) -> Result<Self, TransferError> {
        Ok(Self::new(RemoteContent::open(client, reference).await?, cache, options))
    }

    /// A reader of this version; to be called within the runtime that it shall use.
    pub fn new(content: RemoteContent, cache: &FrameCache, mut options: ReaderOptions) -> Self {
        // What is fetched ahead must still be there when its turn comes.
        options.ahead = options.ahead.min(cache.memory_bound() / 4);
        Self(Arc::new(Inner {
            content,
            cache: cache.clone(),
            runtime: Handle::current(),
            options,
            streams: Mutex::default(),
            fetching: Default::default(),
        }))
    }

    /// The version.
    pub fn content(&self) -> &RemoteContent {
        &self.0.content
    }

    /// The image's size in bytes.
    pub fn size(&self) -> u64 {
        self.0.content.manifest().size
    }

    /// 512 or 4096.
    pub fn sector_size(&self) -> u32 {
        self.0.content.manifest().sector_size
    }

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// When a part of it lies behind the end of the image, is damaged on the server, or does not come in time. What is in `buf` then
    /// is of no use.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), TransferError> {
        self.range_check(offset, buf.len() as u64)?;
        self.ahead_note(offset, buf.len() as u64);
        self.read_parts(offset, buf, |index, from, part| self.segment_read(index, from, part).map(|()| true))?;
        Ok(())
    }

    /// As [`read_at`](Self::read_at), but only from what is here already: `false`, and nothing in `buf`, when the server would have to be asked.
    /// Waits for no more than the cache's own folder.
    ///
    /// # Errors
    /// When a part of it lies behind the end of the image.
    pub fn read_local(&self, offset: u64, buf: &mut [u8]) -> Result<bool, TransferError> {
        self.range_check(offset, buf.len() as u64)?;
        let here = self.read_parts(offset, buf, |index, from, part| Ok(self.segment_read_local(index, from, part)))?;
        if here {
            self.ahead_note(offset, buf.len() as u64);
        }
        Ok(here)
    }

    /// What is a hole in `len` bytes from `offset` on, and what is not: in order, without gap, never two of a kind in a row.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn extents(&self, offset: u64, len: u64) -> Result<Vec<Stretch>, TransferError> {
        self.range_check(offset, len)?;
        let mut found: Vec<Stretch> = Vec::new();
        self.stretches_each(offset, offset + len, &mut |next| {
            match found.last_mut().filter(|last| last.hole == next.hole) {
                Some(last) => last.len += next.len,
                None => found.push(next),
            }
            true
        })?;
        Ok(found)
    }

    /// The first byte at or behind `offset` that is in a hole (`hole`) or is not; the end of the image counts as a hole.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn seek(&self, offset: u64, hole: bool) -> Result<Option<u64>, TransferError> {
        self.range_check(offset, 0)?;
        let mut found = None;
        self.stretches_each(offset, self.size(), &mut |next| {
            found = (next.hole == hole).then_some(next.offset);
            found.is_none()
        })?;
        Ok(found.or(hole.then_some(self.size())))
    }

    /// Shows the parts of holes and chunks between two places, until nobody wants more.
    fn stretches_each(&self, offset: u64, end: u64, see: &mut dyn FnMut(Stretch) -> bool) -> Result<(), TransferError> {
        let mut at = offset;
        while at < end {
            let (index, from) = ((at / SEGMENT_LEN) as usize, at % SEGMENT_LEN);
            let until = end.min((index as u64 + 1) * SEGMENT_LEN);
            let segments = &self.0.content.manifest().segments;
            if HOLE_ID.is_some_and(|id| id == segments[index]) {
                if !see(Stretch { offset: at, len: until - at, hole: true }) {
                    return Ok(());
                }
            } else {
                let map = self.map(index)?;
                for piece in map.pieces(from, until - at) {
                    let offset = index as u64 * SEGMENT_LEN + piece.at;
                    if !see(Stretch { offset, len: piece.len.into(), hole: piece.chunk.is_none() }) {
                        return Ok(());
                    }
                }
            }
            at = until;
        }
        Ok(())
    }

    fn range_check(&self, offset: u64, len: u64) -> Result<(), TransferError> {
        match offset.checked_add(len).is_some_and(|end| end <= self.size()) {
            true => Ok(()),
            false => {
                let why = io::Error::new(io::ErrorKind::UnexpectedEof, "the image ends before that");
                Err(TransferError::io("reading", self.0.content.name(), why))
            }
        }
    }

    /// Reads segment after segment; ends with `false` as soon as one says so.
    fn read_parts(
        &self,
        offset: u64,
        mut buf: &mut [u8],
        mut read: impl FnMut(usize, u64, &mut [u8]) -> Result<bool, TransferError>,
    ) -> Result<bool, TransferError> {
        let mut at = offset;
        while !buf.is_empty() {
            let (index, from) = ((at / SEGMENT_LEN) as usize, at % SEGMENT_LEN);
            let len = (buf.len() as u64).min(SEGMENT_LEN - from) as usize;
            let (part, rest) = buf.split_at_mut(len);
            if HOLE_ID.is_some_and(|id| id == self.0.content.manifest().segments[index]) {
                part.fill(0);
            } else if !read(index, from, part)? {
                return Ok(false);
            }
            buf = rest;
            at += len as u64;
        }
        Ok(true)
    }

    fn segment_read(&self, index: usize, from: u64, buf: &mut [u8]) -> Result<(), TransferError> {
        let map = self.map(index)?;
        let mut wanted = chunks_zero_fill(&map, from, buf);
        if wanted.is_empty() {
            return Ok(());
        }
        let mut layout = self.layout(index, &map)?;
        let mut lost = self.pieces_read(&layout, wanted, from, buf)?;
        if lost.is_empty() {
            return Ok(());
        }
        // Prune moved the chunks, the capability ended, or a pack is damaged: a new layout says where to go. Once, so that a server
        // that is wrong for good is not asked for ever.
        self.lost_report(&lost);
        layout = self.layout_fetch(index, &map, Some(&layout))?;
        wanted = lost.into_iter().map(|lost| lost.piece).collect();
        lost = self.pieces_read(&layout, wanted, from, buf)?;
        self.lost_report(&lost);
        match lost.into_iter().next() {
            None => Ok(()),
            Some(Lost { why: Failure::Moved(why) | Failure::Failed(why), .. }) => Err(TransferError::Shared(why)),
            Some(Lost { why: Failure::Bad, piece, pack }) => {
                let chunk = piece.chunk.map_or(ChunkId::from_bytes([0; 32]), |chunk| *chunk);
                Err(TransferError::BadChunk { chunk, content: self.0.content.name(), pack })
            }
        }
    }

    /// Copies these chunks to their places; gives back those that were bad or have moved.
    fn pieces_read<'a>(
        &self,
        layout: &LayoutMap,
        pieces: Vec<Piece<'a>>,
        from: u64,
        buf: &mut [u8],
    ) -> Result<Vec<Lost<'a>>, TransferError> {
        let wants = layout.wants(pieces);
        let arriving = self.frames_load(layout, &wants);
        let mut lost = Vec::new();
        for (want, arriving) in wants.into_iter().zip(arriving) {
            let pack = layout.key(want.frame).pack;
            let frame = match arriving.wait() {
                Ok(frame) => frame,
                Err(Failure::Failed(why)) => return Err(TransferError::Shared(why)),
                Err(why) => {
                    lost.extend(want.pieces.into_iter().map(|(_, piece)| Lost { piece, why: why.clone(), pack }));
                    continue;
                }
            };
            for (at, piece) in want.pieces {
                if !piece.copy(&frame, at, from, buf) {
                    self.0.cache.forget(&layout.key(want.frame));
                    lost.push(Lost { piece, why: Failure::Bad, pack });
                }
            }
        }
        Ok(lost)
    }

    fn segment_read_local(&self, index: usize, from: u64, buf: &mut [u8]) -> bool {
        let Some(map) = self.0.cache.map_get(&self.0.content.manifest().segments[index]) else { return false };
        let wanted = chunks_zero_fill(&map, from, buf);
        if wanted.is_empty() {
            return true;
        }
        let Some(layout) = map.layout() else { return false };
        layout.wants(wanted).into_iter().all(|want| {
            let Some(frame) = self.frame_local(&layout, &want) else { return false };
            want.pieces.iter().all(|(at, piece)| piece.copy(&frame, *at, from, buf))
        })
    }

    /// Tells the server of the first bad chunks.
    fn lost_report(&self, lost: &[Lost<'_>]) {
        let bad = lost.iter().filter(|lost| matches!(lost.why, Failure::Bad)).take(4);
        for Lost { piece, pack, .. } in bad {
            let Some(chunk) = piece.chunk else { continue };
            let telling = self.0.content.finding_report(chunk, pack);
            self.0.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(5), telling).await.ok() });
        }
    }

    /// Segment `index` and where its extents begin.
    fn map(&self, index: usize) -> Result<Arc<SegmentMap>, TransferError> {
        let id = self.0.content.manifest().segments[index];
        if let Some(map) = self.0.cache.map_get(&id) {
            return Ok(map);
        }
        let _alone = self.alone(index);
        if let Some(map) = self.0.cache.map_get(&id) {
            return Ok(map);
        }
        let segment = self.wait_patiently(|| self.0.content.segment_fetch(index))?;
        let map = Arc::new(SegmentMap::new(segment));
        self.0.cache.map_keep(map.clone());
        Ok(map)
    }

    fn layout(&self, index: usize, map: &SegmentMap) -> Result<Arc<LayoutMap>, TransferError> {
        match map.layout() {
            Some(layout) => Ok(layout),
            None => self.layout_fetch(index, map, None),
        }
    }

    /// A layout newer than `old`. Other versions with this segment use it too.
    fn layout_fetch(
        &self,
        index: usize,
        map: &SegmentMap,
        old: Option<&Arc<LayoutMap>>,
    ) -> Result<Arc<LayoutMap>, TransferError> {
        let _alone = self.alone(index);
        // Another thread may have brought one while this one waited.
        if let Some(layout) = map.layout().filter(|now| old.is_none_or(|old| !Arc::ptr_eq(now, old))) {
            return Ok(layout);
        }
        let layout = self.wait_patiently(|| self.0.content.layout(index))?;
        let placed = LayoutMap::new(map.segment(), &layout).map_err(|chunk| TransferError::Document {
            what: format!("layout of segment {} of {}", index, self.0.content.name()),
            reason: format!("it has no right place for chunk {chunk}"),
        })?;
        let placed = Arc::new(placed);
        map.layout_set(placed.clone());
        // It is heavier now. That it may have been forgotten meanwhile is no harm.
        if let Some(kept) = self.0.cache.map_get(&map.segment().id()) {
            self.0.cache.map_keep(kept);
        }
        Ok(placed)
    }

    fn alone(&self, index: usize) -> MutexGuard<'_, ()> {
        self.0.fetching[index % self.0.fetching.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Zeros the holes of `buf` and gives its chunks.
fn chunks_zero_fill<'a>(map: &'a SegmentMap, from: u64, buf: &mut [u8]) -> Vec<Piece<'a>> {
    let mut chunks = Vec::new();
    for piece in map.pieces(from, buf.len() as u64) {
        match piece.chunk {
            Some(_) => chunks.push(piece),
            None => buf[(piece.at - from) as usize..][..piece.len as usize].fill(0),
        }
    }
    chunks
}

impl std::fmt::Debug for RemoteReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteReader").field("content", &self.0.content.name()).finish_non_exhaustive()
    }
}
