//! The log: writes to headers and tables that were promised and perhaps not done. A file that was not closed has one, and only what
//! it says on top of the file is the disk. It is replayed in memory; the file is never written.

use super::{Header, MIB, checksum};
use crate::container::{Container, le32, le64};
use crate::{DiskError, ReadAt};
use slipway_chunk::IMAGE_SIZE_MAX;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

const SECTOR: u64 = 4096;
const ENTRY_HEADER_LEN: usize = 64;
const DESCRIPTOR_LEN: usize = 32;
/// Hyper-V and QEMU make logs of 1 MiB; what is larger is not read into memory.
const LOG_LEN_MAX: u64 = 8 << 20;
/// Sectors that a log may change: what a full log can hold, and up to 1 GiB of zeros.
const SECTORS_MAX: usize = 256 << 10;

/// One valid entry of the log.
struct Entry {
    at: usize,
    len: usize,
    tail: usize,
    sequence: u64,
    descriptors: usize,
    flushed_len: u64,
    last_len: u64,
}

/// The log as it lies in the file, read once. It is a ring.
struct Ring {
    bytes: Vec<u8>,
    guid: [u8; 16],
    /// Bytes that may still be summed: entries that lie over each other would have the whole ring summed for each of its sectors.
    to_sum: usize,
}

/// Replays the log that `header` names.
pub(super) fn log_replay(container: Container, header: &Header) -> Result<Container, DiskError> {
    let (at, len) = (header.log_at, header.log_len);
    if at < MIB || len == 0 || !at.is_multiple_of(MIB) || !len.is_multiple_of(MIB) {
        return Err(container.damaged(format!("its log is said to be {len} bytes at byte {at}")));
    }
    container.range_check("the log", at, len)?;
    if len > LOG_LEN_MAX {
        return Err(container.refused(format!(
            "it was not closed, and its log of {len} bytes is larger than the {LOG_LEN_MAX} that are replayed; \
             let 'qemu-img check -r all' or Hyper-V do it"
        )));
    }
    let bytes = container.part("the log", at, len as usize)?;
    let mut ring = Ring { to_sum: 4 * bytes.len(), bytes, guid: header.log_guid };
    let Some(active) = ring.active_find() else {
        return Err(container.damaged(
            "it was not closed, and its log has no valid entries; let 'qemu-img check -r all' or Hyper-V repair a copy of it",
        ));
    };
    let file_len = container.len();
    let (mut changed, mut new_len) = (BTreeMap::new(), file_len);
    for entry in &active {
        if entry.flushed_len > file_len {
            let flushed = entry.flushed_len;
            return Err(container
                .damaged(format!("its log was written when the file had {flushed} bytes, now it has {file_len}")));
        }
        new_len = new_len.max(entry.last_len);
        ring.entry_apply(&container, entry, &mut changed)?;
    }
    if new_len > IMAGE_SIZE_MAX {
        return Err(container.damaged(format!("its log says that the file has {new_len} bytes")));
    }
    Ok(Container::new(super::FORMAT, Box::new(Replayed { under: container.into_bytes(), changed, len: new_len })))
}

impl Ring {
    /// The entries to replay, in order: of all unbroken runs of entries the one with the greatest sequence number, if its last entry's
    /// tail is the run's own beginning (MS-VHDX 2.3.3).
    fn active_find(&mut self) -> Option<Vec<Entry>> {
        let mut best: Option<Vec<Entry>> = None;
        let mut begin = 0;
        while begin < self.bytes.len() {
            let mut run: Vec<Entry> = Vec::new();
            let mut at = begin;
            let mut covered = 0;
            while let Some(entry) = self.entry_at(at) {
                let follows =
                    run.last().is_none_or(|before: &Entry| before.sequence.checked_add(1) == Some(entry.sequence));
                if !follows || covered + entry.len > self.bytes.len() {
                    break;
                }
                covered += entry.len;
                at = (at + entry.len) % self.bytes.len();
                run.push(entry);
            }
            if let Some(head) = run.last()
                && run.iter().any(|entry| entry.at == head.tail)
            {
                let sequence = head.sequence;
                let from = run.iter().position(|entry| entry.at == head.tail).unwrap_or(0);
                let known = best.as_ref().and_then(|run| run.last()).map_or(0, |head| head.sequence);
                if sequence > known {
                    best = Some(run.split_off(from));
                }
            }
            begin += covered.max(SECTOR as usize);
        }
        best
    }

    /// `len` bytes from `at` on, around the end.
    fn bytes_at(&self, at: usize, len: usize) -> Vec<u8> {
        let first = len.min(self.bytes.len() - at);
        let mut bytes = self.bytes[at..at + first].to_vec();
        bytes.extend_from_slice(&self.bytes[..len - first]);
        bytes
    }

