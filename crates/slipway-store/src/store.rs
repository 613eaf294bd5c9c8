//! The store: blobs, the index of their chunks, and what was found wrong.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use slipway_chunk::{ChunkId, DecodedFrame, PackId, PackWriter, Segment, SegmentId};

use crate::blobs::{BlobError, BlobReader, BlobWriter, Blobs};
use crate::cache::Cache;
use crate::error::StoreError;
use crate::faults::Faults;
use crate::findings::{Finding, FindingKind};
use crate::footers::Footers;
use crate::id::{BlobId, SpaceId};
use crate::index::{Index, PackRow};
use crate::ledger::{BlobKind, BlobRow, BlobState, Ledger};
use crate::prune::Changes;

/// Findings kept until somebody asks; more are dropped, a check finds them again.
const FINDINGS_MAX: usize = 1000;

/// A pack is finished, however short it is, when its footer has this many bytes (some 58,000 chunks): every look-up of a chunk may have to
/// read a footer, so that a pack of tiny or very well compressed chunks must not grow one that no cache holds.
const FOOTER_LEN_FULL: u64 = 2 << 20;

/// Numbers that change speed and memory, never the answer.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// zstd level of new frames, 1 to 19.
    pub level: i32,
    /// Threads that compress during one ingest.
    pub workers: usize,
    /// A pack is finished when it is at least this long, in bytes.
    pub pack_len: u64,
    /// The most bytes that one `frames_receive` takes.
    pub receive_max: u64,
    /// Folder for copies of the packs' footers; worth it where blobs are remote.
    pub index_cache: Option<PathBuf>,
    /// Bytes of decoded frames kept for readers, all together.
    pub frame_cache: usize,
    /// Bytes of decoded segments kept, all together.
    pub segment_cache: usize,
    /// An ingest hashes at most this many zero bytes of holes for the image's digest, and leaves
    /// the digest out beyond it: BLAKE3 reads zeros at some GB/s, and a hole may have terabytes.
    pub digest_zeros_max: u64,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            level: 3,
            workers: 2,
            pack_len: 64 << 20,
            receive_max: 256 << 20,
            index_cache: None,
            frame_cache: 32 << 20,
            segment_cache: 8 << 20,
            digest_zeros_max: 8 << 30,
        }
    }
}

/// How far a long call has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done: "reading", "copying", "marking", "deleting", "checking" …
    pub step: &'static str,
    /// Bytes or things done in this step.
    pub done: u64,
    /// All of them; 0 if that is not known.
    pub total: u64,
}

/// Decoded frames by pack and number in it.
pub(crate) type FrameCache = Cache<(BlobId, u32), Arc<DecodedFrame>>;

/// Packs, segments and manifests of all spaces. All calls block; none needs a user, a clock or a
/// database: rows come through the [`Ledger`], times as arguments.
#[derive(Debug)]
pub struct Store {
    pub(crate) blobs: Blobs,
    pub(crate) config: StoreConfig,
    pub(crate) index: Index,
    pub(crate) segments: Cache<SegmentId, Arc<Segment>>,
    pub(crate) frames: FrameCache,
    /// Held by prune and by repairs.
    changing: Mutex<()>,
    changes_made: AtomicU64,
    epoch: u64,
    findings: Mutex<Vec<Finding>>,
}

impl Store {
    /// Opens a store on blobs. The index is empty until the first `index_sync`, which every
    /// writing call makes by itself. `faults` is the plan that the blobs were given.
    pub fn open(blobs: Blobs, config: StoreConfig, faults: Faults) -> Result<Arc<Store>, StoreError> {
        let index = Index::new(Footers::new(config.index_cache.clone(), faults));
        Ok(Arc::new(Store {
            segments: Cache::new(config.segment_cache),
            frames: Cache::new(config.frame_cache),
            blobs,
            config,
            index,
            changing: Mutex::new(()),
            changes_made: AtomicU64::new(0),
            epoch: rand::random(),
            findings: Mutex::default(),
        }))
    }

    /// True for ever after an fsync has failed: nothing more is written, and no commit must follow.
    pub fn is_poisoned(&self) -> bool {
        self.blobs.is_poisoned()
    }

    /// Says that a flush went wrong elsewhere, in the database that holds this store's rows: what holds for blobs holds for them.
    pub fn poison(&self) {
        self.blobs.poison();
    }

    /// `Poisoned` if the store is: what a commit asks last.
    pub fn poison_check(&self) -> Result<(), StoreError> {
        if self.is_poisoned() { Err(StoreError::Poisoned) } else { Ok(()) }
    }

    /// Makes a file that belongs to an upload, and its name in `folder`, durable. A flush that goes wrong poisons the store as that of a blob
    /// does: it is the same disk, or as good a reason to look at it.
    pub fn file_flush(&self, file: &std::fs::File, folder: &std::path::Path) -> Result<(), StoreError> {
        self.poison_check()?;
        self.blobs.file_flush(file, folder).map_err(|source| {
            let key = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            StoreError::Blob(BlobError::Io { act: "flushing a file of", key, source })
        })
    }

