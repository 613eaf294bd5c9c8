//! Read-ahead: who reads on and on finds the next bytes already there.

use super::RemoteReader;
use crate::TransferError;
use slipway_chunk::SEGMENT_LEN;
use std::ops::Range;
use std::sync::PoisonError;

/// Readers of one version that are told apart.
const STREAMS: usize = 8;
/// Requests of a kernel that reads ahead itself may overtake each other by so much.
const LOOSE: u64 = 2 << 20;
/// So much in a row makes a stream.
const RUN_MIN: u64 = 192 << 10;

/// The places at which the last reads ended.
#[derive(Default)]
pub(super) struct Streams {
    list: Vec<Stream>,
    tick: u64,
}

#[derive(Clone, Copy)]
struct Stream {
    /// Where the next read is expected.
    next: u64,
    /// Bytes read in a row.
    run: u64,
    /// Fetched ahead up to here.
    ahead: u64,
    tick: u64,
}

impl Streams {
    /// Takes note of a read; gives what shall be fetched ahead of the next one.
    fn note(&mut self, offset: u64, len: u64, size: u64, window: u64) -> Option<Range<u64>> {
        self.tick += 1;
        let near = |stream: &&mut Stream| offset + LOOSE >= stream.next && offset <= stream.next + LOOSE;
        let Some(stream) = self.list.iter_mut().find(near) else {
            let new = Stream { next: offset + len, run: len, ahead: 0, tick: self.tick };
            if self.list.len() < STREAMS {
                self.list.push(new);
            } else if let Some(oldest) = self.list.iter_mut().min_by_key(|stream| stream.tick) {
                *oldest = new;
            }
            return None;
        };
        stream.tick = self.tick;
        // A read of what was read before is no progress.
        let progress = (offset + len).saturating_sub(stream.next);
        stream.next += progress;
        stream.run += progress.min(len);
        // Reads here and there within the same few MiB are no stream; one that goes on is fetched ahead of, more and more.
        if progress == 0 || stream.run < RUN_MIN {
            return None;
        }
        let (from, until) = (stream.ahead.max(stream.next), size.min(stream.next + window.min(stream.run * 4)));
        // In steps of some size, so that neighbouring frames come with one request.
        let step = (window / 4).min(stream.run);
        if until < from + step.max(1) && until < size || until <= from {
            return None;
        }
        stream.ahead = until;
        Some(from..until)
    }
}

impl RemoteReader {
    /// Takes note of a read and begins to fetch what comes next.
    pub(super) fn ahead_note(&self, offset: u64, len: u64) {
        let window = self.0.options.ahead;
        if window == 0 {
            return;
        }
        let wanted = {
            let mut streams = self.0.streams.lock().unwrap_or_else(PoisonError::into_inner);
            streams.note(offset, len, self.size(), window)
        };
        if let Some(range) = wanted {
            let reader = self.clone();
            self.0.runtime.spawn_blocking(move || {
                // Who needs these bytes asks for them again, and then the failure counts.
                if let Err(why) = reader.ahead_run(range) {
                    tracing::debug!(content = reader.0.content.name(), %why, "reading ahead");
                }
            });
        }
    }

    fn ahead_run(&self, range: Range<u64>) -> Result<(), TransferError> {
        let mut at = range.start;
        while at < range.end {
            let (index, from) = ((at / SEGMENT_LEN) as usize, at % SEGMENT_LEN);
            let until = range.end.min((index as u64 + 1) * SEGMENT_LEN);
            if !super::HOLE_ID.is_some_and(|id| id == self.0.content.manifest().segments[index]) {
                let map = self.map(index)?;
                let chunks: Vec<_> = map.pieces(from, until - at).filter(|piece| piece.chunk.is_some()).collect();
                if !chunks.is_empty() {
                    let layout = self.layout(index, &map)?;
                    self.frames_load_ahead(&layout, &layout.wants(chunks));
                }
            }
            at = until;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Streams;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    #[test]
    fn streams_are_fetched_ahead_of_and_random_reads_are_not() {
        let (size, window) = (1 << 30, 16 * MIB);
        let mut streams = Streams::default();
        // Random.
        for n in 0..1000_u64 {
            let offset = n * 7919 * 4096 * 1009 % size / 4096 * 4096;
            assert_eq!(streams.note(offset, 4096, size, window), None, "{n}");
        }
        // Two in a row each, overtaking each other.
        let mut ends = [100 * MIB, 700 * MIB];
        let starts = ends;
        for n in 0..400_u64 {
            let which = (n % 2) as usize;
            let at = starts[which] + ((n / 2) ^ 1) * 128 * KIB;
            if let Some(range) = streams.note(at, 128 * KIB, size, window) {
                assert!(range.start >= ends[which], "twice");
                assert!(range.end <= at + window + 4 * MIB && range.end > range.start);
                ends[which] = range.end;
            }
        }
        assert!(ends[0] >= starts[0] + 25 * MIB && ends[1] >= starts[1] + 25 * MIB, "{ends:?}");
        // The end of the image is the end.
        let mut last = 0;
        for n in 0..64 {
            let range = streams.note(size - 8 * MIB + n * 128 * KIB, 128 * KIB, size, window);
            last = range.map_or(last, |range| range.end);
        }
        assert_eq!(last, size);
    }
}
