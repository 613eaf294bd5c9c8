//! An upload becomes a version: the commit, in one transaction.

use crate::core::{Caller, Core, Nudge, ms};
use crate::db::{DbError, Tx, TxError, placeholders, sql, tx};
use crate::ledger::BATCH;
use crate::rules::checksum::content_crc32;
use crate::rules::content::{content_held, content_swap};
use crate::rules::image_row::{ImageRow, image_by_id, image_lock};
use crate::rules::owner::owner_by_id;
use crate::rules::quota::quota_commit;
use crate::rules::store_problem::store_problem;
use crate::rules::task::task_create;
use crate::rules::upload::{UploadRow, UploadTarget, answer_left, lookup_of, target_of, upload_find};
use crate::rules::version::{VERSION_SELECT, newest_of, version_read};
use serde_json::json;
use slipway_api::{Code, Committed, Outcome, Problem, TaskKind, UploadState, Version};
use slipway_chunk::Digest;
use slipway_store::{BlobId, Prepared, SpaceId, crash_point};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Where a crash test may end the server during a commit, in the order in which it passes them.
pub const COMMIT_CRASH_POINTS: [&str; 4] = ["commit_begun", "commit_touched", "commit_before", "commit_after"];

/// How long a commit that nobody heard of is left alone before it may be asked for again.
pub(super) const COMMIT_PATIENCE: Duration = Duration::from_secs(600);

/// Bytes of holes up to which the digests of a raw image are computed unasked; beyond it they stay null.
pub(crate) const DIGEST_HOLES_MAX: u64 = 64 << 30;

/// What the beginning of a commit came to.
#[derive(Debug)]
pub enum CommitBegin {
    /// The upload is a version already; this is the answer for ever.
    Done(Box<Committed>),
    /// The commit is the caller's; it ends with [`upload_commit`] or [`upload_commit_undo`].
    Run(Box<UploadTarget>),
    /// Somebody else is at it: most likely the same client, whose connection broke.
    Busy(Box<Problem>),
}

/// Takes the commit of an upload: from now on it takes no bytes.
pub async fn upload_commit_begin(core: &Core, who: &Caller, id: &Uuid) -> Result<CommitBegin, Problem> {
    let begun: Result<CommitBegin, TxError> = tx!(&core.db, who, |tx| {
        tx.run(sql("UPDATE upload SET received = received WHERE id = $1").bind(id)).await?;
        if let Some(answer) = answer_left(tx, who, id).await? {
            return Ok(CommitBegin::Done(Box::new(answer)));
        }
        let (upload, image) = upload_find(tx, who, id).await?;
        if let Some(answer) = upload.answer {
            return Ok(CommitBegin::Done(Box::new(answer)));
        }
        let now = tx.now();
        // What a task is cutting has no such time: the task gives it back.
        let left_behind = upload.state == UploadState::Committing
            && upload.task.is_none()
            && upload.commit_until.is_none_or(|until| until < now);
        match (left_behind, upload.open_check()) {
            (false, Err(problem)) if upload.state == UploadState::Committing => {
                return Ok(CommitBegin::Busy(Box::new(problem)));
            }
            (false, Err(problem)) => return Err(problem.into()),
            _ => {}
        }
        image.trash_check()?;
        let update = sql(
            "UPDATE upload SET state = 'committing', commit_until = $1, lease_until = $2, task_id = NULL WHERE id = $3",
        )
        .bind(now + ms(COMMIT_PATIENCE))
        .bind(now + ms(core.config.upload_lease))
        .bind(id);
        tx.run(update).await?;
        Ok(CommitBegin::Run(Box::new(target_of(core, &upload, &image))))
    });
    Ok(begun?)
}

