use super::{PASSWORD, as_user, caller_of, count, each, meddle, refused, user_add, verbs};
use crate::core::{Caller, Core, Idempotency};
use crate::db::sql;
use crate::rules::token::{token_authenticate, token_list, token_make, token_revoke};
use crate::rules::user::{me, user_change};
use crate::secret::TokenSecret;
use slipway_api::{Code, PageQuery, Problem, Role, Scope, TokenMade, TokenNew, UserChange};

fn wish(scopes: Option<&[&str]>, ttl_seconds: Option<u64>) -> TokenNew {
    let scopes = scopes.map(|scopes| scopes.iter().map(|scope| Scope((*scope).to_owned())).collect());
    TokenNew { name: "robot".into(), user: None, scopes, ttl_seconds }
}

async fn make(core: &Core, who: &Caller, wish: TokenNew) -> Result<TokenMade, Problem> {
    token_make(core, who, wish).await
}

#[tokio::test]
async fn tokens_never_do_more_than_their_maker() {
    each(async |bench| {
        let core = &bench.core;
        user_add(core, "jan", Role::User, None).await;
        let jan = as_user(core, "jan").await;
        let narrow = make(core, &jan, wish(Some(&["people", "image:write:me/*"]), None)).await.unwrap();
        assert_eq!(narrow.token.scopes, [Scope("people".into()), Scope("image:write:jan/*".into())]);
        let reader = make(core, &jan, wish(Some(&["image:read"]), None)).await.unwrap();
        let narrow = caller_of(core, &narrow.secret).await;
        let reader = caller_of(core, &reader.secret).await;
        for (who, scopes, ttl, answer) in [
            (&narrow, Some(&["image:read:jan/os"][..]), None, Ok("image:read:jan/os")),
            (&narrow, Some(&["image:write:jan/o*"]), None, Ok("image:write:jan/o*")),
            (&narrow, None, None, Ok("people image:write:jan/*")),
            (&narrow, Some(&["*"]), None, Err(Code::Forbidden)),
            (&narrow, Some(&["image:write"]), None, Err(Code::Forbidden)),
            (&narrow, Some(&["people", "image:delete:jan/os"]), None, Err(Code::Forbidden)),
            (&narrow, Some(&["image:write:eva/*"]), None, Err(Code::Forbidden)),
            (&reader, Some(&["image:read"]), None, Err(Code::Forbidden)),
            (&jan, Some(&[]), None, Err(Code::InvalidRequest)),
            (&jan, Some(&["image:all"]), None, Err(Code::InvalidRequest)),
            (&jan, None, Some(60), Ok("*")),
            (&jan, None, Some(90 * 86_400), Ok("*")),
            (&jan, None, Some(59), Err(Code::InvalidRequest)),
            (&jan, None, Some(90 * 86_400 + 1), Err(Code::InvalidRequest)),
            (&jan, None, Some(u64::MAX), Err(Code::InvalidRequest)),
            (&Caller::nobody(), None, None, Err(Code::Unauthenticated)),
        ] {
            let got = make(core, who, wish(scopes, ttl)).await;
            match (&got, answer) {
                (Ok(made), Ok(text)) => {
                    let caller = caller_of(core, &made.secret).await;
                    assert_eq!(caller.scopes.to_stored(), text);
                    assert!(who.scopes.covers(&caller.scopes));
                    let lives = made.token.expires_at.as_millisecond() - made.token.created_at.as_millisecond();
                    assert_eq!(lives, ttl.unwrap_or(86_400) as i64 * 1000);
                }
                (Err(problem), Err(code)) => assert_eq!(problem.code, code, "{scopes:?} {ttl:?}: {problem:?}"),
                _ => panic!("{scopes:?} {ttl:?}: {:?}", got.map(|made| made.token)),
            }
        }
        for name in ["", "a\u{202e}", "a\nb"] {
            refused(make(core, &jan, TokenNew { name: name.into(), ..wish(None, None) }).await, Code::InvalidRequest);
        }
    })
    .await;
}

