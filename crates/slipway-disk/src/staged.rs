//! Write-behind and read-ahead over a [`Medium`]. Chunks have 32 KiB on average; direct transfers of that size,
//! read and write in turn, cost a spinning disk a rotation each and a fast one most of its speed.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::ahead::ReadAhead;
use crate::aligned::{Aligned, ReadBuffer};
use crate::behind::Behind;
use crate::error::DiskError;
use crate::medium::Medium;

/// Neighbouring writes are collected up to so many bytes.
const PENDING_MAX: usize = 512 << 10;
/// Reads of old bytes that follow each other fetch at most so many at once.
const AHEAD_MAX: u64 = 1 << 20;
/// Places that are read at once, ahead of who asks: each of some 32 KiB.
const READERS: usize = 4;

pub(crate) struct Staged {
    /// What was collected and is on its way; before `medium`, which is closed when nothing writes any more.
    behind: Mutex<Behind>,
    medium: Medium,
    /// Written, not yet on its way.
    pending_at: u64,
    pending: Aligned,
    pending_len: usize,
    /// What the medium holds (or will, with `pending`) at `ahead_at`.
    ahead_at: u64,
    ahead: ReadBuffer,
    /// Where the reads of old bytes that followed each other began, and where the last one ended.
    row: Range<u64>,
}

impl Staged {
    pub(crate) fn new(medium: Medium) -> Staged {
        let (pending, ahead) = (Aligned::empty(), ReadBuffer::new());
        let behind = Mutex::new(Behind::new(medium.port()));
        Staged { behind, medium, pending_at: 0, pending, pending_len: 0, ahead_at: 0, ahead, row: 0..0 }
    }

    pub(crate) fn path(&self) -> &Path {
        self.medium.path()
    }

    pub(crate) fn file(&self) -> &File {
        self.medium.file()
    }

    pub(crate) fn is_device(&self) -> bool {
        self.medium.is_device()
    }

    pub(crate) fn punch_align(&self) -> u64 {
        self.medium.align()
    }

    pub(crate) fn range_check(&self, at: u64, len: u64, size: u64) -> Result<(), DiskError> {
        self.medium.range_check(at, len, size)
    }

    pub(crate) fn data_next(&self, at: u64) -> Result<Option<u64>, DiskError> {
        self.medium.data_next(at)
    }

    /// Reads from the medium itself: what is still collected or on its way there is written first.
    pub(crate) fn read(&mut self, at: u64, len: usize) -> Result<&mut [u8], DiskError> {
        self.pending_settle(at, len as u64)?;
        self.medium.read(at, len)
    }

    /// As [`Staged::read`], for several threads at once: what is still collected stays so, and is laid over what was read.
    pub(crate) fn read_into(&self, at: u64, len: usize, into: &mut ReadBuffer) -> Result<(), DiskError> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner).settle(at..at.saturating_add(len as u64))?;
        self.medium.read_into(at, len, into)?;
        lay_over(into.bytes_mut(), at, &self.pending[..self.pending_len], self.pending_at);
        Ok(())
    }

    /// See [`ReadAhead`]; what is collected or on its way is not laid over it.
    pub(crate) fn read_ahead(&self, places: Arc<[(u64, u32)]>) -> Result<ReadAhead, DiskError> {
        let place = move |n: usize| places.get(n).map(|&(at, len)| (at, len as usize));
        let port = self.medium.port();
        ReadAhead::new(&port, READERS, place).map_err(|source| port.io("starting threads to read", 0, source))
    }

    /// Reads what the range holds, to compare with it: possibly from memory, never for a read-back.
    pub(crate) fn read_old(&mut self, at: u64, len: usize) -> Result<&mut [u8], DiskError> {
        self.medium.range_check(at, len as u64, self.medium.len())?;
        let end = at + len as u64;
        let follows = self.row.end == at;
        self.row = if follows { self.row.start } else { at }..end;
        let known = self.ahead_at <= at && end <= self.ahead_end();
        if !known {
            if !follows || len as u64 >= AHEAD_MAX {
                return self.read(at, len);
            }
            // The longer the row, the surer that it goes on.
            let step = (end - self.row.start).min(AHEAD_MAX).min(self.medium.len() - at);
            self.pending_settle(at, step)?;
            self.medium.read_into(at, step as usize, &mut self.ahead)?;
            self.ahead_at = at;
        }
        let from = (at - self.ahead_at) as usize;
        Ok(&mut self.ahead.bytes_mut()[from..from + len])
    }

    fn ahead_end(&self) -> u64 {
        self.ahead_at + self.ahead.bytes().len() as u64
    }

    /// Writes, now or together with what follows. An error may be one of an earlier write; it names its place.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.medium.write_check(at, bytes.len() as u64)?;
        lay_over(self.ahead.bytes_mut(), self.ahead_at, bytes, at);
        let joins = self.pending_at + self.pending_len as u64 == at && self.pending_len + bytes.len() <= PENDING_MAX;
        if !joins {
            self.pending_write()?;
            self.pending_at = at;
        }
        if self.pending_len == 0 && bytes.len() >= PENDING_MAX {
            self.settle()?;
            return self.medium.write(at, bytes);
        }
        if self.pending_len == 0 {
            self.pending_at = at;
        }
        self.pending.reserve(PENDING_MAX);
        self.pending[self.pending_len..self.pending_len + bytes.len()].copy_from_slice(bytes);
        self.pending_len += bytes.len();
        Ok(())
    }

    pub(crate) fn zeros_write(&mut self, at: u64, len: u64) -> Result<(), DiskError> {
        self.settle()?;
        self.ahead.clear();
        self.medium.zeros_write(at, len)
    }

    pub(crate) fn punch(&mut self, at: u64, len: u64) -> Result<bool, DiskError> {
        self.settle()?;
        self.ahead.clear();
        self.medium.punch(at, len)
    }

    pub(crate) fn flush(&mut self) -> Result<(), DiskError> {
        self.settle()?;
        self.medium.flush()
    }

    /// See [`Medium::zeros_try`]; what was collected is dropped, and what came of it before is forgotten.
    pub(crate) fn zeros_try(&mut self, at: u64, len: u64) {
        self.pending_len = 0;
        self.behind().forget();
        self.ahead.clear();
        self.medium.zeros_try(at, len);
    }

    fn behind(&mut self) -> &mut Behind {
        self.behind.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to write what was collected.
    fn pending_write(&mut self) -> Result<(), DiskError> {
        let (at, len) = (self.pending_at, self.pending_len);
        if len == 0 {
            return Ok(());
        }
        if self.medium.is_aligned(at, len as u64) {
            self.medium.write_check(at, len as u64)?;
            self.pending_len = 0;
            let full = std::mem::replace(&mut self.pending, Aligned::empty());
            self.pending = self.behind().write(at, full, len)?;
        } else {
            self.behind().settle(0..u64::MAX)?;
            self.medium.write(at, &self.pending[..len])?;
            self.pending_len = 0;
        }
        Ok(())
    }

    /// Everything that was written is on the medium.
    fn settle(&mut self) -> Result<(), DiskError> {
        self.pending_write()?;
        self.behind().settle(0..u64::MAX)
    }

    /// Before the range is read: what was written to it must be there.
    fn pending_settle(&mut self, at: u64, len: u64) -> Result<(), DiskError> {
        let (end, pending_end) = (at.saturating_add(len), self.pending_at + self.pending_len as u64);
        if self.pending_at < end && at < pending_end {
            self.pending_write()?;
        }
        self.behind().settle(at..end)
    }
}

