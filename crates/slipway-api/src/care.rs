//! Looking after what is kept: findings, scrub, and the verification of one version.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use slipway_chunk::{Digest, Root};
use uuid::Uuid;

/// The query of the list of findings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct FindingQuery {
    /// Rows at most, 1 to 1000; 100 if not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub limit: Option<u32>,
    /// Where to go on, from the page before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cursor: Option<String>,
    /// Also what is closed: repaired with nothing lost, or seen whole again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// Something that is known to be wrong with what is stored, whoever found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KnownFinding {
    /// Its id.
    pub id: Uuid,
    /// `damaged`, `missing`, `unknown`, or `mismatch` for a digest that is not the one that was named.
    pub kind: String,
    /// The blob or content it is about.
    pub object: String,
    /// What is wrong and what it means.
    pub detail: String,
    /// Who found it: `scrub`, `check`, `verify`, `read` or `digest`.
    pub source: String,
    /// Versions that cannot be read in full because of it, as `owner/name:N`; those that the caller may read.
    pub versions: Vec<String>,
    /// What a repair did about it.
    pub repaired: Option<String>,
    /// When it was first found.
    pub found_at: Timestamp,
    /// When it was last seen.
    pub seen_at: Timestamp,
    /// Since when it is over.
    pub closed_at: Option<Timestamp>,
}

/// Where the scrub stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScrubState {
    /// Between two passes.
    Idle,
    /// A pass is under way, and waits for a worker.
    Waiting,
    /// A pass is under way.
    Running,
    /// Somebody paused it; it goes on when it is started.
    Paused,
}

/// A pass over everything that is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ScrubPass {
    /// Counts from 1.
    pub number: u64,
    /// When it began.
    pub begun_at: Timestamp,
    /// When it ended; absent while it is under way.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended_at: Option<Timestamp>,
    /// Blobs read and held against their digests.
    pub blobs: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// What it found.
    pub findings: u64,
}

/// The scrub: reads everything that is stored now and then, slowly, and holds it against its digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ScrubStatus {
    /// Where it stands.
    pub state: ScrubState,
    /// The task that does it, or that waits to.
    pub task: Option<Uuid>,
    /// The pass under way.
    pub pass: Option<ScrubPass>,
    /// Bytes of a whole pass, as it is now.
    pub bytes_total: u64,
    /// The last pass that came to its end.
    pub last: Option<ScrubPass>,
    /// When the next pass begins by itself; absent when it never does, or is under way.
    pub due_at: Option<Timestamp>,
    /// Bytes it reads in a second at most; absent when nothing holds it back.
    pub bytes_per_second: Option<u64>,
    /// Days between two passes; absent when it runs only when asked.
    pub every_days: Option<u64>,
    /// Findings that are open, whoever found them.
    pub findings_open: u64,
}

/// A part of an image that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BadExtent {
    /// Its first byte in the raw image.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// What is wrong.
    pub detail: String,
}

/// What the verification of a version came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VerifyResult {
    /// `owner/name:N`.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Its root.
    #[schema(value_type = String)]
    pub root: Root,
    /// Every byte was read from where it is stored and is what it should be, and the digests are right.
    pub whole: bool,
    /// Size of the raw image in bytes.
    pub size: u64,
    /// Bytes of chunks read and verified.
    pub read_bytes: u64,
    /// Bytes of the raw image that cannot be read.
    pub bad_bytes: u64,
    /// Where they are, the first ones.
    pub bad: Vec<BadExtent>,
    /// There are more such places than are named.
    #[serde(default)]
    pub bad_more: bool,
    /// BLAKE3 of the raw image as read just now; absent when parts cannot be read or it was not computed because of its holes.
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
    /// SHA-256 of the raw image as read just now, in hex.
    pub sha256: Option<String>,
    /// What of the digests that were known before is not what was computed just now.
    #[serde(default)]
    pub mismatches: Vec<String>,
}

/// How a part of an image differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiffKind {
    /// Data in both.
    Changed,
    /// Data became a hole.
    BecameHole,
    /// A hole became data.
    WasHole,
    /// Behind the end of the newer one.
    CutOff,
    /// Behind the end of the older one.
    Added,
}

/// A part of an image that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DiffExtent {
    /// Its first byte in the raw image.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// How it differs.
    pub kind: DiffKind,
}

/// Sums over all that differs, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DiffBytes {
    /// Data in both that differs.
    pub changed: u64,
    /// Data that became holes.
    pub became_hole: u64,
    /// Holes that became data.
    pub was_hole: u64,
    /// Behind the end of the newer one.
    pub cut_off: u64,
    /// Behind the end of the older one.
    pub added: u64,
    /// Data of the newer one that is the same at the same place.
    pub shared: u64,
    /// Data of the newer one that lies elsewhere in the parts of the older one that differ; absent when there is too much to remember.
    pub moved: Option<u64>,
    /// Stored length of the frames that hold the rest, each counted whole: what somebody who has the older one must fetch at least.
    pub stored: Option<u64>,
}

/// The query of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DiffQuery {
    /// What to compare with: a version of the same image (a number, channel or latest), or owner/name:N.
    pub from: String,
    /// Only parts from this byte on; the sums come with 0 only.
    #[serde(default)]
    pub at: u64,
    /// Parts at most, 1 to 5000; 1000 if not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub limit: Option<u32>,
}

/// What differs between two versions, told from their lists of chunks: a part may be up to a chunk longer than the bytes that differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VersionDiff {
    /// The older one, as `owner/name:N`.
    pub from: String,
    /// The newer one.
    pub to: String,
    /// Size of the older one in bytes.
    pub from_size: u64,
    /// Size of the newer one in bytes.
    pub to_size: u64,
    /// The two are the same to the last byte.
    pub same: bool,
    /// Sums; absent when `at` was not 0.
    pub bytes: Option<DiffBytes>,
    /// The parts, in order, from `at` on.
    pub extents: Vec<DiffExtent>,
    /// Ask with this as `at` for further parts; absent when there are none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<u64>,
}
