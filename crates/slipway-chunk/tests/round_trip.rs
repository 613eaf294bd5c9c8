//! What is encoded decodes to the same, and no other bytes decode to it.

#![allow(clippy::unwrap_used)]
#[path = "inputs/encodings.rs"]
mod encodings;

use proptest::prelude::*;
use slipway_chunk::{
    DecodedFrame, Footer, FrameHeader, Layout, Manifest, PackTrailer, PackWriter, Root, Segment, SegmentId,
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn segment(segment in encodings::segment()) {
        let bytes = segment.encode();
        prop_assert_eq!(segment.id(), SegmentId::of(&bytes));
        prop_assert_eq!(Segment::decode(&bytes), Ok(segment));
    }

    #[test]
    fn manifest(manifest in encodings::manifest()) {
        let bytes = manifest.encode();
        prop_assert_eq!(manifest.root(), Root::of(&bytes));
        prop_assert_eq!(Manifest::decode(&bytes), Ok(manifest));
    }

    #[test]
    fn frame(frame in encodings::frame()) {
        let decoded = DecodedFrame::decode(&frame.bytes).unwrap();
        prop_assert_eq!(decoded.ids(), frame.chunks.clone());
        prop_assert_eq!(decoded.raw().len(), frame.raw_len as usize);
        let mut at = 0;
        for (id, len) in &frame.chunks {
            let chunk = decoded.verify(at, *len, id).unwrap();
            prop_assert_eq!(chunk.bytes().len(), *len as usize);
            at += len;
        }
    }

    #[test]
    fn frame_header(header in encodings::frame_header()) {
        let bytes = header.encode();
        prop_assert_eq!(bytes.len(), header.header_len());
        let len = bytes.len();
        prop_assert_eq!(FrameHeader::decode(&[bytes, vec![7; 9]].concat()), Ok(Some((header, len))));
    }

    #[test]
    fn footer(footer in encodings::footer()) {
        let bytes = footer.encode();
        prop_assert_eq!(bytes.len() as u64, footer.encoded_len());
        prop_assert_eq!(Footer::decode(&bytes), Ok(footer));
    }

    #[test]
    fn trailer(trailer in encodings::trailer()) {
        prop_assert_eq!(PackTrailer::decode(&trailer.encode()), Ok(trailer));
    }

    #[test]
    fn layout(layout in encodings::layout()) {
        prop_assert_eq!(layout.check(), Ok(()));
        prop_assert_eq!(Layout::decode(&layout.encode()), Ok(layout));
    }

    #[test]
    fn pack(frames in proptest::collection::vec(encodings::frame(), 0..4)) {
        let mut writer = PackWriter::new(Vec::new()).unwrap();
        for frame in &frames {
            writer.frame_append(frame).unwrap();
        }
        let (bytes, receipt) = writer.finish().unwrap();
        let trailer = PackTrailer::decode(&bytes[bytes.len() - 88..]).unwrap();
        prop_assert_eq!(trailer.pack_len(), bytes.len() as u64);
        let footer = trailer.footer_decode(&bytes[trailer.footer_offset as usize..bytes.len() - 88]);
        prop_assert_eq!(footer, Ok(receipt.footer.clone()));
        for (entry, frame) in receipt.footer.frames.iter().zip(&frames) {
            let at = entry.offset as usize;
            prop_assert_eq!(&bytes[at..at + entry.len as usize], frame.bytes.as_slice());
        }
    }
}
