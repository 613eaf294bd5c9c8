use super::{PASSWORD, as_user, caller_of, each, refused, user_add, verbs};
use crate::core::{Caller, Core};
use crate::rules::login::login;
use crate::rules::token::{token_authenticate, token_make};
use crate::rules::user::{password_change, user_change};
use crate::slowdown::Verdict;
use slipway_api::{Code, Login, PasswordChange, Problem, Role, Session, TokenNew, UserChange};
use std::net::IpAddr;

const NEW: &str = "another long one";

async fn sign_in(core: &Core, user: &str, password: &str) -> Result<Session, Problem> {
    let wish = Login { user: user.into(), password: password.into(), ttl_seconds: None };
    login(core, &Caller::nobody(), None, wish).await
}

#[tokio::test]
async fn only_the_right_password_signs_in() {
    each(async |bench| {
        let core = &bench.core;
        user_add(core, "jan", Role::Moderator, Some(PASSWORD)).await;
        user_add(core, "robot", Role::User, None).await;
        user_add(core, "gone", Role::User, Some(PASSWORD)).await;
        let off = UserChange { disabled: Some(true), ..UserChange::default() };
        user_change(core, &Caller::server(), "gone", off, None).await.unwrap();
        let mut titles = std::collections::HashSet::new();
        for (user, password, fine) in [
            ("jan", PASSWORD, true),
            ("Jan", PASSWORD, true),
            ("jan", "correct horse batterz", false),
            ("jan", "", false),
            ("jan", PASSWORD, true),
            ("robot", "", false),
            ("robot", PASSWORD, false),
            ("gone", PASSWORD, false),
            ("nobody-there", PASSWORD, false),
            ("nobody-there", "nobody has this password", false),
            ("system", "nobody has this password", false),
            ("me", PASSWORD, false),
            ("../jan", PASSWORD, false),
            ("jan\0", PASSWORD, false),
            ("", PASSWORD, false),
        ] {
            match sign_in(core, user, password).await {
                Ok(session) => {
                    assert!(fine, "{user:?} {password:?}");
                    let who = caller_of(core, &session.token).await;
                    assert_eq!(
                        who.user.as_ref().map(|user| (user.name.as_str(), user.role)),
                        Some(("jan", Role::Moderator))
                    );
                    assert_eq!(session.user.as_str(), "jan");
                }
                Err(problem) => {
                    assert!(!fine && problem.code == Code::Unauthenticated, "{user:?} {password:?}: {problem:?}");
                    titles.insert(format!("{problem:?}"));
                }
            }
        }
        assert_eq!(titles.len(), 1, "every refusal reads the same: {titles:?}");
        assert_eq!(verbs(core).await.iter().filter(|verb| *verb == "token_make").count(), 3);
        for ttl in [59, 90 * 86_400 + 1] {
            let wish = Login { user: "jan".into(), password: PASSWORD.into(), ttl_seconds: Some(ttl) };
            refused(login(core, &Caller::nobody(), None, wish).await, Code::InvalidRequest);
        }
    })
    .await;
}

#[tokio::test]
async fn guessing_is_slowed_down_where_it_comes_from() {
    each(async |bench| {
        let core = &bench.core;
        user_add(core, "jan", Role::User, Some(PASSWORD)).await;
        let from = |n: u8| Some(IpAddr::from([192, 0, 2, n]));
        let wish = |password: &str| Login { user: "jan".into(), password: password.into(), ttl_seconds: None };
        for _ in 0..3 {
            refused(login(core, &Caller::nobody(), from(1), wish("wrong wrong")).await, Code::Unauthenticated);
        }
        // The delays in between are the slow-down's own test; here they are stepped over.
        let now = core.db.now().await.unwrap();
        while let Verdict::Go(_) = core.sign_ins.attempt("jan", from(1), now) {}
        let problem = refused(login(core, &Caller::nobody(), from(1), wish(PASSWORD)).await, Code::SlowDown);
        assert!(matches!(problem.retry_after, Some(1..=900)), "{problem:?}");
        login(core, &Caller::nobody(), from(2), wish(PASSWORD)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn passwords_are_changed_by_who_may() {
    each(async |bench| {
        let core = &bench.core;
        user_add(core, "root", Role::Admin, Some(PASSWORD)).await;
        user_add(core, "jan", Role::User, Some(PASSWORD)).await;
        user_add(core, "robot", Role::User, None).await;
        let change = async |who: &str, whom: &str, old: Option<&str>, new: &str| {
            let who = as_user(core, who).await;
            let wish = PasswordChange { old: old.map(str::to_owned), new: new.to_owned() };
            password_change(core, &who, whom, wish).await.map_err(|problem| problem.code)
        };
        for (who, whom, old, new, answer) in [
            ("jan", "me", Some("wrong wrong"), NEW, Err(Code::Forbidden)),
            ("jan", "me", None, NEW, Err(Code::InvalidRequest)),
            ("jan", "me", Some(PASSWORD), "short", Err(Code::InvalidRequest)),
            ("jan", "me", Some(PASSWORD), &"x".repeat(1025), Err(Code::InvalidRequest)),
            ("jan", "root", Some(PASSWORD), NEW, Err(Code::NotFound)),
            ("jan", "me", Some(PASSWORD), NEW, Ok(())),
            ("jan", "me", Some(PASSWORD), NEW, Err(Code::Forbidden)),
            ("root", "jan", None, PASSWORD, Ok(())),
            ("root", "root", None, NEW, Err(Code::InvalidRequest)),
            ("root", "root", Some(PASSWORD), NEW, Ok(())),
            ("robot", "me", None, NEW, Ok(())),
            ("robot", "me", None, PASSWORD, Err(Code::InvalidRequest)),
        ] {
            assert_eq!(change(who, whom, old, new).await, answer, "{who} for {whom}: {old:?} to {new:?}");
        }
        for (user, password) in [("jan", PASSWORD), ("root", NEW), ("robot", NEW)] {
            sign_in(core, user, password).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_new_password_ends_other_sign_ins() {
    each(async |bench| {
        let core = &bench.core;
        user_add(core, "root", Role::Admin, None).await;
        user_add(core, "jan", Role::User, Some(PASSWORD)).await;
        let (here, there) =
            (sign_in(core, "jan", PASSWORD).await.unwrap(), sign_in(core, "jan", PASSWORD).await.unwrap());
        let who = caller_of(core, &here.token).await;
        let robot = TokenNew { name: "robot".into(), user: None, scopes: None, ttl_seconds: None };
        let robot = token_make(core, &who, robot).await.unwrap();
        let wish = PasswordChange { old: Some(PASSWORD.into()), new: NEW.into() };
        password_change(core, &who, "me", wish).await.unwrap();
        caller_of(core, &here.token).await;
        caller_of(core, &robot.secret).await;
        refused(token_authenticate(core, &there.token).await, Code::Unauthenticated);
        let wish = PasswordChange { old: None, new: PASSWORD.into() };
        password_change(core, &as_user(core, "root").await, "jan", wish).await.unwrap();
        refused(token_authenticate(core, &here.token).await, Code::Unauthenticated);
        caller_of(core, &robot.secret).await;
    })
    .await;
}
