//! What of an image is already on a target: at its place, or elsewhere.

use crate::blank::Blank;
use crate::index::{Cutter, TargetIndex};
use crate::look::{Look, Readable, SegmentFeed, spans_read};
use crate::marks::Marks;
use crate::{Control, RemoteContent, Step, TransferError};
use slipway_chunk::{ChunkId, is_zero};
use std::collections::HashMap;
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
    /// Where the target is zero and the image, mostly, is not.
    pub(crate) blank: Blank,
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
            blank: Blank::all(),
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

    fn differs(&mut self, look: &Look, zero: bool) {
        let len = u64::from(look.len);
        self.marks.set(look.segment, look.extent);
        match look.chunk {
            Some(_) => self.lacking += len,
            None => self.unzero += len,
        }
        if zero {
            self.blank.add(look.at, len);
        }
        let room = self.ranges.len() < RANGES_MAX;
        match self.ranges.last_mut() {
            Some(last) if last.at + last.len == look.at => last.len += len,
            _ if room => self.ranges.push(Range { at: look.at, len }),
            _ => self.ranges_more = true,
        }
        if look.at < START_LEN && self.start != Start::Filled {
            self.start = match zero {
                true => Start::Cleared,
                false => Start::Filled,
            };
        }
    }

    fn matches(&mut self, look: &Look) {
        let Some(id) = &look.chunk else {
            // A hole between two blank chunks makes one range of them.
            self.blank.extend(look.at, u64::from(look.len));
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

/// What a piece of the target is.
#[derive(Clone, Copy)]
struct Verdict {
    /// What the image has there.
    same: bool,
    zero: bool,
}

impl Verdict {
    fn of(look: &Look, bytes: Option<&[u8]>, zeros: &ZeroIds) -> Self {
        let zero = bytes.is_none_or(is_zero);
        let same = match (bytes, &look.chunk) {
            (_, None) => zero,
            (Some(bytes), Some(id)) if zero => zeros.of(bytes) == *id,
            (_, Some(_)) => look.is_same(bytes),
        };
        Self { same, zero }
    }
}

/// Reads the target once and compares it with the image; remembers up to `index` chunks of it. For a thread that may wait.
pub(crate) fn target_compare(
    target: Readable<'_>,
    content: &RemoteContent,
    index: usize,
    runtime: &Handle,
    control: &Control,
) -> Result<Compared, TransferError> {
    let mut found = Compared {
        marks: Marks::same(content.segment_count()),
        index: TargetIndex::new(index),
        blank: Blank::default(),
        lacking: 0,
        ..Compared::fresh(content)
    };
    let mut meter = control.meter(Step::Compare, Some(content.manifest().size));
    let zeros = ZeroIds::default();
    let mut cutter = Cutter::new(content.manifest().params);
    let segments: Vec<usize> = (0..content.segment_count()).collect();
    let mut feed = SegmentFeed::new(content, runtime, control);
    let all = |_: &Look| true;
    let judge = |look: &Look, bytes: Option<&[u8]>| Verdict::of(look, bytes, &zeros);
    spans_read(target, &mut feed, &segments, all, judge, |look, bytes, verdict| {
        if verdict.same {
            found.matches(look);
        } else {
            found.differs(look, verdict.zero);
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