    fn entry_at(&mut self, at: usize) -> Option<Entry> {
        let header = self.bytes.get(at..at + ENTRY_HEADER_LEN)?;
        let len = le32(header, 8) as usize;
        let (tail, sequence, descriptors) = (le32(header, 12) as usize, le64(header, 16), le32(header, 24) as usize);
        let plausible = header.starts_with(b"loge")
            && header[32..48] == self.guid
            && sequence > 0
            && len > 0
            && len <= self.bytes.len()
            && len.is_multiple_of(SECTOR as usize)
            && tail < self.bytes.len()
            && tail.is_multiple_of(SECTOR as usize)
            && descriptors <= len / DESCRIPTOR_LEN;
        let (flushed_len, last_len) = (le64(header, 48), le64(header, 56));
        if !plausible || len > self.to_sum {
            return None;
        }
        let fits = self.sum(at, len) == le32(header, 4);
        self.to_sum -= len;
        fits.then_some(Entry { at, len, tail, sequence, descriptors, flushed_len, last_len })
    }

    /// The checksum of an entry, around the end.
    fn sum(&self, at: usize, len: usize) -> u32 {
        let first = len.min(self.bytes.len() - at);
        let crc = checksum(&self.bytes[at..at + first], 4);
        crc32c::crc32c_append(crc, &self.bytes[..len - first])
    }

    /// Notes what `entry` writes.
    fn entry_apply(
        &self,
        container: &Container,
        entry: &Entry,
        changed: &mut BTreeMap<u64, Change>,
    ) -> Result<(), DiskError> {
        let sequence = entry.sequence;
        let broken = |why: &str| container.damaged(format!("entry {sequence} of its log {why}"));
        let bytes = self.bytes_at(entry.at, entry.len);
        let descriptors_len = (ENTRY_HEADER_LEN + entry.descriptors * DESCRIPTOR_LEN).next_multiple_of(SECTOR as usize);
        let mut sectors = bytes.get(descriptors_len..).unwrap_or_default().chunks_exact(SECTOR as usize);
        for n in 0..entry.descriptors {
            let from = ENTRY_HEADER_LEN + n * DESCRIPTOR_LEN;
            let descriptor = bytes.get(from..from + DESCRIPTOR_LEN).ok_or_else(|| broken("ends in its descriptors"))?;
            let file_at = le64(descriptor, 16);
            if le64(descriptor, 24) != sequence || !file_at.is_multiple_of(SECTOR) || file_at > IMAGE_SIZE_MAX {
                return Err(broken(&format!("has a descriptor for byte {file_at} that does not belong to it")));
            }
            match &descriptor[..4] {
                b"desc" => {
                    let data = sectors.next().ok_or_else(|| broken("has fewer data sectors than descriptors"))?;
                    let numbered = u64::from(le32(data, 4)) << 32 | u64::from(le32(data, SECTOR as usize - 4));
                    if !data.starts_with(b"data") || numbered != sequence {
                        return Err(broken("has a data sector that does not belong to it"));
                    }
                    let mut sector = data.to_vec();
                    sector[..8].copy_from_slice(&descriptor[8..16]);
                    sector[SECTOR as usize - 4..].copy_from_slice(&descriptor[4..8]);
                    changed.insert(file_at / SECTOR, Change::Bytes(sector.into()));
                }
                b"zero" => {
                    let len = le64(descriptor, 8);
                    let count = len / SECTOR;
                    if !len.is_multiple_of(SECTOR) || count > (SECTORS_MAX - changed.len().min(SECTORS_MAX)) as u64 {
                        return Err(broken(&format!("zeroes {len} bytes, more than are replayed")));
                    }
                    changed.extend((file_at / SECTOR..file_at / SECTOR + count).map(|sector| (sector, Change::Zeros)));
                }
                _ => return Err(broken("has an unknown descriptor")),
            }
        }
        Ok(())
    }
}

#[derive(Clone)]
enum Change {
    Zeros,
    Bytes(Arc<[u8]>),
}

/// A file with the sectors of its log on top.
struct Replayed {
    under: Box<dyn ReadAt>,
    changed: BTreeMap<u64, Change>,
    len: u64,
}

impl ReadAt for Replayed {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        let Some(end) = end else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        // What the log lets the file grow by reads as zeros.
        let there = self.under.len().clamp(offset, end) - offset;
        let (old, grown) = buf.split_at_mut(there as usize);
        if !old.is_empty() {
            self.under.read_exact_at(old, offset)?;
        }
        grown.fill(0);
        for (sector, change) in self.changed.range(offset / SECTOR..end.div_ceil(SECTOR)) {
            let begin = sector * SECTOR;
            let (from, to) = (begin.max(offset), (begin + SECTOR).min(end));
            let target = &mut buf[(from - offset) as usize..(to - offset) as usize];
            match change {
                Change::Zeros => target.fill(0),
                Change::Bytes(bytes) => target.copy_from_slice(&bytes[(from - begin) as usize..(to - begin) as usize]),
            }
        }
        Ok(())
    }
}
