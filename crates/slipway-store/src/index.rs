//! Which pack holds a chunk. The truth is the packs' footers and their rows; this is the form in
//! memory, brought up to date by `sync` and made anew at every start.
//!
//! Memory: 18 to 37 bytes per chunk of every pack that is live or doomed (55 for the moment of
//! doubling), some 200 bytes per pack, and at most 16 MiB of decoded footers. A terabyte of fresh
//! data in file systems of small files, 20 KiB a chunk, is about 49 million chunks, so 0.9 to 1.8 GB;
//! within large files it is half of that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use slipway_chunk::{ChunkId, Footer};

use crate::blobs::Blobs;
use crate::error::StoreError;
use crate::footers::Footers;
use crate::id::{BlobId, SpaceId};
use crate::ledger::{BlobRow, BlobState, Ledger, ROWS_PAGE};
use crate::packmap::PackMap;
use crate::table::Table;

/// A pack that may be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackRow {
    pub id: BlobId,
    pub space: SpaceId,
    pub key: String,
    pub state: BlobState,
    pub len: u64,
    pub frames_len: u64,
    pub upload: Option<String>,
    pub created_at: i64,
}

impl PackRow {
    fn of(row: &BlobRow) -> PackRow {
        PackRow {
            id: row.id,
            space: row.space.clone(),
            key: row.key.clone(),
            state: row.state,
            len: row.len,
            frames_len: row.frames_len,
            upload: row.upload.clone(),
            created_at: row.created_at,
        }
    }
}

/// A pack that probably holds a chunk: the key fits, the footer was not asked yet.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub pack: Arc<PackRow>,
    ordinal: u32,
}

/// Where a chunk lies.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub pack: Arc<PackRow>,
    pub frame: u32,
    pub frame_offset: u64,
    pub frame_len: u32,
    pub raw_len: u32,
    /// Offset in the raw bytes of the frame.
    pub at: u32,
    pub len: u32,
}

#[derive(Debug)]
pub(crate) struct Index {
    inner: RwLock<Inner>,
    syncing: Mutex<()>,
    secret: [u8; 32],
    pub footers: Footers,
}

#[derive(Debug, Default)]
struct Inner {
    rev: i64,
    slots: Vec<Option<Arc<PackRow>>>,
    free: Vec<u32>,
    by_id: HashMap<BlobId, u32>,
    table: Table,
    /// Entries whose slot is empty.
    stale: usize,
    salts: HashMap<SpaceId, u64>,
    /// Packs whose footers could not be read for a reason that may pass.
    unread: Vec<BlobRow>,
}

impl Inner {
    fn seen(&mut self, row: &BlobRow) {
        self.rev = self.rev.max(row.rev);
    }
}

/// What a sync found wrong with packs; they are left out of the index until a row changes.
pub(crate) type Damages = Vec<(BlobRow, StoreError)>;

