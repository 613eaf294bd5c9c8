//! The scrub: one pass after the other over everything that is stored, whose place is kept in a row, so that a pass goes on where it was
//! after a stop, a crash, or on another server.

use crate::core::{Caller, Core, CoreConfig, Nudge, ms};
use crate::db::{DbError, Row, Tx, TxError, sql, time_of, tx};
use crate::policy::Action;
use crate::rules::finding_row::{
    blobs_doubt, findings_open, findings_record, findings_settle, findings_whole, names_of,
};
use crate::rules::owner::server_allowed;
use crate::rules::task::{Claimed, task_create};
use serde_json::json;
use slipway_api::{Problem, ScrubPass, ScrubState, ScrubStatus, TaskKind};
use slipway_store::{BlobId, Finding};
use uuid::Uuid;

/// How often a pass that broke off is asked for again by itself.
const RETRY_EVERY_MS: i64 = 3_600_000;

const ROW: &str = "SELECT * FROM scrub WHERE name = 'store'";

/// Where the scrub stands.
pub async fn scrub_get(core: &Core, who: &Caller) -> Result<ScrubStatus, Problem> {
    server_allowed(who, Action::StoreCare)?;
    let mut tx = core.db.read().await?;
    Ok(status_read(&mut tx, &core.config).await?)
}

/// Begins a pass, or lets a paused one go on. One that is under way already goes on as it is.
pub async fn scrub_start(core: &Core, who: &Caller) -> Result<ScrubStatus, Problem> {
    server_allowed(who, Action::StoreCare)?;
    let started: Result<ScrubStatus, TxError> = tx!(&core.db, who, |tx| {
        let resumed = tx.run(sql("UPDATE scrub SET paused = 0 WHERE name = 'store' AND paused = 1")).await? == 1;
        let made = match task_active(tx).await? {
            Some(_) => false,
            None => {
                task_create(tx, &Caller::server(), TaskKind::Scrub, "store", &json!({})).await?;
                true
            }
        };
        if resumed || made {
            tx.journal("scrub_start", "store", json!({}));
        }
        Ok(status_read(tx, &core.config).await?)
    });
    Ok(started?)
}

/// Pauses the scrub; it stays paused until somebody starts it.
pub async fn scrub_pause(core: &Core, who: &Caller) -> Result<ScrubStatus, Problem> {
    server_allowed(who, Action::StoreCare)?;
    let paused: Result<ScrubStatus, TxError> = tx!(&core.db, who, |tx| {
        if tx.run(sql("UPDATE scrub SET paused = 1 WHERE name = 'store' AND paused = 0")).await? == 1 {
            tx.journal("scrub_pause", "store", json!({}));
        }
        let stop = sql("UPDATE task SET cancelled = 1, not_before = 0, revision = revision + 1 \
             WHERE kind = 'scrub' AND state IN ('queued', 'running') AND cancelled = 0 RETURNING id");
        for row in tx.rows(stop).await? {
            tx.nudge(Nudge::Task(row.parsed("id")?));
            tx.nudge(Nudge::Queued(TaskKind::Scrub));
        }
        Ok(status_read(tx, &core.config).await?)
    });
    Ok(paused?)
}

/// The task that scrubs or waits to, and whether it runs; one that was told to stop does not count.
async fn task_active(tx: &mut Tx) -> Result<Option<(Uuid, bool)>, DbError> {
    let row = tx
        .row(sql(
            "SELECT id, state FROM task WHERE kind = 'scrub' AND state IN ('queued', 'running') AND cancelled = 0 \
                  ORDER BY id DESC LIMIT 1",
        ))
        .await?;
    row.map(|row| Ok((row.parsed("id")?, row.text("state")? == "running"))).transpose()
}

async fn status_read(tx: &mut Tx, config: &CoreConfig) -> Result<ScrubStatus, DbError> {
    let row = tx.row_must(sql(ROW)).await?;
    let task = task_active(tx).await?;
    let pass = match row.int_or_null("begun_at")? {
        None => None,
        Some(begun) => Some(ScrubPass {
            number: row.size("pass")?,
            begun_at: time(begun)?,
            ended_at: None,
            blobs: row.size("blobs")?,
            bytes: row.size("bytes")?,
            findings: row.size("findings")?,
        }),
    };
    let state = match (row.flag("paused")?, &task, &pass) {
        (true, ..) => ScrubState::Paused,
        (false, Some((_, true)), _) => ScrubState::Running,
        (false, Some((_, false)), _) | (false, None, Some(_)) => ScrubState::Waiting,
        (false, None, None) => ScrubState::Idle,
    };
    let due_at = match (state, config.scrub_every) {
        (ScrubState::Idle, Some(every)) => match first_due(tx, &row).await? {
            Some(since) => Some(time(since.saturating_add(ms(every)))?),
            None => None,
        },
        _ => None,
    };
    let bytes = "SELECT CAST(COALESCE(SUM(len), 0) AS BIGINT) AS n FROM blob WHERE state IN ('live', 'doomed') AND digest IS NOT NULL";
    Ok(ScrubStatus {
        state,
        task: task.map(|(id, _)| id),
        pass,
        bytes_total: tx.row_must(sql(bytes)).await?.size("n")?,
        last: last_read(&row)?,
        due_at,
        bytes_per_second: config.scrub_rate,
        every_days: config.scrub_every.map(|every| every.as_secs() / (24 * 3600)),
        findings_open: findings_open(tx).await?.iter().map(|(_, n)| n).sum(),
    })
}

