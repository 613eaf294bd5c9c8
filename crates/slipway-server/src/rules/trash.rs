//! Trash: images and versions go in, come out again for seven days, and then are gone. What pins them is named.

use crate::core::{Caller, Core, Nudge};
use crate::db::{DbError, Tx, TxError, sql, tx};
use crate::policy::Action;
use crate::rules::image_row::{ImageBy, ImageRow, image_find_locked, image_to_wire, image_touch};
use crate::rules::version::{image_channels, version_find, version_read};
use serde_json::json;
use slipway_api::{Code, Image, ImageRef, Problem, Version, VersionPick};

pub(super) fn pinned(what: &str, why: &str, hint: String) -> Problem {
    Problem::new(Code::Pinned, format!("{what} cannot be deleted: {why}")).hint(hint)
}

/// Puts a version into the trash.
pub async fn version_trash(core: &Core, who: &Caller, reference: &ImageRef, pick: &VersionPick) -> Result<(), Problem> {
    let done: Result<(), TxError> = tx!(&core.db, who, |tx| {
        let image = image_find_locked(tx, who, reference, Action::ImageDelete).await?;
        image.trash_check()?;
        let row = version_find(tx, &image, pick, false).await?;
        let channels = image_channels(tx, &image.id).await?;
        let version = version_read(&row, &channels)?;
        let name = image.version_reference(version.number);
        if let Some(problem) = version_pin(&image, &version) {
            return Err(problem.into());
        }
        let now = tx.now();
        let update = sql("UPDATE version SET trashed_at = $1 WHERE image_id = $2 AND number = $3")
            .bind(now)
            .bind(image.id)
            .bind(version.number);
        tx.run(update).await?;
        image_touch(tx, &image.id).await?;
        tx.journal("version_trash", name, json!({}));
        tx.nudge(Nudge::Expiry);
        Ok(())
    });
    Ok(done?)
}

/// Takes a version out of the trash.
pub async fn version_restore(core: &Core, who: &Caller, reference: &ImageRef, number: u64) -> Result<Version, Problem> {
    let done: Result<Version, TxError> = tx!(&core.db, who, |tx| {
        let image = image_find_locked(tx, who, reference, Action::ImageDelete).await?;
        image.trash_check()?;
        let row = version_find(tx, &image, &VersionPick::Number(number), true).await?;
        let channels = image_channels(tx, &image.id).await?;
        let mut version = version_read(&row, &channels)?;
        if version.trashed_at.take().is_some() {
            let update = sql("UPDATE version SET trashed_at = NULL WHERE image_id = $1 AND number = $2")
                .bind(image.id)
                .bind(number);
            tx.run(update).await?;
            image_touch(tx, &image.id).await?;
            tx.journal("version_restore", image.version_reference(number), json!({}));
        }
        Ok(version)
    });
    Ok(done?)
}

/// What keeps a version from being deleted.
pub(crate) fn version_pin(image: &ImageRow, version: &Version) -> Option<Problem> {
    let name = image.version_reference(version.number);
    if version.protected {
        let hint = format!("`slipway image protect {name} --off` takes the protection off");
        return Some(pinned(&format!("version {name}"), "it is protected", hint));
    }
    let channel = version.channels.first()?;
    let hint = format!("move the channel, or `slipway channel rm {} {channel}`", image.reference());
    Some(pinned(&format!("version {name}"), &format!("channel '{channel}' names it"), hint))
}

/// What keeps an image from being deleted.
pub(crate) async fn image_pin(tx: &mut Tx, image: &ImageRow) -> Result<Option<Problem>, DbError> {
    let what = format!("image {}", image.reference());
    if image.protected {
        let hint = format!("`slipway image protect {} --off` takes the protection off", image.reference());
        return Ok(Some(pinned(&what, "it is protected", hint)));
    }
    let protected =
        sql("SELECT number FROM version WHERE image_id = $1 AND protected = 1 ORDER BY number LIMIT 1").bind(image.id);
    if let Some(row) = tx.row(protected).await? {
        let name = image.version_reference(row.size("number")?);
        let hint = format!("`slipway image protect {name} --off` takes the protection off");
        return Ok(Some(pinned(&what, &format!("version {name} is protected"), hint)));
    }
    if let Some(channel) = image_channels(tx, &image.id).await?.first() {
        let hint = format!("`slipway channel rm {} {}`", image.reference(), channel.name);
        let why = format!("channel '{}' names version {}", channel.name, image.version_reference(channel.version));
        return Ok(Some(pinned(&what, &why, hint)));
    }
    Ok(None)
}

/// Puts an image with all its versions into the trash.
pub async fn image_trash(
    core: &Core,
    who: &Caller,
    image: impl Into<ImageBy<'_>>,
    if_match: Option<u64>,
) -> Result<(), Problem> {
    let image = image.into();
    let done: Result<(), TxError> = tx!(&core.db, who, |tx| {
        let image = image_find_locked(tx, who, image, Action::ImageDelete).await?;
        image.trash_check()?;
        image.revision_check(if_match)?;
        image_discard(tx, &image).await
    });
    Ok(done?)
}

/// Puts an image that is locked into the trash, unless something pins it.
pub(super) async fn image_discard(tx: &mut Tx, image: &ImageRow) -> Result<(), TxError> {
    if let Some(problem) = image_pin(tx, image).await? {
        return Err(problem.into());
    }
    let now = tx.now();
    tx.run(sql("UPDATE image SET trashed_at = $1 WHERE id = $2").bind(now).bind(image.id)).await?;
    image_touch(tx, &image.id).await?;
    tx.journal("image_trash", image.reference(), json!({ "id": image.id }));
    tx.nudge(Nudge::Expiry);
    Ok(())
}

/// Takes an image out of the trash. Versions that were put there one by one stay there.
pub async fn image_restore(core: &Core, who: &Caller, reference: &ImageRef) -> Result<Image, Problem> {
    let done: Result<Image, TxError> = tx!(&core.db, who, |tx| {
        let mut image = image_find_locked(tx, who, reference, Action::ImageDelete).await?;
        if image.trashed_at.take().is_some() {
            tx.run(sql("UPDATE image SET trashed_at = NULL WHERE id = $1").bind(image.id)).await?;
            image_touch(tx, &image.id).await?;
            image.revision += 1;
            image.updated_at = tx.now();
            tx.journal("image_restore", image.reference(), json!({ "id": image.id }));
        }
        Ok(image_to_wire(tx, who, image).await?)
    });
    Ok(done?)
}
