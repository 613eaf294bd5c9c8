//! One image with more and more versions.

use super::super::own::flash;
use super::super::peers::remove;
use super::super::plot::{Plot, Series};
use super::super::random::Random;
use super::super::report::{Found, Row};
use super::super::sample::{Sample, middle, peak_forget, so_far, timed};
use super::super::stage::{OwnServer, Stage, calm, text};
use crate::run::read;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

const IMAGE: &str = "me/small";
/// So many push at once until there are enough versions, each a file of its own.
const PUSHERS: usize = 4;
const RUNS: usize = 3;

/// Changes 60 KiB. What the image holds says what comes next, so that no version is like one before.
fn change(file: &Path) -> Result<()> {
    let image = File::options().read(true).write(true).open(file).context("opening an image")?;
    let mut seed = [0; 8];
    image.read_exact_at(&mut seed, 0).context("reading an image")?;
    let mut random = Random::new(u64::from_le_bytes(seed));
    image.write_all_at(&random.bytes(8), 0).context("changing an image")?;
    let bytes = random.bytes(60 << 10);
    image.write_all_at(&bytes, (1 + random.below(63)) * (64 << 10)).context("changing an image")
}

fn push(stage: &Stage, own: &OwnServer, file: &Path) -> Result<Command> {
    own.slipway(stage, &["push", text(file)?, IMAGE, "-q"])
}

/// Pushes `count` versions more.
fn fill(stage: &Stage, own: &OwnServer, files: &[PathBuf], count: usize) -> Result<()> {
    let pushes = files.iter().map(|file| push(stage, own, file)).collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| {
        let running: Vec<_> = pushes
            .into_iter()
            .zip(files)
            .enumerate()
            .map(|(number, (mut push, file))| {
                let share = count / files.len() + usize::from(number < count % files.len());
                scope.spawn(move || (0..share).try_for_each(|_| change(file).and_then(|()| read(&mut push).map(drop))))
            })
            .collect();
        running.into_iter().try_for_each(|one| one.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })
}

/// Bytes of the database with its journal, in MB.
fn catalogue_mb(data: &Path) -> f64 {
    let len = |name| std::fs::metadata(data.join(name)).map_or(0, |facts| facts.len());
    (len("slipway.sqlite") + len("slipway.sqlite-wal")) as f64 / 1e6
}

/// Each thing three times, in turn: what the client took, and what the server took meanwhile.
fn each(stage: &Stage, own: &OwnServer, file: &Path, target: &Path) -> Result<Vec<(&'static str, Sample, Sample)>> {
    const NAMES: [&str; 6] = ["push of one more", "flash of the last", "image show", "image ls", "prune", "check"];
    let server = own.get()?;
    let pid = server.pid().context("the server has ended")?;
    let mut samples = NAMES.map(|_| Vec::new());
    let mut servers = NAMES.map(|_| Sample { wall: f64::NAN, ..Sample::default() });
    for _ in 0..RUNS {
        for (n, name) in NAMES.iter().enumerate() {
            peak_forget(pid)?;
            let before = so_far(pid)?.cpu;
            samples[n].push(match *name {
                "push of one more" => {
                    change(file)?;
                    timed(&push(stage, own, file)?)?
                }
                "flash of the last" => {
                    let sample = flash(server, None, IMAGE, target, &[])?.sample;
                    remove(target)?;
                    sample
                }
                "image show" => timed(&own.slipway(stage, &["image", "show", IMAGE, "-o", "json"])?)?,
                "image ls" => timed(&own.slipway(stage, &["image", "ls", "-o", "json"])?)?,
                "prune" => timed(&own.slipway(stage, &["prune", "-q"])?)?,
                _ => timed(&own.slipway(stage, &["check", "-q"])?)?,
            });
            let after = so_far(pid)?;
            servers[n].cpu += (after.cpu - before) / RUNS as f64;
            servers[n].peak_mb = servers[n].peak_mb.max(after.peak_mb);
        }
    }
    Ok(NAMES.iter().zip(samples).zip(servers).map(|((name, all), server)| (*name, middle(&all), server)).collect())
}

pub(super) fn measure(stage: &Stage, found: &mut Found) -> Result<()> {
    let own = stage.server_new("growth-versions")?;
    let pid = own.get()?.pid().context("the server has ended")?;
    let target = stage.folder().join("growth-small.img");
    let files: Vec<_> = (0..PUSHERS).map(|n| stage.folder().join(format!("small-{n}.img"))).collect();
    for (number, file) in files.iter().enumerate() {
        std::fs::write(file, Random::new(number as u64).bytes(4 << 20)).context("making an image")?;
    }
    let steps: &[usize] = if stage.quick { &[1, 10, 100] } else { &[1, 100, 10_000] };
    let (mut wall, mut cpu): (Vec<Series>, Vec<Series>) = (Vec::new(), Vec::new());
    let mut memory = ["server", "push of one more", "flash of the last"]
        .map(|name| Series { name: name.into(), points: Vec::new() });
    let mut catalogue = vec![Series { name: "database".into(), points: Vec::new() }];
    let mut have = 0;
    for count in steps {
        peak_forget(pid)?;
        fill(stage, &own, &files, count - have)?;
        let mut peak = calm(own.get()?)?.peak_mb;
        found.rows.push(Row::new(format!("{count} versions: memory of the server, the pushes up to here"), "MB", peak));
        let x = *count as f64;
        for (n, (name, sample, server)) in each(stage, &own, &files[0], &target)?.into_iter().enumerate() {
            if wall.len() == n {
                wall.push(Series { name: name.into(), points: Vec::new() });
                cpu.push(Series { name: name.into(), points: Vec::new() });
            }
            wall[n].points.push((x, sample.wall));
            cpu[n].points.push((x, sample.cpu + server.cpu));
            if let Some(curve) = memory.iter_mut().find(|curve| curve.name == name) {
                curve.points.push((x, sample.peak_mb));
            }
            peak = peak.max(server.peak_mb);
            let row = Row::new(format!("{count} versions: {name}"), "ms", sample.wall * 1e3);
            found.rows.push(row.of(sample).beside(server));
        }
        have = count + RUNS;
        let rows = catalogue_mb(&own.data);
        memory[0].points.push((x, peak));
        catalogue[0].points.push((x, rows));
        found.rows.push(Row::new(format!("{count} versions: memory of the server, the most of all this"), "MB", peak));
        found.rows.push(Row::new(format!("{count} versions: catalogue, its journal included"), "MB", rows));
    }
    files.iter().try_for_each(|file| remove(file))?;
    for (name, title, y, series) in [
        ("versions-wall", "One image with many versions: time", "s", wall),
        ("versions-processor", "One image with many versions: processor", "s of processor, client and server", cpu),
        ("versions-memory", "One image with many versions: memory", "MB", memory.to_vec()),
        ("versions-catalogue", "One image with many versions: catalogue", "MB", catalogue),
    ] {
        found.plots.push(Plot { name, title: title.into(), x: "versions".into(), y: y.into(), series });
    }
    Ok(())
}
