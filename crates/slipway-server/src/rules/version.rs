//! Versions: seen, listed, changed, and where their bytes are.

use crate::core::{Caller, Core};
use crate::db::{DbError, Row, Tx, TxError, sql, tx};
use crate::policy::Action;
use crate::rules::image_row::{ImageBy, ImageRow, channels_of, image_find, image_find_locked, image_touch};
use crate::rules::page::{cursor_decode, cursor_encode, limit_check, page_of};
use crate::rules::text::message_check;
use serde_json::json;
use slipway_api::{Channel, Code, FileType, ImageRef, Page, PageQuery, Problem, Version, VersionChange, VersionPick};
use slipway_store::SpaceId;
use uuid::Uuid;

pub use crate::rules::trash::{version_restore, version_trash};

/// Reads versions with their contents; add a condition.
pub const VERSION_SELECT: &str = "SELECT version.*, content.root, content.spaces, content.size, content.sector_size, content.source_format, \
     content.data_bytes, content.stored_bytes, content.new_bytes, content.digest, content.sha256 \
     FROM version JOIN content ON content.id = version.content_id";

/// A version and where its blobs lie.
#[derive(Clone, Debug)]
pub struct VersionContent {
    /// The version.
    pub version: Version,
    /// `owner/name:N`, with the real names.
    pub reference: String,
    /// The spaces to read it from, in this order.
    pub spaces: Vec<SpaceId>,
    /// The first of them: where its manifest lies.
    pub space: SpaceId,
    /// The form in which clients of the BAAS dialect get it.
    pub file_type: FileType,
}

/// Reads a row of [`VERSION_SELECT`].
pub fn version_read(row: &Row, channels: &[Channel]) -> Result<Version, DbError> {
    let number = row.size("number")?;
    let sector_size = row.int("sector_size")?;
    Ok(Version {
        number,
        content: row.parsed("content_id")?,
        root: row.parsed("root")?,
        digest: row.parsed_or_null("digest")?,
        sha256: row.text_or_null("sha256")?,
        size: row.size("size")?,
        sector_size: u32::try_from(sector_size)
            .map_err(|error| DbError::Column { column: "sector_size".to_owned(), detail: error.to_string() })?,
        source_format: row.text("source_format")?,
        data_bytes: row.size("data_bytes")?,
        stored_bytes: row.size("stored_bytes")?,
        new_bytes: row.size("new_bytes")?,
        parent: row.size_or_null("parent")?,
        message: row.text("message")?,
        created_at: row.time("created_at")?,
        created_by: row.parsed("created_by")?,
        protected: row.flag("protected")?,
        channels: channels
            .iter()
            .filter(|channel| channel.version == number)
            .map(|channel| channel.name.to_string())
            .collect(),
        trashed_at: row.time_or_null("trashed_at")?,
    })
}

pub(super) async fn image_channels(tx: &mut Tx, image: &Uuid) -> Result<Vec<Channel>, DbError> {
    Ok(channels_of(tx, std::slice::from_ref(image)).await?.remove(image).unwrap_or_default())
}

/// All versions, newest first.
pub(super) async fn versions_of(tx: &mut Tx, image: &ImageRow, trash: bool) -> Result<Vec<Version>, DbError> {
    versions_before(tx, image, trash, i64::MAX, usize::MAX).await
}

/// The newest `limit` versions below a number, newest first.
pub(super) async fn versions_before(
    tx: &mut Tx,
    image: &ImageRow,
    trash: bool,
    before: i64,
    limit: usize,
) -> Result<Vec<Version>, DbError> {
    let channels = image_channels(tx, &image.id).await?;
    let condition = if trash { "" } else { "AND version.trashed_at IS NULL" };
    let text = format!(
        "{VERSION_SELECT} WHERE version.image_id = $1 AND version.number < $2 {condition} ORDER BY version.number DESC LIMIT $3"
    );
    let mut versions = Vec::new();
    tx.rows_each(sql(text).bind(image.id).bind(before).bind(limit as u64), |row| {
        versions.push(version_read(&row, &channels)?);
        Ok(())
    })
    .await?;
    Ok(versions)
}

