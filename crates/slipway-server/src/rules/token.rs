//! Tokens: what proves who a caller is.

use crate::core::{Caller, CallerUser, Core};
use crate::db::{DbError, Row, Tx, TxError, sql, tx, word_of};
use crate::policy::{Action, Object, allowed, missing};
use crate::rules::idempotency::{idempotency_begin, idempotency_finish};
use crate::rules::page::{cursor_decode, cursor_encode, limit_check, page_of};
use crate::rules::text::text_check;
use crate::rules::user::{account_allowed, name_of};
use crate::scope::Scopes;
use crate::secret::TokenSecret;
use serde_json::json;
use slipway_api::{Code, Page, PageQuery, Problem, Token, TokenMade, TokenNew};
use uuid::Uuid;

/// Seconds a token lives at least.
pub const TTL_MIN: u64 = 60;
/// Seconds a token lives at most: 90 days.
pub const TTL_MAX: u64 = 90 * 24 * 3600;
/// Seconds a token lives if nothing else was asked for.
pub const TTL_DEFAULT: u64 = 24 * 3600;
/// Characters in a token's name at most.
const NAME_MAX: usize = 255;
/// Tokens that one user may have at a time.
const TOKENS_MAX: i64 = 1000;
/// Milliseconds between two notes that a token was used.
const USED_EVERY: i64 = 60_000;

const COLUMNS: &str = "t.id, t.name, t.scopes, t.created_at, t.expires_at, t.last_used_at, a.name AS user_name";

fn token_of(row: &Row) -> Result<Token, DbError> {
    Ok(Token {
        id: row.parsed("id")?,
        user: row.parsed("user_name")?,
        name: row.text("name")?,
        scopes: Scopes::from_stored(&row.text("scopes")?).to_wire(),
        created_at: row.time("created_at")?,
        expires_at: row.time("expires_at")?,
        last_used_at: row.time_or_null("last_used_at")?,
    })
}

/// Seconds a token shall live, checked.
pub(crate) fn ttl_of(ttl_seconds: Option<u64>) -> Result<u64, Problem> {
    let ttl = ttl_seconds.unwrap_or(TTL_DEFAULT);
    if (TTL_MIN..=TTL_MAX).contains(&ttl) {
        return Ok(ttl);
    }
    let title = format!("a token lives for 60 seconds to 90 days ({TTL_MAX} seconds), not for {ttl} seconds");
    Err(Problem::new(Code::InvalidRequest, title).field("ttl_seconds"))
}

/// A token that is to be written.
pub(crate) struct TokenRow<'a> {
    pub(crate) account: Uuid,
    pub(crate) account_name: &'a str,
    pub(crate) name: &'a str,
    pub(crate) scopes: &'a Scopes,
    /// Seconds.
    pub(crate) ttl: u64,
    /// Made by a sign-in, so that it ends when the password changes.
    pub(crate) sign_in: bool,
}

/// Writes a token's row with the hash of its secret, and its line of the journal.
pub(crate) async fn token_insert(tx: &mut Tx, new: &TokenRow<'_>, secret: &TokenSecret) -> Result<Token, TxError> {
    let count = sql("SELECT COUNT(*) AS n FROM token WHERE account_id = $1 AND expires_at > $2");
    let now = tx.now();
    if tx.row_must(count.bind(new.account).bind(now)).await?.int("n")? >= TOKENS_MAX {
        let title = format!("user {} has {TOKENS_MAX} tokens, which is the most a user may have", new.account_name);
        return Err(Problem::new(Code::Conflict, title).hint("revoke some with `slipway token rm`").into());
    }
    let id = Uuid::new_v4();
    let insert =
        sql("INSERT INTO token (id, account_id, name, hash, scopes, created_at, expires_at, last_used_at, sign_in) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, NULL, $8)");
    let insert = insert
        .bind(id)
        .bind(new.account)
        .bind(new.name)
        .bind(secret.hash().to_hex())
        .bind(new.scopes.to_stored())
        .bind(now)
        .bind(now + (new.ttl * 1000) as i64)
        .bind(new.sign_in);
    tx.run(insert).await?;
    let read = sql(format!("SELECT {COLUMNS} FROM token t JOIN account a ON a.id = t.account_id WHERE t.id = $1"));
    let token = token_of(&tx.row_must(read.bind(id)).await?)?;
    let detail = json!({
        "user": new.account_name, "name": new.name, "scopes": token.scopes, "expires_at": token.expires_at, "sign_in": new.sign_in,
    });
    tx.journal("token_make", id.to_string(), detail);
    Ok(token)
}