    /// The right to run a prune or a repair.
    pub(crate) fn changing_lock(&self) -> Result<Changing<'_>, StoreError> {
        let guard = match self.changing.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(StoreError::Busy),
        };
        Ok(Changing { changes: &self.changes_made, _guard: guard })
    }

    /// How many prunes and repairs have begun or ended.
    pub(crate) fn changes(&self) -> Changes {
        Changes { store: self.epoch, count: self.changes_made.load(Ordering::SeqCst) }
    }

    /// Brings the index up to the rows. Packs that cannot be indexed become findings.
    pub fn index_sync(&self, ledger: &dyn Ledger) -> Result<(), StoreError> {
        for (row, error) in self.index.sync(&self.blobs, ledger)? {
            let kind = if error.is_transient() { FindingKind::Unreadable } else { FindingKind::DamagedBlob };
            self.finding_add(Finding::of_row(kind, &row, error.to_string()));
        }
        Ok(())
    }

    /// For each chunk, whether no live pack of these spaces holds it. Sync the index first.
    pub fn chunks_missing(&self, lookup: &[SpaceId], chunks: &[ChunkId]) -> Result<Vec<bool>, StoreError> {
        chunks.iter().map(|id| Ok(self.index.live(&self.blobs, lookup, id)?.is_none())).collect()
    }

    /// For each segment, whether no live row in these spaces has its name.
    pub fn segments_missing(
        &self,
        lookup: &[SpaceId],
        segments: &[SegmentId],
        ledger: &dyn Ledger,
    ) -> Result<Vec<bool>, StoreError> {
        let names: Vec<String> = segments.iter().map(SegmentId::to_string).collect();
        let rows = ledger.blobs_find(lookup, BlobKind::Segment, &names)?;
        let known: std::collections::HashSet<&str> =
            rows.iter().filter(|row| row.state == BlobState::Live).map(|row| row.name.as_str()).collect();
        Ok(names.iter().map(|name| !known.contains(name.as_str())).collect())
    }

    /// Length in bytes of a readable pack of this space; none if there is no such pack in it.
    pub fn pack_len(&self, space: &SpaceId, pack: &PackId) -> Option<u64> {
        self.pack_row(space, pack).map(|row| row.len)
    }

    /// A stream of bytes of a pack of this space, as stored.
    pub fn pack_reader(
        &self,
        space: &SpaceId,
        pack: &PackId,
        range: std::ops::Range<u64>,
    ) -> Result<BlobReader, StoreError> {
        let gone = || StoreError::NotFound { kind: BlobKind::Pack, name: pack.to_string() };
        let row = self.pack_row(space, pack).ok_or_else(gone)?;
        match self.blobs.reader(&row.key, range) {
            // A prune, here or of another server, deletes a blob a moment before this index hears of it.
            Err(BlobError::Missing(_)) => Err(gone()),
            read => Ok(read?),
        }
    }

    /// The same where that takes no waiting; none where it may, and where anything is wrong.
    pub fn pack_reader_now(&self, space: &SpaceId, pack: &PackId, range: std::ops::Range<u64>) -> Option<BlobReader> {
        self.blobs.reader_now(&self.pack_row(space, pack)?.key, range)
    }

    fn pack_row(&self, space: &SpaceId, pack: &PackId) -> Option<Arc<PackRow>> {
        self.index.pack(&BlobId::from(*pack)).filter(|row| row.space == *space)
    }

    /// Takes what was found wrong since the last call.
    pub fn findings(&self) -> Vec<Finding> {
        std::mem::take(&mut *self.findings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn finding_add(&self, finding: Finding) {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        if findings.len() < FINDINGS_MAX && !findings.contains(&finding) {
            tracing::warn!(%finding, "found damage");
            findings.push(finding);
        }
    }

    /// The bytes of a digest-named blob, verified against its name.
    pub(crate) fn named_read(&self, row: &BlobRow) -> Result<Vec<u8>, StoreError> {
        let bytes = self.blobs.read(&row.key, 0..row.len)?;
        if slipway_chunk::Digest::of(&bytes).to_string() == row.name {
            return Ok(bytes);
        }
        let error = StoreError::Damaged {
            kind: row.kind,
            name: row.name.clone(),
            detail: "its bytes have another digest".to_owned(),
        };
        self.finding_add(Finding::of_row(FindingKind::DamagedBlob, row, error.to_string()));
        Err(error)
    }

    /// The bytes of a segment or manifest in one of these spaces: the first copy that verifies.
    pub(crate) fn named_find(
        &self,
        spaces: &[SpaceId],
        kind: BlobKind,
        name: &str,
        ledger: &dyn Ledger,
    ) -> Result<(BlobRow, Vec<u8>), StoreError> {
        let mut rows = ledger.blobs_find(spaces, kind, &[name.to_owned()])?;
        rows.retain(BlobRow::is_readable);
        rows.sort_by_key(|row| (row.state != BlobState::Live, row.id));
        let mut first_error = None;
        for row in rows {
            match self.named_read(&row) {
                Ok(bytes) => return Ok((row, bytes)),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        Err(first_error.unwrap_or_else(|| StoreError::NotFound { kind, name: name.to_owned() }))
    }
}

/// A prune or repair at work. It counts as a change when it begins, by `begin`, and when it ends, so
/// that a plan made in between is stale too.
pub(crate) struct Changing<'a> {
    changes: &'a AtomicU64,
    _guard: MutexGuard<'a, ()>,
}

impl Changing<'_> {
    pub(crate) fn begin(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }
}

/// Whether a pack has as many chunks as it should have at most.
pub(crate) fn footer_is_full(pack: &PackWriter<BlobWriter>) -> bool {
    pack.footer_len() >= FOOTER_LEN_FULL
}

/// These spaces, and the first, each once: where chunks may be looked up.
pub(crate) fn spaces_with(own: &SpaceId, lookup: &[SpaceId]) -> Vec<SpaceId> {
    let mut spaces = vec![own.clone()];
    for space in lookup {
        if !spaces.contains(space) {
            spaces.push(space.clone());
        }
    }
    spaces
}
