//! Reading a target along the extents of an image: one thread reads, one looks.

use crate::{Control, RemoteContent, TransferError};
use slipway_chunk::{ChunkId, Extent, FRAME_RAW_MAX, SEGMENT_LEN, Segment, is_zero};
use slipway_disk::{DiskError, ReadBuffer, Target, TargetReader, Writing};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The most bytes of one read. Of such reads five are in memory: two wait, one is looked at, one is being read or wants to wait, and
/// the target keeps one.
const SPAN_LEN: u64 = 1 << 20;
/// Holes are looked at in parts of this length: no longer than the longest chunk, and all that is read back because something in it was
/// written.
const HOLE_PART_LEN: usize = 256 << 10;

/// A piece of the image: a chunk, or a part of a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) segment: usize,
    pub(crate) extent: usize,
    pub(crate) at: u64,
    pub(crate) len: u32,
    /// `None`: must be zero.
    pub(crate) chunk: Option<ChunkId>,
}

impl Look {
    /// Whether these bytes (`None`: zeros) are what the image has here.
    pub(crate) fn is_same(&self, bytes: Option<&[u8]>) -> bool {
        match (self.chunk, bytes) {
            (None, None) => true,
            (None, Some(bytes)) => is_zero(bytes),
            (Some(_), None) => false,
            (Some(id), Some(bytes)) => ChunkId::of(bytes) == id,
        }
    }
}

/// The pieces of segment `index`, in order; long holes in parts.
pub(crate) fn looks(index: usize, segment: &Segment) -> impl Iterator<Item = Look> {
    let mut at = index as u64 * SEGMENT_LEN;
    segment.extents().iter().enumerate().flat_map(move |(extent, what)| {
        let (start, end) = (at, at + u64::from(what.len()));
        at = end;
        let chunk = match what {
            Extent::Hole { .. } => None,
            Extent::Chunk { id, .. } => Some(*id),
        };
        let part = if chunk.is_some() { FRAME_RAW_MAX } else { HOLE_PART_LEN };
        (start..end).step_by(part).map(move |at| {
            let len = (end - at).min(part as u64) as u32;
            Look { segment: index, extent, at, len, chunk }
        })
    })
}

/// Neighbouring pieces that are read together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    at: u64,
    len: u64,
    looks: Vec<Look>,
}

/// Groups pieces that follow each other, up to [`SPAN_LEN`] bytes.
pub(crate) fn spans(looks: impl Iterator<Item = Look>) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for look in looks {
        let len = u64::from(look.len);
        match spans.last_mut() {
            Some(span) if span.at + span.len == look.at && span.len + len <= SPAN_LEN => {
                span.len += len;
                span.looks.push(look);
            }
            _ => spans.push(Span { at: look.at, len, looks: vec![look] }),
        }
    }
    spans
}

/// A target before or while it is written, or one that is only compared.
pub(crate) enum Readable<'a> {
    Reader(&'a mut TargetReader),
    Target(&'a mut Target),
    Writing(&'a mut Writing),
}

impl Readable<'_> {
    fn hole_at(&self, at: u64) -> Result<Option<u64>, DiskError> {
        match self {
            Self::Reader(reader) => reader.hole_at(at),
            Self::Target(target) => target.hole_at(at),
            Self::Writing(writing) => writing.hole_at(at),
        }
    }

    fn read_into(&mut self, at: u64, len: usize, into: &mut ReadBuffer) -> Result<(), DiskError> {
        match self {
            Self::Reader(reader) => reader.read_into(at, len, into),
            Self::Target(target) => target.read_into(at, len, into),
            Self::Writing(writing) => writing.read_into(at, len, into),
        }
    }
}

type Fetching = JoinHandle<Result<Arc<Segment>, TransferError>>;

/// The segments of a version, the next one fetched while one is being used; for threads that may wait.
pub(crate) struct SegmentFeed {
    content: RemoteContent,
    runtime: Handle,
    control: Control,
    next: Option<(usize, Fetching)>,
}

impl SegmentFeed {
    pub(crate) fn new(content: &RemoteContent, runtime: &Handle, control: &Control) -> Self {
        Self { content: content.clone(), runtime: runtime.clone(), control: control.clone(), next: None }
    }

    /// Segment `index`; begins to fetch `then`.
    pub(crate) fn get(&mut self, index: usize, then: Option<usize>) -> Result<Arc<Segment>, TransferError> {
        let ready = self.next.take().filter(|(ready, _)| *ready == index);
        let content = &self.content;
        let waiting = async {
            match ready {
                Some((_, task)) => task.await.map_err(|_| TransferError::Panicked)?,
                None => content.segment(index).await,
            }
        };
        let fetched = self.runtime.block_on(self.control.or_cancelled(waiting));
        if let Some(then) = then {
            let content = self.content.clone();
            self.next = Some((then, self.runtime.spawn(async move { content.segment(then).await })));
        }
        fetched
    }
}

impl Drop for SegmentFeed {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.next {
            task.abort();
        }
    }
}

