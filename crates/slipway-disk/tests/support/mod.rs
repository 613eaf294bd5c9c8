//! Images made in memory, and the flash that the transfer engine does, in its smallest form.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use slipway_chunk::{BLOCK, ChunkId, is_zero, verify};
use slipway_disk::{DiskError, Faults, Sealed, Shape, TargetError, TargetOptions, Writing, target_open};
use slipway_format::gpt::Header;
use slipway_format::mbr::protective_mbr;

pub const MIB: usize = 1 << 20;
const CHUNK: usize = 32 << 10;

pub fn shape(size: u64) -> Shape {
    Shape { size, sector_size: 512 }
}

/// Bytes that are never zero, the same for the same seed.
pub fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut state = u32::from(seed).wrapping_mul(0x9e37_79b9) | 1;
    let mut bytes = Vec::with_capacity(len + 4);
    while bytes.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend((state | 0x0101_0101).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A GPT over `bytes`, with its backup at the end: an empty table that is valid in every check.
pub fn gpt_put(bytes: &mut [u8], sector: usize) {
    let sectors = (bytes.len() / sector) as u64;
    let entries_sectors = (16 << 10) / sector as u64;
    let primary = Header {
        my_lba: 1,
        alternate_lba: sectors - 1,
        first_usable_lba: 2 + entries_sectors,
        last_usable_lba: sectors - 2 - entries_sectors,
        disk_guid: Default::default(),
        entries_lba: 2,
        entry_count: 128,
        entry_len: 128,
        entries_crc: 0xab54_d286,
    };
    let entries_lba = sectors - 1 - entries_sectors;
    let backup = Header { my_lba: sectors - 1, alternate_lba: 1, entries_lba, ..primary.clone() };
    bytes[..512].copy_from_slice(&protective_mbr(sectors));
    bytes[sector..2 * sector].copy_from_slice(&primary.encode(sector as u32));
    bytes[2 * sector..2 * sector + (16 << 10)].fill(0);
    let end = bytes.len();
    bytes[end - sector - (16 << 10)..end - sector].fill(0);
    bytes[end - sector..].copy_from_slice(&backup.encode(sector as u32));
}

/// Puts `image` on an opened target as the transfer engine does: holes zeroed, chunks written, flushed, what was
/// touched read back, sealed.
pub fn image_put(writing: Writing, image: &[u8]) -> Result<Sealed, DiskError> {
    let mut writing = writing;
    for (n, chunk) in image.chunks(CHUNK).enumerate() {
        let at = (n * CHUNK) as u64;
        if is_zero(chunk) {
            writing.zero(at, chunk.len() as u64)?;
        } else {
            writing.chunk_write(at, &verify(chunk, &ChunkId::of(chunk)).expect("its own id"))?;
        }
    }
    writing.flush()?;
    for (at, len) in writing.touched_ranges() {
        let len = len.min((image.len() as u64).saturating_sub(at)) as usize;
        let expected = &image[at as usize..at as usize + len];
        if writing.read(at, len)? != expected {
            return Err(DiskError::ReadBack { path: writing.facts().path.clone(), at });
        }
    }
    writing.seal()
}

#[derive(Debug, thiserror::Error)]
pub enum FlashError {
    #[error(transparent)]
    Open(#[from] TargetError),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Opens, writes, seals.
pub fn flash(path: &Path, image: &[u8], shape: &Shape, faults: Faults) -> Result<Sealed, FlashError> {
    let options = TargetOptions { create: true, ..TargetOptions::default() };
    let target = target_open(path, shape, &options, faults)?;
    Ok(image_put(target.writing()?, image)?)
}

/// Bytes of the 4 KiB blocks in which two images differ.
pub fn differing(one: &[u8], other: &[u8]) -> u64 {
    one.chunks(BLOCK).zip(other.chunks(BLOCK)).filter(|(a, b)| a != b).map(|(a, _)| a.len() as u64).sum()
}

/// A folder on the file system under test, and a path in it.
pub fn scratch() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("target.img");
    (folder, path)
}

/// The same in memory where there is such a place: a sweep would flush a thousand times.
pub fn scratch_fast() -> (tempfile::TempDir, PathBuf) {
    let memory = Path::new("/dev/shm");
    let Ok(folder) = tempfile::tempdir_in(memory) else { return scratch() };
    let path = folder.path().join("target.img");
    (folder, path)
}

pub fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}
