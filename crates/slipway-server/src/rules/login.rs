//! Signing in, and how a new server gets its first admin.

use crate::core::{Caller, CallerUser, Core};
use crate::db::{Tx, TxError, sql, tx};
use crate::rules::token::{TTL_DEFAULT, TokenRow, token_insert, ttl_of};
use crate::rules::user::{account_find, account_insert};
use crate::scope::Scopes;
use crate::secret::{Password, SetupCode, TokenSecret, password_hash, password_matches};
use crate::slowdown::Verdict;
use serde_json::json;
use slipway_api::{AccountName, Code, Login, Problem, Role, Session, Setup, UserNew};
use std::net::IpAddr;
use uuid::Uuid;

/// Milliseconds that a setup code is valid.
const SETUP_VALID: i64 = 3_600_000;
/// The name under which tries of a setup code are counted; no account can have it.
const SETUP_NAME: &str = "/setup";

/// Whether `given` is the password behind `stored`, at the pace that is left to who was wrong before.
///
/// # Errors
/// `slow_down` with `retry_after` when it was wrong too often.
pub(crate) async fn password_verify(
    core: &Core,
    name: &str,
    source: Option<IpAddr>,
    given: &str,
    stored: Option<&str>,
) -> Result<bool, Problem> {
    attempt_pace(core, name, source).await?;
    let right = password_matches(given, stored).await?;
    match right {
        true => core.sign_ins.succeeded(name, source),
        false => tracing::warn!(name = %name.escape_default(), source = ?source, "a password was wrong"),
    }
    Ok(right)
}

async fn attempt_pace(core: &Core, name: &str, source: Option<IpAddr>) -> Result<(), Problem> {
    match core.sign_ins.attempt(name, source, core.db.now().await?) {
        Verdict::Go(delay) => tokio::time::sleep(delay).await,
        Verdict::Wait(seconds) => {
            return Err(Problem::new(Code::SlowDown, "there were too many wrong attempts")
                .hint(format!("wait {seconds} seconds, then try again"))
                .retry_after(seconds));
        }
    }
    Ok(())
}

fn wrong() -> Problem {
    // One answer for an unknown name, a wrong password and a disabled user.
    Problem::new(Code::Unauthenticated, "name or password is wrong, or the user is disabled")
}

/// Signs in with name and password. An unknown name costs the same work and gives the same answer as a wrong password.
pub async fn login(core: &Core, who: &Caller, source: Option<IpAddr>, login: Login) -> Result<Session, Problem> {
    let ttl = ttl_of(login.ttl_seconds)?;
    // As when accounts are made: a name is lower case. What cannot be a name takes the way of an unknown one.
    let name = login.user.to_lowercase();
    let account = match name.parse::<AccountName>() {
        Ok(_) => account_find(&mut core.db.read().await?, &name).await?,
        Err(_) => None,
    };
    let stored = account.as_ref().filter(|account| !account.user.disabled).and_then(|found| found.password.as_deref());
    let right = password_verify(core, &name, source, &login.password, stored).await?;
    let Some(account) = account.filter(|_| right) else { return Err(wrong()) };
    let user = CallerUser { id: account.id, name: name.clone(), role: account.user.role };
    let who = Caller::user(user, None, Scopes::all()).in_request(who.request_id.clone(), None);
    let secret = TokenSecret::random();
    let made: Result<Session, TxError> = tx!(&core.db, &who, |tx| {
        // Asked again: while the password was hashed, the user may have been disabled or the password changed.
        let now = account_find(tx, &name).await?;
        let same = now.filter(|now| now.id == account.id && now.password == account.password && !now.user.disabled);
        same.ok_or_else(wrong)?;
        session_make(tx, account.id, &name, ttl, &secret).await
    });
    Ok(made?)
}

async fn session_make(
    tx: &mut Tx,
    account: Uuid,
    name: &str,
    ttl: u64,
    secret: &TokenSecret,
) -> Result<Session, TxError> {
    let scopes = Scopes::all();
    let row = TokenRow { account, account_name: name, name: "sign-in", scopes: &scopes, ttl, sign_in: true };
    let token = token_insert(tx, &row, secret).await?;
    Ok(Session { token: secret.reveal().to_owned(), user: token.user, expires_at: token.expires_at })
}

