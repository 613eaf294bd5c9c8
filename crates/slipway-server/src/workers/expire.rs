//! Clears away what is over: trash after its grace, uploads after their lease, spool files, tokens, kept answers, old tasks. Also asks for
//! a prune when none was for a while.

use crate::core::{Caller, Core, Nudge, ms};
use crate::db::{DbError, Tx, TxError, sql, tx};
use crate::rules::end::{Ending, image_remove, version_remove};
use crate::rules::image_row::{ImageRow, image_by_id, image_lock, image_touch};
use crate::rules::scrub::scrub_ask;
use crate::rules::task::task_create;
use crate::rules::upload_commit::DIGEST_HOLES_MAX;
use crate::workers::Worker;
use crate::workers::run::Stop;
use futures_util::future::BoxFuture;
use serde_json::json;
use slipway_api::TaskKind;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How long the rows of tasks that are over are kept.
const TASKS_KEEP: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long an expired token is still listed.
const TOKENS_KEEP: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long after a digest was asked for last it is asked for again, if it is still lacking.
const DIGEST_AGAIN: Duration = Duration::from_secs(24 * 3600);

/// Clears away what is over.
pub(crate) struct Expire;

impl Worker for Expire {
    fn name(&self) -> &'static str {
        "expire"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn wakes(&self, nudge: Nudge) -> bool {
        nudge == Nudge::Expiry
    }

    fn pass<'a>(&'a self, core: &'a Arc<Core>, _stop: &'a Stop) -> BoxFuture<'a, Result<bool, DbError>> {
        Box::pin(async move {
            expire(core).await?;
            Ok(false)
        })
    }
}

/// One round of clearing away.
pub(crate) async fn expire(core: &Arc<Core>) -> Result<(), DbError> {
    let server = Caller::server();
    versions_expire(core, &server).await.map_err(only_db)?;
    rows_expire(core, &server).await.map_err(only_db)?;
    accounts_expire(core, &server).await.map_err(only_db)?;
    prune_ask(core, &server).await.map_err(only_db)?;
    scrub_ask(core, &server).await.map_err(only_db)?;
    digests_ask(core, &server).await.map_err(only_db)?;
    spools_expire(core).await
}

fn only_db(error: TxError) -> DbError {
    match error {
        TxError::Db(error) => error,
        TxError::Refused(problem) => DbError::Unknown(problem.title),
    }
}

/// Versions whose time in the trash is over, alone or with their image; of all images, or of one.
pub(crate) async fn versions_due(tx: &mut Tx, core: &Core, image: Option<&Uuid>) -> Result<Vec<Ending>, DbError> {
    let before = tx.now() - ms(core.config.trash_grace);
    let mut due = Vec::new();
    // Alike but for what they read: versions, and contents that another took the place of.
    for (table, since, replaced) in [("version", "trashed_at", false), ("replaced", "replaced_at", true)] {
        let text = format!(
            "SELECT {table}.image_id, {table}.number, {table}.content_id, account.name AS owner_name, image.slug \
             FROM {table} JOIN image ON image.id = {table}.image_id JOIN account ON account.id = image.account_id \
             WHERE ({table}.{since} <= $1 OR image.trashed_at <= $1) AND ($2 = '' OR image.id = $2) \
             ORDER BY account.name, image.slug, {table}.number, {table}.content_id"
        );
        let query = sql(text).bind(before).bind(image.map(Uuid::to_string).unwrap_or_default());
        for row in tx.rows(query).await? {
            let number = row.size("number")?;
            due.push(Ending {
                image: row.parsed("image_id")?,
                number,
                content: row.parsed("content_id")?,
                reference: format!("{}/{}:{number}", row.text("owner_name")?, row.text("slug")?),
                replaced,
            });
        }
    }
    Ok(due)
}

/// Removes the rows of versions and images whose time in the trash is over, and says which versions. Prune then finds their bytes unreferenced.
pub(crate) async fn versions_expire(core: &Core, who: &Caller) -> Result<Vec<Ending>, TxError> {
    let mut tx = core.db.read().await?;
    let mut images: BTreeSet<Uuid> =
        versions_due(&mut tx, core, None).await?.into_iter().map(|due| due.image).collect();
    let before = tx.now() - ms(core.config.trash_grace);
    for row in tx.rows(sql("SELECT id FROM image WHERE trashed_at <= $1").bind(before)).await? {
        images.insert(row.parsed("id")?);
    }
    drop(tx);
    let mut gone = Vec::new();
    for image in images {
        // One image at a time, so that nobody waits long; decided again under the lock, because it may have been restored.
        let of_image: Result<Vec<Ending>, TxError> = tx!(&core.db, who, |tx| {
            image_lock(tx, &image).await?;
            match image_by_id(tx, &image).await? {
                Some(row) => Ok(image_expire(tx, core, &row).await?),
                None => Ok(Vec::new()),
            }
        });
        gone.extend(of_image?);
    }
    Ok(gone)
}

async fn image_expire(tx: &mut Tx, core: &Core, image: &ImageRow) -> Result<Vec<Ending>, DbError> {
    let before = tx.now() - ms(core.config.trash_grace);
    let whole = image.trashed_at.is_some_and(|since| since <= before);
    let due = versions_due(tx, core, Some(&image.id)).await?;
    for version in &due {
        version_remove(tx, version, false).await?;
    }
    if whole {
        image_remove(tx, image, false).await?;
    } else if !due.is_empty() {
        image_touch(tx, &image.id).await?;
    }
    Ok(due)
}

