//! An image's row, found under the policy, and what becomes of it on the wire.

use crate::core::Caller;
use crate::db::{DbError, Row, Tx, TxError, placeholders, sql};
use crate::ledger::BATCH;
use crate::policy::{self, Action, ImageObject, Object};
use crate::rules::owner::{Owner, names_of, owner_name};
use crate::rules::page::batches;
use crate::scope::Scopes;
use slipway_api::{Channel, Code, FileSystem, FileType, Image, ImageRef, ImageType, Problem, Role, Sharing, Transfer};
use slipway_store::SpaceId;
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// The space that everyone reads.
pub(crate) fn public_space() -> SpaceId {
    SpaceId::new("public").expect("'public' is within a space id's alphabet")
}

/// How a request names an image.
#[derive(Clone, Copy, Debug)]
pub enum ImageBy<'a> {
    /// By owner and name.
    Ref(&'a ImageRef),
    /// By its id, as clients of the BAAS dialect do. What is in the trash is not found by it.
    Id(Uuid),
}

impl<'a> From<&'a ImageRef> for ImageBy<'a> {
    fn from(reference: &'a ImageRef) -> Self {
        Self::Ref(reference)
    }
}

impl From<Uuid> for ImageBy<'_> {
    fn from(id: Uuid) -> Self {
        Self::Id(id)
    }
}

/// An image as it stands in the database.
#[derive(Clone, Debug)]
pub(crate) struct ImageRow {
    pub(crate) id: Uuid,
    pub(crate) owner: Owner,
    pub(crate) slug: String,
    pub(crate) title: String,
    pub(crate) image_type: ImageType,
    pub(crate) file_system: Option<FileSystem>,
    pub(crate) compression: String,
    pub(crate) target_location: Option<String>,
    pub(crate) versioned: bool,
    pub(crate) file_type: FileType,
    pub(crate) transfer: Transfer,
    pub(crate) associated: Vec<String>,
    pub(crate) description: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) spaces: Vec<SpaceId>,
    pub(crate) public: bool,
    pub(crate) share_task: Option<Uuid>,
    pub(crate) protected: bool,
    pub(crate) next_number: u64,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
    pub(crate) trashed_at: Option<i64>,
    pub(crate) revision: u64,
    pub(crate) readers: Vec<Uuid>,
}

/// Reads an image with its owner's name; add a condition.
pub(crate) const IMAGE_SELECT: &str =
    "SELECT image.*, account.name AS owner_name FROM image JOIN account ON account.id = image.account_id";

impl ImageRow {
    /// `owner/slug`.
    pub(crate) fn reference(&self) -> String {
        format!("{}/{}", self.owner.name, self.slug)
    }

    /// `owner/slug:number`.
    pub(crate) fn version_reference(&self, number: u64) -> String {
        format!("{}/{}:{number}", self.owner.name, self.slug)
    }

