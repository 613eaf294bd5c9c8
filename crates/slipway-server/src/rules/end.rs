//! The end of versions and images: their rows go, and prune then finds their bytes unreferenced. Either the time in the trash is over,
//! or somebody does not want to wait for that.

use crate::core::{Caller, Core, Nudge};
use crate::db::{DbError, Tx, TxError, sql, tx};
use crate::policy::Action;
use crate::rules::image_row::{ImageRow, image_find_locked, image_touch};
use crate::rules::task::task_create;
use crate::rules::trash::{image_pin, version_pin};
use crate::rules::version::{image_channels, version_find, version_read};
use serde_json::json;
use slipway_api::{ImageRef, Problem, TaskKind, VersionPick};
use uuid::Uuid;

/// A version that is to end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ending {
    pub image: Uuid,
    pub number: u64,
    pub content: Uuid,
    pub reference: String,
    /// It is not the version that goes but a content that another took the place of.
    pub replaced: bool,
}

/// Takes away the rows of a version, or of a content that was replaced. `now`: its time in the trash was not waited for.
pub(crate) async fn version_remove(tx: &mut Tx, version: &Ending, now: bool) -> Result<(), DbError> {
    let (rows, verb) = match version.replaced {
        false => ("DELETE FROM version WHERE content_id = $1", "version_expire"),
        true => ("DELETE FROM replaced WHERE content_id = $1", "content_expire"),
    };
    tx.run(sql(rows).bind(version.content)).await?;
    tx.run(sql("DELETE FROM content WHERE id = $1").bind(version.content)).await?;
    tx.journal(verb, version.reference.clone(), json!({ "content": version.content, "now": now }));
    Ok(())
}

/// All contents of an image, those that were replaced too; or those of one number.
async fn endings(tx: &mut Tx, image: &ImageRow, number: Option<u64>) -> Result<Vec<Ending>, DbError> {
    let mut found = Vec::new();
    for (table, replaced) in [("version", false), ("replaced", true)] {
        let text = format!("SELECT number, content_id FROM {table} WHERE image_id = $1 ORDER BY number, content_id");
        for row in tx.rows(sql(text).bind(image.id)).await? {
            let at = row.size("number")?;
            if number.is_none_or(|number| number == at) {
                let (content, reference) = (row.parsed("content_id")?, image.version_reference(at));
                found.push(Ending { image: image.id, number: at, content, reference, replaced });
            }
        }
    }
    Ok(found)
}

/// Takes away the rows of an image that has no versions any more.
pub(crate) async fn image_remove(tx: &mut Tx, image: &ImageRow, now: bool) -> Result<(), DbError> {
    tx.run(sql("DELETE FROM channel WHERE image_id = $1").bind(image.id)).await?;
    tx.run(sql("DELETE FROM image_reader WHERE image_id = $1").bind(image.id)).await?;
    tx.run(
        sql("UPDATE upload SET state = 'ended' WHERE image_id = $1 AND state IN ('open', 'committing')").bind(image.id),
    )
    .await?;
    tx.run(sql("DELETE FROM image WHERE id = $1").bind(image.id)).await?;
    tx.journal("image_expire", image.reference(), json!({ "id": image.id, "now": now }));
    Ok(())
}

/// Ends a version at once, whether or not it is in the trash. Nothing brings it back.
///
/// # Errors
/// `pinned` for what [`version_trash`](crate::rules::trash::version_trash) would not take either.
pub async fn version_end(core: &Core, who: &Caller, reference: &ImageRef, pick: &VersionPick) -> Result<(), Problem> {
    let done: Result<(), TxError> = tx!(&core.db, who, |tx| {
        let image = image_find_locked(tx, who, reference, Action::ImageDelete).await?;
        let row = version_find(tx, &image, pick, true).await?;
        let channels = image_channels(tx, &image.id).await?;
        let version = version_read(&row, &channels)?;
        if let Some(problem) = version_pin(&image, &version) {
            return Err(problem.into());
        }
        for ending in endings(tx, &image, Some(version.number)).await? {
            version_remove(tx, &ending, true).await?;
        }
        image_touch(tx, &image.id).await?;
        prune_soon(tx).await?;
        Ok(())
    });
    Ok(done?)
}

/// Ends an image with all its versions at once, whether or not it is in the trash. Nothing brings it back; its name is free again.
///
/// # Errors
/// `pinned` for what [`image_trash`](crate::rules::trash::image_trash) would not take either.
pub async fn image_end(core: &Core, who: &Caller, reference: &ImageRef, if_match: Option<u64>) -> Result<(), Problem> {
    let done: Result<(), TxError> = tx!(&core.db, who, |tx| {
        let image = image_find_locked(tx, who, reference, Action::ImageDelete).await?;
        image.revision_check(if_match)?;
        if let Some(problem) = image_pin(tx, &image).await? {
            return Err(problem.into());
        }
        for ending in endings(tx, &image, None).await? {
            version_remove(tx, &ending, true).await?;
        }
        image_remove(tx, &image, true).await?;
        prune_soon(tx).await?;
        Ok(())
    });
    Ok(done?)
}

/// Queues a prune, unless one waits already: it dooms what nothing refers to any more.
async fn prune_soon(tx: &mut Tx) -> Result<(), DbError> {
    let waiting = sql(
        "SELECT id FROM task WHERE kind = 'prune' AND state = 'queued' AND input NOT LIKE '%\"dry_run\":true%' LIMIT 1",
    );
    if tx.row(waiting).await?.is_none() {
        task_create(tx, &Caller::server(), TaskKind::Prune, "store", &json!({ "dry_run": false })).await?;
        tx.journal("prune_request", "store", json!({ "dry_run": false }));
    }
    tx.nudge(Nudge::Expiry);
    Ok(())
}
