//! zip archives, with every field in reach.

use std::io::Write;

#[derive(Clone)]
pub(crate) struct File {
    pub(crate) name: Vec<u8>,
    /// The name in the file's own header, where it differs.
    pub(crate) local_name: Option<Vec<u8>>,
    pub(crate) flags: u16,
    pub(crate) method: u16,
    pub(crate) crc: u32,
    pub(crate) packed: Vec<u8>,
    pub(crate) size: u64,
    pub(crate) packed_size: u64,
    /// The mode of a Unix file.
    pub(crate) mode: u32,
    /// Where the list says that the file begins, where that is not so.
    pub(crate) at: Option<u64>,
    /// Extra fields of the list.
    pub(crate) extra: Vec<u8>,
    /// Sizes and place are in a zip64 field.
    pub(crate) large: bool,
}

pub(crate) fn stored(name: &str, bytes: &[u8]) -> File {
    File {
        name: name.into(),
        local_name: None,
        flags: 0,
        method: 0,
        crc: crc32fast::hash(bytes),
        packed: bytes.to_vec(),
        size: bytes.len() as u64,
        packed_size: bytes.len() as u64,
        mode: 0o100_644,
        at: None,
        extra: Vec::new(),
        large: false,
    }
}

pub(crate) fn deflated(name: &str, bytes: &[u8]) -> File {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    let packed = encoder.finish().unwrap();
    File { method: 8, packed_size: packed.len() as u64, packed, ..stored(name, bytes) }
}

fn small(value: u64, large: bool) -> [u8; 4] {
    if large { [0xff; 4] } else { u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes() }
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// The archive of these files; with the records of zip64 if `large`.
pub(crate) fn archive(files: &[File], large: bool) -> Vec<u8> {
    let (mut bytes, mut list) = (Vec::new(), Vec::new());
    for file in files {
        let begin = bytes.len() as u64;
        let local_name = file.local_name.as_ref().unwrap_or(&file.name);
        let common = join(&[
            &[if file.large { 45 } else { 20 }, 0],
            &file.flags.to_le_bytes(),
            &file.method.to_le_bytes(),
            &[0; 4],
            &file.crc.to_le_bytes(),
            &small(file.packed_size, file.large),
            &small(file.size, file.large),
        ]);
        let sizes = join(&[&file.size.to_le_bytes(), &file.packed_size.to_le_bytes()]);
        let local_extra = if file.large { join(&[&[1, 0, 16, 0], &sizes]) } else { Vec::new() };
        bytes.extend(join(&[
            b"PK\x03\x04",
            &common,
            &(local_name.len() as u16).to_le_bytes(),
            &(local_extra.len() as u16).to_le_bytes(),
            local_name,
            &local_extra,
            &file.packed,
        ]));
        let at = file.at.unwrap_or(begin);
        let mut extra = file.extra.clone();
        if file.large {
            extra.extend(join(&[&[1, 0, 24, 0], &sizes, &at.to_le_bytes()]));
        }
        list.extend(join(&[
            b"PK\x01\x02\x14\x03",
            &common,
            &(file.name.len() as u16).to_le_bytes(),
            &(extra.len() as u16).to_le_bytes(),
            &[0; 6],
            &(file.mode << 16).to_le_bytes(),
            &small(at, file.large),
            &file.name,
            &extra,
        ]));
    }
    let (at, len, count) = (bytes.len() as u64, list.len() as u64, files.len() as u64);
    bytes.extend(list);
    if large {
        let end64 = bytes.len() as u64;
        bytes.extend(join(&[b"PK\x06\x06", &44_u64.to_le_bytes(), &[45, 3, 45, 0], &[0; 8]]));
        bytes.extend([count, count, len, at].map(u64::to_le_bytes).concat());
        bytes.extend(join(&[b"PK\x06\x07", &[0; 4], &end64.to_le_bytes(), &[1, 0, 0, 0]]));
    }
    let counts = if large { [0xff; 4] } else { [count as u16; 2].map(u16::to_le_bytes).concat().try_into().unwrap() };
    bytes.extend(join(&[b"PK\x05\x06", &[0; 4], &counts, &small(len, large), &small(at, large), &[0; 2]]));
    bytes
}
