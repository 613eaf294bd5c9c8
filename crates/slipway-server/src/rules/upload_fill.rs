//! The three ways to an upload's commit: chunks with their manifest, a spooled stream that a task cuts, and a body in one go.

use crate::core::{Caller, CallerUser, Core, Nudge, ms};
use crate::db::{TxError, sql, tx};
use crate::rules::store_problem::store_problem;
use crate::rules::task::{task_create, task_get};
use crate::rules::upload::{UploadTarget, answer_left, target_of, upload_begin, upload_end, upload_find};
use crate::rules::upload_commit::{CommitBegin, upload_commit, upload_commit_begin, upload_commit_undo};
use crate::rules::upload_hold::{Cut, upload_hold};
use crate::rules::upload_ingest::{Ingested, source_note, upload_ingest};
use crate::scope::Scopes;
use serde_json::json;
use slipway_api::{Code, Committed, Problem, Task, TaskKind, UploadFormat, UploadNew, UploadState};
use slipway_chunk::{Digest, Root};
use slipway_format::{Input, Said};
use slipway_store::PrepareSpec;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How long a second asker waits for a commit that is under way.
const COMMIT_WAIT: Duration = Duration::from_secs(60);

/// What a commit of a streamed upload came to within the time given.
#[derive(Debug)]
pub enum CommitAnswer {
    /// It is a version.
    Committed(Box<Committed>),
    /// It is still being cut; commit again to ask.
    Running(Box<Task>),
}

/// What the raw image must be, as the sender says.
#[derive(Clone, Debug, Default)]
pub struct FillChecks {
    /// The root.
    pub root: Option<Root>,
    /// The BLAKE3 of the raw image.
    pub digest: Option<Digest>,
    /// Not a new version, but the newest one's new content.
    pub replace: bool,
}

/// Commits an upload of chunks with its manifest. It runs to its end even if the waiting is given up; who asks again meanwhile waits for the
/// same answer.
pub async fn upload_commit_chunks(
    core: &Arc<Core>,
    who: &Caller,
    id: &Uuid,
    manifest: Vec<u8>,
) -> Result<Committed, Problem> {
    let deadline = tokio::time::Instant::now() + COMMIT_WAIT;
    let target = loop {
        match upload_commit_begin(core, who, id).await? {
            CommitBegin::Done(answer) => return Ok(*answer),
            CommitBegin::Run(target) => break target,
            CommitBegin::Busy(problem) if tokio::time::Instant::now() >= deadline => return Err(*problem),
            CommitBegin::Busy(_) => tokio::time::sleep(Duration::from_millis(250)).await,
        }
    };
    let (core, who) = (core.clone(), who.clone());
    let work = tokio::spawn(async move {
        let result = if target.format == UploadFormat::Chunks {
            chunks_commit(&core, &who, &target, manifest).await
        } else {
            let title = format!("upload {} is filled by PATCH; its commit has no manifest", target.id);
            Err(Problem::new(Code::InvalidRequest, title))
        };
        if result.is_err() {
            upload_commit_undo(&core, &target.id).await?;
        }
        result
    });
    work.await.map_err(|_| Problem::new(Code::Internal, "the server lost a thread of work"))?
}

async fn chunks_commit(
    core: &Arc<Core>,
    who: &Caller,
    target: &UploadTarget,
    manifest: Vec<u8>,
) -> Result<Committed, Problem> {
    let spec =
        PrepareSpec { space: target.space.clone(), lookup: target.lookup.clone(), upload: target.upload.clone() };
    let store = core.store.clone();
    let ledger = core.ledger();
    let prepared = blocking(move || store.content_prepare(&spec, &manifest, &ledger)).await?;
    let prepared = prepared.map_err(|error| store_problem(&format!("committing to {}", target.image), error))?;
    upload_commit(core, who, &target.id, &prepared).await
}

/// Runs work that blocks on a thread where it may. A panic in it becomes a problem.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a blocking call ended badly");
        Problem::new(Code::Internal, "the server lost a thread of work")
    })
}

