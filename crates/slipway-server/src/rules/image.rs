//! Images: made, seen, listed, changed.

use crate::core::{Caller, Core};
use crate::db::{DbError, Tx, TxError, sql, tx, word_of};
use crate::policy::{self, Action, Object, SYSTEM};
use crate::rules::idempotency::{idempotency_begin, idempotency_finish};
use crate::rules::image_row::{
    IMAGE_SELECT, ImageBy, ImageRow, image_find, image_find_locked, image_to_wire, images_to_wire, public_space,
    readers_load,
};
use crate::rules::owner::{Owner, owner_find, owner_name, server_allowed};
use crate::rules::page::{cursor_decode, cursor_encode, like_anywhere, limit_check, page_of};
use crate::rules::quota::quota_image;
use crate::rules::text::{
    associated_check, compression_check, description_check, labels_check, text_check, title_check,
};
use crate::rules::version::{version_cursor, version_page, versions_before};
use serde_json::json;
use slipway_api::{
    AccountName, Code, Image, ImageChange, ImageNew, ImageQuery, ImageRef, ImageType, Page, PageQuery, Problem, Role,
};
use slipway_store::SpaceId;
use std::str::FromStr;
use uuid::Uuid;

pub use crate::rules::rollback::image_rollback;
pub use crate::rules::sharing::sharing_change;
pub use crate::rules::trash::{image_restore, image_trash};

fn taken(owner: &str, slug: &str) -> Problem {
    Problem::new(Code::NameTaken, format!("image {owner}/{slug} exists already"))
        .hint("choose another name; one in the trash keeps its name until its grace is over")
}

/// A new image's fields, checked.
pub(crate) struct ImageChecked<'a> {
    new: &'a ImageNew,
    title: String,
    compression: String,
    associated: Vec<String>,
}

/// Checks all fields but the reference; `slug` is the title where none was given.
pub(crate) fn image_new_check<'a>(who: &Caller, new: &'a ImageNew, slug: &str) -> Result<ImageChecked<'a>, Problem> {
    let title = new.title.clone().unwrap_or_else(|| slug.to_owned());
    let compression = new.compression.clone().unwrap_or_else(|| "zstd".to_owned());
    title_check(&title)?;
    description_check(&new.description)?;
    compression_check(&compression)?;
    labels_check(&new.labels)?;
    if let Some(location) = &new.target_location {
        text_check("target_location", location, 255, false)?;
    }
    let associated = associated_check(new.associated.clone(), who.user.as_ref().map(|user| user.name.as_str()))?;
    Ok(ImageChecked { new, title, compression, associated })
}

/// The spaces of a new image of this owner.
pub(crate) fn spaces_of_new(owner: &Owner) -> Vec<SpaceId> {
    match owner.name == SYSTEM {
        true => vec![public_space()],
        false => vec![owner.space()],
    }
}

/// Inserts an image's row and gives its id; none if the name is taken.
pub(crate) async fn image_insert(
    tx: &mut Tx,
    owner: &Owner,
    slug: &str,
    image: &ImageChecked<'_>,
) -> Result<Option<Uuid>, DbError> {
    let (id, now, new) = (Uuid::now_v7(), tx.now(), image.new);
    let insert =
        sql("INSERT INTO image (id, account_id, slug, title, image_type, file_system, compression, target_location, \
         associated, description, labels, spaces, public, versioned, file_type, transfer, protected, next_number, \
         created_at, updated_at, revision) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, 0, 0, $17, $17, 1) \
         ON CONFLICT (account_id, slug) DO NOTHING")
        .bind(id)
        .bind(owner.id)
        .bind(slug)
        .bind(&image.title)
        .bind(word_of(&new.image_type.unwrap_or_default()))
        .bind(new.file_system.as_ref().map(word_of))
        .bind(&image.compression)
        .bind(new.target_location.clone())
        .bind(json!(image.associated).to_string())
        .bind(&new.description)
        .bind(json!(new.labels).to_string())
        .bind(json!(spaces_of_new(owner)).to_string())
        .bind(owner.name == SYSTEM)
        .bind(new.versioned.unwrap_or(true))
        .bind(word_of(&new.file_type.unwrap_or_default()))
        .bind(word_of(&new.transfer.unwrap_or_default()))
        .bind(now);
    if tx.run(insert).await? == 0 {
        return Ok(None);
    }
    tx.journal("image_create", format!("{}/{slug}", owner.name), json!({ "id": id }));
    Ok(Some(id))
}

