//! What is known to be wrong: written down once for each object, whoever found it, and shown to those whom it concerns.

use crate::core::{Caller, Core, ms};
use crate::db::{DbError, Row, Tx, TxError, placeholders, sql, tx};
use crate::ledger::BATCH;
use crate::policy::{self, Action, Object};
use crate::rules::image_row::image_by_id;
use crate::rules::owner::server_allowed;
use crate::rules::page::{cursor_decode, cursor_encode, limit_check, page_of};
use crate::rules::task::task_create;
use serde_json::json;
use slipway_api::{FindingQuery, KnownFinding, Page, Problem, TaskKind};
use slipway_store::{BlobId, BlobKind, ContentRef, Finding, FindingKind, SpaceId};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;
use uuid::Uuid;

/// Open findings that are kept; a store that is hurt worse than this needs more than a list.
const OPEN_MAX: i64 = 10_000;
/// How long one look at a blob answers for all who call it damaged.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// The kind of a finding as it is shown.
pub(crate) fn kind_word(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::MissingBlob => "missing",
        FindingKind::UnknownBlob => "unknown",
        FindingKind::DamagedBlob | FindingKind::Unreadable | FindingKind::BrokenContent => "damaged",
    }
}

fn object_of(finding: &Finding) -> String {
    match finding.kind {
        FindingKind::BrokenContent => format!("content {}", finding.name),
        FindingKind::MissingBlob | FindingKind::DamagedBlob | FindingKind::Unreadable | FindingKind::UnknownBlob => {
            finding.name.clone()
        }
    }
}

/// Writes down what was found, each object once; what is repaired and hurts nobody is over at once. Says which rows they are.
pub(crate) async fn findings_record(
    tx: &mut Tx,
    source: &'static str,
    found: &[Finding],
) -> Result<Vec<Uuid>, DbError> {
    let mut ids = Vec::new();
    // Two contents of one root, read by different people, are one object.
    let mut by_object: BTreeMap<String, (&Finding, Vec<&ContentRef>)> = BTreeMap::new();
    for finding in found {
        by_object.entry(object_of(finding)).or_insert((finding, Vec::new())).1.extend(&finding.hits);
    }
    let mut open = tx.row_must(sql("SELECT COUNT(*) AS n FROM finding WHERE closed_at IS NULL")).await?.int("n")?;
    for (object, (finding, hits)) in by_object {
        if open >= OPEN_MAX {
            tracing::error!(object, finding = %finding, "there are more findings than are kept");
            continue;
        }
        open += 1;
        let contents = contents_of(tx, &hits).await?;
        let over = finding.repaired.is_some() && contents.is_empty();
        let row = Seen {
            object,
            kind: kind_word(finding.kind),
            blob: finding.blob,
            detail: finding.detail.clone(),
            source,
            repaired: finding.repaired.clone(),
            over,
        };
        ids.push(row.keep(tx, &contents).await?);
    }
    Ok(ids)
}

/// That a content's digest is not the one that was named.
pub(crate) async fn mismatch_record(
    tx: &mut Tx,
    source: &'static str,
    content: &Uuid,
    detail: String,
) -> Result<(), DbError> {
    let object = format!("digest of content {content}");
    let seen = Seen { object, kind: "mismatch", blob: None, detail, source, repaired: None, over: false };
    seen.keep(tx, &BTreeSet::from([*content])).await.map(drop)
}

struct Seen {
    object: String,
    kind: &'static str,
    blob: Option<BlobId>,
    detail: String,
    source: &'static str,
    repaired: Option<String>,
    over: bool,
}

impl Seen {
    async fn keep(self, tx: &mut Tx, contents: &BTreeSet<Uuid>) -> Result<Uuid, DbError> {
        let now = tx.now();
        let known =
            tx.row(sql("SELECT id FROM finding WHERE object = $1 AND closed_at IS NULL").bind(&self.object)).await?;
        let insert = sql(
            "INSERT INTO finding (id, object, kind, blob, detail, source, repaired, found_at, seen_at, closed_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9) \
             ON CONFLICT (object) DO UPDATE SET kind = excluded.kind, blob = excluded.blob, detail = excluded.detail, \
             source = CASE WHEN finding.closed_at IS NULL THEN finding.source ELSE excluded.source END, \
             found_at = CASE WHEN finding.closed_at IS NULL THEN finding.found_at ELSE excluded.found_at END, \
             repaired = excluded.repaired, seen_at = excluded.seen_at, closed_at = excluded.closed_at RETURNING id",
        )
        .bind(Uuid::now_v7())
        .bind(&self.object)
        .bind(self.kind)
        .bind(self.blob.map(|id| id.to_string()))
        .bind(&self.detail)
        .bind(self.source)
        .bind(self.repaired.clone())
        .bind(now)
        .bind(self.over.then_some(now));
        let id: Uuid = tx.row_must(insert).await?.parsed("id")?;
        tx.run(sql("DELETE FROM finding_hit WHERE finding_id = $1").bind(id)).await?;
        for content in contents {
            tx.run(sql("INSERT INTO finding_hit (finding_id, content_id) VALUES ($1, $2)").bind(id).bind(content))
                .await?;
        }
        if known.is_none() {
            let detail =
                json!({ "kind": self.kind, "detail": self.detail, "source": self.source, "repaired": self.repaired });
            tx.journal("finding_record", self.object, detail);
        }
        Ok(id)
    }
}

