//! A content takes the place of another under the same version number: compared and swapped, and the old one goes into the trash.

use crate::core::{Caller, Core, Nudge};
use crate::db::{Tx, TxError, sql, tx};
use crate::policy::Action;
use crate::rules::image_row::{ImageRow, image_find_locked, image_touch};
use crate::rules::upload::UploadRow;
use crate::rules::version::{image_channels, newest_of, version_find, version_read};
use serde_json::json;
use slipway_api::{Code, ImageRef, Problem, Version, VersionPick};
use uuid::Uuid;

/// The content that an upload begun now shall take the place of: that of the newest version, if it was asked for or the image has but one
/// version. `None` makes a new version.
///
/// # Errors
/// `pinned` names what keeps the content, before any byte is sent.
pub(super) async fn content_replaceable(tx: &mut Tx, image: &ImageRow, replace: bool) -> Result<Option<Uuid>, TxError> {
    if image.versioned && !replace {
        return Ok(None);
    }
    match newest_of(tx, image).await? {
        Some(version) => {
            pin_check(tx, image, &version).await?;
            Ok(Some(version.content))
        }
        None if image.versioned => {
            let title = format!("image {} has no version whose content could be replaced", image.reference());
            Err(Problem::new(Code::NotFound, title).hint("upload it as a new version").into())
        }
        None => Ok(None),
    }
}

/// What somebody relies on is not exchanged under their eyes.
async fn pin_check(tx: &mut Tx, image: &ImageRow, version: &Version) -> Result<(), TxError> {
    let name = image.version_reference(version.number);
    let pinned = |why: String, hint: String| {
        Err(Problem::new(Code::Pinned, format!("the content of version {name} cannot be replaced: {why}"))
            .hint(hint)
            .into())
    };
    let off =
        |what: &str| format!("`slipway image protect {what} --off` takes the protection off, or upload a new version");
    if image.protected {
        return pinned(format!("image {} is protected", image.reference()), off(&image.reference()));
    }
    if version.protected {
        return pinned("it is protected".to_owned(), off(&name));
    }
    if let Some(channel) = version.channels.first() {
        let hint = format!("move the channel, or `slipway channel rm {} {channel}`", image.reference());
        return pinned(format!("channel '{channel}' names it"), hint);
    }
    let lease = sql("SELECT id FROM upload WHERE image_id = $1 AND parent = $2 AND replaces IS NULL \
         AND state IN ('open', 'committing') AND lease_until > $3 ORDER BY id LIMIT 1");
    let now = tx.now();
    if let Some(row) = tx.row(lease.bind(image.id).bind(version.number).bind(now)).await? {
        let id = row.text("id")?;
        return pinned(
            format!("upload {id} builds on it and has its lease"),
            "let that upload end, or upload a new version".to_owned(),
        );
    }
    Ok(())
}

/// The version whose content an upload takes the place of, held against what was there when the upload began. `None` makes a new version.
pub(super) async fn content_held(
    tx: &mut Tx,
    upload: &UploadRow,
    image: &ImageRow,
) -> Result<Option<Version>, TxError> {
    if upload.replaces.is_none() && image.versioned {
        return Ok(None);
    }
    match (newest_of(tx, image).await?, upload.replaces) {
        (None, None) => Ok(None),
        (Some(version), Some(content)) if version.content == content => {
            pin_check(tx, image, &version).await?;
            Ok(Some(version))
        }
        (Some(_) | None, Some(_)) | (Some(_), None) => {
            let title = format!("the content of image {} was replaced by somebody else meanwhile", image.reference());
            Err(Problem::new(Code::Conflict, title).hint("look at it, then upload again").into())
        }
    }
}

/// Puts the new content, whose row stands already, under the number of the old one.
pub(super) async fn content_swap(
    tx: &mut Tx,
    image: &ImageRow,
    old: &Version,
    new: Uuid,
    message: &str,
    made_by: &str,
) -> Result<(), TxError> {
    let now = tx.now();
    let swap = sql("UPDATE version SET content_id = $1, message = $2, created_at = $3, created_by = $4 \
         WHERE image_id = $5 AND number = $6 AND content_id = $7")
    .bind(new)
    .bind(message)
    .bind(now)
    .bind(made_by)
    .bind(image.id)
    .bind(old.number)
    .bind(old.content);
    if tx.run(swap).await? != 1 {
        let title = format!("version {} was changed meanwhile", image.version_reference(old.number));
        return Err(Problem::new(Code::Conflict, title).hint("look at it, then upload again").into());
    }
    let trash = sql("INSERT INTO replaced (content_id, image_id, number, replaced_at) VALUES ($1, $2, $3, $4)")
        .bind(old.content)
        .bind(image.id)
        .bind(old.number)
        .bind(now);
    tx.run(trash).await?;
    image_touch(tx, &image.id).await?;
    tx.nudge(Nudge::Expiry);
    Ok(())
}

/// Takes a replaced content out of the trash again, `None` is the one that was replaced last: it becomes the version's content, and what was
/// there goes into the trash.
pub async fn content_restore(
    core: &Core,
    who: &Caller,
    reference: &ImageRef,
    number: u64,
    content: Option<Uuid>,
) -> Result<Version, Problem> {
    let done: Result<Version, TxError> = tx!(&core.db, who, |tx| {
        let image = image_find_locked(tx, who, reference, Action::ImageDelete).await?;
        image.trash_check()?;
        let channels = image_channels(tx, &image.id).await?;
        let old = version_read(&version_find(tx, &image, &VersionPick::Number(number), false).await?, &channels)?;
        let name = image.version_reference(number);
        let wanted = sql(
            "SELECT content_id FROM replaced WHERE image_id = $1 AND number = $2 AND ($3 = '' OR content_id = $3) \
             ORDER BY replaced_at DESC, content_id DESC LIMIT 1",
        );
        let id = content.map(|id| id.to_string()).unwrap_or_default();
        let Some(row) = tx.row(wanted.bind(image.id).bind(number).bind(id)).await? else {
            let title = format!("the trash holds no such content of version {name}");
            return Err(Problem::new(Code::NotFound, title)
                .hint("the journal's lines 'content_replace' name what was replaced")
                .into());
        };
        let content: Uuid = row.parsed("content_id")?;
        tx.run(sql("DELETE FROM replaced WHERE content_id = $1").bind(content)).await?;
        pin_check(tx, &image, &old).await?;
        let by = who.actor().to_owned();
        content_swap(tx, &image, &old, content, &old.message, &by).await?;
        tx.journal("content_restore", &*name, json!({ "content": content, "instead_of": old.content }));
        let row = version_find(tx, &image, &VersionPick::Number(number), false).await?;
        Ok(version_read(&row, &channels)?)
    });
    Ok(done?)
}
