//! A few blobs at a time, slowly: what a scrub is made of. It changes nothing, so it runs beside pushes, prunes and repairs.

use super::content::hits_assign;
use super::{Bad, CheckReport, Pace};
use crate::blobs::BlobError;
use crate::error::StoreError;
use crate::findings::{Finding, FindingKind};
use crate::ledger::{BlobRow, Ledger};
use crate::store::Store;

/// What a scrub has seen since the last time that it was written down.
#[derive(Debug, Default)]
pub struct Scrubbed {
    report: CheckReport,
    bad: Bad,
}

impl Scrubbed {
    /// What is wrong. Which contents it hurts is known after [`Store::scrub_hits`].
    pub fn findings(&self) -> &[Finding] {
        &self.report.findings
    }

    /// Blobs looked at.
    pub fn blobs(&self) -> u64 {
        self.report.blobs
    }

    /// Bytes read and hashed.
    pub fn bytes_read(&self) -> u64 {
        self.report.bytes_read
    }
}

impl Store {
    /// Reads one blob to its last byte, past all caches, and holds it against its digests. `pace` is told of every so many bytes read, may wait, and stops the
    /// look by answering false; then the blob counts as not looked at.
    ///
    /// # Errors
    /// `Stopped`; or that the bucket does not answer, which says nothing of the blob.
    pub fn blob_scrub(
        &self,
        row: &BlobRow,
        ledger: &dyn Ledger,
        pace: Pace<'_>,
        into: &mut Scrubbed,
    ) -> Result<(), StoreError> {
        if !row.is_readable() {
            return Ok(());
        }
        let before = into.report.findings.len();
        self.row_check(row, true, ledger, &mut into.report, &mut into.bad, pace)?;
        if into.report.findings[before..].iter().any(|finding| finding.kind == FindingKind::Unreadable)
            && let Err(error) = self.blobs.len(&row.key).map_err(StoreError::from)
            && error.is_away()
        {
            into.report.findings.truncate(before);
            into.bad.forget(&row.id);
            return Err(error);
        }
        into.report.blobs += 1;
        Ok(())
    }

    /// Finds the contents that what was found hurts: walks all manifests and segments, and reads no pack.
    pub fn scrub_hits(&self, scrubbed: &mut Scrubbed, ledger: &dyn Ledger) -> Result<(), StoreError> {
        if scrubbed.report.findings.is_empty() {
            return Ok(());
        }
        self.index_sync(ledger)?;
        let (broken, _) = self.contents_check(ledger, &scrubbed.bad)?;
        hits_assign(&mut scrubbed.report.findings, &broken);
        Ok(())
    }

    /// `Away` if there are rows and not one of their blobs: a folder that is not mounted, or another bucket. Nothing is lost then, most likely.
    pub fn blobs_there(&self, sample: &[BlobRow]) -> Result<(), StoreError> {
        let mut asked = sample.iter().filter(|row| row.is_readable()).peekable();
        if asked.peek().is_some() && asked.all(|row| matches!(self.blobs.len(&row.key), Err(BlobError::Missing(_)))) {
            return Err(StoreError::Away);
        }
        Ok(())
    }
}
