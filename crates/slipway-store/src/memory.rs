//! The ledger in memory, with contents and uploads: for tests and benchmarks.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use slipway_chunk::Digest;

use crate::id::{BlobId, SpaceId};
use crate::ledger::{BlobKind, BlobRow, BlobState, ContentRef, Ledger, LedgerError, NewBlob};
use crate::prepare::Prepared;

/// Rows in memory, with the same rules as the server's SQL. Its clock stands still until it is set.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    rows: BTreeMap<BlobId, BlobRow>,
    names: BTreeMap<(BlobKind, String), Vec<BlobId>>,
    changes: BTreeMap<i64, BlobId>,
    contents: BTreeMap<u64, ContentRef>,
    contents_made: u64,
    uploads: BTreeSet<String>,
    rev: i64,
    now: i64,
}

impl MemoryLedger {
    pub fn new() -> MemoryLedger {
        MemoryLedger::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the clock, in milliseconds.
    pub fn now_set(&self, now: i64) {
        self.lock().now = now;
    }

    pub fn now(&self) -> i64 {
        self.lock().now
    }

    pub fn upload_open(&self, upload: &str) {
        self.lock().uploads.insert(upload.to_owned());
    }

    pub fn upload_close(&self, upload: &str) {
        self.lock().uploads.remove(upload);
    }

    /// What a version's commit does: touches the blobs, all of which must be live, and keeps the
    /// content. `Gone` names the first blob that is not.
    pub fn content_commit(&self, prepared: &Prepared, spaces: &[SpaceId]) -> Result<u64, LedgerError> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        for id in &prepared.blobs {
            let live = inner.rows.get(id).is_some_and(|row| row.state == BlobState::Live);
            if !live {
                return Err(LedgerError::Gone(*id));
            }
        }
        for id in &prepared.blobs {
            if let Some(row) = inner.rows.get_mut(id) {
                row.touched += 1;
            }
        }
        inner.contents_made += 1;
        inner.contents.insert(inner.contents_made, ContentRef { root: prepared.root, spaces: spaces.to_vec() });
        Ok(inner.contents_made)
    }

    /// Lets go of a content: its trash time is over.
    pub fn content_remove(&self, content: u64) {
        self.lock().contents.remove(&content);
    }

    /// All rows, for assertions.
    pub fn rows(&self) -> Vec<BlobRow> {
        self.lock().rows.values().cloned().collect()
    }
}

impl Inner {
    /// Moves a row to another state if `allowed` says so.
    fn change(&mut self, id: &BlobId, state: BlobState, allowed: impl Fn(&BlobRow) -> bool) -> Option<&mut BlobRow> {
        let row = self.rows.get_mut(id).filter(|row| allowed(row))?;
        self.changes.remove(&row.rev);
        self.rev += 1;
        row.rev = self.rev;
        row.state = state;
        self.changes.insert(self.rev, *id);
        Some(row)
    }
}