#[tokio::test]
async fn tokens_of_others_are_an_admins_matter() {
    each(async |bench| {
        let core = &bench.core;
        for (name, role) in [("root", Role::Admin), ("jan", Role::User), ("eva", Role::User)] {
            user_add(core, name, role, None).await;
        }
        let (root, jan, eva) = (as_user(core, "root").await, as_user(core, "jan").await, as_user(core, "eva").await);
        let of_jan = TokenNew { user: Some("jan".parse().unwrap()), ..wish(Some(&["image:read:me/*"]), None) };
        refused(make(core, &eva, of_jan.clone()).await, Code::NotFound);
        let made = make(core, &root, of_jan).await.unwrap();
        assert_eq!((made.token.user.as_str(), &*made.token.scopes[0].0), ("jan", "image:read:jan/*"));
        let owned = |owner: &str| PageQuery { owner: Some(owner.into()), ..PageQuery::default() };
        refused(token_list(core, &eva, &owned("jan")).await, Code::NotFound);
        assert_eq!(token_list(core, &root, &owned("jan")).await.unwrap().items, std::slice::from_ref(&made.token));
        assert_eq!(
            token_list(core, &jan, &PageQuery::default()).await.unwrap().items,
            std::slice::from_ref(&made.token)
        );
        assert_eq!(token_list(core, &eva, &PageQuery::default()).await.unwrap().items, []);
        // Another's token and none at all are the same to eva.
        let unseen = refused(token_revoke(core, &eva, made.token.id).await, Code::NotFound);
        token_revoke(core, &root, made.token.id).await.unwrap();
        assert_eq!(refused(token_revoke(core, &eva, made.token.id).await, Code::NotFound), unseen);
        refused(token_authenticate(core, &made.secret).await, Code::Unauthenticated);
        // A token without the scope for it still ends itself, and nothing else.
        let one = make(core, &jan, wish(Some(&["image:read"]), None)).await.unwrap();
        let other = make(core, &jan, wish(None, None)).await.unwrap();
        let who = caller_of(core, &one.secret).await;
        refused(token_revoke(core, &who, other.token.id).await, Code::Forbidden);
        token_revoke(core, &who, one.token.id).await.unwrap();
        refused(token_authenticate(core, &one.secret).await, Code::Unauthenticated);
        refused(token_revoke(core, &Caller::nobody(), other.token.id).await, Code::Unauthenticated);
    })
    .await;
}

#[tokio::test]
async fn lists_of_tokens_come_in_pages() {
    each(async |bench| {
        let core = &bench.core;
        user_add(core, "jan", Role::User, None).await;
        let jan = as_user(core, "jan").await;
        for _ in 0..7 {
            make(core, &jan, wish(None, None)).await.unwrap();
        }
        // Several within one millisecond must not hide each other.
        meddle(core, "UPDATE token SET created_at = 1000").await;
        let over = make(core, &jan, wish(None, None)).await.unwrap();
        meddle(core, "UPDATE token SET expires_at = 2000 WHERE created_at > 1000").await;
        refused(token_authenticate(core, &over.secret).await, Code::Unauthenticated);
        let mut seen = std::collections::HashSet::new();
        let mut query = PageQuery { limit: Some(3), ..PageQuery::default() };
        loop {
            let page = token_list(core, &jan, &query).await.unwrap();
            assert!(page.items.iter().all(|token| seen.insert(token.id)));
            match page.next {
                Some(next) => query.cursor = Some(next),
                None => break,
            }
        }
        assert_eq!(seen.len(), 7);
    })
    .await;
}

