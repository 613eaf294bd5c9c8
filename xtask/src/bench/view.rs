//! Reads through `slipway disk-view`: here and there, and from beginning to end.

use super::Measure;
use super::report::{Found, Row};
use super::sample::{Sample, median, middle, so_far, timed};
use super::stage::Stage;
use crate::run::{is_root, read};
use anyhow::{Context, Result, ensure};
use rustix::fs::{Mode, OFlags, SeekFrom, seek};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

pub(super) const MEASURE: Measure = Measure {
    name: "view",
    brief: "reads through disk-view",
    minutes: 2.0,
    about: "Reads through `slipway disk-view`. Random ones are 4 KiB at places that hold data, past the kernel's page cache, so that each asks \
            the view; the floor is the time in which zstd decodes one frame of 256 KiB. desync, whose FUSE mount is the only peer, cannot be \
            installed here by name, so it is not run beside it.",
    tools: &[crate::tools::tool("zstd", "zstd")],
    needs: "root, FUSE",
    run,
};

const READS: usize = 1000;
const BLOCK: usize = 4096;

fn run(stage: &Stage) -> Result<Found> {
    ensure!(is_root(), "mounting a view needs root");
    stage.pushed()?;
    let (first, _) = stage.images()?;
    let places = data_places(first)?;
    let mut rows = streaming(stage, first)?;
    let floor = frame_decode(first)?;
    for (what, memory, p50_goal) in [("frames in the cache folder", "16M", Some(0.5)), ("frames in memory", "4G", None)]
    {
        let cache = stage.folder().join("view-cache");
        let view =
            View::start(stage, &["--cache", cache.to_str().context("our own path is UTF-8")?, "--memory", memory])?;
        let file = view.file(stage)?;
        // Everything once, which fills the cache.
        read(Command::new("dd").arg(format!("if={}", file.display())).args(["of=/dev/null", "bs=1M", "status=none"]))?;
        let before = so_far(view.pid())?;
        let (mut p50, mut p99) = (Vec::new(), Vec::new());
        for round in 0..stage.runs() {
            let mut times = random_reads(&file, first, &places, round as u64)?;
            times.sort_unstable_by(f64::total_cmp);
            p50.push(times[times.len() / 2]);
            p99.push(times[times.len() * 99 / 100]);
        }
        let after = so_far(view.pid())?;
        let (p50, p99) = (median(p50), median(p99));
        let row = Row::new(format!("random 4 KiB read, {what}, p50"), "ms", p50).peer("one frame decoded", floor);
        rows.push(match p50_goal {
            Some(goal) => row.goal(format!("≤ {goal}"), p50 <= goal),
            None => row,
        });
        let row = Row::new(format!("random 4 KiB read, {what}, p99"), "ms", p99);
        rows.push(match p50_goal {
            Some(_) => row.goal("≤ 5", p99 <= 5.0),
            None => row,
        });
        let each = (after.cpu - before.cpu) * 1e3 / (READS * stage.runs()) as f64;
        rows.push(Row::new(format!("processor of the view for each, {what}"), "ms", each));
        rows.push(Row::new(format!("memory of the view, {what}, --memory {memory}"), "MB", after.peak_mb));
        drop(view);
    }
    std::fs::remove_dir_all(stage.folder().join("view-cache")).context("removing the cache")?;
    Ok(rows.into())
}

/// The whole image through a view that has nothing yet, beside `slipway pull`.
fn streaming(stage: &Stage, first: &Path) -> Result<Vec<Row>> {
    let out = stage.folder().join("copy.img");
    let shown = out.to_str().context("our own path is UTF-8")?;
    let (mut copies, mut pulls) = (Vec::new(), Vec::new());
    for _ in 0..stage.runs() {
        let view = View::start(stage, &[])?;
        let mut copy = Command::new("cp");
        copy.arg("--sparse=always").arg(view.file(stage)?).arg(&out);
        stage.settle()?;
        let sample = timed(&copy)?;
        let own = so_far(view.pid())?;
        copies.push(Sample { cpu: sample.cpu + own.cpu, peak_mb: own.peak_mb, ..sample });
        let same = Command::new("cmp").arg(first).arg(&out).status().context("starting cmp")?;
        ensure!(same.success(), "the copy differs from the image");
        std::fs::remove_file(&out).context("removing the copy")?;
        drop(view);
        stage.settle()?;
        pulls.push(timed(&stage.slipway(&["pull", "me/os:0", "-o", shown, "-q"])?)?);
        std::fs::remove_file(&out).context("removing the copy")?;
    }
    Ok(vec![Row::wall("cp --sparse=always out of a cold view", middle(&copies), "slipway pull", middle(&pulls))])
}

