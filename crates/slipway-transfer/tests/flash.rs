//! Flash against a server in memory: over anything, through every fault.

#![allow(clippy::unwrap_used)]

#[path = "origin/images.rs"]
mod images;
#[allow(dead_code)]
mod origin;

use images::{Chance, changed, image};
use origin::{FAULTS, Fault, Origin, image_ref};
use slipway_chunk::{ChunkId, ChunkerParams, Run, Scan, SparseRead, Stream};
use slipway_disk::{Fault as DiskFault, Faults, Target, TargetOptions, TargetReader, target_open, target_open_to_read};
use slipway_transfer::{
    Caps, Control, Event, FlashOptions, Flashed, PushOptions, RemoteContent, Source, Step, TransferError, flash, push,
    target_verify,
};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const MIB: usize = 1 << 20;

struct Bench {
    origin: Origin,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        Self { origin: Origin::start().await, folder: tempfile::tempdir().unwrap() }
    }

    /// Makes the newest version hold these bytes.
    async fn put(&self, bytes: &[u8]) -> RemoteContent {
        let reading: Box<dyn SparseRead + Send> = Box::new(Stream(std::io::Cursor::new(bytes.to_vec())));
        let source = Source::once("memory", None, reading);
        let client = self.origin.client();
        push(&client, source, &PushOptions::new(image_ref()), &Control::quiet()).await.unwrap();
        RemoteContent::open(&client, &"me/os".parse().unwrap()).await.unwrap()
    }

    fn target_file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join("target");
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn open(content: &RemoteContent, path: &Path, faults: Faults) -> Target {
    target_open(path, &content.shape(), &TargetOptions::default(), faults).unwrap()
}

fn open_to_read(content: &RemoteContent, path: &Path) -> TargetReader {
    target_open_to_read(path, &content.shape(), Faults::none()).unwrap()
}

async fn flash_to(content: &RemoteContent, path: &Path, options: &FlashOptions) -> Result<Flashed, TransferError> {
    flash(content, open(content, path, Faults::none()), options, &Control::quiet()).await
}

/// Bytes of the chunks of `new` that `old` has nowhere.
fn new_bytes(old: &[u8], new: &[u8]) -> u64 {
    let chunks = |bytes: &[u8]| {
        let mut scan = Scan::new(Stream(std::io::Cursor::new(bytes.to_vec())), ChunkerParams::default());
        let mut found = Vec::new();
        while let Some(run) = scan.next().unwrap() {
            if let Run::Data { bytes, .. } = run {
                found.push((ChunkId::of(bytes), bytes.len() as u64));
            }
        }
        found
    };
    let old: HashSet<_> = chunks(old).into_iter().collect();
    chunks(new).into_iter().filter(|chunk| !old.contains(chunk)).map(|(_, len)| len).sum()
}

/// What may be left of a target: the old bytes, the new ones, or something that cannot boot. The rest of the first MiB comes before
/// its first 8 KiB, so a disk that goes away in between may show it; a write that stops half-way may be the very first, which zeroes these.
fn is_safe(now: &[u8], old: &[u8], new: &[u8]) -> bool {
    let is_zero = |len: usize| now[..len].iter().all(|byte| *byte == 0);
    now == old || now == new || is_zero(8192) || (is_zero(4096) && now[4096..] == old[4096..])
}

