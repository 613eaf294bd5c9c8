//! Whether every content can still be read.

use std::collections::{BTreeSet, HashMap, HashSet};

use slipway_chunk::{ChunkId, Manifest, Segment, SegmentId};

use super::Bad;
use crate::error::StoreError;
use crate::findings::{Finding, FindingKind};
use crate::id::{BlobId, SpaceId};
use crate::ledger::{BlobKind, ContentRef, Ledger};
use crate::store::Store;

/// A content that cannot be read in full.
#[derive(Debug)]
pub(super) struct Broken {
    content: ContentRef,
    detail: String,
    /// The bad blobs that hold what it lacks.
    blame: BTreeSet<BlobId>,
}

impl Broken {
    pub(super) fn into_finding(self) -> Finding {
        Finding {
            kind: FindingKind::BrokenContent,
            blob: None,
            blob_kind: None,
            space: self.content.spaces.first().cloned(),
            name: self.content.root.to_string(),
            detail: self.detail,
            repaired: None,
            hits: vec![self.content],
        }
    }
}

/// Says in each finding about a blob which contents it hurts.
pub(super) fn hits_assign(findings: &mut [Finding], broken: &[Broken]) {
    for finding in findings {
        if let Some(blob) = finding.blob {
            finding.hits =
                broken.iter().filter(|one| one.blame.contains(&blob)).map(|one| one.content.clone()).collect();
        }
    }
}

/// Takes out of findings about blobs the contents that a repair made whole.
pub(super) fn hits_keep(findings: &mut [Finding], broken: &[Broken]) {
    for finding in findings.iter_mut().filter(|finding| finding.blob.is_some()) {
        finding.hits.retain(|hit| broken.iter().any(|one| one.content == *hit));
    }
}

/// Chunks of a segment that are nowhere: how many, the first, and the bad packs that hold them.
#[derive(Clone, Debug, Default)]
struct Lost {
    count: u64,
    first: Option<ChunkId>,
    blame: BTreeSet<BlobId>,
}

/// What is wrong with a manifest or segment itself, and the bad blobs that should hold it.
type Trouble = (String, BTreeSet<BlobId>);

/// Segments in the spaces in which their chunks were looked for.
type Walked = HashMap<(SegmentId, Vec<SpaceId>), Result<Lost, Trouble>>;

impl Store {
    /// Contents that cannot be read in full without what is bad, and how many contents there are.
    pub(super) fn contents_check(&self, ledger: &dyn Ledger, bad: &Bad) -> Result<(Vec<Broken>, u64), StoreError> {
        let (mut all, mut count) = (Vec::new(), 0);
        let mut roots = HashSet::new();
        let mut walked = Walked::new();
        for content in ledger.contents()? {
            count += 1;
            let mut spaces = content.spaces.clone();
            spaces.sort_unstable();
            spaces.dedup();
            if roots.insert((content.root, spaces.clone())) {
                all.extend(self.content_broken(&content, &spaces, ledger, bad, &mut walked)?);
            }
        }
        Ok((all, count))
    }

