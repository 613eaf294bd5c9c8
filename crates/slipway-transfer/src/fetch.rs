//! Fetching: requests in pack order over a few connections, a new layout where an address has ended.

use crate::buffers::{Buffers, Lent};
use crate::plan::{FrameJob, Job, Need, Part, Plan};
use crate::{Caps, Control, RemoteContent, TransferError};
use futures_util::{StreamExt, TryStreamExt, stream};
use slipway_api::{ApiError, BlobRange, Code};
use slipway_chunk::{ChunkId, DecodedFrame, FormatError, PackId, Segment, Verified};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Layouts that are asked for at once.
const LAYOUTS_AT_ONCE: usize = 4;

/// Batches that are decoded at one time.
const DECODED_AT_ONCE: usize = 2;
/// Frames that are decoded together and handed on: at most 1 MiB of raw bytes, of which five wait in different places at most.
const BATCH_FRAMES: usize = 4;

/// Some of the frames of a request, as they came.
struct Batch {
    pack: PackId,
    frames: Vec<FrameJob>,
    bytes: Arc<Lent>,
}

/// What a request gave: bytes of a pack, or, by a new layout, what several requests gave.
enum Came {
    Batch(Batch),
    Again(Arrived),
}

/// What came of a batch: each frame decoded, but no chunk verified yet.
pub(crate) struct Arrived {
    pub(crate) pack: PackId,
    pub(crate) frames: Vec<(FrameJob, Result<DecodedFrame, FormatError>)>,
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
        let planning = stream::try_unfold(segments.into_iter(), move |mut rest| {
            let (fetcher, needs) = (self.clone(), needs.clone());
            async move {
                let plan = fetcher.plan_next(&mut rest, &needs).await?;
                let jobs = plan.map(|plan| stream::iter(plan.jobs(&fetcher.caps).into_iter().map(Ok)));
                Ok::<_, TransferError>(jobs.map(|jobs| (jobs, rest)))
            }
        });
        self.jobs_fetch(planning.try_flatten(), arrived).await
    }

    /// Gathers the needs of as many segments as the bounds allow; `None` after the last one.
    async fn plan_next(
        &self,
        rest: &mut std::vec::IntoIter<usize>,
        needs: &(impl Fn(usize, &Segment) -> Vec<Need> + Sync),
    ) -> Result<Option<Plan>, TransferError> {
        if rest.len() == 0 {
            return Ok(None);
        }
        let mut plan = Plan::default();
        // At least one step, whatever the bound.
        while plan.needs() < self.caps.needs.max(1) && rest.len() > 0 {
            let ahead: Vec<usize> = rest.by_ref().take(LAYOUTS_AT_ONCE).collect();
            let found = stream::iter(ahead)
                .map(async |index| {
                    let needs = needs(index, &*self.content.segment(index).await?);
                    let layout = match needs.is_empty() {
                        true => None,
                        false => Some(self.content.layout(index).await?),
                    };
                    Ok::<_, TransferError>((index, needs, layout))
                })
                .buffered(LAYOUTS_AT_ONCE)
                .try_collect::<Vec<_>>()
                .await?;
            for (index, needs, layout) in found {
                if let Some(layout) = layout {
                    plan.add(&needs, &layout).map_err(|chunk| self.no_place(index, chunk))?;
                }
            }
        }
        Ok(Some(plan))
    }

    pub(crate) fn no_place(&self, segment: usize, chunk: ChunkId) -> TransferError {
        TransferError::Document {
            what: format!("layout of segment {segment} of {}", self.content.name()),
            reason: format!("it has no right place for chunk {chunk}"),
        }
    }

    /// Fetches these requests.
    pub(crate) async fn jobs_fetch(
        &self,
        jobs: impl futures_util::Stream<Item = Result<Job, TransferError>>,
        arrived: mpsc::Sender<Arrived>,
    ) -> Result<Fetched, TransferError> {
        // Bytes on their way are compressed and small; decoded ones are not, so that fewer of them wait for the writer.
        let came = jobs
            .map(|job| {
                let fetcher = self.clone();
                async move { fetcher.job_fetch(job?).await }
            })
            .buffer_unordered(self.connections.max(1));
        let came = came.map_ok(|(fetched, list)| {
            // What a request took is counted with the first that came of it.
            let counts = std::iter::once(fetched).chain(std::iter::repeat(Fetched::default()));
            stream::iter(counts.zip(list).map(Ok::<_, TransferError>))
        });
        let decoding = came
            .try_flatten()
            .map(|came| async move {
                let (fetched, came) = came?;
                let arrived = match came {
                    Came::Batch(batch) => self.decode(batch).await?,
                    Came::Again(arrived) => arrived,
                };
                Ok::<_, TransferError>((fetched, arrived))
            })
            .buffer_unordered(DECODED_AT_ONCE);
        let mut decoding = std::pin::pin!(decoding);
        let mut total = Fetched::default();
        loop {
            let next = self.control.or_cancelled(async { decoding.next().await.transpose() }).await?;
            let Some((fetched, one)) = next else {
                return Ok(total);
            };
            total = total.and(fetched);
            if arrived.send(one).await.is_err() {
                return Ok(total);
            }
        }
    }

    async fn job_fetch(&self, job: Job) -> Result<(Fetched, Vec<Came>), TransferError> {
        match self.job_read(&job).await {
            Ok(bytes) => {
                let fetched = Fetched { bytes: bytes.len() as u64, requests: 1 };
                Ok((fetched, batches(job, bytes).into_iter().map(Came::Batch).collect()))
            }
            // Prune moved the chunks, the capability ended, or the pack is quarantined: a new layout says where to go.
            Err(why) if needs_layout(&why) => {
                let parts = job.frames.into_iter().flat_map(|frame| frame.parts).collect();
                let (fetched, list) = self.parts_fetch(parts).await?;
                Ok((fetched, list.into_iter().map(Came::Again).collect()))
            }
            Err(why) => Err(why.into()),
        }
    }

    /// Fetches these chunks by new layouts; once, so that a server that is wrong for good is not asked for ever.
    async fn parts_fetch(&self, parts: Vec<Part>) -> Result<(Fetched, Vec<Arrived>), TransferError> {
        let mut by_segment: BTreeMap<usize, Vec<Need>> = BTreeMap::new();
        for part in &parts {
            by_segment.entry(part.segment()).or_default().extend(part.needs());
        }
        let mut plan = Plan::default();
        for (segment, needs) in by_segment {
            let layout = self.content.layout(segment).await?;
            plan.add(&needs, &layout).map_err(|chunk| self.no_place(segment, chunk))?;
        }
        let (mut fetched, mut list) = (Fetched::default(), Vec::new());
        for job in plan.jobs(&self.caps) {
            let bytes = self.job_read(&job).await?;
            fetched = fetched.and(Fetched { bytes: bytes.len() as u64, requests: 1 });
            for batch in batches(job, bytes) {
                list.push(self.decode(batch).await?);
            }
        }
        Ok((fetched, list))
    }

    async fn job_read(&self, job: &Job) -> Result<Lent, ApiError> {
        let mut bytes = self.pools.wire.lend();
        let range = BlobRange { address: &job.address, at: job.at, len: job.len };
        self.content.client().blob_range_into(&range, &mut bytes).await?;
        Ok(bytes)
    }

    /// Decompresses on a thread of the pool, so that several batches are decoded at once.
    async fn decode(&self, batch: Batch) -> Result<Arrived, TransferError> {
        let (pack, raw) = (batch.pack, self.pools.raw.clone());
        let decoding = tokio::task::spawn_blocking(move || {
            let one = |frame: FrameJob| {
                let (from, len) = (frame.skip as usize, frame.len as usize);
                let decoded = DecodedFrame::decode_in(&batch.bytes[from..from + len], raw.lend().take());
                (frame, decoded)
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

/// Verifies what arrived and hands each chunk on with its place in the image. A chunk that is not what its id says is reported,
/// fetched once more by a new layout, and then an error by name.
pub(crate) fn arrived_verify(
    arrived: Arrived,
    fetcher: &Fetcher,
    runtime: &Handle,
    put: &mut dyn FnMut(u64, &Verified<'_>) -> Result<(), TransferError>,
) -> Result<(), TransferError> {
    let pack = arrived.pack;
    let bad = frames_verify(arrived, fetcher, put)?;
    if bad.is_empty() {
        return Ok(());
    }
    let refetch = async {
        for part in bad.iter().take(4) {
            fetcher.content.finding_report(&part.id, &pack).await;
        }
        fetcher.parts_fetch(bad).await
    };
    let (_, list) = runtime.block_on(fetcher.control.or_cancelled(refetch))?;
    for again in list {
        let pack = again.pack;
        if let Some(part) = frames_verify(again, fetcher, put)?.first() {
            runtime.block_on(fetcher.content.finding_report(&part.id, &pack));
            return Err(TransferError::BadChunk { chunk: part.id, content: fetcher.content.name(), pack });
        }
    }
    Ok(())
}

/// Gives back the parts that are not what they should be.
fn frames_verify(
    arrived: Arrived,
    fetcher: &Fetcher,
    put: &mut dyn FnMut(u64, &Verified<'_>) -> Result<(), TransferError>,
) -> Result<Vec<Part>, TransferError> {
    let mut bad = Vec::new();
    for (frame, decoded) in arrived.frames {
        let Ok(decoded) = decoded else {
            bad.extend(frame.parts);
            continue;
        };
        for part in frame.parts {
            match decoded.verify(part.from, part.len, &part.id) {
                Ok(chunk) => part.places().try_for_each(|at| put(at, &chunk))?,
                Err(_) => bad.push(part),
            }
        }
        fetcher.pools.raw.keep(decoded.into_raw());
    }
    Ok(bad)
}
