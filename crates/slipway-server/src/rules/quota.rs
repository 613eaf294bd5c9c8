//! What an account may keep. Counted is what it costs: stored bytes are those of the packs in its spaces, so that neither deleting the version
//! that first brought a chunk nor a clever order of uploads makes anything free that still lies there; and what is in the trash counts until it is
//! gone, because its bytes are still kept for it. What belongs to the system has no quota.

use crate::core::{Caller, Core, QuotaLimits};
use crate::db::{DbError, Tx, TxError, placeholders, sql, tx};
use crate::ledger::BATCH;
use crate::policy::{Action, SYSTEM};
use crate::rules::image_row::{image_by_id, public_space};
use crate::rules::owner::Owner;
use crate::rules::user::{account_allowed, name_of};
use serde_json::json;
use slipway_api::{Code, Problem, Quota, QuotaChange, QuotaLimit, QuotaLine, QuotaWord};
use slipway_store::SpaceId;
use std::collections::BTreeSet;
use uuid::Uuid;

/// Which bytes count besides those that a commit has used.
#[derive(Clone, Copy, Debug)]
enum Counted {
    /// Those of every upload that still runs, in packs and in spool files: what the account takes from the disk now.
    Running,
    /// The same without the spool of this one, which goes when what is cut from it is a version.
    Cutting(Uuid),
    /// None: the first of two uploads that ends may have what is left, however much the other has sent.
    Committed,
}

/// The limits of an account: its own before the server's. The account's row stays locked until the transaction ends, so that two that take from
/// one quota come one after the other.
async fn limits_locked(tx: &mut Tx, core: &Core, account: &Uuid) -> Result<QuotaLimits, DbError> {
    tx.run(sql("UPDATE account SET revision = revision WHERE id = $1").bind(account)).await?;
    limits_of(tx, core, account).await
}

async fn limits_of(tx: &mut Tx, core: &Core, account: &Uuid) -> Result<QuotaLimits, DbError> {
    Ok(limits_decide(&core.config.quota, &own_of(tx, account).await?))
}

async fn own_of(tx: &mut Tx, account: &Uuid) -> Result<QuotaChange, DbError> {
    match tx.row(sql("SELECT quota FROM account WHERE id = $1").bind(account)).await? {
        Some(row) => Ok(row.json_or_null("quota")?.unwrap_or_default()),
        None => Ok(QuotaChange::default()),
    }
}

fn limits_decide(server: &QuotaLimits, own: &QuotaChange) -> QuotaLimits {
    let decide = |own: Option<QuotaLimit>, server: Option<u64>| match own {
        None | Some(QuotaLimit::Word(QuotaWord::Default)) => server,
        Some(QuotaLimit::Number(number)) => Some(number),
        Some(QuotaLimit::Word(QuotaWord::Unlimited)) => None,
    };
    QuotaLimits {
        stored_bytes: decide(own.stored_bytes, server.stored_bytes),
        logical_bytes: decide(own.logical_bytes, server.logical_bytes),
        images: decide(own.images, server.images),
        versions: decide(own.versions, server.versions),
        uploads: decide(own.uploads, server.uploads),
    }
}

async fn number(tx: &mut Tx, text: &'static str, account: &Uuid) -> Result<u64, DbError> {
    tx.row_must(sql(text).bind(account)).await?.size("n")
}

async fn images_used(tx: &mut Tx, account: &Uuid) -> Result<u64, DbError> {
    number(tx, "SELECT COUNT(*) AS n FROM image WHERE account_id = $1", account).await
}

async fn versions_used(tx: &mut Tx, account: &Uuid) -> Result<u64, DbError> {
    let text =
        "SELECT COUNT(*) AS n FROM version JOIN image ON image.id = version.image_id WHERE image.account_id = $1";
    number(tx, text, account).await
}

async fn versions_in_trash(tx: &mut Tx, account: &Uuid) -> Result<u64, DbError> {
    let text = "SELECT COUNT(*) AS n FROM version JOIN image ON image.id = version.image_id WHERE image.account_id = $1 \
                AND (version.trashed_at IS NOT NULL OR image.trashed_at IS NOT NULL)";
    number(tx, text, account).await
}

async fn logical_used(tx: &mut Tx, account: &Uuid) -> Result<u64, DbError> {
    let text = "SELECT CAST(COALESCE(SUM(content.size), 0) AS BIGINT) AS n FROM image \
                JOIN version ON version.image_id = image.id JOIN content ON content.id = version.content_id \
                WHERE image.account_id = $1";
    number(tx, text, account).await
}

