//! Valid values of everything that has an encoding.

use proptest::collection::vec;
use proptest::prelude::*;
use slipway_chunk::{
    BLOCK, ChunkAt, ChunkId, ChunkerParams, Codec, Digest, EncodedFrame, Extent, FRAME_RAW_MAX, Footer, FrameAt,
    FrameBuilder, FrameEntry, FrameHeader, Layout, Manifest, PACK_HEADER_LEN, PackAt, PackId, PackTrailer, SEGMENT_LEN,
    Segment, SegmentId,
};

pub(crate) fn chunk_id() -> impl Strategy<Value = ChunkId> {
    any::<[u8; 32]>().prop_map(ChunkId::from_bytes)
}

pub(crate) fn segment() -> impl Strategy<Value = Segment> {
    let extent = (any::<bool>(), chunk_id(), 1..=64_u32);
    (vec(extent, 1..50), 0..BLOCK as u32).prop_map(|(list, cut_off)| {
        let mut extents = Vec::new();
        for (hole, id, blocks) in list {
            let len = blocks * BLOCK as u32;
            let hole = hole && !matches!(extents.last(), Some(Extent::Hole { .. }));
            extents.push(if hole { Extent::Hole { len } } else { Extent::Chunk { id, len } });
        }
        if let Some(Extent::Hole { len } | Extent::Chunk { len, .. }) = extents.last_mut() {
            *len -= cut_off;
        }
        Segment::new(extents).unwrap()
    })
}

pub(crate) fn manifest() -> impl Strategy<Value = Manifest> {
    let ids = vec(any::<[u8; 32]>().prop_map(SegmentId::from_bytes), 1..20);
    let params = (1..=64_u16, 1..=64_u16, 0..=16_u8, any::<u64>());
    (ids, 0..SEGMENT_LEN, any::<bool>(), params).prop_map(|(segments, less, small, (a, b, bits, seed))| Manifest {
        size: segments.len() as u64 * SEGMENT_LEN - less,
        sector_size: if small { 512 } else { 4096 },
        params: ChunkerParams { min_blocks: a.min(b), mask_bits: bits, max_blocks: a.max(b), seed },
        segments,
    })
}

/// Frames that compress well, badly and not at all.
pub(crate) fn frame() -> impl Strategy<Value = EncodedFrame> {
    let chunk = (1..20_000_usize, any::<u8>(), any::<bool>());
    (vec(chunk, 1..12), 1..6).prop_map(|(chunks, level)| {
        let mut builder = FrameBuilder::new();
        for (len, salt, noise) in chunks {
            let mut bytes = vec![salt; len];
            if noise {
                blake3::Hasher::new().update(&[salt]).finalize_xof().fill(&mut bytes);
            }
            builder.push(ChunkId::of(&bytes), &bytes);
        }
        builder.take().encode(level)
    })
}

/// Also such as this version does not decode: with a base, with a key.
pub(crate) fn frame_header() -> impl Strategy<Value = FrameHeader> {
    let lens = vec(1..=1024_u32, 1..=256);
    let base = prop_oneof![Just(Vec::new()), vec(chunk_id(), 1..=64)];
    (lens, base, any::<u16>(), any::<bool>(), 0..=1_000_u32).prop_map(|(lens, base, key_id, plain, less)| {
        let raw_len: u32 = lens.iter().sum();
        let (codec, payload_len) =
            if plain { (Codec::Plain, raw_len) } else { (Codec::Zstd, raw_len.saturating_sub(1 + less)) };
        FrameHeader { codec, key_id, base, raw_len, payload_len, lens }
    })
}

pub(crate) fn footer() -> impl Strategy<Value = Footer> {
    let frame = (25..260_000_u32, vec((chunk_id(), 1..=1024_u32), 1..20));
    vec(frame, 0..20).prop_map(|list| {
        let mut next = PACK_HEADER_LEN;
        let mut frames = Vec::new();
        for (len, chunks) in list {
            frames.push(FrameEntry { offset: next, len, raw_len: chunks.iter().map(|&(_, len)| len).sum(), chunks });
            next += u64::from(len);
        }
        Footer { frames }
    })
}

pub(crate) fn trailer() -> impl Strategy<Value = PackTrailer> {
    let digest = || any::<[u8; 32]>().prop_map(Digest::from_bytes);
    (8..1_u64 << 40, 12..64_u64 << 20, digest(), digest()).prop_map(
        |(footer_offset, footer_len, footer_digest, digest)| PackTrailer {
            footer_offset,
            footer_len,
            footer_digest,
            digest,
        },
    )
}

pub(crate) fn layout() -> impl Strategy<Value = Layout> {
    let pack =
        (any::<[u8; 16]>(), "[!-~]{1,80}").prop_map(|(id, address)| PackAt { id: PackId::from_bytes(id), address });
    let frame = (any::<u32>(), 8..1_u64 << 40, 25..200_000_u32, 1..=FRAME_RAW_MAX as u32);
    let chunk = (chunk_id(), any::<u32>(), any::<u32>(), any::<u32>());
    (vec(pack, 1..5), vec(frame, 1..10), vec(chunk, 0..30)).prop_map(|(packs, frames, chunks)| {
        let count = packs.len() as u32;
        let frames: Vec<_> = frames
            .into_iter()
            .map(|(pack, offset, len, raw_len)| FrameAt { pack: pack % count, offset, len, raw_len })
            .collect();
        let place = |(id, len, frame, at): (ChunkId, u32, u32, u32)| {
            let frame = frame % frames.len() as u32;
            let raw_len = frames[frame as usize].raw_len;
            let at = at % raw_len;
            let len = 1 + len % (raw_len - at);
            ChunkAt { id, len, frame, at }
        };
        let chunks = chunks.into_iter().map(place).collect();
        Layout { packs, frames, chunks }
    })
}
