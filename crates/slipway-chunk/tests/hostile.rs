//! Decoders meet bytes from anywhere: they never panic, never allocate much more than they were given, and take only the one form that the encoder makes.

#![allow(clippy::unwrap_used)]
// The test counts what is allocated, which takes an allocator of its own.
#![allow(unsafe_code)]

#[path = "inputs/encodings.rs"]
mod encodings;
#[path = "inputs/enter.rs"]
mod enter;

use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::cell::Cell;

use proptest::collection::vec;
use proptest::prelude::*;
use slipway_chunk::DecodedFrame;

struct Counting;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is handed on to the system's allocator unchanged; counting touches a thread-local
// without a destructor and does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + memory.size());
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(memory) }
    }

    unsafe fn dealloc(&self, at: *mut u8, memory: Memory) {
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(at, memory) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Runs `decode` and checks that all its allocations together stay below four times its input plus `fixed`.
fn bounded<T>(len: usize, fixed: usize, decode: impl FnOnce() -> T) -> T {
    let before = ALLOCATED.get();
    let result = decode();
    let used = ALLOCATED.get() - before;
    assert!(used <= 4 * len + fixed, "{used} bytes allocated for {len}");
    result
}

/// Gives `bytes` to every decoder; whatever one takes must encode to the same bytes again.
fn decode_all(bytes: &[u8]) {
    for (_, entry) in enter::ENTRIES {
        entry(bytes);
    }
}

/// A valid encoding of any kind.
fn encoding() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        encodings::segment().prop_map(|x| x.encode()),
        encodings::manifest().prop_map(|x| x.encode()),
        encodings::frame().prop_map(|x| x.bytes),
        encodings::frame_header().prop_map(|x| x.encode()),
        encodings::footer().prop_map(|x| x.encode()),
        encodings::trailer().prop_map(|x| x.encode()),
        encodings::layout().prop_map(|x| x.encode()),
    ]
}

/// Numbers that break arithmetic and reservations.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(u32::MAX),
        Just(1 << 31),
        Just(u32::MAX >> 1),
        Just(1 << 16),
        Just((1 << 16) + 1),
        any::<u32>(),
    ]
}

fn mutate(bytes: &mut Vec<u8>, kind: u8, at: usize, number: u32) {
    let at = at % (bytes.len() + 1);
    match kind {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, number as u8),
        2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (number % 8);
            }
        }
        // Most mutations hit the first bytes, where the counts are.
        _ => {
            let at = at % 44;
            if let Some(place) = bytes.get_mut(at..at + 4) {
                place.copy_from_slice(&number.to_le_bytes());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(bytes in vec(any::<u8>(), 0..300)) {
        decode_all(&bytes);
    }

    #[test]
    fn arbitrary_bytes_behind_a_good_begin(
        magic in prop::sample::select(vec![b"SLSG", b"SLMF", b"SLFR", b"SLPF", b"SLPT", b"SLLY"]),
        words in vec(number(), 0..100),
    ) {
        let mut bytes = magic.to_vec();
        bytes.extend_from_slice(&[1, 0, 0, 0]);
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        decode_all(&bytes);
    }

    #[test]
    fn mutated_encodings(
        mut bytes in encoding(),
        mutations in vec((0..8_u8, any::<usize>(), number()), 0..4),
    ) {
        for (kind, at, number) in mutations {
            mutate(&mut bytes, kind, at, number);
        }
        decode_all(&bytes);
    }
}

#[test]
fn the_count_counts() {
    let used = std::panic::catch_unwind(|| bounded(1, 0, || vec![0_u8; 100]));
    assert!(used.is_err(), "an allocation beyond the bound is noticed");
}

/// Every flipped bit of a frame is refused or gives other ids, so a chunk's id notices it.
#[test]
fn no_flipped_bit_gives_the_same_chunks() {
    for byte in [0, 7] {
        let chunk: Vec<u8> = (0..6000_u32).map(|n| (n / 9 * byte) as u8 ^ n as u8).collect();
        let mut builder = slipway_chunk::FrameBuilder::new();
        builder.push(slipway_chunk::ChunkId::of(&chunk), &chunk);
        let frame = builder.take().encode(3);
        let mut same = 0;
        for bit in 0..frame.bytes.len() * 8 {
            let mut bytes = frame.bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(decoded) = DecodedFrame::decode(&bytes) {
                same += usize::from(decoded.ids() == frame.chunks);
            }
        }
        // Some bits of a zstd frame mean nothing (reserved, or a larger window); none changes a chunk.
        assert!(same <= 16, "{same} bits do not matter");
    }
}
