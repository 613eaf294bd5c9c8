//! Which bytes of which packs to ask for: decided from a layout, before anything is sent.

use crate::Caps;
use slipway_chunk::{ChunkAt, ChunkId, Layout, PackId, SEGMENT_LEN};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

/// A chunk that is wanted at a place of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) id: ChunkId,
    pub(crate) len: u32,
    pub(crate) at: u64,
}

/// One request: neighbouring frames of one pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) pack: PackId,
    pub(crate) address: Arc<str>,
    pub(crate) at: u64,
    pub(crate) len: u32,
    pub(crate) frames: Vec<FrameJob>,
}

/// A frame within the bytes of its request, and what is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FrameJob {
    pub(crate) skip: u32,
    pub(crate) len: u32,
    pub(crate) parts: Vec<Part>,
}

/// A chunk within a frame's raw bytes, and where the image wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) id: ChunkId,
    pub(crate) len: u32,
    pub(crate) from: u32,
    at: u64,
    /// Mostly none, and there are many parts: an empty list would take three words.
    more: Option<Box<Places>>,
}

/// Further places of the image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Places(Vec<u64>);

impl Part {
    /// All places of the image that want it.
    pub(crate) fn places(&self) -> impl Iterator<Item = u64> {
        std::iter::once(self.at).chain(self.more.iter().flat_map(|more| more.0.iter().copied()))
    }

    pub(crate) fn needs(&self) -> impl Iterator<Item = Need> {
        self.places().map(|at| Need { id: self.id, len: self.len, at })
    }

    /// A segment whose layout names this chunk.
    pub(crate) fn segment(&self) -> usize {
        (self.at / SEGMENT_LEN) as usize
    }
}

/// The frames that hold what is wanted, gathered from the layouts of several segments: a frame that chunks of many segments lie in
/// is asked for once. Layouts may be added while requests are taken.
#[derive(Default)]
pub(crate) struct Plan {
    addresses: HashMap<PackId, Arc<str>>,
    frames: BTreeMap<FrameKey, Frame>,
    needs: usize,
    /// The last frame that was taken.
    last: Option<FrameKey>,
}

/// The pack, and where in it the frame begins.
type FrameKey = (PackId, u64);

struct Frame {
    len: u32,
    raw_len: u32,
    /// Few, so that a list is smaller and quicker than a map.
    parts: Vec<Part>,
}

impl Plan {
    /// Places whose chunks are still to be taken.
    pub(crate) fn needs(&self) -> usize {
        self.needs
    }

    /// Adds chunks of one segment, whose layout says where they lie.
    ///
    /// # Errors
    /// The chunk that the layout does not place, or not as another layout did.
    pub(crate) fn add(&mut self, needs: &[Need], layout: &Layout) -> Result<(), ChunkId> {
        let places: HashMap<(ChunkId, u32), &ChunkAt> =
            layout.chunks.iter().map(|chunk| ((chunk.id, chunk.len), chunk)).collect();
        let mut touched: Vec<FrameKey> = Vec::new();
        for need in needs {
            let chunk = places.get(&(need.id, need.len)).ok_or(need.id)?;
            let at = layout.frames[chunk.frame as usize];
            let pack = &layout.packs[at.pack as usize];
            // The newest address is the one that lives longest.
            if self.addresses.get(&pack.id).is_none_or(|address| **address != *pack.address) {
                self.addresses.insert(pack.id, pack.address.as_str().into());
            }
            let new = Frame { len: at.len, raw_len: at.raw_len, parts: Vec::new() };
            let key = (pack.id, at.offset);
            let frame = self.frames.entry(key).or_insert(new);
            if (frame.len, frame.raw_len) != (at.len, at.raw_len) {
                return Err(need.id);
            }
            match frame.parts.iter_mut().find(|part| part.from == chunk.at) {
                Some(part) if (part.id, part.len) == (need.id, need.len) => {
                    part.more.get_or_insert_default().0.push(need.at)
                }
                // Two chunks at one place of a frame cannot both be there.
                Some(_) => return Err(need.id),
                None => {
                    let part = Part { id: need.id, len: need.len, from: chunk.at, at: need.at, more: None };
                    frame.parts.push(part);
                }
            }
            self.needs += 1;
            if touched.last() != Some(&key) {
                touched.push(key);
            }
        }
        // Many lists that wait, each with room for a third more, are some MiB.
        for key in touched {
            self.frames.get_mut(&key).into_iter().for_each(|frame| frame.parts.shrink_to_fit());
        }
        Ok(())
    }