type Seen = (Vec<Look>, u64, Option<ReadBuffer>);

/// Reads the spans that `wanted` makes of each of `segments`, and shows every piece of them with its bytes (`None` where a hole
/// of a file says that they are zero) to `see`, in order. `see` runs on a thread of its own, so that reading and hashing overlap.
pub(crate) fn spans_read(
    target: &mut Readable<'_>,
    feed: &mut SegmentFeed,
    segments: &[usize],
    wanted: impl Fn(&Readable<'_>, usize, &Segment) -> Vec<Span>,
    see: impl FnMut(&Look, Option<&[u8]>) -> Result<(), TransferError> + Send,
) -> Result<(), TransferError> {
    let (filled, seen) = sync_channel::<Seen>(2);
    let (back, empty) = channel::<ReadBuffer>();
    std::thread::scope(|scope| {
        let looking = scope.spawn(move || spans_see(&seen, &back, see));
        let read = segments_read(target, feed, segments, wanted, &filled, &empty);
        drop(filled);
        // Who looks stops the reading when it fails, so its word counts first.
        looking.join().map_err(|_| TransferError::Panicked)??;
        read
    })
}

fn spans_see(
    seen: &Receiver<Seen>,
    back: &std::sync::mpsc::Sender<ReadBuffer>,
    mut see: impl FnMut(&Look, Option<&[u8]>) -> Result<(), TransferError>,
) -> Result<(), TransferError> {
    while let Ok((looks, at, bytes)) = seen.recv() {
        for look in &looks {
            let from = (look.at - at) as usize;
            see(look, bytes.as_ref().map(|bytes| &bytes.bytes()[from..from + look.len as usize]))?;
        }
        if let Some(bytes) = bytes {
            // The reader may have ended already.
            let _ = back.send(bytes);
        }
    }
    Ok(())
}

fn segments_read(
    target: &mut Readable<'_>,
    feed: &mut SegmentFeed,
    segments: &[usize],
    wanted: impl Fn(&Readable<'_>, usize, &Segment) -> Vec<Span>,
    filled: &SyncSender<Seen>,
    empty: &Receiver<ReadBuffer>,
) -> Result<(), TransferError> {
    for (n, &index) in segments.iter().enumerate() {
        let segment = feed.get(index, segments.get(n + 1).copied())?;
        for span in wanted(target, index, &segment) {
            let zeros = target.hole_at(span.at)?.is_some_and(|hole| hole >= span.len);
            let bytes = match zeros {
                true => None,
                false => {
                    let mut bytes = empty.try_recv().unwrap_or_default();
                    target.read_into(span.at, span.len as usize, &mut bytes)?;
                    Some(bytes)
                }
            };
            if filled.send((span.looks, span.at, bytes)).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Look, SPAN_LEN, looks, spans};
    use slipway_chunk::{ChunkId, Extent, SEGMENT_LEN, Segment};

    #[test]
    fn pieces_cover_a_segment_and_spans_keep_their_bound() {
        let id = ChunkId::of(b"x");
        let mut extents = vec![Extent::Hole { len: 5 << 20 }];
        extents.extend((0..300).map(|_| Extent::Chunk { id, len: 16384 }));
        extents.push(Extent::Hole { len: 4096 });
        let segment = Segment::new(extents).unwrap();
        let all: Vec<Look> = looks(2, &segment).collect();
        let mut at = 2 * SEGMENT_LEN;
        for look in &all {
            assert_eq!(look.at, at);
            at += u64::from(look.len);
            assert_eq!(look.chunk.is_some(), (1..=300).contains(&look.extent));
        }
        assert_eq!(at, 2 * SEGMENT_LEN + segment.len());
        let grouped = spans(all.iter().copied());
        assert!(grouped.iter().all(|span| span.len <= SPAN_LEN));
        assert!(grouped.iter().flat_map(|span| &span.looks).eq(&all));
        assert!(grouped.len() <= 12);
        // What was left out in between is not read along.
        let some = spans(all.iter().copied().filter(|look| look.extent % 2 == 1));
        assert_eq!(some.len(), 150 + 1);
    }
}
