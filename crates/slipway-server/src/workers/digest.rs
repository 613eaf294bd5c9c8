//! Computes BLAKE3 and SHA-256 of raw images, and holds them against what their senders said.

use crate::core::{Caller, Core, Nudge};
use crate::db::{DbError, TxError, sql, tx};
use crate::rules::finding_row::mismatch_record;
use crate::rules::store_problem::store_problem;
use crate::rules::upload_fill::blocking;
use crate::workers::Worker;
use crate::workers::hash::{HashState, ImageHash};
use crate::workers::pace::Pace;
use crate::workers::run::{Halt, Running, Stop, TaskWork, task_pass};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use slipway_api::{Code, Problem, TaskKind};
use slipway_chunk::{Digest, Root};
use slipway_store::{SpaceId, StoreError};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Bytes read at once.
const STRIDE: usize = 1 << 20;
/// Zeros hashed before it looks whether it shall stop.
const ZEROS_STRIDE: u64 = 16 << 20;
/// How far it is, is written down at most this often.
const SAVE_EVERY: Duration = Duration::from_secs(20);

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
            // A content that was pruned meanwhile needs no digest.
            let Some(content) = content_read(core, &input.content).await? else { return Ok(json!({})) };
            let begun = part_read(core, &input.content, content.size).await?;
            let hashed = content_hash(core, running, &input.content, content, begun).await?;
            let (digest, sha256) = hashed;
            digest_keep(core, running, &input.content, &digest, &sha256).await?;
            Ok(json!({ "digest": digest, "sha256": sha256 }))
        })
    }
}

/// A content as far as a reader of all of it needs it.
#[derive(Clone)]
pub(crate) struct ContentRow {
    pub(crate) spaces: Vec<SpaceId>,
    pub(crate) root: Root,
    pub(crate) size: u64,
    pub(crate) data_bytes: u64,
    pub(crate) digest: Option<Digest>,
    pub(crate) sha256: Option<String>,
}

/// The row of a content, if it is still there.
pub(crate) async fn content_read(core: &Core, content: &Uuid) -> Result<Option<ContentRow>, DbError> {
    let mut tx = core.db.read().await?;
    let row = tx.row(sql("SELECT * FROM content WHERE id = $1").bind(content)).await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(ContentRow {
        spaces: row.json("spaces")?,
        root: row.parsed("root")?,
        size: row.size("size")?,
        data_bytes: row.size("data_bytes")?,
        digest: row.parsed_or_null("digest")?,
        sha256: row.text_or_null("sha256")?,
    }))
}

/// How far an earlier attempt came.
async fn part_read(core: &Core, content: &Uuid, size: u64) -> Result<ImageHash, DbError> {
    let mut tx = core.db.read().await?;
    let row = tx.row(sql("SELECT state FROM digest_part WHERE content_id = $1").bind(content)).await?;
    // A state that is not one of ours is as good as none.
    let state = row.and_then(|row| row.json::<HashState>("state").ok());
    Ok(state.and_then(|state| ImageHash::restore(size, &state)).unwrap_or_else(|| ImageHash::new(size)))
}

/// Writes down how far it is, while this worker has the task.
async fn part_save(core: &Core, running: &Running, content: &Uuid, at: u64, state: &HashState) -> Result<(), TxError> {
    let server = Caller::server();
    tx!(&core.db, &server, |tx| {
        let now = tx.now();
        let save = sql("INSERT INTO digest_part (content_id, at, state, saved_at) SELECT id, $1, $2, $3 FROM content WHERE id = $4 \
             AND EXISTS (SELECT 1 FROM task WHERE id = $5 AND fence = $6 AND state = 'running') \
             ON CONFLICT (content_id) DO UPDATE SET at = excluded.at, state = excluded.state, saved_at = excluded.saved_at")
        .bind(at)
        .bind(json!(state).to_string())
        .bind(now)
        .bind(content)
        .bind(running.task.id)
        .bind(running.task.fence);
        tx.run(save).await?;
        // It came on, so that it was begun so often says nothing against it.
        let fine = sql("UPDATE task SET attempt = 1 WHERE id = $1 AND fence = $2");
        tx.run(fine.bind(running.task.id).bind(running.task.fence)).await?;
        Ok(())
    })
}

