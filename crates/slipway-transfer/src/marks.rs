/// Which extents of an image differ from the target: one bit each, and none where a whole segment is the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks(Vec<SegmentMarks>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum SegmentMarks {
    Same,
    All,
    Bits(Vec<u64>),
}

impl Marks {
    /// Nothing differs in any of `segments`.
    pub(crate) fn same(segments: usize) -> Self {
        Self(vec![SegmentMarks::Same; segments])
    }

    /// Nothing is known, so everything counts as different.
    pub(crate) fn all(segments: usize) -> Self {
        Self(vec![SegmentMarks::All; segments])
    }

    pub(crate) fn set(&mut self, segment: usize, extent: usize) {
        let bits = match &mut self.0[segment] {
            SegmentMarks::All => return,
            SegmentMarks::Bits(bits) => bits,
            same @ SegmentMarks::Same => {
                *same = SegmentMarks::Bits(Vec::new());
                let SegmentMarks::Bits(bits) = same else { return };
                bits
            }
        };
        if bits.len() <= extent / 64 {
            bits.resize(extent / 64 + 1, 0);
        }
        bits[extent / 64] |= 1 << (extent % 64);
    }

    /// Takes a mark back; only for one that was set by itself.
    pub(crate) fn clear(&mut self, segment: usize, extent: usize) {
        if let SegmentMarks::Bits(bits) = &mut self.0[segment]
            && let Some(word) = bits.get_mut(extent / 64)
        {
            *word &= !(1 << (extent % 64));
        }
    }

    pub(crate) fn get(&self, segment: usize, extent: usize) -> bool {
        match &self.0[segment] {
            SegmentMarks::Same => false,
            SegmentMarks::All => true,
            SegmentMarks::Bits(bits) => bits.get(extent / 64).is_some_and(|word| word >> (extent % 64) & 1 == 1),
        }
    }

    /// Segments in which something differs.
    pub(crate) fn segments(&self) -> Vec<usize> {
        let differs = |marks: &SegmentMarks| match marks {
            SegmentMarks::Same => false,
            SegmentMarks::All => true,
            SegmentMarks::Bits(bits) => bits.iter().any(|word| *word != 0),
        };
        (0..self.0.len()).filter(|n| differs(&self.0[*n])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Marks;

    #[test]
    fn marks_are_set_and_taken_back() {
        let mut marks = Marks::same(3);
        assert!(marks.segments().is_empty());
        for extent in [0, 63, 64, 1000] {
            marks.set(1, extent);
            assert!(marks.get(1, extent) && !marks.get(1, extent + 1) && !marks.get(0, extent));
        }
        assert_eq!(marks.segments(), [1]);
        for extent in [0, 63, 64, 1000, 5000] {
            marks.clear(1, extent);
            marks.clear(2, extent);
        }
        assert!(marks.segments().is_empty());
        let mut all = Marks::all(2);
        all.set(0, 9);
        assert_eq!(all.segments(), [0, 1]);
        assert!(all.get(1, 12345));
    }
}
