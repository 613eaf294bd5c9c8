//! Manifests, segments, layouts and single chunks out of the store.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use slipway_chunk::{
    ChunkAt, ChunkId, DecodedFrame, FrameAt, Layout, Manifest, PackAt, PackId, Root, Segment, SegmentId,
};

use crate::error::StoreError;
use crate::findings::{Finding, FindingKind};
use crate::id::{BlobId, SpaceId};
use crate::index::Place;
use crate::ledger::{BlobKind, BlobRow, Ledger};
use crate::store::{FrameCache, Store};

/// Stored bytes fetched at once by who reads a remote content in order.
const PREFETCH: u64 = 2 << 20;

impl Store {
    /// The encoding of a manifest in one of these spaces, verified against the root.
    pub fn manifest_bytes(&self, spaces: &[SpaceId], root: &Root, ledger: &dyn Ledger) -> Result<Vec<u8>, StoreError> {
        self.named_find(spaces, BlobKind::Manifest, &root.to_string(), ledger).map(|(_, bytes)| bytes)
    }

    pub fn manifest_read(&self, spaces: &[SpaceId], root: &Root, ledger: &dyn Ledger) -> Result<Manifest, StoreError> {
        let bytes = self.manifest_bytes(spaces, root, ledger)?;
        Manifest::decode(&bytes).map_err(|source| StoreError::Format { what: format!("manifest {root}"), source })
    }

    /// The encoding of a segment in one of these spaces, verified against its id.
    pub fn segment_bytes(
        &self,
        spaces: &[SpaceId],
        id: &SegmentId,
        ledger: &dyn Ledger,
    ) -> Result<Vec<u8>, StoreError> {
        self.named_find(spaces, BlobKind::Segment, &id.to_string(), ledger).map(|(_, bytes)| bytes)
    }

    /// A segment in one of these spaces. The row is always asked, so that what is cached for one
    /// space is not given to who may not read it.
    pub fn segment_read(
        &self,
        spaces: &[SpaceId],
        id: &SegmentId,
        ledger: &dyn Ledger,
    ) -> Result<Arc<Segment>, StoreError> {
        let name = id.to_string();
        let found = ledger.blob_find(spaces, BlobKind::Segment, &name)?;
        if found.is_some_and(|row| row.is_readable())
            && let Some(segment) = self.segments.get(id)
        {
            return Ok(segment);
        }
        let (_, bytes) = self.named_find(spaces, BlobKind::Segment, &name, ledger)?;
        self.segment_decode(id, &bytes)
    }

    /// A segment by its row.
    pub(crate) fn segment_of_row(&self, row: &BlobRow) -> Result<Arc<Segment>, StoreError> {
        let id: SegmentId =
            row.name.parse().map_err(|_| StoreError::NotFound { kind: BlobKind::Segment, name: row.name.clone() })?;
        if let Some(segment) = self.segments.get(&id) {
            return Ok(segment);
        }
        let bytes = self.named_read(row)?;
        self.segment_decode(&id, &bytes)
    }

    /// A segment by its row, from its blob.
    pub(crate) fn segment_fresh(&self, row: &BlobRow) -> Result<Arc<Segment>, StoreError> {
        let bytes = self.named_read(row)?;
        let what = || format!("segment {}", row.name);
        Segment::decode(&bytes).map(Arc::new).map_err(|source| StoreError::Format { what: what(), source })
    }

    fn segment_decode(&self, id: &SegmentId, bytes: &[u8]) -> Result<Arc<Segment>, StoreError> {
        let segment =
            Segment::decode(bytes).map_err(|source| StoreError::Format { what: format!("segment {id}"), source })?;
        let segment = Arc::new(segment);
        let weight = std::mem::size_of_val(segment.extents());
        self.segments.put(*id, Arc::clone(&segment), weight);
        Ok(segment)
    }

    /// Where a segment's chunks lie now, in live packs or, where there is none, in doomed ones,
    /// which stay readable for the grace. `address` says how to reach a pack of a space, given its
    /// length. Sync the index first.
    pub fn layout(
        &self,
        lookup: &[SpaceId],
        segment: &Segment,
        address: &dyn Fn(&SpaceId, &PackId, u64) -> String,
    ) -> Result<Layout, StoreError> {
        let mut layout = Layout::default();
        let mut packs: HashMap<BlobId, u32> = HashMap::new();
        let mut frames: HashMap<(BlobId, u32), u32> = HashMap::new();
        let mut seen = HashSet::new();
        let (mut missing, mut first) = (0, None);
        for (_, id, len) in segment.chunks() {
            if !seen.insert(id) {
                continue;
            }
            let Some(place) = self.readable(lookup, &id, len)? else {
                missing += 1;
                first.get_or_insert(id);
                continue;
            };
            let pack = *packs.entry(place.pack.id).or_insert_with(|| {
                let id = place.pack.id.pack();
                layout.packs.push(PackAt { id, address: address(&place.pack.space, &id, place.pack.len) });
                (layout.packs.len() - 1) as u32
            });
            let frame = *frames.entry((place.pack.id, place.frame)).or_insert_with(|| {
                layout.frames.push(FrameAt {
                    pack,
                    offset: place.frame_offset,
                    len: place.frame_len,
                    raw_len: place.raw_len,
                });
                (layout.frames.len() - 1) as u32
            });
            layout.chunks.push(ChunkAt { id, len, frame, at: place.at });
        }
        match first {
            None => Ok(layout),
            Some(first) => Err(StoreError::ChunksMissing { count: missing, first }),
        }
    }

