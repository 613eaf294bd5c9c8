//! A disk whose container maps its blocks: one way to read them all, in as few reads as their places allow.

use slipway_chunk::{BLOCK, Fill};
use std::io;

use crate::container::Container;
use crate::{Disk, DiskError};

/// Where a run of the disk's bytes lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nowhere: it reads as zeros.
    Zeros,
    /// As it is, at this byte of the container.
    At(u64),
    /// Compressed; [`Map::unpack`] gives it.
    Packed,
}

/// What a container's tables say of the disk's bytes. Opening it has checked them.
pub(crate) trait Map: Send {
    /// Where the byte `offset` of the disk lies, and how many bytes (at least 1, perhaps past the disk's end) follow it there.
    fn place_at(&mut self, container: &Container, offset: u64) -> Result<(Place, u64), DiskError>;

    /// Unpacks bytes from `offset` on to the front of `buf` and says how many, at least 1. Only asked where [`Place::Packed`] was said.
    fn unpack(&mut self, container: &Container, offset: u64, buf: &mut [u8]) -> Result<usize, DiskError> {
        let _ = buf;
        Err(container.damaged(format!("byte {offset} of the disk is not compressed")))
    }
}

/// A hole is looked for in at most so many steps a call; another hole follows it then.
const HOLE_STEPS: usize = 1 << 16;

/// The disk of a container and its map.
pub(crate) struct Blocks<M> {
    pub(crate) container: Container,
    pub(crate) map: M,
    /// Bytes of the disk.
    pub(crate) size: u64,
    pub(crate) sector_size: u32,
}

impl<M: Map> Blocks<M> {
    /// As [`Map::place_at`], but never past the disk's end.
    fn place_at(&mut self, offset: u64) -> Result<(Place, u64), DiskError> {
        let (place, len) = self.map.place_at(&self.container, offset)?;
        Ok((place, len.min(self.size - offset)))
    }

    /// How many zeros from `offset` on need not be read: looks no farther than `enough`.
    fn zeros_at(&mut self, offset: u64, enough: u64) -> Result<u64, DiskError> {
        let mut len = 0;
        for _ in 0..HOLE_STEPS {
            if len >= enough || offset + len >= self.size {
                break;
            }
            match self.place_at(offset + len)? {
                (Place::Zeros, more) => len += more,
                (Place::At(_) | Place::Packed, _) => break,
            }
        }
        Ok(len)
    }

    /// The part of so many zeros that is a hole: whole blocks, or all of them at the end of the disk.
    fn hole_at(&mut self, offset: u64, enough: u64) -> Result<u64, DiskError> {
        if !offset.is_multiple_of(BLOCK as u64) {
            return Ok(0);
        }
        let zeros = self.zeros_at(offset, enough)?;
        Ok(if offset + zeros >= self.size { zeros } else { zeros - zeros % BLOCK as u64 })
    }

    /// Reads what lies at `from`, and what follows it both on the disk and in the container, in one go.
    fn run_read(&mut self, offset: u64, from: u64, len: u64, buf: &mut [u8]) -> Result<usize, DiskError> {
        let room = buf.len() as u64;
        let mut run = len.min(room);
        while run < room && offset + run < self.size {
            match self.place_at(offset + run)? {
                (Place::At(next), more) if Some(next) == from.checked_add(run) => run = (run + more).min(room),
                _ => break,
            }
        }
        let run = run as usize;
        self.container.read("a block of data", from, &mut buf[..run])?;
        Ok(run)
    }

    fn data_fill(&mut self, offset: u64, buf: &mut [u8]) -> Result<usize, DiskError> {
        let want = (buf.len() as u64).min(self.size - offset) as usize;
        let mut filled = 0;
        while filled < want {
            let at = offset + filled as u64;
            let room = &mut buf[filled..want];
            filled += match self.place_at(at)? {
                (Place::Zeros, len) => {
                    if filled > 0 && self.hole_at(at, BLOCK as u64)? > 0 {
                        break;
                    }
                    // Up to the next block's border, where a hole may begin.
                    let len = len.min(BLOCK as u64 - at % BLOCK as u64).min(room.len() as u64) as usize;
                    room[..len].fill(0);
                    len
                }
                (Place::At(from), len) => self.run_read(at, from, len, room)?,
                (Place::Packed, len) => {
                    let len = len.min(room.len() as u64) as usize;
                    self.map.unpack(&self.container, at, &mut room[..len])?.min(len)
                }
            };
        }
        Ok(filled)
    }
}

