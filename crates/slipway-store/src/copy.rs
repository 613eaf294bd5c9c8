//! A content into another space: what sharing does before it opens the door.

use std::collections::HashSet;
use std::sync::Arc;

use slipway_chunk::Root;

use crate::error::StoreError;
use crate::id::SpaceId;
use crate::intake::Intake;
use crate::ledger::Ledger;
use crate::prepare::{PrepareSpec, Prepared, segment_rows};
use crate::store::{Progress, Store};

impl Store {
    /// Copies the chunks, segments and manifest of a content that lie in `from` into `to.space`,
    /// unless `to.lookup` has them. The root stays the same. Every chunk is verified on its way;
    /// frames are made anew, because an old one may hold chunks of other contents.
    pub fn content_copy(
        self: &Arc<Store>,
        from: &[SpaceId],
        root: &Root,
        to: &PrepareSpec,
        ledger: &dyn Ledger,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Prepared, StoreError> {
        let mut intake = Intake::new(self, ledger, &to.space, &to.lookup, &to.upload)?;
        let bytes = self.manifest_bytes(from, root, ledger)?;
        let manifest = self.manifest_read(from, root, ledger)?;
        let rows = segment_rows(from, &manifest, ledger)?;
        let mut seen = HashSet::new();
        for (number, id) in manifest.segments.iter().enumerate() {
            if seen.insert(*id) {
                let row = rows.get(id).ok_or_else(|| StoreError::NotFound {
                    kind: crate::ledger::BlobKind::Segment,
                    name: id.to_string(),
                })?;
                let segment = self.segment_of_row(row)?;
                for (_, chunk, len) in segment.chunks() {
                    if intake.chunk_known(&chunk, len)? {
                        continue;
                    }
                    let (frame, at) = self.chunk_frame(from, &chunk, len, true, &self.frames)?;
                    let at = at as usize;
                    intake.chunk(chunk, &frame.raw()[at..at + len as usize])?;
                }
                intake.segment(&segment)?;
            }
            progress(Progress {
                step: "copying",
                done: (number as u64 + 1) * slipway_chunk::SEGMENT_LEN.min(manifest.size),
                total: manifest.size,
            });
        }
        intake.flush()?;
        drop(intake);
        self.content_prepare(to, &bytes, ledger)
    }
}
