//! Cuts an upload that came as a stream, and commits it in its maker's name.

use crate::core::{Core, Nudge};
use crate::db::DbError;
use crate::rules::store_problem::store_problem;
use crate::rules::task::Claimed;
use crate::rules::upload::{UploadTarget, upload_commit, upload_commit_undo};
use crate::rules::upload_fill::{blocking, upload_importing, upload_maker};
use crate::rules::upload_hold::{Cut, upload_hold};
use crate::rules::upload_ingest::{Ingested, source_note, upload_ingest, upload_said};
use crate::workers::Worker;
use crate::workers::run::{Halt, Running, Stop, TaskWork, halt, task_pass};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;
use slipway_api::{Code, Problem, TaskKind};
use slipway_format::FileAt;
use slipway_store::{Progress, StoreError};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Sees to tasks of kind import.
pub(crate) struct Import;

#[derive(Deserialize)]
struct Input {
    upload: Uuid,
}

impl Worker for Import {
    fn name(&self) -> &'static str {
        "import"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn wakes(&self, nudge: Nudge) -> bool {
        nudge == Nudge::Queued(TaskKind::Import)
    }

    fn pass<'a>(&'a self, core: &'a Arc<Core>, stop: &'a Stop) -> BoxFuture<'a, Result<bool, DbError>> {
        Box::pin(task_pass(core, self, stop))
    }
}

fn input(task: &Claimed) -> Result<Uuid, Problem> {
    let input: Input = serde_json::from_value(task.input.clone())
        .map_err(|error| Problem::new(Code::Internal, format!("reading the request of an import: {error}")))?;
    Ok(input.upload)
}

impl TaskWork for Import {
    fn kind(&self) -> TaskKind {
        TaskKind::Import
    }

    fn run<'a>(&'a self, core: &'a Arc<Core>, running: &'a Running) -> BoxFuture<'a, Result<Value, Halt>> {
        Box::pin(async move {
            let id = input(&running.task).map_err(Halt::Failed)?;
            let who = upload_maker(core, &id).await?;
            let Some(target) = upload_importing(core, &who, &id, &running.task.id).await? else {
                let title = format!("upload {id} is not being committed by this task");
                return Err(Halt::Failed(Problem::new(Code::Conflict, title)));
            };
            let committed = match target {
                Ok(committed) => *committed,
                Err(target) => {
                    let Ingested { prepared, source_format } = cut(core, running, *target).await?;
                    source_note(core, &id, &source_format, prepared.sector_size).await?;
                    upload_commit(core, &who, &id, &prepared).await?
                }
            };
            serde_json::to_value(committed)
                .map_err(|error| Halt::Failed(Problem::new(Code::Internal, error.to_string())))
        })
    }

    fn give_up<'a>(&'a self, core: &'a Arc<Core>, task: &'a Claimed) -> BoxFuture<'a, Result<(), DbError>> {
        Box::pin(async move {
            match input(task) {
                Ok(id) => upload_commit_undo(core, &id).await,
                Err(_) => Ok(()),
            }
        })
    }
}

async fn cut(core: &Arc<Core>, running: &Running, target: UploadTarget) -> Result<Ingested, Halt> {
    let (id, cut, running) = (target.id, Cut::default(), running.clone());
    let (cuts, ingesting) = (cut.clone(), core.clone());
    let work = blocking(move || {
        let act = format!("storing {}", target.image);
        let file = File::open(&target.spool).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Halt::Failed(Problem::new(Code::BadImage, format!("{act}: nothing was uploaded")))
            }
            _ => halt(&act, StoreError::Source(error)),
        })?;
        // Only what was answered as durable counts, whatever the file has beyond it.
        let input = slipway_format::Input::At(Box::new(FileAt::with_len(file, target.received)));
        let why = {
            let running = running.clone();
            let stopped = || Problem::new(Code::Unavailable, "asked to stop");
            move || cuts.why().cloned().or_else(|| running.is_stopped().then(stopped))
        };
        let mut progress =
            |at: Progress, size: Option<u64>| running.step(at.step, at.done, target.size.or(size).unwrap_or(0));
        let ingested = upload_ingest(&ingesting, &target, input, upload_said(target.format), why, &mut progress);
        ingested.map_err(|error| match running.is_stopped() {
            true => Halt::Stopped,
            false => match store_problem(&act, error) {
                problem if matches!(problem.code, Code::BadImage | Code::Gone) => Halt::Failed(problem),
                problem => problem.into(),
            },
        })
    });
    upload_hold(core, &id, &cut, work).await?
}