/// Makes an image.
pub async fn image_create(core: &Core, who: &Caller, new: ImageNew) -> Result<Image, Problem> {
    let reference = ImageRef::from_str(&new.reference)
        .map_err(|error| Problem::new(Code::InvalidName, format!("{error}")).field("ref"))?;
    let slug = reference.slug.as_str();
    let checked = image_new_check(who, &new, slug)?;
    let made: Result<Image, TxError> = tx!(&core.db, who, |tx| {
        let owner = owner_of_new(tx, who, &reference.owner, slug, new.image_type).await?;
        if let Some(answer) = idempotency_begin(tx, who).await? {
            return Ok(answer);
        }
        quota_image(tx, core, &owner).await?;
        let id = image_insert(tx, &owner, slug, &checked).await?.ok_or_else(|| taken(&owner.name, slug))?;
        let row = crate::rules::image_row::image_by_id(tx, &id).await?;
        let row = row.ok_or_else(|| policy::missing(&format!("image {id}")))?;
        let image = image_to_wire(tx, who, row).await?;
        idempotency_finish(tx, who, &image).await?;
        Ok(image)
    });
    Ok(made?)
}

/// The account that a new image shall belong to, if the caller may make one of this type there.
pub(crate) async fn owner_of_new(
    tx: &mut Tx,
    who: &Caller,
    owner: &str,
    slug: &str,
    image_type: Option<ImageType>,
) -> Result<Owner, TxError> {
    let name = owner_name(who, owner)?;
    let system_type = image_type == Some(ImageType::System);
    let object = |owner: Uuid| Object::Name { owner, owner_name: name, slug, system_type };
    match owner_find(tx, name).await? {
        Some(owner) => {
            policy::allowed(who, Action::ImageCreate, &object(owner.id))?;
            Ok(owner)
        }
        // Only who may make images everywhere learns that there is no such account.
        None => {
            policy::allowed(who, Action::ImageCreate, &object(Uuid::max()))?;
            Err(policy::missing(&Object::NoUser { name }.label()).into())
        }
    }
}

/// One image with a page of its versions, newest first; with `trash` those in the trash too, for who may take them out.
pub async fn image_get(core: &Core, who: &Caller, reference: &ImageRef, query: &ImageQuery) -> Result<Image, Problem> {
    let (limit, before) = (limit_check(query.limit)?, version_cursor(query.cursor.as_deref())?);
    let got: Result<Image, TxError> = async {
        let mut tx = core.db.read().await?;
        let row = image_find(&mut tx, who, reference, Action::ImageRead).await?;
        if query.trash {
            policy::allowed(who, Action::ImageDelete, &Object::Image(row.object()))?;
        }
        let versions = versions_before(&mut tx, &row, query.trash, before, limit + 1).await?;
        let page = version_page(versions, limit);
        let mut image = image_to_wire(&mut tx, who, row).await?;
        (image.versions, image.versions_next) = (Some(page.items), page.next);
        Ok(image)
    }
    .await;
    Ok(got?)
}

/// The images that the caller may read, by owner and name.
pub async fn image_list(core: &Core, who: &Caller, query: &PageQuery) -> Result<Page<Image>, Problem> {
    server_allowed(who, Action::ImageList)?;
    let limit = limit_check(query.limit)?;
    let [mut owner_after, mut slug_after] = cursor_decode::<2>(query.cursor.as_deref())?.unwrap_or_default();
    let owner = match &query.owner {
        None => None,
        Some(text) if text == "me" => Some(owner_name(who, text)?.to_owned()),
        Some(text) => {
            let name = AccountName::from_str(text);
            Some(name.map_err(|error| Problem::new(Code::InvalidName, format!("{error}")).field("owner"))?.to_string())
        }
    };
    let listed: Result<Page<Image>, TxError> = async {
        let mut tx = core.db.read().await?;
        let mut kept: Vec<ImageRow> = Vec::new();
        // The scope's patterns are beyond SQL, so rows are asked for until the page is full.
        while kept.len() <= limit {
            let batch =
                image_batch(&mut tx, who, query, owner.as_deref(), (&owner_after, &slug_after), limit + 1).await?;
            let Some(last) = batch.last() else { break };
            (owner_after, slug_after) = (last.owner.name.clone(), last.slug.clone());
            let full = batch.len() > limit;
            let action = if query.trash { Action::ImageDelete } else { Action::ImageRead };
            kept.extend(
                batch.into_iter().filter(|image| policy::allowed(who, action, &Object::Image(image.object())).is_ok()),
            );
            if !full {
                break;
            }
        }
        kept.truncate(limit + 1);
        let images = images_to_wire(&mut tx, who, kept).await?;
        Ok(page_of(images, limit, |image| cursor_encode(&[image.owner.as_str(), image.slug.as_str()])))
    }
    .await;
    Ok(listed?)
}

