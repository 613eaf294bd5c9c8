//! The service's heart: takes requests through the rules to the kernel and back. Every method may block; none holds the table while the
//! kernel works.

mod collect;
mod recover;

use crate::container::now_ms;
use crate::event::Events;
use crate::journal::Journal;
use crate::kernel::{Kernel, Make};
use crate::object::{Entry, Phase, Proof, Type};
use crate::plan::Draft;
use crate::refusal::{DriverError, Refusal};
use crate::secret::secrets_blank;
use crate::table::{Table, name_of};
use collect::Retries;
use slipway_api::node::{ObjectId, StepError};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long what is done waits for what it need not wait for.
const CASCADE_WAIT: Duration = Duration::from_secs(2);

/// How to run a node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// How long one call of the kernel may take before its object is pending.
    pub deadline: Duration,
    /// The first wait before a removal is tried again; it doubles up to `retry_max`.
    pub retry_first: Duration,
    /// The longest wait.
    pub retry_max: Duration,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            retry_first: Duration::from_millis(100),
            retry_max: Duration::from_secs(30),
        }
    }
}

/// A node's attachments and mounts, and the descriptions of its containers.
pub struct Node<K> {
    pub(crate) kernel: K,
    pub(crate) config: NodeConfig,
    pub(crate) events: Arc<Events>,
    state: Mutex<State>,
    /// Something is to be tried again sooner than was thought.
    retries_changed: Condvar,
}

pub(crate) struct State {
    pub(crate) table: Table,
    journal: Journal,
    retries: Retries,
    /// Objects that a call of the kernel is under way for.
    calls: BTreeSet<ObjectId>,
    /// Objects that were there, so that their end is an event.
    told: BTreeSet<ObjectId>,
    /// Objects of which it was told that they are not well.
    ill: BTreeSet<ObjectId>,
}

impl State {
    /// Keeps how an object stands. The kernel is looked at when the service starts, so a line that is lost costs nothing but its reason.
    fn note(&mut self, id: ObjectId) {
        if let Some(entry) = self.table.get(id)
            && let Err(error) = self.journal.note(entry)
        {
            tracing::error!(id, %error, "writing the journal");
        }
    }

    /// Tells of an object.
    fn tell(&self, events: &Events, id: ObjectId, what: &str, error: Option<&StepError>) {
        if let Some(entry) = self.table.get(id) {
            let detail = error.map_or(serde_json::Value::Null, |error| serde_json::json!({ "error": error }));
            let name = name_of(&entry.what);
            events.tell(now_ms(), &format!("{}.{what}", entry.what.kind().as_str()), id, name, detail);
        }
    }

    /// Forgets an object that the kernel has no more, and gives what nobody wants now.
    fn gone(&mut self, events: &Events, id: ObjectId) -> Vec<ObjectId> {
        if self.told.remove(&id) {
            self.tell(events, id, "removed", None);
        }
        let unwanted = self.table.removed(id);
        self.retries.forget(id);
        if let Err(error) = self.journal.forget(&[id]) {
            tracing::error!(id, %error, "writing the journal");
        }
        for child in &unwanted {
            self.note(*child);
        }
        unwanted
    }
}

impl<K: Kernel> Node<K> {
    /// Opens the journal, looks at what the kernel has, and brings both together.
    ///
    /// # Errors
    /// When the journal cannot be read or written, or the kernel's lists cannot.
    pub fn open(
        kernel: K,
        config: NodeConfig,
        run_dir: &Path,
        state_dir: &Path,
        boot_id: &str,
    ) -> io::Result<Arc<Self>> {
        let (journal, restored) = Journal::open(run_dir, state_dir, boot_id)?;
        let table = Table::restored(restored.entries, restored.last_id);
        let told = table.iter().filter(|entry| entry.phase != Phase::Making).map(|entry| entry.id).collect();
        let state =
            State { table, journal, retries: Retries::default(), calls: BTreeSet::new(), told, ill: BTreeSet::new() };
        let events = Arc::new(Events::new(now_ms()));
        let node = Arc::new(Self { kernel, config, events, state: Mutex::new(state), retries_changed: Condvar::new() });
        node.recover()?;
        Ok(node)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // The table is changed by whole steps only, so it is whole even if a thread panicked meanwhile.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens to its objects.
    pub fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// Calls of the kernel that are under way, objects that wait to be removed, and how often that was tried again.
    pub fn counts(&self) -> (usize, usize, u64) {
        let state = self.lock();
        (state.calls.len(), state.retries.waiting(), state.retries.made())
    }

    /// Looks at the table, with what is not well at this moment.
    pub fn read<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        let troubles = self.kernel.troubles();
        let mut state = self.lock();
        state.table.troubles_set(troubles);
        look(&state.table)
    }

