use super::commit::stored;
use super::{
    Bench, bytes_of, configured, each, image_add, image_new, image_ref, meddle, number, push, push_new, refused,
    trash_age, upload_new, user_add, work,
};
use crate::core::{Caller, Core};
use crate::db::sql;
use crate::rules::image::{image_create, image_trash, sharing_change};
use crate::rules::quota::{quota_change, quota_get, quota_left};
use crate::rules::upload::{upload_create, upload_end, upload_offset_set};
use crate::rules::version::version_trash;
use slipway_api::{
    Code, Problem, Quota, QuotaChange, QuotaLimit, QuotaWord, Role, SharingChange, UploadFormat, UploadNew,
};
use slipway_store::{ReceiveSpec, SpaceId};
use std::sync::Arc;

fn limits(stored: Option<u64>, logical: Option<u64>) -> QuotaChange {
    let limit = |number: Option<u64>| number.map(QuotaLimit::Number);
    QuotaChange { stored_bytes: limit(stored), logical_bytes: limit(logical), ..QuotaChange::default() }
}

async fn set(bench: &Bench, change: QuotaChange) -> Quota {
    quota_change(&bench.core, &bench.admin, "jan", change).await.unwrap()
}

async fn quota(bench: &Bench) -> Quota {
    quota_get(&bench.core, &bench.jan, "me").await.unwrap()
}

const BLOCKS: usize = 64;
const SIZE: u64 = BLOCKS as u64 * 4096;

