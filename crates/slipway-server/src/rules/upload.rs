//! Uploads: begun, filled under a lease that each use renews, dropped. Their end as a version is in the file beside.

use crate::core::{Caller, Core, Nudge, ms};
use crate::db::{DbError, Row, Tx, TxError, sql, tx, word_of};
use crate::policy::{self, Action, Object};
use crate::rules::content::content_replaceable;
use crate::rules::idempotency::{idempotency_begin, idempotency_finish};
use crate::rules::image_row::{ImageBy, ImageRow, image_by_id, image_find_locked};
use crate::rules::owner::Owner;
use crate::rules::quota::quota_begin;
use crate::rules::room::room_check;
use crate::rules::text::{message_check, text_check};
use crate::rules::version::{number_find, version_find};
use serde_json::json;
use slipway_api::{Code, Committed, ImageRef, Problem, Upload, UploadFormat, UploadNew, UploadState, VersionPick};
use slipway_chunk::Digest;
use slipway_store::SpaceId;
use std::path::PathBuf;
use std::str::FromStr;
use uuid::Uuid;

pub use crate::rules::upload_commit::{
    COMMIT_CRASH_POINTS, CommitBegin, upload_commit, upload_commit_begin, upload_commit_undo,
};
pub use crate::rules::upload_fill::{
    CommitAnswer, FillChecks, upload_commit_chunks, upload_commit_stream, upload_fill,
};
pub use crate::rules::upload_hold::Cut;

/// An upload as it stands in the database.
#[derive(Clone, Debug)]
pub struct UploadRow {
    pub id: Uuid,
    pub image: Uuid,
    pub account: Uuid,
    pub format: UploadFormat,
    pub state: UploadState,
    pub received: u64,
    pub parent: Option<u64>,
    pub size: Option<u64>,
    pub sector_size: u32,
    pub message: String,
    pub make_new: bool,
    pub source_format: Option<String>,
    pub digest: Option<Digest>,
    pub spaces: Vec<SpaceId>,
    pub lease_until: i64,
    pub commit_until: Option<i64>,
    pub task: Option<Uuid>,
    pub number: Option<u64>,
    pub answer: Option<Committed>,
    /// The content that this one shall take the place of; `None` makes a new version.
    pub replaces: Option<Uuid>,
}

impl UploadRow {
    fn read(row: &Row) -> Result<Self, DbError> {
        Ok(Self {
            id: row.parsed("id")?,
            image: row.parsed("image_id")?,
            account: row.parsed("account_id")?,
            format: row.word("format")?,
            state: row.word("state")?,
            received: row.size("received")?,
            parent: row.size_or_null("parent")?,
            size: row.size_or_null("size")?,
            sector_size: if row.int("sector_size")? == 4096 { 4096 } else { 512 },
            message: row.text("message")?,
            make_new: row.flag("make_new")?,
            source_format: row.text_or_null("source_format")?,
            digest: row.parsed_or_null("digest")?,
            spaces: row.json("spaces")?,
            lease_until: row.int("lease_until")?,
            commit_until: row.int_or_null("commit_until")?,
            task: row.parsed_or_null("task_id")?,
            number: row.size_or_null("number")?,
            answer: row.json_or_null("answer")?,
            replaces: row.parsed_or_null("replaces")?,
        })
    }

    /// What the version's `source_format` will say.
    pub fn source_format(&self) -> &str {
        // What came as bytes has its name from what was found in them.
        self.source_format.as_deref().unwrap_or(match self.format {
            UploadFormat::Chunks => "chunks",
            UploadFormat::Auto
            | UploadFormat::Raw
            | UploadFormat::Gzip
            | UploadFormat::Xz
            | UploadFormat::Zstd
            | UploadFormat::Qcow2
            | UploadFormat::Vmdk
            | UploadFormat::Vhd
            | UploadFormat::Vhdx
            | UploadFormat::Vdi
            | UploadFormat::Zip
            | UploadFormat::Tar => "raw",
        })
    }

