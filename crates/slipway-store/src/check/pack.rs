//! One pack that a reader calls damaged.

use slipway_chunk::PackId;

use super::{Bad, CheckReport, CheckSpec};
use crate::blobs::BlobError;
use crate::error::StoreError;
use crate::id::SpaceId;
use crate::ledger::{BlobKind, Ledger};
use crate::store::Store;

impl Store {
    /// Reads one pack of these spaces to its last byte, and if it is damaged saves its good frames and puts it into quarantine. A pack that
    /// is not there is only reported: whether it is lost or the whole folder is away, only a check of everything can tell.
    ///
    /// # Errors
    /// `Busy` while a prune or another repair runs in this process.
    pub fn pack_verify(
        &self,
        spaces: &[SpaceId],
        pack: &PackId,
        ledger: &dyn Ledger,
    ) -> Result<CheckReport, StoreError> {
        let changing = self.changing_lock()?;
        changing.begin();
        let mut report = CheckReport::default();
        let mut bad = Bad::default();
        self.index_sync(ledger)?;
        for row in ledger.blobs_find(spaces, BlobKind::Pack, &[pack.to_string()])? {
            if row.is_readable() {
                let there = !matches!(self.blobs.len(&row.key), Err(BlobError::Missing(_)));
                let spec = CheckSpec { read_data: true, repair: there };
                report.blobs += 1;
                self.row_check(&row, &spec, ledger, &mut report, &mut bad)?;
            }
        }
        self.index_sync(ledger)?;
        Ok(report)
    }
}