    /// What the policy looks at.
    pub(crate) fn object(&self) -> ImageObject<'_> {
        ImageObject {
            owner: self.owner.id,
            owner_name: &self.owner.name,
            slug: &self.slug,
            public: self.public,
            readers: &self.readers,
            system_type: self.image_type == ImageType::System,
        }
    }

    /// Where new packs go.
    pub(crate) fn space(&self) -> SpaceId {
        self.spaces.first().cloned().unwrap_or_else(|| self.owner.space())
    }

    /// Refuses what a revision named by the caller does not match.
    pub(crate) fn revision_check(&self, if_match: Option<u64>) -> Result<(), Problem> {
        match if_match {
            Some(wanted) if wanted != self.revision => {
                let title = format!("image {} is at revision {}, not {wanted}", self.reference(), self.revision);
                Err(Problem::new(Code::PreconditionFailed, title).hint("read it again and decide anew"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what is in the trash.
    pub(crate) fn trash_check(&self) -> Result<(), Problem> {
        match self.trashed_at {
            None => Ok(()),
            Some(_) => Err(Problem::new(Code::Conflict, format!("image {} is in the trash", self.reference()))
                .hint(format!("`slipway image restore {}` takes it out", self.reference()))),
        }
    }

    /// Reads a row of [`IMAGE_SELECT`]; the readers are loaded apart.
    pub(crate) fn read(row: &Row) -> Result<Self, DbError> {
        Ok(Self {
            id: row.parsed("id")?,
            owner: Owner { id: row.parsed("account_id")?, name: row.text("owner_name")? },
            slug: row.text("slug")?,
            title: row.text("title")?,
            image_type: row.word("image_type")?,
            file_system: match row.text_or_null("file_system")? {
                Some(_) => Some(row.word("file_system")?),
                None => None,
            },
            compression: row.text("compression")?,
            target_location: row.text_or_null("target_location")?,
            versioned: row.flag("versioned")?,
            file_type: row.word("file_type")?,
            transfer: row.word("transfer")?,
            associated: row.json("associated")?,
            description: row.text("description")?,
            labels: row.json("labels")?,
            spaces: row.json("spaces")?,
            public: row.flag("public")?,
            share_task: row.parsed_or_null("share_task")?,
            protected: row.flag("protected")?,
            next_number: row.size("next_number")?,
            created_at: row.int("created_at")?,
            updated_at: row.int("updated_at")?,
            trashed_at: row.int_or_null("trashed_at")?,
            revision: row.size("revision")?,
            readers: Vec::new(),
        })
    }
}

/// The image that is meant, if the caller may see it and do `action` to it; by reference whether or not it is in the trash.
pub(crate) async fn image_find(
    tx: &mut Tx,
    who: &Caller,
    image: impl Into<ImageBy<'_>>,
    action: Action,
) -> Result<ImageRow, TxError> {
    let reference = match image.into() {
        ImageBy::Ref(reference) => reference,
        ImageBy::Id(id) => return image_find_by_id(tx, who, id, action).await,
    };
    let owner = owner_name(who, &reference.owner)?;
    let text = format!("{IMAGE_SELECT} WHERE account.name = $1 AND image.slug = $2");
    let found = tx.row(sql(text).bind(owner).bind(reference.slug.as_str())).await?;
    let Some(row) = found else {
        let object = Object::NoImage { owner_name: owner, slug: reference.slug.as_str() };
        policy::allowed(who, action, &object)?;
        return Err(policy::missing(&object.label()).into());
    };
    let mut image = ImageRow::read(&row)?;
    readers_load(tx, std::slice::from_mut(&mut image)).await?;
    policy::allowed(who, action, &Object::Image(image.object()))?;
    // To who may not take it out of the trash, what is in there does not exist.
    if image.trashed_at.is_some()
        && policy::allowed(who, Action::ImageWrite, &Object::Image(image.object())).is_err()
        && policy::allowed(who, Action::ImageDelete, &Object::Image(image.object())).is_err()
    {
        return Err(policy::missing(&Object::Image(image.object()).label()).into());
    }
    Ok(image)
}

/// Its owner and name are told only to who sees it, so a token that lacks the scope hears so only then.
async fn image_find_by_id(tx: &mut Tx, who: &Caller, id: Uuid, action: Action) -> Result<ImageRow, TxError> {
    if who.user.is_none() && !who.is_server() {
        return Err(policy::unauthenticated().into());
    }
    let gone = || policy::missing(&format!("image {id}"));
    let image = image_by_id(tx, &id).await?.filter(|image| image.trashed_at.is_none()).ok_or_else(gone)?;
    let object = Object::Image(image.object());
    let mut eyes = who.clone();
    eyes.scopes = Scopes::all();
    policy::allowed(&eyes, Action::ImageOversee, &object).map_err(|_| gone())?;
    policy::allowed(who, action, &object).map_err(|problem| match problem.code {
        // A moderator sees it by its id, and hears the truth.
        Code::NotFound => Problem::new(
            Code::Forbidden,
            format!("{} {} needs its owner or role admin", action.as_str(), object.label()),
        ),
        _ => problem,
    })?;
    Ok(image)
}

/// The image with this id, if it is still there.
pub(crate) async fn image_by_id(tx: &mut Tx, id: &Uuid) -> Result<Option<ImageRow>, DbError> {
    let Some(row) = tx.row(sql(format!("{IMAGE_SELECT} WHERE image.id = $1")).bind(id)).await? else { return Ok(None) };
    let mut image = ImageRow::read(&row)?;
    readers_load(tx, std::slice::from_mut(&mut image)).await?;
    Ok(Some(image))
}

/// Holds the image's row until the transaction ends: whoever numbers versions, moves spaces or trashes comes one after the other. It is an
/// update because that is the one way to say so that both databases have.
pub(crate) async fn image_lock(tx: &mut Tx, id: &Uuid) -> Result<(), DbError> {
    tx.run(sql("UPDATE image SET revision = revision WHERE id = $1").bind(id)).await?;
    Ok(())
}

/// [`image_find`], locked first, so that what is read is what will be changed.
pub(crate) async fn image_find_locked(
    tx: &mut Tx,
    who: &Caller,
    image: impl Into<ImageBy<'_>>,
    action: Action,
) -> Result<ImageRow, TxError> {
    let image = image.into();
    match image {
        ImageBy::Id(id) => image_lock(tx, &id).await?,
        ImageBy::Ref(reference) => {
            let owner = owner_name(who, &reference.owner)?;
            let lock = sql("UPDATE image SET revision = revision WHERE slug = $1 \
                 AND account_id = (SELECT id FROM account WHERE name = $2)");
            tx.run(lock.bind(reference.slug.as_str()).bind(owner)).await?;
        }
    }
    image_find(tx, who, image, action).await
}

/// Counts a change of the image.
pub(crate) async fn image_touch(tx: &mut Tx, id: &Uuid) -> Result<(), DbError> {
    let now = tx.now();
    tx.run(sql("UPDATE image SET revision = revision + 1, updated_at = $1 WHERE id = $2").bind(now).bind(id)).await?;
    Ok(())
}

pub(crate) async fn readers_load(tx: &mut Tx, images: &mut [ImageRow]) -> Result<(), DbError> {
    let places: HashMap<Uuid, usize> = images.iter().enumerate().map(|(place, image)| (image.id, place)).collect();
    let ids: Vec<Uuid> = images.iter().map(|image| image.id).collect();
    for (text, batch) in batches("SELECT image_id, account_id FROM image_reader WHERE image_id IN", &ids) {
        for row in tx.rows(sql(text + " ORDER BY image_id, account_id").bind_all(batch)).await? {
            if let Some(place) = places.get(&row.parsed::<Uuid>("image_id")?) {
                images[*place].readers.push(row.parsed("account_id")?);
            }
        }
    }
    Ok(())
}

/// What is counted over an image's versions.
#[derive(Clone, Copy, Default)]
struct Totals {
    latest: Option<u64>,
    count: u64,
    new_bytes: u64,
}

async fn totals_of(tx: &mut Tx, ids: &[Uuid]) -> Result<HashMap<Uuid, Totals>, DbError> {
    let mut totals = HashMap::new();
    for batch in ids.chunks(BATCH) {
        let text = format!(
            "SELECT image_id, MAX(number) AS latest, COUNT(*) AS count, CAST(COALESCE(SUM(new_bytes), 0) AS BIGINT) AS new_bytes \
             FROM version JOIN content ON content.id = version.content_id \
             WHERE trashed_at IS NULL AND image_id IN ({}) GROUP BY image_id",
            placeholders(1, batch.len())
        );
        for row in tx.rows(sql(text).bind_all(batch)).await? {
            let of_image = Totals {
                latest: row.size_or_null("latest")?,
                count: row.size("count")?,
                new_bytes: row.size("new_bytes")?,
            };
            totals.insert(row.parsed("image_id")?, of_image);
        }
    }
    Ok(totals)
}

/// Channels by image, in order of their names.
pub(crate) async fn channels_of(tx: &mut Tx, ids: &[Uuid]) -> Result<HashMap<Uuid, Vec<Channel>>, DbError> {
    let mut channels: HashMap<Uuid, Vec<Channel>> = HashMap::new();
    for (text, batch) in batches("SELECT * FROM channel WHERE image_id IN", ids) {
        for row in tx.rows(sql(text + " ORDER BY image_id, name").bind_all(batch)).await? {
            let channel = Channel {
                name: row.parsed("name")?,
                version: row.size("number")?,
                updated_at: row.time("updated_at")?,
            };
            channels.entry(row.parsed("image_id")?).or_default().push(channel);
        }
    }
    Ok(channels)
}

/// Images as the caller sees them. Who reads an image is told only to its owner and to admins.
pub(crate) async fn images_to_wire(tx: &mut Tx, who: &Caller, rows: Vec<ImageRow>) -> Result<Vec<Image>, DbError> {
    let ids: Vec<Uuid> = rows.iter().map(|image| image.id).collect();
    let totals = totals_of(tx, &ids).await?;
    let mut channels = channels_of(tx, &ids).await?;
    let readers: Vec<Uuid> = rows.iter().flat_map(|image| image.readers.iter().copied()).collect();
    let names = names_of(tx, &readers).await?;
    let time = |ms| {
        crate::db::time_of(ms).map_err(|error| DbError::Column { column: "time".to_owned(), detail: error.to_string() })
    };
    let bad = |column: &str| DbError::Column { column: column.to_owned(), detail: "is no name".to_owned() };
    let mut images = Vec::with_capacity(rows.len());
    for row in rows {
        let of_image = totals.get(&row.id).copied().unwrap_or_default();
        let sees_readers = match &who.user {
            Some(user) => user.id == row.owner.id || user.role == Role::Admin,
            None => who.is_server(),
        };
        let mut of_sharing = Sharing { public: row.public, readers: Vec::new(), task: None };
        if sees_readers {
            let mut names: Vec<_> =
                row.readers.iter().filter_map(|id| names.get(id)).filter_map(|name| name.parse().ok()).collect();
            names.sort();
            of_sharing.readers = names;
            of_sharing.task = row.share_task;
        }
        images.push(Image {
            id: row.id,
            owner: row.owner.name.parse().map_err(|_| bad("owner_name"))?,
            slug: row.slug.parse().map_err(|_| bad("slug"))?,
            reference: row.reference(),
            title: row.title,
            image_type: row.image_type,
            file_system: row.file_system,
            compression: row.compression,
            target_location: row.target_location,
            versioned: row.versioned,
            file_type: row.file_type,
            transfer: row.transfer,
            associated: row.associated,
            description: row.description,
            labels: row.labels,
            sharing: of_sharing,
            protected: row.protected,
            latest: of_image.latest,
            version_count: of_image.count,
            new_bytes: of_image.new_bytes,
            created_at: time(row.created_at)?,
            updated_at: time(row.updated_at)?,
            trashed_at: row.trashed_at.map(time).transpose()?,
            revision: row.revision,
            channels: channels.remove(&row.id).unwrap_or_default(),
            versions: None,
            versions_next: None,
        });
    }
    Ok(images)
}

/// One image as the caller sees it.
pub(crate) async fn image_to_wire(tx: &mut Tx, who: &Caller, row: ImageRow) -> Result<Image, DbError> {
    let id = row.id;
    let image = images_to_wire(tx, who, vec![row]).await?.pop();
    image.ok_or_else(|| DbError::Column { column: "image".to_owned(), detail: format!("{id} is gone") })
}
