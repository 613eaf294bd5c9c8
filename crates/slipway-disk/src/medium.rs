//! The bytes of an opened file or block device, read and written at any alignment, flushed, and punched out.

use std::io;
use std::ops::Deref;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use rustix::io::Errno;

use crate::aligned::{ALIGN, Aligned};
use crate::error::DiskError;
use crate::faults::Op;
use crate::ioctl;
use crate::port::Port;

const ZEROS_LEN: usize = 1 << 20;

/// Zeros that are written as they lie, without a copy.
#[repr(align(4096))]
struct Zeros([u8; ZEROS_LEN]);

static ZEROS: Zeros = Zeros([0; ZEROS_LEN]);

/// A port that this thread alone reads and writes through; others may use the same [`Port`] beside it.
pub(crate) struct Medium {
    port: Arc<Port>,
    buffer: Aligned,
    edge: Aligned,
    punches: bool,
    poisoned: bool,
}

impl Deref for Medium {
    type Target = Port;
    fn deref(&self) -> &Port {
        &self.port
    }
}

impl Medium {
    pub(crate) fn new(port: Port) -> Medium {
        let (buffer, edge) = (Aligned::new(256 << 10), Aligned::new(ALIGN));
        Medium { port: Arc::new(port), buffer, edge, punches: true, poisoned: false }
    }

    /// For threads that write beside this one.
    pub(crate) fn port(&self) -> Arc<Port> {
        self.port.clone()
    }

    /// Reads exactly `len` bytes at `at`, of any alignment.
    pub(crate) fn read(&mut self, at: u64, len: usize) -> Result<&mut [u8], DiskError> {
        let from = self.port.read_around(at, len, &mut self.buffer)?;
        Ok(&mut self.buffer[from..from + len])
    }

    /// Refuses what [`Medium::write`] would refuse without trying.
    pub(crate) fn write_check(&self, at: u64, len: u64) -> Result<(), DiskError> {
        if self.poisoned {
            return Err(DiskError::Poisoned(self.path().to_owned()));
        }
        self.range_check(at, len, self.len())
    }

    /// Writes `bytes` at `at`, of any alignment. A sector that is covered only in part is read and merged.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.write_check(at, bytes.len() as u64)?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.write_span(at, bytes).map_err(|error| self.io("writing", at, error))
    }

    fn write_span(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let end = at + bytes.len() as u64;
        let direct_end = self.direct_end();
        if at >= direct_end {
            return self.write_cached(at, bytes);
        }
        let odd = usize::try_from(end.saturating_sub(direct_end)).map_or(0, |odd| odd.min(bytes.len()));
        let (body, tail) = bytes.split_at(bytes.len() - odd);
        let align = self.align();
        let start = at - at % align;
        let stop = (at + body.len() as u64).next_multiple_of(align);
        let span = (stop - start) as usize;
        if span == body.len() && body.as_ptr().align_offset(ALIGN) == 0 {
            self.write_direct(start, body, self.write_strike())?;
        } else {
            self.buffer.reserve(span);
            let (from, unit) = ((at - start) as usize, align as usize);
            for edge in [start, stop - align] {
                let covered = at <= edge && edge + align <= at + body.len() as u64;
                if !covered {
                    self.port.read_span(edge, edge + align, &mut self.edge[..unit])?;
                    let place = (edge - start) as usize;
                    self.buffer[place..place + unit].copy_from_slice(&self.edge[..unit]);
                }
            }
            self.buffer[from..from + body.len()].copy_from_slice(body);
            self.write_direct(start, &self.buffer[..span], self.write_strike())?;
        }
        if tail.is_empty() { Ok(()) } else { self.write_cached(direct_end, tail) }
    }

    /// Writes `len` zero bytes at `at`.
    pub(crate) fn zeros_write(&mut self, at: u64, len: u64) -> Result<(), DiskError> {
        let mut done = 0;
        while done < len {
            let step = (len - done).min(ZEROS_LEN as u64);
            self.write(at + done, &ZEROS.0[..step as usize])?;
            done += step;
        }
        Ok(())
    }

    /// Makes the range read zero without transferring zeros. `false`: this medium cannot, nothing was done.
    /// `BLKDISCARD` is never used: after it a device may read anything.
    pub(crate) fn punch(&mut self, at: u64, len: u64) -> Result<bool, DiskError> {
        self.write_check(at, len)?;
        if !self.punches {
            return Ok(false);
        }
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let result = match self.faults().strike(Op::Punch) {
            Some(fault) => Err(fault.to_error()),
            None => rustix::io::retry_on_intr(|| fallocate(self.file(), mode, at, len)).map_err(io::Error::from),
        };
        match result {
            Ok(()) => {
                self.wrote_set();
                Ok(true)
            }
            Err(error) if cannot_punch(&error) => {
                self.punches = false;
                Ok(false)
            }
            Err(error) => Err(self.io("punching a hole in", at, error)),
        }
    }

    /// Makes everything written so far durable. A failure is final: the kernel may have dropped the dirty
    /// pages and would report success next time.
    pub(crate) fn flush(&mut self) -> Result<(), DiskError> {
        if self.poisoned {
            return Err(DiskError::Poisoned(self.path().to_owned()));
        }
        let result = match self.faults().strike(Op::Fsync) {
            Some(fault) => Err(fault.to_error()),
            None => fdatasync(self.file()).map_err(io::Error::from),
        };
        if let Err(source) = result {
            self.poisoned = true;
            return Err(DiskError::Flush { path: self.path().to_owned(), source });
        }
        if self.is_device() && !self.is_direct() {
            // A device that refuses direct reads must at least not answer from memory.
            let _ = ioctl::cache_drop(self.file());
        }
        Ok(())
    }

    /// After a failure nothing matters but that the range cannot be taken for a system. The outcome is not
    /// reported: the failure that led here is.
    pub(crate) fn zeros_try(&mut self, at: u64, len: u64) {
        self.poisoned = false;
        let _ = self.zeros_write(at, len);
        let _ = self.flush();
        self.poisoned = true;
    }
}

fn cannot_punch(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV))
}
