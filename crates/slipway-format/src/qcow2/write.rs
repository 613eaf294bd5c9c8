//! Writes a qcow2 with zstd-compressed clusters, in one pass over the disk.
//!
//! Packed clusters follow each other without gaps; each table of second level follows the data it describes; first level and
//! refcounts come last. The header is written at the very end: before that the file is no qcow2.

use super::build::{COPIED, Plan, cluster_bits, disk_size, l1_entries, l2_entries, refcount_room, refcounts_each};
use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::FileExt;

const LEVEL: i32 = 3;
const PACKED: u64 = 1 << 62;
/// Bytes of clusters that are packed at one time.
const BATCH: usize = 8 << 20;
const THREADS_MAX: usize = 8;

/// A qcow2 being written. Memory: 16 MiB of clusters, a table of second level, two bytes for each cluster of the file.
pub struct Qcow2Writer {
    file: File,
    bits: u32,
    /// Bytes of the raw image.
    raw: u64,
    /// Where the next raw byte belongs.
    at: u64,
    /// The place in the file behind all that was written.
    end: u64,
    /// The cluster that is being filled, and as far as it is.
    open: Vec<u8>,
    batch: Vec<(u64, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
    l1: Vec<u64>,
    /// The table of second level that is being filled.
    l2: Vec<u64>,
    l2_index: usize,
    l2_used: bool,
    refcounts: Vec<u16>,
    packers: Vec<zstd::bulk::Compressor<'static>>,
}

impl Qcow2Writer {
    /// Begins a disk of `size` bytes in an empty file.
    pub fn new(file: File, size: u64) -> Self {
        let bits = cluster_bits(size);
        Self {
            file,
            bits,
            raw: size,
            at: 0,
            // The header's cluster.
            end: 1 << bits,
            open: Vec::new(),
            batch: Vec::new(),
            spare: Vec::new(),
            l1: vec![0; usize::try_from(l1_entries(disk_size(size), bits)).unwrap_or(0)],
            l2: vec![0; usize::try_from(l2_entries(bits)).unwrap_or(0)],
            l2_index: 0,
            l2_used: false,
            refcounts: vec![1],
            packers: Vec::new(),
        }
    }

    fn cluster(&self) -> usize {
        1 << self.bits
    }

    /// The disk's next bytes.
    ///
    /// # Errors
    /// Those of the file; [`io::ErrorKind::InvalidInput`] beyond the disk's end.
    pub fn data(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.room_check(bytes.len() as u64)?;
        while !bytes.is_empty() {
            if self.open.capacity() == 0 {
                self.open = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(1 << self.bits));
            }
            // What is before in the cluster was a hole.
            let within = usize::try_from(self.at % self.cluster() as u64).unwrap_or(0);
            self.open.resize(within, 0);
            let (here, rest) = bytes.split_at(bytes.len().min(self.cluster() - within));
            self.open.extend_from_slice(here);
            self.at += here.len() as u64;
            bytes = rest;
            if self.open.len() == self.cluster() {
                self.cluster_close()?;
            }
        }
        Ok(())
    }

    /// The disk's next bytes are zeros.
    ///
    /// # Errors
    /// As [`data`](Self::data).
    pub fn hole(&mut self, len: u64) -> io::Result<()> {
        self.room_check(len)?;
        let end = self.at + len;
        if !self.open.is_empty() && end >> self.bits != self.at >> self.bits {
            self.cluster_close()?;
        }
        self.at = end;
        Ok(())
    }

