//! The image format: cut, hash, pack, manifest, digest.
//!
//! An image is cut into chunks on 4 KiB borders ([`piece_next`], [`Scan`]); zero blocks are holes. The
//! extents of each 256 MiB are a [`Segment`], the list of segments is the [`Manifest`], and its BLAKE3 is
//! the [`Root`]. Chunks are compressed together in frames ([`FrameBuilder`], [`Framer`]), and frames are
//! kept in packs ([`PackWriter`]). A [`Layout`] says where the chunks of a segment lie now. `docs/format.md` gives every byte.
//!
//! This crate is synchronous, opens no socket and no file, and reads no clock.

mod build;
mod cursor;
mod cut;
mod diff;
mod digest;
mod error;
mod footer;
mod frame;
mod frame_decode;
mod frame_header;
mod framer;
mod ids;
mod layout;
mod manifest;
mod pack;
mod scan;
mod segment;
mod verified;

pub use build::ImageBuilder;
pub use cut::{ChunkerParams, Piece, is_zero, piece_next};
pub use diff::{DiffKind, DiffRange, DiffRanges, blocks_diff, chunks_touching, segments_diff};
pub use digest::RawDigest;
pub use error::FormatError;
pub use footer::{FOOTER_LEN_MAX, Footer, FrameEntry, PACK_TRAILER_LEN, PackTrailer};
pub use frame::{EncodedFrame, FrameBuilder, RawFrame};
pub use frame_decode::DecodedFrame;
pub use frame_header::{Codec, FRAME_BASE_MAX, FRAME_CHUNKS_MAX, FRAME_HEADER_MIN, FRAME_LEN_MAX, FrameHeader};
pub use framer::Framer;
pub use ids::{ChunkId, Digest, IdError, PackId, Root, SegmentId};
pub use layout::{ADDRESS_LEN_MAX, ChunkAt, FrameAt, LAYOUT_LEN_MAX, Layout, PackAt};
pub use manifest::{MANIFEST_LEN_MAX, Manifest};
pub use pack::{PACK_HEADER_LEN, PackReceipt, PackWriter};
pub use scan::{Fill, Run, Scan, SparseRead, Stream};
pub use segment::{Extent, SEGMENT_ENCODED_MAX, SEGMENT_EXTENTS_MAX, Segment};
pub use verified::{Verified, VerifiedFrame, verify};

/// The alignment of every cut, in bytes. All offsets of chunks and holes are multiples of it.
pub const BLOCK: usize = 4096;

/// What one segment covers, in bytes; a cut is forced at each multiple of it.
pub const SEGMENT_LEN: u64 = 256 << 20;

/// The most raw bytes of one frame, and so of one chunk.
pub const FRAME_RAW_MAX: usize = 256 << 10;

/// The largest image, in bytes (64 TiB); its manifest is 8 MiB.
pub const IMAGE_SIZE_MAX: u64 = 1 << 46;
