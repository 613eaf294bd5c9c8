//! Images, versions, channels and who may read them.

use crate::name::{AccountName, ChannelName, Slug};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use slipway_chunk::{Digest, Root};
use std::collections::BTreeMap;
use uuid::Uuid;

/// What an image is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageType {
    /// A starting point for others.
    #[default]
    Base,
    /// A boot loader or EFI system partition.
    Boot,
    /// An operating system.
    System,
    /// A user's own files.
    User,
    /// Content that need not be kept.
    Temporal,
    /// A first-boot or initial RAM file system.
    Init,
    /// A machine's own state.
    Machine,
}

/// What the image holds, as its maker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
    Fat32,
    Squashfs,
    Erofs,
    Swap,
    /// A whole disk with a partition table.
    Disk,
    /// Nothing that is named here.
    Raw,
}

/// The form in which an image is taken and given where its raw bytes are not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum FileType {
    #[default]
    Raw,
    Qcow2,
}

/// How an image travels to the machines that use it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Transfer {
    #[default]
    Http,
    Nbd,
}

fn yes() -> bool {
    true
}

/// Who may read an image besides its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Sharing {
    /// Everyone with an account may read it.
    #[serde(default)]
    pub public: bool,
    /// These accounts may read it.
    #[serde(default)]
    pub readers: Vec<AccountName>,
    /// The task that is moving the content so that it can be read as asked; readers gain access when it is done.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub task: Option<Uuid>,
}

/// A wish to change who may read an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SharingChange {
    /// Open to (or closed for) everyone with an account.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub public: Option<bool>,
    /// Accounts that may read it from now on.
    #[serde(default)]
    pub add: Vec<AccountName>,
    /// Accounts that may no longer read it.
    #[serde(default)]
    pub remove: Vec<AccountName>,
}

/// A movable name for a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Channel {
    /// Its name.
    #[schema(value_type = String)]
    pub name: ChannelName,
    /// The version it names.
    pub version: u64,
    /// When it was last moved.
    pub updated_at: Timestamp,
}

/// Where a channel shall point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChannelSet {
    /// The version's number.
    pub version: u64,
}

/// An image: a name for a line of versions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Image {
    /// Its id; never used again.
    pub id: Uuid,
    /// Who owns it.
    pub owner: AccountName,
    /// Its name within the owner.
    pub slug: Slug,
    /// `owner/slug`.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Free text for people.
    pub title: String,
    /// What it is for.
    #[serde(rename = "type")]
    pub image_type: ImageType,
    /// The file system it holds, if its maker said so.
    pub file_system: Option<FileSystem>,
    /// The compression wished for downloads: `none`, `gzip` or `zstd`.
    pub compression: String,
    /// The disk it belongs on: a path, serial, WWN or rule.
    pub target_location: Option<String>,
    /// False: it has one version, and an upload replaces that version's content.
    #[serde(default = "yes")]
    pub versioned: bool,
    /// The form in which clients of the BAAS dialect send and get it.
    #[serde(default)]
    pub file_type: FileType,
    /// How it travels to machines.
    #[serde(default)]
    pub transfer: Transfer,
    /// References of images it belongs with.
    pub associated: Vec<String>,
    /// Free text.
    pub description: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Who may read it.
    pub sharing: Sharing,
    /// It cannot be deleted until this is taken off.
    pub protected: bool,
    /// The number of its newest version that is not in the trash.
    pub latest: Option<u64>,
    /// How many versions it has, trash not counted.
    pub version_count: u64,
    /// Stored bytes that its versions added, together.
    pub new_bytes: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When anything of it last changed.
    pub updated_at: Timestamp,
    /// Since when it is in the trash.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trashed_at: Option<Timestamp>,
    /// The row's revision; also the `ETag`.
    pub revision: u64,
    /// Its channels.
    #[serde(default)]
    pub channels: Vec<Channel>,
    /// Its versions, newest first, as many as were asked for; only when one image is asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub versions: Option<Vec<Version>>,
    /// It has more versions: the cursor with which they are asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub versions_next: Option<String>,
}

/// What is asked for of one image's versions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImageQuery {
    /// Versions at most, 1 to 1000; 100 if not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub limit: Option<u32>,
    /// Where to go on, from `versions_next` of the answer before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cursor: Option<String>,
    /// Also versions in the trash, for who may take them out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trash: bool,
}

/// A new image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageNew {
    /// `owner/name`; the owner may be `me`.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Free text; the name if not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub title: Option<String>,
    /// What it is for; `base` if not given.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none", default)]
    pub image_type: Option<ImageType>,
    /// The file system it holds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file_system: Option<FileSystem>,
    /// `none`, `gzip` or `zstd`; `zstd` if not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub compression: Option<String>,
    /// The disk it belongs on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target_location: Option<String>,
    /// False makes an image of one version whose content is replaced by each upload; true if not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub versioned: Option<bool>,
    /// `raw` if not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file_type: Option<FileType>,
    /// `http` if not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub transfer: Option<Transfer>,
    /// References of images it belongs with.
    #[serde(default)]
    pub associated: Vec<String>,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Free labels: at most 64, keys to 63 and values to 255 characters.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A change of an image; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ImageChange {
    /// A new name within the owner.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slug: Option<Slug>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub title: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none", default)]
    pub image_type: Option<ImageType>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file_system: Option<FileSystem>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub compression: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target_location: Option<String>,
    /// Becomes false only while there is at most one version.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub versioned: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file_type: Option<FileType>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub transfer: Option<Transfer>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub associated: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub protected: Option<bool>,
}

/// A version: a number in an image, pointing at its content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Version {
    /// Counts from 0 in each image; never used again.
    pub number: u64,
    /// The content's own id.
    pub content: Uuid,
    /// BLAKE3 over the manifest: equal roots mean equal bytes.
    #[schema(value_type = String)]
    pub root: Root,
    /// BLAKE3 of the whole raw image, once computed; stays null for an image with more than 64 GiB of holes and no digest named by its sender,
    /// until somebody asks for it.
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
    /// SHA-256 of the whole raw image in hex, once computed.
    pub sha256: Option<String>,
    /// Size of the raw image in bytes.
    pub size: u64,
    /// 512 or 4096.
    pub sector_size: u32,
    /// What was sent: `raw`, `raw.gz`, `raw.xz`, `raw.zst` or `chunks`.
    pub source_format: String,
    /// 4096 × the blocks that are not zero.
    pub data_bytes: u64,
    /// Stored length of all distinct frames it refers to, each counted whole.
    pub stored_bytes: u64,
    /// Stored length of the frames that its commit added.
    pub new_bytes: u64,
    /// The version it was made from.
    pub parent: Option<u64>,
    /// What its maker says of it.
    pub message: String,
    /// When it was committed.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: AccountName,
    /// It cannot be deleted until this is taken off.
    pub protected: bool,
    /// Channels that name it now.
    #[serde(default)]
    pub channels: Vec<String>,
    /// Since when it is in the trash.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trashed_at: Option<Timestamp>,
}

/// A change of a version; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VersionChange {
    /// What its maker says of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
    /// It cannot be deleted while this is true.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub protected: Option<bool>,
}

/// A wish to have an old version's content on top again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// The number of the version whose content the new version shall have.
    pub to: u64,
    /// What to say of the new version; `rolled back to version N` if not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
    /// Make a version even if the newest one has the same root.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub new: bool,
}
