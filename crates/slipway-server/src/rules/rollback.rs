//! An old version's content on top again, under a new number: numbers are never used again, and nothing between is lost.

use crate::core::{Caller, Core};
use crate::db::{TxError, sql, tx};
use crate::policy::Action;
use crate::rules::idempotency::{idempotency_begin, idempotency_finish};
use crate::rules::image_row::image_find_locked;
use crate::rules::quota::quota_commit;
use crate::rules::task::task_create;
use crate::rules::text::message_check;
use crate::rules::upload_commit::digests_wanted;
use crate::rules::version::{VERSION_SELECT, image_channels, newest_of, version_find, version_read};
use serde_json::json;
use slipway_api::{Committed, ImageRef, Outcome, Problem, Rollback, TaskKind, VersionPick};
use uuid::Uuid;

/// Makes a version with the content of an old one. It stores nothing: the new content's row refers to the same bytes as the old one's, which is
/// held by the image's lock meanwhile, so that at no moment a prune finds them unreferenced.
pub async fn image_rollback(
    core: &Core,
    who: &Caller,
    reference: &ImageRef,
    wish: Rollback,
) -> Result<Committed, Problem> {
    let message = wish.message.clone().unwrap_or_else(|| format!("rolled back to version {}", wish.to));
    message_check(&message)?;
    let done: Result<Committed, TxError> = tx!(&core.db, who, |tx| {
        let image = image_find_locked(tx, who, reference, Action::ImageWrite).await?;
        image.trash_check()?;
        if let Some(answer) = idempotency_begin(tx, who).await? {
            return Ok(answer);
        }
        let row = version_find(tx, &image, &VersionPick::Number(wish.to), false).await?;
        let channels = image_channels(tx, &image.id).await?;
        let old = version_read(&row, &channels)?;
        let answer = match newest_of(tx, &image).await?.filter(|newest| newest.root == old.root && !wish.new) {
            Some(newest) => Committed {
                outcome: Outcome::Unchanged,
                reference: image.version_reference(newest.number),
                version: newest,
            },
            None => {
                let (number, now, content) = (image.next_number, tx.now(), Uuid::now_v7());
                let by = who.user.as_ref().map_or("system", |user| user.name.as_str());
                let copy = sql(
                    "INSERT INTO content (id, root, spaces, size, sector_size, source_format, data_bytes, stored_bytes, \
                     new_bytes, digest, sha256, claimed_digest, created_at, crc32) \
                     SELECT $1, root, spaces, size, sector_size, source_format, data_bytes, stored_bytes, 0, digest, sha256, \
                     claimed_digest, $2, crc32 FROM content WHERE id = $3",
                );
                tx.run(copy.bind(content).bind(now).bind(old.content)).await?;
                let insert = sql(
                    "INSERT INTO version (image_id, number, content_id, parent, message, protected, created_at, created_by) \
                     VALUES ($1, $2, $3, $4, $5, 0, $6, $7)",
                );
                let insert = insert.bind(image.id).bind(number).bind(content).bind(old.number).bind(&message);
                tx.run(insert.bind(now).bind(by)).await?;
                let update =
                    sql("UPDATE image SET next_number = $1, updated_at = $2, revision = revision + 1 WHERE id = $3");
                tx.run(update.bind(number + 1).bind(now).bind(image.id)).await?;
                quota_commit(tx, core, &image.owner, false).await?;
                let name = image.version_reference(number);
                if (old.digest.is_none() || old.sha256.is_none()) && digests_wanted(old.size, old.data_bytes) {
                    let input = json!({ "content": content });
                    task_create(tx, &Caller::server(), TaskKind::Digest, &name, &input).await?;
                }
                tx.journal("image_rollback", name.clone(), json!({ "to": old.number, "root": old.root }));
                let text = format!("{VERSION_SELECT} WHERE version.image_id = $1 AND version.number = $2");
                let row = tx.row_must(sql(text).bind(image.id).bind(number)).await?;
                Committed { outcome: Outcome::Created, reference: name, version: version_read(&row, &channels)? }
            }
        };
        idempotency_finish(tx, who, &answer).await?;
        Ok(answer)
    });
    Ok(done?)
}