/// The number in a cursor of a list of versions; above all numbers if there is none.
pub(super) fn version_cursor(cursor: Option<&str>) -> Result<i64, Problem> {
    match cursor_decode::<1>(cursor)? {
        None => Ok(i64::MAX),
        Some([number]) => number
            .parse()
            .map_err(|_| Problem::new(Code::InvalidRequest, "the cursor is not from this list").field("cursor")),
    }
}

/// A page of versions from up to `limit + 1` of them.
pub(super) fn version_page(versions: Vec<Version>, limit: usize) -> Page<Version> {
    page_of(versions, limit, |version| cursor_encode(&[&version.number.to_string()]))
}

/// The newest version that is not in the trash.
pub(super) async fn newest_of(tx: &mut Tx, image: &ImageRow) -> Result<Option<Version>, DbError> {
    let text = format!(
        "{VERSION_SELECT} WHERE version.image_id = $1 AND version.trashed_at IS NULL ORDER BY version.number DESC LIMIT 1"
    );
    let Some(row) = tx.row(sql(text).bind(image.id)).await? else { return Ok(None) };
    let channels = image_channels(tx, &image.id).await?;
    version_read(&row, &channels).map(Some)
}

fn no_version(image: &ImageRow, pick: &VersionPick) -> Problem {
    let title = match pick {
        VersionPick::Latest => format!("image {} has no version", image.reference()),
        VersionPick::Number(number) => format!("version {} does not exist", image.version_reference(*number)),
        VersionPick::Channel(name) => format!("image {} has no channel '{name}'", image.reference()),
    };
    Problem::new(Code::NotFound, title).hint(format!("`slipway image show {}` lists what there is", image.reference()))
}

/// The number that is meant, trash left out unless it is named by number.
pub(super) async fn number_find(tx: &mut Tx, image: &ImageRow, pick: &VersionPick) -> Result<u64, TxError> {
    let query = match pick {
        VersionPick::Number(number) => return Ok(*number),
        VersionPick::Latest => {
            sql("SELECT MAX(number) AS number FROM version WHERE image_id = $1 AND trashed_at IS NULL").bind(image.id)
        }
        VersionPick::Channel(name) => {
            sql("SELECT number FROM channel WHERE image_id = $1 AND name = $2").bind(image.id).bind(name.as_str())
        }
    };
    let number = match tx.row(query).await? {
        Some(row) => row.size_or_null("number")?,
        None => None,
    };
    number.ok_or_else(|| no_version(image, pick).into())
}

/// The row of the version that is meant.
pub(super) async fn version_find(
    tx: &mut Tx,
    image: &ImageRow,
    pick: &VersionPick,
    trash: bool,
) -> Result<Row, TxError> {
    let number = number_find(tx, image, pick).await?;
    let text = format!("{VERSION_SELECT} WHERE version.image_id = $1 AND version.number = $2");
    let row = tx.row(sql(text).bind(image.id).bind(number)).await?;
    let row = row.ok_or_else(|| no_version(image, pick))?;
    if !trash && row.int_or_null("trashed_at")?.is_some() {
        let reference = image.version_reference(number);
        return Err(Problem::new(Code::NotFound, format!("version {reference} is in the trash"))
            .hint(format!("`slipway image restore {reference}` takes it out"))
            .into());
    }
    Ok(row)
}

/// One version.
pub async fn version_get(
    core: &Core,
    who: &Caller,
    reference: &ImageRef,
    pick: &VersionPick,
) -> Result<Version, Problem> {
    Ok(version_content(core, who, reference, pick).await?.version)
}

