//! How many stored bytes nothing refers to any more when some contents are gone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use slipway_chunk::{ChunkId, Manifest, SegmentId};

use crate::error::StoreError;
use crate::id::{BlobId, SpaceId};
use crate::index::Place;
use crate::ledger::{BlobKind, BlobRow, BlobState, ContentRef, Ledger};
use crate::store::Store;

/// Stored bytes that only the contents that go refer to, at the moment of the question.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    /// Whole frames in live packs. A disk gets them back when their packs are deleted or rewritten.
    pub frames: u64,
    /// Segments and manifests.
    pub documents: u64,
}

/// Segments, each with the spaces in which its chunks are looked up.
type Segments = BTreeSet<(SegmentId, Vec<SpaceId>)>;

impl Store {
    /// Counts what `going` refers to and nothing of `staying` does. None if `stop` said so; it is asked between two segments.
    ///
    /// It goes by the marks of a prune: a chunk refers to the frame of its best place. Memory is that of the chunks in frames that may be freed,
    /// and of the segments' ids; contents that share no space with such a frame are not read, equal segments are read once. So the cost is one
    /// read of the going contents' own segments and of all segments that stay in their spaces.
    pub fn contents_freed(
        &self,
        going: &[ContentRef],
        staying: &[ContentRef],
        ledger: &dyn Ledger,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Freed>, StoreError> {
        self.index_sync(ledger)?;
        let mut count = Count {
            store: self,
            ledger,
            stop,
            frames: HashMap::new(),
            chunks: HashSet::new(),
            documents: BTreeMap::new(),
        };
        let Some(gone) = count.contents_open(going, true)? else { return Ok(None) };
        // Contents elsewhere cannot refer to anything here.
        let spaces: HashSet<&SpaceId> = going.iter().flat_map(|content| &content.spaces).collect();
        let staying: Vec<ContentRef> = staying
            .iter()
            .filter(|content| content.spaces.iter().any(|space| spaces.contains(space)))
            .cloned()
            .collect();
        let Some(stays) = count.contents_open(&staying, false)? else { return Ok(None) };
        if !count.segments_go(gone.difference(&stays))? || !count.segments_stay(&stays)? {
            return Ok(None);
        }
        Ok(Some(Freed {
            frames: count.frames.values().map(|len| u64::from(*len)).sum(),
            documents: count.documents.values().sum(),
        }))
    }
}

struct Count<'a> {
    store: &'a Store,
    ledger: &'a dyn Ledger,
    stop: &'a dyn Fn() -> bool,
    /// Frames that may be freed: pack and number, with their stored lengths.
    frames: HashMap<(BlobId, u32), u32>,
    /// All chunks of those frames.
    chunks: HashSet<ChunkId>,
    /// Segments and manifests that may be freed, with their lengths.
    documents: BTreeMap<BlobId, u64>,
}

impl Count<'_> {
    /// Reads the manifests and gives their segments; none if it shall stop. Documents of what goes are noted, those of what stays struck out.
    fn contents_open(&mut self, contents: &[ContentRef], going: bool) -> Result<Option<Segments>, StoreError> {
        let mut segments = Segments::new();
        let mut roots = BTreeSet::new();
        for content in contents {
            if (self.stop)() {
                return Ok(None);
            }
            let mut spaces = content.spaces.clone();
            spaces.sort_unstable();
            spaces.dedup();
            if !roots.insert((content.root.to_string(), spaces.clone())) {
                continue;
            }
            let name = content.root.to_string();
            let (_, bytes) = self.store.named_find(&spaces, BlobKind::Manifest, &name, self.ledger)?;
            let manifest = Manifest::decode(&bytes)
                .map_err(|source| StoreError::Format { what: format!("manifest {name}"), source })?;
            self.documents_note(BlobKind::Manifest, vec![name], &spaces, going)?;
            let ids: BTreeSet<&SegmentId> = manifest.segments.iter().collect();
            let names = ids.into_iter().map(SegmentId::to_string).collect();
            self.documents_note(BlobKind::Segment, names, &spaces, going)?;
            segments.extend(manifest.segments.iter().map(|id| (*id, spaces.clone())));
        }
        Ok(Some(segments))
    }

    /// Of each name the copy that a prune keeps.
    fn documents_note(
        &mut self,
        kind: BlobKind,
        names: Vec<String>,
        spaces: &[SpaceId],
        going: bool,
    ) -> Result<(), StoreError> {
        let mut kept: BTreeMap<String, BlobRow> = BTreeMap::new();
        let rank = |row: &BlobRow| (row.state != BlobState::Live, std::cmp::Reverse(row.created_at), row.id);
        for row in self.ledger.blobs_find(spaces, kind, &names)? {
            match kept.get(&row.name) {
                Some(other) if rank(other) <= rank(&row) => {}
                _ => drop(kept.insert(row.name.clone(), row)),
            }
        }
        for row in kept.into_values() {
            match going {
                true if row.state == BlobState::Live => drop(self.documents.insert(row.id, row.len)),
                true => {}
                false => drop(self.documents.remove(&row.id)),
            }
        }
        Ok(())
    }

    /// Notes the frames of segments that only what goes has. False if it shall stop.
    fn segments_go<'s>(
        &mut self,
        segments: impl Iterator<Item = &'s (SegmentId, Vec<SpaceId>)>,
    ) -> Result<bool, StoreError> {
        for (id, spaces) in segments {
            if (self.stop)() {
                return Ok(false);
            }
            for (_, chunk, _) in self.store.segment_read(spaces, id, self.ledger)?.chunks() {
                let Some(place) = self.place(spaces, &chunk)? else { continue };
                if self.frames.insert((place.pack.id, place.frame), place.frame_len).is_none() {
                    let map = self.store.index.footers.load(
                        &self.store.blobs,
                        place.pack.id,
                        &place.pack.key,
                        place.pack.len,
                    )?;
                    if let Some(frame) = map.frames.get(place.frame as usize) {
                        self.chunks.extend(map.frame_chunks(frame).into_iter().map(|(chunk, _)| chunk));
                    }
                }
            }
        }
        Ok(true)
    }

    /// Strikes out the frames that what stays refers to. False if it shall stop.
    fn segments_stay(&mut self, segments: &Segments) -> Result<bool, StoreError> {
        for (id, spaces) in segments {
            if (self.stop)() {
                return Ok(false);
            }
            if self.frames.is_empty() {
                return Ok(true);
            }
            for (_, chunk, _) in self.store.segment_read(spaces, id, self.ledger)?.chunks() {
                if self.chunks.contains(&chunk)
                    && let Some(place) = self.place(spaces, &chunk)?
                {
                    self.frames.remove(&(place.pack.id, place.frame));
                }
            }
        }
        Ok(true)
    }

    /// Where a prune's mark finds the chunk, if that is in a live pack.
    fn place(&self, spaces: &[SpaceId], chunk: &ChunkId) -> Result<Option<Place>, StoreError> {
        self.store.index.live(&self.store.blobs, spaces, chunk)
    }
}
