//! The bytes of an opened file or block device: reads and writes of any alignment, past the page cache
//! where the kernel lets us, and the one place where faults strike.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, FallocateFlags, SeekFrom, fadvise, fallocate, fdatasync, seek};
use rustix::io::Errno;

use crate::aligned::{ALIGN, Aligned, ReadBuffer};
use crate::error::DiskError;
use crate::faults::{Fault, Faults, Op};
use crate::ioctl;

const ZEROS_LEN: usize = 1 << 20;

/// Zeros that are written as they lie, without a copy.
#[repr(align(4096))]
struct Zeros([u8; ZEROS_LEN]);

static ZEROS: Zeros = Zeros([0; ZEROS_LEN]);

pub(crate) struct Medium {
    path: PathBuf,
    /// Through the page cache: holds lock and exclusive claim, flushes, punches, and writes odd tails.
    file: File,
    /// The same thing with `O_DIRECT`; `None` where the file system refuses it.
    direct: Option<File>,
    /// It was refused later: the page cache serves from then on.
    refused: AtomicBool,
    device: bool,
    len: u64,
    /// Direct I/O happens in units of this: the logical sector of a device, 4096 in files.
    align: u64,
    faults: Faults,
    buffer: Aligned,
    edge: Aligned,
    wrote: bool,
    punches: bool,
    poisoned: bool,
}

impl Medium {
    pub(crate) fn new(
        path: &Path,
        file: File,
        direct: Option<File>,
        device: bool,
        len: u64,
        align: u64,
        faults: Faults,
    ) -> Medium {
        let mut medium = Medium {
            path: path.to_owned(),
            file,
            direct,
            refused: AtomicBool::new(false),
            device,
            len,
            align,
            faults,
            buffer: Aligned::new(256 << 10),
            edge: Aligned::new(ALIGN),
            wrote: false,
            punches: true,
            poisoned: false,
        };
        // Some file systems take the flag and refuse the first transfer.
        if medium.direct_end() > 0
            && let Some(direct) = &medium.direct
            && let Err(error) = direct.read_at(&mut medium.edge[..align as usize], 0)
            && refuses_direct(&error)
        {
            medium.direct = None;
        }
        medium
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn is_device(&self) -> bool {
        self.device
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.direct().is_some()
    }

    fn direct(&self) -> Option<&File> {
        self.direct.as_ref().filter(|_| !self.refused.load(Ordering::Relaxed))
    }

    /// Up to here transfers may be direct; an odd tail of a file goes through the page cache.
    fn direct_end(&self) -> u64 {
        if self.is_direct() { self.len - self.len % self.align } else { 0 }
    }

    fn io(&self, act: &'static str, at: u64, source: io::Error) -> DiskError {
        DiskError::Io { act, path: self.path.clone(), at, source }
    }

    pub(crate) fn range_check(&self, at: u64, len: u64, size: u64) -> Result<(), DiskError> {
        if at.checked_add(len).is_some_and(|end| end <= size) {
            return Ok(());
        }
        Err(DiskError::OutOfRange { path: self.path.clone(), at, len, size })
    }

    /// Reads exactly `len` bytes at `at`, of any alignment.
    pub(crate) fn read(&mut self, at: u64, len: usize) -> Result<&mut [u8], DiskError> {
        let mut buffer = std::mem::replace(&mut self.buffer, Aligned::empty());
        let from = self.read_around(at, len, &mut buffer);
        self.buffer = buffer;
        let from = from?;
        Ok(&mut self.buffer[from..from + len])
    }

    /// As [`Medium::read`], into memory of the caller's; for several threads at once.
    pub(crate) fn read_into(&self, at: u64, len: usize, into: &mut ReadBuffer) -> Result<(), DiskError> {
        into.clear();
        into.from = self.read_around(at, len, &mut into.memory)?;
        into.len = len;
        Ok(())
    }

    /// Reads the aligned units around a range, and tells where in `into` the range begins.
    fn read_around(&self, at: u64, len: usize, into: &mut Aligned) -> Result<usize, DiskError> {
        self.range_check(at, len as u64, self.len)?;
        let start = at - at % self.align;
        let end = (at + len as u64).next_multiple_of(self.align).min(self.len);
        into.reserve((end - start) as usize);
        self.read_span(start, end, into).map_err(|error| self.io("reading", at, error))?;
        Ok((at - start) as usize)
    }

    /// Fills `into` with `start..end`; both aligned, or the end of the medium.
    fn read_span(&self, start: u64, end: u64, into: &mut [u8]) -> io::Result<()> {
        let mut at = start;
        while at < end {
            let direct = self.direct();
            if let Some(fault) = self.faults.strike(Op::Read) {
                self.direct_give_up(direct, fault.to_error())?;
                continue;
            }
            let direct_end = self.direct_end();
            let from = (at - start) as usize;
            let done = match direct {
                Some(direct) if at < direct_end => {
                    let until = (end.min(direct_end) - start) as usize;
                    match direct.read_at(&mut into[from..until], at) {
                        Err(error) => {
                            self.direct_give_up(Some(direct), error)?;
                            continue;
                        }
                        Ok(got) if from + got < until => got - got % self.align as usize,
                        Ok(got) => got,
                    }
                }
                _ => {
                    let until = (end - start) as usize;
                    if self.wrote {
                        // Without this the page cache would answer what we ourselves wrote.
                        let _ = fadvise(&self.file, at, std::num::NonZeroU64::new(end - at), Advice::DontNeed);
                    }
                    self.file.read_at(&mut into[from..until], at)?
                }
            };
            if done == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends before its size"));
            }
            at += done as u64;
        }
        Ok(())
    }

