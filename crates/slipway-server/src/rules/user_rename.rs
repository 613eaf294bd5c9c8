//! A user gets another name, and everything that names them follows: what is owned and shared goes by id anyway, the rest is rewritten here.
//! Lines of the journal stay as they are: they say who it was then.

use crate::core::{Caller, Core};
use crate::db::{DbError, Tx, TxError, sql, tx};
use crate::policy::{Action, SYSTEM};
use crate::rules::user::{account_allowed, account_find, name_of, name_taken};
use serde_json::json;
use slipway_api::{AccountName, Code, Problem, User};

/// Renames a user, for who may manage them.
pub(crate) async fn user_rename(core: &Core, who: &Caller, name: &str, new: AccountName) -> Result<User, Problem> {
    let name = name_of(who, name)?;
    if new.as_str() == SYSTEM || new.as_str().starts_with("gone-") {
        return Err(
            Problem::new(Code::InvalidName, format!("the name {new} is kept for the server itself")).field("name")
        );
    }
    let renamed: Result<User, TxError> = tx!(&core.db, who, |tx| {
        let account = account_allowed(tx, who, Action::UserManage, &name).await?;
        if new.as_str() != name {
            let clash = sql("SELECT id FROM account WHERE name = $1").bind(new.as_str());
            if tx.row(clash).await?.is_some() {
                return Err(name_taken(&new).into());
            }
            let update = sql("UPDATE account SET name = $1, updated_at = $2, revision = revision + 1 WHERE id = $3");
            let now = tx.now();
            tx.run(update.bind(new.as_str()).bind(now).bind(account.id)).await?;
            for column in ["version SET created_by = $1 WHERE created_by", "task SET created_by = $1 WHERE created_by"]
            {
                tx.run(sql(format!("UPDATE {column} = $2")).bind(new.as_str()).bind(&name)).await?;
            }
            associated_rename(tx, &name, new.as_str()).await?;
            scopes_rename(tx, &name, new.as_str()).await?;
            tx.journal("user_rename", &*name, json!({ "id": account.id, "to": new }));
        }
        let account = account_find(tx, new.as_str()).await?;
        Ok(account.ok_or_else(|| crate::policy::missing(&format!("user {new}")))?.user)
    });
    Ok(renamed?)
}

/// References in `associated`, which are `owner/name`.
async fn associated_rename(tx: &mut Tx, old: &str, new: &str) -> Result<(), DbError> {
    let (old, new) = (format!("{old}/"), format!("{new}/"));
    let pattern = format!("%\"{}%", old.replace('_', "\\_"));
    let rows =
        tx.rows(sql("SELECT id, associated FROM image WHERE associated LIKE $1 ESCAPE '\\'").bind(pattern)).await?;
    for row in rows {
        let given: Vec<String> = row.json("associated")?;
        let kept: Vec<String> = given
            .into_iter()
            .map(|text| text.strip_prefix(&old).map(|rest| format!("{new}{rest}")).unwrap_or(text))
            .collect();
        let update = sql("UPDATE image SET associated = $1, revision = revision + 1 WHERE id = $2");
        tx.run(update.bind(json!(kept).to_string()).bind(row.text("id")?)).await?;
    }
    Ok(())
}

/// Patterns in the scopes of tokens, which are `verb:owner/name`: left as they were they would reach for whoever gets the old name next.
async fn scopes_rename(tx: &mut Tx, old: &str, new: &str) -> Result<(), DbError> {
    let (old, new) = (format!(":{old}/"), format!(":{new}/"));
    let pattern = format!("%{}%", old.replace('_', "\\_"));
    let rows = tx.rows(sql("SELECT id, scopes FROM token WHERE scopes LIKE $1 ESCAPE '\\'").bind(pattern)).await?;
    for row in rows {
        let scopes = row.text("scopes")?.replace(&old, &new);
        tx.run(sql("UPDATE token SET scopes = $1 WHERE id = $2").bind(scopes).bind(row.text("id")?)).await?;
    }
    Ok(())
}
