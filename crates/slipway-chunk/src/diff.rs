//! Where two images differ, told from their segments alone: nothing is read.
//!
//! Chunks are equal when their ids are and they lie at the same place. Where chunks differ, all that they have in common in their places counts as differing, so
//! a range may be up to a chunk longer than the bytes that differ; it is never shorter.

use crate::{BLOCK, ChunkId, Extent, Segment};

/// How a range differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiffKind {
    /// Data in both.
    Changed,
    /// Data in the first, a hole in the second.
    ToHole,
    /// A hole in the first, data in the second.
    FromHole,
    /// Behind the end of the second.
    CutOff,
    /// Behind the end of the first.
    Added,
}

/// A range of the image that differs; offset and length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiffRange {
    pub offset: u64,
    pub len: u64,
    pub kind: DiffKind,
}

/// Gathers ranges and joins those that follow each other and are of one kind.
#[derive(Clone, Debug, Default)]
pub struct DiffRanges {
    ranges: Vec<DiffRange>,
}

impl DiffRanges {
    /// Adds a range behind all others; an empty one is nothing.
    pub fn push(&mut self, range: DiffRange) {
        if range.len == 0 {
            return;
        }
        match self.ranges.last_mut() {
            Some(last) if last.kind == range.kind && last.offset + last.len == range.offset => last.len += range.len,
            _ => self.ranges.push(range),
        }
    }

    pub fn as_slice(&self) -> &[DiffRange] {
        &self.ranges
    }

    pub fn into_vec(self) -> Vec<DiffRange> {
        self.ranges
    }
}

/// Compares two segments of the same place, which begins at `base`, as far as both reach; shows each range that differs, in order, not joined.
pub fn segments_diff(one: &Segment, two: &Segment, base: u64, each: &mut dyn FnMut(DiffRange)) {
    if one.id() == two.id() {
        return;
    }
    let (mut left, mut right) = (Walk::new(one.extents()), Walk::new(two.extents()));
    while let (Some(a), Some(b)) = (left.now, right.now) {
        let at = left.start.max(right.start);
        let end = left.end().min(right.end());
        let range = |kind| DiffRange { offset: base + at, len: end - at, kind };
        match (a, b) {
            (Extent::Hole { .. }, Extent::Hole { .. }) => {}
            (Extent::Hole { .. }, Extent::Chunk { .. }) => each(range(DiffKind::FromHole)),
            (Extent::Chunk { .. }, Extent::Hole { .. }) => each(range(DiffKind::ToHole)),
            (Extent::Chunk { id: a, len: a_len }, Extent::Chunk { id: b, len: b_len }) => {
                if a != b || a_len != b_len || left.start != right.start {
                    each(range(DiffKind::Changed));
                }
            }
        }
        if left.end() == end {
            left.next();
        }
        if right.end() == end {
            right.next();
        }
    }
}

struct Walk<'a> {
    rest: std::slice::Iter<'a, Extent>,
    now: Option<Extent>,
    start: u64,
}

impl<'a> Walk<'a> {
    fn new(extents: &'a [Extent]) -> Self {
        let mut rest = extents.iter();
        let now = rest.next().copied();
        Self { rest, now, start: 0 }
    }

    fn end(&self) -> u64 {
        self.start + self.now.map_or(0, |extent| u64::from(extent.len()))
    }

    fn next(&mut self) {
        self.start = self.end();
        self.now = self.rest.next().copied();
    }
}

/// The chunks of a segment that touch a range, each with its offset in the image.
pub fn chunks_touching(
    segment: &Segment,
    base: u64,
    offset: u64,
    len: u64,
) -> impl Iterator<Item = (u64, ChunkId, u32)> {
    let chunks = segment.chunks().map(move |(at, id, len)| (base + at, id, len));
    chunks
        .skip_while(move |(at, _, chunk)| at + u64::from(*chunk) <= offset)
        .take_while(move |(at, ..)| *at < offset + len)
}

