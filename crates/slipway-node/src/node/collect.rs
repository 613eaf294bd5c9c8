//! Collection: what nobody wants goes at once, and what does not go yet is tried again, less and less often.

use super::{Node, NodeConfig};
use crate::kernel::Kernel;
use crate::object::Phase;
use slipway_api::node::{Holder, ObjectId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// What nobody wants stays in removal until it is gone, however it was before.
const WANTED_NO_MORE: Phase = Phase::Removing(None);

/// When each object may be tried again.
#[derive(Debug, Default)]
pub(crate) struct Retries {
    waits: BTreeMap<ObjectId, Retry>,
    made: u64,
}

#[derive(Debug)]
struct Retry {
    at: Instant,
    wait: Duration,
}

impl Retries {
    fn later(&mut self, id: ObjectId, now: Instant, config: &NodeConfig) -> Duration {
        let wait = match self.waits.get(&id) {
            Some(retry) => (retry.wait * 2).min(config.retry_max),
            None => config.retry_first,
        };
        self.waits.insert(id, Retry { at: now + wait, wait });
        self.made += 1;
        wait
    }

    fn put_off(&mut self, id: ObjectId, now: Instant) {
        if let Some(retry) = self.waits.get_mut(&id) {
            retry.at = now + retry.wait;
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waits.len()
    }

    pub(crate) fn made(&self) -> u64 {
        self.made
    }

    fn next(&self) -> Option<Instant> {
        self.waits.values().map(|retry| retry.at).min()
    }

    pub(crate) fn forget(&mut self, id: ObjectId) {
        self.waits.remove(&id);
    }

    fn due(&self, now: Instant) -> Vec<ObjectId> {
        // The highest number first: a parent is always younger than its children.
        self.waits.iter().rev().filter(|(_, retry)| retry.at <= now).map(|(id, _)| *id).collect()
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
                    self.retries_changed.notify_all();
                    tracing::warn!(id, %error, holders = %holders_text(&error.holders), "removing it again in {wait:?}");
                }
            }
        }
    }

    /// Tries again what is due, and tells of what is not well. To be called now and then, at least as often as `retry_first`.
    pub fn reconcile(self: &Arc<Self>) {
        let now = Instant::now();
        let due = self.lock().retries.due(now);
        for id in due {
            // Whoever is at it already, is at it; it is looked at again.
            self.lock().retries.put_off(id, now);
            self.collect_now(vec![id]);
        }
        self.health_tell();
    }

    /// Waits until something is to be tried again, for at most `wait`; not at all when it is over.
    pub fn reconcile_wait(&self, wait: Duration, over: &AtomicBool) {
        let state = self.lock();
        let now = Instant::now();
        let wait = state.retries.next().map_or(wait, |at| at.saturating_duration_since(now).min(wait));
        if !wait.is_zero() && !over.load(Ordering::Acquire) {
            drop(self.retries_changed.wait_timeout(state, wait));
        }
    }

    /// Whoever waits looks again.
    pub(crate) fn reconcile_wake(&self) {
        // With the lock, so that nobody is between the look and the wait.
        let state = self.lock();
        self.retries_changed.notify_all();
        drop(state);
    }
}

/// Who keeps something busy, for the log: the first few.
fn holders_text(holders: &[Holder]) -> String {
    let text = |holder: &Holder| match holder {
        Holder::Object { object, id } => format!("{object} {id}"),
        Holder::Mount { path, .. } => format!("mount {path}"),
        Holder::Process { pid, command } => format!("process {pid} ({command})"),
        Holder::Device { name } => format!("device {name}"),
    };
    holders.iter().take(4).map(text).collect::<Vec<_>>().join(", ")
}
