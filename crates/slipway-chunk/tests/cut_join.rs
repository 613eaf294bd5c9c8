//! Cutting and joining gives back the image, and the cut depends on nothing but the image and the parameters.

#![allow(clippy::unwrap_used)]
mod inputs;

use std::collections::HashMap;
use std::io::{self, Read};

use inputs::{Cut, Part, Parts, block, cut};
use proptest::collection::vec;
use proptest::prelude::*;
use slipway_chunk::{
    BLOCK, ChunkId, ChunkerParams, Extent, Fill, IMAGE_SIZE_MAX, Piece, Run, SEGMENT_LEN, Scan, SparseRead, Stream,
    piece_next,
};

/// A short image with all kinds of blocks: zero, all the same, unlike any other, almost zero, a file's last; and a tail.
fn image() -> impl Strategy<Value = Vec<u8>> {
    let run = (0..6_u8, 1..40_usize, any::<u8>());
    let tail = prop_oneof![Just(0), 1..BLOCK];
    (vec(run, 0..6), tail, any::<bool>()).prop_map(|(runs, tail, zero_tail)| {
        let mut bytes = Vec::new();
        for (kind, blocks, salt) in runs {
            for n in 0..blocks {
                let mut one = vec![0; BLOCK];
                match kind {
                    0 | 1 => {}
                    2 => one.fill(salt),
                    3 => one[(usize::from(salt) * 16 + n) % BLOCK] = 1,
                    4 => {
                        one = block(u64::from(salt) * 64 + n as u64);
                        one[BLOCK - (usize::from(salt) + 7 * n) % 128..].fill(0);
                    }
                    _ => one = block(u64::from(salt) * 64 + n as u64),
                }
                bytes.extend_from_slice(&one);
            }
        }
        bytes.extend(std::iter::repeat_n(u8::from(!zero_tail), tail));
        bytes
    })
}

fn params() -> impl Strategy<Value = ChunkerParams> {
    (1..=64_u16, 1..=64_u16, 0..=6_u8, any::<u64>()).prop_map(|(a, b, mask_bits, seed)| ChunkerParams {
        min_blocks: a.min(b),
        mask_bits,
        max_blocks: a.max(b),
        seed,
    })
}

/// The cut as `docs/format.md` tells it, over the whole image at once and without any shortcut.
/// `at` is where `bytes` lies in the image. Gives back offset and length of each chunk.
fn cut_plainly(params: &ChunkerParams, at: u64, bytes: &[u8]) -> Vec<(u64, usize)> {
    let mask = (1_u64 << params.mask_bits) - 1;
    let mut chunks = Vec::new();
    let mut open: Option<(u64, usize, u16)> = None;
    for (n, block) in bytes.chunks(BLOCK).enumerate() {
        let place = at + (n * BLOCK) as u64;
        if block.iter().all(|&byte| byte == 0) {
            chunks.extend(open.take().map(|(begin, len, _)| (begin, len)));
            continue;
        }
        let (begin, len, blocks) = open.unwrap_or((place, 0, 0));
        let (len, blocks) = (len + block.len(), blocks + 1);
        let hash = twox_hash::XxHash3_64::oneshot_with_seed(params.seed, block);
        let file_end = block.len() == BLOCK && block[BLOCK - 64..].iter().all(|&byte| byte == 0);
        let ends = blocks == params.max_blocks
            || (blocks >= params.min_blocks && (file_end || hash & mask == 0))
            || (place + BLOCK as u64).is_multiple_of(SEGMENT_LEN);
        open = if ends {
            chunks.push((begin, len));
            None
        } else {
            Some((begin, len, blocks))
        };
    }
    chunks.extend(open.map(|(begin, len, _)| (begin, len)));
    chunks
}

