use super::{bytes_of, each, image_add, image_ref, number, pull, push, push_new, refused, trash_age, upload_new, work};
use crate::rules::channel::{channel_delete, channel_get, channel_set};
use crate::rules::image::{image_change, image_get, image_trash};
use crate::rules::version::{version_change, version_get, version_list, version_restore, version_trash};
use slipway_api::{
    ChannelName, ChannelSet, Code, ImageChange, ImageQuery, Outcome, PageQuery, UploadFormat, UploadNew, VersionChange,
    VersionPick,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_count_up_and_never_come_again() {
    each(async |bench| {
        let (core, os) = (&bench.core, image_ref("jan/os"));
        image_add(core, &bench.jan, "jan/os").await;
        refused(version_get(core, &bench.jan, &os, &VersionPick::Latest).await, Code::NotFound);
        let mut bytes = bytes_of(1, 64);
        let first = push(core, &bench.jan, "jan/os", bytes.clone()).await;
        assert_eq!(
            (first.outcome, first.reference.as_str(), first.version.parent),
            (Outcome::Created, "jan/os:0", None)
        );
        assert_eq!(first.version.data_bytes, 64 * 4096);
        assert!(first.version.new_bytes > 0 && first.version.new_bytes == first.version.stored_bytes);
        let same = push(core, &bench.jan, "jan/os", bytes.clone()).await;
        assert_eq!((same.outcome, same.version.number), (Outcome::Unchanged, 0));
        let insisted = UploadNew { new: true, ..upload_new("jan/os", UploadFormat::Raw) };
        let insisted = push_new(core, &bench.jan, insisted, bytes.clone()).await.unwrap();
        assert_eq!((insisted.version.number, insisted.version.parent, insisted.version.new_bytes), (1, Some(0), 0));
        bytes[..4096].copy_from_slice(&bytes_of(2, 1));
        let changed = push(core, &bench.jan, "jan/os", bytes.clone()).await;
        assert_eq!((changed.version.number, changed.version.parent), (2, Some(1)));
        assert!(changed.version.new_bytes < changed.version.stored_bytes);
        version_trash(core, &bench.jan, &os, &number(2)).await.unwrap();
        trash_age(core).await;
        work(core).await;
        refused(version_restore(core, &bench.jan, &os, 2).await, Code::NotFound);
        let next = push(core, &bench.jan, "jan/os", bytes.clone()).await;
        assert_eq!((next.outcome, next.version.number), (Outcome::Created, 3), "2 is used up");
        assert_eq!(pull(core, &bench.jan, "jan/os", number(3)).await.unwrap(), bytes);
        let shown = version_get(core, &bench.jan, &os, &number(3)).await.unwrap();
        assert_eq!(shown.digest.unwrap(), slipway_chunk::Digest::of(&bytes));
        work(core).await;
        let shown = version_get(core, &bench.jan, &os, &number(3)).await.unwrap();
        assert_eq!(shown.sha256.unwrap().len(), 64, "the digest worker filled it in");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pushes_at_once_get_successive_numbers() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "jan/os").await;
        let pushes: Vec<_> = (0..4)
            .map(|seed| {
                let (core, who) = (core.clone(), bench.jan.clone());
                tokio::spawn(async move { push(&core, &who, "jan/os", bytes_of(seed + 10, 4)).await.version.number })
            })
            .collect();
        let mut numbers = Vec::new();
        for push in pushes {
            numbers.push(push.await.unwrap());
        }
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2, 3]);
        let query = PageQuery { limit: Some(3), ..PageQuery::default() };
        let page = version_list(core, &bench.jan, &image_ref("jan/os"), &query).await.unwrap();
        assert_eq!(page.items.iter().map(|v| v.number).collect::<Vec<_>>(), [3, 2, 1]);
        let query = PageQuery { cursor: page.next, ..query };
        let page = version_list(core, &bench.jan, &image_ref("jan/os"), &query).await.unwrap();
        assert_eq!((page.items.len(), page.items[0].number, page.next), (1, 0, None));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_pins_a_version_is_named() {
    each(async |bench| {
        let (core, os) = (&bench.core, image_ref("jan/os"));
        image_add(core, &bench.jan, "jan/os").await;
        for seed in 0..3 {
            push(core, &bench.jan, "jan/os", bytes_of(seed, 4)).await;
        }
        let stable: ChannelName = "stable".parse().unwrap();
        refused(channel_set(core, &bench.jan, &os, &stable, ChannelSet { version: 7 }).await, Code::NotFound);
        refused(channel_set(core, &bench.eva, &os, &stable, ChannelSet { version: 0 }).await, Code::NotFound);
        channel_set(core, &bench.jan, &os, &stable, ChannelSet { version: 0 }).await.unwrap();
        channel_set(core, &bench.jan, &os, &stable, ChannelSet { version: 1 }).await.unwrap();
        let picked = version_get(core, &bench.jan, &os, &VersionPick::Channel(stable.clone())).await.unwrap();
        assert_eq!((picked.number, picked.channels.as_slice()), (1, &["stable".to_owned()][..]));
        let problem = refused(version_trash(core, &bench.jan, &os, &number(1)).await, Code::Pinned);
        assert!(problem.title.contains("jan/os:1") && problem.title.contains("'stable'"), "{problem:?}");
        let problem = refused(image_trash(core, &bench.jan, &os, None).await, Code::Pinned);
        assert!(problem.title.contains("'stable'"), "{problem:?}");
        channel_delete(core, &bench.jan, &os, &stable).await.unwrap();
        refused(channel_get(core, &bench.jan, &os, &stable).await, Code::NotFound);
        let protect = |protected| VersionChange { message: None, protected: Some(protected) };
        version_change(core, &bench.jan, &os, &number(1), protect(true)).await.unwrap();
        let problem = refused(version_trash(core, &bench.jan, &os, &number(1)).await, Code::Pinned);
        assert!(problem.title.contains("protected"), "{problem:?}");
        let problem = refused(image_trash(core, &bench.jan, &os, None).await, Code::Pinned);
        assert!(problem.title.contains("jan/os:1"), "{problem:?}");
        version_change(core, &bench.jan, &os, &number(1), protect(false)).await.unwrap();
        version_trash(core, &bench.jan, &os, &number(1)).await.unwrap();
        refused(version_get(core, &bench.jan, &os, &number(1)).await, Code::NotFound);
        refused(channel_set(core, &bench.jan, &os, &stable, ChannelSet { version: 1 }).await, Code::NotFound);
        let with_trash = ImageQuery { trash: true, ..ImageQuery::default() };
        let shown = image_get(core, &bench.jan, &os, &with_trash).await.unwrap();
        assert_eq!((shown.versions.unwrap().len(), shown.version_count, shown.versions_next), (3, 2, None));
        let mut numbers = Vec::new();
        let mut query = ImageQuery { limit: Some(2), ..with_trash };
        for more in [true, false] {
            let shown = image_get(core, &bench.jan, &os, &query).await.unwrap();
            numbers.extend(shown.versions.unwrap().into_iter().map(|version| version.number));
            query.cursor = shown.versions_next;
            assert_eq!(query.cursor.is_some(), more);
        }
        assert_eq!(numbers, [2, 1, 0]);
        assert_eq!(version_restore(core, &bench.jan, &os, 1).await.unwrap().trashed_at, None);
        let protect = ImageChange { protected: Some(true), ..ImageChange::default() };
        image_change(core, &bench.jan, &os, protect, None).await.unwrap();
        refused(image_trash(core, &bench.jan, &os, None).await, Code::Pinned);
        version_trash(core, &bench.jan, &os, &VersionPick::Latest).await.unwrap();
        assert_eq!(version_get(core, &bench.jan, &os, &VersionPick::Latest).await.unwrap().number, 1);
    })
    .await;
}
