//! Inputs that another program can make too: all bytes come from BLAKE3 in extendable mode over a short text.
#![allow(dead_code)] // Each test program uses its part.

use std::io;

use slipway_chunk::{BLOCK, Fill, ImageBuilder, Manifest, Run, Scan, Segment, SparseRead};
use slipway_chunk::{ChunkId, ChunkerParams};

/// Block number `k`: the first 4096 bytes of BLAKE3("slipway block k").
pub(crate) fn block(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("slipway block {number}").as_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// An image in parts, so that a hole of many GiB costs nothing.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    Hole(u64),
    Bytes(Vec<u8>),
}

/// Hands out parts, at most `step` bytes of data at a time.
pub(crate) struct Parts {
    parts: std::vec::IntoIter<Part>,
    now: Option<(Vec<u8>, usize)>,
    step: usize,
}

impl Parts {
    pub(crate) fn new(parts: Vec<Part>, step: usize) -> Self {
        Self { parts: parts.into_iter(), now: None, step }
    }
}

impl SparseRead for Parts {
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<Fill> {
        loop {
            if let Some((bytes, at)) = &mut self.now {
                let rest = &bytes[*at..];
                let len = rest.len().min(self.step).min(buf.len());
                if len > 0 {
                    buf[..len].copy_from_slice(&rest[..len]);
                    *at += len;
                    return Ok(Fill::Data(len));
                }
            }
            match self.parts.next() {
                None => return Ok(Fill::End),
                Some(Part::Hole(len)) => return Ok(Fill::Hole(len)),
                Some(Part::Bytes(bytes)) => self.now = Some((bytes, 0)),
            }
        }
    }
}

/// What a scan of an image gave, as it would be stored.
#[derive(Debug, PartialEq)]
pub(crate) struct Cut {
    pub(crate) segments: Vec<Segment>,
    pub(crate) manifest: Manifest,
    /// Every chunk with its offset in the image.
    pub(crate) chunks: Vec<(u64, Vec<u8>)>,
}

pub(crate) fn cut(source: impl SparseRead, params: ChunkerParams) -> Cut {
    let mut scan = Scan::new(source, params);
    let mut builder = ImageBuilder::new(params, 512);
    let mut segments = Vec::new();
    let mut chunks = Vec::new();
    let mut next = 0;
    while let Some(run) = scan.next().unwrap() {
        match run {
            Run::Hole { at, len } => {
                assert_eq!(at, next);
                next += len;
                segments.extend(builder.hole(len));
            }
            Run::Data { at, bytes } => {
                assert_eq!(at, next);
                next += bytes.len() as u64;
                segments.extend(builder.chunk(ChunkId::of(bytes), bytes.len() as u32));
                chunks.push((at, bytes.to_vec()));
            }
        }
    }
    assert_eq!(scan.position(), next);
    let (last, manifest) = builder.finish().unwrap();
    segments.extend(last);
    Cut { segments, manifest, chunks }
}
