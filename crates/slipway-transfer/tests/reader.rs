//! Reading at any place, against a server in memory: from many threads, through every fault, with a folder that is damaged.

#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "origin/images.rs"]
mod images;
#[allow(dead_code)]
mod origin;

use images::{Chance, changed, image};
use origin::{FAULTS, Fault, Origin, image_ref};
use slipway_chunk::{SparseRead, Stream};
use slipway_transfer::{
    Cancel, Control, FolderOptions, FrameCache, PushOptions, ReaderOptions, RemoteReader, Source, TransferError, push,
};
use std::path::Path;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// Makes the newest version hold these bytes.
async fn put(origin: &Origin, bytes: &[u8]) {
    let reading: Box<dyn SparseRead + Send> = Box::new(Stream(std::io::Cursor::new(bytes.to_vec())));
    let source = Source::once("memory", None, reading);
    push(&origin.client(), source, &PushOptions::new(image_ref()), &Control::quiet()).await.unwrap();
}

async fn reader(origin: &Origin, number: &str, cache: &FrameCache, options: ReaderOptions) -> RemoteReader {
    RemoteReader::open(&origin.client(), &number.parse().unwrap(), cache, options).await.unwrap()
}

fn quick() -> ReaderOptions {
    ReaderOptions { patience: Duration::from_millis(2500), ..ReaderOptions::default() }
}

fn folder_cache(memory: u64, path: &Path) -> FrameCache {
    // What the cache before was asked last may still be on its way, and holds the folder until then.
    for _ in 0..500 {
        match FrameCache::with_folder(memory, &FolderOptions { path: path.to_owned(), bytes: 64 * MIB }) {
            Err(TransferError::Io { source, .. }) if source.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            cache => return cache.unwrap(),
        }
    }
    panic!("the folder of an earlier cache stays held");
}

