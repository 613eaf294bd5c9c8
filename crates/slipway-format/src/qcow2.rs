//! QEMU's qcow2, versions 2 and 3, read without QEMU: plain, zero and compressed clusters (zlib, zstd), extended entries of
//! second level. Internal snapshots are ignored. What names another file, is encrypted or asks for an unknown feature is refused.
//!
//! The format is described in QEMU's `docs/interop/qcow2.txt`.

mod build;
mod header;
mod inflate;
mod layout;
mod tables;
mod write;

use self::header::{Header, NAME, damaged, io};
use self::inflate::{Job, Pool};
pub use self::layout::{Qcow2Layout, Qcow2Marks, Qcow2Part};
use self::tables::{Place, Tables};
pub use self::write::Qcow2Writer;
use crate::{Disk, DiskError, Limits, ReadAt};
use slipway_chunk::{BLOCK, Fill};
use std::sync::Arc;

/// The most that one call reads.
const PIECE_MAX: usize = 4 << 20;
/// Packed clusters that lie so close together are read together.
const GAP_MAX: u64 = 512;

/// A qcow2 image. Memory: tables of second level, at most 8 MiB of them; 4 bytes for each table that there may be (16 MiB at the very
/// most); packed bytes of one call, at most 12 MiB.
pub struct Qcow2 {
    tables: Tables,
    pool: Pool,
    /// Packed bytes; shared with the threads while they unpack.
    arena: Arc<Vec<u8>>,
    /// The packed cluster that was last wanted in part, and its place in the file.
    last: Option<(u64, Vec<u8>)>,
}

impl Qcow2 {
    /// Reads the header and all tables, and checks them.
    ///
    /// # Errors
    /// Why the image is not read.
    pub fn open(file: Box<dyn ReadAt>, limits: &Limits) -> Result<Qcow2, DiskError> {
        let header = Header::read(&*file, limits)?;
        let pool = Pool::new(header.packing);
        Ok(Qcow2 { tables: Tables::open(file, header)?, pool, arena: Arc::default(), last: None })
    }

    fn fill(&mut self, offset: u64, buf: &mut [u8]) -> Result<Fill, DiskError> {
        let (size, cluster) = (self.tables.header.size, self.tables.header.cluster());
        let left = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let want = buf.len().min(left).min(PIECE_MAX);
        if want == 0 {
            return Ok(Fill::End);
        }
        let mut rest = &mut buf[..want];
        let mut packed: Vec<(u64, u32, &mut [u8])> = Vec::new();
        let mut at = offset;
        while !rest.is_empty() {
            let (place, len) = self.tables.stretch(at, rest.len() as u64)?;
            let mut take = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
            match place {
                Place::Zero => {
                    if let Some(hole) = hole_len(at, len, size) {
                        match at == offset {
                            true => return Ok(Fill::Hole(hole)),
                            false => break,
                        }
                    }
                    // Up to the next block's border, from where the rest may be a hole.
                    let border = BLOCK - usize::try_from(at % BLOCK as u64).unwrap_or(0);
                    take = take.min(border);
                    let (here, after) = rest.split_at_mut(take);
                    here.fill(0);
                    rest = after;
                }
                Place::Data(host) => {
                    let (here, after) = rest.split_at_mut(take);
                    self.tables.file.read_exact_at(here, host).map_err(io)?;
                    rest = after;
                }
                Place::Packed { at: host, len } => {
                    let (here, after) = rest.split_at_mut(take);
                    rest = after;
                    if here.len() as u64 == cluster {
                        packed.push((host, len, here));
                    } else {
                        let from = usize::try_from(at % cluster).unwrap_or(usize::MAX);
                        here.copy_from_slice(&self.cluster_part(host, len)?[from..from + take]);
                    }
                }
            }
            at += take as u64;
        }
        self.packed_read(packed)?;
        Ok(Fill::Data(usize::try_from(at - offset).unwrap_or(usize::MAX)))
    }

    /// One packed cluster, kept because its other part is likely to be wanted next.
    fn cluster_part(&mut self, host: u64, len: u32) -> Result<&[u8], DiskError> {
        let mut kept = self.last.take();
        if kept.as_ref().is_none_or(|(at, _)| *at != host) {
            let cluster = usize::try_from(self.tables.header.cluster()).unwrap_or(0);
            let mut out = kept.map_or_else(|| vec![0; cluster], |(_, bytes)| bytes);
            self.packed_read(vec![(host, len, &mut out)])?;
            kept = Some((host, out));
        }
        Ok(&self.last.insert(kept.unwrap_or_default()).1)
    }

    /// Reads and unpacks whole clusters: those that are neighbours in the file are read at once.
    fn packed_read(&mut self, packed: Vec<(u64, u32, &mut [u8])>) -> Result<(), DiskError> {
        if packed.is_empty() {
            return Ok(());
        }
        // Nobody else holds it between two calls.
        let mut arena = Arc::try_unwrap(std::mem::take(&mut self.arena)).unwrap_or_default();
        arena.clear();
        let mut jobs = Vec::with_capacity(packed.len());
        let (mut from, mut to) = (0, 0);
        let mut begins = 0;
        for (at, len, out) in packed {
            let end = at + u64::from(len);
            if to == 0 || at < from || at > to + GAP_MAX {
                self.arena_read(&mut arena, begins, from, to)?;
                (begins, from, to) = (arena.len(), at, end);
            }
            to = to.max(end);
            let place = begins + usize::try_from(at - from).unwrap_or(usize::MAX);
            jobs.push(Job { packed: place..place + len as usize, out, at });
        }
        self.arena_read(&mut arena, begins, from, to)?;
        self.arena = Arc::new(arena);
        self.pool.inflate_all(&self.arena, &mut jobs).or_else(damaged)
    }

    fn arena_read(&self, arena: &mut Vec<u8>, begins: usize, from: u64, to: u64) -> Result<(), DiskError> {
        arena.resize(begins + usize::try_from(to - from).unwrap_or(usize::MAX), 0);
        self.tables.file.read_exact_at(&mut arena[begins..], from).map_err(io)
    }
}

/// How much of a stretch of zeros is a hole as [`slipway_chunk::SparseRead`] wants them: whole blocks, or up to the disk's end.
fn hole_len(at: u64, len: u64, size: u64) -> Option<u64> {
    let block = BLOCK as u64;
    let end = if at + len == size { size } else { (at + len) / block * block };
    (at.is_multiple_of(block) && end > at).then(|| end - at)
}

impl Disk for Qcow2 {
    fn size(&self) -> u64 {
        self.tables.header.size
    }

    fn fill_at(&mut self, offset: u64, buf: &mut [u8]) -> std::io::Result<Fill> {
        Ok(self.fill(offset, buf)?)
    }
}

impl std::fmt::Debug for Qcow2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct(NAME).field("header", &self.tables.header).finish_non_exhaustive()
    }
}
