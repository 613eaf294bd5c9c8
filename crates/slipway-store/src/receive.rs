//! Frames and segments that a client made: checked, then stored as they came.

use std::io::{self, Read};

use slipway_chunk::{DecodedFrame, EncodedFrame, FRAME_HEADER_MIN, FrameHeader, PackWriter, Segment, SegmentId};

use crate::blobs::BlobWriter;
use crate::error::StoreError;
use crate::id::{BlobId, SpaceId};
use crate::ledger::{BlobKind, BlobState, Ledger};
use crate::stage::Stage;
use crate::store::{Store, footer_is_full};

/// For whom something is received.
#[derive(Debug, Clone)]
pub struct ReceiveSpec {
    pub space: SpaceId,
    pub upload: String,
}

/// What `frames_receive` took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Received {
    pub frames: u64,
    pub chunks: u64,
    /// Stored bytes of the frames.
    pub frames_len: u64,
}

impl Store {
    /// Takes whole frames, one after the other, until the source ends; each is decoded and its
    /// chunks hashed once, and it is stored as it came. All go into one pack, or a few if they have
    /// very many chunks, which are live when this returns; if it errs, nothing refers to what was
    /// stored, and prune takes it. No frames are no error.
    ///
    /// # Errors
    /// `Format` for a frame that is cut off, has a base, a key or a codec that is not known, or
    /// does not decompress to what it says; `TooLarge` beyond `StoreConfig::receive_max`.
    pub fn frames_receive(
        &self,
        spec: &ReceiveSpec,
        source: &mut dyn Read,
        ledger: &dyn Ledger,
    ) -> Result<Received, StoreError> {
        self.poison_check()?;
        let source = &mut io::BufReader::with_capacity(64 << 10, source);
        let mut received = Received::default();
        let mut pack: Option<(PackWriter<BlobWriter>, Stage<'_>)> = None;
        while let Some(frame) = frame_read(source, received.frames)? {
            received.frames += 1;
            received.chunks += frame.chunks.len() as u64;
            received.frames_len += frame.bytes.len() as u64;
            if received.frames_len > self.config.receive_max {
                return Err(StoreError::TooLarge {
                    what: "one request of frames",
                    len: received.frames_len,
                    max: self.config.receive_max,
                });
            }
            if pack.is_none() {
                let upload = Some(spec.upload.as_str());
                let (stage, writer) = Stage::begin(self, ledger, &spec.space, BlobKind::Pack, None, upload)?;
                let writer = PackWriter::new(writer).map_err(|error| stage.write_error(error))?;
                pack = Some((writer, stage));
            }
            if let Some((writer, stage)) = &mut pack {
                writer.frame_append(&frame).map_err(|error| stage.write_error(error))?;
            }
            if let Some((writer, stage)) = pack.take_if(|(writer, _)| footer_is_full(writer)) {
                self.pack_publish(writer, stage, ledger)?;
            }
        }
        if let Some((writer, stage)) = pack {
            self.pack_publish(writer, stage, ledger)?;
        }
        Ok(received)
    }

    fn pack_publish(
        &self,
        writer: PackWriter<BlobWriter>,
        stage: Stage<'_>,
        ledger: &dyn Ledger,
    ) -> Result<(), StoreError> {
        let (writer, receipt) = writer.finish().map_err(|error| stage.write_error(error))?;
        let id = stage.publish(writer, receipt.len, receipt.frames_len, &receipt.digest)?;
        self.index.footer_keep(id, &receipt.footer);
        self.index_sync(ledger)
    }

    /// Takes the encoding of a segment; a space keeps one of a name. Whether its chunks are here
    /// is asked by `content_prepare`.
    pub fn segment_receive(
        &self,
        spec: &ReceiveSpec,
        id: &SegmentId,
        bytes: &[u8],
        ledger: &dyn Ledger,
    ) -> Result<BlobId, StoreError> {
        let what = || format!("segment {id}");
        let segment = Segment::decode(bytes).map_err(|source| StoreError::Format { what: what(), source })?;
        if segment.id() != *id {
            return Err(StoreError::Format {
                what: what(),
                source: slipway_chunk::FormatError::DigestMismatch { what: "segment" },
            });
        }
        let name = id.to_string();
        let spaces = std::slice::from_ref(&spec.space);
        match ledger.blob_find(spaces, BlobKind::Segment, &name)? {
            Some(row) if row.state == BlobState::Live => Ok(row.id),
            Some(_) | None => {
                let upload = Some(spec.upload.as_str());
                self.named_write(&spec.space, BlobKind::Segment, name, bytes, upload, ledger)
            }
        }
    }
}

/// The next frame of a stream with the ids that its bytes have, or none at its end.
fn frame_read(source: &mut dyn Read, number: u64) -> Result<Option<EncodedFrame>, StoreError> {
    let bad = |source| StoreError::Format { what: format!("frame {number}"), source };
    let mut bytes = Vec::new();
    let mut wanted = FRAME_HEADER_MIN;
    let header = loop {
        let got = fill_to(source, &mut bytes, wanted)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        match FrameHeader::decode(&bytes).map_err(bad)? {
            Some((header, _)) => break header,
            None if !got => {
                return Err(bad(slipway_chunk::FormatError::Truncated { what: "frame" }));
            }
            // The fixed part is there and sane, so its lists are at most a few KiB; their records
            // have 4 or 32 bytes, so this never reads into what follows the header.
            None => wanted += 4,
        }
    };
    // At most FRAME_LEN_MAX: the header's decoder capped every length in it.
    fill_to(source, &mut bytes, header.frame_len())?;
    let decoded = DecodedFrame::decode(&bytes).map_err(bad)?;
    Ok(Some(EncodedFrame { chunks: decoded.ids(), raw_len: header.raw_len, bytes }))
}

/// Reads until `bytes` has this length; false if the source ended before.
fn fill_to(source: &mut dyn Read, bytes: &mut Vec<u8>, len: usize) -> Result<bool, StoreError> {
    let mut at = bytes.len();
    bytes.resize(len.max(at), 0);
    while at < bytes.len() {
        match source.read(&mut bytes[at..]) {
            Ok(0) => {
                bytes.truncate(at);
                return Ok(false);
            }
            Ok(n) => at += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(StoreError::Frames(error)),
        }
    }
    Ok(true)
}
