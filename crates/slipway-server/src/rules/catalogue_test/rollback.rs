use super::{bytes_of, count, each, image_add, image_ref, number, pull, push, refused, trash_age, verbs, work};
use crate::rules::image::image_rollback;
use crate::rules::quota::quota_change;
use crate::rules::version::{version_get, version_trash};
use slipway_api::{Code, Outcome, QuotaChange, QuotaLimit, Rollback};

fn to(number: u64) -> Rollback {
    Rollback { to: number, message: None, new: false }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_content_comes_on_top_under_a_new_number() {
    each(async |bench| {
        let (core, os) = (&bench.core, image_ref("jan/os"));
        image_add(core, &bench.jan, "jan/os").await;
        let contents = [bytes_of(1, 32), bytes_of(2, 32)];
        for bytes in &contents {
            push(core, &bench.jan, "jan/os", bytes.clone()).await;
        }
        let blobs = count(core, "SELECT COUNT(*) AS n FROM blob").await;
        let back = image_rollback(core, &bench.jan, &os, to(0)).await.unwrap();
        assert_eq!((back.outcome, back.reference.as_str()), (Outcome::Created, "jan/os:2"));
        let old = version_get(core, &bench.jan, &os, &number(0)).await.unwrap();
        assert_eq!((back.version.root, back.version.size, back.version.new_bytes), (old.root, old.size, 0));
        assert_eq!(back.version.message, "rolled back to version 0");
        assert_eq!((back.version.parent, back.version.created_by.as_str()), (Some(0), "jan"));
        assert_ne!(back.version.content, old.content);
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM blob").await, blobs, "no byte was stored");
        assert_eq!(pull(core, &bench.jan, "jan/os", number(2)).await.unwrap(), contents[0]);
        assert!(verbs(core).await.contains(&"image_rollback".to_owned()));
        // The newest has it already: nothing is made, unless that is insisted on.
        let same = image_rollback(core, &bench.jan, &os, to(0)).await.unwrap();
        assert_eq!((same.outcome, same.version.number), (Outcome::Unchanged, 2));
        let message = Some("again".to_owned());
        let again = image_rollback(core, &bench.jan, &os, Rollback { to: 0, message, new: true }).await.unwrap();
        assert_eq!(
            (again.outcome, again.version.number, again.version.message.as_str()),
            (Outcome::Created, 3, "again")
        );
        // The old one may go for good; its bytes stay for the new one.
        version_trash(core, &bench.jan, &os, &number(0)).await.unwrap();
        refused(image_rollback(core, &bench.jan, &os, to(0)).await, Code::NotFound);
        trash_age(core).await;
        work(core).await;
        assert!(version_get(core, &bench.jan, &os, &number(0)).await.is_err());
        super::pruning::prune(&bench, false).await;
        super::pruning::prune(&bench, false).await;
        assert_eq!(pull(core, &bench.jan, "jan/os", number(2)).await.unwrap(), contents[0]);
        // The digests come for the copy as they do for what was pushed.
        work(core).await;
        let shown = version_get(core, &bench.jan, &os, &number(3)).await.unwrap();
        assert_eq!(shown.digest.unwrap(), slipway_chunk::Digest::of(&contents[0]));
        assert!(shown.sha256.is_some());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_is_refused_with_its_reason() {
    each(async |bench| {
        let (core, os) = (&bench.core, image_ref("jan/os"));
        image_add(core, &bench.jan, "jan/os").await;
        refused(image_rollback(core, &bench.jan, &os, to(0)).await, Code::NotFound);
        for seed in 0..2 {
            push(core, &bench.jan, "jan/os", bytes_of(seed, 8)).await;
        }
        refused(image_rollback(core, &bench.eva, &os, to(0)).await, Code::NotFound);
        refused(image_rollback(core, &bench.jan, &os, to(7)).await, Code::NotFound);
        let long = Rollback { message: Some("x".repeat(100_000)), ..to(0) };
        refused(image_rollback(core, &bench.jan, &os, long).await, Code::InvalidRequest);
        // It stores nothing, but it is a version.
        let limit = QuotaChange { versions: Some(QuotaLimit::Number(2)), ..QuotaChange::default() };
        quota_change(core, &bench.admin, "jan", limit).await.unwrap();
        let problem = refused(image_rollback(core, &bench.jan, &os, to(0)).await, Code::QuotaExceeded);
        assert!(problem.title.contains("versions") && problem.title.contains("2 are allowed"), "{problem:?}");
        assert_eq!(version_get(core, &bench.jan, &os, &slipway_api::VersionPick::Latest).await.unwrap().number, 1);
        let limit = QuotaChange {
            versions: Some(QuotaLimit::Number(3)),
            stored_bytes: Some(QuotaLimit::Number(1)),
            ..QuotaChange::default()
        };
        quota_change(core, &bench.admin, "jan", limit).await.unwrap();
        assert_eq!(image_rollback(core, &bench.jan, &os, to(0)).await.unwrap().version.number, 2);
    })
    .await;
}
