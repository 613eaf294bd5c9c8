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
    /// Runs a plan: revive, rewrite, doom, delete. Whatever changed since it was made is kept. `stop` is asked before every change, because
    /// who has lost the right to prune must not doom or delete one thing more; then the rest is left, and the answer says so.
    ///
    /// # Errors
    /// `Busy` while another prune or repair runs in this process, `PlanStale` when one ran since the
    /// plan was begun. Only one process may prune a store at a time, which the server's task lease sees to.
    pub fn prune_run(
        &self,
        plan: &PrunePlan,
        ledger: &dyn Ledger,
        stop: &dyn Fn() -> bool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PruneDone, StoreError> {
        let changing = self.changing_lock()?;
        if plan.made != self.changes() {
            return Err(StoreError::PlanStale);
        }
        changing.begin();
        self.poison_check()?;
        let mut done = PruneDone::default();
        done.stopped = !self.plan_do(plan, ledger, stop, &mut done, progress)?;
        self.index_sync(ledger)?;
        Ok(done)
    }

    /// False if it was stopped before its end.
    fn plan_do(
        &self,
        plan: &PrunePlan,
        ledger: &dyn Ledger,
        stop: &dyn Fn() -> bool,
        done: &mut PruneDone,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<bool, StoreError> {
        for blob in &plan.revive {
            if stop() {
                return Ok(false);
            }
            match ledger.blob_revive(&blob.id)? {
                true => done.revived += 1,
                false => done.kept += 1,
            }
        }
        if !self.packs_rewrite(&plan.rewrite, ledger, stop, done, progress)? {
            return Ok(false);
        }
        for blob in &plan.doom {
            if stop() {
                return Ok(false);
            }
            match ledger.blob_doom(&blob.id, blob.touched)? {
                true => done.doomed += 1,
                false => done.kept += 1,
            }
        }
        crash_point("prune_doomed");
        for (number, blob) in plan.delete.iter().enumerate() {
            if stop() {
                return Ok(false);
            }
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
            if stop() {
                return Ok(false);
            }
            match self.blobs.delete(key) {
                Ok(()) => done.swept += 1,
                Err(_) => done.left += 1,
            }
        }
        Ok(true)
    }

    /// Moves the live frames of mostly dead packs into new ones, and dooms the old at once: the
    /// mark that called them mostly dead is the first of the two. False if it was stopped.
    fn packs_rewrite(
        &self,
        packs: &[PlanRewrite],
        ledger: &dyn Ledger,
        stop: &dyn Fn() -> bool,
        done: &mut PruneDone,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<bool, StoreError> {
        let mut by_space: BTreeMap<&SpaceId, Vec<&PlanRewrite>> = BTreeMap::new();
        for pack in packs {
            by_space.entry(&pack.space).or_default().push(pack);
        }
        let mut count = 0;
        for (space, packs) in by_space {
            let mut rewriter = Rewriter::new(self, ledger, space);
            let mut copied = Vec::new();
            for pack in packs {
                if stop() {
                    return Ok(false);
                }
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
                if stop() {
                    return Ok(false);
                }
                match ledger.blob_doom(&pack.id, pack.touched)? {
                    true => done.rewritten += 1,
                    false => done.kept += 1,
                }
            }
        }
        Ok(true)
    }
}
