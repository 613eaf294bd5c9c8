//! Who may read an image. Taking a reader off is done at once; letting one in is a task, because the content must lie where every reader may
//! read before the door opens.
//!
//! Taking off copies nothing: what was readable stays where it is, new versions go to a space of their own, and a capability that the
//! former reader still holds ends within hours.

use crate::core::{Caller, Core};
use crate::db::{Tx, TxError, sql, tx};
use crate::policy::{Action, SYSTEM};
use crate::rules::image_give::owner_set;
use crate::rules::image_row::{ImageRow, image_by_id, image_find_locked, image_to_wire, image_touch, public_space};
use crate::rules::owner::{no_account, owner_find};
use crate::rules::task::task_create;
use serde::{Deserialize, Serialize};
use serde_json::json;
use slipway_api::{AccountName, Code, Image, ImageRef, Problem, SharingChange, TaskKind};
use slipway_store::SpaceId;
use uuid::Uuid;

/// What a task that moves an image's contents is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rehome {
    /// The image.
    pub image: Uuid,
    /// Where its contents go.
    pub space: SpaceId,
    /// Open it for everyone afterwards.
    pub public: bool,
    /// Accounts to let in afterwards.
    pub readers: Vec<Uuid>,
    /// Who owns it afterwards, if that changes.
    #[serde(default)]
    pub owner: Option<Uuid>,
}

pub(super) fn fresh_space() -> SpaceId {
    SpaceId::new(&format!("s-{}", Uuid::new_v4().simple()))
        .expect("'s-' and 32 hexadecimal digits are within a space id's alphabet")
}

async fn accounts(tx: &mut Tx, image: &ImageRow, names: &[AccountName], field: &str) -> Result<Vec<Uuid>, TxError> {
    let mut ids = Vec::new();
    for name in names {
        let owner = owner_find(tx, name.as_str()).await?.ok_or_else(|| no_account(name.as_str()).field(field))?;
        if owner.name == SYSTEM {
            let title = "the system reads nothing; share with users";
            return Err(Problem::new(Code::InvalidRequest, title).field(field).into());
        }
        // The owner reads it anyway.
        if owner.id != image.owner.id && !ids.contains(&owner.id) {
            ids.push(owner.id);
        }
    }
    Ok(ids)
}

/// Changes who may read an image. With `sharing.task` in the answer, who is let in can read when that task is done.
pub async fn sharing_change(
    core: &Core,
    who: &Caller,
    reference: &ImageRef,
    change: SharingChange,
    if_match: Option<u64>,
) -> Result<Image, Problem> {
    let done: Result<Image, TxError> = tx!(&core.db, who, |tx| {
        let mut image = image_find_locked(tx, who, reference, Action::ImageShare).await?;
        image.trash_check()?;
        image.revision_check(if_match)?;
        if image.owner.name == SYSTEM {
            let title = format!("image {} belongs to the system and is open to everyone", image.reference());
            return Err(Problem::new(Code::Conflict, title).into());
        }
        if let Some(task) = image.share_task {
            let title = format!("the sharing of image {} is being changed by task {task}", image.reference());
            return Err(Problem::new(Code::Conflict, title).hint("wait for the task, or cancel it").into());
        }
        let add = accounts(tx, &image, &change.add, "add").await?;
        let remove = accounts(tx, &image, &change.remove, "remove").await?;
        if let Some(both) = change.add.iter().find(|name| change.remove.contains(name)) {
            let title = format!("{both} is both added and removed");
            return Err(Problem::new(Code::InvalidRequest, title).field("remove").into());
        }
        close(tx, &mut image, change.public == Some(false), &remove).await?;
        let readers: Vec<Uuid> = add.into_iter().filter(|id| !image.readers.contains(id)).collect();
        let public = change.public == Some(true) && !image.public;
        open(tx, who, &mut image, public, readers).await?;
        image_touch(tx, &image.id).await?;
        tx.journal("sharing_change", image.reference(), json!(change));
        let image = image_by_id(tx, &image.id).await?.ok_or_else(|| crate::policy::missing(&reference.to_string()))?;
        Ok(image_to_wire(tx, who, image).await?)
    });
    Ok(done?)
}

/// Takes readers off, at once.
async fn close(tx: &mut Tx, image: &mut ImageRow, private: bool, remove: &[Uuid]) -> Result<(), TxError> {
    let was_public = image.public;
    let before = image.readers.len();
    image.public &= !private;
    image.readers.retain(|id| !remove.contains(id));
    for id in remove {
        tx.run(sql("DELETE FROM image_reader WHERE image_id = $1 AND account_id = $2").bind(image.id).bind(id)).await?;
    }
    let fewer = !image.public && (was_public || image.readers.len() < before);
    if fewer {
        // Who is left reads the old spaces too, so chunks may still be looked up there; new ones must not lie where the others read.
        let space = if image.readers.is_empty() { image.owner.space() } else { fresh_space() };
        image.spaces.retain(|known| *known != space);
        image.spaces.insert(0, space);
    }
    let update = sql("UPDATE image SET public = $1, spaces = $2 WHERE id = $3")
        .bind(image.public)
        .bind(json!(image.spaces).to_string())
        .bind(image.id);
    tx.run(update).await?;
    Ok(())
}

/// Lets readers in: at once if there is nothing to move, else by a task.
async fn open(
    tx: &mut Tx,
    who: &Caller,
    image: &mut ImageRow,
    public: bool,
    readers: Vec<Uuid>,
) -> Result<(), TxError> {
    if !public && readers.is_empty() {
        return Ok(());
    }
    let space = if public || image.public { public_space() } else { fresh_space() };
    let rehome = Rehome { image: image.id, space, public, readers, owner: None };
    let versions = sql("SELECT COUNT(*) AS count FROM version WHERE image_id = $1").bind(image.id);
    let versions = tx.row_must(versions).await?.size("count")?;
    // Of an image that is open to everyone, a named reader reads nothing more than before.
    if image.public || versions == 0 {
        return Ok(sharing_open(tx, &rehome, !image.public).await?);
    }
    let input = serde_json::to_value(&rehome)
        .map_err(|error| crate::db::DbError::Column { column: "input".to_owned(), detail: error.to_string() })?;
    let task = task_create(tx, who, TaskKind::Rehome, &image.reference(), &input).await?;
    tx.run(sql("UPDATE image SET share_task = $1 WHERE id = $2").bind(task.id).bind(image.id)).await?;
    Ok(())
}

/// Opens the door: from this transaction's commit on the readers may read.
pub(crate) async fn sharing_open(tx: &mut Tx, rehome: &Rehome, moved: bool) -> Result<(), crate::db::DbError> {
    if moved {
        let update = sql("UPDATE image SET spaces = $1 WHERE id = $2")
            .bind(json!([rehome.space]).to_string())
            .bind(rehome.image);
        tx.run(update).await?;
    }
    if let Some(owner) = &rehome.owner {
        owner_set(tx, &rehome.image, owner).await?;
    }
    if rehome.public {
        tx.run(sql("UPDATE image SET public = 1 WHERE id = $1").bind(rehome.image)).await?;
    }
    for reader in &rehome.readers {
        // An account that was deleted meanwhile reads nothing.
        let insert = sql("INSERT INTO image_reader (image_id, account_id) SELECT $1, id FROM account WHERE id = $2 \
             ON CONFLICT (image_id, account_id) DO NOTHING")
        .bind(rehome.image)
        .bind(reader);
        tx.run(insert).await?;
    }
    tx.run(sql("UPDATE image SET share_task = NULL, revision = revision + 1 WHERE id = $1").bind(rehome.image)).await?;
    Ok(())
}
