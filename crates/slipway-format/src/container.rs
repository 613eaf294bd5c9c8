//! A container's bytes, read only where they exist, and what blocks in it may claim.

use crate::{DiskError, ReadAt};

/// A container and the name of its format, which every complaint needs.
pub(crate) struct Container {
    bytes: Box<dyn ReadAt>,
    format: &'static str,
}

impl Container {
    pub(crate) fn new(format: &'static str, bytes: Box<dyn ReadAt>) -> Self {
        Self { bytes, format }
    }

    pub(crate) fn len(&self) -> u64 {
        self.bytes.len()
    }

    /// See [`ReadAt::data_next`].
    pub(crate) fn data_next(&self, offset: u64) -> Option<u64> {
        self.bytes.data_next(offset)
    }

    pub(crate) fn into_bytes(self) -> Box<dyn ReadAt> {
        self.bytes
    }

    pub(crate) fn damaged(&self, reason: impl Into<String>) -> DiskError {
        DiskError::Damaged { format: self.format, reason: reason.into() }
    }

    pub(crate) fn refused(&self, reason: impl Into<String>) -> DiskError {
        DiskError::Refused { format: self.format, reason: reason.into() }
    }

    /// Whether `len` bytes from `at` on exist.
    pub(crate) fn range_check(&self, what: &str, at: u64, len: u64) -> Result<(), DiskError> {
        if at.checked_add(len).is_some_and(|end| end <= self.len()) {
            return Ok(());
        }
        let file = self.len();
        Err(self.damaged(format!("{what} ({len} bytes at byte {at}) lies past the end of the file ({file} bytes)")))
    }

    /// Fills `buf` from byte `at` on.
    pub(crate) fn read(&self, what: &str, at: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.range_check(what, at, buf.len() as u64)?;
        self.bytes.read_exact_at(buf, at).map_err(|source| DiskError::Io { format: self.format, source })
    }

    /// `len` bytes from `at` on. The caller has capped `len`; it is not allocated where it does not exist.
    pub(crate) fn part(&self, what: &str, at: u64, len: usize) -> Result<Vec<u8>, DiskError> {
        self.range_check(what, at, len as u64)?;
        let mut bytes = vec![0; len];
        self.read(what, at, &mut bytes)?;
        Ok(bytes)
    }
}

pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from(le32(bytes, at)) | u64::from(le32(bytes, at + 4)) << 32
}

pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    le16(bytes, at).swap_bytes()
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    le32(bytes, at).swap_bytes()
}

pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    le64(bytes, at).swap_bytes()
}

const PAGE: u64 = 64 << 10;
const PAGES_KEPT: usize = 32;

/// The pages of a container that were looked at last: tables of any length are read through these 2 MiB.
#[derive(Default)]
pub(crate) struct Pages {
    kept: Vec<Page>,
    /// The page of the look-up before, which is mostly the page of this one.
    last: usize,
    turn: u64,
}

struct Page {
    number: u64,
    used: u64,
    bytes: Vec<u8>,
}

impl Pages {
    pub(crate) fn le32(&mut self, container: &Container, what: &str, at: u64) -> Result<u32, DiskError> {
        self.bytes(container, what, at).map(u32::from_le_bytes)
    }

    pub(crate) fn be32(&mut self, container: &Container, what: &str, at: u64) -> Result<u32, DiskError> {
        self.bytes(container, what, at).map(u32::from_be_bytes)
    }

    pub(crate) fn le64(&mut self, container: &Container, what: &str, at: u64) -> Result<u64, DiskError> {
        self.bytes(container, what, at).map(u64::from_le_bytes)
    }

    fn bytes<const N: usize>(&mut self, container: &Container, what: &str, at: u64) -> Result<[u8; N], DiskError> {
        container.range_check(what, at, N as u64)?;
        let page = self.page(container, what, at / PAGE)?;
        let from = (at % PAGE) as usize;
        // Tables begin at multiples of 512 bytes and their entries divide that, so an entry never lies in two pages.
        match page.get(from..from + N).and_then(|bytes| bytes.try_into().ok()) {
            Some(bytes) => Ok(bytes),
            None => Err(container.damaged(format!("{what} at byte {at} lies across a border"))),
        }
    }

