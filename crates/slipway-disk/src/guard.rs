//! The ranges that decide whether a target can boot. Their content is held in memory while everything else
//! is written.

use std::ops::Range;

use slipway_chunk::BLOCK;

/// The first MiB: boot record, primary partition table, boot loader, and the superblock of a bare file system.
pub(crate) const FIRST_LEN: u64 = 1 << 20;

/// Of it, the bytes without which nobody finds a system: boot record and GPT header (sector 1, also with sectors of
/// 4 KiB), and ext4's, FAT's and xfs's superblock. They are made zero before all else, and written last of all.
pub(crate) const FIRST_BYTES: u64 = 8 << 10;

/// Where an image has what invariant 5 of the design guards: its first MiB, and the block or two that hold its last
/// full sector, where its own backup GPT header lies if it has one. A backup header elsewhere in the image (one that
/// was grown afterwards) is reached by neither firmware nor kernel once the primary is gone.
pub(crate) fn image_guards(size: u64, sector_size: u32) -> Vec<Range<u64>> {
    let block = BLOCK as u64;
    let sector = u64::from(sector_size);
    let last_sector = (size / sector).saturating_sub(1) * sector;
    let last = last_sector - last_sector % block;
    if last <= FIRST_LEN {
        // Both touch or overlap: the image is no longer than about a MiB.
        return std::iter::once(0..size).collect();
    }
    vec![0..FIRST_LEN, last..size]
}

/// One guarded range.
pub(crate) struct Guard {
    pub(crate) at: u64,
    /// What the range shall hold in the end; before anything is written to it, what it held before.
    pub(crate) held: Vec<u8>,
    /// Whether `held` is still what the disk held at first.
    pub(crate) changed: bool,
    /// An old backup header in the target's last sector: zeroed with the others, not restored.
    pub(crate) stays_zero: bool,
}

impl Guard {
    pub(crate) fn range(&self) -> Range<u64> {
        self.at..self.at + self.held.len() as u64
    }
}

/// A piece of a range: inside guard number `n`, or outside of all.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Guarded(usize, Range<u64>),
    Open(Range<u64>),
}

/// Splits `at..at + len` where guards begin and end. The guards are sorted and apart.
pub(crate) fn parts(guards: &[Guard], at: u64, len: u64) -> Vec<Part> {
    let end = at + len;
    let mut found = Vec::new();
    let mut here = at;
    for (n, guard) in guards.iter().enumerate() {
        let range = guard.range();
        if range.end <= here || range.start >= end {
            continue;
        }
        if here < range.start {
            found.push(Part::Open(here..range.start));
            here = range.start;
        }
        let stop = range.end.min(end);
        found.push(Part::Guarded(n, here..stop));
        here = stop;
    }
    if here < end {
        found.push(Part::Open(here..end));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    #[allow(clippy::single_range_in_vec_init)]
    fn where_guards_lie() {
        fn check(size: u64, sector_size: u32, expected: &[Range<u64>]) {
            assert_eq!(image_guards(size, sector_size), expected, "{size} {sector_size}");
        }
        check(1, 512, &[0..1]);
        check(511, 512, &[0..511]);
        check(MIB - 1, 512, &[0..MIB - 1]);
        check(MIB, 512, &[0..MIB]);
        check(MIB + 1, 512, &[0..MIB + 1]);
        check(MIB + 512, 512, &[0..MIB + 512]);
        check(MIB + 4096, 512, &[0..MIB + 4096]);
        check(MIB + 4608, 512, &[0..MIB, MIB + 4096..MIB + 4608]);
        check(MIB + 8192, 512, &[0..MIB, MIB + 4096..MIB + 8192]);
        check(4 * MIB, 512, &[0..MIB, 4 * MIB - 4096..4 * MIB]);
        check(4 * MIB, 4096, &[0..MIB, 4 * MIB - 4096..4 * MIB]);
        check(4 * MIB + 511, 512, &[0..MIB, 4 * MIB - 4096..4 * MIB + 511]);
        check(4 * MIB + 513, 512, &[0..MIB, 4 * MIB..4 * MIB + 513]);
        check(4 * MIB + 4095, 4096, &[0..MIB, 4 * MIB - 4096..4 * MIB + 4095]);
    }

    #[test]
    fn splitting() {
        let guard = |at, len| Guard { at, held: vec![0; len], changed: false, stays_zero: false };
        let guards = [guard(0, 10), guard(20, 10), guard(30, 5)];
        fn check(guards: &[Guard], at: u64, len: u64, expected: &[Part]) {
            assert_eq!(parts(guards, at, len), expected, "{at}+{len}");
        }
        check(&guards, 0, 0, &[]);
        check(&guards, 3, 4, &[Part::Guarded(0, 3..7)]);
        check(&guards, 10, 10, &[Part::Open(10..20)]);
        check(&guards, 9, 2, &[Part::Guarded(0, 9..10), Part::Open(10..11)]);
        check(&guards, 40, 5, &[Part::Open(40..45)]);
        check(
            &guards,
            0,
            40,
            &[
                Part::Guarded(0, 0..10),
                Part::Open(10..20),
                Part::Guarded(1, 20..30),
                Part::Guarded(2, 30..35),
                Part::Open(35..40),
            ],
        );
    }
}
