//! What the table keeps of an object.

use serde::{Deserialize, Serialize};
use slipway_api::node::{Attach, AttachKind, Container, Mount, MountKind, ObjectId, StepError};
use std::collections::BTreeSet;

/// Which of the three types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    /// Gives a block device.
    Attach,
    /// Gives a file tree.
    Mount,
    /// Runs processes.
    Container,
}

impl Type {
    /// The name in paths and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attach => "attach",
            Self::Mount => "mount",
            Self::Container => "container",
        }
    }
}

/// A description whose nested objects are references by number, with the fields that only the service sets left empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// An attachment.
    Attach(Box<Attach>),
    /// A mount.
    Mount(Box<Mount>),
    /// A container.
    Container(Box<Container>),
}

impl What {
    /// Which of the three types.
    pub fn kind(&self) -> Type {
        match self {
            Self::Attach(_) => Type::Attach,
            Self::Mount(_) => Type::Mount,
            Self::Container(_) => Type::Container,
        }
    }
}

/// What kind of kernel object stands for an attachment or mount: enough to find and remove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// A block device of this kind.
    Attach(AttachKind),
    /// A mount of this kind.
    Mount(MountKind),
}

/// What a driver made, as the kernel names it: enough to tell it from what has taken its place since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Proof {
    /// The device, for attachments.
    pub device: String,
    /// The directory (or file), for mounts.
    pub mountpoint: String,
    /// What the driver needs beside these, such as a number in a subsystem or the inode of a backing file.
    pub detail: serde_json::Map<String, serde_json::Value>,
}

/// Who wants an object to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// Whoever asked for it by itself.
    Creator,
    /// An object that stands on it.
    Parent(ObjectId),
}

/// How far an object has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The intent is written; the kernel may or may not have it.
    Making,
    /// A call has not come back within its time. It is undone when it does.
    Pending(StepError),
    /// The kernel has it, or, for a container, it is described.
    Ready,
    /// It is being removed, or will be tried again.
    Removing(Option<StepError>),
    /// The kernel had it and has it no more.
    Lost(StepError),
}

/// An object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number.
    pub id: ObjectId,
    /// What it is.
    pub what: What,
    /// What it stands on, each made before it.
    pub children: Vec<ObjectId>,
    /// Who wants it to stay.
    pub claims: BTreeSet<Claim>,
    /// How far it has come.
    pub phase: Phase,
    /// What the kernel has of it.
    pub proof: Option<Proof>,
    /// In milliseconds since 1970.
    pub created_at_ms: i64,
}

impl Entry {
    /// The driver that made it; none for containers.
    pub fn driver(&self) -> Option<Driver> {
        match &self.what {
            What::Attach(attach) => attach.kind.map(Driver::Attach),
            What::Mount(mount) => mount.kind.map(Driver::Mount),
            What::Container(_) => None,
        }
    }

    /// Whether others may stand on it.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }
}