/// Removes accounts that are deleted and whose last image is gone.
async fn accounts_expire(core: &Core, who: &Caller) -> Result<(), TxError> {
    tx!(&core.db, who, |tx| {
        let empty = sql("DELETE FROM account WHERE kind = 'deleted' \
             AND NOT EXISTS (SELECT 1 FROM image WHERE image.account_id = account.id) RETURNING id, name");
        for row in tx.rows(empty).await? {
            tx.journal("user_expire", row.text("name")?, json!({ "id": row.text("id")? }));
        }
        Ok(())
    })
}

async fn rows_expire(core: &Core, who: &Caller) -> Result<(), TxError> {
    tx!(&core.db, who, |tx| {
        let now = tx.now();
        let ended = tx
            .rows(
                sql("UPDATE upload SET state = 'ended' WHERE lease_until < $1 AND (state = 'open' \
                     OR (state = 'committing' AND task_id IS NULL AND (commit_until IS NULL OR commit_until < $1))) RETURNING id")
                .bind(now),
            )
            .await?;
        for row in ended {
            tx.journal("upload_expire", row.text("id")?, json!({}));
        }
        tx.run(sql("DELETE FROM token WHERE expires_at < $1").bind(now - ms(TOKENS_KEEP))).await?;
        tx.run(sql("DELETE FROM setup_code WHERE expires_at < $1").bind(now)).await?;
        tx.run(sql("DELETE FROM idempotency WHERE created_at < $1").bind(now - ms(core.config.idempotency_keep)))
            .await?;
        tx.run(sql("DELETE FROM task WHERE finished_at < $1").bind(now - ms(TASKS_KEEP))).await?;
        let over = "(SELECT id FROM finding WHERE closed_at < $1)";
        let hits = format!("DELETE FROM finding_hit WHERE finding_id IN {over}");
        tx.run(sql(hits).bind(now - ms(TASKS_KEEP))).await?;
        tx.run(sql("DELETE FROM finding WHERE closed_at < $1").bind(now - ms(TASKS_KEEP))).await?;
        Ok(())
    })
}

/// Queues a prune if the last one was asked for too long ago.
async fn prune_ask(core: &Core, who: &Caller) -> Result<(), TxError> {
    let Some(every) = core.config.prune_every else { return Ok(()) };
    tx!(&core.db, who, |tx| {
        let since = tx.now() - ms(every);
        // The first is due one period after the first journal line, not at the first start.
        let old = tx.row(sql("SELECT number FROM journal WHERE at < $1 LIMIT 1").bind(since)).await?.is_some();
        let recent = sql(
            "SELECT id FROM task WHERE kind = 'prune' AND created_at >= $1 AND input NOT LIKE '%\"dry_run\":true%' LIMIT 1",
        );
        if old && tx.row(recent.bind(since)).await?.is_none() {
            task_create(tx, who, TaskKind::Prune, "store", &json!({ "dry_run": false })).await?;
            tx.journal("prune_request", "store", json!({ "dry_run": false }));
        }
        Ok(())
    })
}

/// Asks for digests of contents that lack one and whose task has failed or is gone, a few at a time.
async fn digests_ask(core: &Core, who: &Caller) -> Result<(), TxError> {
    tx!(&core.db, who, |tx| {
        let since = tx.now() - ms(DIGEST_AGAIN);
        let lacking = sql("SELECT content.id, account.name AS owner_name, image.slug, version.number FROM content \
             JOIN version ON version.content_id = content.id JOIN image ON image.id = version.image_id \
             JOIN account ON account.id = image.account_id \
             WHERE (content.digest IS NULL OR content.sha256 IS NULL) AND content.created_at < $1 \
             AND (content.size - content.data_bytes <= $2 OR content.claimed_digest IS NOT NULL) \
             AND version.trashed_at IS NULL AND image.trashed_at IS NULL \
             AND NOT EXISTS (SELECT 1 FROM task WHERE task.kind = 'digest' AND (task.state IN ('queued', 'running') OR task.created_at > $1) \
                 AND task.input LIKE '%' || content.id || '%') ORDER BY content.id LIMIT 20")
        .bind(since)
        .bind(DIGEST_HOLES_MAX);
        for row in tx.rows(lacking).await? {
            let reference = format!("{}/{}:{}", row.text("owner_name")?, row.text("slug")?, row.int("number")?);
            let input = json!({ "content": row.text("id")? });
            task_create(tx, who, TaskKind::Digest, &reference, &input).await?;
        }
        tx.run(sql("DELETE FROM digest_part WHERE content_id NOT IN (SELECT id FROM content)")).await?;
        Ok(())
    })
}

/// Removes spool files whose uploads take no bytes any more.
async fn spools_expire(core: &Arc<Core>) -> Result<(), DbError> {
    let dir = core.spool_dir();
    let Ok(mut entries) = tokio::fs::read_dir(&dir).await else { return Ok(()) };
    let mut found: Vec<Uuid> = Vec::new();
    while let Ok(Some(entry)) = entries.next_entry().await {
        // What is not named like an upload is not ours to remove.
        if let Some(id) = entry.file_name().to_str().and_then(|name| Uuid::parse_str(name).ok()) {
            found.push(id);
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    let mut tx = core.db.read().await?;
    let rows = tx.rows(sql("SELECT id FROM upload WHERE state IN ('open', 'committing')")).await?;
    let needed: HashSet<Uuid> = rows.iter().map(|row| row.parsed("id")).collect::<Result<_, _>>()?;
    drop(tx);
    for id in found.into_iter().filter(|id| !needed.contains(id)) {
        if let Err(error) = tokio::fs::remove_file(core.spool_path(&id)).await {
            tracing::warn!(upload = %id, %error, "removing a spool file");
        }
    }
    Ok(())
}
