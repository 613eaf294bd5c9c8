//! In which order chunks are copied within a target: no copy may overwrite what a later one still has to read.

use slipway_chunk::{ChunkId, FRAME_RAW_MAX};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A chunk that lies elsewhere on the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) id: ChunkId,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) len: u32,
    /// The extent that wants it.
    pub(crate) segment: u32,
    pub(crate) extent: u32,
}

/// One step of the copying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Read this place into memory: it is about to be overwritten and wanted later.
    Hold { from: u64, len: u32 },
    /// Do move number `n`, from memory if its source is held.
    Copy(u32),
    /// The held bytes are not wanted any more.
    Release { from: u64 },
}

/// A place on the target that moves read.
struct Origin {
    from: u64,
    len: u32,
    users: u32,
    held: bool,
}

struct Order<'a> {
    moves: &'a [Move],
    origins: Vec<Origin>,
    /// The origin of each move.
    origin_of: Vec<u32>,
    done: Vec<bool>,
    ready: BinaryHeap<Reverse<u32>>,
    ops: Vec<Op>,
    held: u64,
}

/// The order for `moves`, which are sorted by `to` and whose destinations are apart. A move whose destination nobody else still
/// reads goes first; where moves wait for each other, the sources in the way are held in memory up to `cap` bytes. What does not
/// fit has no `Copy` and must be fetched; so do cycles larger than the memory, and nothing ever fails.
pub(crate) fn moves_order(moves: &[Move], cap: u64) -> Vec<Op> {
    let mut order = Order::new(moves);
    for first in 0..moves.len() {
        order.run_ready();
        if order.done[first] {
            continue;
        }
        // Nothing is free: this one, the first in image order, waits for itself in a cycle.
        let blockers: Vec<usize> = order.blockers(first).collect();
        let len: u64 = blockers.iter().map(|origin| u64::from(order.origins[*origin].len)).sum();
        if order.held + len > cap {
            order.settle(first, false);
            continue;
        }
        for origin in blockers {
            order.hold(origin);
        }
        order.settle(first, true);
    }
    order.run_ready();
    order.ops
}

impl<'a> Order<'a> {
    fn new(moves: &'a [Move]) -> Self {
        let mut places: Vec<(u64, u32)> = moves.iter().map(|one| (one.from, one.len)).collect();
        places.sort_unstable();
        places.dedup();
        let mut origins: Vec<Origin> =
            places.iter().map(|&(from, len)| Origin { from, len, users: 0, held: false }).collect();
        let mut origin_of = Vec::with_capacity(moves.len());
        for one in moves {
            let origin = places.partition_point(|place| *place < (one.from, one.len));
            origins[origin].users += 1;
            origin_of.push(origin as u32);
        }
        let done = vec![false; moves.len()];
        let ready = (0..moves.len() as u32).map(Reverse).collect();
        Self { moves, origins, origin_of, done, ready, ops: Vec::new(), held: 0 }
    }

    fn run_ready(&mut self) {
        while let Some(Reverse(n)) = self.ready.pop() {
            let n = n as usize;
            if !self.done[n] && self.blockers(n).next().is_none() {
                self.settle(n, true);
            }
        }
    }

    /// Origins that move `n` would overwrite while other moves still want to read them.
    fn blockers(&self, n: usize) -> impl Iterator<Item = usize> {
        let one = &self.moves[n];
        let (to, end) = (one.to, one.to + u64::from(one.len));
        // No chunk is longer than a frame, so no origin that begins further below reaches up to here.
        let first = self.origins.partition_point(|origin| origin.from + (FRAME_RAW_MAX as u64) < to);
        let own = self.origin_of[n] as usize;
        (first..self.origins.len()).take_while(move |at| self.origins[*at].from < end).filter(move |at| {
            let origin = &self.origins[*at];
            let others = origin.users - u32::from(*at == own);
            !origin.held && others > 0 && origin.from + u64::from(origin.len) > to
        })
    }

    fn hold(&mut self, at: usize) {
        let origin = &mut self.origins[at];
        origin.held = true;
        let (from, len) = (origin.from, origin.len);
        self.held += u64::from(len);
        self.ops.push(Op::Hold { from, len });
        self.wake(from, len);
    }

    /// Move `n` is done with, by copying or by leaving it to the fetch; wakes those that waited for its source.
    fn settle(&mut self, n: usize, copy: bool) {
        if copy {
            self.ops.push(Op::Copy(n as u32));
        }
        self.done[n] = true;
        let origin = &mut self.origins[self.origin_of[n] as usize];
        origin.users -= 1;
        let (from, len, users) = (origin.from, origin.len, origin.users);
        if users == 0 && origin.held {
            self.held -= u64::from(len);
            self.ops.push(Op::Release { from });
        }
        // With one user left, that one may overwrite its own source.
        if users <= 1 {
            self.wake(from, len);
        }
    }