impl<M: Map> Disk for Blocks<M> {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn fill_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<Fill> {
        if offset >= self.size {
            return Ok(Fill::End);
        }
        match self.hole_at(offset, u64::MAX)? {
            0 => Ok(Fill::Data(self.data_fill(offset, buf)?)),
            len => Ok(Fill::Hole(len)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Blocks, Map, Place};
    use crate::container::Container;
    use crate::{Disk, DiskError, DiskReading};
    use slipway_chunk::{ChunkerParams, Fill, Run, Scan};

    /// Runs of so many bytes, in order.
    struct Runs(Vec<(Place, u64)>);

    impl Map for Runs {
        fn place_at(&mut self, _: &Container, offset: u64) -> Result<(Place, u64), DiskError> {
            let mut begin = 0;
            for (place, len) in &self.0 {
                if offset < begin + len {
                    let within = offset - begin;
                    return Ok((if let Place::At(at) = place { Place::At(at + within) } else { *place }, len - within));
                }
                begin += len;
            }
            unreachable!("asked past the end");
        }

        fn unpack(&mut self, _: &Container, _: u64, buf: &mut [u8]) -> Result<usize, DiskError> {
            let len = buf.len().min(100);
            buf[..len].fill(7);
            Ok(len)
        }
    }

    fn check(runs: &[(Place, u64)]) {
        let bytes: Vec<u8> = (0..100_000).map(|n: u32| (n * 31 % 250 + 1) as u8).collect();
        let mut wanted = Vec::new();
        for (place, len) in runs {
            match place {
                Place::Zeros => wanted.resize(wanted.len() + *len as usize, 0),
                Place::At(at) => wanted.extend(&bytes[*at as usize..(at + len) as usize]),
                Place::Packed => wanted.resize(wanted.len() + *len as usize, 7),
            }
        }
        let size = wanted.len() as u64;
        let disk = || Blocks {
            container: Container::new("test", Box::new(bytes.clone())),
            map: Runs(runs.to_vec()),
            size,
            sector_size: 512,
        };
        let mut scan = Scan::new(DiskReading::new(disk()), ChunkerParams::default());
        let mut seen = Vec::new();
        while let Some(run) = scan.next().unwrap() {
            match run {
                Run::Hole { len, .. } => seen.resize(seen.len() + len as usize, 0),
                Run::Data { bytes, .. } => seen.extend(bytes),
            }
        }
        assert!(seen == wanted);
        // At any place, with any buffer.
        let mut disk = disk();
        for offset in (0..size).step_by(509).chain((0..size).step_by(4096)) {
            for room in [1, 700, 5000] {
                let mut buf = vec![9; room];
                match disk.fill_at(offset, &mut buf).unwrap() {
                    Fill::Data(len) => assert_eq!(buf[..len], wanted[offset as usize..offset as usize + len]),
                    Fill::Hole(len) => {
                        assert!(wanted[offset as usize..(offset + len) as usize].iter().all(|byte| *byte == 0));
                        assert!(len.is_multiple_of(4096) || offset + len == size);
                    }
                    Fill::End => panic!("it does not end at {offset}"),
                }
            }
        }
        assert_eq!(disk.fill_at(size, &mut [0]).unwrap(), Fill::End);
    }

    #[test]
    fn rows() {
        let (zeros, packed) = (Place::Zeros, Place::Packed);
        check(&[(zeros, 1)]);
        check(&[(zeros, 512), (Place::At(10), 512)]);
        check(&[(Place::At(0), 4096), (Place::At(4096), 4096), (Place::At(9000), 100)]);
        check(&[(Place::At(0), 512), (zeros, 4096), (Place::At(4096), 3584)]);
        check(&[(Place::At(0), 512), (zeros, 9000), (Place::At(4096), 3584), (zeros, 1536)]);
        check(&[(zeros, 20_000), (packed, 5000), (zeros, 20_000), (packed, 10), (Place::At(3), 9000), (zeros, 7)]);
        check(&[(zeros, 4096), (zeros, 4096), (Place::At(50_000), 4096), (zeros, 100)]);
    }
}