    /// The next request, in pack order and then round again, so that a frame waits long for what later segments want of it; frames
    /// with a small gap between them come together.
    pub(crate) fn take(&mut self, caps: &Caps) -> Option<Job> {
        let behind = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let first = match self.frames.range((behind, Bound::Unbounded)).next() {
            Some((key, _)) => *key,
            None => *self.frames.first_key_value()?.0,
        };
        let (pack, at) = first;
        let (mut len, mut raw, mut keys) = (0, 0, Vec::new());
        for (&(next, offset), frame) in self.frames.range(first..) {
            let end = offset + u64::from(frame.len);
            let fits = next == pack
                && offset <= at + u64::from(len) + u64::from(caps.gap)
                && end - at <= u64::from(caps.range)
                && raw + frame.raw_len <= caps.range_raw;
            // The first one, whatever the bounds.
            if !fits && !keys.is_empty() {
                break;
            }
            len = len.max((end - at) as u32);
            raw += frame.raw_len;
            keys.push((next, offset));
        }
        self.last = keys.last().copied();
        let frames = keys.into_iter().filter_map(|key| self.frame_take(key, at)).collect();
        Some(Job { pack, address: self.addresses[&pack].clone(), at, len, frames })
    }

    fn frame_take(&mut self, key: FrameKey, at: u64) -> Option<FrameJob> {
        let frame = self.frames.remove(&key)?;
        self.needs -= frame.parts.iter().map(|part| part.places().count()).sum::<usize>();
        Some(FrameJob { skip: (key.1 - at) as u32, len: frame.len, parts: frame.parts })
    }

