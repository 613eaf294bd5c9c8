//! Images as the BAAS dialect shows them: by id or by owner and title, each with its version numbers and its checksum.

use crate::core::{Caller, Core};
use crate::db::{DbError, Tx, TxError, sql};
use crate::policy::{self, Action, Object, SYSTEM};
use crate::rules::checksum::content_crc32_keep;
use crate::rules::image_row::{IMAGE_SELECT, ImageBy, ImageRow, image_find, readers_load};
use crate::rules::owner::{Owner, owner_find};
use crate::rules::page::batches;
use crate::rules::user::name_of;
use slipway_api::{ImageRef, ImageType, Problem, Role};
use slipway_chunk::Root;
use slipway_store::SpaceId;
use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;
use uuid::Uuid;

/// An image and what the dialect says of it.
#[derive(Clone, Debug)]
pub(crate) struct ImageFacts {
    pub(crate) row: ImageRow,
    /// Numbers and when they were made, in milliseconds; oldest first.
    pub(crate) versions: Vec<(u64, i64)>,
    /// CRC-32 of the newest content, for images that are told apart by it; else empty.
    pub(crate) checksum: String,
    /// Bytes of the newest content; 0 without a version.
    pub(crate) size: u64,
    /// Ids of the images it belongs with, in place of those references that still name one.
    pub(crate) associated: Vec<String>,
}

/// One image by its id.
pub(crate) async fn image_facts(core: &Arc<Core>, who: &Caller, id: Uuid) -> Result<ImageFacts, Problem> {
    let row: Result<ImageRow, TxError> = async {
        let mut tx = core.db.read().await?;
        image_find(&mut tx, who, ImageBy::Id(id), Action::ImageOversee).await
    }
    .await;
    let facts = facts_of(core, vec![row?]).await?.pop();
    facts.ok_or_else(|| policy::missing(&format!("image {id}")))
}

/// Whether the caller may do this to the image of this id.
pub(crate) async fn image_allowed(core: &Core, who: &Caller, id: Uuid, action: Action) -> Result<ImageRow, Problem> {
    let row: Result<ImageRow, TxError> = async {
        let mut tx = core.db.read().await?;
        image_find(&mut tx, who, ImageBy::Id(id), action).await
    }
    .await;
    Ok(row?)
}

/// The images of an owner (`me` is the caller), all or those of one title, in order of their names. For the owner, moderators and admins.
pub(crate) async fn images_owned(
    core: &Arc<Core>,
    who: &Caller,
    owner: &str,
    title: Option<&str>,
) -> Result<Vec<ImageFacts>, Problem> {
    let name = name_of(who, owner)?;
    let rows: Result<Vec<ImageRow>, TxError> = async {
        let mut tx = core.db.read().await?;
        let owner = owner_seen(&mut tx, who, &name).await?;
        let text = format!(
            "{IMAGE_SELECT} WHERE image.account_id = $1 AND image.trashed_at IS NULL AND ($2 = 0 OR image.title = $3) \
             ORDER BY image.slug"
        );
        let query = sql(text).bind(owner.id).bind(title.is_some()).bind(title.unwrap_or_default());
        let rows = tx.rows(query).await?;
        let mut images = rows.iter().map(ImageRow::read).collect::<Result<Vec<_>, _>>()?;
        readers_load(&mut tx, &mut images).await?;
        images.retain(|image| policy::allowed(who, Action::ImageOversee, &Object::Image(image.object())).is_ok());
        Ok(images)
    }
    .await;
    facts_of(core, rows?).await
}

/// The account whose images are asked for, if the caller may see it.
async fn owner_seen(tx: &mut Tx, who: &Caller, name: &str) -> Result<Owner, TxError> {
    let user = who.user.as_ref().ok_or_else(policy::unauthenticated)?;
    let gone = || policy::missing(&Object::NoUser { name }.label());
    let owner = owner_find(tx, name).await?;
    // The images of the system are everybody's to see.
    let sees = user.role >= Role::Moderator || user.name == name || name == SYSTEM;
    Ok(owner.filter(|_| sees).ok_or_else(gone)?)
}

