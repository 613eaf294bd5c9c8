/// Ranges of a target that the comparison read as zeros: what is written there does not have to be compared once more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blank {
    /// `(at, end)`, in order, apart from each other.
    ranges: Vec<(u64, u64)>,
}

/// What is beyond this many ranges is compared again: 1 MiB of memory.
const RANGES_MAX: usize = 65_536;

impl Blank {
    /// A target of which nothing but zeros is known to be there.
    pub(crate) fn all() -> Self {
        Self { ranges: vec![(0, u64::MAX)] }
    }

    /// Adds a range that begins where the last one ended, or behind it.
    pub(crate) fn add(&mut self, at: u64, len: u64) {
        if !self.extend(at, len) && self.ranges.len() < RANGES_MAX {
            self.ranges.push((at, at + len));
        }
    }

    /// Adds a range only if the last one ends where it begins.
    pub(crate) fn extend(&mut self, at: u64, len: u64) -> bool {
        match self.ranges.last_mut() {
            Some((_, end)) if *end == at => {
                *end = at + len;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Whether all of it is zeros.
    pub(crate) fn covers(&self, at: u64, len: u64) -> bool {
        let behind = self.ranges.partition_point(|(begin, _)| *begin <= at);
        behind.checked_sub(1).is_some_and(|n| at + len <= self.ranges[n].1)
    }
}

#[cfg(test)]
mod tests {
    use super::{Blank, RANGES_MAX};

    #[test]
    fn neighbours_are_one_range() {
        let mut blank = Blank::default();
        assert!(!blank.covers(0, 1) && !blank.extend(0, 10));
        blank.add(100, 50);
        assert!(blank.extend(150, 50) && !blank.extend(201, 10));
        blank.add(300, 100);
        for (at, len, want) in [(100, 100, true), (99, 2, false), (150, 51, false), (299, 1, false), (300, 100, true)] {
            assert_eq!(blank.covers(at, len), want, "{at} {len}");
        }
        assert!(Blank::all().covers(1 << 50, 4096));
    }

    #[test]
    fn ranges_are_bounded() {
        let mut blank = Blank::default();
        for n in 0..2 * RANGES_MAX as u64 {
            blank.add(n * 10, 5);
        }
        assert_eq!(blank.ranges.len(), RANGES_MAX);
        assert!(blank.covers(10, 5) && !blank.covers(10 * RANGES_MAX as u64, 5));
    }
}