async fn uploads_used(tx: &mut Tx, account: &Uuid) -> Result<u64, DbError> {
    let open = sql("SELECT COUNT(*) AS n FROM upload WHERE account_id = $1 AND state = 'open' AND lease_until > $2");
    let now = tx.now();
    tx.row_must(open.bind(account).bind(now)).await?.size("n")
}

/// Spaces whose every byte this account pays for: its own, and those of its shared images.
async fn spaces_of(tx: &mut Tx, owner: &Owner) -> Result<Vec<SpaceId>, DbError> {
    let rows = tx
        .rows(
            sql("SELECT spaces FROM image WHERE account_id = $1 UNION \
                 SELECT content.spaces FROM image JOIN version ON version.image_id = image.id \
                 JOIN content ON content.id = version.content_id WHERE image.account_id = $1")
            .bind(owner.id),
        )
        .await?;
    let mut spaces = BTreeSet::from([owner.space()]);
    for row in rows {
        spaces.extend(row.json::<Vec<SpaceId>>("spaces")?);
    }
    spaces.remove(&public_space());
    Ok(spaces.into_iter().collect())
}

async fn stored_used(tx: &mut Tx, owner: &Owner, counted: Counted) -> Result<u64, DbError> {
    // What only an upload that came to nothing has sent is waiting for a prune, which is no fault of the account's. Once a commit has used a
    // pack it counts, whoever sent it.
    let (running, cutting) = match counted {
        Counted::Running => ("'ended'", Uuid::nil()),
        Counted::Cutting(upload) => ("'ended'", upload),
        Counted::Committed => ("'ended', 'open', 'committing'", Uuid::nil()),
    };
    let mut used = 0u64;
    for spaces in spaces_of(tx, owner).await?.chunks(BATCH) {
        let text = format!(
            "SELECT CAST(COALESCE(SUM(frames_len), 0) AS BIGINT) AS n FROM blob \
             WHERE kind = 'pack' AND state = 'live' AND space IN ({}) AND (touched > 0 OR upload IS NULL OR NOT EXISTS \
             (SELECT 1 FROM upload WHERE upload.id = blob.upload AND upload.state IN ({running})))",
            placeholders(1, spaces.len())
        );
        let row = tx.row_must(sql(text).bind_all(spaces.iter().map(SpaceId::as_str))).await?;
        used = used.saturating_add(row.size("n")?);
    }
    // In the space of everyone packs are nobody's alone, so what each version brought is counted there.
    let public = "SELECT CAST(COALESCE(SUM(content.new_bytes), 0) AS BIGINT) AS n FROM image \
                  JOIN version ON version.image_id = image.id JOIN content ON content.id = version.content_id \
                  WHERE image.account_id = $1 AND content.spaces LIKE '[\"public\"%'";
    used = used.saturating_add(number(tx, public, &owner.id).await?);
    if let Counted::Committed = counted {
        return Ok(used);
    }
    let public = "SELECT CAST(COALESCE(SUM(blob.frames_len), 0) AS BIGINT) AS n FROM upload \
                  JOIN image ON image.id = upload.image_id JOIN blob ON blob.upload = upload.id \
                  WHERE image.account_id = $1 AND upload.state IN ('open', 'committing') \
                  AND blob.kind = 'pack' AND blob.state = 'live' AND blob.touched = 0 AND blob.space = 'public'";
    used = used.saturating_add(number(tx, public, &owner.id).await?);
    let spools = sql("SELECT CAST(COALESCE(SUM(upload.received), 0) AS BIGINT) AS n FROM upload \
                      JOIN image ON image.id = upload.image_id \
                      WHERE image.account_id = $1 AND upload.state IN ('open', 'committing') AND upload.id <> $2");
    Ok(used.saturating_add(tx.row_must(spools.bind(owner.id).bind(cutting)).await?.size("n")?))
}

/// What is over a limit, in words.
fn exceeded(core: &Core, owner: &str, what: &str, used: u64, more: Option<u64>, limit: u64) -> Problem {
    core.tallies.quota_refused();
    let more = more.map(|more| format!(", {more} more are wanted")).unwrap_or_default();
    let title =
        format!("the quota of {owner} for {what} does not allow this: {used} are kept{more}, {limit} are allowed");
    Problem::new(Code::QuotaExceeded, title).hint(
        "`slipway quota` shows what counts, the trash included; delete what is not needed, or ask an admin for more",
    )
}