/// Where `old`, the bytes at `old_at`, and `new`, those at `new_at`, meet, the new ones count.
pub(crate) fn lay_over(old: &mut [u8], old_at: u64, new: &[u8], new_at: u64) {
    let (from, to) = (new_at.max(old_at), (new_at + new.len() as u64).min(old_at + old.len() as u64));
    if from < to {
        let piece = &new[(from - new_at) as usize..(to - new_at) as usize];
        old[(from - old_at) as usize..(to - old_at) as usize].copy_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::fs::{FileExt, OpenOptionsExt};

    use proptest::prelude::{ProptestConfig, any, proptest};

    use super::*;
    use crate::faults::Faults;
    use crate::port::Port;

    /// A medium over a fresh file, past the page cache or through it, in units of `align`.
    fn medium(content: &[u8], direct: bool, align: u64) -> (tempfile::NamedTempFile, Medium) {
        medium_with(content, direct, align, Faults::none())
    }

    fn medium_with(content: &[u8], direct: bool, align: u64, faults: Faults) -> (tempfile::NamedTempFile, Medium) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all_at(content, 0).unwrap();
        let open = |flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(file.path());
        let direct = direct.then(|| open(rustix::fs::OFlags::DIRECT.bits() as i32).unwrap());
        let port = Port::new(file.path(), open(0).unwrap(), direct, false, content.len() as u64, align, faults);
        (file, Medium::new(port))
    }

    #[test]
    fn odd_edges() {
        fn check(size: usize, direct: bool, align: u64) {
            let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let (file, mut medium) = medium(&content, direct, align);
            let mut model = content.clone();
            for (at, len) in
                [(0, 1), (1, 2), (511, 2), (0, 512), (4095, 4098), (size / 2, size / 3), (size - 1, 1), (0, size)]
            {
                let bytes = vec![at as u8 ^ 0xa5; len.min(size.saturating_sub(at))];
                if at >= size {
                    continue;
                }
                medium.write(at as u64, &bytes).unwrap();
                model[at..at + bytes.len()].copy_from_slice(&bytes);
                assert!(medium.read(0, size).unwrap() == &model[..], "{size} {direct} {align}: {len} at {at}");
            }
            medium.flush().unwrap();
            assert!(std::fs::read(file.path()).unwrap() == model, "{size} {direct} {align}");
        }
        for size in [1, 511, 512, 513, 4095, 4096, 4097, 10_000, 65_536, 70_001] {
            for (direct, align) in [(true, 4096), (true, 512), (false, 4096), (false, 512)] {
                check(size, direct, align);
            }
        }
    }

    #[test]
    fn neighbours_are_written_together() {
        for direct in [false, true] {
            let faults = Faults::nth(u64::MAX, crate::Fault::Error);
            let (_file, medium) = medium_with(&vec![7; 3 << 20], direct, 4096, faults.clone());
            let mut staged = Staged::new(medium);
            for at in (0..2 << 20).step_by(32 << 10) {
                assert!(staged.read_old(at, 32 << 10).unwrap().iter().all(|byte| *byte == 7));
                staged.write(at, &[9; 32 << 10]).unwrap();
            }
            staged.flush().unwrap();
            let count = |op| faults.log().into_iter().filter(|seen| *seen == op).count();
            assert_eq!((count(crate::Op::Read), count(crate::Op::Write)), (7, 4));
            assert!(staged.read(0, 2 << 20).unwrap().iter().all(|byte| *byte == 9));
        }
    }

    #[test]
    fn a_failed_write_is_told_from_then_on() {
        let (file, medium) =
            medium_with(&vec![7; 4 << 20], true, 4096, Faults::nth_of(crate::Op::Write, 1, crate::Fault::NoSpace));
        let mut staged = Staged::new(medium);
        let second = PENDING_MAX as u64;
        let failed = |result: Result<(), DiskError>| match result {
            Err(DiskError::Io { act: "writing", at, source, .. }) => {
                at == second && source.kind() == std::io::ErrorKind::StorageFull
            }
            _ => false,
        };
        for at in (0..3 * second).step_by(PENDING_MAX / 4) {
            let told = staged.write(at, &vec![9; PENDING_MAX / 4]);
            assert!(told.is_ok() || (at > second && failed(told)));
        }
        assert!(failed(staged.flush()));
        assert!(failed(staged.flush()));
        assert!(failed(staged.read_into(3 << 20, 4096, &mut ReadBuffer::new())));
        assert!(failed(staged.zeros_write(0, 4096)));
        assert!(failed(staged.read(0, 4096).map(drop)));
        staged.zeros_try(0, 4096);
        assert!(matches!(staged.flush(), Err(DiskError::Poisoned(_))));
        let left = std::fs::read(file.path()).unwrap();
        assert!(left[..4096] == [0; 4096] && left[4096..PENDING_MAX].iter().all(|byte| *byte == 9));
        assert!(left[PENDING_MAX..2 * PENDING_MAX].iter().all(|byte| *byte == 7));
    }

    #[test]
    fn nothing_is_written_after_the_drop() {
        for _ in 0..20 {
            let (file, medium) = medium(&vec![7; 4 << 20], true, 4096);
            let mut staged = Staged::new(medium);
            for at in (0..2 << 20).step_by(PENDING_MAX / 4) {
                staged.write(at, &vec![9; PENDING_MAX / 4]).unwrap();
            }
            drop(staged);
            let at_once = std::fs::read(file.path()).unwrap();
            // What was still collected is not missed: nobody was told that it is there.
            assert!(at_once[..(2 << 20) - PENDING_MAX].iter().all(|byte| *byte == 9));
            std::thread::sleep(std::time::Duration::from_millis(5));
            assert!(std::fs::read(file.path()).unwrap() == at_once);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn like_a_vector(
            size in 1_usize..2_500_000,
            direct in any::<bool>(),
            small in any::<bool>(),
            whole in any::<bool>(),
            steps in proptest::collection::vec((0_u8..8, 0_usize..2_500_000, 0_usize..300_000, any::<u8>()), 1..30),
        ) {
            let (file, medium) = medium(&vec![3; size], direct, if small { 512 } else { 4096 });
            let mut staged = Staged::new(medium);
            let (mut model, mut buffer) = (vec![3; size], ReadBuffer::new());
            let mut next = 0;
            for (kind, at, len, byte) in steps {
                // Half of the steps go on where the last one ended.
                let at = if at % 2 == 0 { next } else { at } % size;
                let end = (at + len).min(size);
                // Whole blocks go to threads of their own.
                let (at, end) = if whole { (at - at % 4096, end - end % 4096) } else { (at, end) };
                let end = end.max(at);
                next = end;
                let len = end - at;
                match kind {
                    0 | 1 => {
                        staged.write(at as u64, &vec![byte; len]).unwrap();
                        model[at..end].fill(byte);
                    }
                    2 => {
                        staged.zeros_write(at as u64, len as u64).unwrap();
                        model[at..end].fill(0);
                    }
                    3 => {
                        let (from, to) = (at.next_multiple_of(4096), end - end % 4096);
                        if from < to && staged.punch(from as u64, (to - from) as u64).unwrap() {
                            model[from..to].fill(0);
                        }
                    }
                    4 => assert!(staged.read(at as u64, len).unwrap() == &model[at..end]),
                    5 => staged.flush().unwrap(),
                    6 => {
                        staged.read_into(at as u64, len, &mut buffer).unwrap();
                        assert!(buffer.bytes() == &model[at..end]);
                    }
                    _ => assert!(staged.read_old(at as u64, len).unwrap() == &model[at..end]),
                }
            }
            staged.flush().unwrap();
            assert!(std::fs::read(file.path()).unwrap() == model);
        }
    }
}
