//! Saving what is good of a damaged blob, and putting the blob aside. Nothing is deleted.

use slipway_chunk::{DecodedFrame, EncodedFrame, FRAME_LEN_MAX, FrameHeader, PACK_HEADER_LEN};

use super::{Bad, CheckReport};
use crate::blobs::BlobError;
use crate::error::StoreError;
use crate::faults::crash_point;
use crate::findings::{Finding, FindingKind};
use crate::footers::footer_fetch;
use crate::ledger::{BlobKind, BlobRow, BlobState, Ledger};
use crate::rewrite::Rewriter;
use crate::store::Store;

impl Store {
    /// Says what was done; none if nothing could be.
    pub(super) fn row_repair(
        &self,
        row: &BlobRow,
        kind: FindingKind,
        bad: &mut Bad,
        ledger: &dyn Ledger,
    ) -> Result<Option<String>, StoreError> {
        match kind {
            FindingKind::MissingBlob => {
                ledger.blob_quarantine(&row.id)?;
                Ok(Some("row quarantined".to_owned()))
            }
            FindingKind::DamagedBlob => {
                let saved = match row.kind {
                    BlobKind::Pack => self.pack_save(row, bad, ledger)?,
                    BlobKind::Segment | BlobKind::Manifest => 0,
                };
                // The row first: from now on nobody is sent to the damaged blob.
                ledger.blob_quarantine(&row.id)?;
                crash_point("check_quarantined");
                match self.blobs.quarantine(&row.key) {
                    Ok(()) | Err(BlobError::Missing(_)) => {}
                    Err(error) => return Err(error.into()),
                }
                Ok(Some(match row.kind {
                    BlobKind::Pack => format!("{saved} good frames saved, pack quarantined"),
                    BlobKind::Segment | BlobKind::Manifest => "quarantined".to_owned(),
                }))
            }
            // It may be readable tomorrow.
            FindingKind::Unreadable => Ok(None),
            FindingKind::UnknownBlob | FindingKind::BrokenContent => Ok(None),
        }
    }

    /// A quarantined row whose blob is where it was and is whole, to its last byte, becomes live again: the blob was only away, in a folder
    /// that was moved or on a disk that was not mounted.
    pub(super) fn row_restore(
        &self,
        row: &mut BlobRow,
        ledger: &dyn Ledger,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        let there = row.digest.is_some() && self.blobs.len(&row.key).is_ok_and(|len| len == row.len);
        // What it finds in this blob says nothing of what is served: its row is not live.
        if !there || self.blob_check(row, true, report, &mut Bad::default(), &mut |_| true)?.is_some() {
            return Ok(());
        }
        if ledger.blob_restore(&row.id)? {
            row.state = BlobState::Live;
            report.blobs += 1;
            let detail = "it was in quarantine, but is there and whole".to_owned();
            let mut finding = Finding::of_row(FindingKind::MissingBlob, row, detail);
            finding.repaired = Some("row live again".to_owned());
            report.findings.push(finding);
        }
        Ok(())
    }

    /// Copies the good frames of a damaged pack into a new one; says how many.
    fn pack_save(&self, row: &BlobRow, bad: &mut Bad, ledger: &dyn Ledger) -> Result<u64, StoreError> {
        let mut rewriter = Rewriter::new(self, ledger, &row.space);
        let mut saved = 0;
        match footer_fetch(&self.blobs, row.id, &row.key, row.len) {
            Ok(footer) => {
                for frame in &footer.frames {
                    let end = frame.offset + u64::from(frame.len);
                    let bytes = match self.blobs.read(&row.key, frame.offset..end) {
                        Ok(bytes) => bytes,
                        Err(_) => continue,
                    };
                    if let Some(frame) = frame_good(bytes) {
                        rewriter.frame_append(&frame)?;
                        saved += 1;
                    }
                }
            }
            // Frames name their own lengths, so they can be walked from the front without a footer.
            Err(_) => {
                let mut at = PACK_HEADER_LEN;
                while let Some((frame, len)) = self.frame_at(row, at) {
                    rewriter.frame_append(&frame)?;
                    saved += 1;
                    at += len;
                }
            }
        }
        rewriter.finish()?;
        // The copies are judged by their own pack from here on.
        bad.all_of(row);
        Ok(saved)
    }

    fn frame_at(&self, row: &BlobRow, at: u64) -> Option<(EncodedFrame, u64)> {
        let len = self.blobs.len(&row.key).ok()?;
        let end = len.min(at + FRAME_LEN_MAX as u64);
        let mut bytes = self.blobs.read(&row.key, at..end).ok()?;
        let (header, _) = FrameHeader::decode(&bytes).ok()??;
        let frame_len = header.frame_len();
        if frame_len > bytes.len() {
            return None;
        }
        bytes.truncate(frame_len);
        Some((frame_good(bytes)?, frame_len as u64))
    }
}

fn frame_good(bytes: Vec<u8>) -> Option<EncodedFrame> {
    let decoded = DecodedFrame::decode(&bytes).ok()?;
    Some(EncodedFrame { chunks: decoded.ids(), raw_len: decoded.raw().len() as u32, bytes })
}
