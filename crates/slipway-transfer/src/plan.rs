//! Which bytes of which packs to ask for: decided from a layout, before anything is sent.

use crate::Caps;
use slipway_chunk::{ChunkAt, ChunkId, Layout, PackId};
use std::collections::{BTreeMap, HashMap};

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
    pub(crate) segment: usize,
    pub(crate) pack: PackId,
    pub(crate) address: String,
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

/// A chunk within a frame's raw bytes, and all places of the image that want it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) id: ChunkId,
    pub(crate) len: u32,
    pub(crate) from: u32,
    pub(crate) places: Vec<u64>,
}

impl Part {
    pub(crate) fn needs(&self) -> impl Iterator<Item = Need> {
        self.places.iter().map(|at| Need { id: self.id, len: self.len, at: *at })
    }
}

/// Requests for these chunks of one segment, in pack order; each frame is asked for once, and frames with a small gap between
/// them come together.
///
/// # Errors
/// The chunk that the layout does not place.
pub(crate) fn jobs_plan(segment: usize, needs: &[Need], layout: &Layout, caps: &Caps) -> Result<Vec<Job>, ChunkId> {
    let places: HashMap<(ChunkId, u32), &ChunkAt> =
        layout.chunks.iter().map(|chunk| ((chunk.id, chunk.len), chunk)).collect();
    // By frame, then by chunk: both in the order of the layout's numbers, so that a plan is the same each time.
    let mut frames: BTreeMap<u32, BTreeMap<u32, Part>> = BTreeMap::new();
    for need in needs {
        let chunk = places.get(&(need.id, need.len)).ok_or(need.id)?;
        let part = frames.entry(chunk.frame).or_default().entry(chunk.at).or_insert_with(|| Part {
            id: chunk.id,
            len: chunk.len,
            from: chunk.at,
            places: Vec::new(),
        });
        // Two chunks at one place of a frame cannot both be there.
        if (part.id, part.len) != (need.id, need.len) {
            return Err(need.id);
        }
        part.places.push(need.at);
    }
    let mut frames: Vec<_> = frames
        .into_iter()
        .map(|(number, parts)| (layout.frames[number as usize], parts.into_values().collect::<Vec<_>>()))
        .collect();
    frames.sort_by_key(|(frame, _)| (frame.pack, frame.offset));

    let mut jobs: Vec<Job> = Vec::new();
    let mut last: Option<(u32, u32)> = None;
    for (frame, parts) in frames {
        let end = frame.offset + u64::from(frame.len);
        if let (Some((pack, raw)), Some(job)) = (&mut last, jobs.last_mut())
            && *pack == frame.pack
            && frame.offset <= job.at + u64::from(job.len) + u64::from(caps.gap)
            && end - job.at <= u64::from(caps.range)
            && *raw + frame.raw_len <= caps.range_raw
        {
            job.len = job.len.max((end - job.at) as u32);
            job.frames.push(FrameJob { skip: (frame.offset - job.at) as u32, len: frame.len, parts });
            *raw += frame.raw_len;
            continue;
        }
        let pack = &layout.packs[frame.pack as usize];
        last = Some((frame.pack, frame.raw_len));
        jobs.push(Job {
            segment,
            pack: pack.id,
            address: pack.address.clone(),
            at: frame.offset,
            len: frame.len,
            frames: vec![FrameJob { skip: 0, len: frame.len, parts }],
        });
    }
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use super::{Caps, Need, jobs_plan};
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

    fn need(n: u64, at: u64) -> Need {
        Need { id: id(n), len: 4096, at }
    }

    #[test]
    fn neighbours_come_together() {
        let caps = Caps { gap: 50, range: 350, range_raw: 1 << 20, ..Caps::default() };
        fn check(caps: &Caps, at: &[(u32, u64)], needs: &[u64], want: &[(u64, u32, usize)]) {
            let needs: Vec<_> = needs.iter().map(|n| need(*n, n * 4096)).collect();
            let jobs = jobs_plan(0, &needs, &layout(at), caps).unwrap();
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
    fn a_chunk_without_a_place_is_named() {
        let caps = Caps::default();
        assert_eq!(jobs_plan(0, &[need(9, 0)], &layout(&[(0, 0)]), &caps), Err(id(9)));
        let short = Need { len: 100, ..need(0, 0) };
        assert_eq!(jobs_plan(0, &[short], &layout(&[(0, 0)]), &caps), Err(id(0)));
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
            let jobs = jobs_plan(7, &needs, &layout, &caps).unwrap();
            let mut got = BTreeSet::new();
            let mut frames = BTreeSet::new();
            for job in &jobs {
                assert!(job.len <= range.max(100) && job.segment == 7);
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
