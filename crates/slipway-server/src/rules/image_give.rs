//! An image changes hands. Its contents first move to where the new owner may read, and only then the owner changes: until then nobody
//! reads a byte more than before.

use crate::core::{Caller, Core, Nudge};
use crate::db::{DbError, Tx, TxError, sql, tx};
use crate::policy::{Action, SYSTEM};
use crate::rules::image_empty::slug_free;
use crate::rules::image_row::{ImageBy, ImageRow, image_find_locked, image_touch, public_space};
use crate::rules::owner::{Owner, no_account, owner_find};
use crate::rules::sharing::{Rehome, fresh_space, sharing_open};
use crate::rules::task::{task_create, task_get};
use serde_json::json;
use slipway_api::{Code, Problem, TaskKind};
use std::time::Duration;
use uuid::Uuid;

/// Gives an image to another user; for admins. Waits for the move for at most `wait`; `true` once it is done.
pub(crate) async fn image_give(
    core: &Core,
    who: &Caller,
    image: ImageBy<'_>,
    to: &str,
    wait: Duration,
) -> Result<bool, Problem> {
    let begun: Result<Option<Uuid>, TxError> = tx!(&core.db, who, |tx| {
        let image = image_find_locked(tx, who, image, Action::ImageGive).await?;
        image.trash_check()?;
        let owner = owner_find(tx, to).await?.ok_or_else(|| no_account(to).field("owner"))?;
        image_give_begin(tx, who, &image, &owner).await
    });
    match begun? {
        Some(task) => task_wait(core, task, wait).await,
        None => Ok(true),
    }
}

/// The task that moves a locked image's contents and then changes its owner; none if there was nothing to move.
pub(super) async fn image_give_begin(
    tx: &mut Tx,
    who: &Caller,
    image: &ImageRow,
    owner: &Owner,
) -> Result<Option<Uuid>, TxError> {
    if image.owner.id == owner.id {
        return Ok(None);
    }
    if owner.name == SYSTEM || image.owner.name == SYSTEM {
        let title =
            format!("image {} cannot be given to or by the system, whose images are open to all", image.reference());
        return Err(Problem::new(Code::Conflict, title).hint("share it with everyone instead").into());
    }
    if let Some(task) = image.share_task {
        let title = format!("the sharing of image {} is being changed by task {task}", image.reference());
        return Err(Problem::new(Code::Conflict, title).hint("wait for the task, or cancel it").into());
    }
    let others = image.readers.iter().any(|reader| *reader != owner.id);
    let space = match (image.public, others) {
        (true, _) => public_space(),
        (false, true) => fresh_space(),
        (false, false) => owner.space(),
    };
    let rehome = Rehome { image: image.id, space, public: false, readers: Vec::new(), owner: Some(owner.id) };
    tx.journal("image_give", image.reference(), json!({ "id": image.id, "to": owner.name }));
    let versions = sql("SELECT COUNT(*) AS n FROM version WHERE image_id = $1").bind(image.id);
    if image.public || tx.row_must(versions).await?.size("n")? == 0 {
        sharing_open(tx, &rehome, true).await?;
        return Ok(None);
    }
    let input = serde_json::to_value(&rehome)
        .map_err(|error| DbError::Column { column: "input".to_owned(), detail: error.to_string() })?;
    let task = task_create(tx, who, TaskKind::Rehome, &image.reference(), &input).await?;
    tx.run(sql("UPDATE image SET share_task = $1 WHERE id = $2").bind(task.id).bind(image.id)).await?;
    image_touch(tx, &image.id).await?;
    Ok(Some(task.id))
}

/// The last step, in the transaction that opens the door: the row gets its new owner, under a name that is free there. An account that was
/// deleted meanwhile gets nothing.
pub(super) async fn owner_set(tx: &mut Tx, image: &Uuid, owner: &Uuid) -> Result<(), DbError> {
    let there = sql("SELECT name FROM account WHERE id = $1 AND kind <> 'deleted'").bind(owner);
    let Some(row) = tx.row(there).await? else { return Ok(()) };
    let owner = Owner { id: *owner, name: row.text("name")? };
    let Some(row) = tx.row(sql("SELECT slug FROM image WHERE id = $1").bind(image)).await? else { return Ok(()) };
    let slug = slug_free(tx, &owner, &row.text("slug")?).await?;
    let update =
        sql("UPDATE image SET account_id = $1, slug = $2 WHERE id = $3").bind(owner.id).bind(&slug).bind(image);
    tx.run(update).await?;
    tx.run(sql("DELETE FROM image_reader WHERE image_id = $1 AND account_id = $2").bind(image).bind(owner.id)).await?;
    tx.nudge(Nudge::Expiry);
    tx.journal("image_given", format!("{}/{slug}", owner.name), json!({ "id": image }));
    Ok(())
}

/// Whether a task has ended well within the time; what it failed of is the error.
async fn task_wait(core: &Core, task: Uuid, wait: Duration) -> Result<bool, Problem> {
    let deadline = tokio::time::Instant::now() + wait;
    let mut nudges = core.nudges();
    loop {
        let row = task_get(core, &Caller::server(), &task).await?;
        match (row.state.is_final(), row.error.clone(), row.result.is_some()) {
            (true, Some(problem), _) => return Err(problem),
            (true, None, done) => return Ok(done),
            (false, _, _) => {}
        }
        if tokio::time::Instant::now() >= deadline {
            return Ok(false);
        }
        let next = (tokio::time::Instant::now() + Duration::from_secs(1)).min(deadline);
        while let Ok(Ok(nudge)) = tokio::time::timeout_at(next, nudges.recv()).await {
            if nudge == Nudge::Task(task) {
                break;
            }
        }
    }
}