impl Index {
    pub(crate) fn new(footers: Footers) -> Index {
        Index { inner: RwLock::default(), syncing: Mutex::new(()), secret: rand::random(), footers }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    // The space is part of the key: a popular chunk that lies in a thousand private spaces costs a
    // look-up in one of them no more than any other. The secret keeps uploaders from aiming at
    // one place of the table.
    fn salt(&self, space: &SpaceId) -> u64 {
        let digest = blake3::keyed_hash(&self.secret, space.as_str().as_bytes());
        first_u64(digest.as_bytes())
    }

    /// Forgets all; the next sync begins anew.
    pub(crate) fn clear(&self) {
        let _one = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        *self.write() = Inner::default();
        self.footers.clear();
    }

    /// Takes in what changed in the rows. A pack whose footer cannot be read is reported and left
    /// out; one that failed for a reason that may pass is tried again by the next sync.
    pub(crate) fn sync(&self, blobs: &Blobs, ledger: &dyn Ledger) -> Result<Damages, StoreError> {
        let _one = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut damages = Vec::new();
        let mut again = self.read().unread.clone();
        let differ = |page: &[BlobRow], old: &BlobRow| page.iter().all(|new| new.id != old.id);
        loop {
            let since = self.read().rev;
            let page = ledger.packs_since(since, ROWS_PAGE)?;
            again.retain(|old| differ(&page, old));
            self.write().unread.retain(|old| differ(&page, old));
            let more = page.len() == ROWS_PAGE;
            self.take_in(blobs, page, &mut damages);
            if !more {
                break;
            }
        }
        self.write().unread.retain(|row| differ(&again, row));
        self.take_in(blobs, again, &mut damages);
        Ok(damages)
    }

    fn take_in(&self, blobs: &Blobs, rows: Vec<BlobRow>, damages: &mut Damages) {
        for row in rows {
            match row.state {
                BlobState::Live | BlobState::Doomed if row.is_readable() => {
                    if self.state_set(&row) {
                        continue;
                    }
                    match self.footers.load(blobs, row.id, &row.key, row.len) {
                        Ok(map) => self.add(&row, &map),
                        Err(error) => {
                            let mut inner = self.write();
                            inner.seen(&row);
                            if error.is_transient() {
                                inner.unread.push(row.clone());
                            }
                            damages.push((row, error));
                        }
                    }
                }
                BlobState::Gone | BlobState::Quarantined => self.take_out(&row),
                BlobState::Staged | BlobState::Live | BlobState::Doomed => self.write().seen(&row),
            }
        }
    }

    /// Whether the pack was known; its row is then the new one.
    fn state_set(&self, row: &BlobRow) -> bool {
        let mut inner = self.write();
        let Some(&slot) = inner.by_id.get(&row.id) else {
            return false;
        };
        inner.slots[slot as usize] = Some(Arc::new(PackRow::of(row)));
        inner.seen(row);
        true
    }

    fn add(&self, row: &BlobRow, map: &PackMap) {
        let salt = self.salt(&row.space);
        let mut inner = self.write();
        let inner = &mut *inner;
        inner.salts.insert(row.space.clone(), salt);
        let pack = Some(Arc::new(PackRow::of(row)));
        let slot = match inner.free.pop() {
            Some(slot) => {
                inner.slots[slot as usize] = pack;
                slot
            }
            None => {
                inner.slots.push(pack);
                (inner.slots.len() - 1) as u32
            }
        };
        inner.by_id.insert(row.id, slot);
        for (ordinal, chunk) in map.chunks.iter().enumerate() {
            let key = salt ^ first_u64(chunk.id.as_bytes());
            inner.table.insert(key, slot, ordinal as u32);
        }
        inner.seen(row);
    }

    fn take_out(&self, row: &BlobRow) {
        let known = self.read().by_id.contains_key(&row.id);
        let chunks = self.footers_len_hint(known, row.id);
        self.footers.forget(row.id);
        let mut inner = self.write();
        let inner = &mut *inner;
        inner.seen(row);
        let Some(slot) = inner.by_id.remove(&row.id) else {
            return;
        };
        inner.slots[slot as usize] = None;
        inner.stale += chunks;
        // Slots are given out again only when no entry points at them any more.
        if inner.stale * 4 >= inner.table.len() {
            let slots = &inner.slots;
            inner.table.retain(|slot| slots[slot as usize].is_some());
            inner.stale = 0;
            inner.free = (0..inner.slots.len() as u32).filter(|&slot| inner.slots[slot as usize].is_none()).collect();
        }
    }

    // The number only times the rebuild, so a guess serves where the footer is no longer in memory.
    fn footers_len_hint(&self, known: bool, id: BlobId) -> usize {
        if !known {
            return 0;
        }
        self.footers.in_memory(id).map_or(4096, |map| map.chunks.len())
    }

    /// Packs that may hold the chunk in these spaces, the best first: live before doomed, then the
    /// youngest, so that what a rewrite copied is used and its source can go.
    pub(crate) fn candidates(&self, spaces: &[SpaceId], id: &ChunkId) -> Vec<Candidate> {
        let inner = self.read();
        let mut found: Vec<Candidate> = Vec::new();
        for space in spaces {
            let Some(salt) = inner.salts.get(space) else {
                continue;
            };
            for (slot, ordinal) in inner.table.find(salt ^ first_u64(id.as_bytes())) {
                if let Some(pack) = &inner.slots[slot as usize]
                    && pack.space == *space
                {
                    found.push(Candidate { pack: Arc::clone(pack), ordinal });
                }
            }
        }
        if found.len() > 1 {
            found.sort_by_key(|candidate| {
                let pack = &candidate.pack;
                (pack.state != BlobState::Live, std::cmp::Reverse(pack.created_at), pack.id, candidate.ordinal)
            });
            found.dedup_by_key(|candidate| (candidate.pack.id, candidate.ordinal));
        }
        found
    }

    /// Asks the footer; none if the chunk is another with the same key.
    pub(crate) fn place(
        &self,
        blobs: &Blobs,
        candidate: &Candidate,
        id: &ChunkId,
    ) -> Result<Option<Place>, StoreError> {
        let pack = &candidate.pack;
        let map = self.footers.load(blobs, pack.id, &pack.key, pack.len)?;
        let Some(chunk) = map.chunks.get(candidate.ordinal as usize) else {
            return Ok(None);
        };
        if chunk.id != *id {
            return Ok(None);
        }
        let frame = &map.frames[chunk.frame as usize];
        Ok(Some(Place {
            pack: Arc::clone(pack),
            frame: chunk.frame,
            frame_offset: frame.offset,
            frame_len: frame.len,
            raw_len: frame.raw_len,
            at: chunk.at,
            len: chunk.len,
        }))
    }

    /// The best place in a live pack.
    pub(crate) fn live(&self, blobs: &Blobs, spaces: &[SpaceId], id: &ChunkId) -> Result<Option<Place>, StoreError> {
        for candidate in self.candidates(spaces, id) {
            if candidate.pack.state != BlobState::Live {
                break;
            }
            if let Some(place) = self.place(blobs, &candidate, id)? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// A live or doomed pack of the space.
    pub(crate) fn pack(&self, id: &BlobId) -> Option<Arc<PackRow>> {
        let inner = self.read();
        let slot = *inner.by_id.get(id)?;
        inner.slots[slot as usize].clone()
    }

    /// Remembers the footer of a pack that was just written, so that the sync that finds its row
    /// need not fetch it.
    pub(crate) fn footer_keep(&self, pack: BlobId, footer: &Footer) {
        self.footers.keep(pack, footer);
    }
}

fn first_u64(bytes: &[u8; 32]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(first)
}