pub(crate) async fn image_batch(
    tx: &mut Tx,
    who: &Caller,
    query: &PageQuery,
    owner: Option<&str>,
    after: (&str, &str),
    count: usize,
) -> Result<Vec<ImageRow>, DbError> {
    let (user, sees_all) = match &who.user {
        Some(user) => (user.id, user.role == Role::Admin),
        None => (Uuid::nil(), who.is_server()),
    };
    let pattern = query.q.as_deref().map_or_else(|| "%".to_owned(), like_anywhere);
    let trash = if query.trash { "image.trashed_at IS NOT NULL" } else { "image.trashed_at IS NULL" };
    let text = format!(
        "{IMAGE_SELECT} WHERE {trash} \
         AND (account.name > $1 OR (account.name = $1 AND image.slug > $2)) \
         AND ($3 = '' OR account.name = $3) \
         AND (LOWER(image.slug) LIKE $4 ESCAPE '\\' OR LOWER(image.title) LIKE $4 ESCAPE '\\') \
         AND ($5 = 1 OR image.public = 1 OR image.account_id = $6 OR account.name = '{SYSTEM}' \
              OR EXISTS (SELECT 1 FROM image_reader WHERE image_reader.image_id = image.id AND image_reader.account_id = $6)) \
         ORDER BY account.name, image.slug LIMIT $7"
    );
    let rows = tx
        .rows(
            sql(text)
                .bind(after.0)
                .bind(after.1)
                .bind(owner.unwrap_or_default())
                .bind(pattern)
                .bind(sees_all)
                .bind(user)
                .bind(count as u64),
        )
        .await?;
    let mut images = rows.iter().map(ImageRow::read).collect::<Result<Vec<_>, _>>()?;
    readers_load(tx, &mut images).await?;
    Ok(images)
}

/// Changes what is given, its name included.
pub async fn image_change(
    core: &Core,
    who: &Caller,
    image: impl Into<ImageBy<'_>>,
    change: ImageChange,
    if_match: Option<u64>,
) -> Result<Image, Problem> {
    let image = image.into();
    let associated = change_check(who, &change)?;
    let changed: Result<Image, TxError> = tx!(&core.db, who, |tx| {
        let mut row = image_find_locked(tx, who, image, Action::ImageWrite).await?;
        row.trash_check()?;
        row.revision_check(if_match)?;
        type_check(who, &row, &change)?;
        versioned_check(tx, &row, &change).await?;
        if let Some(slug) = change.slug.as_ref().filter(|slug| slug.as_str() != row.slug) {
            let clash =
                sql("SELECT id FROM image WHERE account_id = $1 AND slug = $2").bind(row.owner.id).bind(slug.as_str());
            if tx.row(clash).await?.is_some() {
                return Err(taken(&row.owner.name, slug.as_str()).into());
            }
            // A token for one image must not take over the name of another.
            let renamed = Object::Name {
                owner: row.owner.id,
                owner_name: &row.owner.name,
                slug: slug.as_str(),
                system_type: row.image_type == ImageType::System,
            };
            policy::allowed(who, Action::ImageCreate, &renamed)?;
        }
        let before = row.reference();
        change_apply(&mut row, &change, associated.clone());
        let update =
            sql("UPDATE image SET slug = $1, title = $2, image_type = $3, file_system = $4, compression = $5, \
             target_location = $6, associated = $7, description = $8, labels = $9, protected = $10, updated_at = $11, \
             versioned = $13, file_type = $14, transfer = $15, revision = revision + 1 WHERE id = $12")
            .bind(&row.slug)
            .bind(&row.title)
            .bind(word_of(&row.image_type))
            .bind(row.file_system.as_ref().map(word_of))
            .bind(&row.compression)
            .bind(row.target_location.clone())
            .bind(json!(row.associated).to_string())
            .bind(&row.description)
            .bind(json!(row.labels).to_string())
            .bind(row.protected)
            .bind(tx.now())
            .bind(row.id)
            .bind(row.versioned)
            .bind(word_of(&row.file_type))
            .bind(word_of(&row.transfer));
        tx.run(update).await?;
        tx.journal("image_change", before, json!(change));
        row.revision += 1;
        row.updated_at = tx.now();
        Ok(image_to_wire(tx, who, row).await?)
    });
    Ok(changed?)
}

