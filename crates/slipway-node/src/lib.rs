//! Attach, mount and run system images on a node: the rules and the drivers.
//!
//! The rules ([`Table`], [`Draft`]) know no kernel: they say which objects there are, who wants them to stay and what follows. The
//! drivers make and remove what the rules say, one call at a time, each under a deadline, each findable in the kernel without our notes.

pub mod access;
mod container;
mod crash;
mod event;
mod export;
mod host;
mod journal;
mod kernel;
mod linux;
mod node;
mod object;
mod plan;
mod refusal;
pub mod schema;
mod secret;
mod table;
mod view;

pub use container::{
    CgroupLayout, CgroupPlace, ContainerFiles, Running, Runtime, RuntimeConfig, Spec, Status, exec_run, shim_run,
    spec_of,
};
pub use crash::{CRASH_POINTS, crash_point};
pub use event::{Batch, Events};
pub use export::{
    ExportFiles, ExportReport, ExportSpec, TunnelSecrets, TunnelSpec, TunnelWord, VersionSpec, export_begin,
};
pub use host::{Counts, Exec, Host, HostConfig, LogReader, Which};
pub use journal::{Journal, Restored};
pub use kernel::{Found, Kernel, Make};
pub use linux::{Linux, NBD_REPLY_HEAD, NbdServer, NbdStream, nbd_info_reply, nbd_info_request};
pub use node::{Node, NodeConfig};
pub use object::{Claim, Driver, Entry, Phase, Proof, Type, What};
pub use plan::{Child, Draft, Drafted, NESTING_MAX};
pub use refusal::{DriverError, Refusal, errno_name};
pub use secret::{SHOWN, secrets_blank};
pub use table::Table;
pub use view::{attach_view, container_view, mount_view};
