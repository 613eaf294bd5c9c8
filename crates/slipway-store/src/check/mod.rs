//! Whether everything is as it was written, and what can be done where it is not.

mod blob;
mod content;
mod one;
mod repair;
mod scrub;

pub use scrub::Scrubbed;

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::blobs::BlobError;
use crate::error::StoreError;
use crate::findings::{Finding, FindingKind};
use crate::id::{BlobId, SpaceId};
use crate::ledger::{BlobKind, BlobRow, BlobState, Ledger, rows_each};
use crate::store::{Progress, Store};
use crate::usage::Bits;

use content::{Broken, hits_assign, hits_keep};

/// How thorough a check is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckSpec {
    /// Read every byte of every pack; else only lengths and footers of packs, and all of the rest.
    pub read_data: bool,
    /// Build the index anew, save the good frames of damaged packs, quarantine what is damaged.
    /// Nothing is deleted.
    pub repair: bool,
}

/// What a check saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    pub findings: Vec<Finding>,
    /// Live and doomed blobs looked at.
    pub blobs: u64,
    pub contents: u64,
    /// Bytes read and hashed.
    pub bytes_read: u64,
    /// Blobs whose rows are gone, which the next prune sweeps; no damage.
    pub leftovers: u64,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Frames that must not be relied upon, by pack; nothing of a blob, of whatever kind, if it is in `packs`.
#[derive(Debug, Default)]
struct Bad {
    packs: HashMap<BlobId, (SpaceId, BlobKind)>,
    frames: HashMap<BlobId, Bits>,
}

impl Bad {
    /// Nothing in this blob can be relied upon.
    fn all_of(&mut self, row: &BlobRow) {
        self.packs.insert(row.id, (row.space.clone(), row.kind));
    }

    fn forget(&mut self, id: &BlobId) {
        self.packs.remove(id);
        self.frames.remove(id);
    }
}

/// Told of every so many bytes that were read; it may wait, and stops the look by answering false.
type Pace<'a> = &'a mut dyn FnMut(u64) -> bool;