    /// Tells of what is not well since the last look, or is well again.
    fn health_tell(&self) {
        let troubles = self.kernel.troubles();
        let mut state = self.lock();
        let mut ill = std::mem::take(&mut state.ill);
        ill.retain(|id| {
            let still = troubles.contains_key(id);
            if !still {
                state.tell(&self.events, *id, "recovered", None);
            }
            still
        });
        for (id, error) in &troubles {
            if ill.insert(*id) {
                state.tell(&self.events, *id, "degraded", Some(error));
            }
        }
        state.ill = ill;
    }

    /// Makes what a draft asks for: children first, all or nothing. Gives the number of what was asked for.
    ///
    /// # Errors
    /// What the rules or the kernel refused; then nothing of it is left, or what is stuck is listed as pending until it is undone.
    pub fn create(self: &Arc<Self>, draft: Draft, now_ms: i64) -> Result<ObjectId, Refusal> {
        let whole: Vec<_> = draft.objects.iter().map(|object| object.what.clone()).collect();
        let mut kept = draft;
        for object in &mut kept.objects {
            secrets_blank(&mut object.what);
        }
        let ids = self.intend(kept, now_ms)?;
        let asked = ids.last().copied().unwrap_or_default();
        for (&id, what) in ids.iter().zip(whole) {
            let on = self.read(|table| on(table, id));
            let make = on.map(|on| Make { id, what, on });
            if let Err(refusal) = make.and_then(|make| self.object_make(make)) {
                self.lock().tell(&self.events, id, "failed", refusal.problem.error.as_ref());
                let unwanted = self.lock().table.abandon(asked);
                self.collect(unwanted, CASCADE_WAIT);
                return Err(refusal);
            }
        }
        Ok(asked)
    }

    /// The commit point of a request: from here on its objects are ours, whatever happens.
    fn intend(&self, draft: Draft, now_ms: i64) -> Result<Vec<ObjectId>, Refusal> {
        let mut state = self.lock();
        let State { table, journal, .. } = &mut *state;
        let ids = table.admit(draft, now_ms)?;
        let entries = ids.iter().filter_map(|id| table.get(*id));
        if let Err(error) = journal.intend(entries, table.last_id()) {
            for id in ids.iter().rev() {
                table.removed(*id);
            }
            return Err(DriverError::on_file("journal", "writing the journal", &error).into());
        }
        // What others stand on has new claims.
        let children: BTreeSet<ObjectId> =
            ids.iter().filter_map(|id| table.get(*id)).flat_map(|entry| entry.children.clone()).collect();
        for child in children {
            state.note(child);
        }
        Ok(ids)
    }

    fn object_make(self: &Arc<Self>, make: Make) -> Result<(), Refusal> {
        let id = make.id;
        if self.read(|table| table.get(id).is_none_or(|entry| entry.driver().is_none())) {
            self.settle(id, None);
            return Ok(());
        }
        let (node, late) = (self.clone(), self.clone());
        let deadline = self.config.deadline + self.kernel.time_more(&make.what);
        let work = move || node.kernel.make(&make);
        // When the call comes back after all, nobody waits for what it made.
        let after = move |made: Result<Proof, DriverError>| match made {
            Ok(proof) => {
                late.settle(id, Some(proof));
                let unwanted = late.lock().table.abandon(id);
                late.collect(unwanted, Duration::ZERO);
            }
            Err(_) => late.never_made(id),
        };
        match self.call(id, deadline, work, after) {
            Some(Ok(proof)) => {
                self.settle(id, Some(proof));
                Ok(())
            }
            Some(Err(error)) => {
                self.lock().calls.remove(&id);
                Err(error.into())
            }
            None => {
                let error = overdue("make", deadline);
                let mut state = self.lock();
                state.table.stuck(id, error.clone());
                state.note(id);
                Err(Refusal::failed(error))
            }
        }
    }