/// Ids of the contents that are meant: the same root in the same spaces, however they are written.
async fn contents_of(tx: &mut Tx, hits: &[&ContentRef]) -> Result<BTreeSet<Uuid>, DbError> {
    let set = |spaces: &[SpaceId]| spaces.iter().cloned().collect::<BTreeSet<SpaceId>>();
    let mut ids = BTreeSet::new();
    for hit in hits {
        let rows = tx.rows(sql("SELECT id, spaces FROM content WHERE root = $1").bind(hit.root.to_string())).await?;
        for row in rows {
            if set(&row.json::<Vec<SpaceId>>("spaces")?) == set(&hit.spaces) {
                ids.insert(row.parsed("id")?);
            }
        }
    }
    Ok(ids)
}

/// Ends findings about these blobs, which were read again and are whole.
pub(crate) async fn findings_whole(tx: &mut Tx, blobs: &[BlobId]) -> Result<(), DbError> {
    let now = tx.now();
    for batch in blobs.chunks(BATCH) {
        let text = format!(
            "UPDATE finding SET closed_at = $1, seen_at = $1, repaired = 'it was read again and is whole' \
             WHERE closed_at IS NULL AND blob IN ({})",
            placeholders(2, batch.len())
        );
        tx.run(sql(text).bind(now).bind_all(batch.iter().map(BlobId::to_string))).await?;
    }
    Ok(())
}

/// Brings findings up to what all contents look like now: whom they no longer hurt is taken out, and what hurts nobody and whose blob
/// is no longer served is over. `broken` are all contents that cannot be read in full.
pub(crate) async fn findings_settle(tx: &mut Tx, broken: &[Finding]) -> Result<(), DbError> {
    let hurt: Vec<&ContentRef> = broken.iter().flat_map(|finding| &finding.hits).collect();
    let hurt = contents_of(tx, &hurt).await?;
    let rows = tx
        .rows(sql(
            "SELECT finding_hit.finding_id, finding_hit.content_id, finding.kind, content.id AS there FROM finding_hit \
                   JOIN finding ON finding.id = finding_hit.finding_id AND finding.closed_at IS NULL \
                   LEFT JOIN content ON content.id = finding_hit.content_id",
        ))
        .await?;
    for row in rows {
        let content: Uuid = row.parsed("content_id")?;
        let gone = row.text_or_null("there")?.is_none();
        // A digest that does not fit stays said for as long as the content is there.
        if gone || (row.text("kind")? != "mismatch" && !hurt.contains(&content)) {
            let delete = sql("DELETE FROM finding_hit WHERE finding_id = $1 AND content_id = $2");
            tx.run(delete.bind(row.text("finding_id")?).bind(content)).await?;
        }
    }
    let now = tx.now();
    let close = sql("UPDATE finding SET closed_at = $1 WHERE closed_at IS NULL AND kind <> 'unknown' \
         AND NOT EXISTS (SELECT 1 FROM finding_hit WHERE finding_hit.finding_id = finding.id) \
         AND NOT EXISTS (SELECT 1 FROM blob WHERE blob.id = finding.blob AND blob.state IN ('live', 'doomed'))");
    tx.run(close.bind(now)).await?;
    Ok(())
}

/// After a look at everything, ends every finding that is not among those seen now.
pub(crate) async fn findings_close_others(tx: &mut Tx, seen: &[Uuid]) -> Result<(), DbError> {
    let now = tx.now();
    let seen: BTreeSet<&Uuid> = seen.iter().collect();
    let open = tx.rows(sql("SELECT id FROM finding WHERE closed_at IS NULL AND kind <> 'mismatch'")).await?;
    for row in open {
        let id: Uuid = row.parsed("id")?;
        if !seen.contains(&id) {
            tx.run(sql("UPDATE finding SET closed_at = $1 WHERE id = $2").bind(now).bind(id)).await?;
        }
    }
    Ok(())
}