    fn room_check(&self, len: u64) -> io::Result<()> {
        match self.at.checked_add(len) {
            Some(end) if end <= self.raw => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "the disk is longer than its size")),
        }
    }

    /// The open cluster is complete; what is missing in it is zeros.
    fn cluster_close(&mut self) -> io::Result<()> {
        let mut cluster = std::mem::take(&mut self.open);
        let guest = (self.at - 1) >> self.bits;
        if slipway_chunk::is_zero(&cluster) {
            cluster.clear();
            self.spare.push(cluster);
            return Ok(());
        }
        cluster.resize(self.cluster(), 0);
        self.batch.push((guest, cluster));
        if self.batch.len() * self.cluster() >= BATCH {
            self.batch_write()?;
        }
        Ok(())
    }

    fn batch_write(&mut self) -> io::Result<()> {
        let batch = std::mem::take(&mut self.batch);
        let packed = pack_all(&mut self.packers, &batch)?;
        // One write for what follows each other.
        let (mut run, mut run_at) = (Vec::with_capacity(BATCH / 2), self.end);
        for ((guest, mut cluster), packed) in batch.into_iter().zip(packed) {
            if guest / l2_entries(self.bits) != self.l2_index as u64 {
                self.file.write_all_at(&run, run_at)?;
                run.clear();
                self.l2_write()?;
                self.l2_index = usize::try_from(guest / l2_entries(self.bits)).unwrap_or(usize::MAX);
                run_at = self.end;
            }
            let entry = match packed {
                Some(bytes) => {
                    let at = self.packed_place(bytes.len() as u64);
                    run.resize(usize::try_from(at - run_at).unwrap_or(0), 0);
                    run.extend_from_slice(&bytes);
                    let sectors = (at + bytes.len() as u64 - 1) / 512 - at / 512;
                    PACKED | sectors << (62 - (self.bits - 8)) | at
                }
                None => {
                    let at = self.clusters_place(1);
                    run.resize(usize::try_from(at - run_at).unwrap_or(0), 0);
                    run.extend_from_slice(&cluster);
                    COPIED | at
                }
            };
            let place = usize::try_from(guest % l2_entries(self.bits)).unwrap_or(usize::MAX);
            (self.l2[place], self.l2_used) = (entry, true);
            cluster.clear();
            self.spare.push(cluster);
        }
        self.file.write_all_at(&run, run_at)
    }

    /// A place for so many packed bytes; counts the clusters they lie in.
    fn packed_place(&mut self, len: u64) -> u64 {
        let last = |at: u64| usize::try_from((at + len - 1) >> self.bits).unwrap_or(usize::MAX);
        let first = usize::try_from(self.end >> self.bits).unwrap_or(usize::MAX);
        if self.refcounts.get(first).is_some_and(|count| *count == u16::MAX) {
            self.end = self.end.next_multiple_of(1 << self.bits);
        }
        let at = self.end;
        let (first, last) = (usize::try_from(at >> self.bits).unwrap_or(usize::MAX), last(at));
        if self.refcounts.len() <= last {
            self.refcounts.resize(last + 1, 0);
        }
        for count in &mut self.refcounts[first..=last] {
            *count += 1;
        }
        self.end = at + len;
        at
    }

    /// A place for whole clusters.
    fn clusters_place(&mut self, count: u64) -> u64 {
        let at = self.end.next_multiple_of(1 << self.bits);
        self.end = at + (count << self.bits);
        self.refcounts.resize(usize::try_from(at >> self.bits).unwrap_or(usize::MAX), 0);
        self.refcounts.resize(usize::try_from(self.end >> self.bits).unwrap_or(usize::MAX), 1);
        at
    }

    fn l2_write(&mut self) -> io::Result<()> {
        if !self.l2_used {
            return Ok(());
        }
        let at = self.clusters_place(1);
        self.l1[self.l2_index] = at | COPIED;
        self.file.write_all_at(&numbers(&self.l2), at)?;
        self.l2.fill(0);
        self.l2_used = false;
        Ok(())
    }

    /// Writes the tables and at last the header, and gives the file back, not yet flushed.
    ///
    /// # Errors
    /// Those of the file; [`io::ErrorKind::UnexpectedEof`] when the disk is not complete.
    pub fn finish(mut self) -> io::Result<File> {
        if self.at != self.raw {
            let why = format!("only {} of {} bytes of the disk came", self.at, self.raw);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        if !self.open.is_empty() {
            self.cluster_close()?;
        }
        self.batch_write()?;
        self.l2_write()?;
        let cluster = self.cluster() as u64;
        let l1_clusters = (self.l1.len() as u64 * 8).div_ceil(cluster).max(1);
        let l1_at = self.clusters_place(l1_clusters);
        self.file.write_all_at(&numbers(&self.l1), l1_at)?;
        let others = self.end >> self.bits;
        let (tables, blocks) = refcount_room(others, self.bits);
        let table_at = self.clusters_place(tables + blocks);
        let block_at = |block: u64| table_at + ((tables + block) << self.bits);
        let table: Vec<u64> = (0..blocks).map(block_at).collect();
        self.file.write_all_at(&numbers(&table), table_at)?;
        let each = usize::try_from(refcounts_each(self.bits)).unwrap_or(usize::MAX);
        for (block, counts) in self.refcounts.chunks(each).enumerate() {
            let bytes: Vec<u8> = counts.iter().flat_map(|count| count.to_be_bytes()).collect();
            self.file.write_all_at(&bytes, block_at(block as u64))?;
        }
        self.file.set_len(self.end)?;
        let plan = Plan {
            bits: self.bits,
            size: disk_size(self.raw),
            l1_at: l1_at >> self.bits,
            refcount_at: table_at >> self.bits,
            refcount_clusters: tables,
            zstd: true,
        };
        // From here on it is a qcow2.
        self.file.write_all_at(&plan.header(), 0)?;
        Ok(self.file)
    }
}

fn numbers(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

/// Packs clusters on all processors; none where that gains nothing.
fn pack_all(
    packers: &mut Vec<zstd::bulk::Compressor<'static>>,
    batch: &[(u64, Vec<u8>)],
) -> io::Result<Vec<Option<Vec<u8>>>> {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = processors.min(THREADS_MAX).min(batch.len()).max(1);
    while packers.len() < threads {
        packers.push(zstd::bulk::Compressor::new(LEVEL)?);
    }
    let run = |packer: &mut zstd::bulk::Compressor<'static>, share: &[(u64, Vec<u8>)]| {
        share
            .iter()
            .map(|(_, cluster)| {
                let packed = packer.compress(cluster)?;
                Ok((packed.len() < cluster.len()).then_some(packed))
            })
            .collect::<io::Result<Vec<_>>>()
    };
    std::thread::scope(|scope| {
        let shares = batch.chunks(batch.len().div_ceil(threads).max(1));
        let all: Vec<_> =
            shares.zip(packers.iter_mut()).map(|(share, packer)| scope.spawn(move || run(packer, share))).collect();
        let mut packed = Vec::with_capacity(batch.len());
        for one in all {
            packed.extend(one.join().map_err(|_| io::Error::other("a thread was lost"))??);
        }
        Ok(packed)
    })
}
