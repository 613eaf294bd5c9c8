use super::{
    Bench, bytes_of, count, each, image_add, image_ref, number, pull, push, push_new, refused, upload_new, verbs, work,
};
use crate::core::Caller;
use crate::db::{Sql, SqlFault, sql};
use crate::rules::upload::{upload_commit, upload_create};
use crate::rules::version::{version_get, version_list};
use slipway_api::{Code, Outcome, PageQuery, UploadFormat, UploadNew, VersionPick};
use slipway_chunk::{ChunkerParams, Stream};
use slipway_store::{IngestSpec, Prepared};
use std::io::Cursor;
use uuid::Uuid;

/// An upload whose bytes are stored and that only needs its commit.
pub(super) async fn stored(bench: &Bench, who: &Caller, image: &str, bytes: Vec<u8>) -> (Uuid, Prepared) {
    let upload = upload_create(&bench.core, who, upload_new(image, UploadFormat::Chunks)).await.unwrap();
    let target = crate::rules::upload::upload_target(&bench.core, who, &upload.id).await.unwrap();
    let (store, ledger) = (bench.core.store.clone(), bench.core.ledger());
    let spec = IngestSpec {
        space: target.space,
        lookup: target.lookup,
        sector_size: 512,
        params: ChunkerParams::default(),
        upload: target.upload,
    };
    let work = move || store.ingest(&spec, &mut Stream(Cursor::new(bytes)), &ledger, &mut |_| {}).unwrap();
    (upload.id, tokio::task::spawn_blocking(work).await.unwrap())
}

fn touched(prepared: &Prepared) -> Sql {
    let marks = crate::db::placeholders(1, prepared.blobs.len());
    let text = format!("SELECT CAST(COALESCE(SUM(touched), 0) AS BIGINT) AS n FROM blob WHERE id IN ({marks})");
    sql(text).bind_all(prepared.blobs.iter().map(ToString::to_string))
}

/// Every statement and the commit itself fails once, with and without effect: nothing half is ever seen, and asking again works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_whole_or_nothing() {
    each(async |bench| {
        let core = &bench.core;
        for fault in [SqlFault::Error, SqlFault::Lost] {
            let mut outlived = 0;
            for n in 0.. {
                let name = format!("jan/{}-{n}", if fault == SqlFault::Lost { "lost" } else { "error" });
                let image = image_ref(&name);
                image_add(core, &bench.jan, &name).await;
                let bytes = bytes_of(if fault == SqlFault::Lost { 2000 } else { 1000 } + n, 3);
                let (upload, prepared) = stored(&bench, &bench.jan, &name, bytes.clone()).await;
                let before = verbs(core).await.len();
                bench.faults.arm(n, fault);
                let committed = upload_commit(core, &bench.jan, &upload, &prepared).await;
                bench.faults.disarm();
                let fired = bench.faults.fired();
                let mut tx = core.db.read().await.unwrap();
                let used = tx.row_must(touched(&prepared)).await.unwrap().int("n").unwrap();
                drop(tx);
                let listed = version_list(core, &bench.jan, &image, &PageQuery::default()).await.unwrap().items;
                match &committed {
                    Ok(answer) => {
                        assert_eq!((answer.outcome, answer.version.number, listed.len()), (Outcome::Created, 0, 1));
                        assert_eq!(used, prepared.blobs.len() as i64);
                        assert_eq!(verbs(core).await.len(), before + 1);
                    }
                    Err(problem) => {
                        assert!(fired, "{problem:?}");
                        assert_eq!(
                            (listed.len(), used, verbs(core).await.len()),
                            (0, 0, before),
                            "at {n}: {problem:?}"
                        );
                    }
                }
                let again = upload_commit(core, &bench.jan, &upload, &prepared).await.unwrap();
                assert_eq!((again.outcome, again.version.number), (Outcome::Created, 0), "at {n}");
                assert_eq!(version_get(core, &bench.jan, &image, &VersionPick::Latest).await.unwrap().number, 0);
                if committed.is_ok() && fired {
                    outlived += 1;
                }
                if !fired {
                    assert!(n > 10, "a commit has more statements than {n}");
                    assert_eq!(pull(core, &bench.jan, &name, number(0)).await.unwrap(), bytes);
                    break;
                }
            }
            // The answer to the commit itself was lost once, and the journal said that it had happened.
            assert_eq!(outlived, if fault == SqlFault::Lost { 1 } else { 0 });
        }
        let broken =
            count(core, "SELECT COUNT(*) AS n FROM content WHERE id NOT IN (SELECT content_id FROM version)").await;
        assert_eq!(broken, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_stays_the_same_for_ever() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "jan/os").await;
        let (upload, prepared) = stored(&bench, &bench.jan, "jan/os", bytes_of(1, 4)).await;
        let (a, b) = tokio::join!(
            upload_commit(core, &bench.jan, &upload, &prepared),
            upload_commit(core, &bench.jan, &upload, &prepared)
        );
        let first = a.unwrap();
        assert_eq!(first, b.unwrap());
        let (upload_2, prepared_2) = stored(&bench, &bench.jan, "jan/os", bytes_of(2, 4)).await;
        assert_eq!(upload_commit(core, &bench.jan, &upload_2, &prepared_2).await.unwrap().version.number, 1);
        crate::rules::image::image_trash(core, &bench.jan, &image_ref("jan/os"), None).await.unwrap();
        super::trash_age(core).await;
        super::work(core).await;
        match crate::rules::upload::upload_commit_begin(core, &bench.jan, &upload).await.unwrap() {
            crate::rules::upload::CommitBegin::Done(answer) => assert_eq!(*answer, first),
            other => panic!("{other:?}"),
        }
        super::refused(crate::rules::upload::upload_get(core, &bench.eva, &upload).await, slipway_api::Code::NotFound);
    })
    .await;
}

/// A digest that is there at once would tell that somebody else keeps the same image.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_keep_is_not_told() {
    each(async |bench| {
        let core = &bench.core;
        let bytes = bytes_of(1, 8);
        for (who, name) in [(&bench.jan, "jan/os"), (&bench.eva, "eva/os")] {
            image_add(core, who, name).await;
            assert_eq!(push(core, who, name, bytes.clone()).await.version.sha256, None, "{name}");
            work(core).await;
            let again = UploadNew { new: true, ..upload_new(name, UploadFormat::Raw) };
            let again = push_new(core, who, again, bytes.clone()).await.unwrap();
            assert!(again.version.sha256.is_some(), "{name}: of what is one's own it is known");
        }
        // The same bytes once more, but with the digest of others.
        let (upload, mut prepared) = stored(&bench, &bench.jan, "jan/os", bytes).await;
        prepared.digest = None;
        let claim = slipway_chunk::Digest::of(b"something else").to_string();
        super::meddle(core, sql("UPDATE upload SET digest = $1 WHERE id = $2").bind(claim).bind(upload)).await;
        refused(upload_commit(core, &bench.jan, &upload, &prepared).await, Code::DigestMismatch);
    })
    .await;
}

#[test]
fn rules_can_run_on_any_thread() {
    fn check<T: Send>(_: impl FnOnce(std::sync::Arc<crate::core::Core>, Caller, Uuid, Prepared) -> T) {}
    check(|core, who, id, prepared| async move { upload_commit(&core, &who, &id, &prepared).await.map(drop) });
    check(|core, _, _, _| async move { super::work_once(&core).await });
}