async fn push_try(core: &Arc<Core>, who: &Caller, image: &str, seed: u64) -> Result<u64, Problem> {
    let pushed = push_new(core, who, upload_new(image, UploadFormat::Raw), bytes_of(seed, BLOCKS)).await;
    Ok(pushed?.version.number)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_is_counted_and_limited() {
    each(async |mut bench| {
        configured(&mut bench, |config| config.quota.images = Some(2));
        let core = &bench.core;
        image_add(core, &bench.jan, "jan/os").await;
        push(core, &bench.jan, "jan/os", bytes_of(1, BLOCKS)).await;
        let now = quota(&bench).await;
        assert_eq!((now.logical_bytes.used, now.images.used, now.versions.used), (SIZE, 1, 1));
        let one = now.stored_bytes.used;
        assert!((SIZE..SIZE + 65_536).contains(&one), "{one}: noise does not compress");
        assert_eq!((now.images.limit, now.images.own, now.stored_bytes.limit), (Some(2), false, Some(64 << 20)));
        // Logical bytes: refused before the first byte when the size is announced, else when so much has come.
        assert!(set(&bench, limits(None, Some(2 * SIZE - 1))).await.logical_bytes.own);
        let announced = UploadNew { size: Some(SIZE), ..upload_new("jan/os", UploadFormat::Chunks) };
        let problem = refused(upload_create(core, &bench.jan, announced).await, Code::QuotaExceeded);
        for said in ["jan", "logical bytes", &SIZE.to_string(), &(2 * SIZE - 1).to_string()] {
            assert!(problem.title.contains(said), "{problem:?}");
        }
        assert_eq!(problem.status, 507);
        assert!(problem.hint.unwrap().contains("slipway quota"));
        let problem = refused(push_try(core, &bench.jan, "jan/os", 2).await, Code::QuotaExceeded);
        assert!(problem.title.contains("logical bytes"), "{problem:?}");
        assert_eq!(quota(&bench).await.uploads.used, 0, "what was refused left an upload open");
        set(&bench, limits(None, Some(2 * SIZE))).await;
        assert_eq!(push_try(core, &bench.jan, "jan/os", 2).await.unwrap(), 1);
        // Stored bytes: what shares its chunks costs next to nothing.
        set(&bench, limits(Some(2 * one + 65_536), Some(100 * SIZE))).await;
        let mut alike = bytes_of(2, BLOCKS);
        alike.truncate(alike.len() - 4096);
        push(core, &bench.jan, "jan/os", alike).await;
        let problem = refused(push_try(core, &bench.jan, "jan/os", 3).await, Code::QuotaExceeded);
        assert!(problem.title.contains("stored bytes"), "{problem:?}");
        // Nothing of it counts afterwards, and nothing was made.
        assert!(quota(&bench).await.stored_bytes.used <= 2 * one + 65_536);
        // Deleting frees nothing before the trash is empty.
        version_trash(core, &bench.jan, &image_ref("jan/os"), &number(0)).await.unwrap();
        assert_eq!(quota(&bench).await.versions_in_trash, 1);
        refused(push_try(core, &bench.jan, "jan/os", 3).await, Code::QuotaExceeded);
        trash_age(core).await;
        work(core).await;
        super::pruning::prune(&bench, false).await;
        assert_eq!(push_try(core, &bench.jan, "jan/os", 3).await.unwrap(), 3);
        // Numbers of things.
        image_add(core, &bench.jan, "jan/two").await;
        let problem = refused(image_create(core, &bench.jan, image_new("jan/three")).await, Code::QuotaExceeded);
        assert!(problem.title.contains("images"), "{problem:?}");
        image_trash(core, &bench.jan, &image_ref("jan/two"), None).await.unwrap();
        refused(image_create(core, &bench.jan, image_new("jan/three")).await, Code::QuotaExceeded);
        let few = QuotaChange {
            images: Some(QuotaLimit::Word(QuotaWord::Unlimited)),
            versions: Some(QuotaLimit::Number(3)),
            uploads: Some(QuotaLimit::Number(1)),
            ..QuotaChange::default()
        };
        assert_eq!(set(&bench, few).await.images.limit, None);
        image_add(core, &bench.jan, "jan/three").await;
        let problem = refused(push_try(core, &bench.jan, "jan/os", 4).await, Code::QuotaExceeded);
        assert!(problem.title.contains("versions"), "{problem:?}");
        let back = QuotaChange { versions: Some(QuotaLimit::Word(QuotaWord::Default)), ..QuotaChange::default() };
        let now = set(&bench, back).await;
        assert_eq!((now.versions.limit, now.versions.own), (None, false));
        let open = upload_create(core, &bench.jan, upload_new("jan/os", UploadFormat::Raw)).await.unwrap();
        let problem = refused(
            upload_create(core, &bench.jan, upload_new("jan/os", UploadFormat::Raw)).await,
            Code::QuotaExceeded,
        );
        assert!(problem.title.contains("open uploads"), "{problem:?}");
        upload_end(core, &bench.jan, &open.id).await.unwrap();
        upload_create(core, &bench.jan, upload_new("jan/os", UploadFormat::Raw)).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pushes_at_once_cannot_both_take_the_last_of_it() {
    each(async |bench| {
        let core = &bench.core;
        for image in ["jan/a", "jan/b", "jan/c", "jan/d"] {
            image_add(core, &bench.jan, image).await;
        }
        // There is room for two of four, and nobody knows before how large the others are.
        set(&bench, limits(None, Some(2 * SIZE + 1))).await;
        let pushes: Vec<_> = ["jan/a", "jan/b", "jan/c", "jan/d"]
            .into_iter()
            .enumerate()
            .map(|(seed, image)| {
                let (core, who) = (core.clone(), bench.jan.clone());
                tokio::spawn(async move { push_try(&core, &who, image, seed as u64 + 10).await })
            })
            .collect();
        let mut fine = 0;
        for push in pushes {
            match push.await.unwrap() {
                Ok(_) => fine += 1,
                Err(problem) => assert_eq!(problem.code, Code::QuotaExceeded, "{problem:?}"),
            }
        }
        assert_eq!((fine, quota(&bench).await.logical_bytes.used), (2, 2 * SIZE));
        // Stored bytes: both have sent all of theirs before either commits; the first to end may have what is left.
        let used = quota(&bench).await.stored_bytes.used;
        set(&bench, limits(Some(used + SIZE + 65_536), Some(100 * SIZE))).await;
        let (first, prepared) = stored(&bench, &bench.jan, "jan/a", bytes_of(20, BLOCKS)).await;
        let (second, other) = stored(&bench, &bench.jan, "jan/b", bytes_of(21, BLOCKS)).await;
        let begun = upload_create(core, &bench.jan, upload_new("jan/c", UploadFormat::Chunks)).await;
        refused(begun, Code::QuotaExceeded);
        crate::rules::upload::upload_commit(core, &bench.jan, &second, &other).await.unwrap();
        let late = crate::rules::upload::upload_commit(core, &bench.jan, &first, &prepared).await;
        let problem = refused(late, Code::QuotaExceeded);
        assert!(problem.title.contains("stored bytes"), "{problem:?}");
    })
    .await;
}

/// Neither the version that brought the bytes nor the upload that sent them has to be there for them to count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_lies_there_is_free() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "jan/os").await;
        push(core, &bench.jan, "jan/os", bytes_of(1, BLOCKS)).await;
        let one = quota(&bench).await.stored_bytes.used;
        let mut alike = bytes_of(1, BLOCKS);
        alike[..4096].fill(1);
        push(core, &bench.jan, "jan/os", alike).await;
        let both = quota(&bench).await.stored_bytes.used;
        version_trash(core, &bench.jan, &image_ref("jan/os"), &number(0)).await.unwrap();
        trash_age(core).await;
        work(core).await;
        super::pruning::prune(&bench, false).await;
        assert!(quota(&bench).await.stored_bytes.used > one - SIZE / 4, "the first version's bytes are still needed");
        assert!(quota(&bench).await.stored_bytes.used <= both);
        // Sent by an upload that is given up, but used by another's commit.
        let before = quota(&bench).await.stored_bytes.used;
        let (given_up, prepared) = stored(&bench, &bench.jan, "jan/os", bytes_of(5, BLOCKS)).await;
        assert!(quota(&bench).await.stored_bytes.used >= before + SIZE, "a running upload counts");
        let other = upload_create(core, &bench.jan, upload_new("jan/os", UploadFormat::Chunks)).await.unwrap();
        crate::rules::upload::upload_commit(core, &bench.jan, &other.id, &prepared).await.unwrap();
        upload_end(core, &bench.jan, &given_up).await.unwrap();
        assert!(quota(&bench).await.stored_bytes.used >= before + SIZE, "it was free because its sender gave up");
        // What nobody used does not count once its upload has ended.
        let (given_up, _) = stored(&bench, &bench.jan, "jan/os", bytes_of(6, BLOCKS)).await;
        let with = quota(&bench).await.stored_bytes.used;
        meddle(core, sql("UPDATE upload SET state = 'ended' WHERE id = $1").bind(given_up)).await;
        assert!(quota(&bench).await.stored_bytes.used <= with - SIZE);
        // A spool file counts while it is there.
        let spool = upload_create(core, &bench.jan, upload_new("jan/os", UploadFormat::Gzip)).await.unwrap();
        let without = quota(&bench).await.stored_bytes.used;
        upload_offset_set(core, &bench.jan, &spool.id, 0, 7_000_000).await.unwrap();
        assert_eq!(quota(&bench).await.stored_bytes.used, without + 7_000_000);
        set(&bench, limits(Some(without + 7_000_100), None)).await;
        let left = quota_left(core, &spool.id, false).await.unwrap();
        assert!(left.stored_check(core, 100).is_ok());
        refused(left.stored_check(core, 101), Code::QuotaExceeded);
        assert!(quota_left(core, &spool.id, true).await.unwrap().stored_check(core, 7_000_100).is_ok());
        assert_eq!(core.tallies.read()[0], 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_and_public_images_count_for_their_owner_alone() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "jan/os").await;
        push(core, &bench.jan, "jan/os", bytes_of(1, BLOCKS)).await;
        let one = quota(&bench).await.stored_bytes.used;
        let share = SharingChange { add: vec!["eva".parse().unwrap()], ..SharingChange::default() };
        sharing_change(core, &bench.jan, &image_ref("jan/os"), share, None).await.unwrap();
        work(core).await;
        for _ in 0..2 {
            super::pruning::prune(&bench, false).await;
        }
        assert!(quota(&bench).await.stored_bytes.used.abs_diff(one) < 8192);
        let public = SharingChange { public: Some(true), ..SharingChange::default() };
        sharing_change(core, &bench.jan, &image_ref("jan/os"), public, None).await.unwrap();
        work(core).await;
        for _ in 0..2 {
            super::pruning::prune(&bench, false).await;
        }
        assert!(quota(&bench).await.stored_bytes.used.abs_diff(one) < 8192);
        // Eva's image has the same bytes, and they lie where everyone reads.
        image_add(core, &bench.eva, "eva/os").await;
        push(core, &bench.eva, "eva/os", bytes_of(1, BLOCKS)).await;
        let evas = quota_get(core, &bench.eva, "eva").await.unwrap();
        assert_eq!((evas.stored_bytes.used, evas.logical_bytes.used), (0, SIZE));
        // An upload into a public image counts before it is committed, too.
        let (_, _) = stored(&bench, &bench.jan, "jan/os", bytes_of(9, BLOCKS)).await;
        assert!(quota(&bench).await.stored_bytes.used >= one + SIZE - 8192);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_are_counted_while_they_come() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "jan/os").await;
        let upload = upload_create(core, &bench.jan, upload_new("jan/os", UploadFormat::Chunks)).await.unwrap();
        set(&bench, limits(Some(100_000), None)).await;
        let target = crate::rules::upload::upload_target(core, &bench.jan, &upload.id).await.unwrap();
        let spec = ReceiveSpec { space: target.space.clone(), upload: target.upload };
        let mut builder = slipway_chunk::FrameBuilder::new();
        let bytes = bytes_of(3, 16);
        builder.push(slipway_chunk::ChunkId::of(&bytes), &bytes);
        let frame = builder.take().encode(3);
        let (store, ledger, sent) = (core.store.clone(), core.ledger(), frame.bytes.clone());
        tokio::task::spawn_blocking(move || store.frames_receive(&spec, &mut &sent[..], &ledger).unwrap())
            .await
            .unwrap();
        let left = quota_left(core, &upload.id, false).await.unwrap();
        let room = 100_000 - frame.bytes.len() as u64;
        assert!(left.stored_check(core, room).is_ok());
        refused(left.stored_check(core, room + 1), Code::QuotaExceeded);
        let _: SpaceId = target.space;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_see_and_set_a_quota() {
    each(async |bench| {
        let core = &bench.core;
        let mona = user_add(core, "mona", Role::Moderator).await;
        for who in [&bench.jan, &mona, &bench.admin] {
            assert_eq!(quota_get(core, who, "jan").await.unwrap().account.as_str(), "jan");
        }
        refused(quota_get(core, &bench.eva, "jan").await, Code::NotFound);
        refused(quota_get(core, &Caller::nobody(), "jan").await, Code::Unauthenticated);
        refused(quota_get(core, &bench.admin, "nobody-here").await, Code::NotFound);
        for who in [&bench.jan, &mona] {
            refused(quota_change(core, who, "jan", limits(Some(1), None)).await, Code::Forbidden);
        }
        set(&bench, limits(Some(1), Some(2))).await;
        // What is not named stays, and the journal says what was set.
        let now = set(&bench, QuotaChange { images: Some(QuotaLimit::Number(3)), ..QuotaChange::default() }).await;
        assert_eq!((now.stored_bytes.limit, now.logical_bytes.limit, now.images.limit), (Some(1), Some(2), Some(3)));
        assert_eq!(super::verbs(core).await.iter().filter(|verb| *verb == "quota_change").count(), 2);
        set(&bench, QuotaChange { images: Some(QuotaLimit::Number(3)), ..QuotaChange::default() }).await;
        assert_eq!(
            super::verbs(core).await.iter().filter(|verb| *verb == "quota_change").count(),
            2,
            "nothing changed"
        );
        // The system's images have none.
        set(&bench, limits(Some(0), Some(0))).await;
        image_add(core, &bench.admin, "system/base").await;
        push(core, &bench.admin, "system/base", bytes_of(1, 4)).await;
    })
    .await;
}
