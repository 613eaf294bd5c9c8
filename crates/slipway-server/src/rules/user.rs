//! Users: people with an account.

use crate::core::{Caller, Core};
use crate::db::{DbError, Row, Tx, TxError, sql, tx, word_of};
use crate::policy::{Action, Object, allowed, missing, unauthenticated};
use crate::rules::idempotency::{idempotency_begin, idempotency_finish};
use crate::rules::login::password_verify;
use crate::rules::page::{cursor_decode, cursor_encode, like_anywhere, limit_check, page_of};
use crate::rules::text::text_check;
use crate::secret::{Password, password_hash};
use serde_json::json;
use slipway_api::{AccountName, Code, Me, Page, PageQuery, PasswordChange, Problem, Role, User, UserChange, UserNew};
use uuid::Uuid;

/// Characters in a person's name at most.
const FULL_NAME_MAX: usize = 255;
/// Bytes in a mail address at most (RFC 5321, section 4.5.3.1.3, without the angle brackets).
const EMAIL_MAX: usize = 254;

/// A user's row as the rules need it.
pub(crate) struct Account {
    pub(crate) id: Uuid,
    pub(crate) password: Option<String>,
    pub(crate) user: User,
}

const COLUMNS: &str = "id, name, full_name, email, role, disabled, password, created_at, revision";

fn account_of(row: &Row) -> Result<Account, DbError> {
    Ok(Account {
        id: row.parsed("id")?,
        password: row.text_or_null("password")?,
        user: User {
            name: row.parsed("name")?,
            full_name: row.text("full_name")?,
            email: row.text_or_null("email")?,
            role: row.word("role")?,
            disabled: row.flag("disabled")?,
            created_at: row.time("created_at")?,
            revision: row.size("revision")?,
        },
    })
}

/// The user of this name, if there is one; `system` is an account but nobody's.
pub(crate) async fn account_find(tx: &mut Tx, name: &str) -> Result<Option<Account>, DbError> {
    let found = sql(format!("SELECT {COLUMNS} FROM account WHERE name = $1 AND kind = 'user'")).bind(name);
    tx.row(found).await?.as_ref().map(account_of).transpose()
}

/// The name that a path means: `me` is the caller.
pub(crate) fn name_of(who: &Caller, text: &str) -> Result<String, Problem> {
    if text == "me" {
        return who.user.as_ref().map(|user| user.name.clone()).ok_or_else(unauthenticated);
    }
    let name: Result<AccountName, _> = text.parse();
    name.map(String::from).map_err(|why| Problem::new(Code::InvalidName, why.to_string()))
}

/// The user that a path names, if the caller may do this to them.
pub(crate) async fn account_allowed(tx: &mut Tx, who: &Caller, action: Action, name: &str) -> Result<Account, TxError> {
    let found = account_find(tx, name).await?;
    let object = match &found {
        Some(account) => Object::User { id: account.id, name, role: account.user.role },
        None => Object::NoUser { name },
    };
    allowed(who, action, &object)?;
    found.ok_or_else(|| missing(&object.label()).into())
}

/// An empty address takes the address away.
fn email_check(text: &str) -> Result<Option<String>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    text_check("email", text, EMAIL_MAX, false)?;
    let parts = text.rsplit_once('@').filter(|(local, domain)| !local.is_empty() && !domain.is_empty());
    if parts.is_none() || text.len() > EMAIL_MAX || text.contains(char::is_whitespace) {
        let title = "email is no address of the form name@domain of at most 254 bytes";
        return Err(Problem::new(Code::InvalidRequest, title).field("email"));
    }
    Ok(Some(text.to_owned()))
}

