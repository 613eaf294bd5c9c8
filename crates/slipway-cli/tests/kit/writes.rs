//! A disk's writes as dm-log-writes recorded them, and what a power cut leaves of them: all that was flushed, and of the rest what chance
//! would have it. The layout is that of `drivers/md/dm-log-writes.c` in Linux.

use super::image::Chance;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: u64 = 0x6a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// One thing that happened to the disk.
pub struct Write {
    /// Where, in bytes.
    pub at: u64,
    pub len: u64,
    /// Where its bytes lie in the log; nothing for a discard.
    data: Option<u64>,
    /// Everything that ended before it is safe.
    pub flushes: bool,
    /// It is safe itself.
    pub forced: bool,
    /// What somebody wrote into the log.
    pub mark: Option<String>,
}

/// All of them, in order.
pub struct Writes {
    log: File,
    pub all: Vec<Write>,
}

/// What of the writes that were not flushed is on the disk when the power is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unflushed {
    Lost,
    SomeOfThem,
}

impl Writes {
    pub fn read(path: &Path) -> Self {
        let log = File::open(path).unwrap();
        let number = |at: u64| {
            let mut bytes = [0; 8];
            log.read_exact_at(&mut bytes, at).unwrap();
            u64::from_le_bytes(bytes)
        };
        assert_eq!(number(0), MAGIC, "{} is no log of writes", path.display());
        let count = number(16);
        let mut bytes = [0; 4];
        log.read_exact_at(&mut bytes, 24).unwrap();
        let sector = u64::from(u32::from_le_bytes(bytes));
        let (mut all, mut at) = (Vec::new(), sector);
        for _ in 0..count {
            let (place, sectors, flags, text_len) = (number(at), number(at + 8), number(at + 16), number(at + 24));
            let mark = (flags & MARK != 0).then(|| {
                let mut text = vec![0; text_len as usize];
                log.read_exact_at(&mut text, at + 32).unwrap();
                String::from_utf8(text).unwrap().trim_end_matches('\0').to_owned()
            });
            let holds = mark.is_none() && flags & DISCARD == 0;
            all.push(Write {
                at: place * sector,
                len: if mark.is_some() { 0 } else { sectors * sector },
                data: holds.then_some(at + sector),
                flushes: flags & FLUSH != 0,
                forced: flags & FUA != 0,
                mark,
            });
            at += sector + if holds { sectors * sector } else { 0 };
        }
        Self { log, all }
    }

    /// Bytes that were written before a cut, flushed or not.
    pub fn written_before(&self, cut: usize) -> u64 {
        self.all[..cut].iter().filter(|write| write.data.is_some()).map(|write| write.len).sum()
    }

    /// Brings a disk from its first state to that after a power cut before write number `cut`.
    pub fn replay(&self, disk: &Path, cut: usize, unflushed: Unflushed, chance: &mut Chance) {
        let disk = File::options().write(true).open(disk).unwrap();
        let safe = self.all[..cut].iter().rposition(|write| write.flushes).unwrap_or(0);
        for (number, write) in self.all[..cut].iter().enumerate() {
            // A flush that brings bytes along makes safe what was before it.
            let kept = number < safe || write.forced || unflushed == Unflushed::SomeOfThem && chance.below(2) == 0;
            if !kept || write.len == 0 {
                continue;
            }
            let mut bytes = vec![0; write.len as usize];
            if let Some(from) = write.data {
                self.log.read_exact_at(&mut bytes, from).unwrap();
            }
            disk.write_all_at(&bytes, write.at).unwrap();
        }
    }
}