/// What machines run is in the hands of moderators: also whether an image becomes that, or is it no more.
fn type_check(who: &Caller, row: &ImageRow, change: &ImageChange) -> Result<(), Problem> {
    let to = change.image_type.unwrap_or(row.image_type);
    let fine = to == row.image_type || (to != ImageType::System && row.image_type != ImageType::System);
    let moderator = who.user.as_ref().is_none_or(|user| user.role >= Role::Moderator);
    match fine || moderator {
        true => Ok(()),
        false => {
            let title = format!(
                "making image {} of type system, or not so any more, needs role moderator or admin",
                row.reference()
            );
            Err(Problem::new(Code::Forbidden, title).field("type"))
        }
    }
}

/// An image of one version has one.
async fn versioned_check(tx: &mut Tx, row: &ImageRow, change: &ImageChange) -> Result<(), TxError> {
    if !row.versioned || change.versioned != Some(false) {
        return Ok(());
    }
    let count = sql("SELECT COUNT(*) AS n FROM version WHERE image_id = $1").bind(row.id);
    match tx.row_must(count).await?.size("n")? {
        0 | 1 => Ok(()),
        n => {
            let title =
                format!("image {} has {n} versions, the trash counted; without versions it has one", row.reference());
            Err(Problem::new(Code::Conflict, title).field("versioned").hint("make another image for that").into())
        }
    }
}

fn change_check(who: &Caller, change: &ImageChange) -> Result<Option<Vec<String>>, Problem> {
    if let Some(title) = &change.title {
        title_check(title)?;
    }
    if let Some(compression) = &change.compression {
        compression_check(compression)?;
    }
    if let Some(location) = &change.target_location {
        text_check("target_location", location, 255, false)?;
    }
    if let Some(description) = &change.description {
        description_check(description)?;
    }
    if let Some(labels) = &change.labels {
        labels_check(labels)?;
    }
    let me = who.user.as_ref().map(|user| user.name.as_str());
    change.associated.clone().map(|references| associated_check(references, me)).transpose()
}

fn change_apply(row: &mut ImageRow, change: &ImageChange, associated: Option<Vec<String>>) {
    let ImageChange {
        slug,
        title,
        image_type,
        file_system,
        compression,
        target_location,
        versioned,
        file_type,
        transfer,
        associated: _,
        description,
        labels,
        protected,
    } = change.clone();
    row.slug = slug.map_or_else(|| row.slug.clone(), String::from);
    row.title = title.unwrap_or_else(|| row.title.clone());
    row.image_type = image_type.unwrap_or(row.image_type);
    row.file_system = file_system.or(row.file_system);
    row.compression = compression.unwrap_or_else(|| row.compression.clone());
    // An empty text takes the location off.
    row.target_location = target_location.or_else(|| row.target_location.clone()).filter(|text| !text.is_empty());
    row.versioned = versioned.unwrap_or(row.versioned);
    row.file_type = file_type.unwrap_or(row.file_type);
    row.transfer = transfer.unwrap_or(row.transfer);
    row.associated = associated.unwrap_or_else(|| row.associated.clone());
    row.description = description.unwrap_or_else(|| row.description.clone());
    row.labels = labels.unwrap_or_else(|| row.labels.clone());
    row.protected = protected.unwrap_or(row.protected);
}
