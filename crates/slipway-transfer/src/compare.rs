//! What of an image is already on a target: at its place, or elsewhere.

use crate::index::{Cutter, TargetIndex};
use crate::known::Known;
use crate::look::{Look, Readable, SegmentFeed, spans_read};
use crate::marks::Marks;
use crate::{Caps, Control, RemoteContent, Step, TransferError};
use slipway_chunk::{BLOCK, ChunkId, is_zero};
use slipway_disk::{Print, prints};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::runtime::Handle;

/// How many differing ranges are kept to be shown.
const RANGES_MAX: usize = 16;
/// An interrupted flash leaves this much at the start zero.
const START_LEN: u64 = 1 << 20;

/// A range of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Range {
    /// Its first byte.
    pub at: u64,
    /// Its length.
    pub len: u64,
}

/// What a comparison found.
pub(crate) struct Compared {
    pub(crate) marks: Marks,
    pub(crate) index: TargetIndex,
    pub(crate) known: Known,
    /// Bytes of chunks that are in their place.
    pub(crate) matched: u64,
    /// Bytes of chunks that are not.
    pub(crate) lacking: u64,
    /// Bytes where the image is zero and the target is not, in parts of holes.
    pub(crate) unzero: u64,
    /// The first differing ranges, neighbours merged.
    pub(crate) ranges: Vec<Range>,
    pub(crate) ranges_more: bool,
    start: Start,
}

/// What the first MiB says about an earlier flash.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Unknown,
    /// Zero where the image is not.
    Cleared,
    /// Something else.
    Filled,
}

impl Compared {
    /// For a target that is known to be all zeros: everything must be fetched.
    pub(crate) fn fresh(content: &RemoteContent) -> Self {
        let (marks, index) = (Marks::all(content.segment_count()), TargetIndex::new(0));
        // The server's word, for progress only: what is fetched is decided by the marks.
        let lacking = content.version().data_bytes.min(content.manifest().size);
        Self {
            marks,
            index,
            known: Known::blank(),
            matched: 0,
            lacking,
            unzero: 0,
            ranges: Vec::new(),
            ranges_more: false,
            start: Start::Unknown,
        }
    }

    pub(crate) fn is_same(&self) -> bool {
        self.lacking == 0 && self.unzero == 0
    }

    /// Whether an interrupted flash is likely to have left the target like this.
    pub(crate) fn looks_resumed(&self) -> bool {
        self.start == Start::Cleared && self.matched > 0
    }

    fn differs(&mut self, look: &Look, verdict: &Verdict) {
        let len = u64::from(look.len);
        self.marks.set(look.segment, look.extent);
        match look.chunk {
            Some(_) => self.lacking += len,
            None => self.unzero += len,
        }
        if verdict.zero {
            self.known.blank.add(look.at, len);
        }
        self.known.printed.add(look.at, &verdict.prints);
        let room = self.ranges.len() < RANGES_MAX;
        match self.ranges.last_mut() {
            Some(last) if last.at + last.len == look.at => last.len += len,
            _ if room => self.ranges.push(Range { at: look.at, len }),
            _ => self.ranges_more = true,
        }
        if look.at < START_LEN && self.start != Start::Filled {
            self.start = match verdict.zero {
                true => Start::Cleared,
                false => Start::Filled,
            };
        }
    }

    fn matches(&mut self, look: &Look) {
        let Some(id) = &look.chunk else {
            // A hole between two blank chunks makes one range of them.
            self.known.blank.extend(look.at, u64::from(look.len));
            return;
        };
        self.matched += u64::from(look.len);
        self.index.lasting_add(id, look.at, look.len as usize);
        if look.at < START_LEN {
            self.start = Start::Filled;
        }
    }
}

/// The ids of chunks of zeros by their length: an empty target has nothing else, and hashing all of it would tell nothing new.
#[derive(Default)]
struct ZeroIds(Mutex<HashMap<u32, ChunkId>>);

impl ZeroIds {
    fn of(&self, zeros: &[u8]) -> ChunkId {
        // A chunk has at most 256 KiB, so its length fits.
        let len = zeros.len() as u32;
        let mut ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *ids.entry(len).or_insert_with(|| ChunkId::of(zeros))
    }
}

/// How many prints may still be taken.
struct Room(AtomicUsize);

impl Room {
    fn take(&self, prints: usize) -> bool {
        let less = |left: usize| left.checked_sub(prints);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// What a piece of the target is.
struct Verdict {
    /// What the image has there.
    same: bool,
    zero: bool,
    /// Of a chunk's place that holds something else, while there is room.
    prints: Vec<Print>,
}

impl Verdict {
    fn of(look: &Look, bytes: Option<&[u8]>, zeros: &ZeroIds, room: &Room) -> Self {
        let zero = bytes.is_none_or(is_zero);
        let same = match (bytes, &look.chunk) {
            (_, None) => zero,
            (Some(bytes), Some(id)) if zero => zeros.of(bytes) == *id,
            (_, Some(_)) => look.is_same(bytes),
        };
        let blocks = (look.at as usize % BLOCK + look.len as usize).div_ceil(BLOCK);
        let prints = match bytes {
            Some(bytes) if !same && !zero && look.chunk.is_some() && room.take(blocks) => {
                prints(look.at, bytes).collect()
            }
            _ => Vec::new(),
        };
        Self { same, zero, prints }
    }
}

/// Reads the target once and compares it with the image; remembers of it what `caps` allow. For a thread that may wait.
pub(crate) fn target_compare(
    target: Readable<'_>,
    content: &RemoteContent,
    caps: &Caps,
    runtime: &Handle,
    control: &Control,
) -> Result<Compared, TransferError> {
    let mut found = Compared {
        marks: Marks::same(content.segment_count()),
        index: TargetIndex::new(caps.index),
        known: Known::default(),
        lacking: 0,
        ..Compared::fresh(content)
    };
    let mut meter = control.meter(Step::Compare, Some(content.manifest().size));
    let (zeros, room) = (ZeroIds::default(), Room(AtomicUsize::new(caps.prints)));
    let mut cutter = Cutter::new(content.manifest().params);
    let segments: Vec<usize> = (0..content.segment_count()).collect();
    let mut feed = SegmentFeed::new(content, runtime, control);
    let all = |_: &Look| true;
    let judge = |look: &Look, bytes: Option<&[u8]>| Verdict::of(look, bytes, &zeros, &room);
    spans_read(target, &mut feed, &segments, all, judge, |look, bytes, verdict| {
        if verdict.same {
            found.matches(look);
        } else {
            found.differs(look, &verdict);
            if let (Some(bytes), true) = (bytes, !verdict.zero && found.index.has_room()) {
                let index = &mut found.index;
                cutter.feed(look.at, bytes, &mut |at, bytes| index.passing_add(&ChunkId::of(bytes), at, bytes.len()));
            }
        }
        meter.add(u64::from(look.len))
    })?;
    let index = &mut found.index;
    cutter.end(&mut |at, bytes| index.passing_add(&ChunkId::of(bytes), at, bytes.len()));
    found.index.settle();
    Ok(found)
}