impl Store {
    /// Looks at every blob, every content and every key. With `repair` no other repair or prune
    /// may run in this process.
    pub fn check(
        &self,
        spec: &CheckSpec,
        ledger: &dyn Ledger,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<CheckReport, StoreError> {
        let _one = match spec.repair {
            true => {
                let changing = self.changing_lock()?;
                changing.begin();
                Some(changing)
            }
            false => None,
        };
        let mut report = CheckReport::default();
        let mut bad = Bad::default();
        if spec.repair {
            self.index.clear();
        }
        // Keys before rows: a blob's row is older than the blob.
        let mut keys = Keys::default();
        for kind in BlobKind::ALL {
            self.blobs.list(kind.folder(), &mut |blob| {
                keys.unknown.insert(blob.key);
            })?;
        }
        // Not one blob of all: a folder that is not mounted, or another bucket. Nothing is put aside while it is most likely only away.
        let away = keys.unknown.is_empty() && readable_any(ledger)?;
        let spec = &CheckSpec { repair: spec.repair && !away, ..*spec };
        self.index_sync(ledger)?;

        // The rows are looked at page by page, and only those are kept that a repair may need.
        let (mut hurt, mut done, listed) = (HashMap::new(), 0, keys.unknown.len() as u64);
        rows_each(ledger, &BlobState::ALL, |mut row| {
            let before = report.findings.len();
            if spec.repair && row.state == BlobState::Quarantined {
                self.row_restore(&mut row, ledger, &mut report)?;
            } else if row.is_readable() {
                report.blobs += 1;
                self.row_check(&row, spec.read_data, ledger, &mut report, &mut bad, &mut |_| true)?;
            }
            done += u64::from(keys.row_seen(&row));
            progress(Progress { step: "checking", done, total: listed });
            if report.findings.len() > before {
                hurt.insert(row.id, row);
            }
            Ok::<_, StoreError>(())
        })?;
        self.keys_check(keys, spec, &mut report)?;
        if spec.repair {
            self.index_sync(ledger)?;
        }
        let (mut broken, contents) = self.contents_check(ledger, &bad)?;
        report.contents = contents;
        hits_assign(&mut report.findings, &broken);
        if spec.repair && report.findings.iter().any(|finding| finding.repaired.is_none()) {
            self.rows_repair(&hurt, &mut report.findings, &mut bad, ledger)?;
            if !broken.is_empty() {
                broken = self.contents_check(ledger, &bad)?.0;
                hits_keep(&mut report.findings, &broken);
            }
        }
        report.findings.extend(broken.into_iter().map(Broken::into_finding));
        // What readers and syncs found before is told by this report now.
        self.findings();
        Ok(report)
    }

    /// Looks at one blob; what is wrong with it goes into the report, and into `bad`.
    fn row_check(
        &self,
        row: &BlobRow,
        read_data: bool,
        ledger: &dyn Ledger,
        report: &mut CheckReport,
        bad: &mut Bad,
        pace: Pace<'_>,
    ) -> Result<(), StoreError> {
        let Some((kind, detail)) = self.blob_check(row, read_data, report, bad, pace)? else {
            return Ok(());
        };
        // Prune may have taken the row since it was read.
        let spaces = std::slice::from_ref(&row.space);
        let now = ledger.blobs_find(spaces, row.kind, std::slice::from_ref(&row.name))?;
        if now.iter().all(|found| found.id != row.id) {
            bad.forget(&row.id);
            return Ok(());
        }
        report.findings.push(Finding::of_row(kind, row, detail));
        Ok(())
    }

    /// Puts right what can be of these findings, and says in each what was done.
    fn rows_repair(
        &self,
        rows: &HashMap<BlobId, BlobRow>,
        findings: &mut [Finding],
        bad: &mut Bad,
        ledger: &dyn Ledger,
    ) -> Result<(), StoreError> {
        for finding in findings.iter_mut().filter(|finding| finding.repaired.is_none()) {
            if let Some(row) = finding.blob.and_then(|id| rows.get(&id)) {
                finding.repaired = self.row_repair(row, finding.kind, bad, ledger)?;
            }
        }
        self.index_sync(ledger)
    }

    fn keys_check(&self, keys: Keys, spec: &CheckSpec, report: &mut CheckReport) -> Result<(), StoreError> {
        report.leftovers += keys.gone;
        let unknown = keys.unknown.into_iter().map(|key| (key, "no row knows it"));
        let aside = keys.aside.into_iter().map(|key| (key, "its row is quarantined, it was not moved"));
        let mut odd: Vec<_> = unknown.chain(aside).collect();
        odd.sort_unstable();
        for (key, detail) in odd {
            // A writer that took its blob back between the listing and the rows.
            if matches!(self.blobs.len(&key), Err(BlobError::Missing(_))) {
                continue;
            }
            let repaired = if spec.repair {
                match self.blobs.quarantine(&key) {
                    Ok(()) => Some("quarantined".to_owned()),
                    Err(BlobError::Missing(_)) => continue,
                    Err(error) => return Err(error.into()),
                }
            } else {
                None
            };
            report.findings.push(Finding {
                kind: FindingKind::UnknownBlob,
                blob: None,
                blob_kind: None,
                space: None,
                name: key,
                detail: detail.to_owned(),
                repaired,
                hits: Vec::new(),
            });
        }
        Ok(())
    }
}

/// Whether any row says that there is a blob.
fn readable_any(ledger: &dyn Ledger) -> Result<bool, StoreError> {
    let mut any = false;
    rows_each(ledger, &[BlobState::Live, BlobState::Doomed], |row| {
        any |= row.is_readable();
        Ok::<_, StoreError>(())
    })?;
    Ok(any)
}

/// The keys of the blobs that are there, and what the rows say of them.
#[derive(Debug, Default)]
struct Keys {
    /// No row was seen yet.
    unknown: HashSet<String>,
    /// Their rows are gone: so many.
    gone: u64,
    /// Their rows are quarantined.
    aside: Vec<String>,
}

impl Keys {
    /// Says whether its blob is there.
    fn row_seen(&mut self, row: &BlobRow) -> bool {
        let Some(key) = self.unknown.take(&row.key) else {
            return false;
        };
        match row.state {
            BlobState::Gone => self.gone += 1,
            BlobState::Quarantined => self.aside.push(key),
            BlobState::Staged | BlobState::Live | BlobState::Doomed => {}
        }
        true
    }
}