/// What is known of an image's newest content.
struct Newest {
    content: Uuid,
    root: Root,
    spaces: Vec<SpaceId>,
    size: u64,
    crc32: Option<String>,
}

async fn facts_of(core: &Arc<Core>, rows: Vec<ImageRow>) -> Result<Vec<ImageFacts>, Problem> {
    let ids: Vec<Uuid> = rows.iter().map(|image| image.id).collect();
    let (mut versions, mut newest, known) = {
        let mut tx = core.db.read().await?;
        let (versions, newest) = versions_of(&mut tx, &ids).await?;
        (versions, newest, ids_of(&mut tx, &rows).await?)
    };
    let mut facts = Vec::with_capacity(rows.len());
    for row in rows {
        let newest = newest.remove(&row.id);
        let size = newest.as_ref().map_or(0, |newest| newest.size);
        let summed = !row.versioned || row.image_type == ImageType::Machine;
        let checksum = match newest.filter(|_| summed) {
            None => String::new(),
            Some(Newest { crc32: Some(crc32), .. }) => crc32,
            Some(newest) => content_crc32_keep(core, newest.content, newest.spaces, newest.root).await?,
        };
        let associated =
            row.associated.iter().map(|text| known.get(text).map_or_else(|| text.clone(), Uuid::to_string)).collect();
        facts.push(ImageFacts {
            versions: versions.remove(&row.id).unwrap_or_default(),
            checksum,
            size,
            associated,
            row,
        });
    }
    Ok(facts)
}

type Versions = HashMap<Uuid, Vec<(u64, i64)>>;

async fn versions_of(tx: &mut Tx, ids: &[Uuid]) -> Result<(Versions, HashMap<Uuid, Newest>), DbError> {
    let (mut versions, mut newest) = (Versions::new(), HashMap::new());
    let text = "SELECT version.image_id, version.number, version.created_at, version.content_id, content.root, content.spaces, \
         content.size, content.crc32 FROM version JOIN content ON content.id = version.content_id \
         WHERE version.trashed_at IS NULL AND version.image_id IN";
    for (text, batch) in batches(text, ids) {
        for row in tx.rows(sql(text + " ORDER BY version.image_id, version.number").bind_all(batch)).await? {
            let image: Uuid = row.parsed("image_id")?;
            versions.entry(image).or_default().push((row.size("number")?, row.int("created_at")?));
            let content = Newest {
                content: row.parsed("content_id")?,
                root: row.parsed("root")?,
                spaces: row.json("spaces")?,
                size: row.size("size")?,
                crc32: row.text_or_null("crc32")?,
            };
            newest.insert(image, content);
        }
    }
    Ok((versions, newest))
}

/// The ids that associated references name now.
async fn ids_of(tx: &mut Tx, rows: &[ImageRow]) -> Result<HashMap<String, Uuid>, DbError> {
    let mut ids = HashMap::new();
    for text in rows.iter().flat_map(|row| &row.associated) {
        if let (false, Ok(reference)) = (ids.contains_key(text), ImageRef::from_str(text)) {
            let query = sql("SELECT image.id FROM image JOIN account ON account.id = image.account_id \
                 WHERE account.name = $1 AND image.slug = $2");
            if let Some(row) = tx.row(query.bind(&reference.owner).bind(reference.slug.as_str())).await? {
                ids.insert(text.clone(), row.parsed("id")?);
            }
        }
    }
    Ok(ids)
}

/// References in place of ids that the caller may see; what is no id is left as it is.
pub(crate) async fn associated_read(core: &Core, who: &Caller, given: Vec<String>) -> Result<Vec<String>, Problem> {
    let mut references = Vec::with_capacity(given.len());
    for text in given {
        references.push(match Uuid::try_parse(&text) {
            Ok(id) => image_allowed(core, who, id, Action::ImageOversee).await?.reference(),
            Err(_) => text,
        });
    }
    Ok(references)
}
