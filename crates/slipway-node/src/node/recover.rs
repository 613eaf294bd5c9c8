//! After a start: what we wrote down and what the kernel has are brought together. Nothing that does not carry our mark is touched.

use super::Node;
use crate::kernel::{Found, Kernel};
use crate::object::{Claim, Phase, Proof};
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
