//! The scrub, findings, verification and digests, as rules and workers do them.

use super::{
    Bench, bytes_of, count, each, image_add, image_ref, meddle, number, pull, push, push_new, refused, upload_new, work,
};
use crate::core::{Caller, Core};
use crate::db::{SqlFault, sql};
use crate::ledger::blob_rows_after;
use crate::rules::finding_row::finding_list;
use crate::rules::scrub::{ScrubSeen, scrub_begin, scrub_get, scrub_pause, scrub_save, scrub_start};
use crate::rules::sharing::sharing_change;
use crate::rules::task::{TaskEnd, check_request, task_cancel, task_claim, task_finish, task_get};
use crate::rules::version::version_get;
use crate::rules::version_care::{version_digest, version_verify};
use crate::workers::expire::expire;
use crate::workers::{Stop, workers};
use slipway_api::{
    CheckRequest, Code, FindingQuery, KnownFinding, ScrubState, SharingChange, Task, TaskKind, TaskState, UploadFormat,
    UploadNew, VerifyResult,
};
use slipway_store::{BlobKind, BlobRow};
use std::path::PathBuf;
use std::sync::Arc;

fn path(bench: &Bench, row: &BlobRow) -> PathBuf {
    bench.folder.path().join("blobs").join(&row.key)
}

async fn blobs(core: &Core, kind: BlobKind) -> Vec<BlobRow> {
    let all = blob_rows_after(core, "", 1000).await.unwrap();
    all.into_iter().filter(|row| row.kind == kind).collect()
}

fn flip(path: &PathBuf, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 8;
    std::fs::write(path, bytes).unwrap();
}

async fn findings(core: &Core, who: &Caller, all: bool) -> Vec<KnownFinding> {
    let query = FindingQuery { all, ..FindingQuery::default() };
    finding_list(core, who, &query).await.unwrap().items
}

async fn scrub_once(core: &Arc<Core>, admin: &Caller) -> Task {
    let status = scrub_start(core, admin).await.unwrap();
    let id = status.task.unwrap();
    work(core).await;
    task_get(core, admin, &id).await.unwrap()
}

/// Sends an image once more, as a version of its own.
async fn push_again(core: &Arc<Core>, who: &Caller, image: &str, bytes: Vec<u8>) -> u64 {
    let new = UploadNew { new: true, ..upload_new(image, UploadFormat::Raw) };
    push_new(core, who, new, bytes).await.unwrap().version.number
}

