//! Containers: a shim for each, which makes the namespaces, runs the init, keeps its output and how it ended, and outlives the service.

mod cgroup;
mod confine;
mod devices;
mod exec;
mod files;
mod log;
mod oom;
mod root;
mod runtime;
mod shim;
mod spawn;
mod spec;

pub use cgroup::{CgroupLayout, CgroupPlace};
pub use exec::exec_run;
pub(crate) use exec::{ORDER_MAX, Order, Word, exec_place, word_send, word_take};
pub(crate) use files::{process_start, write as file_write};
pub(crate) use runtime::process_open;
pub(crate) use spawn::inherited_close;

pub use files::{ContainerFiles, Status};
pub use runtime::{Running, Runtime, RuntimeConfig};
pub(crate) use runtime::{now_ms, reap};
pub use shim::shim_run;
pub use spec::{Spec, spec_of};
