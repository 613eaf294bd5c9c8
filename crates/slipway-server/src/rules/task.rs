//! Tasks: long work in one table, claimed under a lease with a fence.

use crate::core::{Caller, Core, Nudge, ms};
use crate::db::{DbError, Row, Tx, TxError, sql, tx, word_of};
use crate::policy::{self, Action, Object};
use crate::rules::idempotency::{idempotency_begin, idempotency_finish};
use crate::rules::owner::server_allowed;
use crate::rules::page::{cursor_decode, cursor_encode, limit_check, page_of};
use serde_json::{Value, json};
use slipway_api::{CheckRequest, Code, Page, PageQuery, Problem, PruneRequest, Role, Task, TaskKind, TaskState};
use std::time::Duration;
use uuid::Uuid;

fn task_read(row: &Row) -> Result<Task, DbError> {
    Ok(Task {
        id: row.parsed("id")?,
        kind: row.word("kind")?,
        state: row.word("state")?,
        step: row.text("step")?,
        bytes_done: row.size("bytes_done")?,
        bytes_total: row.size_or_null("bytes_total")?,
        attempt: u32::try_from(row.int("attempt")?).unwrap_or(u32::MAX),
        object: row.text("object")?,
        created_by: row.text("created_by")?,
        created_at: row.time("created_at")?,
        started_at: row.time_or_null("started_at")?,
        finished_at: row.time_or_null("finished_at")?,
        error: row.json_or_null("error")?,
        result: row.json_or_null("result")?,
    })
}

/// Queues a task in the transaction that needs it. What it came from is journalled by the rule.
pub async fn task_create(
    tx: &mut Tx,
    who: &Caller,
    kind: TaskKind,
    object: &str,
    input: &Value,
) -> Result<Task, DbError> {
    let insert = sql("INSERT INTO task (id, kind, state, step, bytes_done, lease_until, fence, attempt, cancelled, not_before, object, \
         input, account_id, created_by, revision, created_at) \
         VALUES ($1, $2, 'queued', '', 0, 0, 0, 0, 0, 0, $3, $4, $5, $6, 1, $7) RETURNING *")
    .bind(Uuid::now_v7())
    .bind(word_of(&kind))
    .bind(object)
    .bind(input.to_string())
    .bind(who.user.as_ref().map(|user| user.id))
    .bind(who.actor())
    .bind(tx.now());
    let task = task_read(&tx.row_must(insert).await?)?;
    tx.nudge(Nudge::Queued(kind));
    Ok(task)
}

/// A task with its maker's id.
async fn task_find(tx: &mut Tx, who: &Caller, id: &Uuid, action: Action) -> Result<Task, TxError> {
    let row = tx.row(sql("SELECT * FROM task WHERE id = $1").bind(id)).await?;
    let maker = match &row {
        Some(row) => row.parsed_or_null("account_id")?,
        // A task that is not there is asked about as one of the server's, which only few may see; then it is missing for them too.
        None => None,
    };
    let object = Object::Task { id: *id, maker };
    policy::allowed(who, action, &object)?;
    match row {
        Some(row) => Ok(task_seen(who, &row)?),
        None => Err(policy::missing(&object.label()).into()),
    }
}

/// A task without what it is about and what came of it, which names images and versions: only its kind, state and times are left.
pub(crate) fn task_outline(task: Task) -> Task {
    Task { object: String::new(), created_by: String::new(), error: None, result: None, ..task }
}

/// What the caller may see of a task that they may see: all of it of their own, for an admin of every one; else its outline.
fn task_seen(who: &Caller, row: &Row) -> Result<Task, DbError> {
    let task = task_read(row)?;
    let whole = who.user.as_ref().is_none_or(|user| user.role == Role::Admin)
        || row.parsed_or_null::<Uuid>("account_id")? == who.user.as_ref().map(|user| user.id);
    Ok(if whole { task } else { task_outline(task) })
}

/// One task.
pub async fn task_get(core: &Core, who: &Caller, id: &Uuid) -> Result<Task, Problem> {
    let mut tx = core.db.read().await?;
    Ok(task_find(&mut tx, who, id, Action::TaskRead).await?)
}

/// The caller's tasks, all of them for who may see all; newest first.
pub async fn task_list(core: &Core, who: &Caller, query: &PageQuery) -> Result<Page<Task>, Problem> {
    server_allowed(who, Action::TaskList)?;
    let limit = limit_check(query.limit)?;
    let [before] = cursor_decode::<1>(query.cursor.as_deref())?.unwrap_or([String::from("g")]);
    let sees_all = policy::allowed(who, Action::TaskRead, &Object::Task { id: Uuid::nil(), maker: None }).is_ok();
    let user = who.user.as_ref().map_or(Uuid::nil(), |user| user.id);
    let mut tx = core.db.read().await?;
    // Ids are made in order of time, so their order is the order of the list.
    let rows = tx
        .rows(
            sql("SELECT * FROM task WHERE id < $1 AND ($2 = 1 OR account_id = $3) ORDER BY id DESC LIMIT $4")
                .bind(before)
                .bind(sees_all)
                .bind(user)
                .bind(limit as u64 + 1),
        )
        .await?;
    let items = rows.iter().map(|row| task_seen(who, row)).collect::<Result<Vec<_>, _>>()?;
    Ok(page_of(items, limit, |task| cursor_encode(&[&task.id.to_string()])))
}

