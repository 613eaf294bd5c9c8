//! Foreign formats, read safely: disk images in containers, compressed streams, partition tables, file system magics.
//!
//! Everything here works on bytes that a stranger may have written. Nothing opens a file that the
//! data names, and no number in the data decides an allocation without a cap.

mod ahead;
mod archive;
mod blocks;
mod container;
mod detect;
mod disk;
pub mod ext4;
pub mod gpt;
mod image;
pub mod mbr;
mod names;
mod open;
mod probe;
mod qcow2;
mod spool;
mod stream;
mod tree;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;
mod volumes;

pub use ahead::DiskAhead;
pub use archive::{Found, Inner, disk_find};
pub use detect::{Archive, DETECT_HEAD_LEN, DETECT_TAIL_LEN, Detected, format_detect, head_detect, tail_detect};
pub use disk::{Disk, DiskError, DiskReading, FileAt, ReadAt};
pub use image::{Format, Limits, disk_open};
pub use open::{Bytes, Held, Input, Layer, Layers, Looked, Opened, RawStream, Said, image_look, image_open};
pub use probe::{PROBE_LEN, PartitionTable, Probe, probe};
pub use qcow2::{Qcow2, Qcow2Layout, Qcow2Marks, Qcow2Part, Qcow2Writer};
pub use spool::{Spool, SpoolError};
pub use stream::{StreamError, WINDOW_MAX, WRAP_HEAD_LEN, Wrap, unwrap, wrap_detect};
pub use tree::{TREE_HEAD_LEN, TreeEntry, TreeError, TreeFormat, TreeReader, TreeWhat, tree_detect};
pub use volumes::{Volume, volumes_find, volumes_pair};
