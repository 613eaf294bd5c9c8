//! Moves an image's contents to where its readers may read, and then lets them in.

use crate::core::{Caller, Core, Nudge};
use crate::db::{DbError, Row, TxError, sql, tx};
use crate::rules::image_row::{image_by_id, image_lock, public_space};
use crate::rules::room::room_check;
use crate::rules::sharing::{Rehome, sharing_open};
use crate::rules::task::{Claimed, TaskEnd, task_end};
use crate::rules::upload_commit::blobs_touch;
use crate::rules::upload_fill::blocking;
use crate::workers::Worker;
use crate::workers::run::{Halt, Running, Stop, TaskWork, halt, task_pass};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use slipway_api::{Code, Problem, TaskKind};
use slipway_chunk::Root;
use slipway_store::{BlobId, PrepareSpec, Prepared, SpaceId};
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How often contents are copied again because a push or a prune came between.
const ROUNDS: u32 = 20;

/// Sees to tasks of kind rehome.
pub(crate) struct Rehoming;

impl Worker for Rehoming {
    fn name(&self) -> &'static str {
        "rehome"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn wakes(&self, nudge: Nudge) -> bool {
        nudge == Nudge::Queued(TaskKind::Rehome)
    }

    fn pass<'a>(&'a self, core: &'a Arc<Core>, stop: &'a Stop) -> BoxFuture<'a, Result<bool, DbError>> {
        Box::pin(task_pass(core, self, stop))
    }
}

fn input(task: &Claimed) -> Result<Rehome, Problem> {
    serde_json::from_value(task.input.clone())
        .map_err(|error| Problem::new(Code::Internal, format!("reading the request of a move: {error}")))
}

impl TaskWork for Rehoming {
    fn kind(&self) -> TaskKind {
        TaskKind::Rehome
    }

    fn run<'a>(&'a self, core: &'a Arc<Core>, running: &'a Running) -> BoxFuture<'a, Result<Value, Halt>> {
        Box::pin(async move {
            let rehome = input(&running.task).map_err(Halt::Failed)?;
            let mut copied: HashMap<Uuid, Prepared> = HashMap::new();
            for _ in 0..ROUNDS {
                let contents = contents_of(core, &rehome.image).await?;
                for content in &contents {
                    running.go_on()?;
                    // Copies are new bytes like those of an upload.
                    room_check(core)?;
                    if let Entry::Vacant(place) = copied.entry(content.id) {
                        place.insert(content_move(core, running, &rehome, content).await?);
                    }
                }
                match doors_open(core, running, &rehome, &copied).await? {
                    Opened::Yes => return Ok(json!({ "contents": copied.len() })),
                    // A push came between: its content is copied in the next round.
                    Opened::MoreContents => {}
                    // Prune took a copy before it was counted: all are looked at again, and only what is missing is copied.
                    Opened::BlobsGone => copied.clear(),
                }
            }
            let title = format!("the contents of {} changed faster than they could be moved", running.task.object);
            Err(Halt::Again(Problem::new(Code::Conflict, title)))
        })
    }

    fn give_up<'a>(&'a self, core: &'a Arc<Core>, task: &'a Claimed) -> BoxFuture<'a, Result<(), DbError>> {
        Box::pin(async move {
            let server = Caller::server();
            let done: Result<(), TxError> = tx!(&core.db, &server, |tx| {
                let update = sql("UPDATE image SET share_task = NULL, revision = revision + 1 WHERE share_task = $1")
                    .bind(task.id);
                if tx.run(update).await? > 0 {
                    tx.journal("sharing_give_up", task.object.clone(), json!({ "task": task.id }));
                }
                Ok(())
            });
            match done {
                Err(TxError::Db(error)) => Err(error),
                Ok(()) | Err(TxError::Refused(_)) => Ok(()),
            }
        })
    }
}

struct Content {
    id: Uuid,
    root: Root,
    spaces: Vec<SpaceId>,
}

fn content_read(row: &Row) -> Result<Content, DbError> {
    Ok(Content { id: row.parsed("id")?, root: row.parsed("root")?, spaces: row.json("spaces")? })
}

