//! What the store needs of the rows. SQL in the server, [`crate::MemoryLedger`] in tests.

use std::fmt;

use serde::{Deserialize, Serialize};
use slipway_chunk::{Digest, Root};

use crate::id::{BlobId, SpaceId};

/// What a blob holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobKind {
    Pack,
    Segment,
    Manifest,
}

impl BlobKind {
    pub const ALL: [BlobKind; 3] = [BlobKind::Pack, BlobKind::Segment, BlobKind::Manifest];

    /// As it is written in rows and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            BlobKind::Pack => "pack",
            BlobKind::Segment => "segment",
            BlobKind::Manifest => "manifest",
        }
    }

    pub fn parse(text: &str) -> Option<BlobKind> {
        BlobKind::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// The folder of its keys.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            BlobKind::Pack => "packs",
            BlobKind::Segment => "segments",
            BlobKind::Manifest => "manifests",
        }
    }
}

impl fmt::Display for BlobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The life of a blob: staged → live → doomed → gone; a damaged one is quarantined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobState {
    Staged,
    Live,
    Doomed,
    Gone,
    Quarantined,
}

impl BlobState {
    pub const ALL: [BlobState; 5] =
        [BlobState::Staged, BlobState::Live, BlobState::Doomed, BlobState::Gone, BlobState::Quarantined];

    /// As it is written in rows and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            BlobState::Staged => "staged",
            BlobState::Live => "live",
            BlobState::Doomed => "doomed",
            BlobState::Gone => "gone",
            BlobState::Quarantined => "quarantined",
        }
    }

    pub fn parse(text: &str) -> Option<BlobState> {
        BlobState::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether its bytes may be read: live, or doomed and not yet deleted.
    pub fn readable(self) -> bool {
        match self {
            BlobState::Live | BlobState::Doomed => true,
            BlobState::Staged | BlobState::Gone | BlobState::Quarantined => false,
        }
    }
}

/// One row per pack, segment and manifest; never one per chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRow {
    pub id: BlobId,
    pub space: SpaceId,
    pub kind: BlobKind,
    /// Hex of the `SegmentId` or `Root`; of a pack, its id.
    pub name: String,
    pub key: String,
    pub state: BlobState,
    /// Bytes of the blob; 0 while staged.
    pub len: u64,
    /// Sum of the stored lengths of a pack's frames; 0 for others.
    pub frames_len: u64,
    /// BLAKE3 of the blob, none while staged.
    pub digest: Option<Digest>,
    /// The upload that wrote it; none for what prune or check wrote.
    pub upload: Option<String>,
    /// Change counter of the rows; its order is commit order. Every change of `state` takes a new one.
    pub rev: i64,
    /// Number of commits that used it.
    pub touched: i64,
    /// Milliseconds since 1970, by the ledger's clock.
    pub created_at: i64,
    pub doomed_at: Option<i64>,
}

impl BlobRow {
    /// Whether its blob was finished and may be read. A staged row that prune doomed may not: its
    /// blob may be half there, or not at all.
    pub fn is_readable(&self) -> bool {
        self.state.readable() && self.digest.is_some()
    }
}

/// A row to be inserted as staged; the ledger adds time and change counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBlob {
    pub id: BlobId,
    pub space: SpaceId,
    pub kind: BlobKind,
    pub name: String,
    pub key: String,
    pub upload: Option<String>,
}

/// A content that must stay, and the spaces in which its blobs may lie.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContentRef {
    pub root: Root,
    pub spaces: Vec<SpaceId>,
}

/// Why the rows could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Prune doomed the row before it was live, or a commit found one of its blobs not live.
    #[error("blob {0} was taken by prune meanwhile")]
    Gone(BlobId),
    #[error("blob rows: {0}")]
    Rows(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl LedgerError {
    /// Wraps the error of the database.
    pub fn rows(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> LedgerError {
        LedgerError::Rows(error.into())
    }
}

/// The rows of the store's blobs. Every call is one transaction and durable when it returns.
pub trait Ledger: Send + Sync {
    /// Inserts a row as staged, before the first byte is written.
    fn blob_stage(&self, new: &NewBlob) -> Result<(), LedgerError>;
    /// staged → live, after the blob is durable. `Gone` if prune doomed it meanwhile.
    fn blob_live(&self, id: &BlobId, len: u64, frames_len: u64, digest: &Digest) -> Result<(), LedgerError>;
    /// Removes a staged row whose blob was not written; no effect in another state.
    fn blob_forget(&self, id: &BlobId) -> Result<(), LedgerError>;
    /// The first packs whose `rev` is greater, in any state, ordered by `rev`, `limit` of them at most.
    fn packs_since(&self, rev: i64, limit: usize) -> Result<Vec<BlobRow>, LedgerError>;
    /// A live row of that name in one of the spaces, else a doomed one that has been live, else none.
    fn blob_find(&self, spaces: &[SpaceId], kind: BlobKind, name: &str) -> Result<Option<BlobRow>, LedgerError>;
    /// All rows of these names in these spaces that are live, or doomed and have been live; in any order.
    fn blobs_find(&self, spaces: &[SpaceId], kind: BlobKind, names: &[String]) -> Result<Vec<BlobRow>, LedgerError>;
    /// The first rows in these states whose ids are greater, ordered by id, `limit` of them at most.
    fn blobs_page(
        &self,
        states: &[BlobState],
        after: Option<&BlobId>,
        limit: usize,
    ) -> Result<Vec<BlobRow>, LedgerError>;
    /// All of them in one list.
    fn blobs_in(&self, states: &[BlobState]) -> Result<Vec<BlobRow>, LedgerError> {
        let mut rows = Vec::new();
        rows_each(self, states, |row| {
            rows.push(row);
            Ok::<_, LedgerError>(())
        })?;
        Ok(rows)
    }
    /// live → doomed if `touched` is unchanged, staged → doomed; false if it is neither.
    fn blob_doom(&self, id: &BlobId, touched: i64) -> Result<bool, LedgerError>;
    /// doomed → live, only for a row that has been live.
    fn blob_revive(&self, id: &BlobId) -> Result<bool, LedgerError>;
    /// doomed → gone, before the blob is deleted.
    fn blob_gone(&self, id: &BlobId) -> Result<bool, LedgerError>;
    /// live or doomed → quarantined, before the blob is moved.
    fn blob_quarantine(&self, id: &BlobId) -> Result<bool, LedgerError>;
    /// quarantined → live, for a row that has been live and whose blob was verified again.
    fn blob_restore(&self, id: &BlobId) -> Result<bool, LedgerError>;
    /// Every content that must stay, those in trash included. Read again at each mark.
    fn contents(&self) -> Result<Vec<ContentRef>, LedgerError>;
    /// Uploads with a running lease.
    fn uploads_open(&self) -> Result<Vec<String>, LedgerError>;
}

/// Rows that are asked for at once where there may be any number.
pub(crate) const ROWS_PAGE: usize = 1000;

/// Hands over all rows in these states, page by page. What changes meanwhile is seen as it was or as it is; what does not is seen once.
pub(crate) fn rows_each<E: From<LedgerError>>(
    ledger: &(impl Ledger + ?Sized),
    states: &[BlobState],
    mut each: impl FnMut(BlobRow) -> Result<(), E>,
) -> Result<(), E> {
    let mut after = None;
    loop {
        let page = ledger.blobs_page(states, after.as_ref(), ROWS_PAGE)?;
        let more = page.len() == ROWS_PAGE;
        after = page.last().map(|row| row.id);
        page.into_iter().try_for_each(&mut each)?;
        if !more {
            return Ok(());
        }
    }
}
