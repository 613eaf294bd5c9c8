//! One entry for each decoder. The properties of the normal tests and the fuzzer (`fuzz/`) run the same ones: whatever a decoder takes
//! must encode to the same bytes again. `bounded` is the includer's: it may count what decoding allocates.

use super::bounded;
use slipway_chunk::{DecodedFrame, FRAME_RAW_MAX, Footer, FrameHeader, Layout, Manifest, PackTrailer, Segment};

pub(crate) type Entry = fn(&[u8]);

pub(crate) const ENTRIES: &[(&str, Entry)] = &[
    ("segment", |bytes| {
        if let Ok(segment) = bounded(bytes.len(), 0, || Segment::decode(bytes)) {
            assert_eq!(segment.encode(), bytes);
        }
    }),
    ("manifest", |bytes| {
        if let Ok(manifest) = bounded(bytes.len(), 0, || Manifest::decode(bytes)) {
            assert_eq!(manifest.encode(), bytes);
        }
    }),
    ("footer", |bytes| {
        if let Ok(footer) = bounded(bytes.len(), 0, || Footer::decode(bytes)) {
            assert_eq!(footer.encode(), bytes);
        }
    }),
    ("trailer", |bytes| {
        if let Ok(trailer) = bounded(bytes.len(), 0, || PackTrailer::decode(bytes)) {
            assert_eq!(trailer.encode(), bytes);
            assert!(trailer.pack_len() > 88);
        }
    }),
    ("layout", |bytes| {
        if let Ok(layout) = bounded(bytes.len(), 0, || Layout::decode(bytes)) {
            assert_eq!(layout.encode(), bytes);
        }
    }),
    ("frame_header", |bytes| {
        if let Ok(Some((header, head_len))) = bounded(bytes.len(), 0, || FrameHeader::decode(bytes)) {
            assert_eq!(header.encode(), bytes[..head_len]);
        }
    }),
    ("frame", |bytes| {
        // A frame may say that it is 256 KiB raw, and is believed that much.
        if let Ok(frame) = bounded(bytes.len(), FRAME_RAW_MAX, || DecodedFrame::decode(bytes)) {
            let sum: u32 = frame.ids().iter().map(|&(_, len)| len).sum();
            assert_eq!(sum as usize, frame.raw().len());
        }
    }),
];