/// Refuses an upload that cannot fit: before its first byte, by what is announced. `maker` begins it, the image's owner pays for its bytes;
/// `adds`: it makes one version more, and does not replace a content.
pub(super) async fn quota_begin(
    tx: &mut Tx,
    core: &Core,
    owner: &Owner,
    maker: &Owner,
    size: Option<u64>,
    adds: bool,
) -> Result<(), TxError> {
    let of_maker = limits_locked(tx, core, &maker.id).await?;
    if let Some(limit) = of_maker.uploads {
        let used = uploads_used(tx, &maker.id).await?;
        if used >= limit {
            return Err(exceeded(core, &maker.name, "open uploads", used, Some(1), limit)
                .hint("commit or delete some, or ask an admin for more")
                .into());
        }
    }
    if owner.name == SYSTEM {
        return Ok(());
    }
    let limits = limits_of(tx, core, &owner.id).await?;
    if let Some(limit) = limits.versions.filter(|_| adds) {
        let used = versions_used(tx, &owner.id).await?;
        if used >= limit {
            return Err(exceeded(core, &owner.name, "versions", used, Some(1), limit).into());
        }
    }
    if let Some(limit) = limits.logical_bytes {
        let (used, more) = (logical_used(tx, &owner.id).await?, size.unwrap_or(1));
        if used.saturating_add(more) > limit {
            return Err(exceeded(core, &owner.name, "logical bytes", used, size, limit).into());
        }
    }
    if let Some(limit) = limits.stored_bytes {
        let used = stored_used(tx, owner, Counted::Running).await?;
        if used >= limit {
            return Err(exceeded(core, &owner.name, "stored bytes", used, None, limit).into());
        }
    }
    Ok(())
}

/// Refuses a commit whose version is in the rows already, if the account keeps more than it may with it. It is asked within the commit's own
/// transaction, with the account's row locked, so that two uploads cannot both take the last of it.
pub(super) async fn quota_commit(tx: &mut Tx, core: &Core, owner: &Owner, stores: bool) -> Result<(), TxError> {
    if owner.name == SYSTEM {
        return Ok(());
    }
    let limits = limits_locked(tx, core, &owner.id).await?;
    if let Some(limit) = limits.versions {
        let used = versions_used(tx, &owner.id).await?;
        if used > limit {
            return Err(exceeded(core, &owner.name, "versions", used - 1, Some(1), limit).into());
        }
    }
    if let Some(limit) = limits.logical_bytes {
        let used = logical_used(tx, &owner.id).await?;
        if used > limit {
            return Err(exceeded(core, &owner.name, "logical bytes (with this version)", used, None, limit).into());
        }
    }
    if let Some(limit) = limits.stored_bytes.filter(|_| stores) {
        let used = stored_used(tx, owner, Counted::Committed).await?;
        if used > limit {
            return Err(exceeded(core, &owner.name, "stored bytes (with this version)", used, None, limit).into());
        }
    }
    Ok(())
}

/// Refuses one image more than an account may own.
pub(super) async fn quota_image(tx: &mut Tx, core: &Core, owner: &Owner) -> Result<(), TxError> {
    if owner.name == SYSTEM {
        return Ok(());
    }
    let Some(limit) = limits_locked(tx, core, &owner.id).await?.images else { return Ok(()) };
    let used = images_used(tx, &owner.id).await?;
    match used < limit {
        true => Ok(()),
        false => Err(exceeded(core, &owner.name, "images", used, Some(1), limit).into()),
    }
}

/// What is left for an upload while its bytes come.
#[derive(Clone, Debug)]
pub struct QuotaLeft {
    owner: String,
    stored: Option<(u64, u64)>,
    logical: Option<(u64, u64)>,
}

impl QuotaLeft {
    /// Whether stored bytes have a limit at all.
    pub fn is_limited(&self) -> bool {
        self.stored.is_some()
    }

    /// Refuses so many bytes more in a pack or spool file.
    pub fn stored_check(&self, core: &Core, more: u64) -> Result<(), Problem> {
        Self::check(core, &self.owner, "stored bytes", self.stored, more)
    }

    /// Refuses an image of so many bytes.
    pub fn logical_check(&self, core: &Core, size: u64) -> Result<(), Problem> {
        Self::check(core, &self.owner, "logical bytes", self.logical, size)
    }

    fn check(core: &Core, owner: &str, what: &str, line: Option<(u64, u64)>, more: u64) -> Result<(), Problem> {
        match line {
            Some((used, limit)) if used.saturating_add(more) > limit => {
                Err(exceeded(core, owner, what, used, Some(more), limit))
            }
            _ => Ok(()),
        }
    }
}

