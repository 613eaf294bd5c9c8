//! The way to the bytes of an opened file or block device, for several threads at once: past the page cache where the kernel
//! lets us, and the one place where faults strike reads and writes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, SeekFrom, fadvise, seek};
use rustix::io::Errno;

use crate::aligned::{ALIGN, Aligned, ReadBuffer};
use crate::error::DiskError;
use crate::faults::{Fault, Faults, Op};

pub(crate) struct Port {
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
    wrote: AtomicBool,
}

impl Port {
    pub(crate) fn new(
        path: &Path,
        file: File,
        direct: Option<File>,
        device: bool,
        len: u64,
        align: u64,
        faults: Faults,
    ) -> Port {
        let (refused, wrote) = (AtomicBool::new(false), AtomicBool::new(false));
        let mut port = Port { path: path.to_owned(), file, direct, refused, device, len, align, faults, wrote };
        // Some file systems take the flag and refuse the first transfer.
        if port.direct_end() > 0
            && let Some(direct) = &port.direct
            && let Err(error) = direct.read_at(&mut Aligned::new(ALIGN)[..align as usize], 0)
            && refuses_direct(&error)
        {
            port.direct = None;
        }
        port
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

    /// Whether the range can be written directly, as it is.
    pub(crate) fn is_aligned(&self, at: u64, len: u64) -> bool {
        at.is_multiple_of(self.align) && len.is_multiple_of(self.align) && at + len <= self.direct_end()
    }

    /// Up to here transfers may be direct; an odd tail of a file goes through the page cache.
    pub(crate) fn direct_end(&self) -> u64 {
        if self.is_direct() { self.len - self.len % self.align } else { 0 }
    }

    pub(crate) fn io(&self, act: &'static str, at: u64, source: io::Error) -> DiskError {
        DiskError::Io { act, path: self.path.clone(), at, source }
    }

    pub(crate) fn range_check(&self, at: u64, len: u64, size: u64) -> Result<(), DiskError> {
        if at.checked_add(len).is_some_and(|end| end <= size) {
            return Ok(());
        }
        Err(DiskError::OutOfRange { path: self.path.clone(), at, len, size })
    }

    /// The unit of direct transfers, and of holes that can be punched.
    pub(crate) fn align(&self) -> u64 {
        self.align
    }

    pub(crate) fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Reads exactly `len` bytes at `at`, of any alignment, into memory of the caller's.
    pub(crate) fn read_into(&self, at: u64, len: usize, into: &mut ReadBuffer) -> Result<(), DiskError> {
        into.clear();
        into.from = self.read_around(at, len, &mut into.memory)?;
        into.len = len;
        Ok(())
    }

    /// Reads the aligned units around a range, and tells where in `into` the range begins.
    pub(crate) fn read_around(&self, at: u64, len: usize, into: &mut Aligned) -> Result<usize, DiskError> {
        self.range_check(at, len as u64, self.len)?;
        let start = at - at % self.align;
        let end = (at + len as u64).next_multiple_of(self.align).min(self.len);
        into.reserve((end - start) as usize);
        self.read_span(start, end, into).map_err(|error| self.io("reading", at, error))?;
        Ok((at - start) as usize)
    }

    /// Fills `into` with `start..end`; both aligned, or the end of the medium.
    pub(crate) fn read_span(&self, start: u64, end: u64, into: &mut [u8]) -> io::Result<()> {
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
                    if self.wrote.load(Ordering::Relaxed) {
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

    /// The kernel may refuse direct transfers at any time, some file systems for some places only: the page cache
    /// serves then. Every other error is one.
    fn direct_give_up(&self, tried: Option<&File>, error: io::Error) -> io::Result<()> {
        if tried.is_none() || !refuses_direct(&error) {
            return Err(error);
        }
        self.refused.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Something was written: from here on the page cache may know more than the disk.
    pub(crate) fn wrote_set(&self) {
        self.wrote.store(true, Ordering::Relaxed);
    }

    /// Counts a write, and tells whether it is to fail. Apart from the write itself: who hands it to another thread has its turn now.
    pub(crate) fn write_strike(&self) -> Option<Fault> {
        self.wrote_set();
        self.faults.strike(Op::Write)
    }

    /// Writes these bytes at `start`; place, length and memory are aligned.
    pub(crate) fn write_direct(&self, start: u64, all: &[u8], mut fault: Option<Fault>) -> io::Result<()> {
        let (mut done, span) = (0, all.len());
        while done < span {
            let direct = self.direct();
            let until = match fault {
                Some(Fault::ShortWrite) => done + (span - done) / 2 / self.align as usize * self.align as usize,
                Some(struck) => {
                    self.direct_give_up(direct, struck.to_error())?;
                    fault = self.write_strike();
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
                        fault = self.write_strike();
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
            if done < span {
                fault = self.write_strike();
            }
        }
        Ok(())
    }

    pub(crate) fn write_cached(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        match self.write_strike() {
            None => self.file.write_all_at(bytes, at),
            Some(fault) => {
                if fault == Fault::ShortWrite {
                    self.file.write_all_at(&bytes[..bytes.len() / 2], at)?;
                }
                Err(fault.to_error())
            }
        }
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
