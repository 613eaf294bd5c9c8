//! Prune takes what nothing refers to, and never anything else.
#![allow(clippy::unwrap_used)]

mod lab;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lab::{
    HOUR, assert_clean, folder, image, ingest, noise, prune_all, prune_spec, push, quiet, read_back, space, store,
};
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::test_runner::Config;
use slipway_store::{
    BlobKind, BlobState, Ledger, MemoryLedger, Prepared, PrunePlan, PruneSpec, SpaceId, Store, StoreError,
};

fn plan(store: &Store, ledger: &MemoryLedger) -> PrunePlan {
    store.prune_plan(&prune_spec(ledger.now()), ledger, &mut quiet()).unwrap()
}

fn run(store: &Store, ledger: &MemoryLedger, plan: &PrunePlan) -> slipway_store::PruneDone {
    store.prune_run(plan, ledger, &|| false, &mut quiet()).unwrap()
}

fn count(ledger: &MemoryLedger, state: BlobState) -> usize {
    ledger.blobs_in(&[state]).unwrap().len()
}

#[test]
fn two_marks_and_the_grace() {
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    let (_, content) = push(&store, &ledger, &home, "a", &image(&[1, 2, 3]));
    assert!(plan(&store, &ledger).is_empty());
    ledger.content_remove(content);
    let first = plan(&store, &ledger);
    assert_eq!((first.doom.len(), first.delete.len()), (3, 0));
    // A dry run changes nothing and is what the real one will do.
    assert_eq!(plan(&store, &ledger).doom, first.doom);
    assert_eq!(count(&ledger, BlobState::Live), 3);
    let done = run(&store, &ledger, &first);
    assert_eq!((done.doomed, done.deleted), (3, 0));
    // Within the grace nothing happens; after it, what was doomed goes.
    assert!(plan(&store, &ledger).is_empty());
    ledger.now_set(12 * HOUR - 1);
    assert!(plan(&store, &ledger).is_empty());
    ledger.now_set(12 * HOUR);
    let second = plan(&store, &ledger);
    assert_eq!(second.delete.len(), 3);
    let bytes: u64 = ledger.rows().iter().map(|row| row.len).sum();
    assert_eq!(second.bytes_deleted, bytes);
    assert_eq!(run(&store, &ledger, &second).bytes_deleted, bytes);
    assert_eq!(count(&ledger, BlobState::Gone), 3);
    assert!(plan(&store, &ledger).is_empty());
    assert_clean(&store, &ledger);
}

#[test]
fn a_prune_that_is_stopped_does_not_one_thing_more() {
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    let (_, content) = push(&store, &ledger, &space("u-1"), "a", &image(&[1, 2, 3]));
    ledger.content_remove(content);
    for state in [BlobState::Doomed, BlobState::Gone] {
        for allowed in 0..3 {
            let plan = plan(&store, &ledger);
            let before = count(&ledger, state);
            // The first answer is no, the second yes: one change each time.
            let asked = AtomicU64::new(0);
            let stop = || asked.fetch_add(1, Ordering::Relaxed) >= 1;
            let done = store.prune_run(&plan, &ledger, &stop, &mut quiet()).unwrap();
            assert_eq!(count(&ledger, state), before + 1, "{state:?} {allowed}");
            assert_eq!((done.doomed + done.deleted, done.stopped), (1, allowed < 2), "{state:?} {allowed}");
        }
        ledger.now_set(ledger.now() + 12 * HOUR);
    }
    assert_clean(&store, &ledger);
}

#[test]
fn a_commit_between_plan_and_run_wins() {
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    let bytes = image(&[1, 2, 3]);
    let (a, content) = push(&store, &ledger, &home, "a", &bytes);
    ledger.content_remove(content);
    let stale = plan(&store, &ledger);
    push(&store, &ledger, &home, "b", &bytes);
    let done = run(&store, &ledger, &stale);
    assert_eq!((done.doomed, done.kept), (0, 3));
    assert!(read_back(&store, &ledger, &[home], &a.root).unwrap() == bytes);
    // The plan was run; it is not run twice.
    let again = store.prune_run(&stale, &ledger, &|| false, &mut quiet());
    assert!(matches!(again, Err(StoreError::PlanStale)), "{again:?}");
}