/// A blob by its name.
pub(crate) type BlobName = (SpaceId, BlobKind, String);

/// Asks for a look at each of these blobs that puts right what it can, unless one is wanted already; for readers, who may come back every
/// second, unless there was one within the hour.
pub(crate) async fn blobs_doubt(tx: &mut Tx, blobs: &[BlobName], by_readers: bool) -> Result<(), DbError> {
    let within = if by_readers { LOOK_AGAIN } else { Duration::ZERO };
    for blob in blobs {
        if look_recent(tx, &look_object(blob.1, &blob.2), within).await?.is_none() {
            blob_look(tx, blob).await?;
        }
    }
    Ok(())
}

/// What a look at one blob is about, as its task says it.
fn look_object(kind: BlobKind, name: &str) -> String {
    format!("{kind} {name}")
}

/// The look at this blob that is wanted, runs, or was asked for within this time.
async fn look_recent(tx: &mut Tx, object: &str, within: Duration) -> Result<Option<Uuid>, DbError> {
    let known = sql("SELECT id FROM task WHERE kind = 'check' AND object = $1 AND account_id IS NULL \
         AND (state IN ('queued', 'running') OR created_at > $2) ORDER BY id DESC LIMIT 1")
    .bind(object)
    .bind(tx.now() - ms(within));
    tx.row(known).await?.map(|row| row.parsed("id")).transpose()
}

async fn blob_look(tx: &mut Tx, blob: &BlobName) -> Result<Uuid, DbError> {
    let input = json!({ "repair": true, "blobs": [blob] });
    let object = look_object(blob.1, &blob.2);
    Ok(task_create(tx, &Caller::server(), TaskKind::Check, &object, &input).await?.id)
}

/// The look at this blob: the one of the last hour, else a new one. True if it is new.
pub(crate) async fn blob_look_once(tx: &mut Tx, blob: &BlobName) -> Result<(Uuid, bool), DbError> {
    match look_recent(tx, &look_object(blob.1, &blob.2), LOOK_AGAIN).await? {
        Some(id) => Ok((id, false)),
        None => Ok((blob_look(tx, blob).await?, true)),
    }
}

/// Writes down what readers of this process found since the last time, and asks for a look at the blobs.
pub(crate) async fn readers_findings_record(core: &Core) -> Result<(), DbError> {
    let found = core.store.findings();
    if found.is_empty() {
        return Ok(());
    }
    let server = Caller::server();
    let done: Result<(), TxError> = tx!(&core.db, &server, |tx| {
        let mut fresh = Vec::new();
        for finding in &found {
            if is_news(tx, finding).await? {
                fresh.push(finding.clone());
            }
        }
        findings_record(tx, "read", &fresh).await?;
        let doubted = names_of(tx, &found).await?;
        Ok(blobs_doubt(tx, &doubted, true).await?)
    });
    match done {
        Ok(()) => Ok(()),
        Err(TxError::Db(error)) => Err(error),
        Err(TxError::Refused(problem)) => Err(DbError::Unknown(problem.title)),
    }
}

/// Whether a reader's word adds anything: a reader does not know whom it hurts, and the blob may have been put aside since it was read.
async fn is_news(tx: &mut Tx, finding: &Finding) -> Result<bool, DbError> {
    let Some(blob) = finding.blob else { return Ok(false) };
    let seen = sql("UPDATE finding SET seen_at = $1 WHERE object = $2 AND closed_at IS NULL");
    let now = tx.now();
    if tx.run(seen.bind(now).bind(object_of(finding))).await? > 0 {
        return Ok(false);
    }
    let served = sql("SELECT id FROM blob WHERE id = $1 AND state IN ('live', 'doomed')").bind(blob.to_string());
    Ok(tx.row(served).await?.is_some())
}