    fn wire(&self, image: &ImageRow) -> Result<Upload, DbError> {
        let bad = |error: jiff::Error| DbError::Column { column: "lease_until".to_owned(), detail: error.to_string() };
        Ok(Upload {
            id: self.id,
            image: image.reference(),
            format: self.format,
            state: self.state,
            offset: self.received,
            parent: self.parent,
            lease_until: crate::db::time_of(self.lease_until).map_err(bad)?,
            version: self.number,
        })
    }

    /// Refuses an upload that does not take bytes any more.
    pub(super) fn open_check(&self) -> Result<(), Problem> {
        let id = self.id;
        match self.state {
            UploadState::Open => Ok(()),
            UploadState::Committing => Err(Problem::new(Code::Conflict, format!("upload {id} is being committed"))
                .hint("commit again to ask for the outcome")),
            UploadState::Committed => Err(Problem::new(Code::Conflict, format!("upload {id} is committed already"))
                .hint("commit again to get its version, or begin another upload")),
            UploadState::Ended => {
                Err(Problem::new(Code::Gone, format!("upload {id} has ended")).hint("begin another upload"))
            }
        }
    }
}

/// What is needed to fill an upload.
#[derive(Clone, Debug)]
pub struct UploadTarget {
    /// Its id.
    pub id: Uuid,
    /// The id as the store writes it on what the upload makes.
    pub upload: String,
    /// `owner/name` of the image.
    pub image: String,
    /// Where new packs go.
    pub space: SpaceId,
    /// Where chunks may already lie.
    pub lookup: Vec<SpaceId>,
    /// How the bytes come.
    pub format: UploadFormat,
    /// 512 or 4096.
    pub sector_size: u32,
    /// The raw size, if it was named.
    pub size: Option<u64>,
    /// Bytes in the spool file that count.
    pub received: u64,
    /// The spool file of an upload by `PATCH`.
    pub spool: PathBuf,
}

/// The upload with its image, if the caller may use it. An upload of an image that is no more is gone.
pub(super) async fn upload_find(tx: &mut Tx, who: &Caller, id: &Uuid) -> Result<(UploadRow, ImageRow), TxError> {
    let label = format!("upload {id}");
    if who.user.is_none() && !who.is_server() {
        return Err(policy::unauthenticated().into());
    }
    let Some(row) = tx.row(sql("SELECT * FROM upload WHERE id = $1").bind(id)).await? else {
        return Err(policy::missing(&label).into());
    };
    let upload = UploadRow::read(&row)?;
    let Some(image) = image_by_id(tx, &upload.image).await? else {
        let maker = who.user.as_ref().is_some_and(|user| user.id == upload.account);
        return Err(match maker || who.is_server() {
            true => Problem::new(Code::Gone, format!("{label} has ended: its image is deleted")).into(),
            false => policy::missing(&label).into(),
        });
    };
    policy::allowed(who, Action::UploadUse, &Object::Upload { id: *id, maker: upload.account, image: image.object() })?;
    Ok((upload, image))
}

/// The answer of an upload whose image is deleted: it stays the same for ever for who made it.
pub(super) async fn answer_left(tx: &mut Tx, who: &Caller, id: &Uuid) -> Result<Option<Committed>, DbError> {
    let Some(user) = &who.user else { return Ok(None) };
    let query =
        sql("SELECT answer FROM upload WHERE id = $1 AND account_id = $2 AND image_id NOT IN (SELECT id FROM image)");
    match tx.row(query.bind(id).bind(user.id)).await? {
        Some(row) => row.json_or_null("answer"),
        None => Ok(None),
    }
}

pub(super) fn target_of(core: &Core, upload: &UploadRow, image: &ImageRow) -> UploadTarget {
    UploadTarget {
        id: upload.id,
        upload: upload.id.to_string(),
        image: image.reference(),
        space: upload.spaces.first().cloned().unwrap_or_else(|| image.space()),
        lookup: lookup_of(&upload.spaces),
        format: upload.format,
        sector_size: upload.sector_size,
        size: upload.size,
        received: upload.received,
        spool: core.spool_path(&upload.id),
    }
}

