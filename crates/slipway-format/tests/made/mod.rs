//! Disk containers made by hand: what qemu-img cannot make, and what hostile rows are made from by changing a field.

#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod enter;
pub(crate) mod qcow2;
pub(crate) mod tar;
pub(crate) mod vdi;
pub(crate) mod vhd;
pub(crate) mod vhdx;
pub(crate) mod vmdk;
pub(crate) mod zip;

/// Writes `part` at byte `at`, growing if it must.
pub(crate) fn put(bytes: &mut Vec<u8>, at: usize, part: &[u8]) {
    if bytes.len() < at + part.len() {
        bytes.resize(at + part.len(), 0);
    }
    bytes[at..at + part.len()].copy_from_slice(part);
}

pub(crate) fn le32(bytes: &mut Vec<u8>, at: usize, value: u32) {
    put(bytes, at, &value.to_le_bytes());
}

pub(crate) fn le64(bytes: &mut Vec<u8>, at: usize, value: u64) {
    put(bytes, at, &value.to_le_bytes());
}

pub(crate) fn be32(bytes: &mut Vec<u8>, at: usize, value: u32) {
    put(bytes, at, &value.to_be_bytes());
}

pub(crate) fn be64(bytes: &mut Vec<u8>, at: usize, value: u64) {
    put(bytes, at, &value.to_be_bytes());
}

pub(crate) fn zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