/// Gives a commit back that did not succeed: the upload takes bytes again.
pub async fn upload_commit_undo(core: &Core, id: &Uuid) -> Result<(), DbError> {
    let server = Caller::server();
    let done: Result<(), TxError> = tx!(&core.db, &server, |tx| {
        let update = sql(
            "UPDATE upload SET state = 'open', commit_until = NULL, task_id = NULL WHERE id = $1 AND state = 'committing'",
        );
        tx.run(update.bind(id)).await?;
        Ok(())
    });
    match done {
        Err(TxError::Db(error)) => Err(error),
        Ok(()) | Err(TxError::Refused(_)) => Ok(()),
    }
}

/// Makes the version, in one transaction. Asked again, it gives the same answer for ever.
pub async fn upload_commit(
    core: &Arc<Core>,
    who: &Caller,
    id: &Uuid,
    prepared: &Prepared,
) -> Result<Committed, Problem> {
    // After a failed fsync nobody knows what the disk holds of this upload.
    core.store.poison_check().map_err(|error| store_problem(&format!("committing upload {id}"), error))?;
    let crc32 = crc32_wanted(core, id, prepared).await?;
    crash_point("commit_begun");
    let done: Result<Committed, TxError> = tx!(&core.db, who, |tx| {
        tx.run(sql("UPDATE upload SET received = received WHERE id = $1").bind(id)).await?;
        let (upload, image) = upload_find(tx, who, id).await?;
        if let Some(answer) = upload.answer {
            return Ok(answer);
        }
        if upload.state == UploadState::Ended {
            upload.open_check()?;
        }
        // The image's row is held from here, so that two pushes at once get successive numbers.
        image_lock(tx, &upload.image).await?;
        let image = image_by_id(tx, &image.id).await?.ok_or_else(|| gone(&upload))?;
        image.trash_check()?;
        prepared_check(core, &upload, &image, prepared)?;
        let made_by = owner_by_id(tx, &upload.account).await?.ok_or_else(|| gone(&upload))?.name;
        let answer = match newest_same(tx, &image, &upload, prepared).await? {
            Some(version) => {
                claim_check(upload.digest, version.digest)?;
                Committed { outcome: Outcome::Unchanged, reference: image.version_reference(version.number), version }
            }
            None => {
                let old = content_held(tx, &upload, &image).await?;
                let new = VersionNew {
                    spaces: &upload.spaces,
                    parent: upload.parent,
                    message: &upload.message,
                    source_format: upload.source_format(),
                    claimed: upload.digest,
                    crc32: crc32.as_deref(),
                    made_by: &made_by,
                    upload: &upload.id,
                };
                let made = version_insert(tx, &image, &new, prepared, old.as_ref()).await?;
                quota_commit(tx, core, &image.owner, true).await?;
                made
            }
        };
        let text = serde_json::to_string(&answer)
            .map_err(|error| DbError::Column { column: "answer".to_owned(), detail: error.to_string() })?;
        let update =
            sql("UPDATE upload SET state = 'committed', commit_until = NULL, number = $1, answer = $2 WHERE id = $3")
                .bind(answer.version.number)
                .bind(text)
                .bind(id);
        tx.run(update).await?;
        tx.nudge(Nudge::Expiry);
        // The commit point is the end of this transaction: until then no reader can reach anything of it.
        crash_point("commit_before");
        Ok(answer)
    });
    crash_point("commit_after");
    Ok(done?)
}

/// The checksum of images that are told apart by it. It is computed from what was stored, which is what it speaks of.
async fn crc32_wanted(core: &Arc<Core>, id: &Uuid, prepared: &Prepared) -> Result<Option<String>, Problem> {
    let row = {
        let mut tx = core.db.read().await?;
        let wanted = sql("SELECT upload.spaces FROM upload JOIN image ON image.id = upload.image_id \
             WHERE upload.id = $1 AND upload.answer IS NULL AND (image.versioned = 0 OR image.image_type = 'machine')");
        tx.row(wanted.bind(id)).await?
    };
    match row {
        Some(row) => {
            let spaces: Vec<SpaceId> = row.json("spaces")?;
            content_crc32(core, lookup_of(&spaces), prepared.root).await.map(Some)
        }
        None => Ok(None),
    }
}

