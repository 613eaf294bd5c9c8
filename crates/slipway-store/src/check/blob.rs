//! One blob against its row.

use std::io::Read;

use slipway_chunk::{DecodedFrame, Digest, Footer, Manifest, Segment};

use super::{Bad, CheckReport, Pace};
use crate::blobs::BlobError;
use crate::error::StoreError;
use crate::findings::FindingKind;
use crate::footers::footer_fetch;
use crate::ledger::{BlobKind, BlobRow};
use crate::store::Store;

/// What is wrong, and in words.
type Wrong = (FindingKind, String);

fn wrong_of(error: &BlobError) -> Wrong {
    let kind = match error {
        BlobError::Missing(_) => FindingKind::MissingBlob,
        _ => FindingKind::Unreadable,
    };
    (kind, error.to_string())
}

impl Store {
    /// What is wrong with a blob, if anything; with `read_data` every byte of a pack is read.
    ///
    /// # Errors
    /// `Stopped` when `pace` says so, and when the bucket does not answer at all, which says nothing of the blob.
    pub(super) fn blob_check(
        &self,
        row: &BlobRow,
        read_data: bool,
        report: &mut CheckReport,
        bad: &mut Bad,
        pace: Pace<'_>,
    ) -> Result<Option<Wrong>, StoreError> {
        let wrong = match self.blobs.len(&row.key) {
            Err(error) => Some(wrong_of(&error)),
            Ok(len) if len != row.len => {
                Some((FindingKind::DamagedBlob, format!("it has {len} bytes, {} were written", row.len)))
            }
            Ok(_) => match row.kind {
                BlobKind::Pack => self.pack_check(row, read_data, report, bad, pace)?,
                BlobKind::Segment | BlobKind::Manifest => {
                    if !pace(row.len) {
                        return Err(StoreError::Stopped);
                    }
                    self.named_check(row, report)
                }
            },
        };
        // Without the list of its frames nothing in a pack can be relied upon.
        if wrong.is_some() && !bad.frames.contains_key(&row.id) {
            bad.all_of(row);
        }
        Ok(wrong)
    }

    fn named_check(&self, row: &BlobRow, report: &mut CheckReport) -> Option<Wrong> {
        let damaged = |detail: String| Some((FindingKind::DamagedBlob, detail));
        let bytes = match self.blobs.read(&row.key, 0..row.len) {
            Ok(bytes) => bytes,
            Err(error) => return Some(wrong_of(&error)),
        };
        report.bytes_read += row.len;
        let digest = Digest::of(&bytes);
        if digest.to_string() != row.name {
            return damaged("its bytes have another digest than its name".to_owned());
        }
        let decoded = match row.kind {
            BlobKind::Segment => Segment::decode(&bytes).map(|_| ()),
            BlobKind::Manifest => Manifest::decode(&bytes).map(|_| ()),
            BlobKind::Pack => Ok(()),
        };
        decoded.err().and_then(|error| damaged(error.to_string()))
    }

    fn pack_check(
        &self,
        row: &BlobRow,
        read_data: bool,
        report: &mut CheckReport,
        bad: &mut Bad,
        pace: Pace<'_>,
    ) -> Result<Option<Wrong>, StoreError> {
        let footer = match footer_fetch(&self.blobs, row.id, &row.key, row.len) {
            Ok(footer) => footer,
            Err(StoreError::Blob(error)) => return Ok(Some(wrong_of(&error))),
            Err(error) => return Ok(Some((FindingKind::DamagedBlob, error.to_string()))),
        };
        if !read_data {
            return Ok(None);
        }
        match self.pack_read(row, &footer, report, bad, pace) {
            Ok(None) => Ok(None),
            Ok(Some(detail)) => Ok(Some((FindingKind::DamagedBlob, detail))),
            Err(StoreError::Stopped) => Err(StoreError::Stopped),
            Err(error) => Ok(Some((FindingKind::Unreadable, error.to_string()))),
        }
    }

    /// Reads a pack from front to back: every frame against the footer, the whole against the row.
    fn pack_read(
        &self,
        row: &BlobRow,
        footer: &Footer,
        report: &mut CheckReport,
        bad: &mut Bad,
        pace: Pace<'_>,
    ) -> Result<Option<String>, StoreError> {
        let io = |source| StoreError::Blob(BlobError::Io { act: "reading", key: row.key.clone(), source });
        let mut source = self.blobs.reader(&row.key, 0..row.len)?;
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        let mut buf = Vec::new();
        let mut damaged = 0u32;
        for (number, frame) in footer.frames.iter().enumerate() {
            // The footer's own rules: frames follow each other without gap behind the header.
            buf.resize((frame.offset - at) as usize, 0);
            source.read_exact(&mut buf).map_err(io)?;
            hasher.update(&buf);
            buf.resize(frame.len as usize, 0);
            source.read_exact(&mut buf).map_err(io)?;
            hasher.update(&buf);
            at = frame.offset + u64::from(frame.len);
            if !pace(u64::from(frame.len)) {
                return Err(StoreError::Stopped);
            }
            let good = DecodedFrame::decode(&buf).is_ok_and(|frame_read| {
                frame_read.ids() == frame.chunks && frame_read.raw().len() == frame.raw_len as usize
            });
            if !good {
                damaged += 1;
                bad.frames.entry(row.id).or_default().insert(number as u32);
            }
        }
        buf.clear();
        source.read_to_end(&mut buf).map_err(io)?;
        hasher.update(&buf);
        report.bytes_read += row.len;
        if damaged > 0 {
            return Ok(Some(format!("{damaged} of its {} frames are damaged", footer.frames.len())));
        }
        let digest = Digest::from_bytes(*hasher.finalize().as_bytes());
        if row.digest != Some(digest) {
            // All frames are good, so only header, footer or trailer differ.
            bad.frames.entry(row.id).or_default();
            return Ok(Some("it has another digest than was written".to_owned()));
        }
        Ok(None)
    }
}
