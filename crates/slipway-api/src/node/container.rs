//! Containers: a process in a file tree.

use super::{Health, Mount, ObjectId, StepError, is_false, is_zero};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a container is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// Described, never started.
    #[default]
    Created,
    /// Its init runs.
    Running,
    /// Its processes are held still.
    Paused,
    /// It was asked to stop; lasts until no process is left.
    Stopping,
    /// Its init ended with code 0.
    Exited,
    /// Its init ended otherwise, or did not start.
    Dead,
}

impl ContainerState {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Namespace {
    Cgroup,
    Ipc,
    Net,
    Mnt,
    Pid,
    Time,
    User,
    Uts,
}

/// What network a container sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The node's.
    #[default]
    Host,
    /// Its own, with a loopback device only.
    None,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Container {
    /// Read-only: its number.
    #[serde(skip_serializing_if = "is_zero")]
    pub id: ObjectId,
    /// Unique among the containers; none if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its root, by reference or description.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount: Option<Mount>,
    /// Its init and the arguments, split as a shell splits words.
    pub command: String,
    /// Its init is systemd.
    #[serde(skip_serializing_if = "is_false")]
    pub systemd: bool,
    /// In a request, `created` or `running`.
    pub state: ContainerState,
    /// Those beside mnt, pid, ipc and uts; null when absent.
    pub namespaces: Option<Vec<Namespace>>,
    /// Read-only: how many claims keep it.
    #[serde(skip_serializing_if = "is_zero")]
    pub refs: u64,
    /// Read-only: its output and the service's own lines.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub logfile: String,

    /// Its init's environment, beside `PATH` and `container`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Its init's directory; `/` if absent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cwd: String,
    /// `uid[:gid]` or a name of its own passwd; root if absent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Its host name; the node's if absent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// What network it sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// All capabilities and no system call filter. Absent: so for root on the unix socket, not so for tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privileged: Option<bool>,
    /// Capabilities beside the default ones, such as `CAP_NET_ADMIN`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// The root is read-only.
    #[serde(skip_serializing_if = "is_false")]
    pub read_only: bool,
    /// Seconds between asking to stop and killing: 10 if absent, 90 with systemd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u64>,
    /// What happens when its init ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// Free words of whoever made it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,

    /// Read-only: its init's number on the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Read-only: with systemd, whether it has said that it is ready.
    #[serde(skip_serializing_if = "is_false")]
    pub ready: bool,
    /// Read-only: how its init ended last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// Read-only: how often it was started again by itself.
    #[serde(skip_serializing_if = "is_zero")]
    pub restarts: u64,
    /// Read-only: how many of its processes the kernel has killed for want of memory.
    #[serde(skip_serializing_if = "is_zero")]
    pub ooms: u64,
    /// Read-only: `pending` while a start has not come back in its time; absent when all is well.
    #[serde(skip_serializing_if = "Health::is_ready")]
    pub health: Health,
    /// Read-only: in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at_ms: Option<i64>,
    /// Read-only: in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at_ms: Option<i64>,
    /// Read-only: why it did not start, or what is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<StepError>,
}

/// Limits of all processes of a container together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub memory: u64,
    /// Bytes of swap beside them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<u64>,
    /// Thousandths of one processor: 1500 is one and a half.
    #[serde(skip_serializing_if = "is_zero")]
    pub cpu_millis: u64,
    /// Share against others when processors are short, 1 to 10,000; 100 if absent.
    #[serde(skip_serializing_if = "is_zero")]
    pub cpu_weight: u64,
    /// Processes and threads.
    #[serde(skip_serializing_if = "is_zero")]
    pub pids: u64,
    /// Per device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io: Vec<IoLimit>,
}

/// Limits on one block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IoLimit {
    /// The device's path, or the `device_file` of an attachment.
    pub device: String,
    /// Bytes a second.
    #[serde(skip_serializing_if = "is_zero")]
    pub read_bps: u64,
    /// Bytes a second.
    #[serde(skip_serializing_if = "is_zero")]
    pub write_bps: u64,
    /// Requests a second.
    #[serde(skip_serializing_if = "is_zero")]
    pub read_iops: u64,
    /// Requests a second.
    #[serde(skip_serializing_if = "is_zero")]
    pub write_iops: u64,
}

/// When a container is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartWhen {
    /// Only when asked.
    #[default]
    No,
    /// When its init ended otherwise than with 0.
    OnFailure,
    /// Unless somebody stopped it.
    Always,
}

/// What happens when a container's init ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Restart {
    /// When.
    pub when: RestartWhen,
    /// At most so often in a row; no limit if absent.
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
}

/// How an init ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exit {
    /// Its exit code, unless a signal ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The signal that ended it, such as 9.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The kernel killed something in it for want of memory.
    #[serde(skip_serializing_if = "is_false")]
    pub oom: bool,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
}

/// A program to be run beside a container's init, in its namespaces, its limits and its confinement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExecRequest {
    /// The program and its arguments, split as a shell splits words; instead of `argv`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub command: String,
    /// The program, as a path in the container or a name in its `PATH`, and its arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
    /// Its environment, beside that of the container's init.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Its directory; that of the container's init if absent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cwd: String,
    /// `uid[:gid]` or a name of the container's passwd; that of the container's init if absent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// On a terminal of its own, instead of three streams.
    #[serde(skip_serializing_if = "is_false")]
    pub tty: bool,
    /// Lines of the terminal: 24 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u16>,
    /// Columns of the terminal: 80 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cols: Option<u16>,
}
