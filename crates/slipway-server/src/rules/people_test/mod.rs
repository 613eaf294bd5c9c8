//! Tests of users, tokens and signing in, on SQLite and, if `SLIPWAY_TEST_POSTGRES` names a server, on a fresh PostgreSQL database each.

mod faults;
mod first_admin;
mod signing_in;
mod tokens;
mod users;

use crate::core::{Caller, CallerUser, Core, CoreConfig};
use crate::db::{Db, DbUrl, SqlFaults, Tx, sql};
use crate::rules::test_database::postgres_fresh;
use crate::rules::token::token_authenticate;
use crate::rules::user::{account_find, user_create};
use crate::scope::Scopes;
use slipway_api::{Code, Problem, Role, User, UserNew};
use slipway_store::{Blobs, Faults, Store, StoreConfig};
use std::sync::Arc;
use tempfile::TempDir;

/// A core of its own, and the folder it lives in.
struct Bench {
    core: Arc<Core>,
    faults: SqlFaults,
    folder: TempDir,
}

async fn bench(url: Option<String>) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let url = match url {
        Some(url) => DbUrl::Postgres(url),
        None => DbUrl::Sqlite(folder.path().join("slipway.db")),
    };
    let faults = SqlFaults::armable();
    let db = Db::open(&url, faults.clone()).await.unwrap();
    let blobs = Blobs::local(&folder.path().join("blobs"), Faults::none()).unwrap();
    let store = Store::open(blobs, StoreConfig::default(), Faults::none()).unwrap();
    let core = Core::new(db, store, CoreConfig::new(folder.path()));
    Bench { core, faults, folder }
}

/// Runs a test on each database.
async fn each(test: impl AsyncFn(Bench)) {
    test(bench(None).await).await;
    if let Some(url) = postgres_fresh("people").await {
        test(bench(Some(url)).await).await;
    }
}

const PASSWORD: &str = "correct horse battery";

fn user_new(name: &str, role: Role, password: Option<&str>) -> UserNew {
    UserNew {
        name: name.parse().unwrap(),
        full_name: format!("The {name}"),
        email: None,
        role: Some(role),
        password: password.map(str::to_owned),
    }
}

async fn user_add(core: &Core, name: &str, role: Role, password: Option<&str>) -> User {
    user_create(core, &Caller::server(), user_new(name, role, password)).await.unwrap()
}

/// A caller who is this user with every scope, without a token's row.
async fn as_user(core: &Core, name: &str) -> Caller {
    let account = account_find(&mut core.db.read().await.unwrap(), name).await.unwrap().unwrap();
    Caller::user(CallerUser { id: account.id, name: name.to_owned(), role: account.user.role }, None, Scopes::all())
}

async fn caller_of(core: &Core, secret: &str) -> Caller {
    token_authenticate(core, secret).await.unwrap()
}

#[track_caller]
fn refused<T>(result: Result<T, Problem>, code: Code) -> Problem {
    match result {
        Ok(_) => panic!("was done, {code:?} was expected"),
        Err(problem) => {
            assert_eq!(problem.code, code, "{problem:?}");
            problem
        }
    }
}

async fn count(core: &Core, text: &'static str) -> i64 {
    core.db.read().await.unwrap().row_must(sql(text)).await.unwrap().int("n").unwrap()
}

/// Changes rows behind the rules' back.
async fn meddle(core: &Core, text: &'static str) {
    let mut tx: Tx = core.db.begin(&Caller::server()).await.unwrap();
    tx.run(sql(text)).await.unwrap();
    let mut attempt = 0;
    assert!(matches!(tx.end(Ok(()), &mut attempt).await, crate::db::End::Done(Ok(()))));
}

async fn verbs(core: &Core) -> Vec<String> {
    let mut tx = core.db.read().await.unwrap();
    let rows = tx.rows(sql("SELECT verb FROM journal ORDER BY number")).await.unwrap();
    rows.iter().map(|row| row.text("verb").unwrap()).collect()
}
