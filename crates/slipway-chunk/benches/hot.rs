//! The work that every byte of an image costs: looking for zeros, cutting, hashing, compressing, decoding, verifying.
//! `cargo bench -p slipway-chunk`.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use slipway_chunk::{
    ChunkId, ChunkerParams, DecodedFrame, EncodedFrame, FrameBuilder, Piece, RawFrame, is_zero, piece_next,
};

const MIB: usize = 1 << 20;

fn main() {
    divan::main();
}

/// Half noise, half text, as in an image of a system.
fn mixed(len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 64);
    let mut state = 88_172_645_463_325_252_u64;
    while bytes.len() < len {
        for _ in 0..4 {
            // Xorshift (Marsaglia, 2003).
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend(state.to_le_bytes());
        }
        bytes.extend(b"a line as many files have it, over");
    }
    bytes.truncate(len);
    bytes
}

/// One frame of chunks as an ingest makes them.
fn frame() -> RawFrame {
    let mut builder = FrameBuilder::new();
    for chunk in mixed(MIB).chunks(32 << 10) {
        if !builder.fits(chunk.len()) {
            break;
        }
        builder.push(ChunkId::of(chunk), chunk);
    }
    builder.take()
}

#[divan::bench]
fn zeros_found(bencher: Bencher<'_, '_>) {
    let zeros = vec![0; MIB];
    bencher.counter(BytesCount::new(MIB)).bench(|| is_zero(black_box(&zeros)));
}

#[divan::bench]
fn cut(bencher: Bencher<'_, '_>) {
    let (bytes, params) = (mixed(4 * MIB), ChunkerParams::default());
    bencher.counter(BytesCount::new(bytes.len())).bench(|| {
        let (mut at, mut pieces) = (0, 0_u32);
        while let Some(piece) = piece_next(&params, black_box(&bytes[at..]), u64::MAX, true) {
            let (Piece::Hole(len) | Piece::Data(len)) = piece;
            at += len;
            pieces += 1;
        }
        pieces
    });
}

#[divan::bench(args = [4 << 10, 32 << 10, 128 << 10])]
fn hash(bencher: Bencher<'_, '_>, len: usize) {
    let bytes = mixed(len);
    bencher.counter(BytesCount::new(len)).bench(|| ChunkId::of(black_box(&bytes)));
}

#[divan::bench]
fn frame_encode(bencher: Bencher<'_, '_>) {
    let raw = frame();
    bencher.counter(BytesCount::new(raw.raw.len())).bench(|| black_box(&raw).encode(3));
}

#[divan::bench]
fn frame_decode(bencher: Bencher<'_, '_>) {
    let raw = frame();
    let EncodedFrame { bytes, .. } = raw.encode(3);
    bencher.counter(BytesCount::new(raw.raw.len())).bench(|| DecodedFrame::decode(black_box(&bytes)));
}

#[divan::bench]
fn frame_verify(bencher: Bencher<'_, '_>) {
    let raw = frame();
    let decoded = DecodedFrame::decode(&raw.encode(3).bytes).expect("our own frame");
    bencher.counter(BytesCount::new(raw.raw.len())).bench(|| {
        let mut at = 0;
        for (id, len) in &raw.chunks {
            let _ = black_box(decoded.verify(at, *len, id).is_ok());
            at += len;
        }
    });
}
