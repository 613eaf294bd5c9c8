//! Reads every byte of one version from where it is stored, past all caches, and says what is wrong and where.

use crate::core::{Caller, Core, Nudge};
use crate::db::{DbError, TxError, tx};
use crate::rules::finding_row::{mismatch_record, readers_findings_record};
use crate::rules::upload_commit::DIGEST_HOLES_MAX;
use crate::rules::upload_fill::blocking;
use crate::workers::Worker;
use crate::workers::digest::{ContentRow, content_read, mismatches};
use crate::workers::hash::ImageHash;
use crate::workers::run::{Halt, Running, Stop, TaskWork, halt, task_pass};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;
use slipway_api::{BadExtent, Code, Problem, TaskKind, VerifyResult};
use slipway_store::{Piece, StoreError};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Bad places that are named.
const BAD_MAX: usize = 1000;

/// Sees to tasks of kind verify.
pub(crate) struct Verify;

#[derive(Deserialize)]
struct Input {
    content: Uuid,
}

impl Worker for Verify {
    fn name(&self) -> &'static str {
        "verify"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn wakes(&self, nudge: Nudge) -> bool {
        nudge == Nudge::Queued(TaskKind::Verify)
    }

    fn pass<'a>(&'a self, core: &'a Arc<Core>, stop: &'a Stop) -> BoxFuture<'a, Result<bool, DbError>> {
        Box::pin(task_pass(core, self, stop))
    }
}

impl TaskWork for Verify {
    fn kind(&self) -> TaskKind {
        TaskKind::Verify
    }

    fn run<'a>(&'a self, core: &'a Arc<Core>, running: &'a Running) -> BoxFuture<'a, Result<Value, Halt>> {
        Box::pin(async move {
            let input: Input = serde_json::from_value(running.task.input.clone()).map_err(|error| {
                Halt::Failed(Problem::new(Code::Internal, format!("reading the request of a verification: {error}")))
            })?;
            let Some(content) = content_read(core, &input.content).await? else {
                let title = format!("{} was deleted before it could be verified", running.task.object);
                return Err(Halt::Failed(Problem::new(Code::NotFound, title)));
            };
            let result = verify(core, running, content).await?;
            mismatches_keep(core, &input.content, &result).await?;
            // The blobs that were found damaged are looked at, and put right where they can be.
            readers_findings_record(core).await?;
            serde_json::to_value(result).map_err(|error| Halt::Failed(Problem::new(Code::Internal, error.to_string())))
        })
    }
}

async fn mismatches_keep(core: &Core, content: &Uuid, result: &VerifyResult) -> Result<(), TxError> {
    if result.mismatches.is_empty() {
        return Ok(());
    }
    let server = Caller::server();
    tx!(&core.db, &server, |tx| Ok(mismatch_record(tx, "verify", content, result.mismatches.join("; ")).await?))
}

async fn verify(core: &Arc<Core>, running: &Running, content: ContentRow) -> Result<VerifyResult, Halt> {
    let (store, ledger, watch) = (core.store.clone(), core.ledger(), running.clone());
    let reference = running.task.object.clone();
    let (root, size) = (content.root, content.size);
    let seen = blocking(move || {
        // Hashes go through every zero byte: of an image that is nearly all holes they are left out, and its chunks are verified all the same.
        let hashes = size.saturating_sub(content.data_bytes) <= DIGEST_HOLES_MAX;
        let mut seen = Seen {
            at: 0,
            read: 0,
            bad: Vec::new(),
            bad_bytes: 0,
            more: false,
            hash: hashes.then(|| ImageHash::new(size)),
        };
        let all = store.content_verify(&content.spaces, &root, &ledger, &mut |piece| {
            seen.take(piece, &watch);
            watch.step("verifying", seen.at, size);
            !watch.is_stopped()
        });
        match all {
            Ok(true) => Ok((seen, content)),
            Ok(false) => Err(Halt::Stopped),
            // Without its manifest nothing of it can be read.
            Err(error @ (StoreError::NotFound { .. } | StoreError::Damaged { .. } | StoreError::Format { .. })) => {
                seen.bad(size, error.to_string());
                Ok((seen, content))
            }
            Err(error) => Err(halt("verifying", error)),
        }
    });
    let (seen, content) = seen.await??;
    let hashes = seen.hash.filter(|_| seen.bad_bytes == 0).map(ImageHash::finish);
    let wrong = match &hashes {
        Some((digest, sha256)) => mismatches(content.digest, content.sha256, digest, sha256),
        None => Vec::new(),
    };
    let (digest, sha256) = hashes.unzip();
    Ok(VerifyResult {
        reference,
        root,
        whole: seen.bad_bytes == 0 && wrong.is_empty(),
        size,
        read_bytes: seen.read,
        bad_bytes: seen.bad_bytes,
        bad: seen.bad,
        bad_more: seen.more,
        digest,
        sha256,
        mismatches: wrong,
    })
}

/// What was read so far.
struct Seen {
    at: u64,
    read: u64,
    bad: Vec<BadExtent>,
    bad_bytes: u64,
    more: bool,
    hash: Option<ImageHash>,
}

impl Seen {
    fn take(&mut self, piece: Piece<'_>, watch: &Running) {
        match piece {
            Piece::Hole(len) => {
                let mut left = len;
                while let Some(hash) = self.hash.as_mut().filter(|_| left > 0 && !watch.is_stopped()) {
                    left -= hash.zeros(left);
                }
                self.at += len;
            }
            Piece::Data(bytes) => {
                if let Some(hash) = &mut self.hash {
                    hash.data(bytes);
                }
                self.at += bytes.len() as u64;
                self.read += bytes.len() as u64;
            }
            Piece::Bad(len, why) => self.bad(len, why),
        }
    }

    fn bad(&mut self, len: u64, why: String) {
        // There is no digest of what cannot be read.
        self.hash = None;
        let full = self.bad.len() >= BAD_MAX;
        match self.bad.last_mut() {
            Some(last) if last.offset + last.length == self.at && last.detail == why => last.length += len,
            _ if full => self.more = true,
            _ => self.bad.push(BadExtent { offset: self.at, length: len, detail: why }),
        }
        self.at += len;
        self.bad_bytes += len;
    }
}