/// A view over `me/os`; unmounted when dropped.
struct View {
    at: PathBuf,
    process: Child,
}

impl View {
    fn start(stage: &Stage, more: &[&str]) -> Result<Self> {
        let at = stage.folder().join("disk");
        std::fs::create_dir_all(&at).context("making the folder of the view")?;
        let mut command = stage.slipway(&["disk-view", "-o", "jsonl"])?;
        command.arg(&at).args(more).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().context("starting slipway disk-view")?;
        let mut line = String::new();
        let said = process.stdout.take().context("its output is piped")?;
        BufReader::new(said).read_line(&mut line).context("reading what the view says")?;
        let view = Self { at, process };
        ensure!(line.contains("mountpoint"), "the view did not start");
        Ok(view)
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn file(&self, stage: &Stage) -> Result<PathBuf> {
        let text = read(&mut stage.slipway(&["image", "show", "me/os", "-o", "json"])?)?;
        let shown: serde_json::Value = serde_json::from_str(&text).context("reading what image show says")?;
        Ok(self.at.join(shown["id"].as_str().context("an image has an id")?).join("0.img"))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.process.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.process.wait();
    }
}

/// Blocks of the image that hold data.
fn data_places(image: &Path) -> Result<Vec<u64>> {
    let file = File::open(image).with_context(|| format!("opening {}", image.display()))?;
    let mut places = Vec::new();
    let mut at = 0;
    while let Ok(begin) = seek(&file, SeekFrom::Data(at)) {
        let end = seek(&file, SeekFrom::Hole(begin)).context("looking for a hole")?;
        let block = BLOCK as u64;
        places.extend((begin.div_ceil(block)..end / block).map(|number| number * block));
        at = end;
    }
    ensure!(!places.is_empty(), "{} holds no data", image.display());
    Ok(places)
}

/// Milliseconds of each read; every one is compared with the image.
fn random_reads(file: &Path, image: &Path, places: &[u64], seed: u64) -> Result<Vec<f64>> {
    let direct = rustix::fs::open(file, OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty());
    let direct = File::from(direct.with_context(|| format!("opening {}", file.display()))?);
    let image = File::open(image).context("opening the image")?;
    // Direct reads want whole blocks at addresses that are multiples of a block.
    let mut room = vec![0; 2 * BLOCK];
    let skip = room.as_ptr().align_offset(BLOCK);
    let mut wanted = vec![0; BLOCK];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    let mut times = Vec::with_capacity(READS);
    for _ in 0..READS {
        // An LCG (Knuth); its upper bits are good enough to choose places.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let place = places[(state >> 33) as usize % places.len()];
        let buf = &mut room[skip..skip + BLOCK];
        let begun = Instant::now();
        direct.read_exact_at(buf, place).with_context(|| format!("reading {BLOCK} bytes at {place}"))?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        image.read_exact_at(&mut wanted, place).context("reading the image")?;
        ensure!(*buf == wanted[..], "wrong bytes at {place}");
    }
    Ok(times)
}

/// Milliseconds in which zstd decodes 256 KiB that it compressed at level 3, by its own count.
fn frame_decode(image: &Path) -> Result<f64> {
    let part = tempfile::NamedTempFile::new().context("making a file")?;
    let file = File::open(image).context("opening the image")?;
    let begin = seek(&file, SeekFrom::Data(0)).context("looking for data")?;
    let mut bytes = vec![0; 64 << 20];
    let len = file.read_at(&mut bytes, begin).context("reading the image")?;
    std::fs::write(part.path(), &bytes[..len]).context("writing a file for zstd")?;
    let out =
        Command::new("zstd").args(["-b3", "-i1", "-B262144"]).arg(part.path()).output().context("starting zstd")?;
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).replace('\r', "\n");
    // " 3#name : 100 -> 40 (x2.5), 200.0 MB/s, 1200.0 MB/s"
    let speed = said.lines().rev().find_map(|line| {
        let (front, _) = line.rsplit_once("MB/s")?;
        front.rsplit([' ', ',']).find(|word| !word.is_empty())?.parse::<f64>().ok()
    });
    let speed = speed.with_context(|| format!("zstd said {said:?}"))?;
    Ok(0.262_144 / speed * 1e3)
}