fn token_name_check(name: &str) -> Result<(), Problem> {
    if name.trim().is_empty() {
        return Err(Problem::new(Code::InvalidRequest, "name is empty").field("name"));
    }
    text_check("name", name, NAME_MAX, false)
}

/// The scopes of a new token: what was asked for, if the maker has it; else what the maker has.
fn scopes_of(who: &Caller, new: &TokenNew, owner: &str) -> Result<Scopes, Problem> {
    let Some(asked) = &new.scopes else { return Ok(who.scopes.clone()) };
    let scopes = Scopes::parse(asked, owner)
        .map_err(|why| Problem::new(Code::InvalidRequest, why.to_string()).field("scopes"))?;
    match who.scopes.first_uncovered(&scopes) {
        None => Ok(scopes),
        Some(scope) => {
            let title = format!("making a token with scope {scope} needs a token that has it");
            Err(Problem::new(Code::Forbidden, title).field("scopes"))
        }
    }
}

/// Makes a token. Its secret is in the answer and nowhere else.
pub async fn token_make(core: &Core, who: &Caller, new: TokenNew) -> Result<TokenMade, Problem> {
    let owner = name_of(who, new.user.as_ref().map_or("me", |name| name.as_str()))?;
    let secret = TokenSecret::random();
    let made: Result<TokenMade, TxError> = tx!(&core.db, who, |tx| {
        let account = account_allowed(tx, who, Action::TokenMake, &owner).await?;
        token_name_check(&new.name)?;
        let ttl = ttl_of(new.ttl_seconds)?;
        let scopes = scopes_of(who, &new, &owner)?;
        if account.user.disabled {
            let title = format!("user {owner} is disabled, so that a token would not work");
            return Err(Problem::new(Code::Conflict, title).into());
        }
        if let Some(earlier) = idempotency_begin::<Token>(tx, who).await? {
            let title = format!(
                "this request has already made token {}, whose secret was shown once and is not kept",
                earlier.id
            );
            return Err(Problem::new(Code::Conflict, title)
                .hint("revoke that token and make another with a fresh key")
                .into());
        }
        let row = TokenRow {
            account: account.id,
            account_name: &owner,
            name: &new.name,
            scopes: &scopes,
            ttl,
            sign_in: false,
        };
        let token = token_insert(tx, &row, &secret).await?;
        idempotency_finish(tx, who, &token).await?;
        Ok(TokenMade { secret: secret.reveal().to_owned(), token })
    });
    Ok(made?)
}

/// Lists the tokens of an account that have not ended, newest first: one's own, or `owner`'s for an admin.
pub async fn token_list(core: &Core, who: &Caller, query: &PageQuery) -> Result<Page<Token>, Problem> {
    let owner = name_of(who, query.owner.as_deref().unwrap_or("me"))?;
    let limit = limit_check(query.limit)?;
    let (before, id) = match cursor_decode(query.cursor.as_deref())? {
        None => (i64::MAX, String::new()),
        Some([at, id]) => match at.parse::<i64>() {
            Ok(at) => (at, id),
            Err(_) => {
                return Err(Problem::new(Code::InvalidRequest, "the cursor is not from this list").field("cursor"));
            }
        },
    };
    let mut tx = core.db.read().await?;
    let account = account_allowed(&mut tx, who, Action::TokenList, &owner).await?;
    let now = tx.now();
    let read = sql(format!(
        "SELECT {COLUMNS} FROM token t JOIN account a ON a.id = t.account_id \
         WHERE t.account_id = $1 AND t.expires_at > $2 AND (t.created_at < $3 OR (t.created_at = $3 AND t.id > $4)) \
         ORDER BY t.created_at DESC, t.id LIMIT $5"
    ));
    let rows = tx.rows(read.bind(account.id).bind(now).bind(before).bind(id).bind(limit as u64 + 1)).await?;
    let items = rows.iter().map(token_of).collect::<Result<Vec<_>, _>>()?;
    Ok(page_of(items, limit, |token| {
        cursor_encode(&[&token.created_at.as_millisecond().to_string(), &token.id.to_string()])
    }))
}