#[test]
fn a_commit_in_the_middle_of_a_mark_wins() {
    // Before or after each call that a plan makes to the rows, an image that was being let go is
    // committed again.
    for after in [false, true] {
        for n in 0.. {
            let folder = folder();
            let store = store(folder.path());
            let ledger = MemoryLedger::new();
            let home = space("u-1");
            let bytes = image(&[1, 2, 3]);
            push(&store, &ledger, &home, "o", &image(&[9]));
            let (a, content) = push(&store, &ledger, &home, "a", &bytes);
            ledger.content_remove(content);
            let again = ingest(&store, &ledger, &home, "b", &bytes).unwrap();
            let calls = AtomicU64::new(0);
            let hook = |is_after: bool| {
                let now = calls.fetch_add(u64::from(is_after), Ordering::Relaxed);
                if now == n && is_after == after {
                    ledger.content_commit(&again, std::slice::from_ref(&home)).unwrap();
                }
                Ok(())
            };
            let hooked = lab::HookedLedger::new(&ledger, |_| hook(false), |_| hook(true));
            let plan = store.prune_plan(&prune_spec(ledger.now()), &hooked, &mut quiet()).unwrap();
            run(&store, &ledger, &plan);
            if calls.load(Ordering::Relaxed) <= n {
                assert!(n > 3, "{n} calls");
                break;
            }
            assert_eq!(count(&ledger, BlobState::Doomed), 0, "after {after}, call {n}");
            prune_all(&store, &ledger);
            assert!(read_back(&store, &ledger, std::slice::from_ref(&home), &a.root).unwrap() == bytes);
            assert_clean(&store, &ledger);
        }
    }
}

#[test]
fn a_commit_after_the_run_is_told_and_can_be_repeated() {
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    let bytes = image(&[1, 2, 3]);
    let (_, content) = push(&store, &ledger, &home, "a", &bytes);
    ledger.content_remove(content);
    let prepared = ingest(&store, &ledger, &home, "b", &bytes).unwrap();
    run(&store, &ledger, &plan(&store, &ledger));
    assert!(ledger.content_commit(&prepared, std::slice::from_ref(&home)).is_err());
    let (again, _) = push(&store, &ledger, &home, "b", &bytes);
    assert_eq!(again.new_bytes, again.stored_bytes, "doomed packs are not looked up");
    prune_all(&store, &ledger);
    assert!(read_back(&store, &ledger, &[home], &again.root).unwrap() == bytes);
    assert_clean(&store, &ledger);
}

#[test]
fn leases_keep_what_an_upload_wrote() {
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    ledger.upload_open("up");
    let prepared = ingest(&store, &ledger, &home, "up", &image(&[1, 2])).unwrap();
    ledger.now_set(1000 * HOUR);
    assert!(plan(&store, &ledger).is_empty());
    ledger.upload_close("up");
    assert_eq!(plan(&store, &ledger).doom.len(), prepared.blobs.len());
}

