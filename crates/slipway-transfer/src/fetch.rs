//! Fetching: requests in pack order over a few connections, a new layout where an address has ended.

use crate::ahead::{Ahead, no_place};
use crate::buffers::{Buffers, Lent};
use crate::plan::{FrameJob, Job, Need, Part, Plan};
use crate::{Caps, Control, RemoteContent, TransferError};
use futures_util::{StreamExt, stream};
use slipway_api::{ApiError, BlobRange, Code};
use slipway_chunk::{DecodedFrame, FormatError, PackId, Segment, Verified, VerifiedFrame};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

/// Requests whose bytes are decoded at one time.
const DECODED_AT_ONCE: usize = 2;
/// Frames that are decoded and verified together and handed on: at most 768 KiB of raw bytes, of which four wait in different places at most.
const BATCH_FRAMES: usize = 3;

/// Some of the frames of a request, as they came.
struct Batch {
    pack: PackId,
    frames: Vec<FrameJob>,
    bytes: Arc<Lent>,
}

/// What came of a batch: each frame decoded, and its parts verified in their order.
pub(crate) struct Arrived {
    pack: PackId,
    frames: Vec<(FrameJob, Result<VerifiedFrame, FormatError>)>,
}

/// Memory that fetching uses again and again.
#[derive(Clone, Default)]
pub(crate) struct Pools {
    /// Bytes of requests.
    wire: Buffers,
    /// Raw bytes of frames.
    raw: Buffers,
}

/// Bytes and requests so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fetched {
    pub(crate) bytes: u64,
    pub(crate) requests: u64,
}

/// The places where requests wait for each other, in the order in which they pass them.
struct Line<'a> {
    /// Requests at once.
    asking: Semaphore,
    /// Requests whose answer has begun, up to the end of their decoding: each has a buffer.
    room: Arc<Semaphore>,
    /// A request's bytes are decoded to their end before another's begin, so that its memory is soon free again.
    decoding: Semaphore,
    arrived: &'a mpsc::Sender<Arrived>,
}

/// How to fetch.
#[derive(Clone)]
pub(crate) struct Fetcher {
    pub(crate) content: RemoteContent,
    pub(crate) connections: usize,
    pub(crate) caps: Caps,
    pub(crate) control: Control,
    pub(crate) pools: Pools,
}

impl Fetcher {
    /// Fetches what `needs` says for each of `segments` and hands it on; ends early, without an error, when nobody takes it any more.
    pub(crate) async fn segments_fetch(
        &self,
        segments: Vec<usize>,
        needs: impl Fn(usize, &Segment) -> Vec<Need> + Clone + Send + Sync + 'static,
        arrived: mpsc::Sender<Arrived>,
    ) -> Result<Fetched, TransferError> {
        let ahead = Ahead::new(self.content.clone(), self.caps, segments, needs);
        let jobs = stream::try_unfold(ahead, async |mut ahead| Ok(ahead.next().await?.map(|job| (job, ahead))));
        let fetched = self.jobs_fetch(jobs, arrived).await;
        // What follows reads the target, and has buffers of its own.
        self.pools.wire.clear();
        self.pools.raw.clear();
        fetched
    }

    /// Fetches these requests.
    pub(crate) async fn jobs_fetch(
        &self,
        jobs: impl futures_util::Stream<Item = Result<Job, TransferError>>,
        arrived: mpsc::Sender<Arrived>,
    ) -> Result<Fetched, TransferError> {
        let connections = self.connections.max(1);
        let (asking, decoding) = (Semaphore::new(connections), Semaphore::new(DECODED_AT_ONCE));
        // One of them, at least, waits for its answer to begin.
        let room = Arc::new(Semaphore::new((connections - 1).max(DECODED_AT_ONCE + 1)));
        let line = Line { asking, room, decoding, arrived: &arrived };
        // What is being decoded keeps no request from being sent.
        let running =
            jobs.map(|job| async { self.job_fetch(job?, &line).await }).buffer_unordered(connections + DECODED_AT_ONCE);
        let mut running = std::pin::pin!(running);
        let mut total = Fetched::default();
        loop {
            let next = async {
                tokio::select! {
                    () = arrived.closed() => Ok(None),
                    next = running.next() => next.transpose(),
                }
            };
            match self.control.or_cancelled(next).await? {
                Some(fetched) => total = total.and(fetched),
                None => return Ok(total),
            }
        }
    }

    /// Makes a request and hands on what came of it.
    async fn job_fetch(&self, job: Job, line: &Line<'_>) -> Result<Fetched, TransferError> {
        let why = match self.job_read_in_turn(&job, line).await {
            Ok(bytes) => return self.hand_on(job, bytes, line).await,
            Err(why) => why,
        };
        if !needs_layout(&why) {
            return Err(why.into());
        }
        // Prune moved the chunks, the capability ended, or the pack is quarantined: a new layout says where to go.
        let parts = job.frames.into_iter().flat_map(|frame| frame.parts).collect();
        let mut fetched = Fetched::default();
        for job in self.parts_plan(parts).await? {
            let bytes = self.job_read_in_turn(&job, line).await?;
            fetched = fetched.and(self.hand_on(job, bytes, line).await?);
        }
        Ok(fetched)
    }

    async fn job_read_in_turn(&self, job: &Job, line: &Line<'_>) -> Result<Lent, ApiError> {
        let _turn = line.asking.acquire().await;
        self.job_read(job, || self.pools.wire.lend_in(&line.room)).await
    }

