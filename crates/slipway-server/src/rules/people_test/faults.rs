//! Each statement and each commit of a rule fails once, with and without having had its effect: the rule happened as a whole or not at all.

use super::{Bench, PASSWORD, as_user, count, each, user_add, user_new};
use crate::core::Caller;
use crate::db::SqlFault;
use crate::rules::bootstrap::admin_token_bootstrap;
use crate::rules::login::{login, setup, setup_code_make};
use crate::rules::token::{token_make, token_revoke};
use crate::rules::user::{password_change, user_change, user_create, user_delete};
use slipway_api::{Login, PasswordChange, Problem, Role, Setup, TokenNew, UserChange};

/// What must agree: each thing with its line in the journal.
async fn whole(bench: &Bench, what: &str) {
    let core = &bench.core;
    let lines = async |verb: &'static str| count(core, verb).await;
    let tokens = lines("SELECT COUNT(*) AS n FROM token").await;
    let made = lines("SELECT COUNT(*) AS n FROM journal WHERE verb = 'token_make'").await;
    let gone = lines("SELECT COUNT(*) AS n FROM journal WHERE verb = 'token_revoke'").await;
    assert_eq!(tokens, made - gone, "{what}: tokens");
    let users = lines("SELECT COUNT(*) AS n FROM account WHERE kind = 'user'").await;
    let made = lines("SELECT COUNT(*) AS n FROM journal WHERE verb IN ('user_create', 'setup')").await;
    let gone = lines("SELECT COUNT(*) AS n FROM journal WHERE verb = 'user_delete'").await;
    assert_eq!(users, made - gone, "{what}: users");
    let revisions = lines(
        "SELECT CAST(COALESCE(SUM(revision - 1), 0) AS BIGINT) AS n FROM account WHERE kind = 'user' AND name = 'jan'",
    )
    .await;
    let changes =
        lines("SELECT COUNT(*) AS n FROM journal WHERE object = 'jan' AND verb IN ('user_change', 'password_set')")
            .await;
    assert_eq!(revisions, changes, "{what}: changes of jan");
    let numbers = lines("SELECT COALESCE(MAX(number), 0) - COUNT(*) AS n FROM journal").await;
    assert_eq!(numbers, 0, "{what}: the journal has no gap");
}

async fn act(bench: &Bench, what: &str, n: u64) -> Result<(), Problem> {
    let core = &bench.core;
    let server = Caller::server();
    match what {
        "user_create" => user_create(core, &server, user_new(&format!("u{n}"), Role::User, None)).await.map(drop),
        "user_change" => {
            let change = UserChange { full_name: Some(format!("Jan {n}")), ..UserChange::default() };
            user_change(core, &server, "jan", change, None).await.map(drop)
        }
        "password_change" => {
            let change = PasswordChange { old: None, new: PASSWORD.to_owned() };
            password_change(core, &server, "jan", change).await
        }
        "login" => {
            let wish = Login { user: "jan".into(), password: PASSWORD.into(), ttl_seconds: None };
            login(core, &Caller::nobody(), None, wish).await.map(drop)
        }
        _ => {
            let wish =
                TokenNew { name: "t".into(), user: Some("jan".parse().unwrap()), scopes: None, ttl_seconds: None };
            token_make(core, &server, wish).await.map(drop)
        }
    }
}

#[tokio::test]
async fn a_rule_happens_whole_or_not_at_all() {
    each(async |bench| {
        user_add(&bench.core, "jan", Role::User, Some(PASSWORD)).await;
        for what in ["user_create", "user_change", "password_change", "login", "token_make"] {
            for fault in [SqlFault::Error, SqlFault::Lost] {
                let mut fired = 0;
                for n in 0.. {
                    assert!(n < 60, "{what} never came to its end");
                    bench.faults.arm(n, fault);
                    let done = act(&bench, what, n + if fault == SqlFault::Lost { 100 } else { 0 }).await;
                    let hit = bench.faults.fired();
                    bench.faults.disarm();
                    whole(&bench, &format!("{what}, operation {n}, {fault:?}")).await;
                    if !hit {
                        done.unwrap();
                        break;
                    }
                    fired += 1;
                }
                assert!(fired >= 4, "{what}: only {fired} operations failed");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_first_admin_is_made_whole_or_not_at_all() {
    each(async |bench| {
        let core = &bench.core;
        let path = bench.folder.path().join("admin.token");
        for n in 0.. {
            bench.faults.arm(n, SqlFault::Error);
            let started = admin_token_bootstrap(core, &path).await;
            let hit = bench.faults.fired();
            bench.faults.disarm();
            whole(&bench, &format!("bootstrap, operation {n}")).await;
            if !hit {
                assert_eq!(started.unwrap(), None);
                break;
            }
        }
        // Whatever failed on the way: the token in the file is the admin's, and there is one.
        let text = std::fs::read_to_string(&path).unwrap();
        super::caller_of(core, text.trim_end()).await;
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM token").await, 1);
    })
    .await;
    each(async |bench| {
        let core = &bench.core;
        let code = setup_code_make(core).await.unwrap().unwrap();
        for n in 0.. {
            let wish = Setup { code: code.clone(), name: None, password: PASSWORD.into() };
            bench.faults.arm(n, SqlFault::Error);
            let done = setup(core, &Caller::nobody(), None, wish).await;
            let hit = bench.faults.fired();
            bench.faults.disarm();
            core.sign_ins.succeeded("/setup", None);
            whole(&bench, &format!("setup, operation {n}")).await;
            if !hit {
                done.unwrap();
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn deleting_happens_whole_or_not_at_all() {
    each(async |bench| {
        let core = &bench.core;
        user_add(core, "jan", Role::User, None).await;
        let jan = as_user(core, "jan").await;
        for n in 0.. {
            let name = format!("u{n}");
            user_add(core, &name, Role::User, None).await;
            let wish = TokenNew { name: "t".into(), user: None, scopes: None, ttl_seconds: None };
            let token = token_make(core, &jan, wish).await.unwrap().token;
            bench.faults.arm(n, SqlFault::Error);
            let deleted = user_delete(core, &Caller::server(), &name).await;
            let hit = bench.faults.fired();
            bench.faults.arm(n, SqlFault::Error);
            let revoked = token_revoke(core, &jan, token.id).await;
            let hit_too = bench.faults.fired();
            bench.faults.disarm();
            whole(&bench, &format!("deleting, operation {n}")).await;
            if !hit && !hit_too {
                deleted.and(revoked).unwrap();
                break;
            }
        }
    })
    .await;
}