/// Revokes a token: it does not work from the next request on. A token may always revoke itself, which is how one signs out.
pub async fn token_revoke(core: &Core, who: &Caller, id: Uuid) -> Result<(), Problem> {
    // A token that is not there and one whose owner may not be seen are answered alike.
    let gone = || missing(&format!("token {id}"));
    let revoked: Result<(), TxError> = tx!(&core.db, who, |tx| {
        if who.user.is_none() && !who.is_server() {
            return Err(crate::policy::unauthenticated().into());
        }
        let read =
            sql("SELECT a.id, a.name, a.role FROM token t JOIN account a ON a.id = t.account_id WHERE t.id = $1");
        let row = tx.row(read.bind(id)).await?.ok_or_else(|| TxError::from(gone()))?;
        let (account, name): (Uuid, String) = (row.parsed("id")?, row.text("name")?);
        if who.token != Some(id) {
            let object = Object::User { id: account, name: &name, role: row.word("role")? };
            allowed(who, Action::TokenRevoke, &object).map_err(|problem| match problem.code {
                Code::NotFound => gone(),
                _ => problem,
            })?;
        }
        tx.run(sql("DELETE FROM token WHERE id = $1").bind(id)).await?;
        tx.journal("token_revoke", id.to_string(), json!({ "user": name }));
        Ok(())
    });
    Ok(revoked?)
}

fn refused() -> Problem {
    Problem::new(Code::Unauthenticated, "the token is unknown, revoked or over its time")
        .hint("sign in again with `slipway login`")
}

/// Who holds this token. Role and state of the user are read afresh, so that a change of them counts at once.
///
/// # Errors
/// `unauthenticated` for anything but a living token of a user who is not disabled.
pub async fn token_authenticate(core: &Core, secret: &str) -> Result<Caller, Problem> {
    let Some(secret) = TokenSecret::parse(secret) else {
        return Err(Problem::new(Code::Unauthenticated, "the token has a typing error: its checksum does not fit")
            .hint("a token is `slp_` and 34 letters and digits; copy it whole"));
    };
    let read =
        sql("SELECT t.id, t.scopes, t.expires_at, t.last_used_at, a.id AS account_id, a.name, a.role, a.disabled \
         FROM token t JOIN account a ON a.id = t.account_id WHERE t.hash = $1 AND a.kind = 'user'");
    let mut tx = core.db.read().await?;
    let now = tx.now();
    let row = tx.row(read.bind(secret.hash().to_hex())).await?.ok_or_else(refused)?;
    drop(tx);
    if row.int("expires_at")? <= now {
        return Err(refused());
    }
    if row.flag("disabled")? {
        return Err(Problem::new(Code::Unauthenticated, format!("user {} is disabled", row.text("name")?))
            .hint("an admin can enable it again"));
    }
    let id: Uuid = row.parsed("id")?;
    let minute = now - now % USED_EVERY;
    if row.int_or_null("last_used_at")?.is_none_or(|last| last < minute) {
        used_note(core, id, minute).await;
    }
    let user = CallerUser { id: row.parsed("account_id")?, name: row.text("name")?, role: row.word("role")? };
    Ok(Caller::user(user, Some(id), Scopes::from_stored(&row.text("scopes")?)))
}

/// Whether the token that proved who the caller is still proves it: not revoked, not over, its user neither disabled nor in another role.
/// For answers that go on for long; each request is asked anyway.
pub async fn token_lives(core: &Core, who: &Caller) -> Result<bool, Problem> {
    let (Some(user), Some(token)) = (&who.user, who.token) else { return Ok(true) };
    let mut tx = core.db.read().await?;
    let now = tx.now();
    let read = sql("SELECT t.id FROM token t JOIN account a ON a.id = t.account_id \
         WHERE t.id = $1 AND t.expires_at > $2 AND a.disabled = 0 AND a.role = $3");
    Ok(tx.row(read.bind(token).bind(now).bind(word_of(&user.role))).await?.is_some())
}

/// At most one write in a minute for each token. It is no change that anybody follows, so it has no line in the journal; and whether it can
/// be written must not decide whether a reader is let in.
async fn used_note(core: &Core, id: Uuid, minute: i64) {
    let noted: Result<(), TxError> = tx!(&core.db, &Caller::server(), |tx| {
        let note =
            sql("UPDATE token SET last_used_at = $1 WHERE id = $2 AND (last_used_at IS NULL OR last_used_at < $1)");
        tx.run(note.bind(minute).bind(id)).await?;
        Ok(())
    });
    if let Err(error) = noted {
        tracing::warn!(%error, token = %id, "noting that a token was used");
    }
}