/// One version and where its blobs lie.
pub async fn version_content(
    core: &Core,
    who: &Caller,
    image: impl Into<ImageBy<'_>>,
    pick: &VersionPick,
) -> Result<VersionContent, Problem> {
    let image = image.into();
    let action = match image {
        ImageBy::Ref(_) => Action::ImageRead,
        ImageBy::Id(_) => Action::ImageOversee,
    };
    let found: Result<VersionContent, TxError> = async {
        let mut tx = core.db.read().await?;
        let image = image_find(&mut tx, who, image, action).await?;
        image.trash_check()?;
        let row = version_find(&mut tx, &image, pick, false).await?;
        let channels = image_channels(&mut tx, &image.id).await?;
        let version = version_read(&row, &channels)?;
        let spaces: Vec<SpaceId> = row.json("spaces")?;
        let space = spaces.first().cloned().unwrap_or_else(|| image.space());
        let (reference, file_type) = (image.version_reference(version.number), image.file_type);
        Ok(VersionContent { reference, version, spaces, space, file_type })
    }
    .await;
    Ok(found?)
}

/// The number of the newest version that an image had at a time, in seconds since 1970.
pub(crate) async fn version_number_at(core: &Core, who: &Caller, id: Uuid, seconds: u64) -> Result<u64, Problem> {
    let found: Result<Option<u64>, TxError> = async {
        let mut tx = core.db.read().await?;
        let image = image_find(&mut tx, who, id, Action::ImageOversee).await?;
        let newest = sql(
            "SELECT MAX(number) AS number FROM version WHERE image_id = $1 AND trashed_at IS NULL AND created_at < $2",
        );
        let row = tx.row_must(newest.bind(image.id).bind(seconds.saturating_add(1).saturating_mul(1000))).await?;
        Ok(row.size_or_null("number")?)
    }
    .await;
    found?.ok_or_else(|| {
        Problem::new(Code::NotFound, format!("image {id} had no version at {seconds} seconds since 1970"))
    })
}

/// The versions of an image, newest first.
pub async fn version_list(
    core: &Core,
    who: &Caller,
    reference: &ImageRef,
    query: &PageQuery,
) -> Result<Page<Version>, Problem> {
    let limit = limit_check(query.limit)?;
    let before = version_cursor(query.cursor.as_deref())?;
    let listed: Result<Page<Version>, TxError> = async {
        let mut tx = core.db.read().await?;
        let action = if query.trash { Action::ImageDelete } else { Action::ImageRead };
        let image = image_find(&mut tx, who, reference, action).await?;
        let channels = image_channels(&mut tx, &image.id).await?;
        let condition = if query.trash { "IS NOT NULL" } else { "IS NULL" };
        let text = format!(
            "{VERSION_SELECT} WHERE version.image_id = $1 AND version.trashed_at {condition} AND version.number < $2 \
             ORDER BY version.number DESC LIMIT $3"
        );
        let rows = tx.rows(sql(text).bind(image.id).bind(before).bind(limit as u64 + 1)).await?;
        let items = rows.iter().map(|row| version_read(row, &channels)).collect::<Result<Vec<_>, _>>()?;
        Ok(version_page(items, limit))
    }
    .await;
    Ok(listed?)
}

/// Changes message or protection.
pub async fn version_change(
    core: &Core,
    who: &Caller,
    reference: &ImageRef,
    pick: &VersionPick,
    change: VersionChange,
) -> Result<Version, Problem> {
    if let Some(message) = &change.message {
        message_check(message)?;
    }
    let changed: Result<Version, TxError> = tx!(&core.db, who, |tx| {
        let image = image_find_locked(tx, who, reference, Action::ImageWrite).await?;
        image.trash_check()?;
        let row = version_find(tx, &image, pick, false).await?;
        let channels = image_channels(tx, &image.id).await?;
        let mut version = version_read(&row, &channels)?;
        version.message = change.message.clone().unwrap_or(version.message);
        version.protected = change.protected.unwrap_or(version.protected);
        let update = sql("UPDATE version SET message = $1, protected = $2 WHERE image_id = $3 AND number = $4")
            .bind(&version.message)
            .bind(version.protected)
            .bind(image.id)
            .bind(version.number);
        tx.run(update).await?;
        image_touch(tx, &image.id).await?;
        tx.journal("version_change", image.version_reference(version.number), json!(change));
        Ok(version)
    });
    Ok(changed?)
}