fn last_read(row: &Row) -> Result<Option<ScrubPass>, DbError> {
    let (Some(begun), Some(ended)) = (row.int_or_null("last_begun_at")?, row.int_or_null("last_ended_at")?) else {
        return Ok(None);
    };
    let under_way = row.int_or_null("begun_at")?.is_some();
    Ok(Some(ScrubPass {
        number: row.size("pass")?.saturating_sub(u64::from(under_way)),
        begun_at: time(begun)?,
        ended_at: Some(time(ended)?),
        blobs: row.size("last_blobs")?,
        bytes: row.size("last_bytes")?,
        findings: row.size("last_findings")?,
    }))
}

fn time(ms: i64) -> Result<jiff::Timestamp, DbError> {
    time_of(ms).map_err(|error| DbError::Unknown(error.to_string()))
}

/// From when the time to the next pass counts: the end of the last one, else the first line of the journal.
async fn first_due(tx: &mut Tx, row: &Row) -> Result<Option<i64>, DbError> {
    if let Some(ended) = row.int_or_null("last_ended_at")? {
        return Ok(Some(ended));
    }
    match tx.row(sql("SELECT at FROM journal ORDER BY number LIMIT 1")).await? {
        Some(row) => row.int_or_null("at"),
        None => Ok(None),
    }
}

/// Asks for a pass when one is due or one has broken off.
pub(crate) async fn scrub_ask(core: &Core, who: &Caller) -> Result<(), TxError> {
    let every = core.config.scrub_every;
    tx!(&core.db, who, |tx| {
        let now = tx.now();
        let row = tx.row_must(sql(ROW)).await?;
        if row.flag("paused")? || task_active(tx).await?.is_some() {
            return Ok(());
        }
        let due = match (row.int_or_null("begun_at")?, every) {
            (Some(_), _) => {
                let recent = sql("SELECT id FROM task WHERE kind = 'scrub' AND created_at > $1 LIMIT 1");
                tx.row(recent.bind(now - RETRY_EVERY_MS)).await?.is_none()
            }
            (None, None) => false,
            (None, Some(every)) => {
                first_due(tx, &row).await?.is_some_and(|since| since.saturating_add(ms(every)) <= now)
            }
        };
        if due {
            task_create(tx, who, TaskKind::Scrub, "store", &json!({})).await?;
            tx.journal("scrub_start", "store", json!({}));
        }
        Ok(())
    })
}

/// Where a pass is.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScrubAt {
    /// Blobs with greater ids are still to be read.
    pub(crate) cursor: String,
    pub(crate) blobs: u64,
    pub(crate) bytes: u64,
    /// Bytes of all that is readable now.
    pub(crate) total: u64,
}

/// Begins a pass, or finds where the one under way is. None if another worker has the task, or it was paused before it began.
pub(crate) async fn scrub_begin(core: &Core, task: &Claimed) -> Result<Option<ScrubAt>, TxError> {
    let server = Caller::server();
    tx!(&core.db, &server, |tx| {
        let now = tx.now();
        let begin = sql("UPDATE scrub SET pass = pass + CASE WHEN begun_at IS NULL THEN 1 ELSE 0 END, \
             cursor = CASE WHEN begun_at IS NULL THEN '' ELSE cursor END, blobs = CASE WHEN begun_at IS NULL THEN 0 ELSE blobs END, \
             bytes = CASE WHEN begun_at IS NULL THEN 0 ELSE bytes END, \
             findings = CASE WHEN begun_at IS NULL THEN 0 ELSE findings END, begun_at = COALESCE(begun_at, $1) \
             WHERE name = 'store' AND paused = 0 AND EXISTS (SELECT 1 FROM task WHERE id = $2 AND fence = $3 AND state = 'running') \
             RETURNING cursor, blobs, bytes")
        .bind(now)
        .bind(task.id)
        .bind(task.fence);
        let Some(row) = tx.row(begin).await? else { return Ok(None) };
        Ok(Some(ScrubAt {
            cursor: row.text("cursor")?,
            blobs: row.size("blobs")?,
            bytes: row.size("bytes")?,
            total: status_read(tx, &core.config).await?.bytes_total,
        }))
    })
}