/// Joins an image from what would be stored: segments and chunks by id. Leaves out `skip` bytes at its front, which must be a hole.
fn join(cut: &Cut, skip: u64) -> Vec<u8> {
    let by_id: HashMap<_, _> = cut.chunks.iter().map(|(_, bytes)| (ChunkId::of(bytes), bytes)).collect();
    let mut image = vec![0; usize::try_from(cut.manifest.size - skip).unwrap()];
    let mut begin = 0;
    for (index, segment) in cut.segments.iter().enumerate() {
        assert_eq!(segment.id(), cut.manifest.segments[index]);
        assert_eq!(segment.len(), cut.manifest.segment_len(index));
        for (at, id, len) in segment.chunks() {
            let from = usize::try_from(begin + at - skip).unwrap();
            assert_eq!(by_id[&id].len(), len as usize);
            image[from..from + len as usize].copy_from_slice(by_id[&id]);
        }
        begin += segment.len();
    }
    assert_eq!(begin, cut.manifest.size);
    image
}

/// Splits an image where it has zero blocks, and calls some of them holes.
fn sparse_parts(prefix: u64, image: &[u8], told: u64) -> Vec<Part> {
    let mut parts = Vec::new();
    if prefix > 0 {
        parts.push(Part::Hole(prefix));
    }
    for (n, block) in image.chunks(BLOCK).enumerate() {
        let zero = block.iter().all(|&byte| byte == 0);
        parts.push(if zero && told >> (n % 64) & 1 == 1 {
            Part::Hole(block.len() as u64)
        } else {
            Part::Bytes(block.to_vec())
        });
    }
    parts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cut_and_join_give_back_the_image(
        image in image(),
        params in params(),
        // The image begins so many blocks before a segment's border, or at 0.
        before_border in prop_oneof![Just(0), 1..100_u64],
        told in any::<u64>(),
        step in prop_oneof![1..10_000_usize, Just(usize::MAX)],
    ) {
        let prefix = match before_border {
            0 => 0,
            blocks => SEGMENT_LEN - blocks * BLOCK as u64,
        };
        prop_assume!(prefix + image.len() as u64 > 0);
        let got = cut(Parts::new(sparse_parts(prefix, &image, told), step), params);

        let places: Vec<_> = got.chunks.iter().map(|(at, bytes)| (*at, bytes.len())).collect();
        prop_assert_eq!(places, cut_plainly(&params, prefix, &image));
        prop_assert_eq!(join(&got, prefix), image.clone());
        for segment in &got.segments {
            let mut after_hole = false;
            for extent in segment.extents() {
                let hole = matches!(extent, Extent::Hole { .. });
                prop_assert!(!(hole && after_hole), "holes are merged");
                after_hole = hole;
            }
        }
        let other = cut(Parts::new(sparse_parts(prefix, &image, !told), usize::MAX), params);
        prop_assert_eq!(got, other, "who knows other holes and reads in other steps cuts the same");
    }

    #[test]
    fn a_decision_never_changes_with_more_bytes(image in image(), params in params(), eof in any::<bool>()) {
        let whole = piece_next(&params, &image, SEGMENT_LEN, eof);
        for len in (0..image.len()).step_by(1234) {
            match (piece_next(&params, &image[..len], SEGMENT_LEN, false), whole) {
                (None, _) => prop_assert!(len < params.max_len() + BLOCK),
                (Some(Piece::Hole(part)), Some(Piece::Hole(all))) => prop_assert!(part <= all),
                (part, all) => prop_assert_eq!(part, all),
            }
        }
    }
}

/// Reads one byte short of what is wanted, is interrupted now and then.
struct Reluctant<'a>(&'a [u8], u32);

impl Read for Reluctant<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.1 += 1;
        if self.1.is_multiple_of(3) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = buf.len().saturating_sub(1).max(1);
        self.0.read(&mut buf[..len])
    }
}

#[test]
fn an_image_longer_than_the_buffer_is_cut_the_same() {
    let mut image: Vec<u8> = (0..2600).flat_map(|n| block(n % 700)).collect();
    image[3 << 20..5 << 20].fill(0);
    image.truncate(image.len() - 77);
    let params = ChunkerParams::default();
    let whole = cut(Parts::new(vec![Part::Bytes(image.clone())], usize::MAX), params);
    let streamed = cut(Stream(Reluctant(&image, 0)), params);
    assert_eq!(whole, streamed);
    assert_eq!(join(&streamed, 0), image);
    let places: Vec<_> = whole.chunks.iter().map(|(at, bytes)| (*at, bytes.len())).collect();
    assert_eq!(places, cut_plainly(&params, 0, &image));
    // The default aims at 2 + 2^3 blocks; far from it the mask would be wrong.
    let mean = whole.chunks.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() / whole.chunks.len();
    assert!((6 * BLOCK..12 * BLOCK).contains(&mean), "{mean}");
}

