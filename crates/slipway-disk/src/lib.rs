//! Disks and files as targets and sources of images.
//!
//! A target is opened with [`target_open`], which refuses everything that would hurt (a mounted disk, the
//! system's own, a smaller one, another sector size), is compared through [`Target::read`], and changed only through
//! [`Writing`], which keeps an interrupted target from booting: see [`Writing::seal`]. What is only to be compared is
//! opened with [`target_open_to_read`], which refuses less and cannot write.

mod ahead;
mod aligned;
mod behind;
mod error;
mod faults;
mod guard;
mod ioctl;
mod medium;
mod memory;
mod open;
mod port;
mod prints;
mod reader;
mod seal;
mod source;
mod staged;
mod stream;
mod sysfs;
mod target;
mod touched;
mod writing;

pub use ahead::ReadAhead;
pub use aligned::ReadBuffer;
pub use error::{DiskError, TargetError};
pub use faults::{Fault, Faults, Op};
pub use memory::freed_memory_return;
pub use open::{Shape, TargetOptions, target_open, target_open_to_read};
pub use prints::{Print, prints};
pub use reader::TargetReader;
pub use seal::Sealed;
pub use source::SparseFile;
pub use target::{Target, TargetFacts, TargetKind};
pub use writing::{FLUSH_EVERY, Writing};
