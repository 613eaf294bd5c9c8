//! The process dies at every crash point: nothing acknowledged is lost. The test starts itself as the victim.
#![allow(clippy::unwrap_used)]

mod lab;

use std::process::Command;

use lab::{HOUR, image, prune_spec, push, quiet, space, store};
use slipway_store::{CRASH_POINTS, CheckSpec, MemoryLedger};

/// What the victim does: two images, one let go, two prunes with a rewrite, a repair.
#[test]
fn victim() {
    let Ok(folder) = std::env::var("SLIPWAY_STORE_VICTIM") else { return };
    let store = store(folder.as_ref());
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    // Of a pack of three frames one stays in use.
    let garbage = image(&[4, 0].into_iter().chain(5..25).collect::<Vec<_>>());
    push(&store, &ledger, &home, "a", &image(&[1, 2, 3]));
    let (_, content) = push(&store, &ledger, &home, "b", &garbage);
    push(&store, &ledger, &home, "c", &image(&[4, 0, 20]));
    ledger.content_remove(content);
    for _ in 0..2 {
        ledger.now_set(ledger.now() + 25 * HOUR);
        let plan = store.prune_plan(&prune_spec(ledger.now()), &ledger, &mut quiet()).unwrap();
        store.prune_run(&plan, &ledger, &|| false, &mut quiet()).unwrap();
    }
    let row = ledger.rows().into_iter().find(|row| row.is_readable()).unwrap();
    std::fs::write(std::path::Path::new(&folder).join("blobs").join(&row.key), b"rot").unwrap();
    store.check(&CheckSpec { read_data: true, repair: true }, &ledger, &mut quiet()).unwrap();
}

#[test]
fn every_crash_point_is_passed() {
    let run = |at: &str| {
        let folder = lab::folder();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim"])
            .env("SLIPWAY_STORE_VICTIM", folder.path())
            .env("SLIPWAY_CRASH_AT", at)
            .output()
            .unwrap()
            .status;
        status.success()
    };
    assert!(run("nowhere"));
    for point in CRASH_POINTS {
        assert!(!run(point), "{point} is never passed");
        assert!(run(&format!("{point}:100000")), "{point} dies too early");
    }
}