    fn page(&mut self, container: &Container, what: &str, number: u64) -> Result<&[u8], DiskError> {
        self.turn += 1;
        let turn = self.turn;
        let hit = match self.kept.get(self.last) {
            Some(page) if page.number == number => Some(self.last),
            _ => self.kept.iter().position(|page| page.number == number),
        };
        let place = match hit {
            Some(place) => place,
            None => {
                let at = number * PAGE;
                let len = PAGE.min(container.len() - at) as usize;
                let bytes = container.part(what, at, len)?;
                let page = Page { number, used: turn, bytes };
                if self.kept.len() < PAGES_KEPT {
                    self.kept.push(page);
                    self.kept.len() - 1
                } else {
                    let oldest = (0..self.kept.len()).min_by_key(|n| self.kept[*n].used).unwrap_or(0);
                    self.kept[oldest] = page;
                    oldest
                }
            }
        };
        self.last = place;
        self.kept[place].used = turn;
        Ok(&self.kept[place].bytes)
    }
}

/// 16 MiB of marks: 8 TiB of container in blocks of 64 KiB.
const MARKS_MAX: u64 = 128 << 20;

/// Where blocks were said to begin, so that two that share bytes are found: such a container unpacks to more than it holds.
pub(crate) struct Claims {
    /// One bit for each `unit` of the container; empty when it has too many.
    marks: Vec<u64>,
    unit: u64,
    /// Bytes that may still be claimed.
    left: u64,
}

impl Claims {
    /// `unit` is what every block but the last covers at least; two blocks cannot begin in one unit.
    pub(crate) fn new(container: &Container, unit: u64) -> Self {
        let units = container.len() / unit + 1;
        let words = if units <= MARKS_MAX { units.div_ceil(64) } else { 0 };
        Self { marks: vec![0; words as usize], unit, left: container.len() }
    }

    /// Notes a block of `len` bytes at byte `at`, which exist. False when bytes of it were claimed before.
    pub(crate) fn claim(&mut self, at: u64, len: u64) -> bool {
        let Some(left) = self.left.checked_sub(len) else { return false };
        self.left = left;
        let unit = at / self.unit;
        let Some(word) = self.marks.get_mut((unit / 64) as usize) else { return true };
        let mark = 1 << (unit % 64);
        let free = *word & mark == 0;
        *word |= mark;
        free
    }
}

#[cfg(test)]
mod tests {
    use super::{Claims, Container, PAGE, PAGES_KEPT, Pages};

    #[test]
    fn pages_give_what_is_there_and_stay_few() {
        let bytes: Vec<u8> = (0..100 * PAGE + 12).map(|n| (n / 4 % 251) as u8).collect();
        let container = Container::new("test", Box::new(bytes.clone()));
        let mut pages = Pages::default();
        for step in [4, 4096, PAGE, 3 * PAGE + 8] {
            for at in (0..bytes.len() as u64).step_by(step as usize).filter(|at| at % 4 == 0) {
                let wanted = u32::from_le_bytes(bytes[at as usize..at as usize + 4].try_into().unwrap());
                assert_eq!(pages.le32(&container, "number", at).unwrap(), wanted);
                assert!(pages.kept.len() <= PAGES_KEPT);
            }
        }
        let end = bytes.len() as u64;
        let why = pages.le32(&container, "number", end - 3).unwrap_err().to_string();
        assert!(
            why.contains("number (4 bytes at byte 6553609) lies past the end of the file (6553612 bytes)"),
            "{why}"
        );
        assert!(pages.le64(&container, "number", u64::MAX).is_err());
    }

    #[test]
    fn a_claim_is_granted_once() {
        let container = Container::new("test", Box::new(vec![0; 10_000]));
        let mut claims = Claims::new(&container, 1000);
        assert!(claims.claim(0, 1000));
        assert!(claims.claim(1000, 1000));
        assert!(!claims.claim(1999, 1000));
        assert!(claims.claim(2001, 1000));
        assert!(!claims.claim(5000, 7000));
    }
}
