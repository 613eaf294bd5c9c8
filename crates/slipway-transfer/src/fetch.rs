//! Fetching: requests in pack order over a few connections, a new layout where an address has ended.

use crate::plan::{FrameJob, Job, Need, Part, Plan};
use crate::{Caps, Control, RemoteContent, TransferError};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use slipway_api::{ApiError, BlobRange, Code};
use slipway_chunk::{ChunkId, DecodedFrame, FormatError, PackId, Segment, Verified};
use std::collections::BTreeMap;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Layouts that are asked for at once.
const LAYOUTS_AT_ONCE: usize = 4;

/// Requests whose frames are decoded at one time.
const DECODED_AT_ONCE: usize = 2;

/// What a request gave: bytes of a pack, or, by a new layout, what several requests gave.
enum Came {
    Bytes(Job, Bytes),
    Again(Vec<Arrived>),
}

/// What came of one request: each frame decoded, but no chunk verified yet.
pub(crate) struct Arrived {
    pub(crate) pack: PackId,
    pub(crate) frames: Vec<(FrameJob, Result<DecodedFrame, FormatError>)>,
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
        let fetching = jobs
            .map(|job| {
                let fetcher = self.clone();
                async move { fetcher.job_fetch(job?).await }
            })
            .buffer_unordered(self.connections.max(1))
            .map(|came| async move {
                let (fetched, came) = came?;
                let list = match came {
                    Came::Bytes(job, bytes) => vec![decode(job, bytes).await?],
                    Came::Again(list) => list,
                };
                Ok::<_, TransferError>((fetched, list))
            })
            .buffer_unordered(DECODED_AT_ONCE);
        let mut fetching = std::pin::pin!(fetching);
        let mut total = Fetched::default();
        loop {
            let next = self.control.or_cancelled(async { fetching.next().await.transpose() }).await?;
            let Some((fetched, list)) = next else {
                return Ok(total);
            };
            total.bytes += fetched.bytes;
            total.requests += fetched.requests;
            for one in list {
                if arrived.send(one).await.is_err() {
                    return Ok(total);
                }
            }
        }
    }

    async fn job_fetch(&self, job: Job) -> Result<(Fetched, Came), TransferError> {
        match self.job_read(&job).await {
            Ok(bytes) => {
                let fetched = Fetched { bytes: bytes.len() as u64, requests: 1 };
                Ok((fetched, Came::Bytes(job, bytes)))
            }
            // Prune moved the chunks, the capability ended, or the pack is quarantined: a new layout says where to go.
            Err(why) if needs_layout(&why) => {
                let parts = job.frames.into_iter().flat_map(|frame| frame.parts).collect();
                let (fetched, list) = self.parts_fetch(parts).await?;
                Ok((fetched, Came::Again(list)))
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
            fetched.bytes += bytes.len() as u64;
            fetched.requests += 1;
            list.push(decode(job, bytes).await?);
        }
        Ok((fetched, list))
    }

    async fn job_read(&self, job: &Job) -> Result<Bytes, ApiError> {
        self.content.client().blob_range(&BlobRange { address: &job.address, at: job.at, len: job.len }).await
    }
}

pub(crate) fn needs_layout(why: &ApiError) -> bool {
    match why {
        ApiError::Problem(problem) => matches!(problem.status, 403 | 404 | 410 | 416) || problem.code == Code::Damaged,
        // A cache that answers with another range or length may be bypassed by another address.
        ApiError::Protocol { .. } => true,
        ApiError::Transport { .. } | ApiError::Config(_) => false,
    }
}

/// Decompresses on a thread of the pool, so that several requests are decoded at once.
async fn decode(job: Job, bytes: Bytes) -> Result<Arrived, TransferError> {
    let pack = job.pack;
    let decoding = tokio::task::spawn_blocking(move || {
        let one = |frame: FrameJob| {
            let (from, len) = (frame.skip as usize, frame.len as usize);
            let decoded = DecodedFrame::decode(&bytes[from..from + len]);
            (frame, decoded)
        };
        job.frames.into_iter().map(one).collect()
    });
    let frames = decoding.await.map_err(|_| TransferError::Panicked)?;
    Ok(Arrived { pack, frames })
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
    let bad = frames_verify(arrived, put)?;
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
        if let Some(part) = frames_verify(again, put)?.first() {
            runtime.block_on(fetcher.content.finding_report(&part.id, &pack));
            return Err(TransferError::BadChunk { chunk: part.id, content: fetcher.content.name(), pack });
        }
    }
    Ok(())
}

/// Gives back the parts that are not what they should be.
fn frames_verify(
    arrived: Arrived,
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
                Ok(chunk) => part.places.iter().try_for_each(|at| put(*at, &chunk))?,
                Err(_) => bad.push(part),
            }
        }
    }
    Ok(bad)
}
