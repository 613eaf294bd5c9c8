//! Planning ahead: the lists of segments are asked for while the requests of those before are under way.

use crate::plan::{Job, Need, Plan};
use crate::{Caps, RemoteContent, TransferError};
use slipway_chunk::{ChunkId, Layout, Segment};
use tokio::task::{JoinError, JoinSet};

/// Segments whose lists are asked for at once: some MiB of lists, and of the first ones nobody knows how long they are.
const LISTS_AT_ONCE: usize = 4;

/// What is wanted of a segment, and where that lies.
struct Lists {
    index: usize,
    needs: Vec<Need>,
    /// Only where something is wanted.
    layout: Option<Layout>,
}

/// The requests for segments, in a plan that is filled up as they are taken. What is under way ends with it.
pub(crate) struct Ahead<N> {
    content: RemoteContent,
    caps: Caps,
    rest: std::vec::IntoIter<usize>,
    /// Says what is wanted of a segment.
    needs: N,
    plan: Plan,
    asking: JoinSet<Result<Lists, TransferError>>,
    /// The most that was wanted of one segment so far.
    most: usize,
}

impl<N: Fn(usize, &Segment) -> Vec<Need> + Clone + Send + Sync + 'static> Ahead<N> {
    pub(crate) fn new(content: RemoteContent, caps: Caps, segments: Vec<usize>, needs: N) -> Self {
        let (plan, asking, rest) = (Plan::default(), JoinSet::new(), segments.into_iter());
        Self { content, caps, rest, needs, plan, asking, most: 0 }
    }

    /// The next request; `None` after the last one.
    pub(crate) async fn next(&mut self) -> Result<Option<Job>, TransferError> {
        loop {
            while let Some(came) = self.asking.try_join_next() {
                self.add(came)?;
            }
            self.ask();
            if let Some(job) = self.plan.take(&self.caps) {
                return Ok(Some(job));
            }
            match self.asking.join_next().await {
                Some(came) => self.add(came)?,
                None => return Ok(None),
            }
        }
    }

    /// Asks for the lists of as many segments as the bounds allow, which is at least one when nothing else is left to do.
    fn ask(&mut self) {
        while self.asking.len() < LISTS_AT_ONCE && (self.has_room() || self.is_idle()) {
            let Some(index) = self.rest.next() else { return };
            let (content, needs) = (self.content.clone(), self.needs.clone());
            self.asking.spawn(async move { lists_ask(&content, index, &needs).await });
        }
    }

    /// Whether the plan keeps its bound when one more segment comes that is like those before.
    fn has_room(&self) -> bool {
        self.plan.needs() + (self.asking.len() + 1) * self.most <= self.caps.needs
    }

    fn is_idle(&self) -> bool {
        self.plan.needs() == 0 && self.asking.is_empty()
    }

    fn add(&mut self, came: Result<Result<Lists, TransferError>, JoinError>) -> Result<(), TransferError> {
        let Lists { index, needs, layout } = came.map_err(|_| TransferError::Panicked)??;
        self.most = self.most.max(needs.len());
        match layout {
            Some(layout) => self.plan.add(&needs, &layout).map_err(|chunk| no_place(&self.content, index, chunk)),
            None => Ok(()),
        }
    }
}

pub(crate) fn no_place(content: &RemoteContent, segment: usize, chunk: ChunkId) -> TransferError {
    TransferError::Document {
        what: format!("layout of segment {segment} of {}", content.name()),
        reason: format!("it has no right place for chunk {chunk}"),
    }
}

async fn lists_ask(
    content: &RemoteContent,
    index: usize,
    needs: &impl Fn(usize, &Segment) -> Vec<Need>,
) -> Result<Lists, TransferError> {
    if let Some(segment) = content.segment_kept(index) {
        let needs = needs(index, &segment);
        let layout = match needs.is_empty() {
            true => None,
            false => Some(content.layout(index).await?),
        };
        return Ok(Lists { index, needs, layout });
    }
    // Both at once: a layout that was asked for in vain costs less than a round trip.
    let (segment, layout) = tokio::join!(content.segment(index), content.layout(index));
    let needs = needs(index, &*segment?);
    let layout = match needs.is_empty() {
        true => None,
        false => Some(layout?),
    };
    Ok(Lists { index, needs, layout })
}
