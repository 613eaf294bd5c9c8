//! A user leaves, and what they own goes with them: into the trash, or to somebody else. The account's row stays, without a way in and under
//! a name that nobody chose, until nothing refers to it any more.

use crate::core::{Caller, Core, Nudge};
use crate::db::{TxError, sql, tx};
use crate::policy::Action;
use crate::rules::image_give::image_give_begin;
use crate::rules::image_row::{IMAGE_SELECT, ImageRow, image_lock, readers_load};
use crate::rules::owner::{Owner, no_account, owner_find};
use crate::rules::trash::image_discard;
use crate::rules::user::{account_allowed, admin_must_remain, is_admin, name_of};
use serde_json::json;
use slipway_api::{Code, Problem};

/// Deletes a user with their tokens and open uploads. Their images go into the trash, from where an admin can take them during the grace, or
/// to the user `to`. One that is pinned refuses the whole.
pub(crate) async fn user_leave(core: &Core, who: &Caller, name: &str, to: Option<&str>) -> Result<(), Problem> {
    let name = name_of(who, name)?;
    let done: Result<(), TxError> = tx!(&core.db, who, |tx| {
        let account = account_allowed(tx, who, Action::UserManage, &name).await?;
        if is_admin(&account.user) {
            admin_must_remain(tx, account.id).await?;
        }
        let heir = match to {
            None => None,
            Some(to) => Some(heir_find(tx, &name, to).await?),
        };
        // First of all, so that whoever makes an image for them comes before this, and is seen below, or waits for it.
        let left = format!("gone-{}", account.id.simple());
        let end = sql(
            "UPDATE account SET kind = 'deleted', name = $1, disabled = 1, password = NULL, email = NULL, full_name = '', \
             updated_at = $2, revision = revision + 1 WHERE id = $3",
        );
        let now = tx.now();
        tx.run(end.bind(&left).bind(now).bind(account.id)).await?;
        let owned = sql(format!("{IMAGE_SELECT} WHERE image.account_id = $1 ORDER BY image.id")).bind(account.id);
        let rows = tx.rows(owned).await?;
        let mut images = rows.iter().map(ImageRow::read).collect::<Result<Vec<_>, _>>()?;
        readers_load(tx, &mut images).await?;
        for image in &mut images {
            // What is said of them names the owner as they were known.
            image.owner.name.clone_from(&name);
        }
        let live: Vec<&ImageRow> = images.iter().filter(|image| image.trashed_at.is_none()).collect();
        for image in &live {
            image_lock(tx, &image.id).await?;
            match &heir {
                None => image_discard(tx, image).await?,
                Some(heir) => drop(image_give_begin(tx, who, image, heir).await?),
            }
        }
        let tokens = tx.run(sql("DELETE FROM token WHERE account_id = $1").bind(account.id)).await?;
        tx.run(sql("DELETE FROM image_reader WHERE account_id = $1").bind(account.id)).await?;
        let uploads =
            sql("UPDATE upload SET state = 'ended' WHERE account_id = $1 AND state = 'open'").bind(account.id);
        let uploads = tx.run(uploads).await?;
        let remain = sql("SELECT COUNT(*) AS n FROM image WHERE account_id = $1").bind(account.id);
        if tx.row_must(remain).await?.int("n")? == 0 {
            tx.run(sql("DELETE FROM account WHERE id = $1").bind(account.id)).await?;
        }
        let detail = json!({
            "id": account.id, "role": account.user.role, "tokens": tokens, "uploads": uploads, "images": live.len(),
            "to": heir.map(|heir| heir.name), "trash_under": left,
        });
        tx.journal("user_delete", &*name, detail);
        tx.nudge(Nudge::Expiry);
        Ok(())
    });
    Ok(done?)
}

async fn heir_find(tx: &mut crate::db::Tx, name: &str, to: &str) -> Result<Owner, TxError> {
    if to == name {
        let title = format!("the images of user {name} cannot be handed over to themselves");
        return Err(Problem::new(Code::InvalidRequest, title).into());
    }
    Ok(owner_find(tx, to).await?.ok_or_else(|| no_account(to))?)
}
