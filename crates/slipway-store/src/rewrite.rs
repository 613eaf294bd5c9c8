//! Frames from old packs into new ones of the same space, each verified on its way.

use slipway_chunk::{DecodedFrame, EncodedFrame, PackWriter};

use crate::blobs::BlobWriter;
use crate::error::StoreError;
use crate::findings::{Finding, FindingKind};
use crate::id::SpaceId;
use crate::index::PackRow;
use crate::ledger::{BlobKind, Ledger};
use crate::stage::Stage;
use crate::store::{Store, footer_is_full};

pub(crate) struct Rewriter<'a> {
    store: &'a Store,
    ledger: &'a dyn Ledger,
    space: &'a SpaceId,
    pack: Option<(PackWriter<BlobWriter>, Stage<'a>)>,
    written: u64,
}

impl<'a> Rewriter<'a> {
    pub(crate) fn new(store: &'a Store, ledger: &'a dyn Ledger, space: &'a SpaceId) -> Rewriter<'a> {
        Rewriter { store, ledger, space, pack: None, written: 0 }
    }

    /// Copies frames of a pack by number. False if one of them was damaged or could not be read:
    /// the good ones are copied all the same, but the old pack must stay.
    pub(crate) fn frames_copy(&mut self, old: &PackRow, frames: &[u32]) -> Result<bool, StoreError> {
        let mut whole = true;
        for &number in frames {
            match self.frame_fetch(old, number) {
                Ok(frame) => self.frame_append(&frame)?,
                Err(error) => {
                    whole = false;
                    self.store.finding_add(Finding {
                        kind: if error.is_transient() { FindingKind::Unreadable } else { FindingKind::DamagedBlob },
                        blob: Some(old.id),
                        blob_kind: Some(BlobKind::Pack),
                        space: Some(old.space.clone()),
                        name: old.key.clone(),
                        detail: error.to_string(),
                        repaired: None,
                        hits: Vec::new(),
                    });
                }
            }
        }
        Ok(whole)
    }

    fn frame_fetch(&self, old: &PackRow, number: u32) -> Result<EncodedFrame, StoreError> {
        let damaged = |detail: String| StoreError::Damaged { kind: BlobKind::Pack, name: old.id.to_string(), detail };
        let blobs = &self.store.blobs;
        let map = self.store.index.footers.load(blobs, old.id, &old.key, old.len)?;
        let frame = map.frames.get(number as usize).ok_or_else(|| damaged(format!("it has no frame {number}")))?;
        let end = frame.offset + u64::from(frame.len);
        let bytes = blobs.read(&old.key, frame.offset..end)?;
        let decoded = DecodedFrame::decode(&bytes).map_err(|error| damaged(format!("frame {number}: {error}")))?;
        let chunks = decoded.ids();
        if chunks != map.frame_chunks(frame) {
            return Err(damaged(format!("frame {number} holds other chunks than the footer says")));
        }
        Ok(EncodedFrame { bytes, chunks, raw_len: frame.raw_len })
    }

    /// Appends a frame that was verified.
    pub(crate) fn frame_append(&mut self, frame: &EncodedFrame) -> Result<(), StoreError> {
        let (mut writer, stage) = match self.pack.take() {
            Some(pack) => pack,
            None => {
                let (stage, writer) = Stage::begin(self.store, self.ledger, self.space, BlobKind::Pack, None, None)?;
                let writer = PackWriter::new(writer).map_err(|error| stage.write_error(error))?;
                (writer, stage)
            }
        };
        if let Err(error) = writer.frame_append(frame) {
            let error = stage.write_error(error);
            drop(writer);
            return Err(error);
        }
        let full = writer.len() >= self.store.config.pack_len || footer_is_full(&writer);
        self.pack = Some((writer, stage));
        if full { self.pack_finish() } else { Ok(()) }
    }

    fn pack_finish(&mut self) -> Result<(), StoreError> {
        let Some((writer, stage)) = self.pack.take() else {
            return Ok(());
        };
        let (writer, receipt) = writer.finish().map_err(|error| stage.write_error(error))?;
        let id = stage.publish(writer, receipt.len, receipt.frames_len, &receipt.digest)?;
        self.written += receipt.len;
        self.store.index.footer_keep(id, &receipt.footer);
        self.store.index_sync(self.ledger)
    }

    /// Makes the last pack live; says how many bytes were written.
    pub(crate) fn finish(mut self) -> Result<u64, StoreError> {
        self.pack_finish()?;
        Ok(self.written)
    }
}
