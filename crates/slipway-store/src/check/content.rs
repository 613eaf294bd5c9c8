//! Whether every content can still be read.

use std::collections::{HashMap, HashSet};

use slipway_chunk::{ChunkId, Manifest, Root, Segment, SegmentId};

use super::{Bad, CheckReport};
use crate::error::StoreError;
use crate::findings::{Finding, FindingKind};
use crate::id::SpaceId;
use crate::ledger::{BlobKind, Ledger};
use crate::store::Store;

/// Chunks of a segment that are nowhere: how many, and the first.
type Lost = (u64, Option<ChunkId>);

impl Store {
    pub(super) fn contents_check(
        &self,
        ledger: &dyn Ledger,
        bad: &Bad,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        let mut roots = HashSet::new();
        let mut walked: HashMap<(SegmentId, Vec<SpaceId>), Lost> = HashMap::new();
        for content in ledger.contents()? {
            report.contents += 1;
            let mut spaces = content.spaces.clone();
            spaces.sort_unstable();
            spaces.dedup();
            if !roots.insert((content.root, spaces.clone())) {
                continue;
            }
            let broken = self.content_broken(&content.root, &spaces, ledger, bad, &mut walked)?;
            if let Some(detail) = broken {
                report.findings.push(Finding {
                    kind: FindingKind::BrokenContent,
                    blob: None,
                    blob_kind: None,
                    space: spaces.first().cloned(),
                    name: content.root.to_string(),
                    detail,
                    repaired: None,
                });
            }
        }
        Ok(())
    }

    fn content_broken(
        &self,
        root: &Root,
        spaces: &[SpaceId],
        ledger: &dyn Ledger,
        bad: &Bad,
        walked: &mut HashMap<(SegmentId, Vec<SpaceId>), Lost>,
    ) -> Result<Option<String>, StoreError> {
        let found = self.named_find(spaces, BlobKind::Manifest, &root.to_string(), ledger);
        let bytes = match found {
            Ok((_, bytes)) => bytes,
            Err(StoreError::Ledger(error)) => return Err(error.into()),
            Err(error) => return Ok(Some(error.to_string())),
        };
        let manifest = match Manifest::decode(&bytes) {
            Ok(manifest) => manifest,
            Err(error) => return Ok(Some(format!("manifest {root}: {error}"))),
        };
        let (mut count, mut first) = (0, None);
        let mut seen = HashSet::new();
        for id in &manifest.segments {
            if !seen.insert(*id) {
                continue;
            }
            let key = (*id, spaces.to_vec());
            let lost = match walked.get(&key) {
                Some(lost) => *lost,
                None => {
                    let found = self.named_find(spaces, BlobKind::Segment, &id.to_string(), ledger);
                    let segment = match found {
                        Ok((_, bytes)) => Segment::decode(&bytes),
                        Err(StoreError::Ledger(error)) => return Err(error.into()),
                        Err(error) => return Ok(Some(error.to_string())),
                    };
                    let segment = match segment {
                        Ok(segment) => segment,
                        Err(error) => return Ok(Some(format!("segment {id}: {error}"))),
                    };
                    let lost = self.chunks_lost(&segment, spaces, bad);
                    walked.insert(key, lost);
                    lost
                }
            };
            count += lost.0;
            first = first.or(lost.1);
        }
        Ok(first.map(|id| format!("{count} of its chunks are lost, the first is {id}")))
    }

    fn chunks_lost(&self, segment: &Segment, spaces: &[SpaceId], bad: &Bad) -> Lost {
        let mut lost = (0, None);
        for (_, id, len) in segment.chunks() {
            let there = self
                .index
                .candidates(spaces, &id)
                .iter()
                .filter(|candidate| !bad.packs.contains(&candidate.pack.id))
                .any(|candidate| {
                    let place = self.index.place(&self.blobs, candidate, &id);
                    place.is_ok_and(|place| {
                        place.is_some_and(|place| {
                            let frames = bad.frames.get(&place.pack.id);
                            place.len == len && frames.is_none_or(|frames| !frames.contains(place.frame))
                        })
                    })
                });
            if !there {
                lost.0 += 1;
                lost.1.get_or_insert(id);
            }
        }
        lost
    }
}
