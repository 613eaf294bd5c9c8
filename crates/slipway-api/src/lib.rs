//! What both ends speak: names, references, wire types, error codes and the HTTP client.
//!
//! Every type here is part of the public API under `/api/v1`: snake_case JSON, times as RFC 3339 in UTC,
//! sizes in bytes. The server generates its OpenAPI document from these types.

mod care;
mod client;
mod code;
mod events;
mod fetch;
mod hint;
mod image;
mod name;
pub mod node;
mod page;
mod people;
mod problem;
mod quota;
mod reference;
mod retention;
mod store;
mod task;
mod upload;
pub mod wire;

pub use care::{
    BadExtent, DiffBytes, DiffExtent, DiffKind, DiffQuery, FindingQuery, KnownFinding, ScrubPass, ScrubState,
    ScrubStatus, VerifyResult, VersionDiff,
};
pub use client::{ApiError, BlobRange, Client, ClientConfig, CommitAnswer, ContentPut, ContentStream, ServerSeen};
pub use code::Code;
pub use fetch::{Fetch, FetchError, fetch_address};
pub use image::{
    Channel, ChannelSet, FileSystem, FileType, Image, ImageChange, ImageNew, ImageQuery, ImageType, Rollback, Sharing,
    SharingChange, Transfer, Version, VersionChange,
};
pub use name::{AccountName, ChannelName, NameError, Slug};
pub use page::{Page, PageQuery};
pub use people::{
    Login, Me, PasswordChange, Role, Scope, Session, Setup, Token, TokenMade, TokenNew, User, UserChange, UserNew,
};
pub use problem::Problem;
pub use quota::{Quota, QuotaChange, QuotaLimit, QuotaLine, QuotaWord};
pub use reference::{ImageRef, ReferenceError, VersionPick, VersionRef};
pub use retention::{
    Retention, RetentionError, RetentionPlan, RetentionRun, RetentionSet, RetentionShown, RetentionSource,
    RetentionVersion,
};
pub use store::{
    CheckRequest, CheckResult, Finding, FindingReport, JournalEntry, PruneRequest, PruneResult, ServerFacts,
};
pub use task::{Task, TaskKind, TaskState};
pub use upload::{Committed, FramesReceived, Outcome, Upload, UploadFormat, UploadNew, UploadState};

/// The version of this program, sent by clients as `Slipway-Client` and reported by the server.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The header in which a client names its version.
pub const CLIENT_HEADER: &str = "slipway-client";
/// The header that may carry a capability instead of the URL's query.
pub const CAPABILITY_HEADER: &str = "slipway-capability";
