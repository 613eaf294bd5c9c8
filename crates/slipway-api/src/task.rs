//! Long work: a task that can be followed.

use crate::problem::Problem;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// Frees what nothing refers to.
    Prune,
    /// Reads and verifies what is stored.
    Check,
    /// Cuts an upload that came as a stream.
    Import,
    /// Moves an image's content to where its readers may read it.
    Rehome,
    /// Computes BLAKE3 and SHA-256 of a raw image.
    Digest,
    /// Reads everything that is stored, slowly.
    Scrub,
    /// Reads every byte of one version.
    Verify,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waiting for a worker.
    Queued,
    /// A worker has it under a lease.
    Running,
    /// It came to its end.
    Done,
    /// It ended with an error.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
}

impl TaskState {
    /// It will not change any more.
    pub fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Done | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// A task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Task {
    /// Its id.
    pub id: Uuid,
    /// What it does.
    pub kind: TaskKind,
    /// Where it stands.
    pub state: TaskState,
    /// The step it is at.
    pub step: String,
    /// Bytes done in this step.
    pub bytes_done: u64,
    /// Bytes of this step, if known.
    pub bytes_total: Option<u64>,
    /// How often it was begun.
    pub attempt: u32,
    /// What it works on, as a reference or id.
    pub object: String,
    /// The name of the account that asked for it, or `server`.
    pub created_by: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it was last begun.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<Problem>,
    /// What it came to; its shape depends on the kind (`PruneResult`, `CheckResult`, `Committed`, `VerifyResult`, `ScrubPass`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub result: Option<serde_json::Value>,
}
