//! Attachments: what gives a block device.

use super::{Health, ObjectId, StepError, is_false, is_zero};
use crate::node::Mount;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What kind of attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum AttachKind {
    Iscsi,
    Local,
    Loopback,
    Rbd,
    Nbd,
    Slipway,
}

impl AttachKind {
    /// All of them, those of the ImageAPI first, as its messages list them.
    pub const ALL: &'static [Self] = &[Self::Iscsi, Self::Local, Self::Loopback, Self::Rbd, Self::Nbd, Self::Slipway];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Iscsi => "iscsi",
            Self::Local => "local",
            Self::Loopback => "loopback",
            Self::Rbd => "rbd",
            Self::Nbd => "nbd",
            Self::Slipway => "slipway",
        }
    }
}

/// An attachment: a reference by `id` alone, or a description with the block of its kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attach {
    /// In a request, the existing attachment that is meant.
    #[serde(skip_serializing_if = "is_zero")]
    pub id: ObjectId,
    /// Which of the blocks below describes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<AttachKind>,
    /// Read-only: the device, such as `/dev/loop7`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device_file: String,
    /// Read-only: how many claims keep it.
    #[serde(skip_serializing_if = "is_zero")]
    pub refs: u64,
    /// A unit of an iSCSI target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iscsi: Option<AttachIscsi>,
    /// A device that is there already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<AttachLocal>,
    /// A file as a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loopback: Option<AttachLoopback>,
    /// A Ceph block device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rbd: Option<AttachRbd>,
    /// An export of an NBD server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nbd: Option<AttachNbd>,
    /// A version of a Slipway catalogue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slipway: Option<AttachSlipway>,
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

/// Where a path begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// At the node's own `/`.
    #[default]
    Root,
    /// At a mount, which it cannot leave.
    Mount,
}

/// A block device that is there already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachLocal {
    /// The device, such as `/dev/disk/by-id/…`.
    pub path: String,
}

/// A file as a block device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachLoopback {
    /// The file, from `base` on.
    pub path: String,
    /// Where `path` begins.
    pub base: Base,
    /// The mount, if `base` is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount: Option<Box<Mount>>,
    /// Show the partitions of its table as devices of their own.
    #[serde(rename = "readPartitions", skip_serializing_if = "is_false")]
    pub read_partitions: bool,
    /// No writes; always so when the mount is read-only.
    #[serde(skip_serializing_if = "is_false")]
    pub ro: bool,
    /// Past the page cache of the file below; taken back silently where the file system cannot.
    #[serde(skip_serializing_if = "is_false")]
    pub direct_io: bool,
    /// Bytes of a sector: 512 (the default) or 4096.
    #[serde(skip_serializing_if = "is_zero")]
    pub sector_size: u64,
    /// Bytes of the file before the device begins.
    #[serde(skip_serializing_if = "is_zero")]
    pub offset: u64,
    /// Bytes of the device; the rest of the file if absent.
    #[serde(skip_serializing_if = "is_zero")]
    pub size_limit: u64,
}

/// A unit of an iSCSI target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachIscsi {
    /// The name that this node calls itself by, as IQN.
    pub initiator: String,
    /// The target's name, as IQN.
    pub target: String,
    /// The target's host name or address.
    pub host: String,
    /// 3260 if absent.
    #[serde(skip_serializing_if = "is_zero")]
    pub port: u64,
    /// The unit.
    #[serde(skip_serializing_if = "is_zero")]
    pub lun: u64,
    /// Outstanding commands of the session: 128 if absent. The spelling is the contract's.
    #[serde(rename = "max_comands", alias = "max_commands", skip_serializing_if = "is_zero")]
    pub max_commands: u64,
    /// Outstanding requests of the device: 16 if absent.
    #[serde(skip_serializing_if = "is_zero")]
    pub queue_depth: u64,
    /// `mq-deadline` if absent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scheduler: String,
    /// The CHAP user; without it no authentication.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// The CHAP password; shown as `***`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub password: String,
    /// The name by which the target must prove itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username_in: String,
    /// The password by which the target must prove itself; shown as `***`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub password_in: String,
    /// Seconds that requests wait for a connection that is lost before they fail: 30 if absent.
    #[serde(skip_serializing_if = "is_zero")]
    pub dead_timeout: u64,
    /// No writes.
    #[serde(skip_serializing_if = "is_false")]
    pub ro: bool,
}

/// A Ceph block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachRbd {
    /// Read-only: its number in the kernel; 0 is left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub device_id: u64,
    /// Addresses, with a port or without, IPv6 in brackets.
    pub monitors: Vec<String>,
    /// The pool.
    pub pool: String,
    /// The image.
    pub image: String,
    /// A snapshot, which is read-only; `-` or absent for the image itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub snapshot: String,
    /// Null when absent.
    pub options: Option<RbdOptions>,
}

/// What the kernel's client can be told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are those of the kernel's options")]
pub struct RbdOptions {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fsid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ip: String,
    #[serde(skip_serializing_if = "is_false")]
    pub share: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub noshare: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub crc: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub nocrc: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub ceph_requires_signatures: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub noceph_requires_signatures: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub tcp_nodelay: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub notcp_nodelay: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub cephx_sign_messages: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub nocephx_sign_messages: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub mount_timeout: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub osdkeepalive: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub osd_idle_ttl: u64,
    /// Of the unmapping, not of the mapping.
    #[serde(skip_serializing_if = "is_false")]
    pub force: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub rw: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub ro: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub queue_depth: u64,
    #[serde(skip_serializing_if = "is_false")]
    pub lock_on_read: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub exclusive: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub lock_timeout: u64,
    #[serde(skip_serializing_if = "is_false")]
    pub notrim: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub abort_on_full: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub alloc_size: u64,
    /// The Ceph user, without `client.`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The user's key; it goes to the kernel's keyring and is shown as `***`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub secret: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}

/// An export of an NBD server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachNbd {
    /// Host name or address; instead of `socket`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// 10809 if absent.
    #[serde(skip_serializing_if = "is_zero")]
    pub port: u64,
    /// A unix socket on the node; instead of `host`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub socket: String,
    /// The export's name; the server's default if absent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub export: String,
    /// No writes.
    #[serde(skip_serializing_if = "is_false")]
    pub ro: bool,
    /// Connections at once, where the server allows more than one: 1 if absent.
    #[serde(skip_serializing_if = "is_zero")]
    pub connections: u64,
    /// Seconds that a request may wait for a server that is away: 30 if absent.
    #[serde(skip_serializing_if = "is_zero")]
    pub dead_timeout: u64,
    /// TLS, which is then required. Without it everything crosses the network in the clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<NbdTls>,
}

/// How an NBD server proves itself, and this node to it. Files are named as they lie in the service's `credentials` directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NbdTls {
    /// The file with the CA of the server's certificate, PEM.
    pub ca_ref: String,
    /// The file with the node's own certificate, PEM; with `key_ref`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cert_ref: String,
    /// The file with its key, PEM.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key_ref: String,
    /// The name in the server's certificate; `host` if absent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// A version of a Slipway catalogue, read-only and verified as it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachSlipway {
    /// `owner/name[:N|:channel][@root]`.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The server's URL.
    pub server: String,
    /// The name of a file in the service's `credentials` directory that holds the token.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub token_ref: String,
}
