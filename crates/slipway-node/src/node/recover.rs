//! After a start: what we wrote down and what the kernel has are brought together. Nothing that does not carry our mark is touched.

use super::{Node, on};
use crate::journal::RESTARTED;
use crate::kernel::{Found, Kernel, Make};
use crate::object::{Claim, Phase, Proof};
use crate::refusal::Refusal;
use crate::secret::secrets_blanked;
use slipway_api::node::{ObjectId, StepError};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

impl<K: Kernel> Node<K> {
    /// Adopts what is as it should be, says what is lost, and removes what nobody was told of.
    pub(super) fn recover(self: &Arc<Self>) -> io::Result<()> {
        let found = self.kernel.found().map_err(|error| io::Error::other(error.to_string()))?;
        let mut found: BTreeMap<ObjectId, Found> = found.into_iter().map(|found| (found.id, found)).collect();
        let ids: Vec<ObjectId> = self.read(|table| table.iter().map(|entry| entry.id).rev().collect());
        let mut unanswered = Vec::new();
        for id in ids {
            let mut state = self.lock();
            let Some(entry) = state.table.get(id) else { continue };
            let Some(driver) = entry.driver() else { continue };
            let there = found.remove(&id).filter(|found| found.driver == driver);
            let is_held = entry.claims.iter().any(|claim| matches!(claim, Claim::Parent(_)));
            match (&entry.phase, there) {
                (Phase::Ready | Phase::Lost(_), Some(found)) => {
                    let proof = proof_joined(entry.proof.as_ref(), found.proof);
                    state.table.made(id, Some(proof));
                }
                (Phase::Ready, None)
                    if entry.proof.as_ref().is_some_and(|proof| self.kernel.is_there(driver, proof)) => {}
                (Phase::Ready, None) => {
                    let text = "the kernel has it no more; delete it, or make it again".to_owned();
                    let error = StepError { step: "recover".into(), errno: None, text };
                    state.tell(&self.events, id, "lost", Some(&error));
                    state.table.lost(id, error);
                }
                (Phase::Lost(_), None) => {}
                // It was to go from under what stands on it: either it went, or nothing has changed.
                (Phase::Removing(_), Some(found)) if is_held => {
                    let proof = proof_joined(entry.proof.as_ref(), found.proof);
                    state.table.made(id, Some(proof));
                }
                (Phase::Removing(_), None) if is_held => {
                    state.gone(&self.events, id);
                    continue;
                }
                (Phase::Making | Phase::Pending(_) | Phase::Removing(_), there) => {
                    // Its request was never answered, or its removal was wanted. It may be there in part even where it is not found.
                    let proof = there.map(|found| found.proof).or_else(|| entry.proof.clone());
                    state.table.made(id, proof);
                    unanswered.push(id);
                    // Not noted: were this service to die too, the next one would take it for answered.
                    continue;
                }
            }
            state.note(id);
        }
        for id in self.requests_forget(&unanswered) {
            self.collect_now(vec![id]);
        }
        // What the kernel has of ours and we know nothing of: parents are younger than what they stand on.
        for (id, found) in found.into_iter().rev() {
            if let Err(error) = self.kernel.undo(id, found.driver, Some(&found.proof)) {
                tracing::warn!(id, %error, "removing what was left of an earlier run");
            }
        }
        Ok(())
    }

    /// A service that is no more was making or removing this container: nobody is at it now, so it can be removed. What the journal says of
    /// it stays, until it is gone.
    pub(crate) fn interrupted(&self, id: ObjectId) {
        self.lock().table.made(id, None);
    }

    /// Nobody was told of these: takes their creator's claim. Gives all that nobody wants, parents first.
    fn requests_forget(&self, ids: &[ObjectId]) -> Vec<ObjectId> {
        let mut state = self.lock();
        for id in ids {
            state.table.abandon(*id);
        }
        state.table.unwanted()
    }
}

impl<K: Kernel> Node<K> {
    /// A container that was described under another kernel is a description all the same.
    pub(crate) fn described(&self, id: ObjectId) {
        let mut state = self.lock();
        state.table.made(id, None);
        state.note(id);
    }

    /// Makes again what a restart of the node took from under an object, children first.
    ///
    /// # Errors
    /// What the kernel refused, or that something vanished otherwise, or that a secret would be needed, which is never kept; what was made
    /// until then stays.
    pub(crate) fn remake(self: &Arc<Self>, id: ObjectId) -> Result<(), Refusal> {
        for child in self.read(|table| table.all_lost_below(id)) {
            let make = {
                let mut state = self.lock();
                let Some(entry) = state.table.get(child) else { continue };
                match &entry.phase {
                    Phase::Lost(error) if error.step == RESTARTED => {}
                    Phase::Lost(error) => return Err(Refusal::failed(error.clone())),
                    _ => continue,
                }
                let what = entry.what.clone();
                if secrets_blanked(&what) {
                    let text = format!("object {child} was made with a secret, which is never kept; make it again");
                    return Err(Refusal::failed(StepError { step: RESTARTED.into(), errno: None, text }));
                }
                let on = on(&state.table, child)?;
                // Not noted: whatever a crash leaves of it is found, or still lost.
                state.table.making(child);
                Make { id: child, what, on }
            };
            if let Err(refusal) = self.object_make(make) {
                let mut state = self.lock();
                let error = refusal.problem.error.clone();
                state.tell(&self.events, child, "failed", error.as_ref());
                let mut error = error.unwrap_or_else(|| lost_again(&refusal));
                error.text = format!("making it again after a restart of the node: {}: {}", error.step, error.text);
                RESTARTED.clone_into(&mut error.step);
                if state.table.get(child).is_some_and(|entry| entry.phase == Phase::Making) {
                    state.table.lost(child, error);
                }
                return Err(refusal);
            }
        }
        Ok(())
    }
}

fn lost_again(refusal: &Refusal) -> StepError {
    StepError { step: RESTARTED.into(), errno: None, text: refusal.problem.message.clone() }
}

/// What is found, with what only its making knew of it.
fn proof_joined(known: Option<&Proof>, mut found: Proof) -> Proof {
    if let Some(known) = known.filter(|known| (&known.device, &known.mountpoint) == (&found.device, &found.mountpoint))
    {
        let mut detail = known.detail.clone();
        detail.append(&mut found.detail);
        found.detail = detail;
    }
    found
}