    /// Decodes a part of the bytes at a time; ends early when nobody takes it any more.
    async fn hand_on(&self, job: Job, bytes: Lent, line: &Line<'_>) -> Result<Fetched, TransferError> {
        let fetched = Fetched { bytes: bytes.len() as u64, requests: 1 };
        let _turn = line.decoding.acquire().await;
        for batch in batches(job, bytes) {
            if line.arrived.send(self.decode(batch).await?).await.is_err() {
                break;
            }
        }
        Ok(fetched)
    }

    /// The requests for these chunks by new layouts; not again after that, so that a server that is wrong for good is not asked for ever.
    async fn parts_plan(&self, parts: Vec<Part>) -> Result<Vec<Job>, TransferError> {
        let mut by_segment: BTreeMap<usize, Vec<Need>> = BTreeMap::new();
        for part in &parts {
            by_segment.entry(part.segment()).or_default().extend(part.needs());
        }
        let mut plan = Plan::default();
        for (segment, needs) in by_segment {
            let layout = self.content.layout(segment).await?;
            plan.add(&needs, &layout).map_err(|chunk| no_place(&self.content, segment, chunk))?;
        }
        Ok(plan.jobs(&self.caps))
    }

    /// Fetches these chunks by new layouts.
    async fn parts_fetch(&self, parts: Vec<Part>) -> Result<Vec<Arrived>, TransferError> {
        let mut list = Vec::new();
        for job in self.parts_plan(parts).await? {
            // Who waits for these keeps others from being decoded, so there may never be room.
            let bytes = self.job_read(&job, || std::future::ready(self.pools.wire.lend())).await?;
            for batch in batches(job, bytes) {
                list.push(self.decode(batch).await?);
            }
        }
        Ok(list)
    }

    async fn job_read<L: Future<Output = Lent>>(&self, job: &Job, lend: impl Fn() -> L) -> Result<Lent, ApiError> {
        let range = BlobRange { address: &job.address, at: job.at, len: job.len };
        self.content.client().blob_range_in(&range, lend).await
    }

    /// Decompresses and hashes on a thread of the pool, so that several batches are at it at once, and beside who uses them.
    async fn decode(&self, batch: Batch) -> Result<Arrived, TransferError> {
        let (pack, raw) = (batch.pack, self.pools.raw.clone());
        let decoding = tokio::task::spawn_blocking(move || {
            let one = |frame: FrameJob| {
                let (from, len) = (frame.skip as usize, frame.len as usize);
                let decoded = DecodedFrame::decode_in(&batch.bytes[from..from + len], raw.lend().take());
                let wanted = frame.parts.iter().map(|part| (part.from, part.len, &part.id));
                let verified = decoded.map(|decoded| VerifiedFrame::new(decoded, wanted));
                (frame, verified)
            };
            batch.frames.into_iter().map(one).collect()
        });
        let frames = decoding.await.map_err(|_| TransferError::Panicked)?;
        Ok(Arrived { pack, frames })
    }
}

impl Fetched {
    fn and(self, more: Self) -> Self {
        Self { bytes: self.bytes + more.bytes, requests: self.requests + more.requests }
    }
}

/// The frames of a request in small parts.
fn batches(job: Job, bytes: Lent) -> Vec<Batch> {
    let (pack, bytes) = (job.pack, Arc::new(bytes));
    let mut frames = job.frames.into_iter();
    let batch = || {
        let frames: Vec<FrameJob> = frames.by_ref().take(BATCH_FRAMES).collect();
        (!frames.is_empty()).then(|| Batch { pack, frames, bytes: bytes.clone() })
    };
    std::iter::from_fn(batch).collect()
}

pub(crate) fn needs_layout(why: &ApiError) -> bool {
    match why {
        ApiError::Problem(problem) => matches!(problem.status, 403 | 404 | 410 | 416) || problem.code == Code::Damaged,
        // A cache that answers with another range or length may be bypassed by another address.
        ApiError::Protocol { .. } => true,
        ApiError::Transport { .. } | ApiError::Config(_) => false,
    }
}

/// Hands each chunk of what arrived on with its place in the image. A chunk that is not what its id says is reported,
/// fetched once more by a new layout, and then an error by name.
pub(crate) fn arrived_put(
    arrived: Arrived,
    fetcher: &Fetcher,
    runtime: &Handle,
    put: &mut dyn FnMut(u64, &Verified<'_>) -> Result<(), TransferError>,
) -> Result<(), TransferError> {
    let pack = arrived.pack;
    let bad = frames_put(arrived, fetcher, put)?;
    if bad.is_empty() {
        return Ok(());
    }
    let refetch = async {
        for part in bad.iter().take(4) {
            fetcher.content.finding_report(&part.id, &pack).await;
        }
        fetcher.parts_fetch(bad).await
    };
    let list = runtime.block_on(fetcher.control.or_cancelled(refetch))?;
    for again in list {
        let pack = again.pack;
        if let Some(part) = frames_put(again, fetcher, put)?.first() {
            runtime.block_on(fetcher.content.finding_report(&part.id, &pack));
            return Err(TransferError::BadChunk { chunk: part.id, content: fetcher.content.name(), pack });
        }
    }
    Ok(())
}

/// Gives back the parts that are not what they should be.
fn frames_put(
    arrived: Arrived,
    fetcher: &Fetcher,
    put: &mut dyn FnMut(u64, &Verified<'_>) -> Result<(), TransferError>,
) -> Result<Vec<Part>, TransferError> {
    let mut bad = Vec::new();
    for (frame, verified) in arrived.frames {
        let Ok(verified) = verified else {
            bad.extend(frame.parts);
            continue;
        };
        for (n, part) in frame.parts.into_iter().enumerate() {
            match verified.chunk(n) {
                Some(chunk) => part.places().try_for_each(|at| put(at, &chunk))?,
                None => bad.push(part),
            }
        }
        fetcher.pools.raw.keep(verified.into_raw());
    }
    Ok(bad)
}
