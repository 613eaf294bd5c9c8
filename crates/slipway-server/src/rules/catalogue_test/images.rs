use super::{bytes_of, count, each, image_add, image_new, image_ref, meddle, push, refused, trash_age, verbs, work};
use crate::core::{Caller, Idempotency};
use crate::db::sql;
use crate::rules::image::{image_change, image_create, image_get, image_list, image_restore, image_trash};
use crate::rules::journal::journal_list;
use crate::scope::Scopes;
use slipway_api::{Code, ImageChange, ImageNew, ImageQuery, PageQuery, Scope};

fn scoped(who: &Caller, scope: &str) -> Caller {
    let mut who = who.clone();
    who.scopes = Scopes::parse(&[Scope(scope.into())], who.actor()).unwrap();
    who
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_are_made_or_refused() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "jan/taken").await;
        for (who, new, code) in [
            (&bench.jan, image_new("me/os"), None),
            (&bench.jan, image_new("jan/os2"), None),
            (&bench.admin, image_new("eva/gift"), None),
            (&bench.admin, image_new("system/debian"), None),
            (&bench.jan, image_new("me/taken"), Some(Code::NameTaken)),
            (&bench.jan, image_new("eva/os"), Some(Code::Forbidden)),
            (&bench.jan, image_new("system/os"), Some(Code::Forbidden)),
            (&bench.jan, image_new("nobody/os"), Some(Code::Forbidden)),
            (&bench.admin, image_new("nobody/os"), Some(Code::NotFound)),
            (&Caller::nobody(), image_new("jan/os3"), Some(Code::Unauthenticated)),
            (&bench.jan, image_new("os"), Some(Code::InvalidName)),
            (&bench.jan, image_new("me/../x"), Some(Code::InvalidName)),
            (&bench.jan, image_new("me/o\u{202e}s"), Some(Code::InvalidName)),
            (&bench.jan, image_new("me/os:1"), Some(Code::InvalidName)),
            (&bench.jan, ImageNew { title: Some("a\nb".into()), ..image_new("me/t") }, Some(Code::InvalidRequest)),
            (&bench.jan, ImageNew { compression: Some("lz4".into()), ..image_new("me/t") }, Some(Code::InvalidRequest)),
            (&bench.jan, ImageNew { associated: vec!["x".into()], ..image_new("me/t") }, Some(Code::InvalidName)),
        ] {
            let text = new.reference.clone();
            match (image_create(core, who, new).await, code) {
                (Ok(_), None) => {}
                (Ok(_), Some(code)) => panic!("{text} was made, {code:?} was expected"),
                (Err(problem), expected) => assert_eq!(Some(problem.code), expected, "{text}: {problem:?}"),
            }
        }
        let made = image_get(core, &bench.jan, &image_ref("me/os"), &ImageQuery::default()).await.unwrap();
        assert_eq!((made.reference.as_str(), made.title.as_str(), made.revision), ("jan/os", "os", 1));
        assert_eq!((made.latest, made.versions.unwrap().len()), (None, 0));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_seen_is_missing() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "jan/os").await;
        image_add(core, &bench.admin, "system/debian").await;
        let scoped = scoped(&bench.jan, "image:read:jan/other");
        for (who, text, code) in [
            (&bench.jan, "jan/os", None),
            (&bench.admin, "jan/os", None),
            (&bench.eva, "system/debian", None),
            (&bench.eva, "jan/os", Some(Code::NotFound)),
            (&bench.eva, "jan/none", Some(Code::NotFound)),
            (&bench.eva, "none/none", Some(Code::NotFound)),
            (&scoped, "jan/os", Some(Code::Forbidden)),
            (&Caller::nobody(), "jan/os", Some(Code::Unauthenticated)),
        ] {
            let got = image_get(core, who, &image_ref(text), &ImageQuery::default()).await;
            assert_eq!(got.as_ref().err().map(|problem| problem.code), code, "{text}: {got:?}");
        }
        let unseen =
            refused(image_get(core, &bench.eva, &image_ref("jan/os"), &ImageQuery::default()).await, Code::NotFound);
        let absent =
            refused(image_get(core, &bench.eva, &image_ref("jan/no"), &ImageQuery::default()).await, Code::NotFound);
        assert_eq!(unseen.title.replace("jan/os", "jan/no"), absent.title);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_hold_what_may_be_read_page_by_page() {
    each(async |bench| {
        let core = &bench.core;
        for n in 0..5 {
            image_add(core, &bench.jan, &format!("jan/os-{n}")).await;
        }
        image_add(core, &bench.eva, "eva/mine").await;
        image_add(core, &bench.admin, "system/debian").await;
        let all = async |who: &Caller, query: PageQuery| {
            let mut query = PageQuery { limit: Some(2), ..query };
            let mut names = Vec::new();
            loop {
                let page = image_list(core, who, &query).await.unwrap();
                assert!(page.items.len() <= 2);
                names.extend(page.items.into_iter().map(|image| image.reference));
                match page.next {
                    Some(next) => query.cursor = Some(next),
                    None => return names,
                }
            }
        };
        let of_jan = ["jan/os-0", "jan/os-1", "jan/os-2", "jan/os-3", "jan/os-4"];
        assert_eq!(all(&bench.jan, PageQuery::default()).await, [&of_jan[..], &["system/debian"]].concat());
        assert_eq!(all(&bench.eva, PageQuery::default()).await, ["eva/mine", "system/debian"]);
        assert_eq!(all(&bench.admin, PageQuery::default()).await.len(), 7);
        assert_eq!(all(&bench.jan, PageQuery { owner: Some("me".into()), ..PageQuery::default() }).await, of_jan);
        assert_eq!(all(&bench.jan, PageQuery { q: Some("OS-3".into()), ..PageQuery::default() }).await, ["jan/os-3"]);
        assert!(all(&bench.jan, PageQuery { q: Some("%".into()), ..PageQuery::default() }).await.is_empty());
        let scoped = scoped(&bench.jan, "image:read:jan/os-4");
        assert_eq!(all(&scoped, PageQuery::default()).await, ["jan/os-4"]);
        refused(
            image_list(core, &bench.jan, &PageQuery { cursor: Some("x".into()), ..PageQuery::default() }).await,
            Code::InvalidRequest,
        );
        refused(image_list(core, &Caller::nobody(), &PageQuery::default()).await, Code::Unauthenticated);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_counts_and_a_stale_one_is_refused() {
    each(async |bench| {
        let core = &bench.core;
        let made = image_add(core, &bench.jan, "jan/os").await;
        image_add(core, &bench.jan, "jan/other").await;
        let change =
            ImageChange { slug: Some("renamed".parse().unwrap()), title: Some("New".into()), ..ImageChange::default() };
        let stale = image_change(core, &bench.jan, &image_ref("jan/os"), change.clone(), Some(made.revision + 1)).await;
        refused(stale, Code::PreconditionFailed);
        let changed = image_change(core, &bench.jan, &image_ref("jan/os"), change, Some(made.revision)).await.unwrap();
        assert_eq!((changed.id, changed.reference.as_str(), changed.title.as_str()), (made.id, "jan/renamed", "New"));
        assert_eq!(changed.revision, made.revision + 1);
        refused(image_get(core, &bench.jan, &image_ref("jan/os"), &ImageQuery::default()).await, Code::NotFound);
        let clash = ImageChange { slug: Some("other".parse().unwrap()), ..ImageChange::default() };
        refused(image_change(core, &bench.jan, &image_ref("jan/renamed"), clash, None).await, Code::NameTaken);
        let read_back = image_get(core, &bench.jan, &image_ref("jan/renamed"), &ImageQuery::default()).await.unwrap();
        assert_eq!(read_back.revision, changed.revision);
        refused(
            image_change(core, &bench.eva, &image_ref("jan/renamed"), ImageChange::default(), None).await,
            Code::NotFound,
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trash_keeps_the_name_until_the_grace_is_over() {
    each(async |bench| {
        let core = &bench.core;
        let os = image_ref("jan/os");
        let first = image_add(core, &bench.jan, "jan/os").await;
        push(core, &bench.jan, "jan/os", bytes_of(1, 4)).await;
        refused(image_trash(core, &bench.eva, &os, None).await, Code::NotFound);
        image_trash(core, &bench.jan, &os, None).await.unwrap();
        refused(image_create(core, &bench.jan, image_new("jan/os")).await, Code::NameTaken);
        let listed = |trash| PageQuery { trash, ..PageQuery::default() };
        assert!(image_list(core, &bench.jan, &listed(false)).await.unwrap().items.is_empty());
        assert_eq!(image_list(core, &bench.jan, &listed(true)).await.unwrap().items.len(), 1);
        let back = image_restore(core, &bench.jan, &os).await.unwrap();
        assert_eq!((back.id, back.trashed_at, back.latest), (first.id, None, Some(0)));
        image_trash(core, &bench.jan, &os, None).await.unwrap();
        work(core).await;
        image_restore(core, &bench.jan, &os).await.unwrap();
        image_trash(core, &bench.jan, &os, None).await.unwrap();
        trash_age(core).await;
        work(core).await;
        refused(image_restore(core, &bench.jan, &os).await, Code::NotFound);
        let second = image_add(core, &bench.jan, "jan/os").await;
        assert_ne!(second.id, first.id);
        assert!(verbs(core).await.contains(&"image_expire".to_owned()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_makes_one_image() {
    each(async |bench| {
        let core = &bench.core;
        let ask = |key: &str, hash: &str| {
            bench.jan.clone().in_request("r", Some(Idempotency { key: key.into(), request_hash: hash.into() }))
        };
        let first = image_create(core, &ask("k", "h"), image_new("jan/os")).await.unwrap();
        let again = image_create(core, &ask("k", "h"), image_new("jan/os")).await.unwrap();
        assert_eq!(first, again);
        refused(image_create(core, &ask("k", "other"), image_new("jan/os2")).await, Code::IdempotencyMismatch);
        refused(image_create(core, &ask("k2", "h"), image_new("jan/os")).await, Code::NameTaken);
        // What was refused took no key.
        let fixed = image_create(core, &ask("k2", "h2"), image_new("jan/os2")).await.unwrap();
        assert_eq!(fixed.reference, "jan/os2");
        let (a, b) = (ask("k3", "h"), ask("k3", "h"));
        let (a, b) =
            tokio::join!(image_create(core, &a, image_new("jan/os3")), image_create(core, &b, image_new("jan/os3")));
        assert_eq!(a.unwrap().id, b.unwrap().id);
        meddle(core, sql("UPDATE idempotency SET created_at = created_at - 691200000")).await;
        work(core).await;
        refused(image_create(core, &ask("k", "h"), image_new("jan/os")).await, Code::NameTaken);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_has_every_change_in_order() {
    each(async |bench| {
        let core = &bench.core;
        refused(journal_list(core, &bench.jan, 0, None).await, Code::Forbidden);
        let makers = (0..8).map(|n| {
            let (core, who) = (core.clone(), bench.jan.clone());
            tokio::spawn(async move { image_add(&core, &who, &format!("jan/os-{n}")).await })
        });
        let makers: Vec<_> = makers.collect();
        // Whoever reads meanwhile sees no gap that is filled later: the order of numbers is the order of commits.
        while makers.iter().any(|maker| !maker.is_finished()) {
            assert_eq!(count(core, "SELECT COUNT(*) - MAX(number) AS n FROM journal").await, 0);
        }
        for maker in makers {
            maker.await.unwrap();
        }
        let lines = journal_list(core, &bench.admin, 0, None).await.unwrap().items;
        let numbers: Vec<u64> = lines.iter().map(|line| line.number).collect();
        assert_eq!(numbers, (1..=lines.len() as u64).collect::<Vec<_>>(), "no gap and no number twice");
        let made: Vec<_> = lines.iter().filter(|line| line.verb == "image_create").collect();
        assert_eq!(made.len(), 8);
        assert!(made.iter().all(|line| line.actor == "jan" && line.token == bench.jan.token));
        let page = journal_list(core, &bench.admin, 3, Some(2)).await.unwrap();
        assert_eq!((page.items[0].number, page.next.as_deref()), (4, Some("5")));
    })
    .await;
}