/// Inserts a user's row. The name must have been checked to be free, or the whole transaction fails.
pub(crate) async fn account_insert(tx: &mut Tx, new: &UserNew, password: Option<&str>) -> Result<Account, TxError> {
    let taken = tx.row(sql("SELECT id FROM account WHERE name = $1").bind(new.name.as_str())).await?;
    if taken.is_some() {
        return Err(name_taken(&new.name).into());
    }
    let insert = sql(format!(
        "INSERT INTO account (id, name, kind, full_name, email, role, disabled, password, created_at, updated_at, revision) \
         VALUES ($1, $2, 'user', $3, $4, $5, 0, $6, $7, $7, 1) ON CONFLICT (name) DO NOTHING RETURNING {COLUMNS}"
    ));
    let now = tx.now();
    let insert = insert
        .bind(Uuid::new_v4())
        .bind(new.name.as_str())
        .bind(&new.full_name)
        .bind(new.email.clone().filter(|email| !email.is_empty()))
        .bind(word_of(&new.role.unwrap_or(Role::User)))
        .bind(password)
        .bind(now);
    // Two at the same time pass the question above; the loser sees no row here.
    let row = tx.row(insert).await?.ok_or_else(|| TxError::from(name_taken(&new.name)))?;
    Ok(account_of(&row)?)
}

pub(super) fn name_taken(name: &AccountName) -> Problem {
    Problem::new(Code::NameTaken, format!("the name {name} is taken")).field("name").hint("choose another name")
}

/// Makes a user.
pub async fn user_create(core: &Core, who: &Caller, new: UserNew) -> Result<User, Problem> {
    allowed(who, Action::UserAdmin, &Object::Server)?;
    text_check("full_name", &new.full_name, FULL_NAME_MAX, false)?;
    email_check(new.email.as_deref().unwrap_or_default())?;
    let password = new.password.as_deref().map(|text| Password::new(text, "password")).transpose()?;
    // Hashing takes long and needs no transaction.
    let hash = match &password {
        Some(password) => Some(password_hash(password).await?),
        None => None,
    };
    let made: Result<User, TxError> = tx!(&core.db, who, |tx| {
        if let Some(answer) = idempotency_begin(tx, who).await? {
            return Ok(answer);
        }
        let account = account_insert(tx, &new, hash.as_deref()).await?;
        let detail = json!({ "role": account.user.role, "password": hash.is_some() });
        tx.journal("user_create", account.user.name.as_str(), detail);
        idempotency_finish(tx, who, &account.user).await?;
        Ok(account.user)
    });
    Ok(made?)
}

/// Lists users by name; for who may see all.
pub async fn user_list(core: &Core, who: &Caller, query: &PageQuery) -> Result<Page<User>, Problem> {
    allowed(who, Action::UserList, &Object::Server)?;
    let limit = limit_check(query.limit)?;
    let [after] = cursor_decode(query.cursor.as_deref())?.unwrap_or_default();
    let q = query.q.as_deref().unwrap_or_default();
    let mut tx = core.db.read().await?;
    let read = sql(format!(
        "SELECT {COLUMNS} FROM account WHERE kind = 'user' AND name > $1 \
         AND (name LIKE $2 ESCAPE '\\' OR LOWER(full_name) LIKE $2 ESCAPE '\\') ORDER BY name LIMIT $3"
    ));
    let rows = tx.rows(read.bind(after).bind(like_anywhere(q)).bind(limit as u64 + 1)).await?;
    let items = rows.iter().map(|row| Ok(account_of(row)?.user)).collect::<Result<Vec<_>, DbError>>()?;
    Ok(page_of(items, limit, |user| cursor_encode(&[user.name.as_str()])))
}

/// One user; oneself always.
pub async fn user_get(core: &Core, who: &Caller, name: &str) -> Result<User, Problem> {
    let name = name_of(who, name)?;
    let mut tx = core.db.read().await?;
    Ok(account_allowed(&mut tx, who, Action::UserRead, &name).await?.user)
}

/// Who the caller is, with which token.
pub async fn me(core: &Core, who: &Caller) -> Result<Me, Problem> {
    allowed(who, Action::Identify, &Object::Server)?;
    let (Some(user), Some(token)) = (&who.user, who.token) else { return Err(unauthenticated()) };
    let mut tx = core.db.read().await?;
    let account = account_find(&mut tx, &user.name).await?.ok_or_else(unauthenticated)?;
    let row = tx.row(sql("SELECT expires_at FROM token WHERE id = $1").bind(token)).await?;
    let expires_at = row.ok_or_else(unauthenticated)?.time("expires_at")?;
    Ok(Me { user: account.user, token, scopes: who.scopes.to_wire(), expires_at })
}