async fn content_hash(
    core: &Arc<Core>,
    running: &Running,
    id: &Uuid,
    content: ContentRow,
    hash: ImageHash,
) -> Result<(Digest, String), Halt> {
    let (inner, watch, id) = (core.clone(), running.clone(), *id);
    let hashed = blocking(move || {
        let mut pace = Pace::new(inner.config.digest_rate);
        let mut saved = Instant::now();
        let mut each = |hash: &ImageHash, bytes: u64| {
            watch.step("hashing", hash.at(), content.size);
            if saved.elapsed() >= SAVE_EVERY
                && let Some(state) = hash.state()
            {
                saved = Instant::now();
                // Only speed is lost with it.
                if let Err(error) = inner.runtime.block_on(part_save(&inner, &watch, &id, hash.at(), &state)) {
                    tracing::warn!(%error, content = %id, "writing down how far a digest is");
                }
            }
            pace.read(bytes, &watch)
        };
        hash_content(&inner, &content.spaces, &content.root, hash, &mut each)
    });
    match hashed.await? {
        Ok(Some(hashes)) => Ok(hashes),
        Ok(None) => Err(Halt::Stopped),
        Err(problem) => Err(problem.into()),
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
        tx.run(sql("DELETE FROM digest_part WHERE content_id = $1").bind(content)).await?;
        let known =
            tx.row(sql("SELECT claimed_digest, digest, sha256 FROM content WHERE id = $1").bind(content)).await?;
        let Some(known) = known else { return Ok(()) };
        let claimed: Option<Digest> = known.parsed_or_null("claimed_digest")?;
        let wrong = mismatches(known.parsed_or_null("digest")?, known.text_or_null("sha256")?, digest, sha256);
        for text in &wrong {
            tracing::error!(version = running.task.object, text, "a digest that was kept is not that of the bytes");
            mismatch_record(tx, "digest", content, text.clone()).await?;
        }
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
            let text = format!("its sender named the BLAKE3 {claimed}, but its bytes have {digest}");
            mismatch_record(tx, "digest", content, text).await?;
        }
        tx.journal("content_digest", running.task.object.clone(), detail);
        Ok(())
    })
}

/// What of the digests that are kept is not what was computed.
pub(crate) fn mismatches(
    kept: Option<Digest>,
    kept_sha256: Option<String>,
    digest: &Digest,
    sha256: &str,
) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Some(kept) = kept.filter(|kept| kept != digest) {
        wrong.push(format!("the BLAKE3 {kept} is kept of it, but its bytes have {digest}"));
    }
    if let Some(kept) = kept_sha256.filter(|kept| kept != sha256) {
        wrong.push(format!("the SHA-256 {kept} is kept of it, but its bytes have {sha256}"));
    }
    wrong
}

/// Hashes a content from where `hash` is; every chunk is verified on the way. `each` hears how far it is and of the bytes just done, and stops it by
/// answering false: then the answer is none.
fn hash_content(
    core: &Core,
    spaces: &[SpaceId],
    root: &Root,
    mut hash: ImageHash,
    each: &mut dyn FnMut(&ImageHash, u64) -> bool,
) -> Result<Option<(Digest, String)>, Problem> {
    let fault = |error: StoreError| store_problem(&format!("reading content {root}"), error);
    let ledger = core.ledger();
    let mut reader = core.store.content_open_once(spaces, root, &ledger).map_err(fault)?;
    let mut buf = vec![0u8; STRIDE];
    while let Some(stretch) = reader.extents_from(hash.at()).map_err(fault)? {
        let mut left = stretch.len;
        while left > 0 {
            let len = match stretch.hole {
                true => hash.zeros(left.min(ZEROS_STRIDE)),
                false => {
                    let len = left.min(STRIDE as u64 - hash.at() % STRIDE as u64);
                    reader.read_at(hash.at(), &mut buf[..len as usize]).map_err(fault)?;
                    hash.data(&buf[..len as usize]);
                    len
                }
            };
            left -= len;
            if !each(&hash, len) {
                return Ok(None);
            }
        }
    }
    Ok(Some(hash.finish()))
}

/// Reads a content and computes its BLAKE3 and the hex of its SHA-256. Every chunk is verified on the way.
pub(crate) async fn digest_compute(
    core: &Arc<Core>,
    spaces: Vec<SpaceId>,
    root: Root,
    size: u64,
    stopped: impl Fn() -> bool + Send + 'static,
) -> Result<(Digest, String), Problem> {
    let core = core.clone();
    let hashed = blocking(move || hash_content(&core, &spaces, &root, ImageHash::new(size), &mut |_, _| !stopped()));
    hashed.await??.ok_or_else(|| Problem::new(Code::Unavailable, "asked to stop"))
}
