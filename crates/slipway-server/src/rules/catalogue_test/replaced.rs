//! Contents that another took the place of, images made with their zeros, and accounts that are left: every step broken, and the trash's end.

use super::{
    Bench, bytes_of, count, each, image_new, image_ref, meddle, number, pull, push, refused, trash_age, verbs, work,
};
use crate::db::{SqlFault, sql};
use crate::rules::content::content_restore;
use crate::rules::image::image_create;
use crate::rules::image_empty::image_create_empty;
use crate::rules::task::{prune_request, task_get};
use crate::rules::user_leave::user_leave;
use slipway_api::{Code, ImageNew, PruneRequest, PruneResult};
use uuid::Uuid;

async fn single_add(bench: &Bench) {
    let new = ImageNew { versioned: Some(false), ..image_new("jan/one") };
    image_create(&bench.core, &bench.jan, new).await.unwrap();
}

async fn prune(bench: &Bench, dry_run: bool) -> PruneResult {
    let task =
        prune_request(&bench.core, &bench.admin, PruneRequest { dry_run, ..PruneRequest::default() }).await.unwrap();
    let worker = &crate::workers::prune::Prune;
    crate::workers::Worker::pass(worker, &bench.core, &crate::workers::Stop::never()).await.unwrap();
    let task = task_get(&bench.core, &bench.admin, &task.id).await.unwrap();
    serde_json::from_value(task.result.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_content_is_restorable_until_its_time_is_over() {
    each(async |bench| {
        let (core, one) = (&bench.core, image_ref("jan/one"));
        single_add(&bench).await;
        let (first, second) = (bytes_of(1, 32), bytes_of(2, 32));
        let old = push(core, &bench.jan, "jan/one", first.clone()).await;
        let new = push(core, &bench.jan, "jan/one", second.clone()).await;
        assert_eq!((old.version.number, new.version.number), (0, 0));
        work(core).await;
        // Within its time no prune touches it.
        assert_eq!(prune(&bench, false).await.packs_doomed, 0);
        let nobody = Uuid::new_v4();
        refused(content_restore(core, &bench.jan, &one, 0, Some(nobody)).await, Code::NotFound);
        refused(content_restore(core, &bench.eva, &one, 0, Some(old.version.content)).await, Code::NotFound);
        let back = content_restore(core, &bench.jan, &one, 0, None).await.unwrap();
        assert_eq!((back.content, back.root), (old.version.content, old.version.root));
        assert!(pull(core, &bench.jan, "jan/one", number(0)).await.unwrap() == first);
        // Now the other one waits; its time passes.
        meddle(core, sql("UPDATE replaced SET replaced_at = replaced_at - 691200000")).await;
        let plan = prune(&bench, true).await;
        assert!(plan.lines.iter().any(|line| line.contains("was replaced in version jan/one:0 expires")), "{plan:?}");
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM replaced").await, 1, "a dry run does nothing");
        let done = prune(&bench, false).await;
        assert_eq!((plan.packs_doomed, plan.bytes_doomed), (done.packs_doomed, done.bytes_doomed));
        assert!(done.packs_doomed >= 1, "{done:?}");
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM content").await, 1);
        assert!(pull(core, &bench.jan, "jan/one", number(0)).await.unwrap() == first);
        refused(content_restore(core, &bench.jan, &one, 0, Some(new.version.content)).await, Code::NotFound);
        // An image that goes takes its replaced contents with it.
        push(core, &bench.jan, "jan/one", second).await;
        crate::rules::trash::image_trash(core, &bench.jan, &one, None).await.unwrap();
        trash_age(core).await;
        work(core).await;
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM content").await, 0);
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM image").await, 0);
        let verbs = verbs(core).await;
        for verb in ["content_replace", "content_restore", "content_expire", "image_expire"] {
            assert!(verbs.iter().any(|known| known == verb), "{verb} is not in the journal");
        }
    })
    .await;
}

/// Fails every statement in turn, once before and once after it took place: an image has its version 0, or is not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_image_is_made_whole_or_not_at_all() {
    each(async |bench| {
        let core = &bench.core;
        for fault in [SqlFault::Error, SqlFault::Lost] {
            for n in 0.. {
                bench.faults.arm(n, fault);
                let new = ImageNew { title: Some("An image".into()), ..ImageNew::default() };
                let made = image_create_empty(core, &bench.jan, "me", new, 1 << 20).await;
                bench.faults.disarm();
                let images = count(core, "SELECT COUNT(*) AS n FROM image").await;
                let versions = count(core, "SELECT COUNT(*) AS n FROM version").await;
                assert_eq!(images, versions, "after statement {n}");
                if !bench.faults.fired() {
                    made.unwrap();
                    assert!(n > 5, "only {n} statements could fail");
                    break;
                }
            }
        }
    })
    .await;
}

/// The same for a user who leaves: with everything, or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_leaves_with_everything_or_stays_with_everything() {
    each(async |bench| {
        let core = &bench.core;
        for name in ["jan/a", "jan/b"] {
            image_create(core, &bench.jan, image_new(name)).await.unwrap();
            push(core, &bench.jan, name, bytes_of(3, 4)).await;
        }
        for n in 0.. {
            bench.faults.arm(n, SqlFault::Error);
            let left = user_leave(core, &bench.admin, "jan", None).await;
            bench.faults.disarm();
            let here = count(core, "SELECT COUNT(*) AS n FROM account WHERE name = 'jan'").await;
            let live = count(core, "SELECT COUNT(*) AS n FROM image WHERE trashed_at IS NULL").await;
            match left {
                Err(_) => assert_eq!((here, live), (1, 2), "after statement {n}"),
                Ok(()) => {
                    assert!(n > 10, "only {n} statements could fail");
                    assert_eq!((here, live), (0, 0));
                    break;
                }
            }
        }
        // The account's row goes when its last image does.
        work(core).await;
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM account WHERE kind = 'deleted'").await, 1);
        trash_age(core).await;
        work(core).await;
        work(core).await;
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM account WHERE kind = 'deleted'").await, 0);
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM image").await, 0);
    })
    .await;
}
