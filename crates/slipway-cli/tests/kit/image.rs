//! Disk images made from a seed, written sparse, compared without reading holes.

use rustix::fs::{SeekFrom, seek};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub const BLOCK: usize = 4096;
const REGION: usize = 64 << 10;

/// SplitMix64: small, and the same everywhere (Steele, Lea, Flood 2014).
#[derive(Clone)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x51ed_270b_7a2c_9d15)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// Bytes that no compressor makes smaller.
    pub fn fill(&mut self, out: &mut [u8]) {
        for part in out.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            part.copy_from_slice(&bytes[..part.len()]);
        }
    }

    /// Bytes like those of a text or table.
    pub fn fill_structured(&mut self, out: &mut [u8]) {
        let mut word = [0u8; 24];
        self.fill(&mut word[..12]);
        for (number, part) in out.chunks_mut(24).enumerate() {
            word[12..20].copy_from_slice(&(number as u64).to_be_bytes());
            part.copy_from_slice(&word[..part.len()]);
        }
    }
}

/// An image: a third holes, a third like text, a third like compressed files, in runs of 4 to 64 KiB. The first MiB is never all zero.
pub fn image_fresh(seed: u64, len: usize) -> Vec<u8> {
    let mut chance = Chance::new(seed);
    let mut image = vec![0; len];
    let mut at = 0;
    while at < len {
        let run = (BLOCK * (1 + chance.below(REGION / BLOCK))).min(len - at);
        let part = &mut image[at..at + run];
        match chance.below(3) {
            0 if at > 0 => {}
            1 => chance.fill_structured(part),
            _ => chance.fill(part),
        }
        at += run;
    }
    image
}

/// An image without a hole and without anything that compresses.
pub fn image_dense(seed: u64, len: usize) -> Vec<u8> {
    let mut image = vec![0; len];
    Chance::new(seed).fill(&mut image);
    image
}

/// The image some days later: some places overwritten, one moved, one emptied; the size stays.
pub fn image_changed(image: &[u8], seed: u64) -> Vec<u8> {
    let mut chance = Chance::new(seed);
    let mut next = image.to_vec();
    let len = next.len();
    for _ in 0..4 {
        let run = (1 + chance.below(96 << 10)).min(len);
        let at = chance.below(len - run + 1);
        chance.fill(&mut next[at..at + run]);
    }
    let blocks = len / BLOCK;
    if blocks > 64 {
        let run = 1 + chance.below(24);
        let (from, to, empty) = (chance.below(blocks - run), chance.below(blocks - run), chance.below(blocks - run));
        next.copy_within(from * BLOCK..(from + run) * BLOCK, to * BLOCK);
        if empty > 256 {
            next[empty * BLOCK..(empty + run) * BLOCK].fill(0);
        }
    }
    next
}

/// Writes an image as a sparse file.
pub fn image_write(path: &Path, image: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.set_len(image.len() as u64).unwrap();
    for (number, block) in image.chunks(BLOCK).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, (number * BLOCK) as u64).unwrap();
        }
    }
    file.flush().unwrap();
}

/// The parts of a file that may hold something, in order.
pub fn extents(file: &File) -> Vec<(u64, u64)> {
    let end = file.metadata().unwrap().len();
    let mut found = Vec::new();
    let mut at = 0;
    while at < end {
        let Ok(from) = seek(file, SeekFrom::Data(at)) else { break };
        let to = seek(file, SeekFrom::Hole(from)).unwrap().min(end);
        found.push((from, to));
        at = to;
    }
    found
}

/// 4096 × the blocks of a file that are not zero; the last may be short.
pub fn data_bytes(path: &Path) -> u64 {
    let file = File::open(path).unwrap();
    let end = file.metadata().unwrap().len();
    let block = BLOCK as u64;
    let mut count = 0;
    let mut from_block = 0;
    let mut buf = [0u8; BLOCK];
    for (from, to) in extents(&file) {
        for number in (from / block).max(from_block)..to.div_ceil(block) {
            from_block = number + 1;
            let len = block.min(end - number * block) as usize;
            file.read_exact_at(&mut buf[..len], number * block).unwrap();
            count += u64::from(buf[..len].iter().any(|byte| *byte != 0));
        }
    }
    count * block
}

/// Where the first `len` bytes of two files or devices differ first.
pub fn first_difference(a: &Path, b: &Path, len: u64) -> Option<u64> {
    let (a, b) = (File::open(a).unwrap(), File::open(b).unwrap());
    let mut spans = Vec::new();
    for file in [&a, &b] {
        match file.metadata().unwrap().is_file() {
            true => spans.extend(extents(file)),
            false => spans.push((0, len)),
        }
    }
    spans.sort_unstable();
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut done = 0;
    for (from, to) in spans {
        let mut at = from.max(done);
        while at < to.min(len) {
            let n = (to.min(len) - at).min(1 << 20) as usize;
            a.read_exact_at(&mut left[..n], at).unwrap();
            b.read_exact_at(&mut right[..n], at).unwrap();
            if left[..n] != right[..n] {
                let inside = left.iter().zip(&right).position(|(x, y)| x != y).unwrap_or(0);
                return Some(at + inside as u64);
            }
            at += n as u64;
        }
        done = done.max(to);
    }
    None
}

/// Fails the test unless both are files of the same length with the same bytes.
#[track_caller]
pub fn same(a: &Path, b: &Path) {
    let len = |path: &Path| std::fs::metadata(path).unwrap_or_else(|why| panic!("{}: {why}", path.display())).len();
    assert_eq!(len(a), len(b), "lengths of {} and {}", a.display(), b.display());
    if let Some(at) = first_difference(a, b, len(a)) {
        panic!("{} and {} differ at byte {at}", a.display(), b.display());
    }
}