    /// All requests that are left.
    pub(crate) fn jobs(mut self, caps: &Caps) -> Vec<Job> {
        std::iter::from_fn(|| self.take(caps)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Caps, Job, Need, Plan};
    use proptest::prelude::{ProptestConfig, any, proptest};
    use slipway_chunk::{ChunkAt, ChunkId, FrameAt, Layout, PackAt, PackId};
    use std::collections::BTreeSet;

    fn id(n: u64) -> ChunkId {
        ChunkId::of(&n.to_le_bytes())
    }

    /// Frames of 100 stored bytes; frame n holds chunks 2n and 2n+1 of 4096 bytes. `at` gives each frame's pack and offset.
    fn layout(at: &[(u32, u64)]) -> Layout {
        let packs = (0..3).map(|n| PackAt { id: PackId::from_bytes([n; 16]), address: format!("/p{n}") }).collect();
        let frames = at.iter().map(|&(pack, offset)| FrameAt { pack, offset, len: 100, raw_len: 8192 }).collect();
        let chunks =
            (0..at.len() as u32 * 2).map(|n| ChunkAt { id: id(n.into()), len: 4096, frame: n / 2, at: n % 2 * 4096 });
        Layout { packs, frames, chunks: chunks.collect() }
    }

    fn jobs_plan(needs: &[Need], layout: &Layout, caps: &Caps) -> Result<Vec<Job>, ChunkId> {
        let mut plan = Plan::default();
        // As two segments would give them.
        let (one, other) = needs.split_at(needs.len() / 2);
        plan.add(one, layout)?;
        plan.add(other, layout)?;
        assert_eq!(plan.needs(), needs.len());
        Ok(plan.jobs(caps))
    }

    fn need(n: u64, at: u64) -> Need {
        Need { id: id(n), len: 4096, at }
    }

    #[test]
    fn neighbours_come_together() {
        let caps = Caps { gap: 50, range: 350, range_raw: 1 << 20, ..Caps::default() };
        fn check(caps: &Caps, at: &[(u32, u64)], needs: &[u64], want: &[(u64, u32, usize)]) {
            let needs: Vec<_> = needs.iter().map(|n| need(*n, n * 4096)).collect();
            let jobs = jobs_plan(&needs, &layout(at), caps).unwrap();
            let got: Vec<_> = jobs.iter().map(|job| (job.at, job.len, job.frames.len())).collect();
            assert_eq!(got, want, "{at:?} {needs:?}");
        }
        check(&caps, &[(0, 64)], &[], &[]);
        check(&caps, &[(0, 64)], &[0, 1, 0], &[(64, 100, 1)]);
        check(&caps, &[(0, 64), (0, 164)], &[2, 0], &[(64, 200, 2)]);
        check(&caps, &[(0, 64), (0, 214)], &[0, 2], &[(64, 250, 2)]);
        check(&caps, &[(0, 64), (0, 215)], &[0, 2], &[(64, 100, 1), (215, 100, 1)]);
        check(&caps, &[(0, 64), (1, 164)], &[0, 2], &[(64, 100, 1), (164, 100, 1)]);
        check(&caps, &[(0, 0), (0, 100), (0, 200), (0, 300)], &[0, 2, 4, 6], &[(0, 300, 3), (300, 100, 1)]);
        check(&caps, &[(0, 300), (0, 0)], &[0, 2], &[(0, 100, 1), (300, 100, 1)]);
        let raw = Caps { range_raw: 8192, ..caps };
        check(&raw, &[(0, 64), (0, 164)], &[0, 2], &[(64, 100, 1), (164, 100, 1)]);
    }

    #[test]
    fn what_comes_while_requests_are_taken_is_gathered() {
        let caps = Caps { gap: 0, range: 100, ..Caps::default() };
        let layout = layout(&[(0, 0), (0, 100), (1, 0)]);
        let mut plan = Plan::default();
        plan.add(&[need(0, 0), need(2, 4096), need(4, 8192)], &layout).unwrap();
        let place = |job: Option<Job>| job.map(|job| (job.pack.as_bytes()[0], job.at, job.frames[0].parts.len()));
        assert_eq!(place(plan.take(&caps)), Some((0, 0, 1)));
        // Frame 0 is gone already and comes again after the others; frame 2 has waited.
        plan.add(&[need(1, 12288), need(5, 16384)], &layout).unwrap();
        assert_eq!(plan.needs(), 4);
        assert_eq!(place(plan.take(&caps)), Some((0, 100, 1)));
        assert_eq!(place(plan.take(&caps)), Some((1, 0, 2)));
        assert_eq!(place(plan.take(&caps)), Some((0, 0, 1)));
        assert_eq!((place(plan.take(&caps)), plan.needs()), (None, 0));
        plan.add(&[need(3, 0)], &layout).unwrap();
        assert_eq!(place(plan.take(&caps)), Some((0, 100, 1)));
    }

    #[test]
    fn a_chunk_without_a_place_is_named() {
        let caps = Caps::default();
        assert_eq!(jobs_plan(&[need(9, 0)], &layout(&[(0, 0)]), &caps), Err(id(9)));
        let short = Need { len: 100, ..need(0, 0) };
        assert_eq!(jobs_plan(&[short], &layout(&[(0, 0)]), &caps), Err(id(0)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_need_once_and_within_bounds(
            at in proptest::collection::vec((0_u32..3, any::<u16>()), 1..20),
            wants in proptest::collection::vec((0_u64..40, 0_u64..1000), 0..60),
            gap in 0_u32..500,
            range in 100_u32..2000,
        ) {
            let at: BTreeSet<_> = at.into_iter().map(|(pack, offset)| (pack, u64::from(offset) * 100)).collect();
            let at: Vec<_> = at.into_iter().collect();
            let wants: BTreeSet<_> = wants.into_iter().map(|(n, at)| (n % (2 * layout(&[]).chunks.len().max(1) as u64).max(2), at)).collect();
            let needs: Vec<_> = wants.iter().filter(|(n, _)| *n < at.len() as u64 * 2).map(|(n, at)| need(*n, *at)).collect();
            let caps = Caps { gap, range, ..Caps::default() };
            let layout = layout(&at);
            let jobs = jobs_plan(&needs, &layout, &caps).unwrap();
            let mut got = BTreeSet::new();
            let mut frames = BTreeSet::new();
            for job in &jobs {
                assert!(job.len <= range.max(100));
                for frame in &job.frames {
                    assert!(frame.skip + frame.len <= job.len);
                    assert!(frames.insert((job.pack, job.at + u64::from(frame.skip))), "a frame is asked for twice");
                    for part in &frame.parts {
                        assert!(part.needs().all(|need| got.insert((need.id, need.at))));
                    }
                }
            }
            assert_eq!(got, needs.iter().map(|need| (need.id, need.at)).collect());
        }
    }
}