#[test]
fn a_late_writer_finds_its_row_taken() {
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    // A source that lets two days pass, and prune run, while its first pack is being written.
    struct Slow<'a>(&'a Arc<Store>, &'a MemoryLedger, u32);
    impl slipway_chunk::SparseRead for Slow<'_> {
        fn fill(&mut self, buf: &mut [u8]) -> std::io::Result<slipway_chunk::Fill> {
            self.2 += 1;
            match self.2 {
                1 => {
                    buf.copy_from_slice(&noise(1, buf.len()));
                    Ok(slipway_chunk::Fill::Data(buf.len()))
                }
                2 => {
                    self.1.now_set(48 * HOUR);
                    for _ in 0..2 {
                        let plan = plan(self.0, self.1);
                        run(self.0, self.1, &plan);
                        self.1.now_set(96 * HOUR);
                    }
                    buf[..64 << 10].copy_from_slice(&noise(2, 64 << 10));
                    Ok(slipway_chunk::Fill::Data(64 << 10))
                }
                _ => Ok(slipway_chunk::Fill::End),
            }
        }
    }
    let mut source = Slow(&store, &ledger, 0);
    let prepared = store.ingest(&lab::spec(&home, "up"), &mut source, &ledger, &mut quiet());
    match prepared {
        Err(StoreError::ChunksGone | StoreError::Blob(_)) => {}
        Ok(prepared) => assert!(ledger.content_commit(&prepared, &[home]).is_err()),
        Err(other) => panic!("{other}"),
    }
    prune_all(&store, &ledger);
    let report = lab::check(&store, &ledger);
    // The late writer's own file may be left without a row that says so; it is never damage to a content.
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

#[test]
fn mostly_dead_packs_are_rewritten() {
    let folder = folder();
    let mut config = lab::config();
    config.pack_len = 64 << 20;
    let blobs = slipway_store::Blobs::local(&folder.path().join("blobs"), slipway_store::Faults::none()).unwrap();
    let store = Store::open(blobs, config, slipway_store::Faults::none()).unwrap();
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    // The hole forces a cut, so that the small image is made of the large one's chunks.
    let large: Vec<u8> = (1..=15).chain([0]).chain(16..=120).collect();
    let (_, content) = push(&store, &ledger, &home, "a", &image(&large));
    let small = image(&large[..16]);
    let (kept, _) = push(&store, &ledger, &home, "b", &small);
    assert_eq!(kept.new_bytes, 0);
    ledger.content_remove(content);
    let plan = plan(&store, &ledger);
    assert_eq!(plan.rewrite.len(), 1);
    assert!(plan.bytes_rewritten >= kept.stored_bytes && plan.bytes_rewritten < 2 << 20, "{plan}");
    let done = run(&store, &ledger, &plan);
    assert_eq!(done.rewritten, 1);
    prune_all(&store, &ledger);
    let packs: Vec<_> = ledger.rows().into_iter().filter(|row| row.kind == BlobKind::Pack).collect();
    assert_eq!(packs.iter().filter(|row| row.state == BlobState::Live).count(), 1);
    assert_eq!(packs.iter().filter(|row| row.state == BlobState::Gone).count(), 1);
    assert!(read_back(&store, &ledger, &[home], &kept.root).unwrap() == small);
    assert_clean(&store, &ledger);
}

#[test]
fn what_cannot_be_read_holds_its_space_back() {
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    let (home, other) = (space("u-1"), space("u-2"));
    push(&store, &ledger, &home, "a", &image(&[1, 2]));
    let (_, gone) = push(&store, &ledger, &home, "b", &image(&[3, 4]));
    let (_, gone_too) = push(&store, &ledger, &other, "c", &image(&[3, 4]));
    ledger.content_remove(gone);
    ledger.content_remove(gone_too);
    let manifests: Vec<_> = ledger.rows().into_iter().filter(|row| row.kind == BlobKind::Manifest).collect();
    for row in manifests.iter().filter(|row| row.upload.as_deref() == Some("a")) {
        std::fs::write(folder.path().join("blobs").join(&row.key), b"rot").unwrap();
    }
    let plan = plan(&store, &ledger);
    assert_eq!(plan.held_back.len(), 1, "{plan}");
    assert!(plan.doom.iter().all(|doom| doom.space == other), "{plan:?}");
    assert_eq!(plan.doom.len(), 3);
}

#[test]
fn an_interrupted_deletion_is_swept() {
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    let (_, content) = push(&store, &ledger, &home, "a", &image(&[1]));
    ledger.content_remove(content);
    run(&store, &ledger, &plan(&store, &ledger));
    for row in ledger.rows() {
        // The rows went, the process died before the blobs did.
        assert!(ledger.blob_gone(&row.id).unwrap());
    }
    assert_eq!(lab::check(&store, &ledger).leftovers, 3);
    let plan = plan(&store, &ledger);
    assert_eq!(plan.sweep.len(), 3);
    assert_eq!(run(&store, &ledger, &plan).swept, 3);
    assert_eq!(lab::check(&store, &ledger).leftovers, 0);
}