fn gone(upload: &UploadRow) -> Problem {
    Problem::new(Code::Gone, format!("upload {} has ended: its image is deleted", upload.id))
}

/// Refuses what is not what the upload said it would be.
fn prepared_check(core: &Core, upload: &UploadRow, image: &ImageRow, prepared: &Prepared) -> Result<(), Problem> {
    if image.spaces != upload.spaces {
        let title = format!("the readers of image {} changed while upload {} ran", image.reference(), upload.id);
        return Err(Problem::new(Code::SpaceChanged, title).hint("push again"));
    }
    if prepared.size > core.config.image_size_max {
        let title =
            format!("an image of {} bytes is larger than the {} allowed", prepared.size, core.config.image_size_max);
        return Err(Problem::new(Code::TooLarge, title));
    }
    if let Some(size) = upload.size.filter(|size| *size != prepared.size) {
        let title = format!("the image has {} bytes, not the {size} that were announced", prepared.size);
        return Err(Problem::new(Code::BadImage, title).field("size"));
    }
    if prepared.sector_size != upload.sector_size {
        let title =
            format!("the manifest says sectors of {}, the upload of {}", prepared.sector_size, upload.sector_size);
        return Err(Problem::new(Code::BadImage, title).field("sector_size"));
    }
    claim_check(upload.digest, prepared.digest)
}

/// Refuses an image whose digest is known and is another than the sender said.
fn claim_check(claimed: Option<Digest>, found: Option<Digest>) -> Result<(), Problem> {
    match (claimed, found) {
        (Some(claimed), Some(found)) if claimed != found => {
            let title = format!("the image has digest {found}, not {claimed}");
            Err(Problem::new(Code::DigestMismatch, title).field("digest"))
        }
        _ => Ok(()),
    }
}

/// The newest version, if it has the same root and no new one is insisted on.
async fn newest_same(
    tx: &mut Tx,
    image: &ImageRow,
    upload: &UploadRow,
    prepared: &Prepared,
) -> Result<Option<Version>, DbError> {
    if upload.make_new {
        return Ok(None);
    }
    Ok(newest_of(tx, image).await?.filter(|newest| newest.root == prepared.root))
}

/// Hashes must go through every zero byte, so for a huge sparse image they would cost far more than its data.
pub(super) fn digests_wanted(size: u64, data_bytes: u64) -> bool {
    size.saturating_sub(data_bytes) <= DIGEST_HOLES_MAX
}

/// Counts a commit on blobs that must all be live; false if prune took one.
pub(crate) async fn blobs_touch(tx: &mut Tx, blobs: &[BlobId]) -> Result<bool, DbError> {
    // In order, so that two commits never wait for each other.
    let mut ids: Vec<String> = blobs.iter().map(ToString::to_string).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut touched = 0;
    for batch in ids.chunks(BATCH) {
        let text = format!(
            "UPDATE blob SET touched = touched + 1 WHERE state = 'live' AND id IN ({})",
            placeholders(1, batch.len())
        );
        touched += tx.run(sql(text).bind_all(batch)).await?;
    }
    Ok(touched == ids.len() as u64)
}

/// What a new version is besides its bytes.
pub(super) struct VersionNew<'a> {
    pub(super) spaces: &'a [SpaceId],
    pub(super) parent: Option<u64>,
    pub(super) message: &'a str,
    pub(super) source_format: &'a str,
    /// The digest that the sender named.
    pub(super) claimed: Option<Digest>,
    pub(super) crc32: Option<&'a str>,
    pub(super) made_by: &'a str,
    /// Under which the store wrote it.
    pub(super) upload: &'a Uuid,
}