/// Cancels a task: at once if it waits, else as soon as its worker can stop without harm.
pub async fn task_cancel(core: &Core, who: &Caller, id: &Uuid) -> Result<Task, Problem> {
    let done: Result<Task, TxError> = tx!(&core.db, who, |tx| {
        let task = task_find(tx, who, id, Action::TaskCancel).await?;
        if task.state.is_final() {
            let title = format!("task {id} cannot be cancelled: it is {}", word_of(&task.state));
            return Err(Problem::new(Code::Conflict, title).into());
        }
        // A queued one is cancelled by its worker too, so that there is one place that clears up after it.
        tx.run(sql("UPDATE task SET cancelled = 1, not_before = 0, revision = revision + 1 WHERE id = $1").bind(id))
            .await?;
        tx.journal("task_cancel", id.to_string(), json!({ "kind": task.kind, "object": task.object }));
        tx.nudge(Nudge::Queued(task.kind));
        tx.nudge(Nudge::Task(*id));
        Ok(task)
    });
    Ok(done?)
}

async fn care_request(
    core: &Core,
    who: &Caller,
    verb: &'static str,
    kind: TaskKind,
    input: Value,
) -> Result<Task, Problem> {
    server_allowed(who, Action::StoreCare)?;
    let made: Result<Task, TxError> = tx!(&core.db, who, |tx| {
        if let Some(task) = idempotency_begin(tx, who).await? {
            return Ok(task);
        }
        let task = task_create(tx, who, kind, "store", &input).await?;
        tx.journal(verb, "store", input.clone());
        idempotency_finish(tx, who, &task).await?;
        Ok(task)
    });
    Ok(made?)
}

/// Queues a prune; a dry run too is a task, because it reads everything.
pub async fn prune_request(core: &Core, who: &Caller, request: PruneRequest) -> Result<Task, Problem> {
    care_request(core, who, "prune_request", TaskKind::Prune, json!(request)).await
}

/// Queues a check.
pub async fn check_request(core: &Core, who: &Caller, request: CheckRequest) -> Result<Task, Problem> {
    care_request(core, who, "check_request", TaskKind::Check, json!(request)).await
}

/// A task in a worker's hands. Whoever claims it later has a larger fence, and this one's words no longer count.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// Its id.
    pub id: Uuid,
    /// What it does.
    pub kind: TaskKind,
    /// Grows with each claim.
    pub fence: i64,
    /// How often it was begun, this time included.
    pub attempt: u32,
    /// Somebody cancelled it before it was begun.
    pub cancelled: bool,
    /// What it works on, in words.
    pub object: String,
    /// What it works on, for the worker.
    pub input: Value,
}

/// What a worker hears when it gives a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The lease is renewed.
    Kept,
    /// The lease is renewed, but the work shall stop.
    Cancelled,
    /// Another worker has it.
    Lost,
}

/// How a worker leaves a task.
#[derive(Clone, Debug)]
pub enum TaskEnd {
    /// It came to its end.
    Done(Value),
    /// It will not succeed.
    Failed(Problem),
    /// Somebody cancelled it.
    Cancelled,
    /// It may succeed later.
    Again(Problem, Duration),
    /// The server stops: the task was not at fault, and this begin does not count.
    Released,
}

/// Only one prune or repair may be at a store at a time, in whichever process.
const ALONE: &str = "AND NOT EXISTS (SELECT 1 FROM task AS other WHERE other.state = 'running' AND other.lease_until >= $2 \
     AND (other.kind = 'prune' OR (other.kind = 'check' AND other.input LIKE '%\"repair\":true%')))";

/// Two scrubs would read everything twice.
const ONE_SCRUB: &str = "AND NOT EXISTS (SELECT 1 FROM task AS other WHERE other.kind = 'scrub' AND other.state = 'running' \
     AND other.lease_until >= $2)";

