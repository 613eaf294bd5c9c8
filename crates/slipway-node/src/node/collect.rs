//! Collection: what nobody wants goes at once, and what does not go yet is tried again, less and less often.

use super::{Node, NodeConfig};
use crate::kernel::Kernel;
use crate::object::Phase;
use slipway_api::node::ObjectId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// What nobody wants stays in removal until it is gone, however it was before.
const WANTED_NO_MORE: Phase = Phase::Removing(None);

/// When each object may be tried again.
#[derive(Debug, Default)]
pub(crate) struct Retries(BTreeMap<ObjectId, Retry>);

#[derive(Debug)]
struct Retry {
    at: Instant,
    wait: Duration,
}

impl Retries {
    fn later(&mut self, id: ObjectId, now: Instant, config: &NodeConfig) -> Duration {
        let wait = match self.0.get(&id) {
            Some(retry) => (retry.wait * 2).min(config.retry_max),
            None => config.retry_first,
        };
        self.0.insert(id, Retry { at: now + wait, wait });
        wait
    }

    pub(crate) fn forget(&mut self, id: ObjectId) {
        self.0.remove(&id);
    }

    fn due(&self, now: Instant) -> Vec<ObjectId> {
        // The highest number first: a parent is always younger than its children.
        self.0.iter().rev().filter(|(_, retry)| retry.at <= now).map(|(id, _)| *id).collect()
    }
}

impl<K: Kernel> Node<K> {
    /// Removes these and what is unwanted with them, parents first. Waits for it for at most `wait`; the rest goes on by itself.
    pub(super) fn collect(self: &Arc<Self>, unwanted: Vec<ObjectId>, wait: Duration) {
        if unwanted.is_empty() {
            return;
        }
        let node = self.clone();
        let (done, waiting) = channel::<()>();
        std::thread::spawn(move || {
            node.collect_now(unwanted);
            drop(done);
        });
        // Ends when the thread does, or with the patience.
        let _ = waiting.recv_timeout(wait);
    }

    pub(super) fn collect_now(self: &Arc<Self>, mut unwanted: Vec<ObjectId>) {
        while let Some(id) = unwanted.pop() {
            let begun = {
                let mut state = self.lock();
                let begun = !state.calls.contains(&id) && state.table.collection_begin(id);
                if begun {
                    state.note(id);
                }
                begun
            };
            if !begun {
                continue;
            }
            match self.object_undo(id, &WANTED_NO_MORE) {
                Ok(more) => unwanted.extend(more),
                Err(error) => {
                    let mut state = self.lock();
                    state.table.removal_failed(id, &WANTED_NO_MORE, error.error.clone());
                    state.note(id);
                    let wait = state.retries.later(id, Instant::now(), &self.config);
                    drop(state);
                    tracing::warn!(id, %error, "removing it again in {wait:?}");
                }
            }
        }
    }

    /// Tries again what is due, and looks what is not well. To be called now and then, at least as often as `retry_first`.
    pub fn reconcile(self: &Arc<Self>) {
        let troubles = self.kernel.troubles();
        let due = {
            let mut state = self.lock();
            state.table.troubles_set(troubles);
            state.retries.due(Instant::now())
        };
        for id in due {
            self.collect_now(vec![id]);
        }
    }
}
