//! Two contents compared by their segments. No pack is read.

use std::collections::{BTreeSet, HashSet};

use slipway_chunk::{
    ChunkId, DiffKind, DiffRange, DiffRanges, Manifest, Root, SEGMENT_LEN, Segment, chunks_touching, segments_diff,
};

use crate::error::StoreError;
use crate::id::{BlobId, SpaceId};
use crate::ledger::Ledger;
use crate::store::Store;

/// Chunks of the first image that are remembered to find moved ones: some 64 MiB.
const MOVED_MAX: usize = 4_000_000;

/// What differs between two contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentDiff {
    /// In order; the last one may go on behind the place where the list was cut.
    pub ranges: Vec<DiffRange>,
    /// Where to go on, if the list was cut.
    pub next: Option<u64>,
    /// Bytes, if the comparison began at the beginning.
    pub bytes: Option<DiffBytes>,
}

/// Sums over all that differs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiffBytes {
    /// Bytes of ranges with data in both.
    pub changed: u64,
    /// Bytes of data that became holes.
    pub to_hole: u64,
    /// Bytes of holes that became data.
    pub from_hole: u64,
    /// Bytes behind the end of the second.
    pub cut_off: u64,
    /// Bytes behind the end of the first.
    pub added: u64,
    /// Bytes of the second's chunks that touch what differs.
    pub chunks: u64,
    /// Bytes of those chunks that the first image has too, elsewhere in what differs; none if it has too many to remember.
    pub moved: Option<u64>,
    /// Stored length of the frames of the others, each counted whole once: what somebody who has the first must fetch at least.
    pub fetch: Option<u64>,
}

impl DiffBytes {
    fn add(&mut self, range: &DiffRange) {
        let sum = match range.kind {
            DiffKind::Changed => &mut self.changed,
            DiffKind::ToHole => &mut self.to_hole,
            DiffKind::FromHole => &mut self.from_hole,
            DiffKind::CutOff => &mut self.cut_off,
            DiffKind::Added => &mut self.added,
        };
        *sum += range.len;
    }
}

/// A content and where its blobs lie.
struct Side<'a> {
    spaces: &'a [SpaceId],
    manifest: Manifest,
}

impl Store {
    /// Compares the second content with the first from byte `from` on, and gives at most `limit` ranges. Segments that are equal cost nothing; of others
    /// the lists of chunks are read. `stop` is asked between segments.
    ///
    /// # Errors
    /// `Stopped`, or what is wrong with a manifest or segment.
    pub fn contents_diff(
        &self,
        first: (&[SpaceId], &Root),
        second: (&[SpaceId], &Root),
        (from, limit): (u64, usize),
        ledger: &dyn Ledger,
        stop: &dyn Fn() -> bool,
    ) -> Result<ContentDiff, StoreError> {
        self.index_sync(ledger)?;
        let side = |(spaces, root): (&'_ [SpaceId], &Root)| self.manifest_read(spaces, root, ledger);
        let one = Side { spaces: first.0, manifest: side(first)? };
        let two = Side { spaces: second.0, manifest: side(second)? };
        let mut sums = (from == 0).then(DiffBytes::default);
        let known = match sums {
            Some(_) => self.chunks_known(&one, &two, ledger, stop)?,
            None => Known::default(),
        };
        let mut ranges = DiffRanges::default();
        let mut next = None;
        let (mut moved, mut fetch) = (0, Fetch::default());
        let begin = (from / SEGMENT_LEN) as usize;
        for (index, has) in differing(&one, &two).filter(|(index, _)| *index >= begin) {
            if stop() {
                return Err(StoreError::Stopped);
            }
            let base = index as u64 * SEGMENT_LEN;
            let read = |side: &Side<'_>, has: bool| match has {
                true => self.segment_read(side.spaces, &side.manifest.segments[index], ledger).map(Some),
                false => Ok(None),
            };
            let (a, b) = (read(&one, has.0)?, read(&two, has.1)?);
            let mut here = DiffRanges::default();
            segment_ranges(a.as_deref(), b.as_deref(), base, &mut here);
            for range in here.as_slice() {
                if let Some(sums) = &mut sums {
                    sums.add(range);
                }
                // What lies before the place to go on was given before.
                let skip = from.saturating_sub(range.offset).min(range.len);
                let range = DiffRange { offset: range.offset + skip, len: range.len - skip, kind: range.kind };
                if next.is_none() && range.len > 0 {
                    let full = ranges.as_slice().len() >= limit && !joins(&ranges, &range);
                    match full {
                        true => next = Some(range.offset),
                        false => ranges.push(range),
                    }
                }
            }
            match (&mut sums, &b) {
                (Some(sums), Some(segment)) => {
                    let mut last = None;
                    for range in here.as_slice() {
                        for (at, id, len) in chunks_touching(segment, base, range.offset, range.len) {
                            // A chunk may touch two ranges.
                            if last == Some(at) {
                                continue;
                            }
                            last = Some(at);
                            sums.chunks += u64::from(len);
                            if known.has(&id) {
                                moved += u64::from(len);
                            } else {
                                fetch.take(self, two.spaces, &id)?;
                            }
                        }
                    }
                }
                (None, _) if next.is_some() => break,
                _ => {}
            }
        }
        if let Some(sums) = &mut sums
            && !known.over
        {
            (sums.moved, sums.fetch) = (Some(moved), Some(fetch.bytes));
        }
        Ok(ContentDiff { ranges: ranges.into_vec(), next, bytes: sums })
    }

