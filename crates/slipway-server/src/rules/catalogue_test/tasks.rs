use super::{bytes_of, count, each, image_add, image_ref, meddle, push, refused, work};
use crate::core::Caller;
use crate::db::{TxError, sql, tx};
use crate::rules::finding::finding_report;
use crate::rules::task::{
    Hold, TaskEnd, check_request, prune_request, task_cancel, task_claim, task_create, task_finish, task_get,
    task_list, task_step,
};
use serde_json::json;
use slipway_api::{
    CheckRequest, CheckResult, Code, FindingReport, PageQuery, Problem, PruneRequest, TaskKind, TaskState, VersionPick,
};
use std::collections::HashSet;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_workers_claim_fifty_tasks_and_none_twice() {
    each(async |bench| {
        let core = &bench.core;
        let made: Result<(), TxError> = tx!(&core.db, &Caller::server(), |tx| {
            for n in 0..50 {
                task_create(tx, &Caller::server(), TaskKind::Digest, "store", &json!({ "n": n })).await?;
            }
            Ok(())
        });
        made.unwrap();
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let core = core.clone();
                tokio::spawn(async move {
                    let mut mine = Vec::new();
                    let mut idle = 0;
                    while idle < 3 {
                        match task_claim(&core, TaskKind::Digest).await.unwrap() {
                            Some(task) => mine.push(task.id),
                            // Others may hold rows locked for a moment.
                            None => idle += 1,
                        }
                    }
                    mine
                })
            })
            .collect();
        let mut claimed = Vec::new();
        for worker in workers {
            claimed.extend(worker.await.unwrap());
        }
        assert_eq!((claimed.len(), claimed.iter().collect::<HashSet<_>>().len()), (50, 50));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_lease_gives_the_task_to_another() {
    each(async |bench| {
        let core = &bench.core;
        let task =
            prune_request(core, &bench.admin, PruneRequest { dry_run: true, ..PruneRequest::default() }).await.unwrap();
        let first = task_claim(core, TaskKind::Prune).await.unwrap().unwrap();
        assert_eq!((first.id, first.attempt), (task.id, 1));
        assert_eq!(task_step(core, &first, "marking", 5, 10).await.unwrap(), Hold::Kept);
        let seen = task_get(core, &bench.admin, &task.id).await.unwrap();
        assert_eq!(
            (seen.state, seen.step.as_str(), seen.bytes_done, seen.bytes_total),
            (TaskState::Running, "marking", 5, Some(10))
        );
        assert!(task_claim(core, TaskKind::Prune).await.unwrap().is_none());
        meddle(core, sql("UPDATE task SET lease_until = 1")).await;
        let second = task_claim(core, TaskKind::Prune).await.unwrap().unwrap();
        assert!(second.fence > first.fence && second.attempt == 2);
        assert_eq!(task_step(core, &first, "marking", 9, 10).await.unwrap(), Hold::Lost);
        assert!(!task_finish(core, &first, &TaskEnd::Done(json!({ "by": "first" }))).await.unwrap());
        assert!(task_finish(core, &second, &TaskEnd::Done(json!({ "by": "second" }))).await.unwrap());
        let seen = task_get(core, &bench.admin, &task.id).await.unwrap();
        assert_eq!((seen.state, seen.result.unwrap()["by"].as_str()), (TaskState::Done, Some("second")));
        assert!(!task_finish(core, &second, &TaskEnd::Cancelled).await.unwrap(), "an end is an end");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_fail_are_tried_again_but_not_for_ever() {
    each(async |bench| {
        let core = &bench.core;
        let task =
            prune_request(core, &bench.admin, PruneRequest { dry_run: true, ..PruneRequest::default() }).await.unwrap();
        let claimed = task_claim(core, TaskKind::Prune).await.unwrap().unwrap();
        let again = TaskEnd::Again(Problem::new(Code::Unavailable, "not now"), Duration::from_secs(60));
        task_finish(core, &claimed, &again).await.unwrap();
        assert!(task_claim(core, TaskKind::Prune).await.unwrap().is_none(), "it waits");
        meddle(core, sql("UPDATE task SET not_before = 0")).await;
        let claimed = task_claim(core, TaskKind::Prune).await.unwrap().unwrap();
        task_finish(core, &claimed, &TaskEnd::Released).await.unwrap();
        assert_eq!(
            task_get(core, &bench.admin, &task.id).await.unwrap().attempt,
            1,
            "a stop of the server does not count"
        );
        meddle(core, sql("UPDATE task SET attempt = 5")).await;
        work(core).await;
        let seen = task_get(core, &bench.admin, &task.id).await.unwrap();
        assert_eq!((seen.state, seen.error.unwrap().code), (TaskState::Failed, Code::Internal));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_see_and_cancel_a_task() {
    each(async |bench| {
        let core = &bench.core;
        refused(prune_request(core, &bench.jan, PruneRequest::default()).await, Code::Forbidden);
        refused(check_request(core, &bench.jan, CheckRequest::default()).await, Code::Forbidden);
        let task =
            prune_request(core, &bench.admin, PruneRequest { dry_run: true, ..PruneRequest::default() }).await.unwrap();
        refused(task_get(core, &bench.jan, &task.id).await, Code::NotFound);
        refused(task_cancel(core, &bench.jan, &task.id).await, Code::NotFound);
        assert!(task_list(core, &bench.jan, &PageQuery::default()).await.unwrap().items.is_empty());
        task_cancel(core, &bench.admin, &task.id).await.unwrap();
        work(core).await;
        let seen = task_get(core, &bench.admin, &task.id).await.unwrap();
        assert_eq!((seen.state, seen.result), (TaskState::Cancelled, None));
        refused(task_cancel(core, &bench.admin, &task.id).await, Code::Conflict);
        let ivo = super::user_add(core, "ivo", slipway_api::Role::Moderator).await;
        let done =
            prune_request(core, &bench.admin, PruneRequest { dry_run: true, ..PruneRequest::default() }).await.unwrap();
        work(core).await;
        let whole = task_get(core, &bench.admin, &done.id).await.unwrap();
        assert!(whole.result.is_some() && whole.object == "store");
        let outline = task_get(core, &ivo, &done.id).await.unwrap();
        assert_eq!((outline.state, outline.finished_at), (whole.state, whole.finished_at));
        let listed = task_list(core, &ivo, &PageQuery::default()).await.unwrap().items;
        for task in [&outline].into_iter().chain(&listed) {
            assert!(task.result.is_none() && task.error.is_none(), "{task:?}");
            assert_eq!((task.object.as_str(), task.created_by.as_str()), ("", ""));
        }
        meddle(core, sql("DELETE FROM task WHERE id = $1").bind(done.id)).await;
        for _ in 0..3 {
            prune_request(core, &bench.admin, PruneRequest { dry_run: true, ..PruneRequest::default() }).await.unwrap();
        }
        let first = task_list(core, &bench.admin, &PageQuery { limit: Some(3), ..PageQuery::default() }).await.unwrap();
        let query = PageQuery { limit: Some(3), cursor: first.next.clone(), ..PageQuery::default() };
        let second = task_list(core, &bench.admin, &query).await.unwrap();
        assert_eq!((first.items.len(), second.items.len(), second.items[0].id), (3, 1, task.id), "newest first");
        let running =
            prune_request(core, &bench.admin, PruneRequest { dry_run: true, ..PruneRequest::default() }).await.unwrap();
        let claimed = task_claim(core, TaskKind::Prune).await.unwrap().unwrap();
        task_cancel(core, &bench.admin, &claimed.id).await.unwrap();
        assert_eq!(task_step(core, &claimed, "marking", 0, 0).await.unwrap(), Hold::Cancelled);
        assert_ne!(running.id, claimed.id, "the oldest first");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_names_the_versions_that_are_hurt() {
    each(async |bench| {
        let core = &bench.core;
        for name in ["jan/hurt", "jan/well"] {
            image_add(core, &bench.jan, name).await;
        }
        push(core, &bench.jan, "jan/hurt", bytes_of(1, 16)).await;
        let packs = || {
            let mut found = Vec::new();
            let mut folders = vec![bench.folder.path().join("blobs")];
            while let Some(folder) = folders.pop() {
                for entry in std::fs::read_dir(folder).unwrap() {
                    let path = entry.unwrap().path();
                    match path.is_dir() {
                        true => folders.push(path),
                        false if path.to_string_lossy().contains("packs") => found.push(path),
                        false => {}
                    }
                }
            }
            found
        };
        let before = packs();
        assert_eq!(before.len(), 1);
        push(core, &bench.jan, "jan/well", bytes_of(2, 16)).await;
        let check = async || {
            let task = check_request(core, &bench.admin, CheckRequest { quick: false, repair: false }).await.unwrap();
            work(core).await;
            let task = task_get(core, &bench.admin, &task.id).await.unwrap();
            assert_eq!(task.state, TaskState::Done, "{task:?}");
            serde_json::from_value::<CheckResult>(task.result.unwrap()).unwrap()
        };
        let clean = check().await;
        assert!(clean.clean && clean.versions == 2, "{clean:?}");
        let mut bytes = std::fs::read(&before[0]).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&before[0], bytes).unwrap();
        let hurt = check().await;
        assert!(!hurt.clean && hurt.versions == 1, "{hurt:?}");
        let named: HashSet<&String> = hurt.findings.iter().flat_map(|finding| &finding.versions).collect();
        assert_eq!(named, HashSet::from([&"jan/hurt:0".to_owned()]), "{hurt:?}");
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM version").await, 2);
        let _ = image_ref("jan/hurt");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finding_reads_its_one_pack_once() {
    each(async |bench| {
        let core = &bench.core;
        for (name, seed) in [("jan/one", 1), ("jan/two", 2)] {
            image_add(core, &bench.jan, name).await;
            push(core, &bench.jan, name, bytes_of(seed, 16)).await;
        }
        let mut tx = core.db.read().await.unwrap();
        let packs = tx.rows(sql("SELECT id, len FROM blob WHERE kind = 'pack' ORDER BY rev")).await.unwrap();
        drop(tx);
        let report = async |who: &Caller, name: &str, pack: String| {
            let report = FindingReport { chunk: "0".repeat(64), pack };
            finding_report(core, who, &image_ref(name), &VersionPick::Latest, report).await
        };
        let (first, second) = (packs[0].text("id").unwrap(), packs[1].text("id").unwrap());
        refused(report(&bench.eva, "jan/one", first.clone()).await, Code::NotFound);
        refused(report(&bench.jan, "jan/one", "0".repeat(32)).await, Code::NotFound);
        let task = report(&bench.jan, "jan/one", first.clone()).await.unwrap();
        assert_eq!(report(&bench.jan, "jan/one", first.clone()).await.unwrap().id, task.id);
        assert_ne!(report(&bench.jan, "jan/two", second).await.unwrap().id, task.id);
        work(core).await;
        let over = report(&bench.jan, "jan/one", first.clone()).await.unwrap();
        assert_eq!((over.id, over.state, over.result), (task.id, TaskState::Done, None), "it was looked at just now");
        let seen = task_get(core, &bench.admin, &task.id).await.unwrap();
        let result: CheckResult = serde_json::from_value(seen.result.unwrap()).unwrap();
        assert_eq!((result.clean, result.blobs, result.bytes_read), (true, 1, packs[0].size("len").unwrap()));
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM task WHERE kind = 'check'").await, 2);
        meddle(core, sql("UPDATE task SET created_at = created_at - 3600001")).await;
        assert_ne!(
            report(&bench.jan, "jan/one", first).await.unwrap().id,
            task.id,
            "an hour later it is looked at again"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_wake_for_a_task_and_stop_when_asked() {
    each(async |bench| {
        let core = &bench.core;
        let workers = crate::workers::workers_start(core);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let began = std::time::Instant::now();
        let task =
            prune_request(core, &bench.admin, PruneRequest { dry_run: true, ..PruneRequest::default() }).await.unwrap();
        while !task_get(core, &bench.admin, &task.id).await.unwrap().state.is_final() {
            assert!(
                began.elapsed() < Duration::from_secs(10),
                "a worker looks by itself only every 30 s, so the nudge was lost"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(task_get(core, &bench.admin, &task.id).await.unwrap().state, TaskState::Done);
        let began = std::time::Instant::now();
        workers.stop(Duration::from_secs(10)).await;
        assert!(began.elapsed() < Duration::from_secs(5));
    })
    .await;
}
