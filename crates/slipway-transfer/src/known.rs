//! What the comparison has learnt of a target, so that what is written there does not have to be read once more.

use crate::TransferError;
use crate::blank::Blank;
use slipway_chunk::Verified;
use slipway_disk::{Print, Writing};

#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Where the target is zero and the image, mostly, is not.
    pub(crate) blank: Blank,
    pub(crate) printed: Printed,
}

/// Places of chunks that differ, with the prints of what is there.
#[derive(Debug, Default)]
pub(crate) struct Printed {
    /// Place, and where its prints begin; in the order of places.
    places: Vec<(u64, u32)>,
    prints: Vec<Print>,
}

impl Known {
    /// A target of which nothing but zeros is known to be there.
    pub(crate) fn blank() -> Self {
        Self { blank: Blank::all(), ..Self::default() }
    }

    /// Writes what differs of a chunk. Each place may be written once.
    pub(crate) fn chunk_write(
        &self,
        writing: &mut Writing,
        at: u64,
        chunk: &Verified<'_>,
    ) -> Result<(), TransferError> {
        match self.printed.of(at) {
            Some(old) => writing.chunk_write_on_prints(at, chunk, old)?,
            None if self.blank.covers(at, chunk.bytes().len() as u64) => writing.chunk_write_on_zeros(at, chunk)?,
            None => writing.chunk_write(at, chunk)?,
        };
        Ok(())
    }
}

impl Printed {
    /// Adds a place behind those before.
    pub(crate) fn add(&mut self, at: u64, prints: &[Print]) {
        if let (false, Ok(begin)) = (prints.is_empty(), u32::try_from(self.prints.len())) {
            self.places.push((at, begin));
            self.prints.extend_from_slice(prints);
        }
    }

    fn of(&self, at: u64) -> Option<&[Print]> {
        let n = self.places.binary_search_by_key(&at, |(at, _)| *at).ok()?;
        Some(&self.prints[self.begin(n)..self.begin(n + 1)])
    }

    fn begin(&self, n: usize) -> usize {
        self.places.get(n).map_or(self.prints.len(), |(_, begin)| *begin as usize)
    }

    /// Forgets the places that are not `wanted` any more, and gives their memory back.
    pub(crate) fn retain(&mut self, mut wanted: impl FnMut(u64) -> bool) {
        let (mut places, mut prints) = (0, 0);
        for n in 0..self.places.len() {
            let (at, from) = (self.places[n].0, self.begin(n)..self.begin(n + 1));
            if wanted(at) {
                self.places[places] = (at, prints as u32);
                places += 1;
                let len = from.len();
                self.prints.copy_within(from, prints);
                prints += len;
            }
        }
        self.places.truncate(places);
        self.places.shrink_to_fit();
        self.prints.truncate(prints);
        self.prints.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::Printed;

    #[test]
    fn places_keep_their_prints() {
        let print = |n: u8| [n; 16];
        let mut printed = Printed::default();
        for n in 0..100_u8 {
            let all: Vec<_> = (0..n % 4).map(|more| print(n + more)).collect();
            printed.add(u64::from(n) * 10, &all);
        }
        let check = |printed: &Printed, wanted: &dyn Fn(u8) -> bool| {
            for n in 0..100_u8 {
                let all: Vec<_> = (0..n % 4).map(|more| print(n + more)).collect();
                let expected = (wanted(n) && !all.is_empty()).then_some(&all[..]);
                assert_eq!(printed.of(u64::from(n) * 10), expected, "{n}");
                assert_eq!(printed.of(u64::from(n) * 10 + 1), None);
            }
        };
        check(&printed, &|_| true);
        printed.retain(|at| at % 3 == 0);
        check(&printed, &|n| n % 3 == 0);
        printed.retain(|_| false);
        check(&printed, &|_| false);
    }
}
