//! Flash: make a target hold exactly the bytes of a version, fetching and writing only what it lacks.

use crate::compare::{Compared, target_compare};
use crate::fetch::{Arrived, Fetched, Fetcher, Pools, arrived_put};
use crate::known::Known;
use crate::look::{Look, Readable, SegmentFeed, looks, spans_read};
use crate::marks::Marks;
use crate::plan::Need;
use crate::relocate::Moved;
use crate::{Caps, Control, Event, RemoteContent, Step, TransferError};
use slipway_chunk::{Extent, SEGMENT_LEN, Segment};
use slipway_disk::{Sealed, Target, Writing};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// How to flash.
#[derive(Clone, Copy, Debug)]
pub struct FlashOptions {
    /// Read back, past the page cache, everything that was written. What was not written was read by the comparison.
    pub verify: bool,
    /// Move the backup GPT to the end of a larger target.
    pub fix_gpt: bool,
    /// Requests at once. Eight of 1.2 MB or more are twice what is on its way on a line of 1 Gbit/s with a round trip of 40 ms, so that it is
    /// busy while some are decoded.
    pub connections: usize,
    /// Bounds of memory.
    pub caps: Caps,
}

impl Default for FlashOptions {
    fn default() -> Self {
        Self { verify: true, fix_gpt: false, connections: 8, caps: Caps::default() }
    }
}

/// What a flash did. Bytes are those of the raw image where nothing else is said.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Flashed {
    /// The image's size.
    pub size: u64,
    /// Data that was in its place already.
    pub matched_bytes: u64,
    /// Data that was copied within the target.
    pub moved_bytes: u64,
    /// Bytes of packs that came over the network.
    pub fetched_bytes: u64,
    /// Requests for them.
    pub requests: u64,
    /// Bytes of blocks that differed and were written.
    pub written_bytes: u64,
    /// Bytes of blocks that were not zero and have been made so.
    pub zeroed_bytes: u64,
    /// Bytes that were read back; what `seal` reads back of the first MiB is not counted.
    pub verified_bytes: u64,
    /// Nothing differed, and nothing was written.
    pub unchanged: bool,
    /// The target looked like one whose flash had been interrupted.
    pub resumed: bool,
    /// Bytes of the target behind the image, which were left alone.
    pub tail_bytes: u64,
    /// The backup GPT was moved to the target's end.
    pub gpt_fixed: bool,
    /// Why the kernel did not read the new partition table, when it was asked and did not.
    pub reread: Option<String>,
}

/// Makes `target` hold the version: reads it once and compares, copies what lies elsewhere on it, fetches what is missing, writes only
/// differing blocks, makes holes zero, flushes, reads back what was written, and writes the guarded ranges last. When it fails or is
/// cancelled the target is untouched or cannot boot; the same flash again goes on where it was. Memory is at most about 60 MB
/// with the default [`Caps`].
///
/// # Errors
/// Every failure of network, server and target, by name.
pub async fn flash(
    content: &RemoteContent,
    target: Target,
    options: &FlashOptions,
    control: &Control,
) -> Result<Flashed, TransferError> {
    let fetcher = Fetcher {
        content: content.clone(),
        connections: options.connections,
        caps: options.caps,
        control: control.clone(),
        pools: Pools::default(),
    };
    let runtime = Handle::current();
    let tail_bytes = target.facts().tail_bytes;
    if options.verify && !target.facts().direct {
        let path = target.facts().path.display();
        control.tell(Event::Note(format!(
            "{path} refuses reads past the page cache; the kernel was asked to drop it instead"
        )));
    }
    let flash = Flash { fetcher, runtime, options: *options };

    let (target, compared) = flash.clone().blocking(move |flash| flash.compare(target)).await?;
    let mut done = Flashed {
        size: content.manifest().size,
        matched_bytes: compared.matched,
        resumed: compared.looks_resumed(),
        tail_bytes,
        ..Flashed::default()
    };
    if compared.is_same() && !options.fix_gpt && !target.facts().fresh {
        control.tell(Event::Plan { matched: compared.matched, moved: 0, fetched: 0, zeroed: 0 });
        done.unchanged = true;
        return Ok(done);
    }
    let Moved { writing, marks, known, moved, lacking } =
        flash.clone().blocking(move |flash| flash.moves_run(target, compared)).await?;
    done.moved_bytes = moved;
    let marks = Arc::new(marks);
    let (writing, fetched) = flash.fetch(writing, marks.clone(), known, lacking).await?;
    done.fetched_bytes = fetched.bytes;
    done.requests = fetched.requests;
    let finish = move |flash: Flash| flash.finish(writing, &marks);
    let (sealed, verified, fixed) = flash.blocking(finish).await?;
    done.written_bytes = sealed.written;
    done.zeroed_bytes = sealed.zeroed;
    done.unchanged = !sealed.changed;
    done.reread = sealed.reread;
    done.verified_bytes = verified;
    done.gpt_fixed = fixed;
    Ok(done)
}

/// What every step of a flash needs.
#[derive(Clone)]
pub(crate) struct Flash {
    pub(crate) fetcher: Fetcher,
    pub(crate) runtime: Handle,
    pub(crate) options: FlashOptions,
}