/// Inserts content and version into an image that is locked, or puts the content under the number of `old`, whose own goes into the trash.
pub(super) async fn version_insert(
    tx: &mut Tx,
    image: &ImageRow,
    new: &VersionNew<'_>,
    prepared: &Prepared,
    old: Option<&Version>,
) -> Result<Committed, TxError> {
    if !blobs_touch(tx, &prepared.blobs).await? {
        let title = format!("chunks of upload {} were pruned before the commit", new.upload);
        return Err(Problem::new(Code::ChunksGone, title).hint("send them again").into());
    }
    crash_point("commit_touched");
    let now = tx.now();
    let number = old.map_or(image.next_number, |old| old.number);
    let reference = image.version_reference(number);
    let content = content_insert(tx, new, prepared, &reference).await?;
    let detail = json!({
        "root": prepared.root, "size": prepared.size, "new_bytes": prepared.new_bytes, "upload": new.upload,
        "replaced": old.map(|old| old.content),
    });
    match old {
        Some(old) => {
            content_swap(tx, image, old, content, new.message, new.made_by).await?;
            tx.journal("content_replace", &reference, detail);
        }
        None => {
            let insert = sql(
                "INSERT INTO version (image_id, number, content_id, parent, message, protected, created_at, created_by) \
                 VALUES ($1, $2, $3, $4, $5, 0, $6, $7)",
            )
            .bind(image.id)
            .bind(number)
            .bind(content)
            .bind(new.parent)
            .bind(new.message)
            .bind(now)
            .bind(new.made_by);
            tx.run(insert).await?;
            let update =
                sql("UPDATE image SET next_number = $1, updated_at = $2, revision = revision + 1 WHERE id = $3")
                    .bind(number + 1)
                    .bind(now)
                    .bind(image.id);
            tx.run(update).await?;
            tx.journal("version_commit", &reference, detail);
        }
    }
    let text = format!("{VERSION_SELECT} WHERE version.image_id = $1 AND version.number = $2");
    let row = tx.row_must(sql(text).bind(image.id).bind(number)).await?;
    Ok(Committed { outcome: Outcome::Created, reference, version: version_read(&row, &[])? })
}

async fn content_insert(
    tx: &mut Tx,
    new: &VersionNew<'_>,
    prepared: &Prepared,
    reference: &str,
) -> Result<Uuid, TxError> {
    let content = Uuid::now_v7();
    // Equal roots mean equal bytes, so what is known of one content is known of the other; but only where the same people read, because a
    // digest that is there at once would tell that somebody else keeps this very image. That somebody keeps zeros tells nothing.
    let spaces = json!(lookup_of(new.spaces)).to_string();
    let known = tx
        .row(
            sql("SELECT digest, sha256 FROM content WHERE root = $1 AND (spaces = $2 OR data_bytes = 0) \
                 AND sha256 IS NOT NULL LIMIT 1")
            .bind(prepared.root.to_string())
            .bind(&spaces),
        )
        .await?;
    let (known_digest, sha256) = match known {
        Some(row) => (row.parsed_or_null::<Digest>("digest")?, row.text_or_null("sha256")?),
        None => (None, None),
    };
    let digest = prepared.digest.or(known_digest);
    claim_check(new.claimed, digest)?;
    let insert = sql(
        "INSERT INTO content (id, root, spaces, size, sector_size, source_format, data_bytes, stored_bytes, new_bytes, \
         digest, sha256, claimed_digest, created_at, crc32) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(content)
    .bind(prepared.root.to_string())
    .bind(spaces)
    .bind(prepared.size)
    .bind(prepared.sector_size)
    .bind(new.source_format)
    .bind(prepared.data_bytes)
    .bind(prepared.stored_bytes)
    .bind(prepared.new_bytes)
    .bind(digest.map(|digest| digest.to_string()))
    .bind(sha256.clone())
    .bind(new.claimed.filter(|_| digest.is_none()).map(|digest| digest.to_string()))
    .bind(tx.now())
    .bind(new.crc32);
    tx.run(insert).await?;
    if (digest.is_none() || sha256.is_none())
        && (new.claimed.is_some() || digests_wanted(prepared.size, prepared.data_bytes))
    {
        task_create(tx, &Caller::server(), TaskKind::Digest, reference, &json!({ "content": content })).await?;
    }
    Ok(content)
}
