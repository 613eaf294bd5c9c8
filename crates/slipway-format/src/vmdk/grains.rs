//! The grain directory, its tables, and the grains themselves.

use super::SECTOR;
use super::header::Header;
use crate::DiskError;
use crate::blocks::{Map, Place};
use crate::container::{Claims, Container, Pages, le32, le64};
use flate2::{Decompress, FlushDecompress, Status};

/// What a compressed grain begins with: its first sector on the disk, and the bytes that follow.
const MARKER_LEN: usize = 12;
/// Compressed grains mostly lie one behind the other; then they are read in runs of this length.
const WINDOW: u64 = 256 << 10;
const DIRECTORY: &str = "the grain directory";
const TABLE: &str = "a grain table";

/// Opens the tables and checks every entry of them.
pub(super) fn grains_open(container: &Container, header: &Header) -> Result<Grains, DiskError> {
    let table_span = header.grain_len * header.table_entries;
    let tables = header.size.div_ceil(table_span);
    let mut grains = Grains {
        pages: Pages::default(),
        directory_at: header.directory_at,
        table_entries: header.table_entries,
        grain_len: header.grain_len,
        size: header.size,
        zeroed: header.zeroed,
        packed: header.packed.then(|| Packed::new(header.grain_len as usize)),
    };
    for at in [Some(header.directory_at), header.redundant_at].into_iter().flatten() {
        if at == 0 {
            return Err(container.damaged("its grain directory is said to begin at byte 0, where the header is"));
        }
        container.range_check(DIRECTORY, at, tables * 4)?;
    }
    let mut claims = Claims::new(container, header.grain_len);
    for table in 0..tables {
        let entries = (header.size - table * table_span).div_ceil(header.grain_len).min(header.table_entries);
        let table_at = grains.table_at(container, table)?;
        if let Some(redundant_at) = header.redundant_at {
            redundant_check(container, &mut grains.pages, (table, table_at, entries), redundant_at)?;
        }
        let Some(table_at) = table_at else { continue };
        container.range_check(&format!("grain table {table}"), table_at, entries * 4)?;
        for grain in table * header.table_entries..table * header.table_entries + entries {
            grain_check(container, &mut grains, header, &mut claims, grain)?;
        }
    }
    Ok(grains)
}

fn grain_check(
    container: &Container,
    grains: &mut Grains,
    header: &Header,
    claims: &mut Claims,
    grain: u64,
) -> Result<(), DiskError> {
    let Some(at) = grains.grain_at(container, grain)? else { return Ok(()) };
    if at < header.overhead.max(SECTOR) {
        return Err(container.damaged(format!("grain {grain} is said to lie at byte {at}, inside the headers")));
    }
    if header.packed {
        // Its length is behind its marker; that no two are one is checked there too.
        return container.range_check(&format!("the marker of grain {grain}"), at, MARKER_LEN as u64);
    }
    let len = header.grain_len.min(header.size - grain * header.grain_len);
    container.range_check(&format!("grain {grain}"), at, len)?;
    if !claims.claim(at, len) {
        return Err(container.damaged(format!("grain {grain} is said to lie at byte {at}, where another grain lies")));
    }
    Ok(())
}

/// A disk with two grain directories says everything twice; when it does not, nobody knows which one is right.
fn redundant_check(
    container: &Container,
    pages: &mut Pages,
    (table, table_at, entries): (u64, Option<u64>, u64),
    redundant_at: u64,
) -> Result<(), DiskError> {
    let sector = pages.le32(container, "the redundant grain directory", redundant_at + table * 4)?;
    let other_at = u64::from(sector) * SECTOR;
    let differ = || container.damaged(format!("its two grain directories differ in table {table}"));
    let Some(table_at) = table_at else { return if sector == 0 { Ok(()) } else { Err(differ()) } };
    if sector == 0 {
        return Err(differ());
    }
    for entry in 0..entries {
        let first = pages.le32(container, TABLE, table_at + entry * 4)?;
        if first != pages.le32(container, "a redundant grain table", other_at + entry * 4)? {
            return Err(differ());
        }
    }
    Ok(())
}

/// The map of a sparse extent.
pub(super) struct Grains {
    pages: Pages,
    directory_at: u64,
    table_entries: u64,
    grain_len: u64,
    size: u64,
    zeroed: bool,
    packed: Option<Packed>,
}

impl Grains {
    fn table_at(&mut self, container: &Container, table: u64) -> Result<Option<u64>, DiskError> {
        let sector = self.pages.le32(container, DIRECTORY, self.directory_at + table * 4)?;
        Ok((sector != 0).then_some(u64::from(sector) * SECTOR))
    }

    fn grain_at(&mut self, container: &Container, grain: u64) -> Result<Option<u64>, DiskError> {
        let Some(table_at) = self.table_at(container, grain / self.table_entries)? else { return Ok(None) };
        let entry = self.pages.le32(container, TABLE, table_at + grain % self.table_entries * 4)?;
        Ok(match entry {
            0 => None,
            1 if self.zeroed => None,
            sector => Some(u64::from(sector) * SECTOR),
        })
    }
}

