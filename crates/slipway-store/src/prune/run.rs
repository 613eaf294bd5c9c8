//! Doing what a plan says.

use std::collections::BTreeMap;

use super::{PlanRewrite, PruneDone, PrunePlan};
use crate::error::StoreError;
use crate::faults::crash_point;
use crate::id::SpaceId;
use crate::ledger::Ledger;
use crate::rewrite::Rewriter;
use crate::store::{Progress, Store};

impl Store {
    /// Runs a plan: revive, rewrite, doom, delete. Whatever changed since it was made is kept.
    ///
    /// # Errors
    /// `Busy` while another prune or repair runs in this process, `PlanStale` when one ran since the
    /// plan was begun. Only one process may prune a store at a time, which the server's task lease sees to.
    pub fn prune_run(
        &self,
        plan: &PrunePlan,
        ledger: &dyn Ledger,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PruneDone, StoreError> {
        let changing = self.changing_lock()?;
        if plan.made != self.changes() {
            return Err(StoreError::PlanStale);
        }
        changing.begin();
        self.poison_check()?;
        let mut done = PruneDone::default();
        for blob in &plan.revive {
            match ledger.blob_revive(&blob.id)? {
                true => done.revived += 1,
                false => done.kept += 1,
            }
        }
        self.packs_rewrite(&plan.rewrite, ledger, &mut done, progress)?;
        for blob in &plan.doom {
            match ledger.blob_doom(&blob.id, blob.touched)? {
                true => done.doomed += 1,
                false => done.kept += 1,
            }
        }
        crash_point("prune_doomed");
        for (number, blob) in plan.delete.iter().enumerate() {
            // The row goes first: a row without a blob would be damage, a blob whose row is gone
            // is only space, and the next plan sweeps it.
            if !ledger.blob_gone(&blob.id)? {
                done.kept += 1;
                continue;
            }
            crash_point("prune_gone");
            match self.blobs.delete(&blob.key) {
                Ok(()) => {
                    done.deleted += 1;
                    done.bytes_deleted += blob.len;
                }
                Err(_) => done.left += 1,
            }
            crash_point("prune_deleted");
            progress(Progress { step: "deleting", done: number as u64 + 1, total: plan.delete.len() as u64 });
        }
        for key in &plan.sweep {
            match self.blobs.delete(key) {
                Ok(()) => done.swept += 1,
                Err(_) => done.left += 1,
            }
        }
        self.index_sync(ledger)?;
        Ok(done)
    }

    /// Moves the live frames of mostly dead packs into new ones, and dooms the old at once: the
    /// mark that called them mostly dead is the first of the two.
    fn packs_rewrite(
        &self,
        packs: &[PlanRewrite],
        ledger: &dyn Ledger,
        done: &mut PruneDone,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), StoreError> {
        let mut by_space: BTreeMap<&SpaceId, Vec<&PlanRewrite>> = BTreeMap::new();
        for pack in packs {
            by_space.entry(&pack.space).or_default().push(pack);
        }
        let mut count = 0;
        for (space, packs) in by_space {
            let mut rewriter = Rewriter::new(self, ledger, space);
            let mut copied = Vec::new();
            for pack in packs {
                count += 1;
                match self.index.pack(&pack.id) {
                    Some(row) => {
                        if rewriter.frames_copy(&row, &pack.frames)? {
                            copied.push(pack);
                        }
                    }
                    None => done.kept += 1,
                }
                progress(Progress { step: "rewriting", done: count, total: 0 });
            }
            done.bytes_written += rewriter.finish()?;
            crash_point("prune_rewritten");
            // Only now are all copies in live packs.
            for pack in copied {
                match ledger.blob_doom(&pack.id, pack.touched)? {
                    true => done.rewritten += 1,
                    false => done.kept += 1,
                }
            }
        }
        Ok(())
    }
}