#[test]
fn doomed_copies_of_a_needed_chunk_all_come_back() {
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    let bytes = image(&[1]);
    let (a, _) = push(&store, &ledger, &home, "a", &bytes);
    // A second copy of the same chunks, as two uploads at once make them.
    let manifest = store.manifest_read(std::slice::from_ref(&home), &a.root, &ledger).unwrap();
    let segment = store.segment_read(std::slice::from_ref(&home), &manifest.segments[0], &ledger).unwrap();
    let mut frame = slipway_chunk::FrameBuilder::new();
    for (at, id, len) in segment.chunks() {
        frame.push(id, &bytes[at as usize..at as usize + len as usize]);
    }
    let frame = frame.take().encode(3).bytes;
    let to = slipway_store::ReceiveSpec { space: home.clone(), upload: "b".to_owned() };
    store.frames_receive(&to, &mut frame.as_slice(), &ledger).unwrap();
    let packs = || ledger.rows().into_iter().filter(|row| row.kind == BlobKind::Pack);
    assert_eq!(packs().count(), 2);
    // Of two live copies one is enough.
    assert_eq!(plan(&store, &ledger).doom.len(), 1);
    // Two servers whose plans crossed doomed one each. Whichever a mark finds, it must not be the
    // reason to delete the other, because the next mark may find that one.
    for row in packs() {
        assert!(ledger.blob_doom(&row.id, row.touched).unwrap());
    }
    ledger.now_set(100 * HOUR);
    let plan = plan(&store, &ledger);
    assert_eq!((plan.revive.len(), plan.delete.len()), (2, 0));
    assert!(read_back(&store, &ledger, std::slice::from_ref(&home), &a.root).unwrap() == bytes, "doomed is readable");
    run(&store, &ledger, &plan);
    prune_all(&store, &ledger);
    assert!(read_back(&store, &ledger, &[home], &a.root).unwrap() == bytes);
    assert_eq!(packs().filter(|row| row.state == BlobState::Live).count(), 1);
}

