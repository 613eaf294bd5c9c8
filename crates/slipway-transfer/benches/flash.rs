//! Whole flashes and comparisons, from a server in memory into files: the target is read, cut where it differs, hashed and compared;
//! frames are fetched, decoded, verified, written and read back. `cargo bench -p slipway-transfer`.

#![allow(clippy::unwrap_used)]

#[path = "../tests/origin/images.rs"]
#[allow(dead_code)]
mod images;
#[path = "../tests/origin/mod.rs"]
#[allow(dead_code)]
mod origin;

use divan::Bencher;
use divan::counter::BytesCount;
use images::{Chance, image};
use origin::{Origin, image_ref};
use slipway_chunk::{SparseRead, Stream};
use slipway_disk::{Faults, TargetOptions, target_open, target_open_to_read};
use slipway_transfer::{Control, FlashOptions, PushOptions, RemoteContent, Source, flash, push, target_verify};
use std::path::Path;
use tempfile::NamedTempFile;
use tokio::runtime::Runtime;

const BLOCKS: usize = 16_384;
const SIZE: usize = BLOCKS * 4096;

fn main() {
    divan::main();
}

/// A server that has one version, and the runtime in which it lives.
struct Served {
    content: RemoteContent,
    runtime: Runtime,
}

impl Served {
    fn new(bytes: &[u8]) -> Self {
        let runtime = Runtime::new().unwrap();
        let content = runtime.block_on(async {
            let origin = Origin::start().await;
            let reading: Box<dyn SparseRead + Send> = Box::new(Stream(std::io::Cursor::new(bytes.to_vec())));
            let (client, source) = (origin.client(), Source::once("memory", None, reading));
            push(&client, source, &PushOptions::new(image_ref()), &Control::quiet()).await.unwrap();
            RemoteContent::open(&client, &"me/os".parse().unwrap()).await.unwrap()
        });
        Self { content, runtime }
    }

    fn flash(&self, path: &Path) {
        let target = target_open(path, &self.content.shape(), &TargetOptions::default(), Faults::none()).unwrap();
        let (options, control) = (FlashOptions::default(), Control::quiet());
        self.runtime.block_on(flash(&self.content, target, &options, &control)).unwrap();
    }

    fn verify(&self, path: &Path) -> bool {
        let target = target_open_to_read(path, &self.content.shape(), Faults::none()).unwrap();
        self.runtime.block_on(target_verify(&self.content, target, &Control::quiet())).unwrap().same
    }
}

/// Most of it data, which compresses somewhat.
fn new() -> Vec<u8> {
    image(1, BLOCKS, 0)
}

/// One block in sixteen is another.
fn changed(new: &[u8]) -> Vec<u8> {
    let (mut old, mut chance) = (new.to_vec(), Chance(2));
    old.chunks_mut(4096).step_by(16).for_each(|block| chance.fill(block));
    old
}

/// The same blocks, somewhere else.
fn moved(new: &[u8]) -> Vec<u8> {
    let mut old = new.to_vec();
    old.rotate_left(1000 * 4096);
    old
}

fn holding(bytes: &[u8]) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file.as_file().sync_all().unwrap();
    file
}

fn flashed(bencher: Bencher<'_, '_>, old: &[u8], new: &[u8]) {
    let served = Served::new(new);
    let bencher = bencher.counter(BytesCount::new(SIZE)).with_inputs(|| holding(old));
    bencher.bench_local_refs(|file| served.flash(file.path()));
}

#[divan::bench(sample_count = 10)]
fn compare_same(bencher: Bencher<'_, '_>) {
    let new = new();
    let (served, file) = (Served::new(&new), holding(&new));
    bencher.counter(BytesCount::new(SIZE)).bench_local(|| assert!(served.verify(file.path())));
}

#[divan::bench(sample_count = 10)]
fn compare_empty(bencher: Bencher<'_, '_>) {
    let (served, file) = (Served::new(&new()), holding(&vec![0; SIZE]));
    bencher.counter(BytesCount::new(SIZE)).bench_local(|| assert!(!served.verify(file.path())));
}

#[divan::bench(sample_count = 10)]
fn flash_empty(bencher: Bencher<'_, '_>) {
    flashed(bencher, &vec![0; SIZE], &new());
}

#[divan::bench(sample_count = 10)]
fn flash_changed(bencher: Bencher<'_, '_>) {
    let new = new();
    flashed(bencher, &changed(&new), &new);
}

#[divan::bench(sample_count = 10)]
fn flash_moved(bencher: Bencher<'_, '_>) {
    let new = new();
    flashed(bencher, &moved(&new), &new);
}

#[divan::bench(sample_count = 10)]
fn flash_same(bencher: Bencher<'_, '_>) {
    let new = new();
    flashed(bencher, &new, &new);
}