/// Changes a user. Role and `disabled` need an admin.
pub async fn user_change(
    core: &Core,
    who: &Caller,
    name: &str,
    change: UserChange,
    if_match: Option<u64>,
) -> Result<User, Problem> {
    user_change_as(core, who, Action::UserChange, name, change, if_match).await
}

/// [`user_change`] under another right: the dialects' rules differ in who may, not in what is done.
pub(crate) async fn user_change_as(
    core: &Core,
    who: &Caller,
    right: Action,
    name: &str,
    change: UserChange,
    if_match: Option<u64>,
) -> Result<User, Problem> {
    let name = name_of(who, name)?;
    if let Some(full_name) = &change.full_name {
        text_check("full_name", full_name, FULL_NAME_MAX, false)?;
    }
    let email = change.email.as_deref().map(email_check).transpose()?;
    let changed: Result<User, TxError> = tx!(&core.db, who, |tx| {
        let account = account_allowed(tx, who, right, &name).await?;
        if change.role.is_some() || change.disabled.is_some() {
            allowed(who, Action::UserAdmin, &Object::User { id: account.id, name: &name, role: account.user.role })?;
        }
        revision_check(&account.user, if_match)?;
        let new = User {
            full_name: change.full_name.clone().unwrap_or_else(|| account.user.full_name.clone()),
            email: email.clone().unwrap_or_else(|| account.user.email.clone()),
            role: change.role.unwrap_or(account.user.role),
            disabled: change.disabled.unwrap_or(account.user.disabled),
            ..account.user.clone()
        };
        if new == account.user {
            return Ok(new);
        }
        if is_admin(&account.user) && !is_admin(&new) {
            admin_must_remain(tx, account.id).await?;
        }
        let update = sql(format!(
            "UPDATE account SET full_name = $1, email = $2, role = $3, disabled = $4, updated_at = $5, revision = revision + 1 \
             WHERE id = $6 AND revision = $7 RETURNING {COLUMNS}"
        ));
        let now = tx.now();
        let update = update
            .bind(&new.full_name)
            .bind(new.email.clone())
            .bind(word_of(&new.role))
            .bind(new.disabled)
            .bind(now)
            .bind(account.id)
            .bind(account.user.revision);
        let row = tx.row(update).await?.ok_or_else(|| TxError::from(changed_meanwhile(&name)))?;
        let detail = json!({
            "full_name": new.full_name != account.user.full_name,
            "email": new.email != account.user.email,
            "role": (new.role != account.user.role).then_some(new.role),
            "disabled": (new.disabled != account.user.disabled).then_some(new.disabled),
        });
        tx.journal("user_change", &*name, detail);
        Ok(account_of(&row)?.user)
    });
    Ok(changed?)
}

pub(super) fn is_admin(user: &User) -> bool {
    user.role == Role::Admin && !user.disabled
}

fn revision_check(user: &User, if_match: Option<u64>) -> Result<(), Problem> {
    match if_match {
        Some(wanted) if wanted != user.revision => {
            let title = format!("user {} is at revision {}, not {wanted}", user.name, user.revision);
            Err(Problem::new(Code::PreconditionFailed, title).hint("read it again, then change it"))
        }
        _ => Ok(()),
    }
}

fn changed_meanwhile(name: &str) -> Problem {
    Problem::new(Code::Conflict, format!("user {name} was changed by somebody else meanwhile")).hint("try again")
}

/// Refuses what would leave nobody who can administer. Touching the rows of all admins first makes two such changes wait for each other.
pub(super) async fn admin_must_remain(tx: &mut Tx, without: Uuid) -> Result<(), TxError> {
    tx.run(sql("UPDATE account SET revision = revision WHERE kind = 'user' AND role = 'admin'")).await?;
    let others =
        sql("SELECT COUNT(*) AS n FROM account WHERE kind = 'user' AND role = 'admin' AND disabled = 0 AND id <> $1");
    match tx.row_must(others.bind(without)).await?.int("n")? {
        0 => {
            let title = "this is the last admin; without one nobody could administer the server";
            Err(Problem::new(Code::Conflict, title).hint("make somebody else an admin first").into())
        }
        _ => Ok(()),
    }
}

