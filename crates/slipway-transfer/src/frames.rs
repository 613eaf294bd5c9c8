//! Frames that readers of versions keep: decoded in memory and, if wanted, as they came in a folder. One of it serves a whole process.

mod flight;
mod folder;
mod lru;
mod outage;

pub(crate) use flight::{Failure, Flight};
pub use folder::FolderOptions;
pub(crate) use outage::Outage;

use crate::TransferError;
use crate::reader::SegmentMap;
use folder::Folder;
use lru::Lru;
use slipway_chunk::{ChunkId, DecodedFrame, PackId, SegmentId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;

/// Requests of read-ahead at once, of all readers together.
const AHEAD_REQUESTS: usize = 4;
/// What a frame costs besides its bytes.
const FRAME_COST: u64 = 256;
const CHUNK_COST: u64 = 48;

/// Where a frame lies: a pack's id is never used again and its bytes never change, so one key always means the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FrameKey {
    pub(crate) pack: PackId,
    pub(crate) offset: u64,
}

/// A frame's raw bytes and the ids that its chunks were found to have.
pub(crate) struct Frame {
    decoded: DecodedFrame,
    /// Where each chunk begins, its length and its id; in order.
    chunks: Vec<(u32, u32, ChunkId)>,
}

impl Frame {
    /// Hashes every chunk, so that [`chunk`](Self::chunk) only has to compare.
    pub(crate) fn new(decoded: DecodedFrame) -> Self {
        let mut at = 0;
        let chunks = decoded.ids().into_iter().map(|(id, len)| {
            at += len;
            (at - len, len, id)
        });
        let chunks = chunks.collect();
        Self { decoded, chunks }
    }

    /// The bytes at `at`, if they are this chunk.
    pub(crate) fn chunk(&self, at: u32, len: u32, id: &ChunkId) -> Option<&[u8]> {
        let found = self.chunks.binary_search_by_key(&at, |chunk| chunk.0).ok()?;
        let is_it = self.chunks[found] == (at, len, *id);
        is_it.then(|| &self.decoded.raw()[at as usize..(at + len) as usize])
    }

    fn cost(&self) -> u64 {
        self.decoded.raw().len() as u64 + self.chunks.len() as u64 * CHUNK_COST + FRAME_COST
    }
}

/// Keeps frames for all readers of a process within a bound; cheap to clone. Where several readers want the same frame at once, it is
/// fetched and decoded once.
#[derive(Clone)]
pub struct FrameCache(Arc<Shared>);

struct Shared {
    frames: Mutex<Frames>,
    maps: Mutex<Lru<SegmentId, Arc<SegmentMap>>>,
    folder: Option<Folder>,
    outage: Outage,
    ahead: Arc<Semaphore>,
    memory: u64,
}

struct Frames {
    here: Lru<FrameKey, Arc<Frame>>,
    coming: HashMap<FrameKey, Arc<Flight>>,
    used: Used,
}

#[derive(Clone, Copy, Default)]
struct Used {
    memory: u64,
    folder: u64,
    fetched: u64,
}

/// What a cache holds and what it saved, since its process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CacheUsage {
    /// Bytes of decoded frames and documents in memory.
    pub memory_bytes: u64,
    /// Bytes of frames in the folder.
    pub folder_bytes: u64,
    /// Frames that were found in memory.
    pub memory_hits: u64,
    /// Frames that were found in the folder.
    pub folder_hits: u64,
    /// Frames that were fetched.
    pub fetched: u64,
}

/// What came of asking for a frame.
pub(crate) enum Claim {
    Here(Arc<Frame>),
    /// Somebody else is bringing it.
    Coming(Arc<Flight>),
    /// The asker shall bring it.
    Yours(Ticket),
}

impl FrameCache {
    /// Keeps at most about `bytes` in memory: three quarters for frames, the rest for documents.
    pub fn memory(bytes: u64) -> Self {
        Self::new(bytes, None)
    }

    /// Also keeps frames in a folder, for longer than the process lives. A thread of its own writes them; it ends with the cache.
    ///
    /// # Errors
    /// When the folder cannot be used: it holds something else, others may read it, or another process uses it.
    pub fn with_folder(bytes: u64, options: &FolderOptions) -> Result<Self, TransferError> {
        Ok(Self::new(bytes, Some(Folder::open(options)?)))
    }

    fn new(bytes: u64, folder: Option<Folder>) -> Self {
        let frames = Frames { here: Lru::new(bytes / 4 * 3), coming: HashMap::new(), used: Used::default() };
        Self(Arc::new(Shared {
            frames: Mutex::new(frames),
            maps: Mutex::new(Lru::new(bytes / 4)),
            folder,
            outage: Outage::default(),
            ahead: Arc::new(Semaphore::new(AHEAD_REQUESTS)),
            memory: bytes,
        }))
    }

