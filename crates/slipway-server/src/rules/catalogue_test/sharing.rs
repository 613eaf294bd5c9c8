use super::{bytes_of, each, image_add, image_ref, number, pull, push, refused, work};
use crate::core::Core;
use crate::db::sql;
use crate::rules::image::{image_get, sharing_change};
use crate::rules::task::{task_cancel, task_claim, task_get};
use crate::rules::version::version_content;
use slipway_api::{Code, ImageQuery, SharingChange, TaskKind, TaskState};
use slipway_store::SpaceId;
use std::collections::HashSet;

fn add(name: &str) -> SharingChange {
    SharingChange { add: vec![name.parse().unwrap()], ..SharingChange::default() }
}

fn remove(name: &str) -> SharingChange {
    SharingChange { remove: vec![name.parse().unwrap()], ..SharingChange::default() }
}

fn public(public: bool) -> SharingChange {
    SharingChange { public: Some(public), ..SharingChange::default() }
}

/// Chunks that lie in live packs of this space.
async fn chunks_in(core: &std::sync::Arc<Core>, space: &SpaceId, ids: Vec<slipway_chunk::ChunkId>) -> usize {
    let (store, ledger, space) = (core.store.clone(), core.ledger(), space.clone());
    let work = move || {
        store.index_sync(&ledger).unwrap();
        store.chunks_missing(&[space], &ids).unwrap().iter().filter(|missing| !**missing).count()
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn chunks_of(core: &std::sync::Arc<Core>, who: &crate::core::Caller, image: &str) -> Vec<slipway_chunk::ChunkId> {
    let content = version_content(core, who, &image_ref(image), &number(0)).await.unwrap();
    let (store, ledger) = (core.store.clone(), core.ledger());
    let work = move || {
        let manifest = store.manifest_read(&content.spaces, &content.version.root, &ledger).unwrap();
        let mut ids = Vec::new();
        for segment in &manifest.segments {
            let segment = store.segment_read(&content.spaces, segment, &ledger).unwrap();
            ids.extend(segment.chunks().map(|(_, id, _)| id));
        }
        ids
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_come_in_when_the_content_has_moved() {
    each(async |bench| {
        let (core, os) = (&bench.core, image_ref("jan/os"));
        image_add(core, &bench.jan, "jan/os").await;
        image_add(core, &bench.jan, "jan/secret").await;
        // The two images have half of their bytes in common, and so frames and packs.
        let common = bytes_of(1, 64);
        let secret = [common.clone(), bytes_of(2, 64)].concat();
        let shown = [common, bytes_of(3, 64)].concat();
        push(core, &bench.jan, "jan/secret", secret).await;
        push(core, &bench.jan, "jan/os", shown.clone()).await;
        let of_secret = chunks_of(core, &bench.jan, "jan/secret").await;
        let of_os: HashSet<_> = chunks_of(core, &bench.jan, "jan/os").await.into_iter().collect();
        let only_secret: Vec<_> = of_secret.iter().filter(|id| !of_os.contains(id)).copied().collect();
        assert!(!only_secret.is_empty() && only_secret.len() < of_secret.len());

        let asked = sharing_change(core, &bench.jan, &os, add("eva"), None).await.unwrap();
        let task = asked.sharing.task.unwrap();
        assert!(asked.sharing.readers.is_empty());
        refused(image_get(core, &bench.eva, &os, &ImageQuery::default()).await, Code::NotFound);
        refused(sharing_change(core, &bench.jan, &os, public(true), None).await, Code::Conflict);
        // A push goes on meanwhile and moves with the others.
        let later = bytes_of(4, 16);
        push(core, &bench.jan, "jan/os", later.clone()).await;
        work(core).await;
        let done = task_get(core, &bench.jan, &task).await.unwrap();
        assert_eq!(done.state, TaskState::Done, "{done:?}");
        let after = image_get(core, &bench.jan, &os, &ImageQuery::default()).await.unwrap();
        assert_eq!((after.sharing.task, after.sharing.readers.len()), (None, 1));
        assert_eq!(pull(core, &bench.eva, "jan/os", number(0)).await.unwrap(), shown);
        assert_eq!(pull(core, &bench.eva, "jan/os", number(1)).await.unwrap(), later);
        assert!(
            image_get(core, &bench.eva, &os, &ImageQuery::default()).await.unwrap().sharing.readers.is_empty(),
            "others are not told who reads"
        );
        refused(image_get(core, &bench.eva, &image_ref("jan/secret"), &ImageQuery::default()).await, Code::NotFound);

        let content = version_content(core, &bench.eva, &os, &number(0)).await.unwrap();
        let private = bench.jan.user.as_ref().map(|user| format!("u-{}", user.id.simple())).unwrap();
        assert!(content.space.as_str().starts_with("s-"), "{:?}", content.spaces);
        assert!(content.spaces.iter().all(|space| space.as_str() != private));
        assert_eq!(chunks_in(core, &content.space, only_secret).await, 0, "nothing of the private image came along");
        assert_eq!(chunks_in(core, &content.space, of_os.iter().copied().collect()).await, of_os.len());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_go_at_once_and_new_versions_are_out_of_their_reach() {
    each(async |bench| {
        let (core, os) = (&bench.core, image_ref("jan/os"));
        image_add(core, &bench.jan, "jan/os").await;
        // Without a version there is nothing to move.
        let image = sharing_change(core, &bench.jan, &os, add("eva"), None).await.unwrap();
        assert_eq!((image.sharing.task, image.sharing.readers.len()), (None, 1));
        let first = bytes_of(1, 32);
        push(core, &bench.jan, "jan/os", first.clone()).await;
        assert_eq!(pull(core, &bench.eva, "jan/os", number(0)).await.unwrap(), first);
        let shared = version_content(core, &bench.jan, &os, &number(0)).await.unwrap().space;
        sharing_change(core, &bench.jan, &os, remove("eva"), None).await.unwrap();
        refused(pull(core, &bench.eva, "jan/os", number(0)).await, Code::NotFound);
        let second = [first.clone(), bytes_of(2, 32)].concat();
        let pushed = push(core, &bench.jan, "jan/os", second.clone()).await;
        assert!(pushed.version.new_bytes < pushed.version.stored_bytes, "the owner still finds the old chunks");
        let content = version_content(core, &bench.jan, &os, &number(1)).await.unwrap();
        assert!(content.space.as_str().starts_with("u-"), "{:?}", content.spaces);
        let new: Vec<_> = {
            let mut tx = core.db.read().await.unwrap();
            let rows = tx
                .rows(sql("SELECT space FROM blob WHERE rev > (SELECT MIN(rev) FROM blob WHERE space LIKE 'u-%')"))
                .await
                .unwrap();
            rows.iter().map(|row| row.text("space").unwrap()).collect()
        };
        assert!(new.iter().all(|space| *space != shared.as_str()), "{new:?}");
        assert_eq!(pull(core, &bench.jan, "jan/os", number(1)).await.unwrap(), second);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn public_and_back() {
    each(async |bench| {
        let (core, os) = (&bench.core, image_ref("jan/os"));
        image_add(core, &bench.jan, "jan/os").await;
        let bytes = bytes_of(1, 32);
        push(core, &bench.jan, "jan/os", bytes.clone()).await;
        assert!(sharing_change(core, &bench.jan, &os, public(true), None).await.unwrap().sharing.task.is_some());
        work(core).await;
        assert!(image_get(core, &bench.eva, &os, &ImageQuery::default()).await.unwrap().sharing.public);
        assert_eq!(version_content(core, &bench.eva, &os, &number(0)).await.unwrap().space.as_str(), "public");
        // Everyone's chunks are found by everyone.
        image_add(core, &bench.eva, "eva/copy").await;
        assert_eq!(push(core, &bench.eva, "eva/copy", bytes.clone()).await.version.new_bytes, 0);
        sharing_change(core, &bench.jan, &os, add("eva"), None).await.unwrap();
        sharing_change(core, &bench.jan, &os, public(false), None).await.unwrap();
        assert_eq!(pull(core, &bench.eva, "jan/os", number(0)).await.unwrap(), bytes);
        let pushed = push(core, &bench.jan, "jan/os", bytes_of(5, 32)).await;
        assert_eq!(pushed.version.number, 1);
        let content = version_content(core, &bench.eva, &os, &number(1)).await.unwrap();
        assert!(content.space.as_str().starts_with("s-"), "{:?}", content.spaces);
        for (change, code) in [
            (add("nobody"), Code::NotFound),
            (add("system"), Code::InvalidRequest),
            (SharingChange { add: vec!["eva".parse().unwrap()], ..remove("eva") }, Code::InvalidRequest),
        ] {
            refused(sharing_change(core, &bench.jan, &os, change, None).await, code);
        }
        refused(sharing_change(core, &bench.eva, &os, public(true), None).await, Code::Forbidden);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_move_lets_nobody_in() {
    each(async |bench| {
        let (core, os) = (&bench.core, image_ref("jan/os"));
        image_add(core, &bench.jan, "jan/os").await;
        push(core, &bench.jan, "jan/os", bytes_of(1, 8)).await;
        let task = sharing_change(core, &bench.jan, &os, add("eva"), None).await.unwrap().sharing.task.unwrap();
        task_cancel(core, &bench.jan, &task).await.unwrap();
        work(core).await;
        assert_eq!(task_get(core, &bench.jan, &task).await.unwrap().state, TaskState::Cancelled);
        assert_eq!(image_get(core, &bench.jan, &os, &ImageQuery::default()).await.unwrap().sharing.task, None);
        refused(image_get(core, &bench.eva, &os, &ImageQuery::default()).await, Code::NotFound);
        assert!(task_claim(core, TaskKind::Rehome).await.unwrap().is_none());
        sharing_change(core, &bench.jan, &os, add("eva"), None).await.unwrap();
        work(core).await;
        image_get(core, &bench.eva, &os, &ImageQuery::default()).await.unwrap();
    })
    .await;
}
