use super::{bytes_of, count, each, image_add, image_ref, number, pull, push, refused, work};
use crate::rules::channel::{channel_delete, channel_set};
use crate::rules::end::{image_end, version_end};
use crate::rules::task::{prune_request, task_get};
use crate::rules::trash::image_trash;
use crate::rules::version::{version_change, version_get, version_restore, version_trash};
use slipway_api::{ChannelSet, Code, PruneRequest, PruneResult, TaskState, VersionChange};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_now_is_not_restored_and_its_bytes_go_with_a_prune_that_does_not_wait() {
    each(async |bench| {
        let (core, os) = (&bench.core, image_ref("jan/os"));
        image_add(core, &bench.jan, "jan/os").await;
        let contents: Vec<Vec<u8>> = (0..4).map(|seed| bytes_of(seed + 80, 32)).collect();
        for bytes in &contents {
            push(core, &bench.jan, "jan/os", bytes.clone()).await;
        }
        let packs = "SELECT COUNT(*) AS n FROM blob WHERE kind = 'pack' AND state IN ('live', 'doomed')";
        assert_eq!(count(core, packs).await, 4);

        // What pins a version keeps it from ending as well.
        channel_set(core, &bench.jan, &os, &"stable".parse().unwrap(), ChannelSet { version: 0 }).await.unwrap();
        let protect = |protected| VersionChange { message: None, protected: Some(protected) };
        version_change(core, &bench.jan, &os, &number(1), protect(true)).await.unwrap();
        refused(version_end(core, &bench.jan, &os, &number(0)).await, Code::Pinned);
        refused(version_end(core, &bench.jan, &os, &number(1)).await, Code::Pinned);
        refused(image_end(core, &bench.jan, &os, None).await, Code::Pinned);
        refused(version_end(core, &bench.eva, &os, &number(2)).await, Code::NotFound);
        refused(version_end(core, &bench.jan, &os, &number(9)).await, Code::NotFound);

        // From the trash or not.
        version_trash(core, &bench.jan, &os, &number(2)).await.unwrap();
        version_end(core, &bench.jan, &os, &number(2)).await.unwrap();
        version_end(core, &bench.jan, &os, &number(3)).await.unwrap();
        for n in [2, 3] {
            refused(version_get(core, &bench.jan, &os, &number(n)).await, Code::NotFound);
            refused(version_restore(core, &bench.jan, &os, n).await, Code::NotFound);
        }
        let said = "SELECT COUNT(*) AS n FROM journal WHERE verb = 'version_expire' AND actor = 'jan'";
        assert_eq!(count(core, said).await, 2);
        // A prune was queued, and dooms; the grace of those who still read by an old address is kept.
        work(core).await;
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM blob WHERE kind = 'pack' AND state = 'doomed'").await, 2);

        // An admin need not wait for it.
        version_change(core, &bench.jan, &os, &number(1), protect(false)).await.unwrap();
        version_end(core, &bench.jan, &os, &number(1)).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        let asked = PruneRequest { dry_run: false, now: true };
        let task = prune_request(core, &bench.admin, asked).await.unwrap();
        work(core).await;
        let task = task_get(core, &bench.admin, &task.id).await.unwrap();
        assert_eq!(task.state, TaskState::Done, "{task:?}");
        let result: PruneResult = serde_json::from_value(task.result.unwrap()).unwrap();
        assert!(result.packs_deleted >= 1 && result.bytes_freed > 0, "{result:?}");
        assert_eq!(count(core, packs).await, 1);
        assert_eq!(pull(core, &bench.jan, "jan/os", number(0)).await.unwrap(), contents[0]);

        // The whole image; its name is free at once, its numbers begin again with another image.
        channel_delete(core, &bench.jan, &os, &"stable".parse().unwrap()).await.unwrap();
        refused(image_end(core, &bench.jan, &os, Some(1)).await, Code::PreconditionFailed);
        image_trash(core, &bench.jan, &os, None).await.unwrap();
        image_end(core, &bench.jan, &os, None).await.unwrap();
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM content").await, 0);
        image_add(core, &bench.jan, "jan/os").await;
        let next = push(core, &bench.jan, "jan/os", contents[1].clone()).await;
        assert_eq!(next.version.number, 0);
        assert_eq!(pull(core, &bench.jan, "jan/os", number(0)).await.unwrap(), contents[1]);
    })
    .await;
}