const CONTENTS: &str = "SELECT content.id, content.root, content.spaces FROM content \
     WHERE id IN (SELECT content_id FROM version WHERE image_id = $1) OR id IN (SELECT content_id FROM replaced WHERE image_id = $1) \
     ORDER BY content.id";

/// The contents of all versions, those in the trash and replaced ones too: a restored one must be readable as well.
async fn contents_of(core: &Core, image: &Uuid) -> Result<Vec<Content>, DbError> {
    let mut tx = core.db.read().await?;
    tx.rows(sql(CONTENTS).bind(image)).await?.iter().map(content_read).collect()
}

fn lookup_after(rehome: &Rehome) -> Vec<SpaceId> {
    let mut spaces = vec![rehome.space.clone()];
    if rehome.space != public_space() {
        spaces.push(public_space());
    }
    spaces
}

async fn content_move(
    core: &Arc<Core>,
    running: &Running,
    rehome: &Rehome,
    content: &Content,
) -> Result<Prepared, Halt> {
    let (store, ledger, reports) = (core.store.clone(), core.ledger(), running.clone());
    // The task's id stands as the upload of the copies, so that prune leaves them alone while the task lives.
    let to =
        PrepareSpec { space: rehome.space.clone(), lookup: lookup_after(rehome), upload: running.task.id.to_string() };
    let (from, root) = (content.spaces.clone(), content.root);
    let act = format!("moving a content of {}", running.task.object);
    let copied = blocking(move || store.content_copy(&from, &root, &to, &ledger, &mut |at| reports.report(at)));
    let prepared = copied.await?.map_err(|error| halt(&act, error))?;
    if prepared.root != content.root {
        let title = format!("{act}: the copy has root {}, not {}", prepared.root, content.root);
        return Err(Halt::Failed(Problem::new(Code::Internal, title)));
    }
    Ok(prepared)
}

enum Opened {
    Yes,
    MoreContents,
    BlobsGone,
}

/// One transaction: the contents lie elsewhere, new versions go there, the readers may read, the task is done.
async fn doors_open(
    core: &Core,
    running: &Running,
    rehome: &Rehome,
    copied: &HashMap<Uuid, Prepared>,
) -> Result<Opened, TxError> {
    let server = Caller::server();
    tx!(&core.db, &server, |tx| {
        image_lock(tx, &rehome.image).await?;
        let contents: Vec<Content> =
            tx.rows(sql(CONTENTS).bind(rehome.image)).await?.iter().map(content_read).collect::<Result<_, _>>()?;
        let Some(image) = image_by_id(tx, &rehome.image).await? else {
            return Err(Problem::new(Code::Gone, format!("image {} is deleted", running.task.object)).into());
        };
        if image.share_task != Some(running.task.id) {
            return Err(Problem::new(
                Code::Conflict,
                format!("the sharing of {} is not this task's", image.reference()),
            )
            .into());
        }
        if contents.iter().any(|content| !copied.contains_key(&content.id)) {
            return Ok(Opened::MoreContents);
        }
        let kept: Vec<(&Content, &Prepared)> =
            contents.iter().filter_map(|content| Some((content, copied.get(&content.id)?))).collect();
        let blobs: BTreeSet<BlobId> = kept.iter().flat_map(|(_, prepared)| prepared.blobs.iter().copied()).collect();
        let blobs: Vec<BlobId> = blobs.into_iter().collect();
        if !blobs_touch(tx, &blobs).await? {
            // Touching some is harmless: it only makes a prune that is planning think again.
            return Ok(Opened::BlobsGone);
        }
        for (content, prepared) in kept {
            let update = sql("UPDATE content SET spaces = $1, stored_bytes = $2 WHERE id = $3")
                .bind(json!(lookup_after(rehome)).to_string())
                .bind(prepared.stored_bytes)
                .bind(content.id);
            tx.run(update).await?;
        }
        sharing_open(tx, rehome, true).await?;
        tx.journal(
            "sharing_open",
            image.reference(),
            json!({ "space": rehome.space, "public": rehome.public, "readers": rehome.readers, "owner": rehome.owner }),
        );
        let end = TaskEnd::Done(json!({ "contents": contents.len() }));
        if !task_end(tx, &running.task, &end).await? {
            return Err(Problem::new(Code::Conflict, "another worker has this task").into());
        }
        Ok(Opened::Yes)
    })
}