    fn settle(&self, id: ObjectId, proof: Option<Proof>) {
        let mut state = self.lock();
        state.calls.remove(&id);
        state.table.made(id, proof);
        state.note(id);
        state.told.insert(id);
        state.tell(&self.events, id, "created", None);
    }

    fn never_made(self: &Arc<Self>, id: ObjectId) {
        let unwanted = {
            let mut state = self.lock();
            state.calls.remove(&id);
            state.gone(&self.events, id)
        };
        self.collect(unwanted, Duration::ZERO);
    }

    /// Runs `work` on a thread of its own and waits until the deadline; `None` if it is still at it, and then `after` gets its result.
    fn call<T: Send + 'static>(
        &self,
        id: ObjectId,
        deadline: Duration,
        work: impl FnOnce() -> T + Send + 'static,
        after: impl FnOnce(T) + Send + 'static,
    ) -> Option<T> {
        self.lock().calls.insert(id);
        // Without room in between: what is not taken at this end stays at the other.
        let (send, receive) = sync_channel(0);
        std::thread::spawn(move || {
            // Who waits no longer has dropped its end.
            if let Err(unheard) = send.send(work()) {
                after(unheard.0);
            }
        });
        match receive.recv_timeout(deadline) {
            Ok(done) => Some(done),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                // It may have come in this very moment.
                receive.try_recv().ok()
            }
        }
    }

    /// Removes what somebody named.
    ///
    /// # Errors
    /// What the rules refused, or who holds it busy: then it is as it was.
    pub fn delete(self: &Arc<Self>, id: ObjectId, kind: Type, force: bool) -> Result<Entry, Refusal> {
        let was = {
            let mut state = self.lock();
            let was = state.table.removal_begin(id, kind, force)?;
            state.note(id);
            was
        };
        match self.object_undo(id, &was.phase) {
            Ok(unwanted) => {
                self.collect(unwanted, CASCADE_WAIT);
                // What was answered stays gone, whatever becomes of the node.
                if let Err(error) = self.lock().journal.settle() {
                    tracing::error!(id, %error, "writing the journal");
                }
                Ok(was)
            }
            Err(error) => {
                let mut state = self.lock();
                state.table.removal_failed(id, &was.phase, error.error.clone());
                state.note(id);
                Err(error.into())
            }
        }
    }

    /// Asks the kernel to remove what is marked as being removed. Gives what nobody wants then.
    fn object_undo(self: &Arc<Self>, id: ObjectId, was: &Phase) -> Result<Vec<ObjectId>, DriverError> {
        let what = self.read(|table| table.get(id).map(|entry| (entry.driver(), entry.proof.clone())));
        let Some((Some(driver), proof)) = what else { return Ok(self.lock().gone(&self.events, id)) };
        let (node, late) = (self.clone(), self.clone());
        let work = move || node.kernel.undo(id, driver, proof.as_ref());
        let was = was.clone();
        let after = move |undone: Result<(), DriverError>| match undone {
            Ok(()) => late.never_made(id),
            Err(error) => {
                let mut state = late.lock();
                state.calls.remove(&id);
                state.table.removal_failed(id, &was, error.error);
                state.note(id);
            }
        };
        let deadline = self.config.deadline;
        match self.call(id, deadline, work, after) {
            Some(undone) => {
                let mut state = self.lock();
                state.calls.remove(&id);
                undone.map(|()| state.gone(&self.events, id))
            }
            None => {
                let error = overdue("undo", deadline);
                Err(DriverError { status: 500, error, holders: Vec::new() })
            }
        }
    }
}

fn overdue(step: &str, deadline: Duration) -> StepError {
    let text = format!("the kernel did not answer within {deadline:?}; it is undone when it does");
    StepError { step: step.into(), errno: Some("ETIMEDOUT".into()), text }
}

/// What the children of an object are in the kernel.
fn on(table: &Table, id: ObjectId) -> Result<Vec<Proof>, Refusal> {
    let children = table.get(id).map(|entry| entry.children.as_slice()).unwrap_or_default();
    children
        .iter()
        .map(|child| match table.get(*child) {
            Some(Entry { phase: Phase::Ready, proof: Some(proof), .. }) => Ok(proof.clone()),
            _ => Err(Refusal::busy(Vec::new()).hint(format!("{child} was removed meanwhile"))),
        })
        .collect()
}