async fn strangers_refused(bench: &Bench) {
    let core = &bench.core;
    refused(scrub_get(core, &bench.eva).await, Code::Forbidden);
    refused(scrub_start(core, &bench.eva).await, Code::Forbidden);
    refused(finding_list(core, &Caller::nobody(), &FindingQuery::default()).await, Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_pass_finds_what_is_damaged_and_names_the_versions_to_those_who_may_see_them() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "me/os").await;
        image_add(core, &bench.eva, "me/data").await;
        let shared = [bytes_of(1, 300), bytes_of(2, 100)].concat();
        push(core, &bench.jan, "me/os", shared.clone()).await;
        push(core, &bench.jan, "me/os", [shared.clone(), bytes_of(3, 50)].concat()).await;
        push(core, &bench.eva, "me/data", bytes_of(4, 100)).await;
        work(core).await;
        let clean = scrub_once(core, &bench.admin).await;
        assert_eq!((clean.state, findings(core, &bench.admin, true).await), (TaskState::Done, vec![]));
        let status = scrub_get(core, &bench.admin).await.unwrap();
        let last = status.last.unwrap();
        assert_eq!((status.state, status.pass, last.number, last.findings), (ScrubState::Idle, None, 1, 0));
        assert_eq!(
            (last.bytes, last.blobs),
            (status.bytes_total, count(core, "SELECT COUNT(*) AS n FROM blob").await as u64)
        );
        let begin = jiff::Timestamp::now();
        assert!(status.due_at.unwrap() > begin, "a week from now");

        // A frame of jan's first pack, and the whole segment of eva's image.
        let jans = version_get(core, &bench.jan, &image_ref("me/os"), &number(0)).await.unwrap();
        let packs = blobs(core, BlobKind::Pack).await;
        let hurt = packs.iter().find(|row| {
            row.space.as_str().contains(&bench.jan.user.as_ref().unwrap().id.simple().to_string()) && row.len > 1 << 20
        });
        let hurt = hurt.unwrap_or_else(|| panic!("{packs:?} of {jans:?}"));
        flip(&path(&bench, hurt), 5000);
        let evas = bench.eva.user.as_ref().unwrap().id.simple().to_string();
        let segment =
            blobs(core, BlobKind::Segment).await.into_iter().find(|row| row.space.as_str().contains(&evas)).unwrap();
        std::fs::remove_file(path(&bench, &segment)).unwrap();
        assert_eq!(scrub_once(core, &bench.admin).await.state, TaskState::Done);

        let all = findings(core, &bench.admin, false).await;
        let found: Vec<_> =
            all.iter().map(|one| (one.kind.as_str(), one.versions.join(" "), one.repaired.is_some())).collect();
        assert_eq!(found.len(), 2, "{all:#?}");
        assert!(found.contains(&("damaged", "jan/os:0 jan/os:1".into(), true)), "{all:#?}");
        assert!(found.contains(&("missing", "eva/data:0".into(), false)), "{all:#?}");
        let mine = findings(core, &bench.eva, false).await;
        assert_eq!(
            (mine.len(), mine[0].versions.join(" ")),
            (1, "eva/data:0".to_owned()),
            "eva learns nothing of jan's"
        );
        assert_eq!(scrub_get(core, &bench.admin).await.unwrap().findings_open, 2);
        strangers_refused(&bench).await;

        // Sending the image again brings back what was lost; the next pass sees it.
        assert_eq!(push_again(core, &bench.jan, "me/os", shared.clone()).await, 2);
        assert!(pull(core, &bench.jan, "me/os", number(0)).await.unwrap() == shared);
        scrub_once(core, &bench.admin).await;
        let left = findings(core, &bench.admin, false).await;
        assert_eq!((left.len(), left[0].kind.as_str()), (1, "missing"), "{left:#?}");
        assert_eq!(findings(core, &bench.admin, true).await.len(), 2, "what is over is still told to who asks");
        // What is missing may only be away: it is given up by a person's word, and comes back by sending it again.
        let repair = CheckRequest { quick: false, repair: true };
        check_request(core, &bench.admin, repair).await.unwrap();
        work(core).await;
        assert_eq!(findings(core, &bench.admin, false).await[0].versions, ["eva/data:0"]);
        push_again(core, &bench.eva, "me/data", bytes_of(4, 100)).await;
        scrub_once(core, &bench.admin).await;
        let left = findings(core, &bench.admin, false).await;
        assert_eq!(left, vec![], "all is whole");
        assert!(pull(core, &bench.eva, "me/data", number(0)).await.unwrap() == bytes_of(4, 100));
        let state = "SELECT COUNT(*) AS n FROM blob WHERE state = 'quarantined'";
        assert_eq!(count(core, state).await, 2, "the damaged one, and the row of the missing one");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_goes_on_where_it_was_and_only_one_worker_writes_its_place() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "me/os").await;
        for seed in 0..4 {
            push(core, &bench.jan, "me/os", bytes_of(seed, 40)).await;
        }
        work(core).await;
        scrub_start(core, &bench.admin).await.unwrap();
        let again = scrub_start(core, &bench.admin).await.unwrap();
        assert_eq!(
            (again.state, count(core, "SELECT COUNT(*) AS n FROM task WHERE kind = 'scrub'").await),
            (ScrubState::Waiting, 1)
        );
        let first = task_claim(core, TaskKind::Scrub).await.unwrap().unwrap();
        assert_eq!(scrub_get(core, &bench.admin).await.unwrap().state, ScrubState::Running);
        let at = scrub_begin(core, &first).await.unwrap().unwrap();
        assert_eq!((at.cursor.as_str(), at.blobs), ("", 0));
        let rows = blob_rows_after(core, "", 3).await.unwrap();
        let seen = |n: usize| ScrubSeen {
            cursor: rows[n].id.to_string(),
            blobs: n as u64 + 1,
            bytes: 100,
            ..ScrubSeen::default()
        };
        assert!(scrub_save(core, &first, &seen(1)).await.unwrap());
        // Its server is gone: another takes over, and the first one's word counts no more.
        meddle(core, sql("UPDATE task SET lease_until = 1")).await;
        let second = task_claim(core, TaskKind::Scrub).await.unwrap().unwrap();
        assert!(!scrub_save(core, &first, &seen(2)).await.unwrap());
        assert!(scrub_begin(core, &first).await.unwrap().is_none());
        let at = scrub_begin(core, &second).await.unwrap().unwrap();
        assert_eq!((at.cursor.clone(), at.blobs, at.bytes), (rows[1].id.to_string(), 2, 100));
        task_finish(core, &second, &TaskEnd::Released).await.unwrap();
        work(core).await;
        let last = scrub_get(core, &bench.admin).await.unwrap().last.unwrap();
        let all = count(core, "SELECT COUNT(*) AS n FROM blob").await as u64;
        assert_eq!((last.number, last.blobs), (1, all), "each blob once");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_comes_by_itself_and_stays_paused() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "me/os").await;
        push(core, &bench.jan, "me/os", bytes_of(1, 40)).await;
        work(core).await;
        let scrubs = "SELECT COUNT(*) AS n FROM task WHERE kind = 'scrub'";
        expire(core).await.unwrap();
        assert_eq!(count(core, scrubs).await, 0, "not before a week");
        meddle(core, sql("UPDATE journal SET at = at - 691200000")).await;
        expire(core).await.unwrap();
        expire(core).await.unwrap();
        assert_eq!(count(core, scrubs).await, 1);
        let paused = scrub_pause(core, &bench.admin).await.unwrap();
        assert_eq!((paused.state, paused.task), (ScrubState::Paused, None));
        work(core).await;
        expire(core).await.unwrap();
        assert_eq!((count(core, scrubs).await, scrub_get(core, &bench.admin).await.unwrap().last), (1, None));
        let status = scrub_start(core, &bench.admin).await.unwrap();
        assert_eq!(status.state, ScrubState::Waiting);
        work(core).await;
        let status = scrub_get(core, &bench.admin).await.unwrap();
        assert_eq!((status.state, status.last.unwrap().number), (ScrubState::Idle, 1));
        // Who cancels the task means the scrub.
        let task = scrub_start(core, &bench.admin).await.unwrap().task.unwrap();
        task_cancel(core, &bench.admin, &task).await.unwrap();
        work(core).await;
        assert_eq!(scrub_get(core, &bench.admin).await.unwrap().state, ScrubState::Paused);
        assert_eq!(task_get(core, &bench.admin, &task).await.unwrap().state, TaskState::Cancelled);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_reader_meets_and_what_a_check_sees_is_one_list() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "me/os").await;
        let bytes = bytes_of(1, 60);
        push(core, &bench.jan, "me/os", bytes.clone()).await;
        work(core).await;
        let pack = blobs(core, BlobKind::Pack).await.remove(0);
        let good = std::fs::read(path(&bench, &pack)).unwrap();
        flip(&path(&bench, &pack), 3000);
        let check = async |quick: bool, repair: bool| {
            let task = check_request(core, &bench.admin, CheckRequest { quick, repair }).await.unwrap();
            work(core).await;
            assert_eq!(task_get(core, &bench.admin, &task.id).await.unwrap().state, TaskState::Done);
        };
        check(true, false).await;
        assert_eq!(findings(core, &bench.admin, true).await.len(), 0, "who does not read sees nothing");
        check(false, false).await;
        let open = findings(core, &bench.admin, false).await;
        assert_eq!(
            (open.len(), open[0].source.as_str(), open[0].versions.join(" ")),
            (2, "check", "jan/os:0".to_owned()),
            "{open:#?}"
        );
        check(true, false).await;
        assert_eq!(findings(core, &bench.admin, false).await.len(), 2, "a quick look ends nothing");
        std::fs::write(path(&bench, &pack), &good).unwrap();
        check(false, false).await;
        assert_eq!(findings(core, &bench.admin, false).await, vec![], "it is whole again");
        // The same damage once more, met by a verification: the same object, open again, looked at and put aside.
        flip(&path(&bench, &pack), 3000);
        let task = version_verify(core, &bench.jan, &image_ref("me/os"), &number(0)).await.unwrap();
        work(core).await;
        let done = task_get(core, &bench.jan, &task.id).await.unwrap();
        let result: VerifyResult = serde_json::from_value(done.result.unwrap()).unwrap();
        assert!(!result.whole && result.bad_bytes > 0 && result.bad[0].offset < bytes.len() as u64, "{result:?}");
        assert_eq!((result.digest, result.bad_bytes + result.read_bytes), (None, bytes.len() as u64));
        let open = findings(core, &bench.jan, false).await;
        assert!(open.iter().any(|one| one.repaired.is_some() && one.versions == ["jan/os:0"]), "{open:#?}");
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM blob WHERE state = 'quarantined'").await, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_read_a_version_may_have_it_verified_and_who_may_change_it_digested() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "me/os").await;
        let bytes = bytes_of(5, 60);
        push(core, &bench.jan, "me/os", bytes.clone()).await;
        work(core).await;
        let os = image_ref("jan/os");
        refused(version_verify(core, &bench.eva, &os, &number(0)).await, Code::NotFound);
        refused(version_digest(core, &bench.eva, &os, &number(0)).await, Code::NotFound);
        let share = SharingChange { add: vec!["eva".parse().unwrap()], ..SharingChange::default() };
        sharing_change(core, &bench.jan, &os, share, None).await.unwrap();
        work(core).await;
        refused(version_digest(core, &bench.eva, &os, &number(0)).await, Code::Forbidden);
        let task = version_verify(core, &bench.eva, &os, &number(0)).await.unwrap();
        let twice = version_verify(core, &bench.eva, &os, &number(0)).await.unwrap();
        assert_eq!(task.id, twice.id, "one that waits is enough");
        work(core).await;
        let done = task_get(core, &bench.eva, &task.id).await.unwrap();
        let result: VerifyResult = serde_json::from_value(done.result.unwrap()).unwrap();
        assert_eq!(result.digest.unwrap().to_string(), blake3::hash(&bytes).to_string());
        assert_eq!(
            (result.whole, result.read_bytes, result.reference.as_str()),
            (true, bytes.len() as u64, "jan/os:0")
        );
        // A digest that is kept and is not that of the bytes.
        meddle(core, sql("UPDATE content SET sha256 = 'ff'")).await;
        let task = version_verify(core, &bench.jan, &os, &number(0)).await.unwrap();
        work(core).await;
        let done = task_get(core, &bench.jan, &task.id).await.unwrap();
        let result: VerifyResult = serde_json::from_value(done.result.unwrap()).unwrap();
        assert_eq!((result.whole, result.bad_bytes, result.mismatches.len()), (false, 0, 1), "{result:?}");
        let open = findings(core, &bench.jan, false).await;
        assert_eq!(
            (open.len(), open[0].kind.as_str(), open[0].versions.join(" ")),
            (1, "mismatch", "jan/os:0".to_owned())
        );
        // Asked for, it is computed anew.
        let task = version_digest(core, &bench.jan, &os, &number(0)).await.unwrap();
        work(core).await;
        assert_eq!(task_get(core, &bench.jan, &task.id).await.unwrap().state, TaskState::Done);
        let seen = version_get(core, &bench.jan, &os, &number(0)).await.unwrap();
        assert_eq!(seen.sha256, result.sha256);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_gets_its_digests_in_the_end() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "me/os").await;
        push(core, &bench.jan, "me/os", bytes_of(5, 60)).await;
        work(core).await;
        // Its task failed long ago, or its row is gone.
        meddle(core, sql("UPDATE content SET digest = NULL, sha256 = NULL, created_at = created_at - 691200000")).await;
        meddle(core, sql("UPDATE task SET created_at = created_at - 691200000")).await;
        let digests = "SELECT COUNT(*) AS n FROM task WHERE kind = 'digest'";
        let before = count(core, digests).await;
        expire(core).await.unwrap();
        expire(core).await.unwrap();
        assert_eq!(count(core, digests).await, before + 1);
        work(core).await;
        let seen = version_get(core, &bench.jan, &image_ref("me/os"), &number(0)).await.unwrap();
        assert_eq!(seen.digest.unwrap().to_string(), blake3::hash(&bytes_of(5, 60)).to_string());
        // Nearly all holes, so that nobody computes it unasked.
        meddle(core, sql("UPDATE content SET digest = NULL, size = 1099511627776")).await;
        meddle(core, sql("UPDATE task SET created_at = created_at - 691200000")).await;
        expire(core).await.unwrap();
        assert_eq!(count(core, digests).await, before + 1);
        meddle(core, sql("INSERT INTO digest_part (content_id, at, state, saved_at) VALUES ('gone', 1, '{}', 1)"))
            .await;
        expire(core).await.unwrap();
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM digest_part").await, 0);
    })
    .await;
}