/// Spaces in which a chunk of a new version may already lie: every reader of the image may read all of them. The first is where new ones go.
pub(super) fn lookup_of(spaces: &[SpaceId]) -> Vec<SpaceId> {
    let public = crate::rules::image_row::public_space();
    let mut lookup = spaces.to_vec();
    if !lookup.contains(&public) {
        lookup.push(public);
    }
    lookup
}

fn new_check(core: &Core, new: &UploadNew) -> Result<(), Problem> {
    message_check(&new.message)?;
    match new.sector_size {
        None | Some(512 | 4096) => {}
        Some(other) => {
            let title = format!("sector size {other} is neither 512 nor 4096");
            return Err(Problem::new(Code::InvalidRequest, title).field("sector_size"));
        }
    }
    match new.size {
        Some(0) => return Err(Problem::new(Code::BadImage, "an image of 0 bytes is none").field("size")),
        Some(size) if size > core.config.image_size_max => {
            let title = format!("an image of {size} bytes is larger than the {} allowed", core.config.image_size_max);
            return Err(Problem::new(Code::TooLarge, title).field("size"));
        }
        _ => {}
    }
    new.source_format.as_deref().map_or(Ok(()), |text| text_check("source_format", text, 32, false))
}

/// Begins an upload into an image that exists.
pub async fn upload_create(core: &Core, who: &Caller, new: UploadNew) -> Result<Upload, Problem> {
    upload_begin(core, who, new, false).await
}

/// [`upload_create`]; with `replace` the newest version shall get the content, under its number.
pub(crate) async fn upload_begin(core: &Core, who: &Caller, new: UploadNew, replace: bool) -> Result<Upload, Problem> {
    new_check(core, &new)?;
    let reference = match Uuid::try_parse(&new.image) {
        Ok(id) => Err(id),
        Err(_) => Ok(ImageRef::from_str(&new.image)
            .map_err(|error| Problem::new(Code::InvalidName, format!("{error}")).field("image"))?),
    };
    let by = match &reference {
        Ok(reference) => ImageBy::Ref(reference),
        Err(id) => ImageBy::Id(*id),
    };
    let made: Result<Upload, TxError> = tx!(&core.db, who, |tx| {
        // Locked, because what it may replace is looked at here.
        let image = image_find_locked(tx, who, by, Action::ImageWrite).await?;
        image.trash_check()?;
        if let Some(answer) = idempotency_begin(tx, who).await? {
            return Ok(answer);
        }
        let account = who.user.as_ref().ok_or_else(policy::unauthenticated)?.id;
        let parent = match new.parent {
            Some(number) => {
                version_find(tx, &image, &VersionPick::Number(number), true).await?;
                Some(number)
            }
            None => match number_find(tx, &image, &VersionPick::Latest).await {
                Ok(number) => Some(number),
                Err(TxError::Refused(problem)) if problem.code == Code::NotFound => None,
                Err(error) => return Err(error),
            },
        };
        let replaces = content_replaceable(tx, &image, replace).await?;
        room_check(core)?;
        let maker = Owner { id: account, name: who.actor().to_owned() };
        quota_begin(tx, core, &image.owner, &maker, new.size, replaces.is_none()).await?;
        let now = tx.now();
        let insert = sql("INSERT INTO upload (id, image_id, account_id, format, state, received, parent, size, sector_size, message, \
             make_new, source_format, digest, spaces, lease_until, created_at, replaces) \
             VALUES ($1, $2, $3, $4, 'open', 0, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) RETURNING *")
        .bind(Uuid::now_v7())
        .bind(image.id)
        .bind(account)
        .bind(word_of(&new.format))
        .bind(parent)
        .bind(new.size)
        .bind(new.sector_size.unwrap_or(512))
        .bind(&new.message)
        .bind(new.new)
        .bind(new.source_format.clone())
        .bind(new.digest.map(|digest| digest.to_string()))
        .bind(json!(image.spaces).to_string())
        .bind(now + ms(core.config.upload_lease))
        .bind(now)
        .bind(replaces);
        let upload = UploadRow::read(&tx.row_must(insert).await?)?.wire(&image)?;
        tx.journal("upload_create", image.reference(), json!({ "upload": upload.id, "format": upload.format }));
        idempotency_finish(tx, who, &upload).await?;
        Ok(upload)
    });
    Ok(made?)
}

