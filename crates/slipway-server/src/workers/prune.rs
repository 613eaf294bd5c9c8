//! Frees what nothing refers to: versions whose time in the trash is over first, then packs and documents.

use crate::core::{Caller, Core, Nudge, ms};
use crate::db::DbError;
use crate::rules::room::room_get;
use crate::rules::upload_fill::blocking;
use crate::workers::Worker;
use crate::workers::expire::{versions_due, versions_expire};
use crate::workers::run::{Halt, Running, Stop, TaskWork, halt, task_pass};
use futures_util::future::BoxFuture;
use serde_json::Value;
use slipway_api::{Code, Problem, PruneRequest, PruneResult, TaskKind};
use slipway_store::{BlobKind, PruneDone, PrunePlan, PruneSpec};
use std::sync::Arc;
use std::time::Duration;

/// Sees to tasks of kind prune.
pub(crate) struct Prune;

impl Worker for Prune {
    fn name(&self) -> &'static str {
        "prune"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn wakes(&self, nudge: Nudge) -> bool {
        nudge == Nudge::Queued(TaskKind::Prune)
    }

    fn pass<'a>(&'a self, core: &'a Arc<Core>, stop: &'a Stop) -> BoxFuture<'a, Result<bool, DbError>> {
        Box::pin(task_pass(core, self, stop))
    }
}

impl TaskWork for Prune {
    fn kind(&self) -> TaskKind {
        TaskKind::Prune
    }

    fn run<'a>(&'a self, core: &'a Arc<Core>, running: &'a Running) -> BoxFuture<'a, Result<Value, Halt>> {
        Box::pin(async move {
            let request: PruneRequest = serde_json::from_value(running.task.input.clone()).map_err(|error| {
                Halt::Failed(Problem::new(Code::Internal, format!("reading the request of a prune: {error}")))
            })?;
            let result = prune(core, running, &request).await?;
            serde_json::to_value(result).map_err(|error| Halt::Failed(Problem::new(Code::Internal, error.to_string())))
        })
    }
}

/// Plans, and unless it is a dry run, does. Both make the same plan: the dry run leaves out what would expire first.
///
/// With `now` what is doomed is deleted without its grace. That is safe: the second round's mark was begun after the first round's dooming
/// was committed, and found it unreferenced again. The grace is for readers that hold old addresses: they hear that the pack is gone and ask
/// for a new layout, which has every chunk of every version that still exists; who reads a version that has ended reads no further.
/// Nothing is rewritten meanwhile, because that would take the addresses of living versions away for no reason.
async fn prune(core: &Arc<Core>, running: &Running, request: &PruneRequest) -> Result<PruneResult, Halt> {
    let first = prune_once(core, running, request).await?;
    if !request.now || request.dry_run {
        return Ok(first);
    }
    let second = prune_once(core, running, request).await?;
    Ok(PruneResult {
        dry_run: false,
        versions_expired: first.versions_expired + second.versions_expired,
        // What the first round doomed the second one deleted; only what came in between is still doomed.
        packs_doomed: second.packs_doomed,
        bytes_doomed: second.bytes_doomed,
        packs_rewritten: 0,
        packs_deleted: first.packs_deleted + second.packs_deleted,
        documents_deleted: first.documents_deleted + second.documents_deleted,
        bytes_freed: first.bytes_freed + second.bytes_freed,
        lines: first.lines.into_iter().chain(second.lines).take(1000).collect(),
    })
}

async fn prune_once(core: &Arc<Core>, running: &Running, request: &PruneRequest) -> Result<PruneResult, Halt> {
    let (dry_run, now) = (request.dry_run, request.now);
    running.step("expiring", 0, 0);
    let due = match dry_run {
        true => {
            let mut tx = core.db.read().await?;
            versions_due(&mut tx, core, None).await?
        }
        false => versions_expire(core, &Caller::server()).await?,
    };
    running.go_on()?;
    let ledger = core.ledger().without(due.iter().map(|version| version.content));
    let store = core.store.clone();
    let config = core.config.clone();
    let reports = running.clone();
    // Rewriting takes space before it gives some. On a disk without room it would fail before anything is deleted.
    let full = room_get(core).is_some_and(|room| !room.is_enough());
    let done = blocking(move || {
        let spec = PruneSpec {
            now_ms: ledger.now().map_err(|error| halt("pruning", error.into()))?,
            grace_ms: if now { 0 } else { ms(config.doom_grace) },
            staged_grace_ms: ms(config.staged_grace),
            rewrite_below: if now || full { 0.0 } else { config.rewrite_below },
        };
        let plan = store
            .prune_plan(&spec, &ledger, &mut |at| reports.report(at))
            .map_err(|error| halt("planning a prune", error))?;
        reports.go_on()?;
        let done = match dry_run {
            true => None,
            false => Some(
                store
                    .prune_run(&plan, &ledger, &|| reports.is_stopped(), &mut |at| reports.report(at))
                    .map_err(|error| halt("pruning", error))?,
            ),
        };
        Ok::<_, Halt>((plan, done))
    });
    let (plan, done) = done.await??;
    if let Some(done) = done.filter(|done| done.stopped) {
        // What was done stays done, and the next plan takes the rest; the task ends as what stopped it says.
        tracing::info!(task = %running.task.id, ?done, "a prune was stopped between two changes");
        return Err(Halt::Stopped);
    }
    let mut result = result_of(&plan, done.as_ref());
    result.versions_expired = due.len() as u64;
    let gone = due.iter().map(|due| match due.replaced {
        false => format!("version {} expires", due.reference),
        true => format!("content {} that was replaced in version {} expires", due.content, due.reference),
    });
    result.lines = gone.chain(result.lines).take(1000).collect();
    Ok(result)
}

fn result_of(plan: &PrunePlan, done: Option<&PruneDone>) -> PruneResult {
    let packs = |kind: &BlobKind| *kind == BlobKind::Pack;
    let packs_deleted = plan.delete.iter().filter(|blob| packs(&blob.kind)).count() as u64;
    let mut lines: Vec<String> = plan.to_string().lines().map(str::to_owned).collect();
    lines.extend(
        plan.delete
            .iter()
            .map(|blob| format!("delete {} {} of {}, {} bytes", blob.kind, blob.id, blob.space, blob.len)),
    );
    lines.extend(
        plan.doom.iter().map(|blob| format!("doom {} {} of {}, {} bytes", blob.kind, blob.id, blob.space, blob.len)),
    );
    lines.extend(plan.rewrite.iter().map(|pack| {
        format!("rewrite pack {} of {}, {} of {} bytes live", pack.id, pack.space, pack.live_bytes, pack.len)
    }));
    lines.extend(plan.revive.iter().map(|blob| format!("revive {} {} of {}", blob.kind, blob.id, blob.space)));
    if let Some(done) = done.filter(|done| done.kept + done.left > 0) {
        lines.push(format!(
            "{} kept because they were used meanwhile, {} left for the next prune",
            done.kept, done.left
        ));
    }
    PruneResult {
        dry_run: done.is_none(),
        versions_expired: 0,
        packs_doomed: plan.doom.iter().filter(|blob| packs(&blob.kind)).count() as u64,
        packs_rewritten: plan.rewrite.len() as u64,
        packs_deleted,
        documents_deleted: plan.delete.len() as u64 - packs_deleted,
        bytes_freed: done.map_or(plan.bytes_deleted, |done| done.bytes_deleted),
        bytes_doomed: plan.bytes_doomed,
        lines,
    }
}
