//! Every step fails once: nothing acknowledged is lost, nothing half done is visible.
#![allow(clippy::unwrap_used)]

mod lab;

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lab::{
    HOUR, HookedLedger, assert_clean, check, folder, image, ingest, prune_spec, push, quiet, read_back, space, store,
    store_with,
};
use slipway_chunk::Stream;
use slipway_store::{BlobState, FaultMode, Faults, Ledger, LedgerError, MemoryLedger, SpaceId, Store, StoreError};

const MODES: [FaultMode; 3] = [FaultMode::Error, FaultMode::ShortWrite, FaultMode::NoSpace];

fn first() -> Vec<u8> {
    image(&[1, 2, 3, 4, 5, 6, 7, 8])
}

fn garbage() -> Vec<u8> {
    image(&[50, 0].into_iter().chain(51..71).collect::<Vec<_>>())
}

fn second() -> Vec<u8> {
    image(&[1, 2, 20, 21, 22, 23, 0, 5, 6, 24, 25, 26, 27])
}

/// What a sweep does again and again.
type Act<'a> = dyn Fn(&Arc<Store>, &MemoryLedger, &SpaceId) -> Result<(), StoreError> + 'a;

/// One sweep: `act` with the n-th operation failing, for every n, on a store that holds `first`.
fn sweep(act: &Act<'_>, after: &dyn Fn(&Path, &MemoryLedger)) {
    for mode in MODES {
        for n in 0.. {
            let folder = folder();
            let ledger = MemoryLedger::new();
            let home = space("u-1");
            push(&store(folder.path()), &ledger, &home, "a", &first());
            let faults = Faults::fail_nth(n, mode);
            let result = store_with(folder.path(), faults.clone()).and_then(|store| {
                let result = act(&store, &ledger, &home);
                if store.is_poisoned() {
                    let refused = ingest(&store, &ledger, &home, "p", &first());
                    assert!(matches!(refused, Err(StoreError::Poisoned)), "{mode:?} {n}: {refused:?}");
                }
                result
            });
            // The process is started again; whatever is visible must be whole.
            let again = store(folder.path());
            for content in ledger.contents().unwrap() {
                let bytes = read_back(&again, &ledger, &content.spaces, &content.root).unwrap();
                let known = [first(), second(), garbage(), image(&[50, 0, 1])];
                assert!(known.contains(&bytes), "{mode:?} {n}");
            }
            let report = check(&again, &ledger);
            assert!(report.is_clean(), "{mode:?} {n}: {:#?}", report.findings);
            after(folder.path(), &ledger);
            if !faults.fired() {
                result.unwrap();
                assert!(n > 3, "the sweep swept {n} operations");
                break;
            }
        }
    }
}

#[test]
fn ingest_survives_any_fault() {
    let act = |store: &Arc<Store>, ledger: &MemoryLedger, home: &SpaceId| {
        let prepared = ingest(store, ledger, home, "b", &second())?;
        // The server's commit asks the poison last.
        store.poison_check()?;
        ledger.content_commit(&prepared, std::slice::from_ref(home))?;
        Ok(())
    };
    sweep(&act, &|path, ledger| {
        let store = store(path);
        push(&store, ledger, &space("u-1"), "c", &second());
        lab::prune_all(&store, ledger);
        assert_clean(&store, ledger);
        assert!(ledger.blobs_in(&[BlobState::Staged, BlobState::Doomed]).unwrap().is_empty());
    });
}

#[test]
fn restore_never_gives_a_wrong_byte() {
    let act = |store: &Arc<Store>, ledger: &MemoryLedger, home: &SpaceId| {
        let root = ledger.contents().unwrap()[0].root;
        let bytes = read_back(store, ledger, std::slice::from_ref(home), &root)?;
        assert!(bytes == first());
        Ok(())
    };
    sweep(&act, &|_, _| ());
}