/// What is left for the owner of the image that an upload fills; what the upload has sent so far is counted as kept. `cutting`: its spool is
/// being cut, and does not count.
pub async fn quota_left(core: &Core, upload: &Uuid, cutting: bool) -> Result<QuotaLeft, Problem> {
    let mut tx = core.db.read().await?;
    let none = |owner: String| QuotaLeft { owner, stored: None, logical: None };
    let Some(row) = tx.row(sql("SELECT image_id FROM upload WHERE id = $1").bind(upload)).await? else {
        return Ok(none(String::new()));
    };
    // An upload whose image is gone is refused elsewhere.
    let Some(image) = image_by_id(&mut tx, &row.parsed("image_id")?).await? else { return Ok(none(String::new())) };
    let owner = image.owner;
    if owner.name == SYSTEM {
        return Ok(none(owner.name));
    }
    let limits = limits_of(&mut tx, core, &owner.id).await?;
    let counted = if cutting { Counted::Cutting(*upload) } else { Counted::Running };
    let stored = match limits.stored_bytes {
        Some(limit) => Some((stored_used(&mut tx, &owner, counted).await?, limit)),
        None => None,
    };
    let logical = match limits.logical_bytes {
        Some(limit) => Some((logical_used(&mut tx, &owner.id).await?, limit)),
        None => None,
    };
    Ok(QuotaLeft { owner: owner.name, stored, logical })
}

async fn quota_read(tx: &mut Tx, core: &Core, owner: &Owner) -> Result<Quota, TxError> {
    let own = own_of(tx, &owner.id).await?;
    let limits = limits_decide(&core.config.quota, &own);
    let is_own = |limit: Option<QuotaLimit>| limit.is_some_and(|limit| limit != QuotaLimit::Word(QuotaWord::Default));
    let line = |used, limit, own| QuotaLine { used, limit, own: is_own(own) };
    Ok(Quota {
        account: owner.name.parse().map_err(|_| DbError::Column {
            column: "name".to_owned(),
            detail: "is no name of an account".to_owned(),
        })?,
        stored_bytes: line(stored_used(tx, owner, Counted::Running).await?, limits.stored_bytes, own.stored_bytes),
        logical_bytes: line(logical_used(tx, &owner.id).await?, limits.logical_bytes, own.logical_bytes),
        images: line(images_used(tx, &owner.id).await?, limits.images, own.images),
        versions: line(versions_used(tx, &owner.id).await?, limits.versions, own.versions),
        uploads: line(uploads_used(tx, &owner.id).await?, limits.uploads, own.uploads),
        versions_in_trash: versions_in_trash(tx, &owner.id).await?,
    })
}

/// What an account keeps and may keep; one's own always.
pub async fn quota_get(core: &Core, who: &Caller, name: &str) -> Result<Quota, Problem> {
    let name = name_of(who, name)?;
    let got: Result<Quota, TxError> = async {
        let mut tx = core.db.read().await?;
        let account = account_allowed(&mut tx, who, Action::UserRead, &name).await?;
        quota_read(&mut tx, core, &Owner { id: account.id, name: name.clone() }).await
    }
    .await;
    Ok(got?)
}

/// Sets limits of one account. Less than it keeps already deletes nothing: it only takes no more.
pub async fn quota_change(core: &Core, who: &Caller, name: &str, change: QuotaChange) -> Result<Quota, Problem> {
    let name = name_of(who, name)?;
    let done: Result<Quota, TxError> = tx!(&core.db, who, |tx| {
        let account = account_allowed(tx, who, Action::UserAdmin, &name).await?;
        tx.run(sql("UPDATE account SET revision = revision WHERE id = $1").bind(account.id)).await?;
        let before = own_of(tx, &account.id).await?;
        let now = QuotaChange {
            stored_bytes: change.stored_bytes.or(before.stored_bytes),
            logical_bytes: change.logical_bytes.or(before.logical_bytes),
            images: change.images.or(before.images),
            versions: change.versions.or(before.versions),
            uploads: change.uploads.or(before.uploads),
        };
        if now != before {
            let update =
                sql("UPDATE account SET quota = $1 WHERE id = $2").bind(json!(now).to_string()).bind(account.id);
            tx.run(update).await?;
            tx.journal("quota_change", &*name, json!(change));
        }
        quota_read(tx, core, &Owner { id: account.id, name: name.clone() }).await
    });
    Ok(done?)
}