impl Ledger for MemoryLedger {
    fn blob_stage(&self, new: &NewBlob) -> Result<(), LedgerError> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if inner.rows.contains_key(&new.id) {
            return Err(LedgerError::rows(format!("blob {} exists", new.id)));
        }
        inner.rev += 1;
        inner.changes.insert(inner.rev, new.id);
        inner.names.entry((new.kind, new.name.clone())).or_default().push(new.id);
        inner.rows.insert(
            new.id,
            BlobRow {
                id: new.id,
                space: new.space.clone(),
                kind: new.kind,
                name: new.name.clone(),
                key: new.key.clone(),
                state: BlobState::Staged,
                len: 0,
                frames_len: 0,
                digest: None,
                upload: new.upload.clone(),
                rev: inner.rev,
                touched: 0,
                created_at: inner.now,
                doomed_at: None,
            },
        );
        Ok(())
    }

    fn blob_live(&self, id: &BlobId, len: u64, frames_len: u64, digest: &Digest) -> Result<(), LedgerError> {
        let mut inner = self.lock();
        let row =
            inner.change(id, BlobState::Live, |row| row.state == BlobState::Staged).ok_or(LedgerError::Gone(*id))?;
        row.len = len;
        row.frames_len = frames_len;
        row.digest = Some(*digest);
        Ok(())
    }

    fn blob_forget(&self, id: &BlobId) -> Result<(), LedgerError> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let staged = inner.rows.get(id).is_some_and(|row| row.state == BlobState::Staged);
        if staged && let Some(row) = inner.rows.remove(id) {
            inner.changes.remove(&row.rev);
            if let Some(ids) = inner.names.get_mut(&(row.kind, row.name)) {
                ids.retain(|known| known != id);
            }
        }
        Ok(())
    }

    fn packs_since(&self, rev: i64, limit: usize) -> Result<Vec<BlobRow>, LedgerError> {
        let inner = self.lock();
        Ok(inner
            .changes
            .range(rev + 1..)
            .filter_map(|(_, id)| inner.rows.get(id))
            .filter(|row| row.kind == BlobKind::Pack)
            .take(limit)
            .cloned()
            .collect())
    }

    fn blob_find(&self, spaces: &[SpaceId], kind: BlobKind, name: &str) -> Result<Option<BlobRow>, LedgerError> {
        let rows = self.blobs_find(spaces, kind, &[name.to_owned()])?;
        Ok(rows.into_iter().min_by_key(|row| row.state != BlobState::Live))
    }

    fn blobs_find(&self, spaces: &[SpaceId], kind: BlobKind, names: &[String]) -> Result<Vec<BlobRow>, LedgerError> {
        let inner = self.lock();
        Ok(names
            .iter()
            .filter_map(|name| inner.names.get(&(kind, name.clone())))
            .flatten()
            .filter_map(|id| inner.rows.get(id))
            .filter(|row| row.is_readable() && spaces.contains(&row.space))
            .cloned()
            .collect())
    }

    fn blobs_page(
        &self,
        states: &[BlobState],
        after: Option<&BlobId>,
        limit: usize,
    ) -> Result<Vec<BlobRow>, LedgerError> {
        let inner = self.lock();
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(*after));
        let behind = inner.rows.range((from, Bound::Unbounded)).map(|(_, row)| row);
        Ok(behind.filter(|row| states.contains(&row.state)).take(limit).cloned().collect())
    }

    fn blob_doom(&self, id: &BlobId, touched: i64) -> Result<bool, LedgerError> {
        let mut inner = self.lock();
        let now = inner.now;
        let row = inner.change(id, BlobState::Doomed, |row| match row.state {
            BlobState::Live => row.touched == touched,
            BlobState::Staged => true,
            BlobState::Doomed | BlobState::Gone | BlobState::Quarantined => false,
        });
        Ok(row.map(|row| row.doomed_at = Some(now)).is_some())
    }

    fn blob_revive(&self, id: &BlobId) -> Result<bool, LedgerError> {
        let mut inner = self.lock();
        let row = inner.change(id, BlobState::Live, |row| row.state == BlobState::Doomed && row.digest.is_some());
        Ok(row.map(|row| row.doomed_at = None).is_some())
    }

    fn blob_gone(&self, id: &BlobId) -> Result<bool, LedgerError> {
        let mut inner = self.lock();
        let gone = inner.change(id, BlobState::Gone, |row| row.state == BlobState::Doomed);
        Ok(gone.is_some())
    }

    fn blob_quarantine(&self, id: &BlobId) -> Result<bool, LedgerError> {
        let mut inner = self.lock();
        let row = inner.change(id, BlobState::Quarantined, |row| row.state.readable());
        Ok(row.is_some())
    }

    fn blob_restore(&self, id: &BlobId) -> Result<bool, LedgerError> {
        let mut inner = self.lock();
        let row = inner.change(id, BlobState::Live, |row| row.state == BlobState::Quarantined && row.digest.is_some());
        Ok(row.map(|row| row.doomed_at = None).is_some())
    }

    fn contents(&self) -> Result<Vec<ContentRef>, LedgerError> {
        Ok(self.lock().contents.values().cloned().collect())
    }

    fn uploads_open(&self) -> Result<Vec<String>, LedgerError> {
        Ok(self.lock().uploads.iter().cloned().collect())
    }
}