#[tokio::test]
async fn a_change_counts_at_the_next_request() {
    each(async |bench| {
        let core = &bench.core;
        user_add(core, "root", Role::Admin, None).await;
        user_add(core, "jan", Role::User, None).await;
        let root = as_user(core, "root").await;
        let made = make(core, &as_user(core, "jan").await, wish(None, None)).await.unwrap();
        let role = |role| UserChange { role: Some(role), ..UserChange::default() };
        let disabled = |disabled| UserChange { disabled: Some(disabled), ..UserChange::default() };
        assert_eq!(caller_of(core, &made.secret).await.user.unwrap().role, Role::User);
        user_change(core, &root, "jan", role(Role::Moderator), None).await.unwrap();
        assert_eq!(caller_of(core, &made.secret).await.user.unwrap().role, Role::Moderator);
        user_change(core, &root, "jan", disabled(true), None).await.unwrap();
        refused(token_authenticate(core, &made.secret).await, Code::Unauthenticated);
        refused(
            make(core, &root, TokenNew { user: Some("jan".parse().unwrap()), ..wish(None, None) }).await,
            Code::Conflict,
        );
        user_change(core, &root, "jan", disabled(false), None).await.unwrap();
        let who = caller_of(core, &made.secret).await;
        let about = me(core, &who).await.unwrap();
        assert_eq!(
            (about.user.name.as_str(), about.token, about.expires_at),
            ("jan", made.token.id, made.token.expires_at)
        );
        let typo = made.secret.replace("slp_", "slp-");
        for wrong in ["", "slp_", &typo, TokenSecret::random().reveal()] {
            refused(token_authenticate(core, wrong).await, Code::Unauthenticated);
        }
        token_revoke(core, &who, made.token.id).await.unwrap();
        refused(token_authenticate(core, &made.secret).await, Code::Unauthenticated);
        refused(me(core, &who).await, Code::Unauthenticated);
    })
    .await;
}

#[tokio::test]
async fn use_is_noted_once_in_a_minute_and_without_the_journal() {
    each(async |bench| {
        let core = &bench.core;
        user_add(core, "jan", Role::User, None).await;
        let jan = as_user(core, "jan").await;
        let made = make(core, &jan, wish(None, None)).await.unwrap();
        assert_eq!(made.token.last_used_at, None);
        let lines = verbs(core).await;
        let used = async || token_list(core, &jan, &PageQuery::default()).await.unwrap().items[0].last_used_at.unwrap();
        caller_of(core, &made.secret).await;
        let first = used().await.as_millisecond();
        assert_eq!(first % 60_000, 0);
        assert!((0..120_000).contains(&(core.db.now().await.unwrap() - first)));
        // Within the minute nothing is written. The minute may end in between, hence the second try.
        let quiet = async || {
            let before = used().await;
            meddle(core, "UPDATE token SET last_used_at = last_used_at + 1").await;
            caller_of(core, &made.secret).await;
            used().await.as_millisecond() == before.as_millisecond() + 1
        };
        assert!(quiet().await || quiet().await);
        meddle(core, "UPDATE token SET last_used_at = last_used_at - 120001").await;
        caller_of(core, &made.secret).await;
        assert!(used().await.as_millisecond() >= first);
        assert_eq!(verbs(core).await, lines);
    })
    .await;
}

#[tokio::test]
async fn secrets_are_stored_nowhere() {
    each(async |bench| {
        let core = &bench.core;
        user_add(core, "jan", Role::User, Some(PASSWORD)).await;
        let key = Idempotency { key: "k".into(), request_hash: "h".into() };
        let first = make(core, &as_user(core, "jan").await, wish(None, None)).await.unwrap();
        let who = caller_of(core, &first.secret).await.in_request("r", Some(key));
        let made = make(core, &who, wish(None, None)).await.unwrap();
        // Asked again with the same key, it is not made again, and the secret is not to be had again.
        let problem = refused(make(core, &who, wish(None, None)).await, Code::Conflict);
        assert!(problem.title.contains(&made.token.id.to_string()), "{problem:?}");
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM token").await, 2);
        let mut tx = core.db.read().await.unwrap();
        let mut stored = String::new();
        for text in [
            "SELECT hash || name || scopes AS all_of_it FROM token",
            "SELECT detail || object || actor AS all_of_it FROM journal",
            "SELECT COALESCE(answer, '') || request_hash AS all_of_it FROM idempotency",
            "SELECT COALESCE(password, '') || full_name AS all_of_it FROM account",
        ] {
            for row in tx.rows(sql(text)).await.unwrap() {
                stored += &row.text("all_of_it").unwrap();
            }
        }
        assert!(stored.contains("$argon2id$") && stored.contains(&made.token.id.to_string()));
        for secret in [PASSWORD, &first.secret, &made.secret, &made.secret[4..32]] {
            assert!(!stored.contains(secret));
        }
    })
    .await;
}
