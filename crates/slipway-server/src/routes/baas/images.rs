//! The image rows, but for the bytes.

use std::time::Duration;

use axum::http::StatusCode;
use slipway_api::{Code, FileSystem, ImageChange, ImageNew, ImageType, Problem};
use uuid::Uuid;

use super::errors::{bad, not_yet};
use super::fields::Fields;
use super::shapes::{
    BaasImage, compression_read, file_system_read, file_type_read, json, text, transfer_read, type_read,
};
use super::users::{name_of_path, name_read};
use crate::core::{Caller, Core};
use crate::http::answer::Answered;
use crate::http::ask::Ask;
use crate::http::json::printable;
use crate::policy::Action;
use crate::rules;
use crate::rules::image_facts::{associated_read, image_allowed, image_facts, images_owned};

const REFUSAL: &str = "couldn't decode image model";
/// MiB of an image that none was asked for.
const SIZE: u64 = 6144;
const MACHINE_SIZE: u64 = 128;
/// How long a change of owner is waited for.
const GIVE_WAIT: Duration = Duration::from_secs(30);

/// `{uuid}` of the path. What is no id cannot be the id of anything.
pub(super) fn uuid(ask: &Ask) -> Result<Uuid, Problem> {
    let given = ask.param("uuid");
    Uuid::try_parse(given).map_err(|_| crate::policy::missing(&format!("image {}", printable(given))))
}

pub(super) async fn image_list(ask: Ask) -> Answered {
    let images = images_owned(&ask.site.core, &ask.who, &name_of_path(&ask), None).await?;
    json(StatusCode::OK, &images.into_iter().map(BaasImage::of).collect::<Vec<_>>())
}

pub(super) async fn image_list_named(ask: Ask) -> Answered {
    let name = ask.param("image_name");
    let images = images_owned(&ask.site.core, &ask.who, &name_of_path(&ask), Some(name)).await?;
    json(StatusCode::OK, &images.into_iter().map(BaasImage::of).collect::<Vec<_>>())
}

pub(super) async fn image_get(ask: Ask) -> Answered {
    let image = image_facts(&ask.site.core, &ask.who, uuid(&ask)?).await?;
    json(StatusCode::OK, &BaasImage::of(image))
}

/// The members that a new image and a change have in common.
struct Given {
    title: Option<String>,
    image_type: Option<ImageType>,
    file_system: Option<FileSystem>,
    change: ImageChange,
}

async fn given_read(core: &Core, who: &Caller, fields: &Fields) -> Result<Given, Problem> {
    let associated = match fields.texts("Associated")? {
        Some(given) => Some(associated_read(core, who, given).await?),
        None => None,
    };
    Ok(Given {
        title: fields.filled("Name")?.map(str::to_owned),
        image_type: fields.filled("Type")?.map(type_read).transpose()?,
        file_system: fields.filled("Filesystem")?.map(file_system_read).transpose()?,
        change: ImageChange {
            compression: fields.filled("DiskCompressionStrategy")?.map(compression_read).transpose()?,
            file_type: fields.filled("ImageFileType")?.map(file_type_read).transpose()?,
            transfer: fields.filled("DiskTransferStrategy")?.map(transfer_read).transpose()?,
            versioned: fields.flag("Versioned")?,
            target_location: fields.filled("Location")?.map(str::to_owned),
            associated,
            ..ImageChange::default()
        },
    })
}

pub(super) async fn image_create(mut ask: Ask) -> Answered {
    let fields = Fields::read(&mut ask, REFUSAL).await?;
    let owner = match (ask.param("name"), fields.filled("Username")?) {
        ("", None) => "me".to_owned(),
        ("", Some(name)) => name_read(name)?.into(),
        (_, _) => name_of_path(&ask),
    };
    if fields.has_items("Versions") {
        return Err(bad("There shouldn't be a version"));
    }
    let given = given_read(&ask.site.core, &ask.who, &fields).await?;
    let title = given.title.ok_or_else(|| bad("Name is not allowed to be empty"))?;
    // Asked for here, a file system means that the empty image be formatted with it. What an upload holds is said with PUT.
    if given.file_system.is_some_and(|asked| asked != FileSystem::Raw) {
        return Err(not_yet(
            "formatting an empty image comes with the control server; this server makes it without a file system",
            "make it without Filesystem, upload a disk that has one, and say which with PUT /image/UUID",
        ));
    }
    let image_type = given.image_type.unwrap_or_default();
    let size = fields.count("Size")?.unwrap_or(if image_type == ImageType::Machine { MACHINE_SIZE } else { SIZE });
    let new = ImageNew {
        title: Some(title),
        image_type: Some(image_type),
        file_system: given.file_system,
        compression: Some(given.change.compression.unwrap_or_else(|| "none".to_owned())),
        target_location: given.change.target_location,
        versioned: given.change.versioned,
        file_type: given.change.file_type,
        transfer: given.change.transfer,
        associated: given.change.associated.unwrap_or_default(),
        ..ImageNew::default()
    };
    ask.site.space_check()?;
    let bytes = size.saturating_mul(1 << 20);
    let image = rules::image_empty::image_create_empty(&ask.site.core, &ask.who, &owner, new, bytes).await?;
    let id = image.id;
    json(StatusCode::CREATED, &BaasImage::of(image_facts(&ask.site.core, &ask.who, id).await?))
}

pub(super) async fn image_change(mut ask: Ask) -> Answered {
    let id = uuid(&ask)?;
    let image = image_allowed(ask.core(), &ask.who, id, Action::ImageWrite).await?;
    let fields = Fields::read(&mut ask, REFUSAL).await?;
    if let Some(other) = fields.filled("UUID")?.filter(|text| Uuid::try_parse(text) != Ok(id)) {
        return Err(bad(format!("UUID '{}' is not that of the path", printable(other))));
    }
    let given = given_read(&ask.site.core, &ask.who, &fields).await?;
    let owner = fields.filled("Username")?.map(name_read).transpose()?.filter(|name| name.as_str() != image.owner.name);
    if owner.is_some() {
        // Asked before anything is changed: both or neither.
        image_allowed(ask.core(), &ask.who, id, Action::ImageGive).await?;
    }
    let change = ImageChange {
        title: given.title,
        image_type: given.image_type,
        file_system: given.file_system,
        ..given.change
    };
    if change != ImageChange::default() {
        rules::image::image_change(ask.core(), &ask.who, id, change, None).await?;
    }
    if let Some(owner) = owner {
        let by = rules::image_row::ImageBy::Id(id);
        let done = rules::image_give::image_give(ask.core(), &ask.who, by, owner.as_str(), GIVE_WAIT).await?;
        if !done {
            let title = format!("the image is still being moved to {owner}, who owns it when that is done");
            return Err(Problem::new(Code::Unavailable, title)
                .retry_after(30)
                .hint("ask for the image again in a while"));
        }
    }
    json(StatusCode::OK, &BaasImage::of(image_facts(&ask.site.core, &ask.who, id).await?))
}

pub(super) async fn image_delete(ask: Ask) -> Answered {
    rules::trash::image_trash(ask.core(), &ask.who, uuid(&ask)?, None).await?;
    Ok(text("Successfully deleted image"))
}
