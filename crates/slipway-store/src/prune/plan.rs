//! Deciding what goes.

use std::collections::HashSet;

use super::mark::{Marker, Marks};
use super::{PlanDelete, PlanDoom, PlanRewrite, PrunePlan, PruneSpec};
use crate::error::StoreError;
use crate::ledger::{BlobKind, BlobRow, BlobState, Ledger, rows_each};
use crate::store::{Progress, Store};

impl Store {
    /// Reads rows and contents and decides. Changes nothing.
    pub fn prune_plan(
        &self,
        spec: &PruneSpec,
        ledger: &dyn Ledger,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PrunePlan, StoreError> {
        let made = self.changes();
        // The order of these reads is rule 1 of the module.
        let rows = ledger.blobs_in(&[BlobState::Staged, BlobState::Live, BlobState::Doomed])?;
        let open: HashSet<String> = ledger.uploads_open()?.into_iter().collect();
        self.index_sync(ledger)?;
        let contents = ledger.contents()?;
        let marks = Marker::new(self, ledger, &rows).run(&contents, progress)?;

        let mut plan = PrunePlan { held_back: marks.reasons.iter().cloned().collect(), made, ..PrunePlan::default() };
        for row in &rows {
            self.row_decide(row, spec, &open, &marks, &mut plan)?;
        }
        plan.sweep = self.leftovers(&rows, ledger)?;
        Ok(plan)
    }

    fn row_decide(
        &self,
        row: &BlobRow,
        spec: &PruneSpec,
        open: &HashSet<String>,
        marks: &Marks,
        plan: &mut PrunePlan,
    ) -> Result<(), StoreError> {
        let frozen = marks.frozen.contains(&row.space);
        let leased = row.upload.as_ref().is_some_and(|upload| open.contains(upload));
        let unindexed = row.kind == BlobKind::Pack && row.is_readable() && self.index.pack(&row.id).is_none();
        let referred = match row.kind {
            BlobKind::Pack => marks.packs.contains_key(&row.id),
            BlobKind::Segment | BlobKind::Manifest => marks.named.contains(&row.id),
        };
        if unindexed {
            plan.held_back.push(format!("pack {} is not indexed", row.id));
        }
        match row.state {
            BlobState::Staged => {
                let old = row.created_at.saturating_add(spec.staged_grace_ms) <= spec.now_ms;
                if old && !leased {
                    plan.doom.push(doom_of(row));
                }
            }
            BlobState::Live => {
                plan.bytes_live += row.len;
                if leased || frozen || unindexed {
                    return Ok(());
                }
                if !referred {
                    plan.bytes_doomed += row.len;
                    plan.doom.push(doom_of(row));
                } else if let Some(rewrite) = self.rewrite_decide(row, spec, marks)? {
                    plan.bytes_rewritten += rewrite.live_bytes;
                    plan.rewrite.push(rewrite);
                }
            }
            BlobState::Doomed if referred => plan.revive.push(delete_of(row)),
            BlobState::Doomed => {
                let since = row.doomed_at.unwrap_or(spec.now_ms);
                let over = since.saturating_add(spec.grace_ms) <= spec.now_ms;
                if over && !frozen && !unindexed {
                    plan.bytes_deleted += row.len;
                    plan.delete.push(delete_of(row));
                }
            }
            BlobState::Gone | BlobState::Quarantined => {}
        }
        Ok(())
    }

    fn rewrite_decide(
        &self,
        row: &BlobRow,
        spec: &PruneSpec,
        marks: &Marks,
    ) -> Result<Option<PlanRewrite>, StoreError> {
        let (Some(bits), BlobKind::Pack) = (marks.packs.get(&row.id), row.kind) else {
            return Ok(None);
        };
        let map = self.index.footers.load(&self.blobs, row.id, &row.key, row.len)?;
        let mut frames = Vec::new();
        let mut live_bytes = 0;
        for (number, frame) in map.frames.iter().enumerate() {
            if bits.contains(number as u32) {
                frames.push(number as u32);
                live_bytes += u64::from(frame.len);
            }
        }
        let share = live_bytes as f64 / row.frames_len.max(1) as f64;
        if share >= f64::from(spec.rewrite_below) {
            return Ok(None);
        }
        Ok(Some(PlanRewrite {
            id: row.id,
            space: row.space.clone(),
            touched: row.touched,
            len: row.len,
            frames,
            live_bytes,
        }))
    }

    /// Keys whose rows are gone. Ids are never used again, so no late row can claim one.
    fn leftovers(&self, rows: &[BlobRow], ledger: &dyn Ledger) -> Result<Vec<String>, StoreError> {
        let known: HashSet<&str> = rows.iter().map(|row| row.key.as_str()).collect();
        let mut strange: HashSet<String> = HashSet::new();
        for kind in BlobKind::ALL {
            self.blobs.list(kind.folder(), &mut |blob| {
                if !known.contains(blob.key.as_str()) {
                    strange.insert(blob.key);
                }
            })?;
        }
        if strange.is_empty() {
            return Ok(Vec::new());
        }
        // A key without any row is not prune's business: check reports it.
        let mut sweep = Vec::new();
        rows_each(ledger, &[BlobState::Gone], |row| {
            sweep.extend(strange.take(&row.key));
            Ok::<_, StoreError>(())
        })?;
        sweep.sort_unstable();
        Ok(sweep)
    }
}

fn doom_of(row: &BlobRow) -> PlanDoom {
    PlanDoom {
        id: row.id,
        kind: row.kind,
        space: row.space.clone(),
        touched: row.touched,
        len: row.len,
        staged: row.state == BlobState::Staged,
    }
}

fn delete_of(row: &BlobRow) -> PlanDelete {
    PlanDelete { id: row.id, kind: row.kind, space: row.space.clone(), key: row.key.clone(), len: row.len }
}