#[derive(Debug, Clone)]
enum Step {
    Ingest { home: bool, tiles: Vec<u8> },
    Commit { nth: usize },
    Remove { nth: usize },
    Copy { nth: usize },
    Plan,
    Run { nth: usize },
    Hours(u8),
    Reopen,
    Lease(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let tiles = prop_oneof![
        3 => proptest::collection::vec(0..12u8, 1..10),
        // Two frames and more, of which a later image may use one.
        1 => (1..4u8).prop_map(|n| [n, 0].into_iter().chain(20 + n..42 + n).collect()),
    ];
    prop_oneof![
        5 => (any::<bool>(), tiles).prop_map(|(home, tiles)| Step::Ingest { home, tiles }),
        5 => any::<usize>().prop_map(|nth| Step::Commit { nth }),
        3 => any::<usize>().prop_map(|nth| Step::Remove { nth }),
        1 => any::<usize>().prop_map(|nth| Step::Copy { nth }),
        4 => Just(Step::Plan),
        4 => any::<usize>().prop_map(|nth| Step::Run { nth }),
        2 => (0..30u8).prop_map(Step::Hours),
        1 => Just(Step::Reopen),
        1 => any::<bool>().prop_map(Step::Lease),
    ]
}

struct World {
    folder: tempfile::TempDir,
    store: Arc<Store>,
    ledger: MemoryLedger,
    pending: Vec<(Prepared, SpaceId, Vec<u8>)>,
    kept: BTreeMap<u64, (Prepared, SpaceId, Vec<u8>)>,
    plans: Vec<PrunePlan>,
}

impl World {
    fn step(&mut self, step: &Step) {
        let pick = |nth: usize, len: usize| if len == 0 { None } else { Some(nth % len) };
        let spec = PruneSpec { rewrite_below: 0.7, ..prune_spec(self.ledger.now()) };
        match step {
            Step::Ingest { home, tiles } => {
                let home = space(if *home { "u-1" } else { "u-2" });
                let bytes = image(tiles);
                let prepared = ingest(&self.store, &self.ledger, &home, "up", &bytes).unwrap();
                self.pending.push((prepared, home, bytes));
            }
            Step::Commit { nth } => {
                if let Some(nth) = pick(*nth, self.pending.len()) {
                    let (prepared, home, bytes) = self.pending.swap_remove(nth);
                    if let Ok(id) = self.ledger.content_commit(&prepared, std::slice::from_ref(&home)) {
                        self.kept.insert(id, (prepared, home, bytes));
                    }
                }
            }
            Step::Remove { nth } => {
                if let Some(nth) = pick(*nth, self.kept.len()) {
                    let id = *self.kept.keys().nth(nth).unwrap();
                    self.kept.remove(&id);
                    self.ledger.content_remove(id);
                }
            }
            Step::Copy { nth } => {
                if let Some(nth) = pick(*nth, self.kept.len()) {
                    let (prepared, home, bytes) = self.kept.values().nth(nth).unwrap().clone();
                    let shared = space("shared");
                    let to =
                        slipway_store::PrepareSpec { space: shared.clone(), lookup: vec![], upload: "cp".to_owned() };
                    let from = [home];
                    let copy = self.store.content_copy(&from, &prepared.root, &to, &self.ledger, &mut quiet()).unwrap();
                    self.pending.push((copy, shared, bytes));
                }
            }
            Step::Plan => self.plans.push(self.store.prune_plan(&spec, &self.ledger, &mut quiet()).unwrap()),
            Step::Run { nth } => {
                if let Some(nth) = pick(*nth, self.plans.len()) {
                    match self.store.prune_run(&self.plans[nth], &self.ledger, &|| false, &mut quiet()) {
                        Ok(_) | Err(StoreError::PlanStale) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            }
            Step::Hours(hours) => self.ledger.now_set(self.ledger.now() + i64::from(*hours) * HOUR),
            Step::Reopen => self.store = lab::store(self.folder.path()),
            Step::Lease(true) => self.ledger.upload_open("up"),
            Step::Lease(false) => self.ledger.upload_close("up"),
        }
    }

    fn all_read_back(&self) {
        for (prepared, home, bytes) in self.kept.values() {
            let read = read_back(&self.store, &self.ledger, std::slice::from_ref(home), &prepared.root);
            assert!(read.unwrap() == *bytes);
        }
    }
}

proptest! {
    #![proptest_config(Config { cases: 64, ..Config::default() })]
    #[test]
    fn nothing_reachable_is_ever_taken(steps in proptest::collection::vec(step(), 1..40)) {
        let folder = folder();
        let store = lab::store(folder.path());
        let mut world = World {
            folder, store, ledger: MemoryLedger::new(), pending: vec![], kept: BTreeMap::new(), plans: vec![],
        };
        for step in &steps {
            world.step(step);
        }
        world.all_read_back();
        assert_clean(&world.store, &world.ledger);
        // And in the end nothing else stays.
        world.ledger.upload_close("up");
        world.pending.clear();
        prune_all(&world.store, &world.ledger);
        world.all_read_back();
        assert_clean(&world.store, &world.ledger);
        let live = world.ledger.blobs_in(&[BlobState::Live]).unwrap().len();
        let mut blobs = 0;
        for prefix in ["packs", "segments", "manifests"] {
            let all = slipway_store::Blobs::local(&world.folder.path().join("blobs"), Default::default()).unwrap();
            all.list(prefix, &mut |_| blobs += 1).unwrap();
        }
        assert_eq!(blobs, live);
        if world.kept.is_empty() {
            assert_eq!(live, 0);
        }
    }
}
