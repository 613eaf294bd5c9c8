//! Wishes of people about one version: to read every byte of it, to compute its digests.

use crate::core::{Caller, Core};
use crate::db::{Tx, TxError, sql, tx, word_of};
use crate::policy::Action;
use crate::rules::idempotency::{idempotency_begin, idempotency_finish};
use crate::rules::image_row::image_find;
use crate::rules::task::{task_create, task_get};
use crate::rules::version::version_content;
use serde_json::json;
use slipway_api::{Code, ImageRef, Problem, Task, TaskKind, VersionPick};
use uuid::Uuid;

/// Verifications and digests of one account that may wait or run at one time: each reads a whole image.
const WAITING_MAX: u64 = 64;

/// Queues the reading of every byte of a version; one that the caller has asked for already and that still waits or runs is answered instead.
pub async fn version_verify(
    core: &Core,
    who: &Caller,
    reference: &ImageRef,
    pick: &VersionPick,
) -> Result<Task, Problem> {
    // Who may read it may have it read.
    version_task(core, who, reference, pick, (Action::ImageRead, TaskKind::Verify, "version_verify")).await
}

/// Queues the computation of BLAKE3 and SHA-256, however large the image and its holes are. Of a version whose digests are known they are
/// computed again and compared.
pub async fn version_digest(
    core: &Core,
    who: &Caller,
    reference: &ImageRef,
    pick: &VersionPick,
) -> Result<Task, Problem> {
    version_task(core, who, reference, pick, (Action::ImageWrite, TaskKind::Digest, "version_digest")).await
}

async fn version_task(
    core: &Core,
    who: &Caller,
    reference: &ImageRef,
    pick: &VersionPick,
    (action, kind, verb): (Action, TaskKind, &'static str),
) -> Result<Task, Problem> {
    image_find(&mut core.db.read().await?, who, reference, action).await?;
    let content = version_content(core, who, reference, pick).await?;
    let id = content.version.content;
    let made: Result<Uuid, TxError> = tx!(&core.db, who, |tx| {
        if let Some(task) = idempotency_begin::<Uuid>(tx, who).await? {
            return Ok(task);
        }
        let task = match waiting_find(tx, who, &word_of(&kind), &id).await? {
            Some(task) => task,
            None => {
                tx.journal(verb, &content.reference, json!({ "content": id }));
                task_create(tx, who, kind, &content.reference, &json!({ "content": id })).await?.id
            }
        };
        idempotency_finish(tx, who, &task).await?;
        Ok(task)
    });
    task_get(core, who, &made?).await
}

/// The caller's task of this kind for this content that still waits or runs; refuses further ones when there are too many.
async fn waiting_find(tx: &mut Tx, who: &Caller, kind: &str, content: &Uuid) -> Result<Option<Uuid>, TxError> {
    let user = who.user.as_ref().map(|user| user.id);
    let waiting = sql("SELECT id, input FROM task WHERE kind = $1 AND state IN ('queued', 'running') AND cancelled = 0 AND account_id = $2 \
         ORDER BY id DESC LIMIT $3")
    .bind(kind)
    .bind(user)
    .bind(WAITING_MAX);
    let rows = tx.rows(waiting).await?;
    for row in &rows {
        if row.json::<serde_json::Value>("input")?["content"] == json!(content) {
            return Ok(Some(row.parsed("id")?));
        }
    }
    if rows.len() as u64 >= WAITING_MAX {
        let title = format!("{WAITING_MAX} of your tasks of this kind wait already");
        return Err(Problem::new(Code::SlowDown, title).hint("wait for some of them: `slipway task ls`").into());
    }
    Ok(None)
}