/// Where an upload stands.
pub async fn upload_get(core: &Core, who: &Caller, id: &Uuid) -> Result<Upload, Problem> {
    let mut tx = core.db.read().await?;
    let (upload, image) = upload_find(&mut tx, who, id).await?;
    Ok(upload.wire(&image)?)
}

/// What is needed to fill an open upload; renews its lease.
pub async fn upload_target(core: &Core, who: &Caller, id: &Uuid) -> Result<UploadTarget, Problem> {
    let mut tx = core.db.read().await?;
    let (upload, image) = upload_find(&mut tx, who, id).await?;
    let now = tx.now();
    drop(tx);
    upload.open_check()?;
    image.trash_check()?;
    let lease = ms(core.config.upload_lease);
    // A push calls this for every body; one write for each tenth of the lease is enough.
    if upload.lease_until < now + lease - lease / 10 {
        let renewed: Result<u64, TxError> = tx!(&core.db, who, |tx| {
            let until = tx.now() + lease;
            Ok(tx
                .run(sql("UPDATE upload SET lease_until = $1 WHERE id = $2 AND state = 'open'").bind(until).bind(id))
                .await?)
        });
        if renewed? == 0 {
            return Err(Problem::new(Code::Gone, format!("upload {id} has ended")).hint("begin another upload"));
        }
    }
    Ok(target_of(core, &upload, &image))
}

/// Counts bytes of the spool file that are durable now: from `from`, where the upload must stand, to `to`.
pub async fn upload_offset_set(core: &Core, who: &Caller, id: &Uuid, from: u64, to: u64) -> Result<Upload, Problem> {
    let done: Result<Upload, TxError> = tx!(&core.db, who, |tx| {
        let (mut upload, image) = upload_find(tx, who, id).await?;
        upload.open_check()?;
        let until = tx.now() + ms(core.config.upload_lease);
        let update =
            sql("UPDATE upload SET received = $1, lease_until = $2 WHERE id = $3 AND state = 'open' AND received = $4")
                .bind(to)
                .bind(until)
                .bind(id)
                .bind(from);
        if tx.run(update).await? == 0 {
            return Err(offset_mismatch(&upload, from).into());
        }
        upload.received = to;
        upload.lease_until = until;
        Ok(upload.wire(&image)?)
    });
    Ok(done?)
}

fn offset_mismatch(upload: &UploadRow, from: u64) -> Problem {
    let title = format!("upload {} stands at {}, not at {from}", upload.id, upload.received);
    let mut problem = Problem::new(Code::OffsetMismatch, title).hint("go on where `Upload-Offset` says");
    problem.offset = Some(upload.received);
    problem
}

/// Gives an upload up. Its spool file and what it alone stored are cleared away later.
pub async fn upload_end(core: &Core, who: &Caller, id: &Uuid) -> Result<(), Problem> {
    let done: Result<(), TxError> = tx!(&core.db, who, |tx| {
        let (upload, image) = upload_find(tx, who, id).await?;
        match upload.state {
            UploadState::Ended => return Ok(()),
            UploadState::Open => {}
            UploadState::Committing | UploadState::Committed => upload.open_check()?,
        }
        tx.run(sql("UPDATE upload SET state = 'ended' WHERE id = $1 AND state = 'open'").bind(id)).await?;
        tx.journal("upload_end", image.reference(), json!({ "upload": id }));
        tx.nudge(Nudge::Expiry);
        Ok(())
    });
    Ok(done?)
}
