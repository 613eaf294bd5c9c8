//! A flash of many segments from a server whose lists are slow: they are asked for ahead, and nothing is left under way when it ends early.

#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "origin/images.rs"]
mod images;
#[allow(dead_code)]
mod origin;

use images::{Chance, image};
use origin::{Origin, Seen, image_ref};
use slipway_chunk::{SEGMENT_LEN, Stream};
use slipway_disk::{Fault as DiskFault, Faults, TargetOptions, target_open};
use slipway_transfer::{
    Cancel, Caps, Control, Event, FlashOptions, Flashed, PushOptions, RemoteContent, Source, Step, TransferError,
    flash, push,
};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const SEGMENTS: usize = 12;
const DATA_LEN: usize = 2 << 20;

struct Bench {
    origin: Origin,
    content: RemoteContent,
    folder: tempfile::TempDir,
    image: Vec<Vec<u8>>,
}

impl Bench {
    /// An image whose segments hold a little data each.
    async fn new() -> Self {
        let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
        let path = folder.path().join("image");
        let file = File::create(&path).unwrap();
        file.set_len(SEGMENTS as u64 * SEGMENT_LEN).unwrap();
        let mut image = Vec::new();
        for index in 0..SEGMENTS {
            let mut data = vec![0; DATA_LEN];
            Chance(index as u64).fill(&mut data);
            file.write_all_at(&data, index as u64 * SEGMENT_LEN).unwrap();
            image.push(data);
        }
        let (client, source) = (origin.client(), Source::path(&path).unwrap());
        push(&client, source, &PushOptions::new(image_ref()), &Control::quiet()).await.unwrap();
        let content = RemoteContent::open(&client, &"me/os".parse().unwrap()).await.unwrap();
        Self { origin, content, folder, image }
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("target")
    }

    /// Into a new file, planned in parts of two or three segments.
    async fn flash(&self, faults: Faults, control: &Control) -> Result<Flashed, TransferError> {
        let _ = std::fs::remove_file(self.target());
        let create = TargetOptions { create: true, ..TargetOptions::default() };
        let target = target_open(&self.target(), &self.content.shape(), &create, faults).unwrap();
        let caps = Caps { needs: 3 * self.origin.chunks_max(), range: 200_000, ..Caps::default() };
        let options = FlashOptions { caps, connections: 2, ..FlashOptions::default() };
        // Segments that were kept would not be asked for again.
        let content = RemoteContent::open(&self.origin.client(), &"me/os".parse().unwrap()).await.unwrap();
        flash(&content, target, &options, control).await
    }

    /// Whether every question is answered or taken back. One that was on its way at the end may still arrive, once.
    async fn comes_to_rest(&self) -> bool {
        let mut late = false;
        for _ in 0..100 {
            if self.origin.kept().lists_open == 0 {
                let before = self.origin.kept().seen.len();
                tokio::time::sleep(Duration::from_millis(200)).await;
                let calm = self.origin.kept().seen.len() == before;
                if calm || late {
                    return calm;
                }
                late = true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_asked_for_while_requests_are_under_way() {
    let bench = Bench::new().await;
    {
        let mut kept = bench.origin.kept();
        kept.lists_delay = Some((0, Duration::from_millis(60)));
        kept.delay = Some(Duration::from_millis(30));
    }
    let done = bench.flash(Faults::none(), &Control::quiet()).await.unwrap();
    let file = File::open(bench.target()).unwrap();
    for (index, data) in bench.image.iter().enumerate() {
        let mut got = vec![0; DATA_LEN];
        file.read_exact_at(&mut got, index as u64 * SEGMENT_LEN).unwrap();
        assert!(got == *data, "segment {index}");
    }
    let kept = bench.origin.kept();
    assert_eq!(kept.blob_bytes, done.fetched_bytes);
    let at = |what: Seen| kept.seen.iter().position(|seen| *seen == what).unwrap();
    let mut ahead = 0;
    for index in 0..SEGMENTS {
        let waited = &kept.seen[at(Seen::LayoutAsked(index))..at(Seen::LayoutAnswered(index))];
        ahead += usize::from(waited.contains(&Seen::Blob));
    }
    // Before the first ones there is nothing to fetch.
    assert!(ahead >= SEGMENTS - 4, "{ahead} ahead: {:?}", kept.seen);
    let first = at(Seen::Blob);
    let asked = kept.seen[..first].iter().filter(|seen| matches!(seen, Seen::LayoutAsked(_))).count();
    assert!(asked <= 8, "{asked} asked for before the first request, whatever the bound");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_a_list_ends_it() {
    let bench = Bench::new().await;
    for index in [0, 5, SEGMENTS - 1] {
        bench.origin.kept().layout_refused = Some(index);
        bench.origin.kept().seen.clear();
        let why = bench.flash(Faults::none(), &Control::quiet()).await.unwrap_err();
        assert_eq!(why.exit_code(), 3, "{index}: {why}");
        assert!(bench.comes_to_rest().await, "{index}");
        let kept = bench.origin.kept();
        let asked = kept.seen.iter().filter(|seen| matches!(seen, Seen::LayoutAsked(_))).count();
        assert!(index > 0 || asked < SEGMENTS, "{asked} asked for after the first was refused");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_takes_the_questions_back() {
    let bench = Bench::new().await;
    bench.origin.kept().lists_delay = Some((4, Duration::from_secs(60)));
    let (cancel, open) = (Cancel::new(), Arc::new(AtomicU32::new(0)));
    let (stop, seen, origin) = (cancel.clone(), open.clone(), bench.origin.clone());
    let mut control = Control::new(move |event| {
        // Of the four segments that come, so much that there is room for the next ones.
        if matches!(event, Event::Progress { step: Step::Fetch, bytes, .. } if bytes >= 6 << 20) && !stop.is_cancelled()
        {
            seen.store(origin.kept().lists_open, Ordering::Relaxed);
            stop.cancel();
        }
    });
    control.cancel = cancel;
    let begun = Instant::now();
    let why = bench.flash(Faults::none(), &control).await.unwrap_err();
    assert_eq!(why.exit_code(), 130, "{why}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(open.load(Ordering::Relaxed) > 0, "no list was asked for ahead");
    assert!(bench.comes_to_rest().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_fails_ends_the_waiting_for_lists() {
    let bench = Bench::new().await;
    bench.origin.kept().lists_delay = Some((4, Duration::from_secs(60)));
    let begun = Instant::now();
    let why = bench.flash(Faults::nth(4, DiskFault::Error), &Control::quiet()).await.unwrap_err();
    assert!(matches!(why, TransferError::Disk(_)), "{why}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(bench.comes_to_rest().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_comes_while_it_is_opened_is_taken_whole() {
    let origin = Origin::start().await;
    let client = origin.client();
    for seed in 0..2 {
        let reading = Box::new(Stream(std::io::Cursor::new(image(seed, 100, 0))));
        let source = Source::once("memory", None, reading);
        push(&client, source, &PushOptions::new(image_ref()), &Control::quiet()).await.unwrap();
    }
    origin.kept().manifests_old = 1;
    let content = RemoteContent::open(&client, &"me/os".parse().unwrap()).await.unwrap();
    assert_eq!(content.version().number, 1);
    assert_eq!(content.manifest().root(), content.version().root);
    assert_eq!(origin.kept().manifests_old, 0, "the old manifest was answered");
}
