//! Reading a target along the extents of an image: some threads read, as many judge what was read, and one puts it together in order.

use crate::{Control, RemoteContent, TransferError};
use slipway_chunk::{ChunkId, Extent, FRAME_RAW_MAX, SEGMENT_LEN, Segment, is_zero};
use slipway_disk::{DiskError, ReadBuffer, Target, TargetReader, Writing};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The most bytes of one read.
const SPAN_LEN: u64 = 2 << 20;
/// Reads at once, each with a thread that judges what it read before. Five spans are in memory: for each of these one that is read and one
/// that is judged, and one more whose turn it is.
const READERS: usize = 2;
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
struct Span {
    at: u64,
    len: u64,
    looks: Vec<Look>,
}

/// Groups pieces that follow each other, up to [`SPAN_LEN`] bytes.
fn spans(looks: impl Iterator<Item = Look>) -> impl Iterator<Item = Span> {
    let mut looks = looks.peekable();
    std::iter::from_fn(move || {
        let first = looks.next()?;
        let mut span = Span { at: first.at, len: first.len.into(), looks: vec![first] };
        let joins =
            |span: &Span, look: &Look| look.at == span.at + span.len && span.len + u64::from(look.len) <= SPAN_LEN;
        while let Some(look) = looks.next_if(|look| joins(&span, look)) {
            span.len += u64::from(look.len);
            span.looks.push(look);
        }
        Some(span)
    })
}

/// A target before or while it is written, or one that is only compared.
#[derive(Clone, Copy)]
pub(crate) enum Readable<'a> {
    Reader(&'a TargetReader),
    Target(&'a Target),
    Writing(&'a Writing),
}

impl Readable<'_> {
    fn hole_at(self, at: u64) -> Result<Option<u64>, DiskError> {
        match self {
            Self::Reader(reader) => reader.hole_at(at),
            Self::Target(target) => target.hole_at(at),
            Self::Writing(writing) => writing.hole_at(at),
        }
    }

    fn read_into(self, at: u64, len: usize, into: &mut ReadBuffer) -> Result<(), DiskError> {
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

/// A span and its bytes; `None` where a hole of a file says that they are zero.
struct Filled {
    span: Span,
    bytes: Option<ReadBuffer>,
}

impl Filled {
    /// The pieces of the span, each with its bytes.
    fn looks(&self) -> impl Iterator<Item = (&Look, Option<&[u8]>)> {
        self.span.looks.iter().map(|look| {
            let from = (look.at - self.span.at) as usize;
            (look, self.bytes.as_ref().map(|bytes| &bytes.bytes()[from..from + look.len as usize]))
        })
    }
}

/// What was read, and the verdict on each of its pieces.
type Judged<V> = Result<(Filled, Vec<V>), DiskError>;

/// A thread that reads and one that judges, as the one that sees knows them: what they have done, and where its memory goes back to.
struct Lane<V> {
    judged: Receiver<Judged<V>>,
    back: Sender<ReadBuffer>,
}

/// Reads the pieces of `segments` that are `wanted`, has each judged with its bytes (`None`: zeros), and shows it with the verdict to `see`,
/// in order. Several threads read, as many `judge`, and `see` runs on one of its own, so that reads and hashing overlap.
pub(crate) fn spans_read<V: Send>(
    target: Readable<'_>,
    feed: &mut SegmentFeed,
    segments: &[usize],
    wanted: impl Fn(&Look) -> bool,
    judge: impl Fn(&Look, Option<&[u8]>) -> V + Sync,
    see: impl FnMut(&Look, Option<&[u8]>, V) -> Result<(), TransferError> + Send,
) -> Result<(), TransferError> {
    let judge = &judge;
    std::thread::scope(|scope| {
        let (mut askings, mut lanes) = (Vec::new(), Vec::new());
        for _ in 0..READERS {
            let (asking, asked) = sync_channel::<Span>(1);
            // Handed over, never queued: what waits is memory.
            let (filling, filled) = sync_channel(0);
            let (judging, judged) = sync_channel(0);
            let (back, empty) = channel();
            scope.spawn(move || asked_read(target, &asked, &filling, &empty));
            scope.spawn(move || filled_judge(&filled, judge, &judging));
            askings.push(asking);
            lanes.push(Lane { judged, back });
        }
        let looking = scope.spawn(move || lanes_see(&lanes, see));
        let asked = spans_ask(feed, segments, wanted, &askings);
        drop(askings);
        // Who looks stops the reading when it fails, so its word counts first.
        looking.join().map_err(|_| TransferError::Panicked)??;
        asked
    })
}

/// Gives the spans to the threads in turn.
fn spans_ask(
    feed: &mut SegmentFeed,
    segments: &[usize],
    wanted: impl Fn(&Look) -> bool,
    askings: &[SyncSender<Span>],
) -> Result<(), TransferError> {
    let mut turn = askings.iter().cycle();
    for (n, &index) in segments.iter().enumerate() {
        let segment = feed.get(index, segments.get(n + 1).copied())?;
        for (span, asking) in spans(looks(index, &segment).filter(&wanted)).zip(&mut turn) {
            if asking.send(span).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn asked_read(
    target: Readable<'_>,
    asked: &Receiver<Span>,
    filling: &SyncSender<Result<Filled, DiskError>>,
    empty: &Receiver<ReadBuffer>,
) {
    while let Ok(span) = asked.recv() {
        let filled = span_read(target, span, empty);
        let failed = filled.is_err();
        if filling.send(filled).is_err() || failed {
            return;
        }
    }
}

fn span_read(target: Readable<'_>, span: Span, empty: &Receiver<ReadBuffer>) -> Result<Filled, DiskError> {
    if target.hole_at(span.at)?.is_some_and(|hole| hole >= span.len) {
        return Ok(Filled { span, bytes: None });
    }
    let mut bytes = empty.try_recv().unwrap_or_default();
    target.read_into(span.at, span.len as usize, &mut bytes)?;
    Ok(Filled { span, bytes: Some(bytes) })
}

fn filled_judge<V>(
    filled: &Receiver<Result<Filled, DiskError>>,
    judge: impl Fn(&Look, Option<&[u8]>) -> V,
    judging: &SyncSender<Judged<V>>,
) {
    while let Ok(filled) = filled.recv() {
        let judged = filled.map(|filled| {
            let verdicts = filled.looks().map(|(look, bytes)| judge(look, bytes)).collect();
            (filled, verdicts)
        });
        if judging.send(judged).is_err() {
            return;
        }
    }
}

/// Takes from the threads in the same turn, until the one whose turn it is has ended.
fn lanes_see<V>(
    lanes: &[Lane<V>],
    mut see: impl FnMut(&Look, Option<&[u8]>, V) -> Result<(), TransferError>,
) -> Result<(), TransferError> {
    for lane in lanes.iter().cycle() {
        let Ok(judged) = lane.judged.recv() else { break };
        let (filled, verdicts) = judged?;
        for ((look, bytes), verdict) in filled.looks().zip(verdicts) {
            see(look, bytes, verdict)?;
        }
        if let Some(bytes) = filled.bytes {
            // The reader may have ended already.
            let _ = lane.back.send(bytes);
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
        let grouped: Vec<_> = spans(all.iter().copied()).collect();
        assert!(grouped.iter().all(|span| span.len <= SPAN_LEN));
        assert!(grouped.iter().flat_map(|span| &span.looks).eq(&all));
        assert!(grouped.len() <= 12);
        // What was left out in between is not read along.
        let some = spans(all.iter().copied().filter(|look| look.extent % 2 == 1));
        assert_eq!(some.count(), 150 + 1);
    }
}