    /// What it holds now.
    pub fn usage(&self) -> CacheUsage {
        let (frames_bytes, used) = {
            let frames = self.frames();
            (frames.here.weight(), frames.used)
        };
        CacheUsage {
            memory_bytes: frames_bytes + self.maps().weight(),
            folder_bytes: self.0.folder.as_ref().map_or(0, Folder::bytes),
            memory_hits: used.memory,
            folder_hits: used.folder,
            fetched: used.fetched,
        }
    }

    /// The bound that it was made with.
    pub(crate) fn memory_bound(&self) -> u64 {
        self.0.memory
    }

    pub(crate) fn outage(&self) -> &Outage {
        &self.0.outage
    }

    pub(crate) fn ahead(&self) -> &Arc<Semaphore> {
        &self.0.ahead
    }

    /// The frame, or who brings it.
    pub(crate) fn claim(&self, key: FrameKey) -> Claim {
        let mut frames = self.frames();
        if let Some(frame) = frames.here.get(&key).cloned() {
            frames.used.memory += 1;
            return Claim::Here(frame);
        }
        if let Some(flight) = frames.coming.get(&key) {
            return Claim::Coming(flight.clone());
        }
        let flight = Arc::new(Flight::default());
        frames.coming.insert(key, flight.clone());
        Claim::Yours(Ticket { cache: self.clone(), key, flight, landed: false })
    }

    /// Whether it is in memory, or seems to be in the folder.
    pub(crate) fn has(&self, key: &FrameKey) -> bool {
        self.frames().here.has(key) || self.folder_has(key)
    }

    /// Whether the folder seems to have it.
    pub(crate) fn folder_has(&self, key: &FrameKey) -> bool {
        self.0.folder.as_ref().is_some_and(|folder| folder.has(key))
    }

    /// The frame from the folder, decoded and hashed; `None` when it is not there or not what `good` wants, and then it is taken away.
    pub(crate) fn folder_load(&self, key: &FrameKey, good: impl Fn(&Frame) -> bool) -> Option<Arc<Frame>> {
        let folder = self.0.folder.as_ref()?;
        let bytes = folder.load(key)?;
        let frame = DecodedFrame::decode(&bytes).ok().map(Frame::new).filter(|frame| good(frame));
        if frame.is_none() {
            tracing::warn!(pack = %key.pack, offset = key.offset, "a frame in the cache folder is damaged; it is fetched again");
            folder.forget(key);
            return None;
        }
        self.frames().used.folder += 1;
        frame.map(Arc::new)
    }

    /// Lets the folder keep a frame as it came.
    pub(crate) fn folder_keep(&self, key: FrameKey, encoded: &[u8]) {
        self.frames().used.fetched += 1;
        if let Some(folder) = &self.0.folder {
            folder.keep(key, encoded);
        }
    }

    /// Drops a frame that was not what its reader wanted.
    pub(crate) fn forget(&self, key: &FrameKey) {
        self.frames().here.remove(key);
        if let Some(folder) = &self.0.folder {
            folder.forget(key);
        }
    }

    /// The map of a segment, whichever version brought it.
    pub(crate) fn map_get(&self, id: &SegmentId) -> Option<Arc<SegmentMap>> {
        self.maps().get(id).cloned()
    }

    /// Keeps it, or weighs it again because its layout came.
    pub(crate) fn map_keep(&self, map: Arc<SegmentMap>) {
        let (id, cost) = (map.segment().id(), map.cost());
        self.maps().insert(id, map, cost);
    }

    fn frames(&self) -> MutexGuard<'_, Frames> {
        self.0.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn maps(&self) -> MutexGuard<'_, Lru<SegmentId, Arc<SegmentMap>>> {
        self.0.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The duty to bring a frame. Dropped without an answer, it tells those who wait that nothing comes.
pub(crate) struct Ticket {
    cache: FrameCache,
    key: FrameKey,
    flight: Arc<Flight>,
    landed: bool,
}

impl Ticket {
    pub(crate) fn key(&self) -> FrameKey {
        self.key
    }

    pub(crate) fn flight(&self) -> Arc<Flight> {
        self.flight.clone()
    }

    /// Keeps the frame and gives it, or the failure, to everyone who waits.
    pub(crate) fn land(mut self, outcome: Result<Arc<Frame>, Failure>) {
        self.answer(outcome);
    }

    fn answer(&mut self, outcome: Result<Arc<Frame>, Failure>) {
        self.landed = true;
        let mut frames = self.cache.frames();
        frames.coming.remove(&self.key);
        if let Ok(frame) = &outcome {
            frames.here.insert(self.key, frame.clone(), frame.cost());
        }
        drop(frames);
        self.flight.land(outcome);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.landed {
            self.answer(Err(Failure::Failed(Arc::new(TransferError::Cancelled))));
        }
    }
}
