//! The one seam between the store and the machine: every effect passes here, so that a plan of
//! faults can break any of them, and a failed fsync can stop all that follow.

use std::fs::{self, File};
use std::io::{self, IoSliceMut, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, ReadWriteFlags, preadv2};

use crate::faults::{FaultMode, Faults, OpKind};

/// What a planned fault does to a request to S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Given,
    /// The request has its effect, the caller sees an error.
    Lost,
}

#[derive(Debug, Default)]
pub(crate) struct Io {
    faults: Faults,
    poisoned: AtomicBool,
}

impl Io {
    pub(crate) fn new(faults: Faults) -> Io {
        Io { faults, poisoned: AtomicBool::new(false) }
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// See [`crate::Store::poison`].
    pub(crate) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    /// The planned fault of an operation that has no half-way.
    fn whole(&self, kind: OpKind) -> io::Result<()> {
        match self.faults.next(kind) {
            None => Ok(()),
            Some(mode) => Err(injected(mode)),
        }
    }

    pub(crate) fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<usize> {
        match self.faults.next(OpKind::Write) {
            None => file.write(bytes),
            Some(FaultMode::ShortWrite) => file.write(&bytes[..bytes.len().div_ceil(2)]),
            Some(mode) => Err(injected(mode)),
        }
    }

    pub(crate) fn read_at(&self, file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.faults.next(OpKind::Read) {
            None => file.read_at(buf, offset),
            Some(FaultMode::ShortWrite) => {
                let half = buf.len().div_ceil(2);
                file.read_at(&mut buf[..half], offset)
            }
            Some(mode) => Err(injected(mode)),
        }
    }

    /// Reads what the kernel has in memory already; none where it would have to wait for a disk, or cannot tell.
    pub(crate) fn read_at_now(&self, file: &File, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.whole(OpKind::Read)?;
        match preadv2(file, &mut [IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(Some(read)),
            // Also what no file system knows, or a filter of system calls forbids: the usual read says what is wrong, if anything is.
            Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::PERM) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a file's bytes and length durable.
    pub(crate) fn fsync(&self, file: &File) -> io::Result<()> {
        self.poison_on_error(self.whole(OpKind::Fsync).and_then(|()| file.sync_data()))
    }

    /// Makes the names in a folder durable.
    pub(crate) fn fsync_folder(&self, folder: &Path) -> io::Result<()> {
        let flush = || File::open(folder)?.sync_all();
        self.poison_on_error(self.whole(OpKind::Fsync).and_then(|()| flush()))
    }

    // After a failed fsync the kernel may have dropped the dirty pages and marked them clean: a
    // second fsync would succeed and prove nothing. So the first failure is final.
    fn poison_on_error(&self, result: io::Result<()>) -> io::Result<()> {
        if result.is_err() {
            self.poison();
        }
        result
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.whole(OpKind::Rename)?;
        fs::rename(from, to)
    }

    pub(crate) fn folder_create(&self, folder: &Path) -> io::Result<()> {
        self.whole(OpKind::Write)?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    /// Removes a file; one that is not there is no error.
    pub(crate) fn delete(&self, path: &Path) -> io::Result<()> {
        self.whole(OpKind::Delete)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Stands before every request to S3; the caller loses the answer if told so.
    pub(crate) fn remote(&self) -> io::Result<Answer> {
        match self.faults.next(OpKind::Remote) {
            None => Ok(Answer::Given),
            Some(FaultMode::ShortWrite) => Ok(Answer::Lost),
            Some(mode) => Err(injected(mode)),
        }
    }
}

pub(crate) fn injected(mode: FaultMode) -> io::Error {
    match mode {
        FaultMode::Error | FaultMode::ShortWrite => io::Error::other("planned fault"),
        FaultMode::NoSpace => io::Error::from(rustix::io::Errno::NOSPC),
    }
}
