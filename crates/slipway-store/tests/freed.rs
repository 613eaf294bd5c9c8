//! What is said to become free is what pruning frees.
#![allow(clippy::unwrap_used)]

mod lab;

use lab::{folder, image, noise, prune_spec, push, quiet, space, store};
use proptest::prelude::{any, proptest};
use proptest::test_runner::Config;
use slipway_store::{BlobKind, BlobState, ContentRef, Freed, Ledger, MemoryLedger, PruneSpec, Store};

/// Frames and documents of all live blobs.
fn live(ledger: &MemoryLedger) -> Freed {
    let mut all = Freed::default();
    for row in ledger.blobs_in(&[BlobState::Live]).unwrap() {
        match row.kind {
            BlobKind::Pack => all.frames += row.frames_len,
            BlobKind::Segment | BlobKind::Manifest => all.documents += row.len,
        }
    }
    all
}

/// Prunes until nothing dead is left: every pack with a dead frame is written anew.
fn prune_all(store: &Store, ledger: &MemoryLedger) {
    for _ in 0..3 {
        let spec = PruneSpec { grace_ms: 0, rewrite_below: 2.0, ..prune_spec(ledger.now()) };
        let plan = store.prune_plan(&spec, ledger, &mut quiet()).unwrap();
        store.prune_run(&plan, ledger, &|| false, &mut quiet()).unwrap();
        ledger.now_set(ledger.now() + 1);
    }
}

fn freed(store: &Store, ledger: &MemoryLedger, going: &[ContentRef], staying: &[ContentRef]) -> Freed {
    store.contents_freed(going, staying, ledger, &|| false).unwrap().unwrap()
}

proptest! {
    #![proptest_config(Config { cases: 24, ..Config::default() })]

    /// Images of few kinds of tiles share chunks and frames in every way, within a space and beside another.
    #[test]
    fn the_count_is_what_a_prune_frees(
        images in proptest::collection::vec((proptest::collection::vec(0u8..9, 1..40), any::<bool>(), any::<bool>()), 1..6),
    ) {
        let folder = folder();
        let store = store(folder.path());
        let ledger = MemoryLedger::new();
        let (mut going, mut staying, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        for (n, (tiles, other, goes)) in images.iter().enumerate() {
            let home = space(if *other { "u-2" } else { "u-1" });
            let (prepared, id) = push(&store, &ledger, &home, &format!("up-{n}"), &image(tiles));
            let content = ContentRef { root: prepared.root, spaces: vec![home] };
            match goes {
                true => {
                    going.push(content);
                    ids.push(id);
                }
                false => staying.push(content),
            }
        }
        prune_all(&store, &ledger);
        let before = live(&ledger);
        let said = freed(&store, &ledger, &going, &staying);
        ids.iter().for_each(|id| ledger.content_remove(*id));
        prune_all(&store, &ledger);
        let after = live(&ledger);
        assert_eq!(said, Freed { frames: before.frames - after.frames, documents: before.documents - after.documents });
    }
}

#[test]
fn what_is_shared_is_not_freed() {
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    let mut versions = Vec::new();
    for (n, seed) in [1, 2, 3].into_iter().enumerate() {
        let bytes = [noise(77, 1 << 20), noise(seed, 1 << 20)].concat();
        let (prepared, _) = push(&store, &ledger, &home, &format!("up-{n}"), &bytes);
        versions.push(ContentRef { root: prepared.root, spaces: vec![home.clone()] });
    }
    let all = live(&ledger);
    assert_eq!(freed(&store, &ledger, &versions, &[]), all, "everything goes");
    let none = freed(&store, &ledger, &[], &versions);
    assert_eq!(none, Freed::default());
    let two = freed(&store, &ledger, &versions[..2], &versions[2..]);
    // A frame at a border holds chunks of both and stays.
    assert!(two.frames > 1_800_000 && two.frames < 2_100_000, "{two:?}");
    // The same content twice: as long as one stays, nothing goes.
    let twice = [versions.clone(), versions.clone()].concat();
    assert_eq!(freed(&store, &ledger, &versions, &twice[..3]), Freed::default());
    // Who waits may hang up, and an unreadable store is an error, never a number.
    assert_eq!(store.contents_freed(&versions, &[], &ledger, &|| true).unwrap(), None);
    for row in ledger.blobs_in(&[BlobState::Live]).unwrap() {
        if row.kind == BlobKind::Segment {
            std::fs::remove_file(folder.path().join("blobs").join(&row.key)).unwrap();
        }
    }
    let fresh = lab::store(folder.path());
    assert!(fresh.contents_freed(&versions, &[], &ledger, &|| false).is_err());
}