    fn content_broken(
        &self,
        content: &ContentRef,
        spaces: &[SpaceId],
        ledger: &dyn Ledger,
        bad: &Bad,
        walked: &mut Walked,
    ) -> Result<Option<Broken>, StoreError> {
        let broken = |detail: String, blame| Ok(Some(Broken { content: content.clone(), detail, blame }));
        let root = content.root.to_string();
        let manifest = match self.named_check_find(spaces, BlobKind::Manifest, &root, ledger, bad)? {
            Ok(bytes) => match Manifest::decode(&bytes) {
                Ok(manifest) => manifest,
                Err(error) => return broken(format!("manifest {root}: {error}"), BTreeSet::new()),
            },
            Err((detail, blame)) => return broken(detail, blame),
        };
        let (mut count, mut first, mut blame) = (0, None, BTreeSet::new());
        let (mut segments, mut trouble) = (0u64, None);
        let mut seen = HashSet::new();
        for id in manifest.segments.iter().filter(|id| seen.insert(**id)) {
            let key = (*id, spaces.to_vec());
            if !walked.contains_key(&key) {
                let lost = self.segment_lost(id, spaces, ledger, bad)?;
                walked.insert(key.clone(), lost);
            }
            match walked.get(&key) {
                Some(Ok(lost)) => {
                    count += lost.count;
                    first = first.or(lost.first);
                    blame.extend(&lost.blame);
                }
                Some(Err((detail, culprits))) => {
                    segments += 1;
                    trouble.get_or_insert_with(|| detail.clone());
                    blame.extend(culprits);
                }
                None => {}
            }
        }
        match (trouble, first) {
            (None, None) => Ok(None),
            (Some(detail), _) if segments > 1 => {
                broken(format!("{segments} of its segments, the first: {detail}"), blame)
            }
            (Some(detail), _) => broken(detail, blame),
            (None, Some(id)) => broken(format!("{count} of its chunks are lost, the first is {id}"), blame),
        }
    }

    /// The bytes of a manifest or segment; or why there are none, and which bad blobs should hold them.
    fn named_check_find(
        &self,
        spaces: &[SpaceId],
        kind: BlobKind,
        name: &str,
        ledger: &dyn Ledger,
        bad: &Bad,
    ) -> Result<Result<Vec<u8>, Trouble>, StoreError> {
        match self.named_find(spaces, kind, name, ledger) {
            Ok((_, bytes)) => Ok(Ok(bytes)),
            Err(StoreError::Ledger(error)) => Err(error.into()),
            Err(error) => {
                let rows = ledger.blobs_find(spaces, kind, &[name.to_owned()])?;
                let blame = rows.iter().map(|row| row.id).filter(|id| bad.packs.contains_key(id)).collect();
                Ok(Err((error.to_string(), blame)))
            }
        }
    }

    fn segment_lost(
        &self,
        id: &SegmentId,
        spaces: &[SpaceId],
        ledger: &dyn Ledger,
        bad: &Bad,
    ) -> Result<Result<Lost, Trouble>, StoreError> {
        let bytes = match self.named_check_find(spaces, BlobKind::Segment, &id.to_string(), ledger, bad)? {
            Ok(bytes) => bytes,
            Err(trouble) => return Ok(Err(trouble)),
        };
        Ok(match Segment::decode(&bytes) {
            Ok(segment) => Ok(self.chunks_lost(&segment, spaces, bad)),
            Err(error) => Err((format!("segment {id}: {error}"), BTreeSet::new())),
        })
    }

    fn chunks_lost(&self, segment: &Segment, spaces: &[SpaceId], bad: &Bad) -> Lost {
        let mut lost = Lost::default();
        // Bad packs whose own lists cannot be read: what is nowhere else may have been in any of them.
        let unlisted = bad.packs.iter().filter(|(id, (space, kind))| {
            *kind == BlobKind::Pack && spaces.contains(space) && self.index.pack(id).is_none()
        });
        let unlisted: BTreeSet<BlobId> = unlisted.map(|(id, _)| *id).collect();
        for (_, id, len) in segment.chunks() {
            let candidates = self.index.candidates(spaces, &id);
            let mut blame = Vec::new();
            let there = candidates.iter().any(|candidate| {
                if bad.packs.contains_key(&candidate.pack.id) {
                    blame.push(candidate.pack.id);
                    return false;
                }
                let place = self.index.place(&self.blobs, candidate, &id);
                place.is_ok_and(|place| {
                    place.is_some_and(|place| {
                        let frames = bad.frames.get(&place.pack.id);
                        let good = place.len == len && frames.is_none_or(|frames| !frames.contains(place.frame));
                        if !good {
                            blame.push(place.pack.id);
                        }
                        good
                    })
                })
            });
            if !there {
                lost.count += 1;
                lost.first.get_or_insert(id);
                match blame.is_empty() {
                    true => lost.blame.extend(&unlisted),
                    false => lost.blame.extend(blame),
                }
            }
        }
        lost
    }
}