/// Parts of a changed range whose blocks really differ, given the bytes of both from `offset` on: to the block, joined. Both are as long.
pub fn blocks_diff(offset: u64, one: &[u8], two: &[u8], into: &mut DiffRanges) {
    let mut at = offset;
    for (a, b) in one.chunks(BLOCK).zip(two.chunks(BLOCK)) {
        if a != b {
            into.push(DiffRange { offset: at, len: a.len().max(b.len()) as u64, kind: DiffKind::Changed });
        }
        at += a.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::{DiffKind, DiffRange, DiffRanges, blocks_diff, chunks_touching, segments_diff};
    use crate::{ChunkId, Extent, Segment};

    const K: u32 = 4096;

    fn chunk(name: u8, blocks: u32) -> Extent {
        Extent::Chunk { id: ChunkId::of(&[name]), len: blocks * K }
    }

    fn hole(blocks: u32) -> Extent {
        Extent::Hole { len: blocks * K }
    }

    fn diff(one: &[Extent], two: &[Extent]) -> Vec<(u64, u64, DiffKind)> {
        let (one, two) = (Segment::new(one.to_vec()).unwrap(), Segment::new(two.to_vec()).unwrap());
        let mut ranges = DiffRanges::default();
        segments_diff(&one, &two, 1 << 28, &mut |range| ranges.push(range));
        let k = u64::from(K);
        ranges.into_vec().iter().map(|r| ((r.offset - (1 << 28)) / k, r.len / k, r.kind)).collect()
    }

    #[test]
    fn what_differs_is_named_with_its_kind() {
        use DiffKind::{Changed, FromHole, ToHole};
        let base = [chunk(1, 4), hole(2), chunk(2, 4), chunk(3, 6)];
        assert_eq!(diff(&base, &base), []);
        assert_eq!(diff(&base, &[chunk(9, 4), hole(2), chunk(2, 4), chunk(3, 6)]), [(0, 4, Changed)]);
        assert_eq!(diff(&base, &[chunk(1, 4), chunk(9, 2), chunk(2, 4), chunk(3, 6)]), [(4, 2, FromHole)]);
        assert_eq!(diff(&base, &[chunk(1, 4), hole(6), chunk(3, 6)]), [(6, 4, ToHole)]);
        // Cut otherwise: the same bytes may lie in both, but nobody knows without reading.
        assert_eq!(diff(&base, &[chunk(1, 4), hole(2), chunk(7, 5), chunk(8, 5)]), [(6, 10, Changed)]);
        // The same chunk at another place is another content there.
        assert_eq!(
            diff(&base, &[chunk(3, 6), chunk(1, 4), chunk(3, 6)]),
            [(0, 4, Changed), (4, 2, FromHole), (6, 4, Changed)]
        );
        // The second is shorter: only what both have is compared.
        assert_eq!(diff(&base, &[chunk(1, 4), hole(2), chunk(9, 3)]), [(6, 3, Changed)]);
    }

    #[test]
    fn chunks_that_touch_a_range_are_given() {
        let segment = Segment::new(vec![chunk(1, 4), hole(2), chunk(2, 4), chunk(3, 6)]).unwrap();
        let touching = |at: u64, len: u64| -> Vec<u64> {
            chunks_touching(&segment, 0, at * 4096, len * 4096).map(|(at, ..)| at / 4096).collect()
        };
        assert_eq!(touching(0, 16), [0, 6, 10]);
        assert_eq!(touching(3, 3), [0]);
        assert!(touching(4, 2).is_empty());
        assert_eq!(touching(9, 2), [6, 10]);
    }

    #[test]
    fn blocks_are_told_apart() {
        let one = vec![7u8; 5 * 4096 + 100];
        let mut two = one.clone();
        two[4096] = 1;
        two[2 * 4096] = 1;
        two[5 * 4096 + 99] = 1;
        let mut ranges = DiffRanges::default();
        blocks_diff(8192, &one, &two, &mut ranges);
        let want = [
            DiffRange { offset: 3 * 4096, len: 8192, kind: DiffKind::Changed },
            DiffRange { offset: 7 * 4096, len: 100, kind: DiffKind::Changed },
        ];
        assert_eq!(ranges.as_slice(), want);
    }
}
