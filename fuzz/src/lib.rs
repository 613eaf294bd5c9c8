//! The entries that the normal tests sweep at random, for a fuzzer that sees which lines they reach.

#[path = "../../crates/slipway-chunk/tests/inputs/encodings.rs"]
mod encodings;
#[path = "../../crates/slipway-chunk/tests/inputs/enter.rs"]
mod enter_chunk;
#[path = "../../crates/slipway-format/tests/made/mod.rs"]
mod made;

use made::enter::ENTRIES;
use proptest::prelude::Strategy;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

/// The fuzzer itself bounds the memory.
fn bounded<T>(_: usize, _: usize, decode: impl FnOnce() -> T) -> T {
    decode()
}

/// Gives an input to the entry of this name.
///
/// # Panics
/// When the entry finds something, and when there is none.
pub fn enter(name: &str, input: &[u8]) {
    let entry = ENTRIES.iter().chain(enter_chunk::ENTRIES).find(|(entry, _)| *entry == name);
    entry.expect("every target has its entry").1(input);
}

/// The names of all entries.
pub fn names() -> impl Iterator<Item = &'static str> {
    ENTRIES.iter().chain(enter_chunk::ENTRIES).map(|(name, _)| *name)
}

/// Good inputs to begin with.
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    match name {
        "segment" => some(encodings::segment().prop_map(|x| x.encode())),
        "manifest" => some(encodings::manifest().prop_map(|x| x.encode())),
        "footer" => some(encodings::footer().prop_map(|x| x.encode())),
        "trailer" => some(encodings::trailer().prop_map(|x| x.encode())),
        "layout" => some(encodings::layout().prop_map(|x| x.encode())),
        "frame_header" => some(encodings::frame_header().prop_map(|x| x.encode())),
        "frame" => some(encodings::frame().prop_map(|x| x.bytes)),
        name => made::enter::seeds(name),
    }
}

fn some(encoding: impl Strategy<Value = Vec<u8>>) -> Vec<Vec<u8>> {
    let mut runner = TestRunner::deterministic();
    (0..8).filter_map(|_| encoding.new_tree(&mut runner).ok()).map(|tree| tree.current()).collect()
}
