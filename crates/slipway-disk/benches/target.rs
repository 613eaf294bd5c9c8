//! What a flash does to its target: reading it, comparing chunks with what is there, writing what differs, and the end.
//! `cargo bench -p slipway-disk`. The target is a file below `TMPDIR`, past the page cache where its file system allows that.

#![allow(clippy::unwrap_used)]

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use slipway_chunk::{BLOCK, ChunkId, verify};
use slipway_disk::{Faults, ReadBuffer, Shape, Target, TargetOptions, Writing, prints, target_open};
use tempfile::NamedTempFile;

const MIB: usize = 1 << 20;
const SIZE: usize = 16 * MIB;
/// A chunk as long as most are.
const CHUNK: usize = 32 << 10;

fn main() {
    divan::main();
}

/// Noise, the same for the same seed (xorshift, Marsaglia, 2003).
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(word).take(len / 8).flatten().collect()
}

fn open(file: &NamedTempFile) -> Target {
    let shape = Shape { size: SIZE as u64, sector_size: 512 };
    target_open(file.path(), &shape, &TargetOptions::default(), Faults::none()).unwrap()
}

fn holding(bytes: &[u8]) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file.as_file().sync_all().unwrap();
    file
}

#[divan::bench(args = [256 << 10, 1 << 20])]
fn read(bencher: Bencher<'_, '_>, span: usize) {
    let file = holding(&noise(1, SIZE));
    let (target, mut buffer) = (open(&file), ReadBuffer::new());
    bencher.counter(BytesCount::new(SIZE)).bench_local(|| {
        for at in (0..SIZE).step_by(span) {
            target.read_into(at as u64, span, &mut buffer).unwrap();
            black_box(buffer.bytes());
        }
    });
}

/// Writes every chunk of `new` and ends, on a target that holds `old` each time.
fn write(
    bencher: Bencher<'_, '_>,
    old: &[u8],
    new: &[u8],
    put: impl Fn(&mut Writing, u64, &slipway_chunk::Verified<'_>),
) {
    let ids: Vec<ChunkId> = new.chunks(CHUNK).map(ChunkId::of).collect();
    let begin = || {
        let file = holding(old);
        let writing = open(&file).writing().unwrap();
        (file, writing)
    };
    bencher.counter(BytesCount::new(SIZE)).with_inputs(begin).bench_local_values(|(file, mut writing)| {
        for (n, (bytes, id)) in new.chunks(CHUNK).zip(&ids).enumerate() {
            put(&mut writing, (n * CHUNK) as u64, &verify(bytes, id).unwrap());
        }
        writing.seal().unwrap();
        file
    });
}

fn compared(writing: &mut Writing, at: u64, chunk: &slipway_chunk::Verified<'_>) {
    writing.chunk_write(at, chunk).unwrap();
}

/// The bytes of the image are there already: read and compared, and nothing is written.
#[divan::bench(sample_count = 20)]
fn write_same(bencher: Bencher<'_, '_>) {
    let bytes = noise(1, SIZE);
    write(bencher, &bytes, &bytes, compared);
}

/// One block in sixteen differs.
#[divan::bench(sample_count = 20)]
fn write_some(bencher: Bencher<'_, '_>) {
    let old = noise(1, SIZE);
    let mut new = old.clone();
    new.chunks_mut(BLOCK).step_by(16).for_each(|block| block.fill(7));
    write(bencher, &old, &new, compared);
}

#[divan::bench(sample_count = 20)]
fn write_all(bencher: Bencher<'_, '_>) {
    write(bencher, &noise(1, SIZE), &noise(2, SIZE), compared);
}

/// As on an empty disk: what is there is known to be zeros and is not read.
#[divan::bench(sample_count = 20)]
fn write_on_zeros(bencher: Bencher<'_, '_>) {
    write(bencher, &vec![0; SIZE], &noise(2, SIZE), |writing, at, chunk| {
        writing.chunk_write_on_zeros(at, chunk).unwrap();
    });
}

/// One block in sixteen differs, and the hashes of what is there are known.
#[divan::bench(sample_count = 20)]
fn write_some_on_prints(bencher: Bencher<'_, '_>) {
    let old = noise(1, SIZE);
    let mut new = old.clone();
    new.chunks_mut(BLOCK).step_by(16).for_each(|block| block.fill(7));
    let prints: Vec<_> = prints(0, &old).collect();
    write(bencher, &old, &new, |writing, at, chunk| {
        let first = at as usize / BLOCK;
        writing.chunk_write_on_prints(at, chunk, &prints[first..first + CHUNK / BLOCK]).unwrap();
    });
}

/// Data that becomes a hole.
#[divan::bench(sample_count = 20)]
fn zero(bencher: Bencher<'_, '_>) {
    let old = noise(1, SIZE);
    let begin = || {
        let file = holding(&old);
        let writing = open(&file).writing().unwrap();
        (file, writing)
    };
    bencher.counter(BytesCount::new(SIZE)).with_inputs(begin).bench_local_values(|(file, mut writing)| {
        writing.zero(0, SIZE as u64).unwrap();
        writing.seal().unwrap();
        file
    });
}
