//! A reader's word that something stored is damaged.

use crate::core::{Caller, Core, ms};
use crate::db::{TxError, sql, tx};
use crate::policy::missing;
use crate::rules::task::{task_create, task_get, task_outline};
use crate::rules::version::version_content;
use serde_json::json;
use slipway_api::{Code, FindingReport, ImageRef, Problem, Task, TaskKind, VersionPick};
use slipway_chunk::{ChunkId, PackId};
use std::time::Duration;
use uuid::Uuid;

/// How long one look at a pack answers for all who call it damaged.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// Queues a look at the one pack, or names the task that looks or has looked within the hour: whoever reports and however often, a pack is
/// read once. It is the server's own task, so the answer says how far it is, and not what it found.
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
        // The row is held, so that of two reports at once the second sees the first one's task.
        let known = sql("UPDATE blob SET touched = touched WHERE id = $1 AND kind = 'pack' RETURNING space")
            .bind(pack.to_string());
        // A pack of a space that the caller may not read is answered like one that is not there.
        let space = tx.row(known).await?.map(|row| row.text("space")).transpose()?;
        let Some(space) = space.filter(|space| spaces.contains(space)) else {
            return Err(missing(&format!("pack {pack} of {}", content.reference)).into());
        };
        let object = format!("pack {pack}");
        let known = sql("SELECT id FROM task WHERE kind = 'check' AND object = $1 AND account_id IS NULL \
             AND (state IN ('queued', 'running') OR created_at > $2) ORDER BY id DESC LIMIT 1")
        .bind(&object)
        .bind(tx.now() - ms(LOOK_AGAIN));
        if let Some(row) = tx.row(known).await? {
            return Ok(row.parsed("id")?);
        }
        tx.journal("finding_report", &content.reference, json!({ "chunk": chunk, "pack": pack }));
        let input = json!({ "repair": true, "pack": pack, "space": space });
        Ok(task_create(tx, &Caller::server(), TaskKind::Check, &object, &input).await?.id)
    });
    Ok(task_outline(task_get(core, &Caller::server(), &queued?).await?))
}
