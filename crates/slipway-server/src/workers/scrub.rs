//! Reads everything that is stored, slowly, and holds it against its digests. What it finds it writes down and has looked at by a check,
//! which puts right what can be; it changes nothing itself and deletes nothing.

use crate::core::{Core, Nudge};
use crate::db::{DbError, TxError};
use crate::ledger::blob_rows_after;
use crate::rules::finding_row::readers_findings_record;
use crate::rules::scrub::{ScrubAt, ScrubSeen, scrub_begin, scrub_cancelled, scrub_end, scrub_save};
use crate::rules::task::Claimed;
use crate::rules::upload_fill::blocking;
use crate::workers::Worker;
use crate::workers::pace::Pace;
use crate::workers::run::{Halt, Running, Stop, TaskWork, halt, task_pass};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use slipway_api::TaskKind;
use slipway_store::{BlobId, BlobRow, Scrubbed, StoreError, crash_point};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The place is written down after so many blobs, so many bytes or so much time, whichever comes first: what a crash makes it read again.
const BATCH_BLOBS: usize = 256;
const BATCH_BYTES: u64 = 256 << 20;
const BATCH_TIME: Duration = Duration::from_secs(10);
/// Blobs that are looked for before a missing one is believed.
const SAMPLE: usize = 32;

/// Sees to tasks of kind scrub, and to what readers found.
pub(crate) struct Scrub;

impl Worker for Scrub {
    fn name(&self) -> &'static str {
        "scrub"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn wakes(&self, nudge: Nudge) -> bool {
        nudge == Nudge::Queued(TaskKind::Scrub)
    }

    fn pass<'a>(&'a self, core: &'a Arc<Core>, stop: &'a Stop) -> BoxFuture<'a, Result<bool, DbError>> {
        Box::pin(async move {
            readers_findings_record(core).await?;
            task_pass(core, self, stop).await
        })
    }
}

impl TaskWork for Scrub {
    fn kind(&self) -> TaskKind {
        TaskKind::Scrub
    }

    fn run<'a>(&'a self, core: &'a Arc<Core>, running: &'a Running) -> BoxFuture<'a, Result<Value, Halt>> {
        Box::pin(scrub(core, running))
    }

    fn give_up<'a>(&'a self, core: &'a Arc<Core>, task: &'a Claimed) -> BoxFuture<'a, Result<(), DbError>> {
        Box::pin(async move {
            scrub_cancelled(core, task).await.map_err(|error| match error {
                TxError::Db(error) => error,
                TxError::Refused(problem) => DbError::Unknown(problem.title),
            })
        })
    }
}

async fn scrub(core: &Arc<Core>, running: &Running) -> Result<Value, Halt> {
    // Paused before it began, or somebody else's by now.
    let Some(mut at) = scrub_begin(core, &running.task).await? else { return Err(Halt::Stopped) };
    running.step("scrubbing", at.bytes, at.total);
    let mut pace = Pace::new(core.config.scrub_rate);
    loop {
        running.go_on()?;
        let rows = blob_rows_after(core, &at.cursor, BATCH_BLOBS).await?;
        if rows.is_empty() {
            break;
        }
        let batch = batch_read(core, running, rows, pace, &at).await?;
        pace = batch.pace;
        let seen = ScrubSeen {
            from: at.cursor.clone(),
            cursor: batch.cursor,
            blobs: batch.seen.blobs(),
            bytes: batch.seen.bytes_read(),
            findings: batch.seen.findings(),
            whole: &batch.whole,
        };
        if !scrub_save(core, &running.task, &seen).await? {
            return Err(Halt::Stopped);
        }
        crash_point("scrub_saved");
        at.cursor = seen.cursor;
        at.blobs += seen.blobs;
        at.bytes += seen.bytes;
        running.step("scrubbing", at.bytes, at.total.max(at.bytes));
        if let Some(error) = batch.ended {
            return Err(match error {
                StoreError::Stopped => Halt::Stopped,
                error => halt("scrubbing the store", error),
            });
        }
    }
    running.step("looking at all contents", at.bytes, at.total.max(at.bytes));
    let (store, ledger) = (core.store.clone(), core.ledger());
    let broken = blocking(move || store.contents_verify(&ledger)).await?;
    let broken = broken.map_err(|error| halt("looking at all contents", error))?;
    match scrub_end(core, &running.task, &broken.findings).await? {
        Some(pass) => Ok(json!(pass)),
        None => Err(Halt::Stopped),
    }
}

/// What came of some blobs.
struct Batch {
    seen: Scrubbed,
    whole: Vec<BlobId>,
    cursor: String,
    pace: Pace,
    /// Why it ended before its end.
    ended: Option<StoreError>,
}

async fn batch_read(
    core: &Arc<Core>,
    running: &Running,
    rows: Vec<BlobRow>,
    mut pace: Pace,
    at: &ScrubAt,
) -> Result<Batch, Halt> {
    let sample = sample_read(core).await?;
    let (store, ledger, running, at) = (core.store.clone(), core.ledger(), running.clone(), at.clone());
    let read = blocking(move || {
        store.blobs_there(&sample)?;
        let mut batch = Batch {
            seen: Scrubbed::default(),
            whole: Vec::new(),
            cursor: at.cursor,
            pace: Pace::new(None),
            ended: None,
        };
        let begun = Instant::now();
        for row in rows {
            let (before, mut done) = (batch.seen.findings().len(), at.bytes + batch.seen.bytes_read());
            let mut told = |bytes: u64| {
                done += bytes;
                running.step("scrubbing", done, at.total.max(done));
                pace.read(bytes, &running)
            };
            match store.blob_scrub(&row, &ledger, &mut told, &mut batch.seen) {
                Ok(()) => {}
                // What was seen before is worth keeping.
                Err(error) => {
                    batch.ended = Some(error);
                    break;
                }
            }
            if batch.seen.findings().len() == before {
                batch.whole.push(row.id);
            }
            batch.cursor = row.id.to_string();
            if batch.seen.bytes_read() >= BATCH_BYTES || begun.elapsed() >= BATCH_TIME {
                break;
            }
        }
        store.scrub_hits(&mut batch.seen, &ledger)?;
        batch.pace = pace;
        Ok(batch)
    });
    read.await?.map_err(|error| halt("scrubbing the store", error))
}

/// Some blobs that should be there, wherever the pass is.
async fn sample_read(core: &Core) -> Result<Vec<BlobRow>, DbError> {
    blob_rows_after(core, "", SAMPLE).await
}
