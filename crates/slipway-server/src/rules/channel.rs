//! Channels: movable names for versions. A channel pins the version that it names.

use crate::core::{Caller, Core};
use crate::db::{TxError, sql, time_of, tx};
use crate::policy::Action;
use crate::rules::image_row::{image_find, image_find_locked, image_touch};
use crate::rules::version::{image_channels, version_find};
use serde_json::json;
use slipway_api::{Channel, ChannelName, ChannelSet, ImageRef, Problem, VersionPick};

fn no_channel(image: &str, name: &ChannelName) -> Problem {
    Problem::new(slipway_api::Code::NotFound, format!("image {image} has no channel '{name}'"))
}

/// An image's channels, by name.
pub async fn channel_list(core: &Core, who: &Caller, reference: &ImageRef) -> Result<Vec<Channel>, Problem> {
    let mut tx = core.db.read().await?;
    let image = image_find(&mut tx, who, reference, Action::ImageRead).await?;
    Ok(image_channels(&mut tx, &image.id).await?)
}

/// One channel.
pub async fn channel_get(
    core: &Core,
    who: &Caller,
    reference: &ImageRef,
    name: &ChannelName,
) -> Result<Channel, Problem> {
    let mut tx = core.db.read().await?;
    let image = image_find(&mut tx, who, reference, Action::ImageRead).await?;
    let channels = image_channels(&mut tx, &image.id).await?;
    channels.into_iter().find(|channel| channel.name == *name).ok_or_else(|| no_channel(&image.reference(), name))
}

/// Makes a channel or moves it to another version.
pub async fn channel_set(
    core: &Core,
    who: &Caller,
    reference: &ImageRef,
    name: &ChannelName,
    set: ChannelSet,
) -> Result<Channel, Problem> {
    let moved: Result<Channel, TxError> = tx!(&core.db, who, |tx| {
        let image = image_find_locked(tx, who, reference, Action::ImageWrite).await?;
        image.trash_check()?;
        version_find(tx, &image, &VersionPick::Number(set.version), false).await?;
        let before = image_channels(tx, &image.id).await?.into_iter().find(|channel| channel.name == *name);
        let now = tx.now();
        let upsert = sql("INSERT INTO channel (image_id, name, number, updated_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (image_id, name) DO UPDATE SET number = excluded.number, updated_at = excluded.updated_at")
        .bind(image.id)
        .bind(name.as_str())
        .bind(set.version)
        .bind(now);
        tx.run(upsert).await?;
        image_touch(tx, &image.id).await?;
        let detail =
            json!({ "channel": name, "version": set.version, "before": before.map(|channel| channel.version) });
        tx.journal("channel_set", image.reference(), detail);
        let updated_at = time_of(now)
            .map_err(|error| crate::db::DbError::Column { column: "now".to_owned(), detail: error.to_string() })?;
        Ok(Channel { name: name.clone(), version: set.version, updated_at })
    });
    Ok(moved?)
}

/// Takes a channel away; the version stays.
pub async fn channel_delete(
    core: &Core,
    who: &Caller,
    reference: &ImageRef,
    name: &ChannelName,
) -> Result<(), Problem> {
    let gone: Result<(), TxError> = tx!(&core.db, who, |tx| {
        let image = image_find_locked(tx, who, reference, Action::ImageWrite).await?;
        let delete = sql("DELETE FROM channel WHERE image_id = $1 AND name = $2").bind(image.id).bind(name.as_str());
        if tx.run(delete).await? == 0 {
            return Err(no_channel(&image.reference(), name).into());
        }
        image_touch(tx, &image.id).await?;
        tx.journal("channel_delete", image.reference(), json!({ "channel": name }));
        Ok(())
    });
    Ok(gone?)
}
