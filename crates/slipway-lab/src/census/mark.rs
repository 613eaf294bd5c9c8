//! The name that a loop device was given, which the kernel tells by a device request only.
#![allow(unsafe_code)]

use rustix::ioctl::{Getter, ioctl};
use std::fs::File;
use std::path::Path;

/// `LOOP_GET_STATUS64` of linux/loop.h.
const LOOP_GET_STATUS64: rustix::ioctl::Opcode = 0x4C05;
/// `lo_file_name` in `struct loop_info64`: behind five numbers of eight bytes and four of four.
const NAME: std::ops::Range<usize> = 56..120;

/// `struct loop_info64`, 232 bytes, aligned as its numbers of eight bytes are.
#[repr(C, align(8))]
struct LoopInfo([u8; 232]);

/// The name, if the device is in use.
pub(super) fn loop_name(device: &Path) -> Option<String> {
    let device = File::open(device).ok()?;
    // SAFETY: LOOP_GET_STATUS64 writes one `struct loop_info64`, as large as `LoopInfo`, for which every value is valid.
    let info = unsafe { ioctl(&device, Getter::<LOOP_GET_STATUS64, LoopInfo>::new()) }.ok()?;
    let name = info.0[NAME].split(|byte| *byte == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(name).into_owned())
}
