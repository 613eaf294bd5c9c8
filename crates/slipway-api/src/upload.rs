//! Uploads: how a version is filled.

use crate::image::Version;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use slipway_chunk::Digest;
use uuid::Uuid;

/// How the bytes of an upload come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UploadFormat {
    /// A disk image, by `PATCH` at `Upload-Offset`; its content tells what it is in. The server reads it and cuts.
    Auto,
    /// The raw image as it is, whatever it looks like, by `PATCH`.
    Raw,
    /// A disk image as a gzip stream, by `PATCH`.
    Gzip,
    /// A disk image as an xz stream, by `PATCH`.
    Xz,
    /// A disk image as a zstd stream, by `PATCH`.
    Zstd,
    /// A qcow2 image, perhaps compressed or in an archive, by `PATCH`.
    Qcow2,
    /// A VMDK image, likewise.
    Vmdk,
    /// A VHD image, likewise.
    Vhd,
    /// A VHDX image, likewise.
    Vhdx,
    /// A VDI image, likewise.
    Vdi,
    /// A disk image in a zip archive, by `PATCH`.
    Zip,
    /// A disk image in a tar archive or an OVA, by `PATCH`.
    Tar,
    /// The client cuts: `missing`, `frames`, `segments`, then a manifest at `commit`.
    Chunks,
}

/// Where an upload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UploadState {
    /// It takes bytes.
    Open,
    /// The commit is running.
    Committing,
    /// It became a version.
    Committed,
    /// It was given up or its lease ended.
    Ended,
}

/// A wish to upload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadNew {
    /// `owner/name`, where the owner may be `me`, or the image's id. The image must exist.
    pub image: String,
    /// How the bytes come.
    pub format: UploadFormat,
    /// The version it was made from; the newest one if not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent: Option<u64>,
    /// The raw image's size in bytes, if known; checked at commit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<u64>,
    /// 512 (if not given) or 4096.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sector_size: Option<u32>,
    /// What to say of the version.
    #[serde(default)]
    pub message: String,
    /// Make a version even if its root equals the newest one's.
    #[serde(default)]
    pub new: bool,
    /// What was read: shown as the version's `source_format`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source_format: Option<String>,
    /// The raw image's BLAKE3 as the client says; checked by the server before it is shown as the digest.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
}

/// An upload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Upload {
    /// Its id.
    pub id: Uuid,
    /// `owner/name` of the image it fills.
    pub image: String,
    /// How the bytes come.
    pub format: UploadFormat,
    /// Where it stands.
    pub state: UploadState,
    /// Bytes that are durable here, for formats that come by `PATCH`.
    pub offset: u64,
    /// The version it was made from.
    pub parent: Option<u64>,
    /// When the lease ends; each use renews it for 24 hours.
    pub lease_until: Timestamp,
    /// The version it became.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<u64>,
}

/// What was received of frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FramesReceived {
    /// Frames in this body.
    pub frames: u64,
    /// Chunks in them.
    pub chunks: u64,
    /// Their stored length.
    pub stored_bytes: u64,
}

/// What a commit came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A new version; of an image without versions, the new content of the one it has.
    Created,
    /// The newest version has the same root; none was made.
    Unchanged,
}

/// The answer to a commit; the same for ever for the same upload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Committed {
    /// Whether a version was made.
    pub outcome: Outcome,
    /// `owner/name:N`.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The version.
    pub version: Version,
}
