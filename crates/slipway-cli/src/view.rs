//! `/disk`: every version as a file, read on demand. The catalogue is what the kernel is told, `follow` keeps it as the server has it,
//! `readers` fetch the bytes, and `files` answers the kernel.

mod catalogue;
mod files;
mod follow;
mod mount;
mod readers;
mod ready;

pub(crate) use catalogue::Catalogue;
pub(crate) use files::Files;
pub(crate) use follow::Follower;
pub(crate) use mount::{Mounted, access_of, mountpoint_check};
pub(crate) use readers::Readers;
pub(crate) use ready::ready_tell;