/// What was seen since the place was last written down.
#[derive(Debug, Default)]
pub(crate) struct ScrubSeen<'a> {
    /// Where it began.
    pub(crate) from: String,
    /// The last blob that was looked at.
    pub(crate) cursor: String,
    pub(crate) blobs: u64,
    pub(crate) bytes: u64,
    pub(crate) findings: &'a [Finding],
    /// Blobs that are whole.
    pub(crate) whole: &'a [BlobId],
}

/// Writes the place down together with what was found, and asks for a look that puts it right. False if another worker has the task by now:
/// then nothing is written.
pub(crate) async fn scrub_save(core: &Core, task: &Claimed, seen: &ScrubSeen<'_>) -> Result<bool, TxError> {
    let server = Caller::server();
    tx!(&core.db, &server, |tx| {
        let update =
            sql("UPDATE scrub SET cursor = $1, blobs = blobs + $2, bytes = bytes + $3, findings = findings + $4 \
             WHERE name = 'store' AND cursor = $7 AND EXISTS (SELECT 1 FROM task WHERE id = $5 AND fence = $6 AND state = 'running')")
            .bind(&seen.cursor)
            .bind(seen.blobs)
            .bind(seen.bytes)
            .bind(seen.findings.len() as u64)
            .bind(task.id)
            .bind(task.fence)
            // Counted once, whatever became of the answer the first time.
            .bind(&seen.from);
        if tx.run(update).await? == 0 {
            return Ok(false);
        }
        // It came on, so that it was begun so often says nothing against it.
        tx.run(sql("UPDATE task SET attempt = 1 WHERE id = $1 AND fence = $2").bind(task.id).bind(task.fence)).await?;
        findings_whole(tx, seen.whole).await?;
        findings_record(tx, "scrub", seen.findings).await?;
        let doubted = names_of(tx, seen.findings).await?;
        blobs_doubt(tx, &doubted, false).await?;
        Ok(true)
    })
}

/// Ends the pass: `broken` are the contents that cannot be read in full, all that there are. None if another worker has the task by now.
pub(crate) async fn scrub_end(core: &Core, task: &Claimed, broken: &[Finding]) -> Result<Option<ScrubPass>, TxError> {
    let server = Caller::server();
    tx!(&core.db, &server, |tx| {
        let now = tx.now();
        let update = sql(
            "UPDATE scrub SET last_begun_at = begun_at, last_ended_at = $1, last_blobs = blobs, last_bytes = bytes, \
             last_findings = findings, begun_at = NULL, cursor = '' WHERE name = 'store' AND begun_at IS NOT NULL \
             AND EXISTS (SELECT 1 FROM task WHERE id = $2 AND fence = $3 AND state = 'running') RETURNING *",
        )
        .bind(now)
        .bind(task.id)
        .bind(task.fence);
        let Some(row) = tx.row(update).await? else { return Ok(None) };
        findings_settle(tx, broken).await?;
        // Those that no finding about a blob tells of already.
        let mut untold = Vec::new();
        for finding in broken {
            let told = "SELECT 1 AS n FROM finding JOIN finding_hit ON finding_hit.finding_id = finding.id \
                        JOIN content ON content.id = finding_hit.content_id \
                        WHERE finding.closed_at IS NULL AND content.root = $1 AND finding.object <> $2 LIMIT 1";
            let object = format!("content {}", finding.name);
            if tx.row(sql(told).bind(&finding.name).bind(object)).await?.is_none() {
                untold.push(finding.clone());
            }
        }
        findings_record(tx, "scrub", &untold).await?;
        let pass = last_read(&row)?;
        tx.journal("scrub_end", "store", json!(pass));
        Ok(pass)
    })
}

/// A scrub's task was cancelled: then the scrub is paused, unless it was started again meanwhile.
pub(crate) async fn scrub_cancelled(core: &Core, task: &Claimed) -> Result<(), TxError> {
    let server = Caller::server();
    tx!(&core.db, &server, |tx| {
        let cancelled = sql("SELECT cancelled FROM task WHERE id = $1").bind(task.id);
        let cancelled = tx.row(cancelled).await?.map(|row| row.flag("cancelled")).transpose()?.unwrap_or(false);
        if cancelled && task_active(tx).await?.is_none() {
            tx.run(sql("UPDATE scrub SET paused = 1 WHERE name = 'store'")).await?;
        }
        Ok(())
    })
}