/// Whether nobody can administer this server yet.
pub(crate) async fn admin_is_missing(tx: &mut Tx) -> Result<bool, TxError> {
    let admins = sql("SELECT COUNT(*) AS n FROM account WHERE kind = 'user' AND role = 'admin'");
    Ok(tx.row_must(admins).await?.int("n")? == 0)
}

/// Makes those wait for each other who would make the first admin: the first of them does.
pub(crate) async fn first_admin_lock(tx: &mut Tx) -> Result<(), TxError> {
    tx.run(sql("UPDATE counter SET value = value WHERE name = 'journal'")).await?;
    Ok(())
}

/// Whether `POST /setup` is open.
pub async fn setup_is_open(core: &Core) -> Result<bool, Problem> {
    Ok(admin_is_missing(&mut core.db.read().await?).await?)
}

/// A new one-time code, to be shown on standard error, while there is no admin; older codes end. `None` if there is one.
pub async fn setup_code_make(core: &Core) -> Result<Option<String>, Problem> {
    let code = SetupCode::random();
    let made: Result<bool, TxError> = tx!(&core.db, &Caller::server(), |tx| {
        first_admin_lock(tx).await?;
        tx.run(sql("DELETE FROM setup_code")).await?;
        if !admin_is_missing(tx).await? {
            return Ok(false);
        }
        let now = tx.now();
        let insert = sql("INSERT INTO setup_code (id, hash, created_at, expires_at) VALUES ($1, $2, $3, $4)");
        let insert = insert.bind(Uuid::new_v4()).bind(code.hash().to_hex()).bind(now).bind(now + SETUP_VALID);
        tx.run(insert).await?;
        tx.journal("setup_code_make", "server", json!({}));
        Ok(true)
    });
    Ok(made?.then(|| code.reveal()))
}

/// Redeems the one-time code: makes the first admin and signs them in.
pub async fn setup(core: &Core, who: &Caller, source: Option<IpAddr>, setup: Setup) -> Result<Session, Problem> {
    let has_admin = || {
        Problem::new(Code::Conflict, "this server already has an admin")
            .hint("sign in with `slipway login`, or ask an admin for an account")
    };
    if !setup_is_open(core).await? {
        return Err(has_admin());
    }
    let password = Password::new(&setup.password, "password")?;
    attempt_pace(core, SETUP_NAME, source).await?;
    let wrong = || {
        Problem::new(Code::Unauthenticated, "the setup code is wrong, used or older than an hour")
            .field("code")
            .hint("restart the server: it prints a new one")
    };
    let code = SetupCode::parse(&setup.code).ok_or_else(wrong)?;
    let name = match &setup.name {
        Some(name) => name.clone(),
        None => "admin".parse().map_err(|_| Problem::new(Code::Internal, "'admin' is an account name"))?,
    };
    let hash = password_hash(&password).await?;
    let new = first_admin(name);
    let secret = TokenSecret::random();
    let made: Result<Session, TxError> = tx!(&core.db, who, |tx| {
        first_admin_lock(tx).await?;
        if !admin_is_missing(tx).await? {
            return Err(has_admin().into());
        }
        let now = tx.now();
        let take =
            sql("DELETE FROM setup_code WHERE hash = $1 AND expires_at > $2").bind(code.hash().to_hex()).bind(now);
        if tx.run(take).await? != 1 {
            return Err(wrong().into());
        }
        tx.run(sql("DELETE FROM setup_code")).await?;
        let account = account_insert(tx, &new, Some(&hash)).await?;
        tx.journal("setup", new.name.as_str(), json!({ "role": Role::Admin }));
        session_make(tx, account.id, new.name.as_str(), TTL_DEFAULT, &secret).await
    });
    let session = made?;
    core.sign_ins.succeeded(SETUP_NAME, source);
    Ok(session)
}

/// The first admin as a wish.
pub(crate) fn first_admin(name: AccountName) -> UserNew {
    UserNew { name, full_name: "Administrator".to_owned(), email: None, role: Some(Role::Admin), password: None }
}
