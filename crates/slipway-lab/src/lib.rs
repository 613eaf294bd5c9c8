//! A kernel of its own for tests: Debian's `user-mode-linux` boots in about two seconds as a plain process, without virtualization, and
//! has what this machine's kernel may lack: nbd, iSCSI on both ends, NFS on both ends, Ceph, device mapper, cgroup v2.
//!
//! [`Guest::boot`] starts one from a [`GuestSpec`] and [`Guest::run`] runs shell lines in it, as root of the guest. What it sees is
//! [`Root::Host`], this machine's files under an overlay that dies with the guest, or [`Root::Initramfs`], a few files that the test names.
//! A [`GuestNet`] is a private network between guests and this machine (needs root); without one a guest has only its loopback.
//!
//! [`Ceph`] is a cluster on this machine for the guest's client.
//!
//! [`packages_unpack`] brings programs that this machine does not have, as layers of the guest's root or as the root of a container in it.
//!
//! [`census`] counts what a kernel has of ours before and after a test; [`conformance`] says of any service whether it speaks the ImageAPI.
//! Both are programs too: `cargo xtask census`, and `imageapi-conformance --help`.
//!
//! A guest that is dropped is stopped; one whose test was killed stops by itself, because its command channel ends. Only tests link this
//! crate; nothing of it is needed at run time.

pub mod census;
mod ceph;
mod channel;
pub mod conformance;
mod cpio;
mod error;
mod guest;
mod kernel;
mod net;
mod packages;
mod processor;
mod script;
mod spec;
mod stall;
mod systemd;
mod target;

pub use ceph::Ceph;
pub use error::LabError;
pub use guest::{Guest, Job, Output};
pub use net::{GuestNet, Wire};
pub use packages::{Base, packages_unpack};
pub use spec::{GuestFile, GuestSpec, Root, Share};
pub use stall::once_more;
pub use systemd::{SYSTEMD_ROOT, SYSTEMD_UP, systemd_share, with_systemd};
pub use target::{ISCSI_TARGET_MODULES, iscsi_target, iscsi_target_of};