    /// The best readable place of a chunk of this length.
    fn readable(&self, spaces: &[SpaceId], id: &ChunkId, len: u32) -> Result<Option<Place>, StoreError> {
        let mut first_error = None;
        for candidate in self.index.candidates(spaces, id) {
            match self.index.place(&self.blobs, &candidate, id) {
                Ok(Some(place)) if place.len == len => return Ok(Some(place)),
                Ok(_) => {}
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(None), Err)
    }

    /// The frame that holds a chunk, in which its bytes have been verified, and their offset there.
    /// A copy that is damaged becomes a finding, and the next one is asked.
    pub(crate) fn chunk_frame(
        &self,
        spaces: &[SpaceId],
        id: &ChunkId,
        len: u32,
        ahead: bool,
        cache: &FrameCache,
    ) -> Result<(Arc<DecodedFrame>, u32), StoreError> {
        let mut trouble: Option<StoreError> = None;
        for candidate in self.index.candidates(spaces, id) {
            let found = match self.index.place(&self.blobs, &candidate, id) {
                Ok(Some(place)) if place.len == len => self.place_read(&place, id, ahead, cache),
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            match found {
                Ok(frame) => return Ok(frame),
                Err(error) => {
                    let kind = if error.is_transient() { FindingKind::Unreadable } else { FindingKind::DamagedBlob };
                    self.finding_add(Finding {
                        kind,
                        blob: Some(candidate.pack.id),
                        blob_kind: Some(BlobKind::Pack),
                        space: Some(candidate.pack.space.clone()),
                        name: candidate.pack.key.clone(),
                        detail: error.to_string(),
                        repaired: None,
                        hits: Vec::new(),
                    });
                    trouble.get_or_insert(error);
                }
            }
        }
        Err(trouble.unwrap_or_else(|| StoreError::ChunkUnreadable {
            id: *id,
            detail: "no pack of its spaces holds it".to_owned(),
        }))
    }

    fn place_read(
        &self,
        place: &Place,
        id: &ChunkId,
        ahead: bool,
        cache: &FrameCache,
    ) -> Result<(Arc<DecodedFrame>, u32), StoreError> {
        let key = (place.pack.id, place.frame);
        let mut cached = cache.get(&key);
        if cached.is_none() && ahead && self.blobs.is_remote() {
            self.frames_prefetch(place, cache);
            cached = cache.get(&key);
        }
        let frame = match cached {
            Some(frame) => frame,
            None => {
                let end = place.frame_offset + u64::from(place.frame_len);
                let bytes = self.blobs.read(&place.pack.key, place.frame_offset..end)?;
                let frame = DecodedFrame::decode(&bytes).map_err(|error| unreadable(id, place, &error))?;
                Arc::new(frame)
            }
        };
        // The footer only says where the chunk should be; its own digest says what it is.
        frame.verify(place.at, place.len, id).map_err(|error| unreadable(id, place, &error))?;
        let weight = frame.raw().len() + 4 * frame.chunk_count();
        cache.put(key, Arc::clone(&frame), weight);
        Ok((frame, place.at))
    }
}

impl Store {
    /// Fetches a frame and those behind it in one request and decodes them into the cache: who reads
    /// an image in order wants them next, and a request costs more than its bytes. What fails here
    /// is asked for again alone, and told then.
    fn frames_prefetch(&self, place: &Place, cache: &FrameCache) {
        let pack = &place.pack;
        let Ok(map) = self.index.footers.load(&self.blobs, pack.id, &pack.key, pack.len) else {
            return;
        };
        let begin = place.frame_offset;
        let wanted: Vec<_> = (place.frame..)
            .zip(&map.frames[place.frame as usize..])
            .take_while(|(_, frame)| frame.offset + u64::from(frame.len) - begin <= PREFETCH)
            .collect();
        let Some((_, last)) = wanted.last() else { return };
        let Ok(bytes) = self.blobs.read(&pack.key, begin..last.offset + u64::from(last.len)) else {
            return;
        };
        for (number, frame) in wanted {
            let from = (frame.offset - begin) as usize;
            if let Ok(decoded) = DecodedFrame::decode(&bytes[from..from + frame.len as usize]) {
                let weight = decoded.raw().len() + 4 * decoded.chunk_count();
                cache.put((pack.id, number), Arc::new(decoded), weight);
            }
        }
    }
}

fn unreadable(id: &ChunkId, place: &Place, error: &slipway_chunk::FormatError) -> StoreError {
    StoreError::ChunkUnreadable {
        id: *id,
        detail: format!("frame at {} of pack {}: {error}", place.frame_offset, place.pack.id),
    }
}