/// Deletes a user with their tokens. Refused while they own an image, or are the last admin.
pub async fn user_delete(core: &Core, who: &Caller, name: &str) -> Result<(), Problem> {
    let name = name_of(who, name)?;
    let deleted: Result<(), TxError> = tx!(&core.db, who, |tx| {
        let account = account_allowed(tx, who, Action::UserAdmin, &name).await?;
        if is_admin(&account.user) {
            admin_must_remain(tx, account.id).await?;
        }
        let images = sql("SELECT COUNT(*) AS n FROM image WHERE account_id = $1").bind(account.id);
        let images = tx.row_must(images).await?.int("n")?;
        if images > 0 {
            return Err(owns_images(&name, &format!("{images}")).into());
        }
        let tokens = tx.run(sql("DELETE FROM token WHERE account_id = $1").bind(account.id)).await?;
        tx.run(sql("DELETE FROM image_reader WHERE account_id = $1").bind(account.id)).await?;
        match tx.run(sql("DELETE FROM account WHERE id = $1").bind(account.id)).await {
            Ok(_) => {}
            // An image was made, or shared with them, since it was counted.
            Err(DbError::Sql { source: sqlx::Error::Database(error), .. }) if error.is_foreign_key_violation() => {
                return Err(owns_images(&name, "new").into());
            }
            Err(error) => return Err(error.into()),
        }
        tx.journal("user_delete", &*name, json!({ "id": account.id, "role": account.user.role, "tokens": tokens }));
        Ok(())
    });
    Ok(deleted?)
}

fn owns_images(name: &str, count: &str) -> Problem {
    Problem::new(Code::Conflict, format!("user {name} still owns images ({count}, the trash counted)"))
        .hint("delete the images and let their time in the trash pass, or disable the user instead")
}

/// Sets a password. Oneself: with the old one, if there is one. Others: an admin. What was signed in with the old password is signed
/// out, but for the token that asks.
pub async fn password_change(core: &Core, who: &Caller, name: &str, change: PasswordChange) -> Result<(), Problem> {
    let name = name_of(who, name)?;
    let account = {
        let mut tx = core.db.read().await?;
        account_allowed(&mut tx, who, Action::PasswordSet, &name).await?
    };
    let new = Password::new(&change.new, "new")?;
    let own = who.user.as_ref().is_some_and(|user| user.id == account.id);
    if own && let Some(stored) = &account.password {
        let Some(old) = &change.old else {
            return Err(Problem::new(Code::InvalidRequest, "the old password is needed").field("old"));
        };
        password_verify(core, &name, None, old, Some(stored)).await?.then_some(()).ok_or_else(|| {
            Problem::new(
                Code::Forbidden,
                format!("setting the password of user {name} needs the old one, and this is not it"),
            )
            .field("old")
        })?;
    }
    let hash = password_hash(&new).await?;
    let changed: Result<(), TxError> = tx!(&core.db, who, |tx| {
        // Asked again: hashing took its time, and what was checked is what must be replaced.
        let now = account_allowed(tx, who, Action::PasswordSet, &name).await?;
        if now.id != account.id || (own && now.password != account.password) {
            return Err(changed_meanwhile(&name).into());
        }
        let at = tx.now();
        let update = sql("UPDATE account SET password = $1, updated_at = $2, revision = revision + 1 WHERE id = $3");
        tx.run(update.bind(&hash).bind(at).bind(account.id)).await?;
        let keep = who.token.filter(|_| own).unwrap_or_default();
        let end = sql("DELETE FROM token WHERE account_id = $1 AND sign_in = 1 AND id <> $2");
        let ended = tx.run(end.bind(account.id).bind(keep)).await?;
        tx.journal("password_set", &*name, json!({ "own": own, "signed_out": ended }));
        Ok(())
    });
    Ok(changed?)
}