impl Flash {
    async fn blocking<T: Send + 'static>(
        self,
        run: impl FnOnce(Flash) -> Result<T, TransferError> + Send + 'static,
    ) -> Result<T, TransferError> {
        tokio::task::spawn_blocking(move || run(self)).await.map_err(|_| TransferError::Panicked)?
    }

    pub(crate) fn control(&self) -> &Control {
        &self.fetcher.control
    }

    fn compare(&self, target: Target) -> Result<(Target, Compared), TransferError> {
        let content = &self.fetcher.content;
        if target.facts().fresh {
            return Ok((target, Compared::fresh(content)));
        }
        let (target_now, caps) = (Readable::Target(&target), &self.options.caps);
        let compared = target_compare(target_now, content, caps, &self.runtime, self.control())?;
        Ok((target, compared))
    }

    /// Fetches and writes all chunks that are marked.
    async fn fetch(
        &self,
        writing: Writing,
        marks: Arc<Marks>,
        known: Known,
        lacking: u64,
    ) -> Result<(Writing, Fetched), TransferError> {
        let segments = marks.segments();
        if segments.is_empty() {
            return Ok((writing, Fetched::default()));
        }
        let (arrived, arriving) = mpsc::channel(1);
        let write = self.clone().blocking(move |flash| flash.write(writing, arriving, &known, lacking));
        let needs = move |index: usize, segment: &Segment| {
            let lacks = looks(index, segment).filter(|look| marks.get(index, look.extent));
            lacks.filter_map(|look| Some(Need { id: look.chunk?, len: look.len, at: look.at })).collect()
        };
        let fetch = self.fetcher.segments_fetch(segments, needs, arrived);
        let (written, fetched) = tokio::join!(write, fetch);
        // The writer's failure ends the fetch without an error of its own.
        let writing = written?;
        Ok((writing, fetched?))
    }

    fn write(
        &self,
        mut writing: Writing,
        mut arriving: mpsc::Receiver<Arrived>,
        known: &Known,
        lacking: u64,
    ) -> Result<Writing, TransferError> {
        let mut meter = self.control().meter(Step::Fetch, Some(lacking));
        while let Some(arrived) = arriving.blocking_recv() {
            arrived_put(arrived, &self.fetcher, &self.runtime, &mut |at, chunk| {
                known.chunk_write(&mut writing, at, chunk)?;
                meter.add(chunk.bytes().len() as u64)
            })?;
        }
        Ok(writing)
    }

    /// Zeros, flush, read-back, and last the guarded ranges.
    fn finish(&self, mut writing: Writing, marks: &Marks) -> Result<(Sealed, u64, bool), TransferError> {
        self.zero(&mut writing, marks)?;
        writing.flush()?;
        let verified = match self.options.verify {
            true => self.read_back(&writing)?,
            false => 0,
        };
        self.control().cancel.check()?;
        let fixed = self.options.fix_gpt && writing.fix_gpt()?;
        // From here the target counts as whole: everything else has been flushed and read back.
        Ok((writing.seal()?, verified, fixed))
    }

    fn zero(&self, writing: &mut Writing, marks: &Marks) -> Result<(), TransferError> {
        let segments = marks.segments();
        let mut feed = SegmentFeed::new(&self.fetcher.content, &self.runtime, self.control());
        let mut meter = self.control().meter(Step::Zero, None);
        for (n, &index) in segments.iter().enumerate() {
            let segment = feed.get(index, segments.get(n + 1).copied())?;
            let mut at = index as u64 * SEGMENT_LEN;
            for (extent, what) in segment.extents().iter().enumerate() {
                let len = u64::from(what.len());
                if matches!(what, Extent::Hole { .. }) && marks.get(index, extent) {
                    writing.zero(at, len)?;
                    meter.add(len)?;
                }
                at += len;
            }
        }
        Ok(())
    }

    /// Reads back every piece of the image that was touched, and what is held to be written last.
    fn read_back(&self, writing: &Writing) -> Result<u64, TransferError> {
        let content = &self.fetcher.content;
        let name = writing.facts().path.display().to_string();
        let (touched, held) = (writing.touched_ranges(), writing.guarded_ranges());
        let is_held =
            |look: &Look| held.iter().any(|(at, len)| look.at < at + len && *at < look.at + u64::from(look.len));
        let mut segments: Vec<usize> = touched
            .iter()
            .chain(&held)
            .flat_map(|(at, len)| at / SEGMENT_LEN..=(at + len - 1) / SEGMENT_LEN)
            .map(|index| index as usize)
            .filter(|index| *index < content.segment_count())
            .collect();
        segments.sort_unstable();
        segments.dedup();
        let total: u64 = touched.iter().map(|(_, len)| len).sum();
        let mut meter = self.control().meter(Step::Verify, Some(total));
        let mut feed = SegmentFeed::new(content, &self.runtime, self.control());
        let mut checked = 0;
        let wanted = |look: &Look| is_held(look) || writing.touched(look.at, u64::from(look.len));
        spans_read(Readable::Writing(writing), &mut feed, &segments, wanted, Look::is_same, |look, _, same| {
            if !same {
                return Err(TransferError::ReadBack { name: name.clone(), at: look.at });
            }
            checked += u64::from(look.len);
            meter.add(u64::from(look.len))
        })?;
        Ok(checked)
    }
}