    /// The chunks of the first image in segments that differ.
    fn chunks_known(
        &self,
        one: &Side<'_>,
        two: &Side<'_>,
        ledger: &dyn Ledger,
        stop: &dyn Fn() -> bool,
    ) -> Result<Known, StoreError> {
        let mut known = Known::default();
        for (index, _) in differing(one, two).filter(|(_, has)| has.0) {
            if stop() {
                return Err(StoreError::Stopped);
            }
            known.take(&*self.segment_read(one.spaces, &one.manifest.segments[index], ledger)?);
        }
        Ok(known)
    }
}

fn joins(ranges: &DiffRanges, range: &DiffRange) -> bool {
    ranges.as_slice().last().is_some_and(|last| last.kind == range.kind && last.offset + last.len == range.offset)
}

/// Indexes of segments that are not the same in both, and which of the two has one.
fn differing<'a>(one: &'a Side<'_>, two: &'a Side<'_>) -> impl Iterator<Item = (usize, (bool, bool))> + 'a {
    let (a, b) = (&one.manifest.segments, &two.manifest.segments);
    (0..a.len().max(b.len()))
        .filter(|&index| a.get(index) != b.get(index))
        .map(|index| (index, (index < a.len(), index < b.len())))
}

fn segment_ranges(one: Option<&Segment>, two: Option<&Segment>, base: u64, into: &mut DiffRanges) {
    if let (Some(one), Some(two)) = (one, two) {
        segments_diff(one, two, base, &mut |range| into.push(range));
    }
    let (one, two) = (one.map_or(0, Segment::len), two.map_or(0, Segment::len));
    let common = one.min(two);
    let kind = if one > two { DiffKind::CutOff } else { DiffKind::Added };
    into.push(DiffRange { offset: base + common, len: one.max(two) - common, kind });
}

/// Chunks of the first image, by the first eight bytes of their ids: a stranger that has the same is one in a million million.
#[derive(Default)]
struct Known {
    ids: HashSet<u64>,
    over: bool,
}

fn short(id: &ChunkId) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&id.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

impl Known {
    fn take(&mut self, segment: &Segment) {
        for (_, id, _) in segment.chunks() {
            if self.ids.len() >= MOVED_MAX {
                self.over = true;
                return;
            }
            self.ids.insert(short(&id));
        }
    }

    fn has(&self, id: &ChunkId) -> bool {
        self.ids.contains(&short(id))
    }
}

/// Distinct frames.
#[derive(Default)]
struct Fetch {
    frames: BTreeSet<(BlobId, u32)>,
    bytes: u64,
}

impl Fetch {
    fn take(&mut self, store: &Store, spaces: &[SpaceId], id: &ChunkId) -> Result<(), StoreError> {
        // A chunk whose place cannot be told now is only left out of a sum.
        for candidate in store.index.candidates(spaces, id) {
            if let Ok(Some(place)) = store.index.place(&store.blobs, &candidate, id) {
                if self.frames.insert((place.pack.id, place.frame)) {
                    self.bytes += u64::from(place.frame_len);
                }
                return Ok(());
            }
        }
        Ok(())
    }
}
