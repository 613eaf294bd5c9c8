//! What the contents refer to.

use std::collections::{BTreeSet, HashMap, HashSet};

use slipway_chunk::{ChunkId, Manifest, Segment, SegmentId};

use crate::error::StoreError;
use crate::id::{BlobId, SpaceId};
use crate::ledger::{BlobKind, BlobRow, BlobState, ContentRef, Ledger};
use crate::store::{Progress, Store};
use crate::usage::Bits;

/// Blobs and frames that some content refers to.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Segments and manifests.
    pub named: HashSet<BlobId>,
    /// Packs with the frames referred to.
    pub packs: HashMap<BlobId, Bits>,
    /// Spaces in which something could not be read, so that not everything referred to is known.
    pub frozen: BTreeSet<SpaceId>,
    pub reasons: BTreeSet<String>,
}

/// Rows by kind and name, from the rows that the plan has read.
type Names<'a> = HashMap<(BlobKind, &'a str), Vec<&'a BlobRow>>;

pub(super) struct Marker<'a> {
    store: &'a Store,
    ledger: &'a dyn Ledger,
    names: Names<'a>,
    marks: Marks,
    /// Segments whose chunks are marked, each with the spaces that were looked in.
    walked: HashSet<(SegmentId, Vec<SpaceId>)>,
    roots: HashSet<(slipway_chunk::Root, Vec<SpaceId>)>,
}

impl<'a> Marker<'a> {
    pub(super) fn new(store: &'a Store, ledger: &'a dyn Ledger, rows: &'a [BlobRow]) -> Marker<'a> {
        let mut names: Names<'a> = HashMap::new();
        for row in rows {
            if row.kind != BlobKind::Pack && row.is_readable() {
                names.entry((row.kind, &row.name)).or_default().push(row);
            }
        }
        Marker { store, ledger, names, marks: Marks::default(), walked: HashSet::new(), roots: HashSet::new() }
    }

    pub(super) fn run(
        mut self,
        contents: &[ContentRef],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Marks, StoreError> {
        for (number, content) in contents.iter().enumerate() {
            let mut spaces = content.spaces.clone();
            spaces.sort_unstable();
            spaces.dedup();
            if self.roots.insert((content.root, spaces.clone())) {
                self.content(content, &spaces)?;
            }
            progress(Progress { step: "marking", done: number as u64 + 1, total: contents.len() as u64 });
        }
        Ok(self.marks)
    }

    fn content(&mut self, content: &ContentRef, spaces: &[SpaceId]) -> Result<(), StoreError> {
        let root = content.root.to_string();
        let Some(bytes) = self.named(BlobKind::Manifest, &root, spaces)? else {
            return Ok(());
        };
        let manifest = match Manifest::decode(&bytes) {
            Ok(manifest) => manifest,
            Err(error) => {
                self.freeze(spaces, format!("manifest {root}: {error}"));
                return Ok(());
            }
        };
        for id in &manifest.segments {
            if self.walked.insert((*id, spaces.to_vec())) {
                self.segment(id, spaces)?;
            }
        }
        Ok(())
    }

    fn segment(&mut self, id: &SegmentId, spaces: &[SpaceId]) -> Result<(), StoreError> {
        let name = id.to_string();
        let Some(bytes) = self.named(BlobKind::Segment, &name, spaces)? else {
            return Ok(());
        };
        match Segment::decode(&bytes) {
            Ok(segment) => {
                for (_, chunk, _) in segment.chunks() {
                    self.chunk(&chunk, spaces)?;
                }
            }
            Err(error) => self.freeze(spaces, format!("segment {name}: {error}")),
        }
        Ok(())
    }

    /// Marks the copy that stays of a segment or manifest and gives its bytes; freezes the spaces
    /// and gives none if no copy can be read.
    fn named(&mut self, kind: BlobKind, name: &str, spaces: &[SpaceId]) -> Result<Option<Vec<u8>>, StoreError> {
        let mut rows: Vec<BlobRow> = match self.names.get(&(kind, name)) {
            Some(rows) => rows.iter().filter(|row| spaces.contains(&row.space)).map(|row| (*row).clone()).collect(),
            None => Vec::new(),
        };
        if rows.is_empty() {
            // Committed after the rows were read: no plan touches it, but what it refers to counts.
            rows = self.ledger.blobs_find(spaces, kind, &[name.to_owned()])?;
        }
        rows.sort_by_key(|row| {
            let doomed = row.state != BlobState::Live;
            (doomed, std::cmp::Reverse(row.created_at), row.id)
        });
        let mut last_error = None;
        for row in &rows {
            match self.store.named_read(row) {
                Ok(bytes) => {
                    // One good live copy is enough. A copy that is doomed must not be the reason
                    // to delete another that is doomed too: then all of them stay.
                    if row.state == BlobState::Live {
                        self.marks.named.insert(row.id);
                    } else {
                        self.marks.named.extend(rows.iter().map(|row| row.id));
                    }
                    return Ok(Some(bytes));
                }
                Err(error) => {
                    self.marks.named.insert(row.id);
                    last_error = Some(error);
                }
            }
        }
        let reason = match last_error {
            Some(error) => error.to_string(),
            None => format!("{kind} {name} is not in the store"),
        };
        self.freeze(spaces, reason);
        Ok(None)
    }

    fn freeze(&mut self, spaces: &[SpaceId], reason: String) {
        self.marks.frozen.extend(spaces.iter().cloned());
        self.marks.reasons.insert(reason);
    }

    /// Marks the frame that stays of a chunk's copies: the best one in a live pack, else all in
    /// doomed packs, which are then revived.
    fn chunk(&mut self, id: &ChunkId, spaces: &[SpaceId]) -> Result<(), StoreError> {
        for candidate in self.store.index.candidates(spaces, id) {
            let place = match self.store.index.place(&self.store.blobs, &candidate, id) {
                Ok(Some(place)) => place,
                Ok(None) => continue,
                Err(error) => {
                    // The footer was read before, so its pack may hold the chunk.
                    let space = candidate.pack.space.clone();
                    self.freeze(&[space], error.to_string());
                    continue;
                }
            };
            let frames = self.marks.packs.entry(place.pack.id).or_default();
            frames.insert(place.frame);
            if place.pack.state == BlobState::Live {
                break;
            }
        }
        Ok(())
    }
}