    /// Moves that would overwrite this place may be free now.
    fn wake(&mut self, from: u64, len: u32) {
        let end = from + u64::from(len);
        let first = self.moves.partition_point(|one| one.to + u64::from(one.len) <= from);
        for (n, _) in self.moves.iter().enumerate().skip(first).take_while(|(_, one)| one.to < end) {
            if !self.done[n] {
                self.ready.push(Reverse(n as u32));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Move, Op, moves_order};
    use proptest::prelude::{ProptestConfig, any, proptest};
    use slipway_chunk::ChunkId;
    use std::collections::{BTreeSet, HashMap};

    fn moves(list: &[(u64, u64, u32)]) -> Vec<Move> {
        let id = ChunkId::of(b"");
        let mut moves: Vec<_> =
            list.iter().map(|&(from, to, len)| Move { id, from, to, len, segment: 0, extent: 0 }).collect();
        moves.sort_by_key(|one| one.to);
        moves
    }

    /// Runs the order on a target whose byte n is a number of its own, and checks each copied byte.
    fn run(moves: &[Move], cap: u64, size: usize) -> (usize, u64) {
        let mut target: Vec<u32> = (0..size as u32).collect();
        let (mut held, mut bytes, mut most, mut copied) = (HashMap::new(), 0, 0, BTreeSet::new());
        for op in moves_order(moves, cap) {
            match op {
                Op::Hold { from, len } => {
                    bytes += u64::from(len);
                    most = most.max(bytes);
                    let source = target[from as usize..from as usize + len as usize].to_vec();
                    assert!(held.insert(from, source).is_none());
                }
                Op::Release { from } => bytes -= held.remove(&from).unwrap().len() as u64,
                Op::Copy(n) => {
                    assert!(copied.insert(n), "copied twice");
                    let Move { from, to, len, .. } = moves[n as usize];
                    let (from, to, len) = (from as usize, to as usize, len as usize);
                    let source = held.get(&(from as u64)).cloned().unwrap_or_else(|| target[from..from + len].to_vec());
                    assert!(source.iter().copied().eq(from as u32..(from + len) as u32), "source was overwritten");
                    target[to..to + len].copy_from_slice(&source);
                }
            }
        }
        assert!(most <= cap && bytes == 0 && held.is_empty());
        (copied.len(), most)
    }

    #[test]
    fn shifts_and_cycles() {
        // Everything moves up by one: from the end backwards, without memory.
        let up: Vec<_> = (0..50).map(|n| (n * 4, n * 4 + 4, 4)).collect();
        assert_eq!(run(&moves(&up), 0, 300), (50, 0));
        let down: Vec<_> = (0..50).map(|n| (n * 4 + 4, n * 4, 4)).collect();
        assert_eq!(run(&moves(&down), 0, 300), (50, 0));
        // Shifts that overlap their own source.
        assert_eq!(run(&moves(&[(2, 0, 4), (6, 4, 4)]), 0, 20), (2, 0));
        // A swap needs one held chunk, or one fetch.
        assert_eq!(run(&moves(&[(0, 4, 4), (4, 0, 4)]), 4, 8), (2, 4));
        assert_eq!(run(&moves(&[(0, 4, 4), (4, 0, 4)]), 3, 8), (1, 0));
        // One source for many places, one of which is its own.
        assert_eq!(run(&moves(&[(0, 2, 4), (0, 8, 4), (0, 20, 4)]), 0, 24), (3, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn no_source_is_overwritten_too_early(
            to in proptest::collection::vec((0_usize..64, any::<bool>()), 1..40),
            from in proptest::collection::vec(0_u64..64, 40),
            len in 1_u32..9,
            cap in 0_u64..64,
        ) {
            let apart: BTreeSet<usize> = to.iter().map(|(to, _)| *to).collect();
            let list: Vec<_> = apart
                .iter()
                .zip(&from)
                .map(|(to, from)| (from * u64::from(len), *to as u64 * u64::from(len) + u64::from(len / 2), len))
                .collect();
            let moves = moves(&list);
            let (copied, _) = run(&moves, cap, 64 * 10);
            let (all, _) = run(&moves, 1 << 20, 64 * 10);
            assert_eq!(all, moves.len(), "with memory nothing is fetched");
            assert!(copied <= all);
        }
    }
}
