//! What the tests of disk containers share: raw images to hide in them, qemu-img as the oracle, and a reader that checks its source.

// Each test takes what it needs.
#![allow(dead_code, clippy::unwrap_used)]

use slipway_chunk::{BLOCK, Fill, SparseRead};
use slipway_format::{Disk, DiskAhead, DiskError, DiskReading, FileAt, Format, Limits, disk_open};
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Command;

pub(crate) const LIMITS: Limits = Limits { size_max: 1 << 40 };

/// Numbers that follow from a seed (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// An image of every kind of content: noise, text, zeros, runs of one byte, and data at its very beginning and end.
pub(crate) fn raw_image(size: u64, seed: u64) -> Vec<u8> {
    let mut dice = Dice(seed);
    let mut raw = Vec::with_capacity(size as usize);
    while (raw.len() as u64) < size {
        let len = 512 * (1 + dice.below(160));
        match dice.below(4) {
            0 => raw.resize(raw.len() + len as usize, 0),
            1 => raw.extend((0..len / 8).flat_map(|_| dice.next().to_le_bytes())),
            2 => raw.extend(b"All work and no play makes Jack a dull boy.\n".iter().cycle().take(len as usize)),
            _ => raw.resize(raw.len() + len as usize, (1 + dice.below(255)) as u8),
        }
    }
    raw.truncate(size as usize);
    if let (Some(first), true) = (raw.first_mut(), size > 0) {
        *first |= 1;
    }
    if let Some(last) = raw.last_mut() {
        *last |= 1;
    }
    raw
}

/// Runs a program that must succeed; gives what it printed.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).output().unwrap_or_else(|why| panic!("{program}: {why}"));
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{program} {args:?}: {said}{}", String::from_utf8_lossy(&done.stderr));
    said
}

/// The raw image that qemu-img finds in a container.
pub(crate) fn qemu_raw(container: &Path, format: &str) -> Vec<u8> {
    let raw = container.with_extension("oracle");
    run("qemu-img", &["convert", "-f", format, "-O", "raw", path(container), path(&raw)]);
    let bytes = std::fs::read(&raw).unwrap();
    std::fs::remove_file(&raw).unwrap();
    bytes
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn open(container: &Path, format: Format) -> Result<Box<dyn Disk>, DiskError> {
    disk_open(format, Box::new(FileAt::new(File::open(container).unwrap()).unwrap()), &LIMITS)
}

/// Reads a source to its end, and checks that it keeps the rules of its trait.
pub(crate) fn read_all(mut source: impl SparseRead, size: u64, buf_len: usize) -> io::Result<Vec<u8>> {
    let (mut raw, mut buf) = (Vec::new(), vec![0xa5; buf_len]);
    loop {
        let at = raw.len() as u64;
        match source.fill(&mut buf)? {
            Fill::Data(len) => {
                assert!((1..=buf.len()).contains(&len), "{len} bytes of {buf_len} at {at}");
                raw.extend_from_slice(&buf[..len]);
            }
            Fill::Hole(len) => {
                let end = at + len;
                assert!(len > 0 && at.is_multiple_of(BLOCK as u64), "a hole of {len} at {at}");
                assert!(end == size || end.is_multiple_of(BLOCK as u64), "a hole from {at} to {end}");
                raw.resize(end as usize, 0);
            }
            Fill::End => return Ok(raw),
        }
        assert!(raw.len() as u64 <= size, "it goes on past its end");
    }
}

/// A container that must be read as exactly these bytes, in pieces of any length, from anywhere, and by the thread ahead.
pub(crate) fn good(name: &str, container: &Path, format: Format, raw: &[u8]) {
    let disk = || open(container, format).unwrap_or_else(|why| panic!("{name}: {why}"));
    let size = raw.len() as u64;
    assert_eq!(disk().size(), size, "{name}");
    for buf_len in [4 << 20, 65_536, 4096, 5000, 1_000_003] {
        let got = read_all(DiskReading::new(disk()), size, buf_len).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert!(got == raw, "{name} in pieces of {buf_len}: first difference at {:?}", differs(&got, raw));
    }
    let got = read_all(DiskAhead::new(disk()).unwrap(), size, 100_000).unwrap();
    assert!(got == raw, "{name} read ahead: first difference at {:?}", differs(&got, raw));
    let (mut disk, mut dice) = (disk(), Dice(size));
    for _ in 0..50 {
        let (at, mut buf) = (dice.below(size), vec![0xa5; 1 + dice.below(200_000) as usize]);
        let wanted = &raw[at as usize..];
        match disk.fill_at(at, &mut buf).unwrap() {
            Fill::Data(len) => assert!(buf[..len] == wanted[..len], "{name} at {at}"),
            Fill::Hole(len) => assert!(wanted[..len as usize].iter().all(|byte| *byte == 0), "{name} at {at}"),
            Fill::End => panic!("{name} ends at {at}"),
        }
    }
    assert_eq!(disk.fill_at(size, &mut [0; 10]).unwrap(), Fill::End, "{name}");
}

fn differs(a: &[u8], b: &[u8]) -> Option<usize> {
    a.iter().zip(b).position(|(a, b)| a != b)
}

/// A container that must be refused, when it is opened or at the latest when it is read, with a reason that has these words.
pub(crate) fn hostile(name: &str, container: Vec<u8>, format: Format, words: &str) {
    let why = match disk_open(format, Box::new(container), &LIMITS) {
        Err(why) => why.to_string(),
        Ok(disk) => {
            // A refusal comes before much was read; a disk of a terabyte would be.
            let size = disk.size();
            assert!(size <= 1 << 30, "{name} was opened as a disk of {size} bytes");
            match read_all(DiskReading::new(disk), size, 1 << 20) {
                Err(why) => why.to_string(),
                Ok(raw) => panic!("{name} was read as {} bytes", raw.len()),
            }
        }
    };
    assert!(why.contains(words), "{name} was refused with: {why}");
}