#[tokio::test(flavor = "multi_thread")]
async fn any_target_becomes_the_image_whatever_the_bounds() {
    let bench = Bench::new().await;
    for seed in 0..24_u64 {
        let mut chance = Chance(seed);
        let old = image(seed / 3, 1500, if seed % 2 == 0 { 0 } else { 700 });
        let new = changed(seed + 100, &old);
        let content = bench.put(&new).await;
        let path = bench.target_file(&old);
        let caps = match seed % 4 {
            0 => Caps::default(),
            1 => Caps { index: 0, moves: 0, held: 0, prints: 0, ..Caps::default() },
            _ => Caps {
                index: chance.below(300) as usize,
                moves: chance.below(300) as usize,
                prints: chance.below(1000) as usize,
                held: chance.below(1 << 20),
                gap: chance.below(10_000) as u32,
                range: chance.below(600_000) as u32,
                range_raw: chance.below(1 << 20) as u32,
                needs: chance.below(500) as usize,
            },
        };
        let options = FlashOptions { caps, connections: 1 + seed as usize % 5, ..FlashOptions::default() };
        let planned = Arc::new(AtomicU64::new(0));
        let seen = planned.clone();
        let control = Control::new(move |event| {
            if let Event::Plan { fetched, .. } = event {
                seen.store(fetched, Ordering::Relaxed);
            }
        });
        let done = flash(&content, open(&content, &path, Faults::none()), &options, &control).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == new, "seed {seed} {caps:?}");
        if caps == Caps::default() {
            // The target is cut where it differs only, so a chunk here and there is not found.
            let (planned, least) = (planned.load(Ordering::Relaxed), new_bytes(&old, &new));
            assert!(planned <= least + least / 4 + (256 << 10), "seed {seed}: {planned} fetched, {least} would do");
        }
        let differing: usize =
            old.chunks(4096).zip(new.chunks(4096)).filter(|(a, b)| a != b).map(|(a, _)| a.len()).sum();
        assert_eq!(done.written_bytes + done.zeroed_bytes, differing as u64, "seed {seed}: {done:?}");
        // The first MiB is written as a whole, whatever differed in it, so all of it is read back.
        let guarded = if differing == 0 { 0 } else { new.len().min(1 << 20) };
        assert!(done.verified_bytes >= (differing.max(guarded)) as u64, "seed {seed}: {done:?}");

        let before = bench.origin.kept().blob_requests;
        let again = flash_to(&content, &path, &options).await.unwrap();
        assert!(again.unchanged && again.written_bytes + again.zeroed_bytes + again.fetched_bytes == 0);
        assert_eq!(bench.origin.kept().blob_requests, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_the_target_is_not_fetched() {
    let bench = Bench::new().await;
    let old = image(50, 6000, 0);
    for (what, by, fetched_max) in [("the same", 0, 0), ("up", 777, 300 << 10), ("down", -1234_i64, 300 << 10)] {
        let mut new = vec![0; old.len()];
        let shift = by.unsigned_abs() as usize * 4096;
        match by >= 0 {
            true => new[shift..].copy_from_slice(&old[..old.len() - shift]),
            false => new[..old.len() - shift].copy_from_slice(&old[shift..]),
        }
        let content = bench.put(&new).await;
        let path = bench.target_file(&old);
        // Without memory for held chunks: a shift needs none.
        let caps = Caps { held: 0, ..Caps::default() };
        let done = flash_to(&content, &path, &FlashOptions { caps, ..FlashOptions::default() }).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == new, "{what}");
        assert!(done.fetched_bytes <= fetched_max, "{what}: {done:?}");
        assert_eq!(done.moved_bytes > 0, by != 0, "{what}: {done:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_the_network_ends_well() {
    let bench = Bench::new().await;
    let old = image(60, 900, 0);
    let new = image(61, 900, 0);
    let content = bench.put(&new).await;
    let caps = Caps { range: 200_000, ..Caps::default() };
    let options = FlashOptions { caps, ..FlashOptions::default() };
    for fault in FAULTS {
        for lead in [0, 3] {
            let path = bench.target_file(&old);
            {
                let mut kept = bench.origin.kept();
                kept.findings.clear();
                // Requests before it go well only if they ask for nothing of an ended generation.
                kept.faults = std::iter::repeat_n(Fault::Cut, lead).chain([fault]).collect();
            }
            let done = flash_to(&content, &path, &options).await;
            assert!(done.is_ok(), "{fault:?} after {lead}: {}", done.unwrap_err());
            assert!(std::fs::read(&path).unwrap() == new, "{fault:?}");
            assert_eq!(!bench.origin.kept().findings.is_empty(), fault == Fault::Flip, "{fault:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stays_wrong_is_named_and_the_target_safe() {
    let bench = Bench::new().await;
    let (old, new) = (image(70, 700, 0), image(71, 700, 0));
    let content = bench.put(&new).await;
    for (fault, exit) in [
        (Fault::Flip, 7),
        (Fault::Cut, 9),
        (Fault::Whole, 1),
        (Fault::Elsewhere, 1),
        (Fault::Short, 9),
        (Fault::Gone, 3),
        (Fault::Expired, 4),
    ] {
        let path = bench.target_file(&old);
        bench.origin.kept().always = Some(fault);
        let done = flash_to(&content, &path, &FlashOptions::default()).await;
        let Err(why) = done else { panic!("{fault:?}: {done:?}") };
        assert_eq!(why.exit_code(), exit, "{fault:?}: {why}");
        assert!(is_safe(&std::fs::read(&path).unwrap(), &old, &new), "{fault:?}");
        bench.origin.kept().always = None;
        flash_to(&content, &path, &FlashOptions::default()).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == new, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_the_disk_leaves_a_safe_target() {
    let bench = Bench::new().await;
    let old = image(80, 400, 0);
    let mut new = changed(81, &old);
    new[..8192].fill(3);
    new.copy_within(4096 * 50..4096 * 90, 4096 * 300);
    let content = bench.put(&new).await;
    let every = std::env::var_os("SLIPWAY_TEST_ALL").is_some_and(|text| !text.is_empty() && text != "0");
    for kind in [DiskFault::Error, DiskFault::ShortWrite, DiskFault::NoSpace, DiskFault::Gone] {
        let (mut n, mut failed) = (0, 0);
        loop {
            let path = bench.target_file(&old);
            let faults = Faults::nth(n, kind);
            let opened = target_open(&path, &content.shape(), &TargetOptions::default(), faults.clone());
            let done = match opened {
                Ok(target) => flash(&content, target, &FlashOptions::default(), &Control::quiet()).await.map(drop),
                Err(why) => Err(why.into()),
            };
            let now = std::fs::read(&path).unwrap();
            match done {
                // A fault that strikes nothing, or one that was got over, such as a refused punch.
                Ok(()) => assert!(now == new, "{kind:?} {n}"),
                Err(_) => {
                    failed += 1;
                    assert!(is_safe(&now, &old, &new), "{kind:?} {n}: a mixture that may boot");
                    flash_to(&content, &path, &FlashOptions::default()).await.unwrap();
                    assert!(std::fs::read(&path).unwrap() == new, "{kind:?} {n}");
                }
            }
            if faults.seen() <= n {
                break;
            }
            // The first operations one by one, then a sample; every one when everything is asked for.
            n += if every { 1 } else { 1 + n / 12 };
        }
        assert!(failed > 5, "{kind:?} struck {failed} times");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_flash_goes_on_later() {
    let bench = Bench::new().await;
    let (old, new) = (image(90, 4000, 0), image(91, 4000, 0));
    let content = bench.put(&new).await;
    let caps = Caps { range: 100_000, ..Caps::default() };
    let options = FlashOptions { caps, connections: 2, ..FlashOptions::default() };
    for (step, bytes) in [(Step::Compare, 1), (Step::Fetch, 5 << 20), (Step::Zero, 0), (Step::Verify, 0)] {
        let path = bench.target_file(&old);
        let cancel = slipway_transfer::Cancel::new();
        let stop = cancel.clone();
        let mut control = Control::new(move |event| {
            if matches!(event, Event::Progress { step: at, bytes: done, .. } if at == step && done >= bytes) {
                stop.cancel();
            }
        });
        control.cancel = cancel;
        let target = open(&content, &path, Faults::none());
        let why = flash(&content, target, &options, &control).await.unwrap_err();
        assert_eq!(why.exit_code(), 130, "{step}: {why}");
        let now = std::fs::read(&path).unwrap();
        match step {
            Step::Compare => assert!(now == old, "{step}"),
            _ => assert!(now[..MIB].iter().all(|byte| *byte == 0), "{step}"),
        }
        let done = flash_to(&content, &path, &options).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == new, "{step}");
        assert_eq!(done.resumed, step != Step::Compare, "{step}: {done:?}");
        assert!(step == Step::Compare || done.matched_bytes >= 3 << 20, "{step}: {done:?}");
    }
    // A server that does not answer does not hold up who wants to stop.
    bench.origin.kept().delay = Some(Duration::from_secs(30));
    let path = bench.target_file(&old);
    let control = Control::quiet();
    let cancel = control.cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cancel.cancel();
    });
    let begun = std::time::Instant::now();
    let target = open(&content, &path, Faults::none());
    assert_eq!(flash(&content, target, &options, &control).await.unwrap_err().exit_code(), 130);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_what_differs_and_the_tail_stays() {
    let bench = Bench::new().await;
    let new = image(95, 2000, 0);
    let content = bench.put(&new).await;
    let mut target = new.clone();
    target.extend_from_slice(&[7; 3 * 4096]);
    let path = bench.target_file(&target);
    let checked = target_verify(&content, open_to_read(&content, &path), &Control::quiet()).await.unwrap();
    assert!(checked.same && checked.ranges.is_empty() && checked.tail_bytes == 3 * 4096, "{checked:?}");
    for at in [0, 4096 * 700 + 17, new.len() - 1] {
        let mut wrong = target.clone();
        wrong[at] ^= 1;
        let path = bench.target_file(&wrong);
        let checked = target_verify(&content, open_to_read(&content, &path), &Control::quiet()).await.unwrap();
        assert!(!checked.same && checked.ranges.len() == 1, "{at}: {checked:?}");
        let range = checked.ranges[0];
        assert!((range.at..range.at + range.len).contains(&(at as u64)), "{at}: {range:?}");
        let done = flash_to(&content, &path, &FlashOptions::default()).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == target, "{at}");
        assert_eq!((done.written_bytes + done.zeroed_bytes, done.tail_bytes), (4096, 3 * 4096), "{at}");
    }
}
