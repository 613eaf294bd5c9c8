//! A few blobs that a reader or a scrub calls damaged.

use std::collections::HashMap;

use super::content::{Broken, hits_assign, hits_keep};
use super::{Bad, CheckReport};
use crate::blobs::BlobError;
use crate::error::StoreError;
use crate::findings::FindingKind;
use crate::id::SpaceId;
use crate::ledger::{BlobKind, Ledger};
use crate::store::Store;

impl Store {
    /// Reads these blobs, each named by space, kind and name, to their last byte; of those that are damaged it saves the good frames and puts
    /// the rest into quarantine, and says which contents are hurt. One that is not there is only reported: whether it is lost or the whole
    /// folder is away, only a check of everything can tell.
    ///
    /// # Errors
    /// `Busy` while a prune or another repair runs in this process.
    pub fn blobs_verify(
        &self,
        names: &[(SpaceId, BlobKind, String)],
        ledger: &dyn Ledger,
    ) -> Result<CheckReport, StoreError> {
        let changing = self.changing_lock()?;
        changing.begin();
        let mut report = CheckReport::default();
        let mut bad = Bad::default();
        self.index_sync(ledger)?;
        let mut rows = HashMap::new();
        for (space, kind, name) in names {
            for row in ledger.blobs_find(std::slice::from_ref(space), *kind, std::slice::from_ref(name))? {
                if row.is_readable() {
                    report.blobs += 1;
                    self.row_check(&row, true, ledger, &mut report, &mut bad, &mut |_| true)?;
                    rows.insert(row.id, row);
                }
            }
        }
        if report.is_clean() {
            return Ok(report);
        }
        let (broken, contents) = self.contents_check(ledger, &bad)?;
        report.contents = contents;
        hits_assign(&mut report.findings, &broken);
        rows.retain(|_, row| !matches!(self.blobs.len(&row.key), Err(BlobError::Missing(_))));
        self.rows_repair(&rows, &mut report.findings, &mut bad, ledger)?;
        if !broken.is_empty() {
            let broken = self.contents_check(ledger, &bad)?.0;
            hits_keep(&mut report.findings, &broken);
            report.findings.extend(broken.into_iter().map(Broken::into_finding));
        }
        Ok(report)
    }

    /// Whether every content can be read in full, as far as manifests, segments and the packs' own lists tell: a finding for each that cannot.
    /// No pack is read.
    pub fn contents_verify(&self, ledger: &dyn Ledger) -> Result<CheckReport, StoreError> {
        self.index_sync(ledger)?;
        let (broken, contents) = self.contents_check(ledger, &Bad::default())?;
        let findings = broken.into_iter().map(Broken::into_finding).collect::<Vec<_>>();
        debug_assert!(findings.iter().all(|finding| finding.kind == FindingKind::BrokenContent));
        Ok(CheckReport { findings, contents, ..CheckReport::default() })
    }
}
