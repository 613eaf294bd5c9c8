//! Keeps packs, segments and manifests on disk or in S3: ingest, restore, prune, check.
//!
//! The store is synchronous, knows no user and no image name, and speaks to rows through the
//! [`Ledger`]. An image goes in by [`Store::ingest`], or as frames and segments that a client made
//! and [`Store::content_prepare`]; both give a [`Prepared`], whose blobs the caller's commit must
//! find live. It comes out by [`Store::content_open`], or as [`Store::layout`] and ranges of packs.
//!
//! What is deliberately absent: a row per chunk (footers are the index), locks between prune and
//! uploads (two marks and the rows' states do it), and trust in bytes that were not hashed.

mod blobs;
mod cache;
mod check;
mod copy;
mod diff;
mod error;
mod faults;
mod fetch;
mod findings;
mod footers;
mod freed;
mod id;
mod index;
mod ingest;
mod intake;
mod io;
mod ledger;
mod memory;
mod packmap;
mod prepare;
mod prune;
mod reader;
mod receive;
mod rewrite;
mod stage;
mod store;
mod table;
mod usage;

pub use blobs::{BlobAt, BlobError, BlobReader, BlobWriter, Blobs, S3Config};
pub use check::{CheckReport, CheckSpec, Scrubbed};
pub use diff::{ContentDiff, DiffBytes};
pub use error::StoreError;
pub use faults::{CRASH_POINTS, FaultMode, Faults, OpKind, crash_point};
pub use findings::{Finding, FindingKind};
pub use freed::Freed;
pub use id::{BlobId, IdError, SpaceId};
pub use ingest::IngestSpec;
pub use ledger::{BlobKind, BlobRow, BlobState, ContentRef, Ledger, LedgerError, NewBlob};
pub use memory::MemoryLedger;
pub use prepare::{PrepareSpec, Prepared};
pub use prune::{PlanDelete, PlanDoom, PlanRewrite, PruneDone, PrunePlan, PruneSpec};
pub use reader::{ContentReader, Piece, Stretch};
pub use receive::{ReceiveSpec, Received};
pub use store::{Progress, Store, StoreConfig};
