//! Taking what nothing refers to: plan, then do.
//!
//! The rules, none of which needs a clock to be safe:
//! 1. A plan reads the rows first, then syncs the index, then reads the contents, and marks what
//!    they refer to. A commit after the rows were read counts up `touched`, and dooming a row
//!    demands the count that was read.
//! 2. A doomed blob is not found by any look-up and cannot be committed, but can be read.
//! 3. A plan deletes only what was doomed when it began and what its own mark did not find; a
//!    doomed blob that a mark does find is revived. So two marks, the second begun after the
//!    dooming was committed, must agree.
//! 4. The grace is for readers that hold capabilities and layouts, not for safety.
//! 5. Where a manifest or segment cannot be read, it is not known what it refers to, and its
//!    spaces are left as they are. A pack whose footer cannot be read is left as it is.

mod mark;
mod plan;
mod run;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{BlobId, SpaceId};
use crate::ledger::BlobKind;

/// What a plan goes by. Times in milliseconds, by the ledger's clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PruneSpec {
    pub now_ms: i64,
    /// How long a doomed blob stays readable; longer than any capability lives.
    pub grace_ms: i64,
    /// How old a staged row without an open upload is when its writer is taken for dead.
    pub staged_grace_ms: i64,
    /// A pack is rewritten when less than this share of its frames' bytes is referred to; 0 never.
    pub rewrite_below: f32,
}

/// A blob to be doomed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanDoom {
    pub id: BlobId,
    pub kind: BlobKind,
    pub space: SpaceId,
    /// Commits that had used it when the plan was made.
    pub touched: i64,
    pub len: u64,
    /// Its writer never finished.
    pub staged: bool,
}

/// A pack whose few live frames move to a new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRewrite {
    pub id: BlobId,
    pub space: SpaceId,
    pub touched: i64,
    pub len: u64,
    /// Numbers of the frames that are referred to.
    pub frames: Vec<u32>,
    /// Their stored bytes.
    pub live_bytes: u64,
}

/// A blob to be deleted or revived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanDelete {
    pub id: BlobId,
    pub kind: BlobKind,
    pub space: SpaceId,
    pub key: String,
    pub len: u64,
}

/// All that a prune will do. A dry run is a plan that is not run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrunePlan {
    pub revive: Vec<PlanDelete>,
    pub rewrite: Vec<PlanRewrite>,
    pub doom: Vec<PlanDoom>,
    pub delete: Vec<PlanDelete>,
    /// Blobs whose rows are gone, left behind by an interrupted deletion.
    pub sweep: Vec<String>,
    /// Why some spaces or blobs are left as they are.
    pub held_back: Vec<String>,
    /// Bytes of what is doomed now and deleted by a later prune.
    pub bytes_doomed: u64,
    /// Bytes that this prune deletes.
    pub bytes_deleted: u64,
    /// Bytes that rewriting writes.
    pub bytes_rewritten: u64,
    /// Bytes of all live blobs.
    pub bytes_live: u64,
    /// When it was made; a plan that came through text is for reading only.
    #[serde(skip)]
    pub(crate) made: Changes,
}

/// How many prunes and repairs this open store has begun or ended. A plan runs only while that is what it
/// was when the plan was begun: each deletion relies on copies that another change may have taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) store: u64,
    pub(crate) count: u64,
}

impl PrunePlan {
    /// Whether running it would change nothing.
    pub fn is_empty(&self) -> bool {
        self.revive.is_empty()
            && self.rewrite.is_empty()
            && self.doom.is_empty()
            && self.delete.is_empty()
            && self.sweep.is_empty()
    }
}

impl fmt::Display for PrunePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "delete {} blobs ({} bytes), doom {} ({} bytes), rewrite {} packs ({} bytes), revive {}, sweep {}",
            self.delete.len(),
            self.bytes_deleted,
            self.doom.len(),
            self.bytes_doomed,
            self.rewrite.len(),
            self.bytes_rewritten,
            self.revive.len(),
            self.sweep.len(),
        )?;
        for reason in &self.held_back {
            writeln!(f, "left as it is: {reason}")?;
        }
        Ok(())
    }
}

/// What a prune did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneDone {
    pub revived: u64,
    pub doomed: u64,
    pub rewritten: u64,
    pub deleted: u64,
    pub swept: u64,
    /// Planned, but used by a commit or changed since the plan was made.
    pub kept: u64,
    /// Rows are gone, but the blobs could not be deleted; the next prune sweeps them.
    pub left: u64,
    pub bytes_deleted: u64,
    pub bytes_written: u64,
    /// It was told to stop; what is not counted here was not done.
    pub stopped: bool,
}
