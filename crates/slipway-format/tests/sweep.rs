//! Everything that reads a stranger's bytes, over inputs damaged at random: no panic, no endless work, bounded memory. The entries are
//! those of the fuzzer; `SLIPWAY_TEST_SEED` repeats a run, `SLIPWAY_TEST_ALL=1` takes twenty times as long.

#![allow(clippy::unwrap_used)]
// The test counts what is allocated, which takes an allocator of its own.
#![allow(unsafe_code)]

mod kit;
mod made;

use kit::Dice;
use made::enter::{ENTRIES, PATCHES, RAW, SEALED, seeds};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What a reader may hold, with the input itself (some copies of at most 8 MiB), what was read of it (two of 8 MiB) and the buffers.
const MEMORY_MAX: usize = (64 << 20) + (64 << 20);
/// No single input may take longer; most take a millisecond.
const ONE_MAX: Duration = Duration::from_secs(20);

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator unchanged; counting is done in two atomics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A number of the kind that breaks arithmetic.
fn number(dice: &mut Dice) -> Vec<u8> {
    let value = match dice.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << dice.below(64),
        3 => (1 << dice.below(64)) - 1,
        4 => dice.below(16),
        5 => dice.below(1 << 14),
        _ => dice.next(),
    };
    let bytes = if dice.below(2) == 0 { value.to_le_bytes() } else { value.to_be_bytes() };
    let len = [1, 2, 4, 8][dice.below(4) as usize];
    if dice.below(2) == 0 { bytes[..len].to_vec() } else { bytes[8 - len..].to_vec() }
}

fn input(dice: &mut Dice, seeds: &[Vec<u8>], patched: bool) -> Vec<u8> {
    if patched && dice.below(8) > 0 {
        let mut input = vec![if dice.below(4) == 0 { PATCHES } else { SEALED }];
        for _ in 0..1 + dice.below(3) {
            let patch = number(dice);
            // Fields lie at even places more often than not.
            let place = dice.below(1 << 14) as u16 & !(dice.below(2) as u16 * 3);
            input.extend(place.to_le_bytes());
            input.push(if dice.below(30) == 0 { 255 } else { patch.len() as u8 });
            input.extend(patch);
        }
        return input;
    }
    let mut input = seeds[dice.below(seeds.len() as u64) as usize].clone();
    let first = usize::from(patched && input[0] == RAW);
    for _ in 0..1 + dice.below(4) {
        let at = first + dice.below((input.len() - first) as u64) as usize;
        match dice.below(6) {
            0 => input.truncate(at.max(first + 1)),
            1 => input[at] ^= 1 << dice.below(8),
            2 => drop(input.splice(at..at, number(dice))),
            _ => {
                let part = number(dice);
                let end = input.len().min(at + part.len());
                input[at..end].copy_from_slice(&part[..end - at]);
            }
        }
    }
    input
}

#[test]
fn damaged_at_random() {
    let seed = std::env::var("SLIPWAY_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_128);
    let all = std::env::var("SLIPWAY_TEST_ALL").is_ok_and(|all| all == "1");
    eprintln!("SLIPWAY_TEST_SEED={seed}");
    for (name, enter) in ENTRIES {
        let seeds = seeds(name);
        let patched = !matches!(*name, "streams" | "partitions" | "detection");
        let mut dice = Dice(seed);
        let begun = Instant::now();
        let time = Duration::from_millis(if all { 12_000 } else { 600 });
        // Counted and not only timed, so that a slow machine still tries some.
        let mut tried = 0;
        while tried < 20 || begun.elapsed() < time {
            let input = input(&mut dice, &seeds, patched);
            let before = HELD.load(Ordering::Relaxed);
            MOST.store(before, Ordering::Relaxed);
            let one = Instant::now();
            enter(&input);
            let (took, most) = (one.elapsed(), MOST.load(Ordering::Relaxed).saturating_sub(before));
            let shown = &input[..input.len().min(64)];
            assert!(took < ONE_MAX, "{name} took {took:?} for {shown:02x?}");
            assert!(most < MEMORY_MAX, "{name} held {most} bytes for {shown:02x?}");
            tried += 1;
        }
        eprintln!("{name}: {tried} inputs");
    }
}

/// The good inputs are good: what is made from them is damaged by the sweep, and not before.
#[test]
fn seeds_are_read() {
    use slipway_format::{Archive, Format, Limits, disk_find, disk_open};
    let limits = Limits { size_max: 1 << 40 };
    for (name, format) in [
        ("qcow2", Format::Qcow2),
        ("vmdk", Format::Vmdk),
        ("vmdk_stream", Format::Vmdk),
        ("vhd", Format::Vhd),
        ("vhdx", Format::Vhdx),
        ("vdi", Format::Vdi),
    ] {
        for input in seeds(name) {
            let bytes = made::enter::seed_expand(name, &input);
            if let Err(why) = disk_open(format, Box::new(bytes), &limits) {
                panic!("{name}: {why}");
            }
        }
    }
    for (name, archive) in [("zip", Archive::Zip), ("tar", Archive::Tar)] {
        for input in seeds(name) {
            assert!(disk_find(archive, Box::new(made::enter::seed_expand(name, &input))).is_ok(), "{name}");
        }
    }
}