/// Commits an upload that came by `PATCH`: a task cuts it, and this waits for it for so long.
pub async fn upload_commit_stream(
    core: &Arc<Core>,
    who: &Caller,
    id: &Uuid,
    wait: Duration,
) -> Result<CommitAnswer, Problem> {
    let mut nudges = core.nudges();
    let task: Result<Result<Uuid, Box<Committed>>, TxError> = tx!(&core.db, who, |tx| {
        tx.run(sql("UPDATE upload SET received = received WHERE id = $1").bind(id)).await?;
        if let Some(answer) = answer_left(tx, who, id).await? {
            return Ok(Err(Box::new(answer)));
        }
        let (upload, image) = upload_find(tx, who, id).await?;
        if let Some(answer) = upload.answer {
            return Ok(Err(Box::new(answer)));
        }
        if let (UploadState::Committing, Some(task)) = (upload.state, upload.task) {
            return Ok(Ok(task));
        }
        upload.open_check()?;
        image.trash_check()?;
        if upload.format == UploadFormat::Chunks {
            let title = format!("upload {id} is filled with chunks; its commit needs the manifest");
            return Err(Problem::new(Code::InvalidRequest, title).into());
        }
        let task = task_create(tx, who, TaskKind::Import, &image.reference(), &json!({ "upload": id })).await?;
        let update = sql(
            "UPDATE upload SET state = 'committing', commit_until = NULL, task_id = $1, lease_until = $2 WHERE id = $3",
        )
        .bind(task.id)
        .bind(tx.now() + ms(core.config.upload_lease))
        .bind(id);
        tx.run(update).await?;
        tx.journal("upload_import", image.reference(), json!({ "upload": id, "task": task.id }));
        Ok(Ok(task.id))
    });
    let task = match task? {
        Ok(task) => task,
        Err(answer) => return Ok(CommitAnswer::Committed(answer)),
    };
    let deadline = tokio::time::Instant::now() + wait;
    loop {
        let row = task_get(core, &Caller::server(), &task).await?;
        match (row.state.is_final(), row.result.clone(), row.error.clone()) {
            (true, Some(result), _) => {
                let answer = serde_json::from_value(result)
                    .map_err(|_| Problem::new(Code::Internal, "the import's answer cannot be read"))?;
                return Ok(CommitAnswer::Committed(answer));
            }
            (true, None, Some(problem)) => return Err(problem),
            (true, None, None) => {
                return Err(Problem::new(Code::Conflict, format!("the import of upload {id} was cancelled"))
                    .hint("commit again"));
            }
            (false, _, _) => {}
        }
        if tokio::time::Instant::now() >= deadline {
            return Ok(CommitAnswer::Running(Box::new(row)));
        }
        let next = (tokio::time::Instant::now() + Duration::from_secs(1)).min(deadline);
        while let Ok(Ok(nudge)) = tokio::time::timeout_at(next, nudges.recv()).await {
            if nudge == Nudge::Task(task) {
                break;
            }
        }
    }
}

/// The maker of an upload as a caller, for the worker that commits in their name.
pub(crate) async fn upload_maker(core: &Core, id: &Uuid) -> Result<Caller, Problem> {
    let mut tx = core.db.read().await?;
    let row = tx
        .row(
            sql("SELECT account.id, account.name, account.role, account.disabled FROM upload \
                 JOIN account ON account.id = upload.account_id WHERE upload.id = $1")
            .bind(id),
        )
        .await?;
    match row {
        Some(row) if !row.flag("disabled")? => {
            let user = CallerUser { id: row.parsed("id")?, name: row.text("name")?, role: row.word("role")? };
            Ok(Caller::user(user, None, Scopes::all()))
        }
        _ => Err(Problem::new(Code::Forbidden, format!("the maker of upload {id} may not push any more"))),
    }
}

