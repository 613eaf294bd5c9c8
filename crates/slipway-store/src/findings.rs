//! What is wrong with a blob, in words and in a form that programs sort by.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{BlobId, SpaceId};
use crate::ledger::{BlobKind, BlobRow, ContentRef};

/// The kinds of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A row without its blob.
    MissingBlob,
    /// Other bytes than were written.
    DamagedBlob,
    /// It could not be read this time.
    Unreadable,
    /// A blob that no row knows.
    UnknownBlob,
    /// A content whose manifest, segment or chunk is nowhere.
    BrokenContent,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub kind: FindingKind,
    pub blob: Option<BlobId>,
    pub blob_kind: Option<BlobKind>,
    pub space: Option<SpaceId>,
    /// The blob's key, or the content's root.
    pub name: String,
    pub detail: String,
    /// What a repair did about it.
    pub repaired: Option<String>,
    /// Contents that cannot be read in full because of it, as far as that was looked into.
    #[serde(default)]
    pub hits: Vec<ContentRef>,
}

impl Finding {
    pub(crate) fn of_row(kind: FindingKind, row: &BlobRow, detail: String) -> Finding {
        Finding {
            kind,
            blob: Some(row.id),
            blob_kind: Some(row.kind),
            space: Some(row.space.clone()),
            name: row.key.clone(),
            detail,
            repaired: None,
            hits: Vec::new(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            FindingKind::MissingBlob => "missing blob",
            FindingKind::DamagedBlob => "damaged blob",
            FindingKind::Unreadable => "unreadable blob",
            FindingKind::UnknownBlob => "unknown blob",
            FindingKind::BrokenContent => "broken content",
        };
        write!(f, "{what} {}: {}", self.name, self.detail)?;
        match &self.repaired {
            Some(done) => write!(f, " ({done})"),
            None => Ok(()),
        }
    }
}
