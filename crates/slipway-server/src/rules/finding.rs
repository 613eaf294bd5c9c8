//! A reader's word that something stored is damaged.

use crate::core::{Caller, Core};
use crate::db::{TxError, sql, tx};
use crate::policy::missing;
use crate::rules::task::{task_create, task_get};
use crate::rules::version::version_content;
use serde_json::json;
use slipway_api::{CheckRequest, Code, FindingReport, ImageRef, Problem, Task, TaskKind, VersionPick};
use slipway_chunk::{ChunkId, PackId};
use uuid::Uuid;

/// Queues a check with repair, or names the one that waits already: many readers of a damaged pack make one check. It is the server's own
/// task, because its result names versions that the reader may not see.
pub async fn finding_report(
    core: &Core,
    who: &Caller,
    reference: &ImageRef,
    pick: &VersionPick,
    report: FindingReport,
) -> Result<Task, Problem> {
    let bad = |field: &str| Problem::new(Code::InvalidRequest, format!("{field} is not an id in hex")).field(field);
    let chunk: ChunkId = report.chunk.parse().map_err(|_| bad("chunk"))?;
    let pack: PackId = report.pack.parse().map_err(|_| bad("pack"))?;
    let content = version_content(core, who, reference, pick).await?;
    let spaces: Vec<String> = content.spaces.iter().map(ToString::to_string).collect();
    let queued: Result<Uuid, TxError> = tx!(&core.db, who, |tx| {
        let known = sql("SELECT space FROM blob WHERE id = $1 AND kind = 'pack'").bind(pack.to_string());
        // A pack of a space that the caller may not read is answered like one that is not there.
        let space = tx.row(known).await?.map(|row| row.text("space")).transpose()?;
        if !space.is_some_and(|space| spaces.contains(&space)) {
            return Err(missing(&format!("pack {pack} of {}", content.reference)).into());
        }
        tx.journal("finding_report", &content.reference, json!({ "chunk": chunk, "pack": pack }));
        let waiting = sql(
            "SELECT id FROM task WHERE kind = 'check' AND state = 'queued' AND account_id IS NULL ORDER BY id LIMIT 1",
        );
        if let Some(row) = tx.row(waiting).await? {
            return Ok(row.parsed("id")?);
        }
        let input = json!(CheckRequest { quick: false, repair: true });
        Ok(task_create(tx, &Caller::server(), TaskKind::Check, "store", &input).await?.id)
    });
    task_get(core, &Caller::server(), &queued?).await
}
