//! Golden vectors: fixed inputs, exact bytes. A failure means that images in stores and on disks would be read or named differently: the format has changed.
//! `docs/format.md` lists the same vectors, for another program to check itself by.

#![allow(clippy::unwrap_used)]
mod inputs;

use inputs::{Part, Parts, block, cut};
use slipway_chunk::{
    BLOCK, ChunkAt, ChunkId, ChunkerParams, DecodedFrame, Digest, EncodedFrame, Extent, FrameAt, FrameBuilder, Layout,
    PackAt, PackId, PackTrailer, PackWriter, RawDigest, SEGMENT_LEN, Segment,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn blocks(numbers: std::ops::Range<u64>) -> Vec<u8> {
    numbers.flat_map(block).collect()
}

/// 2 blocks, a zero block, 100 bytes.
fn image_small() -> Vec<Part> {
    let mut bytes = blocks(0..2);
    bytes.resize(3 * BLOCK, 0);
    bytes.extend_from_slice(&block(2)[..100]);
    vec![Part::Bytes(bytes)]
}

/// 40 blocks, 3 zero blocks, 2 blocks, a zero block, 1 block, 100 bytes.
fn image_cut() -> Vec<Part> {
    let mut bytes = blocks(0..40);
    bytes.resize(43 * BLOCK, 0);
    bytes.extend(blocks(40..42));
    bytes.resize(46 * BLOCK, 0);
    bytes.extend(block(42));
    bytes.extend_from_slice(&block(43)[..100]);
    vec![Part::Bytes(bytes)]
}

/// Files of 1, 3, 2 and 4 blocks whose last blocks end in 4000, 64, 63 and 100 zeros.
fn image_files() -> Vec<Part> {
    let mut bytes = blocks(0..10);
    for (end, zeros) in [(1, 4000), (4, 64), (6, 63), (10, 100)] {
        bytes[end * BLOCK - zeros..end * BLOCK].fill(0);
    }
    vec![Part::Bytes(bytes)]
}

/// 8 blocks across the border of two segments, and a zero tail of 5 bytes.
fn image_border() -> Vec<Part> {
    let before = SEGMENT_LEN - 3 * BLOCK as u64;
    vec![Part::Hole(before), Part::Bytes(blocks(0..8)), Part::Hole(BLOCK as u64 + 5)]
}

fn frame_plain() -> EncodedFrame {
    let mut builder = FrameBuilder::new();
    for chunk in [b"abc".as_slice(), b"de"] {
        builder.push(ChunkId::of(chunk), chunk);
    }
    builder.take().encode(3)
}

fn pack() -> Vec<u8> {
    let mut writer = PackWriter::new(Vec::new()).unwrap();
    writer.frame_append(&frame_plain()).unwrap();
    writer.finish().unwrap().0
}

fn layout() -> Vec<u8> {
    Layout {
        packs: vec![PackAt { id: PackId::from_bytes(*b"0123456789abcdef"), address: "/p".to_owned() }],
        frames: vec![FrameAt { pack: 0, offset: 8, len: 33, raw_len: 5 }],
        chunks: vec![ChunkAt { id: ChunkId::of(b"de"), len: 2, frame: 0, at: 3 }],
    }
    .encode()
}

fn extents(segments: &[Segment]) -> String {
    let name = |extent: &Extent| match extent {
        Extent::Hole { len } => format!("H{len}"),
        Extent::Chunk { len, .. } => format!("C{len}"),
    };
    let list: Vec<_> = segments.iter().flat_map(Segment::extents).map(name).collect();
    list.join(" ")
}

fn digest(parts: Vec<Part>) -> Digest {
    let mut digest = RawDigest::new();
    for part in parts {
        match part {
            Part::Hole(len) => digest.zeros(len),
            Part::Bytes(bytes) => digest.data(&bytes),
        }
    }
    digest.finish()
}

fn vectors() -> Vec<(String, String)> {
    let params = ChunkerParams::default();
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    row("chunk-id abc", ChunkId::of(b"abc").to_string());
    row("block 0", ChunkId::of(&block(0)).to_string());
    for number in 0..4 {
        let hash = twox_hash::XxHash3_64::oneshot_with_seed(params.seed, &block(number));
        row(&format!("xxh3 block {number}"), format!("{hash:016x}"));
    }
    let images = [("small", image_small()), ("cut", image_cut()), ("files", image_files()), ("border", image_border())];
    for (name, parts) in images {
        let cut = cut(Parts::new(parts.clone(), usize::MAX), params);
        row(&format!("image {name} extents"), extents(&cut.segments));
        if name == "small" {
            row("image small segment", hex(&cut.segments[0].encode()));
            row("image small manifest", hex(&cut.manifest.encode()));
        }
        for (index, id) in cut.manifest.segments.iter().enumerate() {
            row(&format!("image {name} segment-id {index}"), id.to_string());
        }
        row(&format!("image {name} root"), cut.manifest.root().to_string());
        row(&format!("image {name} digest"), digest(parts).to_string());
    }
    row("frame plain", hex(&frame_plain().bytes));
    row("pack", hex(&pack()));
    row("layout", hex(&layout()));
    rows
}

#[test]
fn vectors_are_as_written_down() {
    let rows = vectors();
    let text: String = rows.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    assert!(text == include_str!("golden.txt"), "the vectors are now:\n{text}");
}

#[test]
fn the_format_page_lists_every_vector() {
    let page = include_str!("../../../docs/format.md");
    for line in include_str!("golden.txt").lines() {
        assert!(page.lines().any(|found| found == line), "docs/format.md lacks: {line}");
    }
}

/// What an encoder makes of a compressed payload may change with zstd; what a decoder makes of this one may not.
const FRAME_ZSTD: &str =
    "534c465201010000000002000020000017000000001000000010000028b52ffd60001f6d0000186161620200fc07bed8bf0fb0";

#[test]
fn a_compressed_frame_decodes() {
    let bytes: Vec<u8> =
        (0..FRAME_ZSTD.len() / 2).map(|n| u8::from_str_radix(&FRAME_ZSTD[2 * n..2 * n + 2], 16).unwrap()).collect();
    let frame = DecodedFrame::decode(&bytes).unwrap();
    let chunks = [vec![b'a'; 4096], vec![b'b'; 4096]];
    let want = chunks.each_ref().map(|chunk| (ChunkId::of(chunk), 4096));
    assert_eq!(frame.ids(), want);
    assert_eq!(frame.raw(), chunks.concat());
    let page = include_str!("../../../docs/format.md");
    assert!(page.lines().any(|line| line == format!("frame zstd: {FRAME_ZSTD}")));
}

/// The vectors of the pack can be followed from its end to a chunk.
#[test]
fn the_pack_is_walked() {
    let bytes = pack();
    let body = bytes.len() - 88;
    let trailer = PackTrailer::decode(&bytes[body..]).unwrap();
    let footer = trailer.footer_decode(&bytes[trailer.footer_offset as usize..body]).unwrap();
    let entry = &footer.frames[0];
    let at = entry.offset as usize;
    let frame = DecodedFrame::decode(&bytes[at..at + entry.len as usize]).unwrap();
    assert_eq!(frame.verify(3, 2, &entry.chunks[1].0).unwrap().bytes(), b"de");
    assert_eq!(Layout::decode(&layout()).unwrap().frames[0].len, entry.len);
}
