//! A reader's word that something stored is damaged.

use crate::core::{Caller, Core};
use crate::db::{TxError, sql, tx};
use crate::policy::missing;
use crate::rules::finding_row::blob_look_once;
use crate::rules::task::{task_get, task_outline};
use crate::rules::version::version_content;
use serde_json::json;
use slipway_api::{Code, FindingReport, ImageRef, Problem, Task, VersionPick};
use slipway_chunk::{ChunkId, PackId};
use slipway_store::{BlobKind, SpaceId};
use uuid::Uuid;

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
        let space = space.parse::<SpaceId>().map_err(|_| missing(&format!("pack {pack} of {}", content.reference)))?;
        let (task, new) = blob_look_once(tx, &(space, BlobKind::Pack, pack.to_string())).await?;
        if new {
            tx.journal("finding_report", &content.reference, json!({ "chunk": chunk, "pack": pack }));
        }
        Ok(task)
    });
    Ok(task_outline(task_get(core, &Caller::server(), &queued?).await?))
}
