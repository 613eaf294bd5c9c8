use super::{Bench, bytes_of, count, each, image_add, image_ref, number, pull, push, trash_age, work};
use crate::rules::channel::channel_set;
use crate::rules::task::{prune_request, task_get};
use crate::rules::version::{version_change, version_restore, version_trash};
use slipway_api::{ChannelSet, PruneRequest, PruneResult, TaskState, VersionChange};

pub(super) async fn prune(bench: &Bench, dry_run: bool) -> PruneResult {
    let task =
        prune_request(&bench.core, &bench.admin, PruneRequest { dry_run, ..PruneRequest::default() }).await.unwrap();
    work(&bench.core).await;
    let task = task_get(&bench.core, &bench.admin, &task.id).await.unwrap();
    assert_eq!(task.state, TaskState::Done, "{task:?}");
    let result: PruneResult = serde_json::from_value(task.result.unwrap()).unwrap();
    assert_eq!(result.dry_run, dry_run);
    result
}

/// The numbers that a dry run and the real thing must have in common.
fn numbers(result: &PruneResult) -> [u64; 7] {
    [
        result.versions_expired,
        result.packs_doomed,
        result.packs_rewritten,
        result.packs_deleted,
        result.documents_deleted,
        result.bytes_freed,
        result.bytes_doomed,
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prune_takes_what_expired_and_nothing_else() {
    each(async |bench| {
        let (core, os) = (&bench.core, image_ref("jan/os"));
        image_add(core, &bench.jan, "jan/os").await;
        let contents: Vec<Vec<u8>> = (0..5).map(|seed| bytes_of(seed + 20, 32)).collect();
        for bytes in &contents {
            push(core, &bench.jan, "jan/os", bytes.clone()).await;
        }
        channel_set(core, &bench.jan, &os, &"stable".parse().unwrap(), ChannelSet { version: 0 }).await.unwrap();
        let protect = VersionChange { message: None, protected: Some(true) };
        version_change(core, &bench.jan, &os, &number(1), protect).await.unwrap();
        for n in [0, 1, 2, 3] {
            let pinned = version_trash(core, &bench.jan, &os, &number(n)).await.is_err();
            assert_eq!(pinned, n < 2);
        }
        version_restore(core, &bench.jan, &os, 3).await.unwrap();
        // In the trash is not gone.
        assert_eq!(numbers(&prune(&bench, false).await), [0; 7]);
        version_restore(core, &bench.jan, &os, 2).await.unwrap();
        assert_eq!(pull(core, &bench.jan, "jan/os", number(2)).await.unwrap(), contents[2]);
        version_trash(core, &bench.jan, &os, &number(2)).await.unwrap();
        trash_age(core).await;
        // A dry run says what will be done and does nothing, before and after the version's rows are gone.
        let plan = numbers(&prune(&bench, true).await);
        // The worker that clears away ran beside it, so the versions may have expired already; their bytes are doomed either way.
        let done = numbers(&prune(&bench, false).await);
        assert_eq!(plan[1..], done[1..]);
        assert!(done[1] >= 1 && done[6] > 0, "{done:?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        let plan = numbers(&prune(&bench, true).await);
        let done = numbers(&prune(&bench, false).await);
        assert_eq!(plan, done);
        assert!(done[3] >= 1 && done[5] > 0, "{done:?}");
        assert_eq!(numbers(&prune(&bench, false).await), [0; 7]);
        for n in [0, 1, 3, 4] {
            assert_eq!(pull(core, &bench.jan, "jan/os", number(n)).await.unwrap(), contents[n as usize], "version {n}");
        }
        assert!(pull(core, &bench.jan, "jan/os", number(2)).await.is_err());
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM content").await, 4);
    })
    .await;
}

/// With the clearing away left out, a dry run leaves the versions that would expire out by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_plans_as_if_the_trash_were_emptied() {
    each(async |bench| {
        let (core, os) = (&bench.core, image_ref("jan/os"));
        image_add(core, &bench.jan, "jan/os").await;
        for seed in 0..2 {
            push(core, &bench.jan, "jan/os", bytes_of(seed + 40, 32)).await;
        }
        version_trash(core, &bench.jan, &os, &number(0)).await.unwrap();
        work(core).await;
        trash_age(core).await;
        let mut results = Vec::new();
        for dry_run in [true, true, false] {
            let task =
                prune_request(core, &bench.admin, PruneRequest { dry_run, ..PruneRequest::default() }).await.unwrap();
            let worker = &crate::workers::prune::Prune;
            crate::workers::Worker::pass(worker, core, &crate::workers::Stop::never()).await.unwrap();
            let task = task_get(core, &bench.admin, &task.id).await.unwrap();
            let result: PruneResult = serde_json::from_value(task.result.unwrap()).unwrap();
            assert!(result.lines.iter().any(|line| line == "version jan/os:0 expires"), "{result:?}");
            let left = count(core, "SELECT COUNT(*) AS n FROM version").await;
            assert_eq!(left, if dry_run { 2 } else { 1 });
            results.push(numbers(&result));
        }
        assert_eq!(results[0], results[2]);
        assert_eq!(results[1], results[2]);
        assert!(results[0][0] == 1 && results[0][1] >= 1, "{results:?}");
    })
    .await;
}

/// Pushes go on while versions expire and prune runs over and over with no grace at all: what was acknowledged reads back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_acknowledged_is_lost_to_a_prune() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "jan/os").await;
        image_add(core, &bench.jan, "jan/gone").await;
        let common = bytes_of(50, 16);
        // What is pushed is half new and half what other versions, soon gone, brought.
        let content = |n: u64| [common.clone(), bytes_of(60 + n / 2, 16)].concat();
        let pusher = {
            let (core, who, contents) = (core.clone(), bench.jan.clone(), (0..12).map(content).collect::<Vec<_>>());
            tokio::spawn(async move {
                let mut kept = Vec::new();
                for bytes in contents {
                    let gone = super::push_new(
                        &core,
                        &who,
                        super::upload_new("jan/gone", slipway_api::UploadFormat::Raw),
                        bytes.clone(),
                    );
                    if let Ok(gone) = gone.await {
                        // One that the newest version already has is not made again.
                        let _ = version_trash(&core, &who, &image_ref("jan/gone"), &number(gone.version.number)).await;
                        trash_age(&core).await;
                    }
                    let new = super::upload_new("jan/os", slipway_api::UploadFormat::Raw);
                    match super::push_new(&core, &who, new, bytes.clone()).await {
                        Ok(done) => kept.push((done.version.number, bytes)),
                        // Prune came between storing and committing; the client would send again.
                        Err(problem) => assert_eq!(problem.code, slipway_api::Code::ChunksGone, "{problem:?}"),
                    }
                }
                kept
            })
        };
        let mut rounds = 0;
        while !pusher.is_finished() || rounds < 3 {
            prune(&bench, false).await;
            rounds += 1;
        }
        let kept = pusher.await.unwrap();
        prune(&bench, false).await;
        assert!(kept.len() >= 6, "{} of 12 pushes were acknowledged", kept.len());
        for (n, bytes) in kept {
            assert!(pull(core, &bench.jan, "jan/os", number(n)).await.unwrap() == bytes, "version {n}");
        }
        let (store, ledger) = (core.store.clone(), core.ledger());
        let spec = slipway_store::CheckSpec { read_data: true, repair: false };
        let report =
            tokio::task::spawn_blocking(move || store.check(&spec, &ledger, &mut |_| {}).unwrap()).await.unwrap();
        assert!(report.is_clean(), "{report:?}");
    })
    .await;
}
