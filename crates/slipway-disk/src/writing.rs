//! Writing to a target: only what differs, and nothing that could boot before everything else is there.

use std::ops::Range;

use slipway_chunk::{Verified, is_zero};

use crate::ahead::ReadAhead;
use crate::aligned::ReadBuffer;
use crate::error::DiskError;
use crate::guard::{FIRST_BYTES, Guard, Part, image_guards, parts};
use crate::open::{Cleanup, Shape};
use crate::prints::{Print, blocks, print};
use crate::staged::{Staged, lay_over};
use crate::target::{Target, TargetFacts, hole_clip};
use crate::touched::Touched;

/// After so many written bytes a flush happens by itself: 64 MiB. Without it the kernel collects dirty pages
/// and the last flush takes all the time.
pub const FLUSH_EVERY: u64 = 64 << 20;
/// Zeroing looks at so many bytes at once.
const WINDOW: u64 = 4 << 20;

/// A target being written. Dropping it leaves the target as it is then: unchanged when nothing differed, else with
/// the guarded ranges zero, so that it cannot boot. A file that was created is removed.
pub struct Writing {
    /// Before `medium`, so that a file is removed while its lock is still held.
    pub(crate) cleanup: Cleanup,
    pub(crate) medium: Staged,
    pub(crate) facts: TargetFacts,
    pub(crate) shape: Shape,
    /// Sorted, apart from each other.
    pub(crate) guards: Vec<Guard>,
    /// Whether the guarded ranges are zero on the target, durably.
    pub(crate) disarmed: bool,
    touched: Touched,
    /// Bytes written since the last flush.
    dirty: u64,
    unflushed: bool,
    pub(crate) written: u64,
    pub(crate) zeroed: u64,
    pub(crate) flushes: u64,
}

impl Writing {
    pub(crate) fn begin(target: Target) -> Result<Writing, DiskError> {
        let Target { mut medium, facts, shape, cleanup } = target;
        let mut ranges: Vec<_> =
            image_guards(shape.size, shape.sector_size).into_iter().map(|range| (range, false)).collect();
        if facts.old_backup_gpt {
            let sector = u64::from(shape.sector_size);
            let end = facts.size - facts.size % sector;
            ranges.push(((end - sector).max(shape.size)..end, true));
        }
        let mut guards = Vec::new();
        for (range, stays_zero) in ranges {
            let held = medium.read(range.start, (range.end - range.start) as usize)?.to_vec();
            guards.push(Guard { at: range.start, held, changed: false, stays_zero });
        }
        Ok(Writing {
            medium: Staged::new(medium),
            facts,
            shape,
            cleanup,
            guards,
            disarmed: false,
            touched: Touched::default(),
            dirty: 0,
            unflushed: false,
            written: 0,
            zeroed: 0,
            flushes: 0,
        })
    }

    /// What was known about the target when it was opened.
    pub fn facts(&self) -> &TargetFacts {
        &self.facts
    }

    /// The image's size and sector size.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Bytes of differing blocks so far, guarded ones included, zeroed ones not.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Bytes of blocks so far that were not zero and have been made so.
    pub fn zeroed(&self) -> u64 {
        self.zeroed
    }

    /// Reads `len` bytes at `at`, past the page cache where the target allows it. A guarded range reads as what it
    /// will hold after [`Writing::seal`]: its old content, or what was written since.
    ///
    /// # Errors
    /// [`DiskError::OutOfRange`] beyond the target's end, [`DiskError::Io`].
    pub fn read(&mut self, at: u64, len: usize) -> Result<&[u8], DiskError> {
        let bytes = self.medium.read(at, len)?;
        guards_lay_over(&self.guards, at, bytes);
        Ok(bytes)
    }