/// Each statement and commit of a pass fails once, and once its answer is lost; the next try comes to the same end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_whose_statements_fail_comes_to_the_same_end() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "me/os").await;
        push(core, &bench.jan, "me/os", bytes_of(1, 40)).await;
        work(core).await;
        let segment = blobs(core, BlobKind::Segment).await.remove(0);
        std::fs::remove_file(path(&bench, &segment)).unwrap();
        let all = count(core, "SELECT COUNT(*) AS n FROM blob").await as u64;
        let step = if std::env::var_os("SLIPWAY_TEST_ALL").is_some() { 1 } else { 5 };
        for fault in [SqlFault::Error, SqlFault::Lost] {
            for n in (0..).step_by(step) {
                scrub_start(core, &bench.admin).await.unwrap();
                bench.faults.arm(n, fault);
                let stop = Stop::never();
                let scrub = workers().into_iter().find(|worker| worker.name() == "scrub").unwrap();
                let _ = scrub.pass(core, &stop).await;
                bench.faults.disarm();
                let fired = bench.faults.fired();
                meddle(
                    core,
                    sql("UPDATE task SET lease_until = 1, not_before = 0 WHERE state IN ('queued', 'running')"),
                )
                .await;
                work(core).await;
                let status = scrub_get(core, &bench.admin).await.unwrap();
                let last = status.last.unwrap();
                assert_eq!((status.state, last.findings, last.blobs), (ScrubState::Idle, 1, all), "{fault:?} {n}");
                let open = findings(core, &bench.admin, false).await;
                assert_eq!((open.len(), open[0].kind.as_str()), (1, "missing"), "{fault:?} {n}: {open:#?}");
                assert_eq!(open[0].versions, ["jan/os:0"], "{fault:?} {n}");
                if !fired {
                    break;
                }
            }
        }
    })
    .await;
}
