//! Images without a hole, from a stream: no disk has to hold the largest.

use super::super::own::flash;
use super::super::peers::{folder_mb, remove};
use super::super::plot::{Plot, Series};
use super::super::random::Random;
use super::super::report::{Found, Row};
use super::super::sample::{Sample, peak_forget, so_far, timed_drained, timed_fed};
use super::super::stage::{OwnServer, Stage, calm_within, text};
use super::free_bytes;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

const PIECE: usize = 1 << 20;
/// One piece in so many is new, the others are earlier ones once more.
const FRESH_EVERY: u64 = 64;
const LINE: &[u8] = b"2025-05-20 12:00:00 host app: GET /item 200 ok\n";
/// What stays free of the disk, whatever is measured.
const KEPT_FREE: u64 = 15 << 30;

/// Pieces of 1 MiB, each half noise and half text, in every block of 4 KiB.
struct Pieces {
    seed: u64,
    count: u64,
    next: u64,
    piece: Vec<u8>,
}

impl Pieces {
    fn new(seed: u64, bytes: u64) -> Self {
        let mut piece = Vec::with_capacity(PIECE + LINE.len());
        while piece.len() < PIECE {
            piece.extend(LINE);
        }
        piece.truncate(PIECE);
        Self { seed, count: bytes / PIECE as u64, next: 0, piece }
    }

    fn next(&mut self) -> Option<&[u8]> {
        if self.next == self.count {
            return None;
        }
        let fresh = self.next / FRESH_EVERY;
        let source = match self.next.is_multiple_of(FRESH_EVERY) {
            true => fresh,
            false => Random::new(self.seed ^ self.next).below(fresh + 1),
        };
        let mut random = Random::new(Random::new(self.seed.wrapping_add(source)).next());
        for block in self.piece.chunks_exact_mut(4096) {
            for word in block[..2048].chunks_exact_mut(8) {
                word.copy_from_slice(&random.next().to_le_bytes());
            }
        }
        self.next += 1;
        Some(&self.piece)
    }

    fn write(mut self, out: &mut impl Write) -> std::io::Result<()> {
        while let Some(piece) = self.next() {
            out.write_all(piece)?;
        }
        Ok(())
    }

    /// Every byte that comes is compared.
    fn compare(mut self, from: &mut impl Read) -> Result<()> {
        let mut buf = vec![0; PIECE];
        while let Some(piece) = self.next() {
            from.read_exact(&mut buf).context("reading an image back")?;
            ensure!(buf == piece, "piece {} came back with other bytes", self.next - 1);
        }
        ensure!(from.read(&mut buf).context("reading an image back")? == 0, "more came back than was pushed");
        Ok(())
    }
}

/// What the server took beside a client: its processor until it is calm again, and its peak.
fn with_server(own: &OwnServer, work: impl FnOnce() -> Result<Sample>) -> Result<(Sample, Sample)> {
    let pid = own.get()?.pid().context("the server has ended")?;
    peak_forget(pid)?;
    let before = so_far(pid)?.cpu;
    let client = work()?;
    calm_within(own.get()?, Duration::from_secs(600))?;
    let after = so_far(pid)?;
    Ok((client, Sample { wall: f64::NAN, cpu: after.cpu - before, ..after }))
}

pub(super) fn measure(stage: &Stage, found: &mut Found) -> Result<()> {
    let sizes: &[u64] = if stage.quick { &[64 << 20, 1 << 30] } else { &[1 << 30, 10 << 30, 100 << 30] };
    let names = ["push from stdin", "pull to stdout", "flash into a new file"];
    let mut cpu = names.map(|name| Series { name: name.into(), points: Vec::new() });
    let mut memory =
        [names[0], names[1], names[2], "server"].map(|name| Series { name: name.into(), points: Vec::new() });
    let mut stored = vec![Series { name: "all files of the store".into(), points: Vec::new() }];
    for size in sizes {
        // One server for each, so that the larger image finds nothing of the smaller.
        let own = stage.server_new("growth-full")?;
        let gib = *size as f64 / f64::from(1 << 30);
        let reference = format!("me/full-{}", size >> 20);
        let version = format!("{reference}:0");
        let push = own.slipway(stage, &["push", "-", &reference, "--format", "raw", "-q"])?;
        let pull = own.slipway(stage, &["pull", &version, "-o", "-", "-q"])?;
        let mut samples = vec![
            with_server(&own, || timed_fed(&push, |mut out| Pieces::new(*size, *size).write(&mut out)))?,
            with_server(&own, || timed_drained(&pull, |mut from| Pieces::new(*size, *size).compare(&mut from)))?,
        ];
        let kept = folder_mb(&own.data.join("blobs"))?;
        stored[0].points.push((gib, kept));
        let free = free_bytes(stage.folder())?;
        if free >= size + KEPT_FREE {
            samples.push(flashed(stage, &own, &version, *size)?);
        } else {
            found.notes.push(format!(
                "The full image of {gib} GiB is not flashed: no block of it is zero, so its target takes as much as a disk of that size, and {} GiB are free here, of which \
                 {} stay free. `pull` to a pipe reads, decodes and verifies the same bytes, and every one of them is compared with what was pushed.",
                free >> 30,
                KEPT_FREE >> 30
            ));
        }
        for (n, (client, server)) in samples.iter().enumerate() {
            cpu[n].points.push((gib, client.cpu + server.cpu));
            memory[n].points.push((gib, client.peak_mb));
            let row = Row::new(format!("full {gib} GiB, {}", names[n]), "s", client.wall);
            found.rows.push(row.of(*client).beside(*server));
        }
        memory[3].points.push((gib, samples.iter().map(|(_, server)| server.peak_mb).fold(0.0, f64::max)));
        found.rows.push(Row::new(format!("full {gib} GiB: stored"), "MB", kept));
    }
    for (name, y, series) in [
        ("full-processor", "s of processor, client and server", cpu.to_vec()),
        ("full-memory", "MB of memory", memory.to_vec()),
        ("full-stored", "MB stored", stored),
    ] {
        let title = format!("Full images, one MiB in {FRESH_EVERY} new: {y}");
        found.plots.push(Plot { name, title, x: "GiB".into(), y: y.into(), series });
    }
    Ok(())
}

fn flashed(stage: &Stage, own: &OwnServer, version: &str, size: u64) -> Result<(Sample, Sample)> {
    let target = stage.folder().join("full.img");
    let both = with_server(own, || flash(own.get()?, None, version, &target, &[]).map(|flash| flash.sample))?;
    let mut file = File::open(Path::new(text(&target)?)).context("opening what was flashed")?;
    Pieces::new(size, size).compare(&mut file)?;
    remove(&target)?;
    Ok(both)
}