#[test]
fn blocks_are_found_again_at_another_place() {
    let params = ChunkerParams::default();
    let blocks: Vec<u8> = (0..400).flat_map(block).collect();
    let moved = [block(1_000_000), blocks.clone()].concat();
    let ids = |image: Vec<u8>| -> HashMap<ChunkId, usize> {
        let cut = cut(Parts::new(vec![Part::Bytes(image)], usize::MAX), params);
        cut.chunks.iter().map(|(_, bytes)| (ChunkId::of(bytes), bytes.len())).collect()
    };
    let (old, new) = (ids(blocks), ids(moved));
    let fresh: usize = new.iter().filter(|(id, _)| !old.contains_key(id)).map(|(_, len)| len).sum();
    assert!(fresh <= 4 * params.max_len(), "{fresh} bytes are new after a shift of one block");
}

#[test]
fn a_tera_byte_of_hole_costs_its_data() {
    let parts = vec![Part::Hole(1 << 39), Part::Bytes(block(1)), Part::Hole(1 << 39), Part::Bytes(vec![5; 10])];
    let cut = cut(Parts::new(parts, usize::MAX), ChunkerParams::default());
    assert_eq!(cut.manifest.size, (1 << 40) + 4096 + 10);
    assert_eq!(cut.chunks.len(), 2);
    assert_eq!(cut.segments.iter().map(|s| s.data_bytes()).sum::<u64>(), 8192);
}

#[test]
fn sources_that_break_the_rules_are_refused() {
    struct Script(Vec<Fill>);
    impl SparseRead for Script {
        fn fill(&mut self, buf: &mut [u8]) -> io::Result<Fill> {
            let fill = if self.0.is_empty() { Fill::End } else { self.0.remove(0) };
            if let Fill::Data(len) = fill
                && let Some(space) = buf.get_mut(..len)
            {
                space.fill(1);
            }
            Ok(fill)
        }
    }
    fn check(fills: &[Fill], want: Result<u64, &str>) {
        let mut scan = Scan::new(Script(fills.to_vec()), ChunkerParams::default());
        let mut seen = 0;
        let end = loop {
            match scan.next() {
                Ok(Some(Run::Hole { len, .. })) => seen += len,
                Ok(Some(Run::Data { bytes, .. })) => seen += bytes.len() as u64,
                Ok(None) => break Ok(seen),
                Err(error) => break Err(error.to_string()),
            }
        };
        assert_eq!(end, want.map_err(str::to_owned), "{fills:?}");
    }
    use Fill::{Data, Hole};
    check(&[], Ok(0));
    check(&[Data(100)], Ok(100));
    check(&[Hole(100)], Ok(100));
    check(&[Data(4096), Hole(8192), Hole(100)], Ok(12388));
    check(&[Data(100), Data(3996), Hole(4096)], Ok(8192));
    check(&[Data(0)], Err("source gave an impossible length"));
    check(&[Data(5 << 20)], Err("source gave an impossible length"));
    check(&[Hole(0)], Err("source gave an empty hole"));
    check(&[Data(100), Hole(4096)], Err("source gave a hole that begins inside a block"));
    check(&[Hole(100), Hole(4096)], Err("source gave a hole that begins inside a block"));
    check(&[Hole(100), Data(1)], Err("source gave data behind a hole that ends inside a block"));
    let large = "image is larger than 70368744177664 bytes";
    check(&[Hole(IMAGE_SIZE_MAX), Data(1)], Err(large));
    check(&[Hole(IMAGE_SIZE_MAX)], Ok(IMAGE_SIZE_MAX));
}

#[test]
fn an_error_of_the_source_is_passed_on() {
    struct Broken(u32);
    impl Read for Broken {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 > 3 {
                return Err(io::Error::other("the disk is gone"));
            }
            buf[..4096].fill(1);
            Ok(4096)
        }
    }
    let mut scan = Scan::new(Stream(Broken(0)), ChunkerParams::default());
    assert_eq!(scan.next().unwrap_err().to_string(), "the disk is gone");
    assert_eq!(scan.position(), 0);
}
