//! What a node service and its clients speak: attachments, mounts and containers, as the ImageAPI spells them.
//!
//! Names and shapes are those of the ImageAPI (its `readPartitions` and `max_comands` too); zero values are left out, and
//! `namespaces`, `mount_options` and `options` are null when absent, as its clients expect. Additions are fields that old
//! clients ignore. What only the service may set is marked as read-only and refused in a request by the service.

mod attach;
mod client;
mod container;
mod exec;
mod mount;

pub use attach::{
    Attach, AttachIscsi, AttachKind, AttachLocal, AttachLoopback, AttachNbd, AttachRbd, AttachSlipway, Base, NbdTls,
    RbdOptions,
};
pub use client::{
    ContainerKey, ExecFrame, ExecReader, ExecWriter, NodeAddress, NodeClient, NodeConfig, NodeError, NodeEvents,
    NodeOutput, Unreached,
};
pub use container::{
    Container, ContainerState, ExecRequest, Exit, IoLimit, Namespace, Network, Resources, Restart, RestartWhen,
};
pub use exec::{EXEC_PROTOCOL, ExecNew, FRAME_HEAD, FRAME_MAX, FrameKind, TerminalSize, frame_head, frame_head_read};
pub use mount::{Mount, MountAttach, MountBind, MountKind, MountNfs, MountOverlay, MountUri, UriFormat};

use serde::{Deserialize, Serialize};

/// The number of an attachment, mount or container: from 1, never used twice on a node.
pub type ObjectId = u64;

/// Every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeProblem {
    /// The HTTP status, or 601 (wrong type), 602 (required), 605 (pattern), 606 (enum), 619 (read-only) under status 422.
    pub code: u16,
    /// What, on what, why.
    pub message: String,
    /// The step at which the kernel or a server refused.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<StepError>,
    /// Who keeps what was asked to go.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub holders: Vec<Holder>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

/// Where making or removing something stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepError {
    /// The step, such as `loop_configure` or `mount`.
    pub step: String,
    /// The system's name for the error, such as `EBUSY`, if it was the system.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub errno: Option<String>,
    /// The sentence for people.
    pub text: String,
}

/// What keeps a device, mount or object from going.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Holder {
    /// An object of this node that refers to it.
    Object {
        /// `attach`, `mount` or `container`.
        object: String,
        /// Its number.
        id: ObjectId,
    },
    /// A mount of it, here or in the mount namespace of a process.
    Mount {
        /// Where it is mounted.
        path: String,
        /// A process of that namespace, unless it is this one.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pid: Option<u32>,
    },
    /// A process that has it, or a file on it, open.
    Process {
        /// Its number.
        pid: u32,
        /// The start of its command line.
        command: String,
    },
    /// A device on top of it, such as a partition's or a mapper's.
    Device {
        /// Its name under `/dev`.
        name: String,
    },
}

/// How an object stands, beside what the ImageAPI knows of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It is there as described.
    #[default]
    Ready,
    /// A call of the kernel has not come back; it is undone when it does.
    Pending,
    /// It could not be removed yet; it is tried again.
    Removing,
    /// The kernel has it no more, though nobody removed it here.
    Lost,
    /// It, or something that it stands on, is not well or is lost: a server is away, say.
    Degraded,
}

impl Health {
    /// Whether all is well, which is not said in answers.
    pub fn is_ready(&self) -> bool {
        *self == Self::Ready
    }
}

/// Something that happened on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEvent {
    /// Grows by one; `Last-Event-ID` goes on behind it.
    pub id: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// What, such as `container.started` or `attach.removed`.
    pub what: String,
    /// The object's number.
    pub object: ObjectId,
    /// The object's name, if it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// More, depending on `what`.
    #[serde(skip_serializing_if = "serde_json::Value::is_null", default)]
    pub detail: serde_json::Value,
}

pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

pub(crate) fn is_false(flag: &bool) -> bool {
    !*flag
}
