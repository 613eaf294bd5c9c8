//! A hundred thousand versions in one store.
#![allow(clippy::unwrap_used)]

mod lab;

use std::time::Instant;

use lab::{folder, noise, prune_spec, push, quiet, read_back, space};
use slipway_store::{Blobs, CheckSpec, Faults, MemoryLedger, Store, StoreConfig};

fn many(versions: u64) {
    let folder = folder();
    let open = || {
        let blobs = Blobs::local(&folder.path().join("blobs"), Faults::none()).unwrap();
        Store::open(blobs, StoreConfig { workers: 0, ..StoreConfig::default() }, Faults::none()).unwrap()
    };
    let store = open();
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    let bytes = |n: u64| noise(n + 1, 4096);
    let mut prepared = Vec::new();
    let begun = Instant::now();
    for n in 0..versions {
        prepared.push(push(&store, &ledger, &home, "up", &bytes(n)));
    }
    eprintln!("{versions} pushed in {:?}", begun.elapsed());
    let begun = Instant::now();
    let store = open();
    store.index_sync(&ledger).unwrap();
    eprintln!("indexed in {:?}", begun.elapsed());
    for n in (0..versions).step_by((versions / 100).max(1) as usize) {
        let root = &prepared[n as usize].0.root;
        assert!(read_back(&store, &ledger, std::slice::from_ref(&home), root).unwrap() == bytes(n));
    }
    for (_, content) in prepared.iter().skip(1).step_by(2) {
        ledger.content_remove(*content);
    }
    let begun = Instant::now();
    let plan = store.prune_plan(&prune_spec(0), &ledger, &mut quiet()).unwrap();
    assert_eq!(plan.doom.len() as u64, versions / 2 * 3);
    store.prune_run(&plan, &ledger, &|| false, &mut quiet()).unwrap();
    eprintln!("planned and doomed in {:?}", begun.elapsed());
    let begun = Instant::now();
    let report = store.check(&CheckSpec { read_data: true, repair: false }, &ledger, &mut quiet()).unwrap();
    assert!(report.is_clean());
    eprintln!("checked in {:?}", begun.elapsed());
}

#[test]
fn a_thousand_versions() {
    many(1000);
}

#[test]
#[ignore = "long: part of test --all"]
fn long_a_hundred_thousand_versions() {
    many(100_000);
}

#[test]
fn no_versions() {
    let folder = folder();
    let store = lab::store(folder.path());
    let ledger = MemoryLedger::new();
    assert!(store.prune_plan(&prune_spec(0), &ledger, &mut quiet()).unwrap().is_empty());
    let report = lab::check(&store, &ledger);
    assert!(report.is_clean() && report.blobs == 0);
}
