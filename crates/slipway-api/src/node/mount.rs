//! Mounts: what gives a file tree.

use super::{Attach, Base, Health, ObjectId, StepError, is_false, is_zero};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What kind of mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum MountKind {
    Attach,
    Bind,
    Nfs,
    Overlay,
    Uri,
}

impl MountKind {
    /// All of them, as the ImageAPI's messages list them.
    pub const ALL: &'static [Self] = &[Self::Attach, Self::Bind, Self::Nfs, Self::Overlay, Self::Uri];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attach => "attach",
            Self::Bind => "bind",
            Self::Nfs => "nfs",
            Self::Overlay => "overlay",
            Self::Uri => "uri",
        }
    }
}

/// A mount: a reference by `id` alone, or a description with the block of its kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// In a request, the existing mount that is meant.
    #[serde(skip_serializing_if = "is_zero")]
    pub id: ObjectId,
    /// Which of the blocks below describes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<MountKind>,
    /// Read-only: where it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mountpoint: String,
    /// Read-only: how many claims keep it.
    #[serde(skip_serializing_if = "is_zero")]
    pub refs: u64,
    /// The file system of an attachment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attach: Option<MountAttach>,
    /// A directory of the node or of another mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind: Option<MountBind>,
    /// A directory of an NFS server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nfs: Option<MountNfs>,
    /// Several trees as one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlay: Option<MountOverlay>,
    /// A download, in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<MountUri>,
    /// Free words of whoever made it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Read-only: when it was made, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at_ms: Option<i64>,
    /// Read-only: how it stands; absent when all is well.
    #[serde(skip_serializing_if = "Health::is_ready")]
    pub health: Health,
    /// Read-only: why it is not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<StepError>,
}

/// The file system of an attachment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountAttach {
    /// The attachment, by reference or description.
    pub attach: Box<Attach>,
    /// Any file system that the kernel has.
    pub fs_type: String,
    /// Flags and file system options, as mount(8) takes them; null when absent.
    pub mount_options: Option<Vec<String>>,
}

/// A directory of the node or of another mount.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountBind {
    /// The directory or file, from `base` on.
    pub path: String,
    /// Where `path` begins.
    pub base: Base,
    /// The mount, if `base` is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount: Option<Box<Mount>>,
    /// With the mounts below it.
    #[serde(skip_serializing_if = "is_false")]
    pub recursive: bool,
    /// No writes, in the mounts below it neither.
    #[serde(skip_serializing_if = "is_false")]
    pub ro: bool,
}

/// A directory of an NFS server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountNfs {
    /// Host name or address.
    pub host: String,
    /// The directory.
    pub path: String,
    /// No writes.
    #[serde(skip_serializing_if = "is_false")]
    pub ro: bool,
    /// `4.2` if absent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// As nfs(5) has them; null when absent. `addr`, `clientaddr` and `vers` are the service's.
    pub options: Option<Vec<String>>,
}

/// Several trees as one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountOverlay {
    /// Read-only: a directory that the kernel works in.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub workdir: String,
    /// Read-only: where changes go.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub upperdir: String,
    /// By reference or description; the first is the top.
    pub lower: Vec<Mount>,
    /// No writes.
    #[serde(skip_serializing_if = "is_false")]
    pub ro: bool,
    /// Bytes that changes may take, in memory; without it they go to the run directory.
    #[serde(skip_serializing_if = "is_zero")]
    pub size: u64,
    /// Keep the changes under this name in the state directory, to be found by the next overlay that names it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub persist: String,
}

/// What a download is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum UriFormat {
    /// What its first bytes say.
    #[default]
    Auto,
    Tar,
    Squashfs,
    Erofs,
    Cpio,
    Ext4,
}

/// A download, in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountUri {
    /// `http` or `https`, without user and password. Archives and images may be compressed with gzip, xz or zstd.
    pub uri: String,
    /// What it is.
    pub format: UriFormat,
    /// `sha256:HEX` or `blake3:HEX` of the bytes as sent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub checksum: String,
    /// Bytes that the unpacked tree, or the image, may take: 1 GiB if absent.
    #[serde(skip_serializing_if = "is_zero")]
    pub size_limit: u64,
    /// Files, folders and links that an archive may have: 262144 if absent, at most 4 million.
    #[serde(skip_serializing_if = "is_zero")]
    pub entries_limit: u64,
    /// Seconds that the download may take: 300 if absent, at most 3600.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: u64,
    /// No writes; images always are.
    #[serde(skip_serializing_if = "is_false")]
    pub ro: bool,
}
