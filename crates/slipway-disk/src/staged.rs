//! Write-behind and read-ahead over a [`Medium`]. Chunks have 32 KiB on average; direct transfers of that size,
//! read and write in turn, cost a spinning disk a rotation each and a fast one most of its speed.

use std::fs::File;
use std::path::Path;

use crate::aligned::{Aligned, ReadBuffer};
use crate::error::DiskError;
use crate::medium::Medium;

/// Neighbouring writes are collected up to so many bytes.
const PENDING_MAX: usize = 1 << 20;
/// Reads of old bytes that follow each other fetch so many at once.
const AHEAD_LEN: u64 = 1 << 20;

pub(crate) struct Staged {
    medium: Medium,
    /// Written, not yet given to the medium.
    pending_at: u64,
    pending: Aligned,
    pending_len: usize,
    /// What the medium holds (or will, with `pending`) at `ahead_at`.
    ahead_at: u64,
    ahead: ReadBuffer,
    /// Where the last read of old bytes ended.
    follows: u64,
}

impl Staged {
    pub(crate) fn new(medium: Medium) -> Staged {
        let (pending, ahead) = (Aligned::empty(), ReadBuffer::new());
        Staged { medium, pending_at: 0, pending, pending_len: 0, ahead_at: 0, ahead, follows: 0 }
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
        self.medium.punch_align()
    }

    pub(crate) fn range_check(&self, at: u64, len: u64, size: u64) -> Result<(), DiskError> {
        self.medium.range_check(at, len, size)
    }

    pub(crate) fn data_next(&self, at: u64) -> Result<Option<u64>, DiskError> {
        self.medium.data_next(at)
    }

    /// Reads from the medium itself: what is still collected is written first.
    pub(crate) fn read(&mut self, at: u64, len: usize) -> Result<&mut [u8], DiskError> {
        self.pending_settle(at, len as u64)?;
        self.medium.read(at, len)
    }

    /// As [`Staged::read`], for several threads at once: what is still collected stays so, and is laid over what was read.
    pub(crate) fn read_into(&self, at: u64, len: usize, into: &mut ReadBuffer) -> Result<(), DiskError> {
        self.medium.read_into(at, len, into)?;
        lay_over(into.bytes_mut(), at, &self.pending[..self.pending_len], self.pending_at);
        Ok(())
    }

    /// Reads what the range holds, to compare with it: possibly from memory, never for a read-back.
    pub(crate) fn read_old(&mut self, at: u64, len: usize) -> Result<&mut [u8], DiskError> {
        self.medium.range_check(at, len as u64, self.medium.len())?;
        let end = at + len as u64;
        let follows = std::mem::replace(&mut self.follows, end) == at;
        let known = self.ahead_at <= at && end <= self.ahead_end();
        if !known {
            if !follows || len as u64 >= AHEAD_LEN {
                return self.read(at, len);
            }
            let step = AHEAD_LEN.min(self.medium.len() - at);
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
        self.pending_write()?;
        self.ahead.clear();
        self.medium.zeros_write(at, len)
    }

    pub(crate) fn punch(&mut self, at: u64, len: u64) -> Result<bool, DiskError> {
        self.pending_write()?;
        self.ahead.clear();
        self.medium.punch(at, len)
    }

    pub(crate) fn flush(&mut self) -> Result<(), DiskError> {
        self.pending_write()?;
        self.medium.flush()
    }

    /// See [`Medium::zeros_try`]; what was collected is dropped.
    pub(crate) fn zeros_try(&mut self, at: u64, len: u64) {
        self.pending_len = 0;
        self.ahead.clear();
        self.medium.zeros_try(at, len);
    }

    fn pending_write(&mut self) -> Result<(), DiskError> {
        if self.pending_len == 0 {
            return Ok(());
        }
        self.medium.write(self.pending_at, &self.pending[..self.pending_len])?;
        self.pending_len = 0;
        Ok(())
    }

    /// Before the range is read: what is collected for it must be there.
    fn pending_settle(&mut self, at: u64, len: u64) -> Result<(), DiskError> {
        let end = self.pending_at + self.pending_len as u64;
        if self.pending_at < at.saturating_add(len) && at < end { self.pending_write() } else { Ok(()) }
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

    /// A medium over a fresh file, past the page cache or through it, in units of `align`.
    fn medium(content: &[u8], direct: bool, align: u64) -> (tempfile::NamedTempFile, Medium) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all_at(content, 0).unwrap();
        let open = |flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(file.path());
        let direct = direct.then(|| open(rustix::fs::OFlags::DIRECT.bits() as i32).unwrap());
        let medium =
            Medium::new(file.path(), open(0).unwrap(), direct, false, content.len() as u64, align, Faults::none());
        (file, medium)
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
        let faults = Faults::nth(u64::MAX, crate::Fault::Error);
        let (file, _) = medium(&vec![7; 3 << 20], false, 4096);
        let open = OpenOptions::new().read(true).write(true).open(file.path()).unwrap();
        let mut staged = Staged::new(Medium::new(file.path(), open, None, false, 3 << 20, 4096, faults.clone()));
        for at in (0..2 << 20).step_by(32 << 10) {
            assert!(staged.read_old(at, 32 << 10).unwrap().iter().all(|byte| *byte == 7));
            staged.write(at, &[9; 32 << 10]).unwrap();
        }
        staged.flush().unwrap();
        let count = |op| faults.log().into_iter().filter(|seen| *seen == op).count();
        assert_eq!((count(crate::Op::Read), count(crate::Op::Write)), (2, 2));
        assert!(staged.read(0, 2 << 20).unwrap().iter().all(|byte| *byte == 9));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn like_a_vector(
            size in 1_usize..2_500_000,
            direct in any::<bool>(),
            small in any::<bool>(),
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