impl Map for Grains {
    fn place_at(&mut self, container: &Container, offset: u64) -> Result<(Place, u64), DiskError> {
        let table_span = self.grain_len * self.table_entries;
        if self.table_at(container, offset / table_span)?.is_none() {
            return Ok((Place::Zeros, table_span - offset % table_span));
        }
        let within = offset % self.grain_len;
        let place = match (self.grain_at(container, offset / self.grain_len)?, &self.packed) {
            (None, _) => Place::Zeros,
            (Some(_), Some(_)) => Place::Packed,
            (Some(at), None) => Place::At(at + within),
        };
        Ok((place, self.grain_len - within))
    }

    fn unpack(&mut self, container: &Container, offset: u64, buf: &mut [u8]) -> Result<usize, DiskError> {
        let (grain, within) = (offset / self.grain_len, (offset % self.grain_len) as usize);
        let at = self.grain_at(container, grain)?;
        let (Some(at), Some(packed)) = (at, &mut self.packed) else {
            return Err(container.damaged(format!("grain {grain} is not there")));
        };
        let needed = self.grain_len.min(self.size - grain * self.grain_len) as usize;
        let wanted = Wanted { grain, at, first_sector: grain * self.grain_len / SECTOR, needed };
        if within == 0 && buf.len() >= packed.grain.len() {
            let len = packed.grain.len();
            packed.unpack(container, &wanted, Some(&mut buf[..len]))?;
            return Ok(needed);
        }
        if packed.kept != Some(grain) {
            packed.kept = None;
            packed.unpack(container, &wanted, None)?;
            packed.kept = Some(grain);
        }
        let len = buf.len().min(needed - within);
        buf[..len].copy_from_slice(&packed.grain[within..within + len]);
        Ok(len)
    }
}

/// A compressed grain to be had.
struct Wanted {
    grain: u64,
    at: u64,
    first_sector: u64,
    /// How many bytes of it are on the disk.
    needed: usize,
}

/// What unpacks grains, and the one unpacked last.
struct Packed {
    inflate: Decompress,
    grain: Vec<u8>,
    kept: Option<u64>,
    window_at: u64,
    window: Vec<u8>,
}

impl Packed {
    fn new(grain_len: usize) -> Self {
        Self { inflate: Decompress::new(true), grain: vec![0; grain_len], kept: None, window_at: 0, window: Vec::new() }
    }

    /// Unpacks into `out`, or into the kept grain.
    fn unpack(&mut self, container: &Container, wanted: &Wanted, out: Option<&mut [u8]>) -> Result<(), DiskError> {
        let Wanted { grain, at, first_sector, needed } = *wanted;
        let marker = self.window_load(container, at, MARKER_LEN)?;
        let (said_sector, len) = (le64(&self.window, marker), le32(&self.window, marker + 8) as usize);
        if said_sector != first_sector {
            return Err(container.damaged(format!(
                "the marker at byte {at} is that of sector {said_sector}, but grain {grain} begins at sector {first_sector}"
            )));
        }
        // Bytes that cannot be made smaller grow by less than this (zlib's compressBound).
        if len == 0 || len > self.grain.len() + self.grain.len() / 8 + 64 {
            return Err(container.damaged(format!("grain {grain} at byte {at} is said to have {len} compressed bytes")));
        }
        let from = self.window_load(container, at + MARKER_LEN as u64, len)?;
        let out = out.unwrap_or(&mut self.grain);
        self.inflate.reset(true);
        let status = self.inflate.decompress(&self.window[from..from + len], out, FlushDecompress::Finish);
        let made = self.inflate.total_out() as usize;
        match status {
            Ok(Status::StreamEnd) if made == out.len() || made == needed => Ok(()),
            Ok(Status::StreamEnd) => {
                Err(container.damaged(format!("grain {grain} at byte {at} unpacks to {made} bytes, not {}", out.len())))
            }
            Ok(Status::Ok | Status::BufError) => Err(container
                .damaged(format!("grain {grain} at byte {at} is cut off or unpacks to more than {} bytes", out.len()))),
            Err(error) => Err(container.damaged(format!("grain {grain} at byte {at} cannot be unpacked: {error}"))),
        }
    }

    /// Has `len` bytes of the container from `at` on in the window; says where in it.
    fn window_load(&mut self, container: &Container, at: u64, len: usize) -> Result<usize, DiskError> {
        container.range_check("a compressed grain", at, len as u64)?;
        let end = at + len as u64;
        if at < self.window_at || end > self.window_at + self.window.len() as u64 {
            let follows = (self.window_at..=self.window_at + self.window.len() as u64).contains(&at);
            let ahead = if follows { WINDOW } else { self.grain.len() as u64 };
            let ahead = ahead.max(len as u64).min(container.len() - at) as usize;
            self.window.clear();
            self.window.resize(ahead, 0);
            container.read("a compressed grain", at, &mut self.window)?;
            self.window_at = at;
        }
        Ok((at - self.window_at) as usize)
    }
}