/// Takes the oldest task of this kind that waits or whose worker is gone.
pub async fn task_claim(core: &Core, kind: TaskKind) -> Result<Option<Claimed>, DbError> {
    let server = Caller::server();
    let lease = ms(core.config.task_lease);
    let claimed: Result<Option<Claimed>, TxError> = tx!(&core.db, &server, |tx| {
        let now = tx.now();
        let alone = match kind {
            TaskKind::Prune | TaskKind::Check => {
                // Claims of these come one after the other, so that two servers do not both see that nobody is at it.
                tx.run(sql("UPDATE counter SET value = value WHERE name = 'journal'")).await?;
                ALONE
            }
            TaskKind::Scrub => {
                tx.run(sql("UPDATE counter SET value = value WHERE name = 'journal'")).await?;
                ONE_SCRUB
            }
            TaskKind::Import | TaskKind::Rehome | TaskKind::Digest | TaskKind::Verify => "",
        };
        let text = format!(
            "UPDATE task SET state = 'running', lease_until = $1, fence = fence + 1, attempt = attempt + 1, started_at = $2, \
             bytes_done = 0, bytes_total = NULL, step = 'starting', revision = revision + 1 \
             WHERE id = (SELECT id FROM task WHERE kind = $3 AND ((state = 'queued' AND not_before <= $2) \
             OR (state = 'running' AND lease_until < $2)) {alone} ORDER BY created_at, id LIMIT 1{}) RETURNING *",
            tx.db().dialect().claim_suffix()
        );
        let Some(row) = tx.row(sql(text).bind(now + lease).bind(now).bind(word_of(&kind))).await? else {
            return Ok(None);
        };
        let claimed = Claimed {
            id: row.parsed("id")?,
            kind,
            fence: row.int("fence")?,
            attempt: u32::try_from(row.int("attempt")?).unwrap_or(u32::MAX),
            cancelled: row.flag("cancelled")?,
            object: row.text("object")?,
            input: row.json("input")?,
        };
        tx.nudge(Nudge::Task(claimed.id));
        Ok(Some(claimed))
    });
    claimed.map_err(only_db)
}

/// Workers' transactions have no rules that could refuse.
fn only_db(error: TxError) -> DbError {
    match error {
        TxError::Db(error) => error,
        TxError::Refused(problem) => DbError::Unknown(problem.title),
    }
}

/// Renews the lease and writes how far it is. `total` 0 means unknown.
pub async fn task_step(core: &Core, task: &Claimed, step: &str, done: u64, total: u64) -> Result<Hold, DbError> {
    let server = Caller::server();
    let lease = ms(core.config.task_lease);
    let held: Result<Hold, TxError> = tx!(&core.db, &server, |tx| {
        let now = tx.now();
        let update = sql(
            "UPDATE task SET lease_until = $1, step = $2, bytes_done = $3, bytes_total = $4, revision = revision + 1 \
             WHERE id = $5 AND fence = $6 AND state = 'running' RETURNING cancelled",
        )
        .bind(now + lease)
        .bind(step)
        .bind(done)
        .bind((total > 0).then_some(total))
        .bind(task.id)
        .bind(task.fence);
        let Some(row) = tx.row(update).await? else { return Ok(Hold::Lost) };
        tx.nudge(Nudge::Task(task.id));
        Ok(if row.flag("cancelled")? { Hold::Cancelled } else { Hold::Kept })
    });
    held.map_err(only_db)
}

/// Writes the end of a task within a transaction; false if another worker has it, and then nothing of the transaction may be kept.
pub async fn task_end(tx: &mut Tx, task: &Claimed, end: &TaskEnd) -> Result<bool, DbError> {
    let now = tx.now();
    let (state, error, result, not_before, undo) = match end {
        TaskEnd::Done(result) => (TaskState::Done, None, Some(result.to_string()), 0, 0),
        TaskEnd::Failed(problem) => (TaskState::Failed, Some(json!(problem).to_string()), None, 0, 0),
        TaskEnd::Cancelled => (TaskState::Cancelled, None, None, 0, 0),
        TaskEnd::Again(problem, wait) => {
            (TaskState::Queued, Some(json!(problem).to_string()), None, now + ms(*wait), 0)
        }
        TaskEnd::Released => (TaskState::Queued, None, None, 0, 1),
    };
    let update = sql("UPDATE task SET state = $1, error = $2, result = $3, not_before = $4, finished_at = $5, attempt = attempt - $6, \
         lease_until = 0, revision = revision + 1 WHERE id = $7 AND fence = $8 AND state = 'running'")
    .bind(word_of(&state))
    .bind(error)
    .bind(result)
    .bind(not_before)
    .bind(state.is_final().then_some(now))
    .bind(i64::from(undo))
    .bind(task.id)
    .bind(task.fence);
    let kept = tx.run(update).await? == 1;
    tx.nudge(Nudge::Task(task.id));
    Ok(kept)
}

/// [`task_end`] in a transaction of its own.
pub async fn task_finish(core: &Core, task: &Claimed, end: &TaskEnd) -> Result<bool, DbError> {
    let server = Caller::server();
    let kept: Result<bool, TxError> = tx!(&core.db, &server, |tx| Ok(task_end(tx, task, end).await?));
    kept.map_err(only_db)
}