#[test]
fn prune_survives_any_fault() {
    let most = std::cell::Cell::new(0);
    let act = |store: &Arc<Store>, ledger: &MemoryLedger, home: &SpaceId| {
        // Of a pack of three frames one stays in use, so that it is rewritten.
        let prepared = ingest(store, ledger, home, "b", &garbage())?;
        store.poison_check()?;
        let content = ledger.content_commit(&prepared, std::slice::from_ref(home))?;
        let prepared = ingest(store, ledger, home, "c", &image(&[50, 0, 1]));
        ledger.content_remove(content);
        let prepared = prepared?;
        store.poison_check()?;
        ledger.content_commit(&prepared, std::slice::from_ref(home))?;
        let mut rewritten = 0;
        for _ in 0..3 {
            ledger.now_set(ledger.now() + 25 * HOUR);
            let plan = store.prune_plan(&prune_spec(ledger.now()), ledger, &mut quiet())?;
            rewritten += store.prune_run(&plan, ledger, &|| false, &mut quiet())?.rewritten;
        }
        most.set(most.get().max(rewritten));
        Ok(())
    };
    sweep(&act, &|path, ledger| {
        // What the interrupted act left visible may go; what is `first` or `second` stays.
        let store = store(path);
        lab::prune_all(&store, ledger);
        assert_clean(&store, ledger);
        let mut blobs = 0;
        let all = slipway_store::Blobs::local(&path.join("blobs"), Faults::none()).unwrap();
        for prefix in ["packs", "segments", "manifests"] {
            all.list(prefix, &mut |_| blobs += 1).unwrap();
        }
        assert_eq!(blobs, ledger.blobs_in(&[BlobState::Live]).unwrap().len());
    });
    assert_eq!(most.get(), 1, "a pack was rewritten");
}

#[test]
fn s3_ingest_survives_any_fault() {
    let mut lab = lab::s3_lab();
    let home = space("u-1");
    let spaces = [home.clone()];
    for mode in [FaultMode::Error, FaultMode::ShortWrite] {
        for n in 0.. {
            // A folder of its own for each try.
            lab.config.prefix = format!("{mode:?}/{n}");
            let open = |faults: Faults| Store::open(lab.blobs(faults.clone()), lab::config(), faults).unwrap();
            let ledger = MemoryLedger::new();
            let (kept, _) = push(&open(Faults::none()), &ledger, &home, "a", &image(&[1, 2, 3]));
            let faults = Faults::fail_nth(n, mode);
            let bytes = image(&[1, 2, 20, 0, 21]);
            let store = open(faults.clone());
            let acknowledged = ingest(&store, &ledger, &home, "b", &bytes)
                .and_then(|prepared| Ok((ledger.content_commit(&prepared, &spaces)?, prepared)));
            let again = open(Faults::none());
            assert!(read_back(&again, &ledger, &spaces, &kept.root).unwrap() == image(&[1, 2, 3]));
            if let Ok((_, prepared)) = &acknowledged {
                assert!(read_back(&again, &ledger, &spaces, &prepared.root).unwrap() == bytes);
            }
            assert_clean(&again, &ledger);
            lab::prune_all(&again, &ledger);
            assert_clean(&again, &ledger);
            if !faults.fired() {
                acknowledged.unwrap();
                assert!(n > 4, "the sweep swept {n} operations");
                break;
            }
        }
    }
}

#[test]
fn rows_that_fail_lose_nothing() {
    for after in [false, true] {
        for n in 0.. {
            let folder = folder();
            let rows = MemoryLedger::new();
            let home = space("u-1");
            let store = store(folder.path());
            push(&store, &rows, &home, "a", &first());
            let (_, garbage) = push(&store, &rows, &home, "a", &image(&[1, 40, 41, 42, 43, 44, 45, 46]));
            rows.content_remove(garbage);
            let calls = AtomicU64::new(0);
            let hit = |is_after: bool| {
                let n_now = calls.fetch_add(u64::from(is_after), Ordering::Relaxed);
                if n_now == n && is_after == after { Err(LedgerError::rows("planned fault")) } else { Ok(()) }
            };
            let flaky = HookedLedger::new(&rows, |_| hit(false), |_| hit(true));
            let act = || -> Result<(), StoreError> {
                let source = second();
                let mut source = Stream(Cursor::new(source.as_slice()));
                let prepared = store.ingest(&lab::spec(&home, "b"), &mut source, &flaky, &mut quiet())?;
                rows.content_commit(&prepared, std::slice::from_ref(&home))?;
                for _ in 0..3 {
                    rows.now_set(rows.now() + 25 * HOUR);
                    let plan = store.prune_plan(&prune_spec(rows.now()), &flaky, &mut quiet())?;
                    store.prune_run(&plan, &flaky, &|| false, &mut quiet())?;
                }
                Ok(())
            };
            let result = act();
            for content in rows.contents().unwrap() {
                read_back(&store, &rows, &content.spaces, &content.root).unwrap();
            }
            assert_clean(&store, &rows);
            lab::prune_all(&store, &rows);
            for content in rows.contents().unwrap() {
                read_back(&store, &rows, &content.spaces, &content.root).unwrap();
            }
            assert_clean(&store, &rows);
            if calls.load(Ordering::Relaxed) < n {
                result.unwrap();
                break;
            }
        }
    }
}