    /// Refuses what [`Medium::write`] would refuse without trying.
    pub(crate) fn write_check(&self, at: u64, len: u64) -> Result<(), DiskError> {
        if self.poisoned {
            return Err(DiskError::Poisoned(self.path.clone()));
        }
        self.range_check(at, len, self.len)
    }

    /// Writes `bytes` at `at`, of any alignment. A sector that is covered only in part is read and merged.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.write_check(at, bytes.len() as u64)?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.wrote = true;
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
        let start = at - at % self.align;
        let stop = (at + body.len() as u64).next_multiple_of(self.align);
        let span = (stop - start) as usize;
        if span == body.len() && body.as_ptr().align_offset(ALIGN) == 0 {
            self.write_direct(start, body)?;
            return if tail.is_empty() { Ok(()) } else { self.write_cached(direct_end, tail) };
        }
        self.buffer.reserve(span);
        let from = (at - start) as usize;
        let align = self.align as usize;
        for edge in [start, stop - self.align] {
            let covered = at <= edge && edge + self.align <= at + body.len() as u64;
            if !covered {
                self.edge_read(edge)?;
                let place = (edge - start) as usize;
                self.buffer[place..place + align].copy_from_slice(&self.edge[..align]);
            }
        }
        self.buffer[from..from + body.len()].copy_from_slice(body);
        self.write_direct(start, &self.buffer[..span])?;
        if tail.is_empty() { Ok(()) } else { self.write_cached(direct_end, tail) }
    }

    /// The kernel may refuse direct transfers at any time, some file systems for some places only: the page cache
    /// serves then. Every other error is one.
    fn direct_give_up(&self, tried: Option<&File>, error: io::Error) -> io::Result<()> {
        if tried.is_none() || !refuses_direct(&error) {
            return Err(error);
        }
        self.refused.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// One sector as it is now, into `edge`.
    fn edge_read(&mut self, at: u64) -> io::Result<()> {
        if let Some(fault) = self.faults.strike(Op::Read) {
            return Err(fault.to_error());
        }
        let sector = &mut self.edge[..self.align as usize];
        let direct = self.direct.as_ref().filter(|_| !self.refused.load(Ordering::Relaxed));
        direct.unwrap_or(&self.file).read_exact_at(sector, at)
    }

    /// Writes these bytes at `start`; place, length and memory are aligned.
    fn write_direct(&self, start: u64, all: &[u8]) -> io::Result<()> {
        let (mut done, span) = (0, all.len());
        while done < span {
            let direct = self.direct();
            let fault = self.faults.strike(Op::Write);
            let until = match fault {
                Some(Fault::ShortWrite) => done + (span - done) / 2 / self.align as usize * self.align as usize,
                Some(fault) => {
                    self.direct_give_up(direct, fault.to_error())?;
                    continue;
                }
                None => span,
            };
            let bytes = &all[done..until];
            let at = start + done as u64;
            let wrote = match direct {
                Some(direct) if !bytes.is_empty() => match direct.write_at(bytes, at) {
                    Err(error) => {
                        self.direct_give_up(Some(direct), error)?;
                        continue;
                    }
                    Ok(wrote) => wrote,
                },
                _ => {
                    self.file.write_all_at(bytes, at)?;
                    bytes.len()
                }
            };
            if let Some(fault) = fault {
                return Err(fault.to_error());
            }
            // Direct writes go on at a sector border.
            let whole = wrote - wrote % self.align as usize;
            if whole == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            done += whole;
        }
        Ok(())
    }

    fn write_cached(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        match self.faults.strike(Op::Write) {
            None => self.file.write_all_at(bytes, at),
            Some(fault) => {
                if fault == Fault::ShortWrite {
                    self.file.write_all_at(&bytes[..bytes.len() / 2], at)?;
                }
                Err(fault.to_error())
            }
        }
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
        let result = match self.faults.strike(Op::Punch) {
            Some(fault) => Err(fault.to_error()),
            None => rustix::io::retry_on_intr(|| fallocate(&self.file, mode, at, len)).map_err(io::Error::from),
        };
        match result {
            Ok(()) => {
                self.wrote = true;
                Ok(true)
            }
            Err(error) if cannot_punch(&error) => {
                self.punches = false;
                Ok(false)
            }
            Err(error) => Err(self.io("punching a hole in", at, error)),
        }
    }

    /// The unit in which holes can be punched.
    pub(crate) fn punch_align(&self) -> u64 {
        self.align
    }

    /// Makes everything written so far durable. A failure is final: the kernel may have dropped the dirty
    /// pages and would report success next time.
    pub(crate) fn flush(&mut self) -> Result<(), DiskError> {
        if self.poisoned {
            return Err(DiskError::Poisoned(self.path.clone()));
        }
        let result = match self.faults.strike(Op::Fsync) {
            Some(fault) => Err(fault.to_error()),
            None => fdatasync(&self.file).map_err(io::Error::from),
        };
        if let Err(source) = result {
            self.poisoned = true;
            return Err(DiskError::Flush { path: self.path.clone(), source });
        }
        if self.device && !self.is_direct() {
            // A device that refuses direct reads must at least not answer from memory.
            let _ = ioctl::cache_drop(&self.file);
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

    /// Where the next data of a regular file begins, at or after `at`; `None` on a device, or where the file
    /// system cannot tell. The end of the file counts as data.
    pub(crate) fn data_next(&self, at: u64) -> Result<Option<u64>, DiskError> {
        if self.device || at >= self.len {
            return Ok(None);
        }
        match seek(&self.file, SeekFrom::Data(at)) {
            Ok(next) => Ok(Some(next.min(self.len))),
            // No data up to the end.
            Err(Errno::NXIO) => Ok(Some(self.len)),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(self.io("looking for data in", at, error.into())),
        }
    }
}

fn refuses_direct(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::OPNOTSUPP))
}

fn cannot_punch(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV))
}
