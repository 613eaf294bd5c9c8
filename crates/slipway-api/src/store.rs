//! Care for what is kept: prune, check, the journal, and facts about the server.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A wish to prune.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PruneRequest {
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Delete without the grace for readers that hold old addresses: they ask for new ones, and readers of versions that have ended fail.
    #[serde(default)]
    pub now: bool,
}

/// What a prune did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PruneResult {
    /// It was only a plan.
    pub dry_run: bool,
    /// Versions whose time in the trash is over.
    pub versions_expired: u64,
    /// Packs that nothing refers to and that will be deleted after the grace.
    pub packs_doomed: u64,
    /// Packs that are mostly dead and whose living part is written anew.
    pub packs_rewritten: u64,
    /// Packs deleted.
    pub packs_deleted: u64,
    /// Segments and manifests deleted.
    pub documents_deleted: u64,
    /// Bytes freed now.
    pub bytes_freed: u64,
    /// Bytes that will be free when the grace is over.
    pub bytes_doomed: u64,
    /// The plan, line by line, for people.
    #[serde(default)]
    pub lines: Vec<String>,
}

/// A wish to check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckRequest {
    /// Only look at rows, sizes and indexes; do not read every byte.
    #[serde(default)]
    pub quick: bool,
    /// Rebuild indexes and put damaged packs into quarantine; nothing is ever deleted.
    #[serde(default)]
    pub repair: bool,
}

/// Something that a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Finding {
    /// `damaged`, `missing`, `unknown` or `repaired`.
    pub kind: String,
    /// The blob or version it is about.
    pub object: String,
    /// What is wrong and what it means.
    pub detail: String,
    /// Versions that cannot be read in full because of it, as `owner/name:N`.
    #[serde(default)]
    pub versions: Vec<String>,
}

/// What a check came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CheckResult {
    /// Nothing is wrong.
    pub clean: bool,
    /// Blobs looked at.
    pub blobs: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Versions whose chunks were all found.
    pub versions: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// A reader's word that a chunk was not what its id says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FindingReport {
    /// The chunk, in hex.
    pub chunk: String,
    /// The pack it came from, in hex.
    pub pack: String,
}

/// A row of the journal: every change, in commit order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct JournalEntry {
    /// Grows with each commit.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// Who, or `server`.
    pub actor: String,
    /// With which token.
    pub token: Option<Uuid>,
    /// In which request.
    pub request_id: Option<String>,
    /// What was done, as `noun_verb`.
    pub verb: String,
    /// To what.
    pub object: String,
    /// The rest; never a secret.
    pub detail: serde_json::Value,
}

/// What a server says of itself to everyone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ServerFacts {
    /// Its version.
    pub version: String,
    /// The oldest client it accepts.
    pub oldest_client: String,
    /// Its clock.
    pub time: Timestamp,
    /// No admin exists yet; `slipway login --setup` makes one.
    pub needs_setup: bool,
}
