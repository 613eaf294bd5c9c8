//! The end of a flash: what was held back is written, last.

use std::fs::File;
use std::path::Path;

use slipway_chunk::is_zero;
use slipway_format::gpt::{GptError, backup_write, parse_header};
use slipway_format::mbr::{MBR_LEN, protective_mbr_resize};

use crate::error::DiskError;
use crate::guard::Guard;
use crate::ioctl;
use crate::writing::Writing;

/// What a finished flash did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Bytes of differing blocks that were written, guarded ones included.
    pub written: u64,
    /// Bytes of blocks that were not zero and have been made so.
    pub zeroed: u64,
    /// How often the target was flushed.
    pub flushes: u64,
    /// `false`: nothing differed and nothing was written.
    pub changed: bool,
    /// Why the kernel did not read the new partition table, when it was asked and did not: the old
    /// partitions show until it does.
    pub reread: Option<String>,
}

impl Writing {
    /// Finishes. Everything else must have been written, flushed and read back by the caller before: from here the
    /// target counts as whole. Writes the guarded ranges, the first 8 KiB last, each step flushed and read back; asks
    /// the kernel to read the partition table; keeps a created file. When nothing differed, nothing is written.
    ///
    /// # Errors
    /// [`DiskError::ReadBack`], [`DiskError::Io`], [`DiskError::Flush`]. The first MiB is then made zero again as far
    /// as the target still obeys.
    pub fn seal(mut self) -> Result<Sealed, DiskError> {
        self.flush()?;
        let changed = !self.is_unchanged();
        if changed {
            self.disarm()?;
            if let Err(error) = self.guards_write() {
                self.guards_clear();
                return Err(error);
            }
        }
        if self.facts.fresh {
            self.fresh_settle()?;
        }
        // The target is whole. Nothing below can undo that.
        self.cleanup.keep();
        let reread = if changed && self.medium.is_device() { self.partitions_reread() } else { None };
        Ok(Sealed { written: self.written, zeroed: self.zeroed, flushes: self.flushes, changed, reread })
    }

    /// All guarded ranges but the first bytes, then the first bytes.
    fn guards_write(&mut self) -> Result<(), DiskError> {
        let last_len = self.first_len() as usize;
        let mut rest = Vec::new();
        for (n, guard) in self.guards.iter().enumerate().filter(|(_, guard)| !guard.stays_zero) {
            rest.push((n, if n == 0 { last_len } else { 0 }, guard.held.len()));
        }
        self.guard_parts_write(&rest)?;
        self.guard_parts_write(&[(0, 0, last_len)])
    }

    /// Writes `(guard, from, to)` parts, flushes, reads them back.
    fn guard_parts_write(&mut self, parts: &[(usize, usize, usize)]) -> Result<(), DiskError> {
        let mut wrote = false;
        for &(n, from, to) in parts {
            let guard = &self.guards[n];
            // The target is zero here.
            if !is_zero(&guard.held[from..to]) {
                self.medium.write(guard.at + from as u64, &guard.held[from..to])?;
                wrote = true;
            }
        }
        if wrote {
            self.medium.flush()?;
            self.flushes += 1;
        }
        for &(n, from, to) in parts {
            let guard = &self.guards[n];
            let at = guard.at + from as u64;
            if self.medium.read(at, to - from)? != &guard.held[from..to] {
                return Err(DiskError::ReadBack { path: self.medium.path().to_owned(), at });
            }
        }
        Ok(())
    }

    fn guards_clear(&mut self) {
        for guard in &self.guards {
            self.medium.zeros_try(guard.at, guard.held.len() as u64);
        }
    }

    /// A new file survives a power cut only when its length and its name are on the disk too.
    fn fresh_settle(&mut self) -> Result<(), DiskError> {
        let flush = |source| DiskError::Flush { path: self.medium.path().to_owned(), source };
        self.medium.file().sync_all().map_err(flush)?;
        let folder = self.medium.path().parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = File::open(folder.unwrap_or(Path::new("."))).map_err(flush)?;
        folder.sync_all().map_err(flush)
    }

    fn partitions_reread(&self) -> Option<String> {
        let error = ioctl::partitions_reread(self.medium.file()).err()?;
        // A partition, or a loop device without partitions, has no table to read.
        let none = rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::INVAL);
        (!none).then(|| error.to_string())
    }

    /// Moves the backup GPT to the end of a target that is larger than the image, and tells the primary header and the
    /// protective record. For `--fix-gpt`, after the whole image was written and before `seal`; afterwards the first MiB is
    /// no longer the image's. Returns whether there was something to move.
    ///
    /// # Errors
    /// [`DiskError::Gpt`] when the image's table is damaged or a partition would be cut off.
    pub fn fix_gpt(&mut self) -> Result<bool, DiskError> {
        let sector = self.shape.sector_size as usize;
        let sectors = self.facts.size / sector as u64;
        // The last sector must be wholly outside of the image.
        if (sectors - 1) * (sector as u64) < self.shape.size {
            return Ok(false);
        }
        let first = &self.guards[0].held;
        let Some(primary) = first.get(sector..2 * sector) else { return Ok(false) };
        let gpt = |source| DiskError::Gpt { path: self.facts.path.clone(), source };
        let header = match parse_header(primary) {
            Err(GptError::Absent) => return Ok(false),
            other => other.map_err(gpt)?,
        };
        if header.alternate_lba == sectors - 1 {
            return Ok(false);
        }
        let far = GptError::Field { field: "partition_entry_lba", value: header.entries_lba };
        let at = header.entries_lba.checked_mul(sector as u64).and_then(|at| usize::try_from(at).ok());
        let entries = at.and_then(|at| first.get(at..)).ok_or(far).map_err(gpt)?;
        let moved = backup_write(primary, entries, sectors).map_err(gpt)?;
        let mut record = first[..MBR_LEN].to_vec();
        protective_mbr_resize(&mut record, sectors);
        self.last_sector_guard(moved.backup_lba * sector as u64)?;
        let entries_at = moved.entries_lba * sector as u64;
        self.put(entries_at, &moved.entries)?;
        // They lie behind the image, where no read-back of the image looks.
        self.flush()?;
        if self.read(entries_at, moved.entries.len())? != moved.entries {
            return Err(DiskError::ReadBack { path: self.facts.path.clone(), at: entries_at });
        }
        self.put(moved.backup_lba * sector as u64, &moved.backup)?;
        self.put(sector as u64, &moved.primary)?;
        self.put(0, &record)?;
        self.written += (moved.entries.len() + moved.backup.len() + moved.primary.len() + MBR_LEN) as u64;
        Ok(true)
    }

    /// The backup header is guarded like the others: written last.
    fn last_sector_guard(&mut self, at: u64) -> Result<(), DiskError> {
        if let Some(guard) = self.guards.iter_mut().find(|guard| guard.range().contains(&at)) {
            guard.stays_zero = false;
            return Ok(());
        }
        let len = self.shape.sector_size as usize;
        // Everything guarded must be zero on the target before `seal` writes it.
        self.disarm()?;
        let held = self.medium.read(at, len)?.to_vec();
        if !is_zero(&held) {
            self.unflushed();
            self.medium.zeros_write(at, len as u64)?;
        }
        self.guards.push(Guard { at, held, changed: true, stays_zero: false });
        Ok(())
    }
}
