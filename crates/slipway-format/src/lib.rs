//! Foreign formats, read safely: compressed streams, partition tables, file system magics.
//!
//! Everything here works on bytes that a stranger may have written. Nothing opens a file that the
//! data names, and no number in the data decides an allocation without a cap.

mod disk;
pub mod gpt;
pub mod mbr;
mod probe;
mod stream;

pub use disk::{Disk, DiskError, DiskReading, FileAt, ReadAt};
pub use probe::{PROBE_LEN, PartitionTable, Probe, probe};
pub use stream::{StreamError, WINDOW_MAX, WRAP_HEAD_LEN, Wrap, unwrap, wrap_detect};
