//! The two block device requests that rustix has no safe function for.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{NoArg, Opcode, ioctl, opcode};

/// `BLKRRPART` of linux/fs.h: read the partition table again.
const BLKRRPART: Opcode = opcode::none(0x12, 95);
/// `BLKFLSBUF` of linux/fs.h: write out and drop the device's page cache.
const BLKFLSBUF: Opcode = opcode::none(0x12, 97);

pub(crate) fn partitions_reread(device: impl AsFd) -> io::Result<()> {
    // SAFETY: BLKRRPART takes no argument and touches no memory of this process.
    let request = unsafe { NoArg::<BLKRRPART>::new() };
    // SAFETY: as above; on anything but a block device the kernel answers ENOTTY.
    unsafe { ioctl(device, request) }.map_err(io::Error::from)
}

pub(crate) fn cache_drop(device: impl AsFd) -> io::Result<()> {
    // SAFETY: BLKFLSBUF takes no argument and touches no memory of this process.
    let request = unsafe { NoArg::<BLKFLSBUF>::new() };
    // SAFETY: as above; on anything but a block device the kernel answers ENOTTY.
    unsafe { ioctl(device, request) }.map_err(io::Error::from)
}