/// Makes a version of an image in one go, whatever it is in. It runs to its end or to nothing even if the waiting is given up: a body that
/// breaks off is an error of `source`, and makes nothing. `cut` ends it sooner, while bytes that came are still being unpacked.
pub async fn upload_fill(
    core: &Arc<Core>,
    who: &Caller,
    new: UploadNew,
    said: Said,
    source: Box<dyn Read + Send>,
    checks: FillChecks,
    cut: Cut,
) -> Result<Committed, Problem> {
    // A key would tie the next attempt to the upload of one that failed; what makes a repeated body harmless is that its root is unchanged.
    let mut who = who.clone();
    who.idempotency = None;
    let upload = upload_begin(core, &who, UploadNew { format: UploadFormat::Raw, ..new }, checks.replace).await?;
    let core = core.clone();
    let work = tokio::spawn(async move {
        let result = fill(&core, &who, &upload.id, said, source, checks, cut).await;
        if result.is_err() {
            upload_commit_undo(&core, &upload.id).await?;
            upload_end(&core, &who, &upload.id).await?;
        }
        result
    });
    work.await.map_err(|_| Problem::new(Code::Internal, "the server lost a thread of work"))?
}

async fn fill(
    core: &Arc<Core>,
    who: &Caller,
    id: &Uuid,
    said: Said,
    source: Box<dyn Read + Send>,
    checks: FillChecks,
    cut: Cut,
) -> Result<Committed, Problem> {
    let target = match upload_commit_begin(core, who, id).await? {
        CommitBegin::Done(answer) => return Ok(*answer),
        CommitBegin::Run(target) => target,
        CommitBegin::Busy(problem) => return Err(*problem),
    };
    let act = format!("storing {}", target.image);
    let (ingesting, cuts, goal) = (core.clone(), cut.clone(), target.clone());
    let ingested = blocking(move || {
        let why = move || cuts.why().cloned();
        upload_ingest(&ingesting, &goal, Input::Stream(source), said, why, &mut |_, _| {})
            .map_err(|error| store_problem(&act, error))
    });
    let Ingested { mut prepared, source_format } = upload_hold(core, id, &cut, ingested).await??;
    if let Some(root) = checks.root.filter(|root| *root != prepared.root) {
        let title = format!("the image has root {}, not {root}", prepared.root);
        return Err(Problem::new(Code::DigestMismatch, title).field("root"));
    }
    if let Some(digest) = checks.digest {
        if prepared.digest.is_none() {
            let (spaces, cuts) = (target.lookup.clone(), cut.clone());
            let stopped = move || cuts.why().is_some();
            let (root, size) = (prepared.root, prepared.size);
            let computing = crate::workers::digest::digest_compute(core, spaces, root, size, stopped);
            let computed = upload_hold(core, id, &cut, computing).await;
            prepared.digest = Some(computed.map_err(|problem| cut.why().cloned().unwrap_or(problem))?.0);
        }
        if let Some(found) = prepared.digest.filter(|found| *found != digest) {
            let title = format!("the image has digest {found}, not {digest}");
            return Err(Problem::new(Code::DigestMismatch, title).field("digest"));
        }
    }
    source_note(core, id, &source_format, prepared.sector_size).await?;
    upload_commit(core, who, id, &prepared).await
}

/// What the import task of an upload works on: its target, or the answer if a begin before this one came as far as the commit. `None` if
/// the upload is not this task's.
pub(crate) async fn upload_importing(
    core: &Core,
    who: &Caller,
    id: &Uuid,
    task: &Uuid,
) -> Result<Option<Result<Box<Committed>, Box<UploadTarget>>>, Problem> {
    let mut tx = core.db.read().await?;
    let (upload, image) = upload_find(&mut tx, who, id).await?;
    if upload.task != Some(*task) {
        return Ok(None);
    }
    let target = target_of(core, &upload, &image);
    match (upload.answer, upload.state) {
        (Some(answer), _) => Ok(Some(Ok(Box::new(answer)))),
        (None, UploadState::Committing) => Ok(Some(Err(Box::new(target)))),
        (None, UploadState::Open | UploadState::Committed | UploadState::Ended) => Ok(None),
    }
}
