//! Computes BLAKE3 and SHA-256 of raw images, and holds them against what their senders said.

use crate::core::{Caller, Core, Nudge};
use crate::db::{DbError, TxError, sql, tx};
use crate::rules::store_problem::store_problem;
use crate::rules::upload_fill::blocking;
use crate::workers::Worker;
use crate::workers::run::{Halt, Running, Stop, TaskWork, task_pass};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use slipway_api::{Code, Problem, TaskKind};
use slipway_chunk::{Digest, RawDigest, Root};
use slipway_store::{SpaceId, StoreError};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Bytes read at once.
const STRIDE: usize = 1 << 20;

/// Sees to tasks of kind digest.
pub(crate) struct Digesting;

#[derive(Deserialize)]
struct Input {
    content: Uuid,
}

impl Worker for Digesting {
    fn name(&self) -> &'static str {
        "digest"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn wakes(&self, nudge: Nudge) -> bool {
        nudge == Nudge::Queued(TaskKind::Digest)
    }

    fn pass<'a>(&'a self, core: &'a Arc<Core>, stop: &'a Stop) -> BoxFuture<'a, Result<bool, DbError>> {
        Box::pin(task_pass(core, self, stop))
    }
}

impl TaskWork for Digesting {
    fn kind(&self) -> TaskKind {
        TaskKind::Digest
    }

    fn run<'a>(&'a self, core: &'a Arc<Core>, running: &'a Running) -> BoxFuture<'a, Result<Value, Halt>> {
        Box::pin(async move {
            let input: Input = serde_json::from_value(running.task.input.clone()).map_err(|error| {
                Halt::Failed(Problem::new(Code::Internal, format!("reading the request of a digest: {error}")))
            })?;
            let row = {
                let mut tx = core.db.read().await?;
                tx.row(sql("SELECT root, spaces FROM content WHERE id = $1").bind(input.content)).await?
            };
            // A content that was pruned meanwhile needs no digest.
            let Some(row) = row else { return Ok(json!({})) };
            let watch = running.clone();
            let (digest, sha256) =
                digest_compute(core, row.json("spaces")?, row.parsed("root")?, move || watch.is_stopped())
                    .await
                    .map_err(|problem| if running.is_stopped() { Halt::Stopped } else { problem.into() })?;
            digest_keep(core, running, &input.content, &digest, &sha256).await?;
            Ok(json!({ "digest": digest, "sha256": sha256 }))
        })
    }
}

async fn digest_keep(
    core: &Core,
    running: &Running,
    content: &Uuid,
    digest: &Digest,
    sha256: &str,
) -> Result<(), TxError> {
    let server = Caller::server();
    tx!(&core.db, &server, |tx| {
        let claimed = tx.row(sql("SELECT claimed_digest FROM content WHERE id = $1").bind(content)).await?;
        let claimed: Option<Digest> = match claimed {
            Some(row) => row.parsed_or_null("claimed_digest")?,
            None => return Ok(()),
        };
        // Equal roots mean equal bytes: all contents of this root that the same people read get it, but one whose sender named a digest
        // is held against that by its own task.
        let update = sql("UPDATE content SET digest = $1, sha256 = $2, claimed_digest = NULL WHERE id = $3 \
             OR (claimed_digest IS NULL AND root = (SELECT root FROM content WHERE id = $3) \
                 AND spaces = (SELECT spaces FROM content WHERE id = $3))")
        .bind(digest.to_string())
        .bind(sha256)
        .bind(content);
        tx.run(update).await?;
        let mut detail = json!({ "digest": digest, "sha256": sha256 });
        if let Some(claimed) = claimed.filter(|claimed| claimed != digest) {
            tracing::warn!(version = running.task.object, %claimed, %digest, "the sender named another digest");
            detail["claimed"] = json!(claimed);
        }
        tx.journal("content_digest", running.task.object.clone(), detail);
        Ok(())
    })
}

/// Reads a content and computes its BLAKE3 and the hex of its SHA-256. Every chunk is verified on the way.
pub(crate) async fn digest_compute(
    core: &Arc<Core>,
    spaces: Vec<SpaceId>,
    root: Root,
    stopped: impl Fn() -> bool + Send + 'static,
) -> Result<(Digest, String), Problem> {
    let (store, ledger) = (core.store.clone(), core.ledger());
    blocking(move || {
        let fault = |error: StoreError| store_problem(&format!("reading content {root}"), error);
        let mut reader = store.content_open(&spaces, &root, &ledger).map_err(fault)?;
        let mut blake3 = RawDigest::new();
        let mut sha256 = Sha256::new();
        let zeros = vec![0u8; STRIDE];
        let mut buf = vec![0u8; STRIDE];
        let mut at = 0;
        while let Some(stretch) = reader.extents_from(at).map_err(fault)? {
            let mut left = stretch.len;
            if stretch.hole {
                blake3.zeros(left);
            }
            while left > 0 {
                if stopped() {
                    return Err(Problem::new(Code::Unavailable, "asked to stop"));
                }
                let len = left.min(STRIDE as u64) as usize;
                if stretch.hole {
                    sha256.update(&zeros[..len]);
                } else {
                    reader.read_at(at, &mut buf[..len]).map_err(fault)?;
                    blake3.data(&buf[..len]);
                    sha256.update(&buf[..len]);
                }
                at += len as u64;
                left -= len as u64;
            }
        }
        let hex = sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok((blake3.finish(), hex))
    })
    .await?
}