    /// As [`Writing::read`], into memory that the caller keeps; several threads may read at once. What was written since the last
    /// [`Writing::flush`] may come from memory.
    ///
    /// # Errors
    /// As [`Writing::read`].
    pub fn read_into(&self, at: u64, len: usize, into: &mut ReadBuffer) -> Result<(), DiskError> {
        self.medium.read_into(at, len, into)?;
        guards_lay_over(&self.guards, at, into.bytes_mut());
        Ok(())
    }

    /// Begins to read these places, each as `(at, len)`, in order and with threads of their own, while others are written. Until
    /// [`Writing::next_read`] has given a place nobody may write to it: what was read might be the bytes before or after.
    ///
    /// # Errors
    /// [`DiskError::Io`] when there are no threads for it.
    pub fn read_ahead(&self, places: Vec<(u64, u32)>) -> Result<ReadAhead, DiskError> {
        self.medium.read_ahead(places.into())
    }

    /// The next of those places as [`Writing::read`] would give it; it must be the one at `at`.
    ///
    /// # Errors
    /// As [`Writing::read`]; also when there is none any more.
    pub fn next_read<'a>(&self, ahead: &'a mut ReadAhead, at: u64) -> Result<&'a [u8], DiskError> {
        if !ahead.advance()? {
            let source = std::io::ErrorKind::UnexpectedEof.into();
            return Err(DiskError::Io { act: "reading", path: self.medium.path().to_owned(), at, source });
        }
        guards_lay_over(&self.guards, at, ahead.bytes());
        Ok(ahead.bytes())
    }

    /// When `at` lies in a hole of a regular file: how many bytes from there are zeros for certain, within the image.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub fn hole_at(&self, at: u64) -> Result<Option<u64>, DiskError> {
        let Some(len) = hole_clip(self.medium.data_next(at), self.shape.size, at)? else {
            return Ok(None);
        };
        // Guarded ranges are zero on the target while they are held, and fresh writes may not be settled.
        let guards = self.guards.iter().map(|guard| guard.range());
        let guard = guards.filter(|range| range.end > at).map(|range| range.start).min();
        let touched = self.touched.first(at, len);
        let stop = [guard, touched].into_iter().flatten().fold(at + len, u64::min);
        Ok(stop.checked_sub(at).filter(|len| *len > 0))
    }

    /// Writes a chunk at its place: the old bytes are read, and only the differing 4 KiB blocks are written, neighbours
    /// in one go. Returns the bytes of the differing blocks.
    ///
    /// # Errors
    /// [`DiskError::OutOfRange`] beyond the image, [`DiskError::Io`], [`DiskError::Flush`].
    pub fn chunk_write(&mut self, at: u64, chunk: &Verified<'_>) -> Result<u64, DiskError> {
        let bytes = chunk.bytes();
        self.medium.range_check(at, bytes.len() as u64, self.shape.size)?;
        let old = self.medium.read_old(at, bytes.len())?;
        guards_lay_over(&self.guards, at, old);
        let differing = runs(at, bytes.len(), |from, to| old[from..to] != bytes[from..to]);
        self.runs_put(at, bytes, &differing)
    }

    /// As [`Writing::chunk_write`], for a range that the caller has read as zeros and that nobody wrote to since: it is not read again.
    ///
    /// # Errors
    /// As [`Writing::chunk_write`].
    pub fn chunk_write_on_zeros(&mut self, at: u64, chunk: &Verified<'_>) -> Result<u64, DiskError> {
        let bytes = chunk.bytes();
        self.medium.range_check(at, bytes.len() as u64, self.shape.size)?;
        let differing = runs(at, bytes.len(), |from, to| !is_zero(&bytes[from..to]));
        self.runs_put(at, bytes, &differing)
    }

    /// As [`Writing::chunk_write`], for a range whose [`prints`](crate::prints()) the caller has taken and that nobody wrote to since: it
    /// is not read again.
    ///
    /// # Errors
    /// As [`Writing::chunk_write`].
    pub fn chunk_write_on_prints(&mut self, at: u64, chunk: &Verified<'_>, old: &[Print]) -> Result<u64, DiskError> {
        let bytes = chunk.bytes();
        self.medium.range_check(at, bytes.len() as u64, self.shape.size)?;
        let mut old = old.iter();
        let differing = runs(at, bytes.len(), |from, to| old.next() != Some(&print(&bytes[from..to])));
        self.runs_put(at, bytes, &differing)
    }

    fn runs_put(&mut self, at: u64, bytes: &[u8], differing: &[(usize, usize)]) -> Result<u64, DiskError> {
        let mut total = 0;
        for &(from, to) in differing {
            self.put(at + from as u64, &bytes[from..to])?;
            total += (to - from) as u64;
        }
        self.written += total;
        Ok(total)
    }

    /// Makes a range of the image read zero. What reads zero already is left alone; the rest is punched out, or
    /// written where the target cannot punch. Returns the bytes of the blocks that were not zero.
    ///
    /// # Errors
    /// As [`Writing::chunk_write`].
    pub fn zero(&mut self, at: u64, len: u64) -> Result<u64, DiskError> {
        self.medium.range_check(at, len, self.shape.size)?;
        let end = at + len;
        let mut here = at;
        let mut total = 0;
        while here < end {
            if let Some(hole) = self.hole_at(here)? {
                here += hole.min(end - here);
                continue;
            }
            let window = WINDOW.min(end - here);
            let old = self.read(here, window as usize)?;
            for (from, to) in runs(here, window as usize, |from, to| !is_zero(&old[from..to])) {
                self.zero_put(here + from as u64, (to - from) as u64)?;
                total += (to - from) as u64;
            }
            here += window;
        }
        self.zeroed += total;
        Ok(total)
    }

    /// Makes everything written so far durable. Happens by itself each [`FLUSH_EVERY`] bytes.
    ///
    /// # Errors
    /// [`DiskError::Flush`], after which every further write is refused: the flash has failed.
    pub fn flush(&mut self) -> Result<(), DiskError> {
        if !self.unflushed {
            return Ok(());
        }
        self.medium.flush()?;
        self.unflushed = false;
        self.dirty = 0;
        self.flushes += 1;
        Ok(())
    }

    /// Whether anything in the range was written or zeroed, in granules of 64 KiB.
    pub fn touched(&self, at: u64, len: u64) -> bool {
        self.touched.any(at, len)
    }

    /// The ranges `(at, len)` that were written or zeroed, in order, in whole granules of 64 KiB (the last one may
    /// reach beyond the image): what a read-back has to look at.
    pub fn touched_ranges(&self) -> Vec<(u64, u64)> {
        self.touched.ranges()
    }

    /// The image's guarded ranges `(at, len)`, once anything differs: [`Writing::seal`] then writes all of what is held, also
    /// what was only read from the target, so a read-back has to look at it. None while nothing differs.
    pub fn guarded_ranges(&self) -> Vec<(u64, u64)> {
        if self.is_unchanged() {
            return Vec::new();
        }
        let own = self.guards.iter().filter(|guard| guard.at < self.shape.size);
        own.map(|guard| (guard.at, guard.held.len() as u64)).collect()
    }

    /// Whether nothing differed so far, so that the target is as it was.
    pub fn is_unchanged(&self) -> bool {
        !self.disarmed && self.guards.iter().all(|guard| !guard.changed)
    }

    /// Writes bytes that differ; guarded parts are held back.
    pub(crate) fn put(&mut self, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.touched.mark(at, bytes.len() as u64);
        for part in parts(&self.guards, at, bytes.len() as u64) {
            match part {
                Part::Guarded(n, range) => {
                    let guard = &mut self.guards[n];
                    let from = (range.start - guard.at) as usize;
                    let piece = &bytes[(range.start - at) as usize..(range.end - at) as usize];
                    guard.held[from..from + piece.len()].copy_from_slice(piece);
                    guard.changed = true;
                }
                Part::Open(range) => {
                    self.disarm()?;
                    let piece = &bytes[(range.start - at) as usize..(range.end - at) as usize];
                    self.unflushed = true;
                    self.medium.write(range.start, piece)?;
                    self.dirty += piece.len() as u64;
                }
            }
        }
        if self.dirty >= FLUSH_EVERY { self.flush() } else { Ok(()) }
    }

    /// Something was written that the next flush must make durable.
    pub(crate) fn unflushed(&mut self) {
        self.unflushed = true;
    }

    fn zero_put(&mut self, at: u64, len: u64) -> Result<(), DiskError> {
        self.touched.mark(at, len);
        for part in parts(&self.guards, at, len) {
            match part {
                Part::Guarded(n, range) => {
                    let guard = &mut self.guards[n];
                    guard.held[(range.start - guard.at) as usize..(range.end - guard.at) as usize].fill(0);
                    guard.changed = true;
                }
                Part::Open(range) => {
                    self.disarm()?;
                    self.unflushed = true;
                    self.zero_open(range.start, range.end)?;
                }
            }
        }
        if self.dirty >= FLUSH_EVERY { self.flush() } else { Ok(()) }
    }

    fn zero_open(&mut self, start: u64, end: u64) -> Result<(), DiskError> {
        let align = self.medium.punch_align();
        let (from, to) = (start.next_multiple_of(align), end - end % align);
        if from >= to || !self.medium.punch(from, to - from)? {
            self.dirty += end - start;
            return self.medium.zeros_write(start, end - start);
        }
        // Odd edges, where the image ends inside a sector: the rest of that sector is not ours.
        self.medium.zeros_write(start, from - start)?;
        self.medium.zeros_write(to, end - to)
    }

    /// Before the first write to anything else, the guarded ranges become zero, durably, [the first bytes](Writing::first_len)
    /// before the others: from here until the end of `seal` no firmware and no kernel finds a system here, and until
    /// then it finds the old one, whole.
    pub(crate) fn disarm(&mut self) -> Result<(), DiskError> {
        if self.disarmed {
            return Ok(());
        }
        self.cleanup.written();
        let first = 0..self.first_len();
        let others = self.guards.iter().map(|guard| guard.range().start.max(first.end)..guard.range().end);
        let others: Vec<_> = others.filter(|range| !range.is_empty()).collect();
        self.make_zero(&[first])?;
        self.make_zero(&others)?;
        self.disarmed = true;
        Ok(())
    }

    /// What is written last of all, and made zero before all: see [`FIRST_BYTES`].
    pub(crate) fn first_len(&self) -> u64 {
        self.guards.first().map_or(0, |first| first.range().end.min(FIRST_BYTES))
    }

    fn make_zero(&mut self, ranges: &[Range<u64>]) -> Result<(), DiskError> {
        let mut wrote = false;
        for range in ranges {
            // What the target holds now; it is zero already in a fresh file, and after an interrupted flash.
            let len = range.end - range.start;
            if !is_zero(self.medium.read(range.start, len as usize)?) {
                self.medium.zeros_write(range.start, len)?;
                wrote = true;
            }
        }
        if wrote {
            self.medium.flush()?;
            self.flushes += 1;
        }
        Ok(())
    }
}

/// Where `bytes`, read at `at`, are guarded, they become what is held.
fn guards_lay_over(guards: &[Guard], at: u64, bytes: &mut [u8]) {
    for guard in guards.iter().filter(|guard| !guard.stays_zero) {
        lay_over(bytes, at, &guard.held, guard.range().start);
    }
}

/// The runs `from..to` of blocks for which `differs`, in bytes from `at`. Blocks are those of the image.
fn runs(at: u64, len: usize, mut differs: impl FnMut(usize, usize) -> bool) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (from, to) in blocks(at, len) {
        if differs(from, to) {
            match found.last_mut() {
                Some(last) if last.1 == from => last.1 = to,
                _ => found.push((from, to)),
            }
        }
    }
    found
}