/// The names of the damaged blobs among these findings, for those that are still served.
pub(crate) async fn names_of(tx: &mut Tx, found: &[Finding]) -> Result<Vec<BlobName>, DbError> {
    let mut names: Vec<BlobName> = Vec::new();
    let damaged = found.iter().filter(|finding| finding.kind == FindingKind::DamagedBlob && finding.repaired.is_none());
    for blob in damaged.filter_map(|finding| finding.blob) {
        let row = sql("SELECT space, kind, name FROM blob WHERE id = $1 AND state IN ('live', 'doomed')");
        let Some(row) = tx.row(row.bind(blob.to_string())).await? else { continue };
        let Some(kind) = BlobKind::parse(&row.text("kind")?) else { continue };
        let name = (row.parsed("space")?, kind, row.text("name")?);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// What is known to be wrong, newest first: all of it for who cares for the store, else what hurts a version that the caller may read.
pub async fn finding_list(core: &Core, who: &Caller, query: &FindingQuery) -> Result<Page<KnownFinding>, Problem> {
    server_allowed(who, Action::ImageList)?;
    let sees_all = server_allowed(who, Action::StoreCare).is_ok();
    let limit = limit_check(query.limit)?;
    let [mut before] = cursor_decode::<1>(query.cursor.as_deref())?.unwrap_or([String::from("g")]);
    let mut tx = core.db.read().await?;
    let mut kept: Vec<KnownFinding> = Vec::new();
    // Who may read what is beyond SQL, so rows are asked for until the page is full.
    while kept.len() <= limit {
        let condition = if query.all { "" } else { "AND closed_at IS NULL" };
        let mine = if sees_all { "" } else { "AND EXISTS (SELECT 1 FROM finding_hit WHERE finding_id = finding.id)" };
        let text = format!("SELECT * FROM finding WHERE id < $1 {condition} {mine} ORDER BY id DESC LIMIT $2");
        let rows = tx.rows(sql(text).bind(&before).bind(limit as u64 + 1)).await?;
        let Some(last) = rows.last() else { break };
        before = last.text("id")?;
        let full = rows.len() > limit;
        let ids: Vec<Uuid> = rows.iter().map(|row| row.parsed("id")).collect::<Result<_, _>>()?;
        let mut versions = versions_hit(&mut tx, who, &ids).await?;
        for (row, id) in rows.iter().zip(&ids) {
            let names = versions.remove(id).unwrap_or_default();
            if sees_all || !names.is_empty() {
                kept.push(finding_read(row, names)?);
            }
        }
        if !full {
            break;
        }
    }
    kept.truncate(limit + 1);
    Ok(page_of(kept, limit, |finding| cursor_encode(&[&finding.id.to_string()])))
}

fn finding_read(row: &Row, versions: Vec<String>) -> Result<KnownFinding, DbError> {
    Ok(KnownFinding {
        id: row.parsed("id")?,
        kind: row.text("kind")?,
        object: row.text("object")?,
        detail: row.text("detail")?,
        source: row.text("source")?,
        versions,
        repaired: row.text_or_null("repaired")?,
        found_at: row.time("found_at")?,
        seen_at: row.time("seen_at")?,
        closed_at: row.time_or_null("closed_at")?,
    })
}

/// `owner/name:N` of the versions that each finding hurts, as far as the caller may read them; those in the trash only for who may take
/// them out.
async fn versions_hit(tx: &mut Tx, who: &Caller, findings: &[Uuid]) -> Result<HashMap<Uuid, Vec<String>>, DbError> {
    let mut hit: Vec<(Uuid, Uuid, u64, bool)> = Vec::new();
    for batch in findings.chunks(BATCH) {
        let text = format!(
            "SELECT finding_hit.finding_id, version.image_id, version.number, version.trashed_at FROM finding_hit \
             JOIN version ON version.content_id = finding_hit.content_id WHERE finding_hit.finding_id IN ({}) \
             ORDER BY version.image_id, version.number",
            placeholders(1, batch.len())
        );
        for row in tx.rows(sql(text).bind_all(batch)).await? {
            let trashed = row.int_or_null("trashed_at")?.is_some();
            hit.push((row.parsed("finding_id")?, row.parsed("image_id")?, row.size("number")?, trashed));
        }
    }
    let mut names: HashMap<Uuid, Vec<String>> = HashMap::new();
    let mut images = HashMap::new();
    for (finding, image, number, trashed) in hit {
        let row = match images.entry(image) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(image_by_id(tx, &image).await?),
        };
        let Some(row) = row else { continue };
        let action = if trashed || row.trashed_at.is_some() { Action::ImageDelete } else { Action::ImageRead };
        if policy::allowed(who, action, &Object::Image(row.object())).is_ok() {
            names.entry(finding).or_default().push(row.version_reference(number));
        }
    }
    names.values_mut().for_each(|list| list.sort());
    Ok(names)
}

/// How many findings of each kind are open.
pub(crate) async fn findings_open(tx: &mut Tx) -> Result<Vec<(String, u64)>, DbError> {
    let rows = tx
        .rows(sql("SELECT kind, COUNT(*) AS n FROM finding WHERE closed_at IS NULL GROUP BY kind ORDER BY kind"))
        .await?;
    rows.iter().map(|row| Ok((row.text("kind")?, row.size("n")?))).collect()
}