/// A thread of its own, as a FUSE or NBD thread would be.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn random_reads(reader: &RemoteReader, bytes: &[u8], seed: u64, count: u64) -> Result<(), TransferError> {
    let mut chance = Chance(seed);
    for n in 0..count {
        let most = [4096, 100, 128 << 10, 3 << 20][n as usize % 4];
        let len = (1 + chance.below(most) as usize).min(bytes.len());
        let at = chance.below((bytes.len() - len) as u64 + 1) as usize;
        let mut buf = vec![0xaa; len];
        if !reader.read_local(at as u64, &mut buf)? {
            reader.read_at(at as u64, &mut buf)?;
        }
        assert!(buf == bytes[at..at + len], "seed {seed}: {len} bytes at {at}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn any_place_of_several_versions_from_many_threads_within_the_bound() {
    let origin = Origin::start().await;
    let old = image(1, 3000, 700);
    let new = changed(2, &old);
    put(&origin, &old).await;
    put(&origin, &new).await;
    for (memory, ahead) in [(64 * MIB, 16 * MIB), (2 * MIB, 0), (0, 16 * MIB)] {
        let cache = FrameCache::memory(memory);
        let options = ReaderOptions { ahead, ..quick() };
        let readers = [
            (reader(&origin, "me/os:0", &cache, options.clone()).await, old.clone()),
            (reader(&origin, "me/os:1", &cache, options).await, new.clone()),
        ];
        let mut threads = Vec::new();
        for seed in 0..6_u64 {
            let (reader, bytes) = readers[seed as usize % 2].clone();
            let cache = cache.clone();
            threads.push(tokio::task::spawn_blocking(move || {
                random_reads(&reader, &bytes, seed, 150).unwrap();
                assert!(cache.usage().memory_bytes <= memory, "{:?}", cache.usage());
            }));
        }
        for thread in threads {
            thread.await.unwrap();
        }
    }
    assert_eq!(origin.kept().tokens_at_blobs, 0);
    assert_eq!(origin.kept().findings, [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_is_fetched_once_for_all_who_want_it() {
    let origin = Origin::start().await;
    let bytes = image(5, 256, 0);
    put(&origin, &bytes).await;
    origin.kept().delay = Some(Duration::from_millis(100));
    let cache = FrameCache::memory(64 * MIB);
    let reader = reader(&origin, "me/os:0", &cache, ReaderOptions { ahead: 0, ..quick() }).await;
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let (reader, bytes) = (reader.clone(), bytes.clone());
            tokio::task::spawn_blocking(move || {
                let mut buf = vec![0; 4096];
                reader.read_at(0, &mut buf).unwrap();
                assert!(buf == bytes[..4096]);
            })
        })
        .collect();
    for thread in threads {
        thread.await.unwrap();
    }
    assert_eq!(origin.kept().blob_requests, 1);
    assert_eq!(cache.usage().fetched, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_on_and_on_finds_it_there_with_few_requests() {
    let origin = Origin::start().await;
    let bytes = image(6, 12_000, 0);
    put(&origin, &bytes).await;
    let cache = FrameCache::memory(64 * MIB);
    let reader = reader(&origin, "me/os:0", &cache, quick()).await;
    let requests = apart(move || {
        for at in (0..bytes.len()).step_by(128 << 10) {
            let mut buf = vec![0; (128 << 10).min(bytes.len() - at)];
            reader.read_at(at as u64, &mut buf).unwrap();
            assert!(buf == bytes[at..at + buf.len()]);
        }
    });
    requests.await;
    let requests = origin.kept().blob_requests;
    assert!(requests < 60, "{requests} requests for 47 MiB");
    assert!(cache.usage().memory_hits > 200, "{:?}", cache.usage());
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_are_told_and_sought() {
    let origin = Origin::start().await;
    let mut bytes = vec![0_u8; 1 << 20];
    bytes[0..8192].fill(1);
    bytes[40960..45056].fill(2);
    bytes.truncate(1_000_000);
    put(&origin, &bytes).await;
    let reader = reader(&origin, "me/os:0", &FrameCache::memory(MIB), quick()).await;
    apart(move || {
        let told = |from, len| -> Vec<(u64, u64, bool)> {
            reader.extents(from, len).unwrap().iter().map(|part| (part.offset, part.len, part.hole)).collect()
        };
        let all = [(0, 8192, false), (8192, 32768, true), (40960, 4096, false), (45056, 954_944, true)];
        assert_eq!(told(0, 1_000_000), all);
        assert_eq!(told(100, 8192), [(100, 8092, false), (8192, 100, true)]);
        assert_eq!(told(5, 0), []);
        assert!(reader.extents(1, 1_000_000).is_err());
        for (from, hole, want) in [
            (0, false, Some(0)),
            (0, true, Some(8192)),
            (9000, true, Some(9000)),
            (9000, false, Some(40960)),
            (50_000, false, None),
            (50_000, true, Some(50_000)),
            (1_000_000, true, Some(1_000_000)),
            (1_000_000, false, None),
        ] {
            assert_eq!(reader.seek(from, hole).unwrap(), want, "{from} {hole}");
        }
        assert!(reader.seek(1_000_001, true).is_err());
        let mut none = [0_u8; 0];
        reader.read_at(1_000_000, &mut none).unwrap();
        assert!(reader.read_at(999_999, &mut [0; 2]).is_err());
        assert!(reader.read_at(u64::MAX, &mut [0; 2]).is_err());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_gives_right_bytes_or_an_error() {
    let origin = Origin::start().await;
    let bytes = image(7, 1500, 300);
    put(&origin, &bytes).await;
    for (n, fault) in FAULTS.into_iter().enumerate() {
        // Once in a while: overcome.
        let cache = FrameCache::memory(8 * MIB);
        let one = reader(&origin, "me/os:0", &cache, quick()).await;
        for at in 0..4 {
            origin.kept().faults = vec![fault].into();
            let (one, bytes) = (one.clone(), bytes.clone());
            let read = apart(move || random_reads(&one, &bytes, n as u64 * 10 + at, 6)).await;
            assert!(read.is_ok(), "{fault:?}: {read:?}");
        }
        // For ever: an error, in time.
        origin.kept().faults.clear();
        origin.kept().always = Some(fault);
        let one = reader(&origin, "me/os:0", &FrameCache::memory(8 * MIB), quick()).await;
        let bytes = bytes.clone();
        let began = Instant::now();
        let why = apart(move || one.read_at(0, &mut vec![0; bytes.len()]).unwrap_err()).await;
        assert!(began.elapsed() < Duration::from_secs(9), "{fault:?}: {:?}", began.elapsed());
        let (told, flip) = (!origin.kept().findings.is_empty(), fault == Fault::Flip);
        assert_eq!(matches!(why, TransferError::BadChunk { .. }), flip, "{fault:?}: {why}");
        assert_eq!(told, flip, "{fault:?}");
        let mut kept = origin.kept();
        (kept.always, kept.findings) = (None, Vec::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_ends_reads_and_the_next_ones_sooner() {
    let origin = Origin::start().await;
    put(&origin, &image(8, 600, 0)).await;
    let cache = FrameCache::memory(MIB);
    let cancel = Cancel::new();
    let options = ReaderOptions { ahead: 0, cancel: cancel.clone(), ..quick() };
    let one = reader(&origin, "me/os:0", &cache, options).await;
    origin.kept().delay = Some(Duration::from_secs(3600));
    let read = move |one: RemoteReader, at| {
        apart(move || {
            let began = Instant::now();
            let why = one.read_at(at, &mut [0; 4096]).unwrap_err();
            (began.elapsed().as_secs_f64(), why.to_string())
        })
    };
    let (first, why) = read(one.clone(), 0).await;
    assert!((1.9..5.0).contains(&first), "{first} s: {why}");
    assert!(why.contains("answer"), "{why}");
    let (second, _) = read(one.clone(), 0).await;
    assert!(second < 1.5, "{second} s");
    // Who unmounts does not wait either.
    let third = tokio::spawn(read(one, 0));
    tokio::time::sleep(Duration::from_millis(100)).await;
    cancel.cancel();
    let (third, why) = third.await.unwrap();
    assert!(third < 0.9 && why == "interrupted", "{third} s: {why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_saves_fetching_and_its_damage_is_seen() {
    let origin = Origin::start().await;
    let bytes = image(9, 2000, 0);
    put(&origin, &bytes).await;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("cache");
    let read_all = async |memory| {
        let cache = folder_cache(memory, &path);
        let one = reader(&origin, "me/os:0", &cache, ReaderOptions { ahead: 0, ..quick() }).await;
        let bytes = bytes.clone();
        apart(move || {
            let mut buf = vec![0; bytes.len()];
            one.read_at(0, &mut buf).unwrap();
            assert!(buf == bytes);
        })
        .await;
        cache.usage()
    };
    let first = read_all(MIB).await;
    assert!(first.fetched > 10 && first.folder_hits == 0, "{first:?}");
    let again = read_all(MIB).await;
    assert!(again.fetched == 0 && again.folder_hits == first.fetched, "{again:?}");

    // One is cut, one has a wrong bit, one is another frame, one is gone.
    let mut files: Vec<_> = std::fs::read_dir(path.join("frames"))
        .unwrap()
        .flat_map(|shelf| std::fs::read_dir(shelf.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    let whole = std::fs::read(&files[0]).unwrap();
    std::fs::write(&files[0], &whole[..whole.len() - 7]).unwrap();
    let mut flipped = std::fs::read(&files[1]).unwrap();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    std::fs::write(&files[1], flipped).unwrap();
    std::fs::copy(&files[3], &files[2]).unwrap();
    std::fs::remove_file(&files[4]).unwrap();
    let healed = read_all(MIB).await;
    assert_eq!(healed.fetched, 4, "{healed:?}");
    // Damage here is not the server's.
    assert_eq!(origin.kept().findings, [] as [String; 0]);
    let last = read_all(MIB).await;
    assert_eq!((last.fetched, last.folder_hits), (0, first.fetched));
}
