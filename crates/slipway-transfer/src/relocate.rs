//! Copying chunks that lie elsewhere on the target to where the image wants them.

use crate::compare::Compared;
use crate::flash::Flash;
use crate::known::Known;
use crate::look::{SegmentFeed, looks};
use crate::marks::Marks;
use crate::moves::{Move, Op, moves_order};
use crate::{Event, Step, TransferError};
use slipway_chunk::verify;
use slipway_disk::{Target, Writing};
use std::collections::{HashMap, HashSet};

/// A target to which everything was copied that lay elsewhere on it.
pub(crate) struct Moved {
    pub(crate) writing: Writing,
    /// What is still lacking.
    pub(crate) marks: Marks,
    pub(crate) known: Known,
    /// Bytes that were copied.
    pub(crate) moved: u64,
    /// Bytes that are still lacking.
    pub(crate) lacking: u64,
}

impl Flash {
    /// Which differing chunks lie elsewhere on the target.
    fn moves_plan(&self, compared: &Compared) -> Result<Vec<Move>, TransferError> {
        let mut moves = Vec::new();
        let segments = compared.marks.segments();
        let mut feed = SegmentFeed::new(&self.fetcher.content, &self.runtime, self.control());
        for (n, &index) in segments.iter().enumerate() {
            let segment = feed.get(index, segments.get(n + 1).copied())?;
            for look in looks(index, &segment) {
                let Some(id) = look.chunk.filter(|_| compared.marks.get(index, look.extent)) else { continue };
                if moves.len() >= self.options.caps.moves {
                    return Ok(moves);
                }
                if let Some(from) = compared.index.find(&id, look.len).filter(|from| *from != look.at) {
                    let (segment, extent) = (index as u32, look.extent as u32);
                    moves.push(Move { id, from, to: look.at, len: look.len, segment, extent });
                }
            }
        }
        Ok(moves)
    }

    /// Copies what lies elsewhere.
    pub(crate) fn moves_run(&self, target: Target, compared: Compared) -> Result<Moved, TransferError> {
        let moves = match target.facts().fresh {
            true => Vec::new(),
            false => self.moves_plan(&compared)?,
        };
        let Compared { mut marks, lacking, matched, unzero, index, mut known, .. } = compared;
        // What is done with the moves takes as much memory again.
        drop(index);
        let ops = moves_order(&moves, self.options.caps.held);
        let copied = |op: &Op| match op {
            Op::Copy(n) => u64::from(moves[*n as usize].len),
            Op::Hold { .. } | Op::Release { .. } => 0,
        };
        let planned: u64 = ops.iter().map(copied).sum();
        self.control().tell(Event::Plan {
            matched,
            moved: planned,
            fetched: lacking.saturating_sub(planned),
            zeroed: unzero,
        });
        let mut writing = target.writing()?;
        if ops.is_empty() {
            return Ok(Moved { writing, marks, known, moved: 0, lacking });
        }
        let mut meter = self.control().meter(Step::Move, Some(planned));
        let mut held: HashMap<u64, Vec<u8>> = HashMap::new();
        // No source is written to before it was copied, so it may be read as early as one likes.
        let mut ahead = writing.read_ahead(sources(&ops, &moves))?;
        let mut moved = 0;
        for op in &ops {
            match *op {
                Op::Hold { from, len } => drop(held.insert(from, writing.read(from, len as usize)?.to_vec())),
                Op::Release { from } => drop(held.remove(&from)),
                Op::Copy(n) => {
                    let one = &moves[n as usize];
                    let bytes = match held.get(&one.from) {
                        Some(bytes) => bytes,
                        None => writing.next_read(&mut ahead, one.from)?,
                    };
                    // The index knows only a part of the id, and the target may have read differently; then it is fetched.
                    if let Ok(chunk) = verify(bytes, &one.id) {
                        known.chunk_write(&mut writing, one.to, &chunk)?;
                        marks.clear(one.segment as usize, one.extent as usize);
                        moved += u64::from(one.len);
                    }
                    meter.add(u64::from(one.len))?;
                }
            }
        }
        let lacks = |one: &Move| marks.get(one.segment as usize, one.extent as usize);
        // A place that no move leads to is still to be fetched to.
        known.printed.retain(|at| moves.binary_search_by_key(&at, |one| one.to).map_or(true, |n| lacks(&moves[n])));
        Ok(Moved { writing, marks, known, moved, lacking: lacking.saturating_sub(moved) })
    }
}

/// The places that are copied from the target and not from memory, in order.
fn sources(ops: &[Op], moves: &[Move]) -> Vec<(u64, u32)> {
    let (mut held, mut sources) = (HashSet::new(), Vec::new());
    for op in ops {
        match *op {
            Op::Hold { from, .. } => drop(held.insert(from)),
            Op::Release { from } => drop(held.remove(&from)),
            Op::Copy(n) => {
                let Move { from, len, .. } = moves[n as usize];
                if !held.contains(&from) {
                    sources.push((from, len));
                }
            }
        }
    }
    sources
}
