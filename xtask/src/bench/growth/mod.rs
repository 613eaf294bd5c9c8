//! How time and memory grow with the size of an image, the number of versions, and the cores.

mod full;
mod versions;

use super::Measure;
use super::own::flash;
use super::peers::remove;
use super::plot::{Plot, Series};
use super::random::Random;
use super::report::{Found, Row};
use super::sample::timed;
use super::stage::{Stage, calm, text};
use crate::run::top;
use crate::tools::{command, tool};
use anyhow::{Context, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Of a measure below, where two figures stand in a cell.
macro_rules! about_cells {
    () => {
        " Where two figures stand in a cell the first is the client's, the second the server's, with what it does after the answer."
    };
}

pub(super) const SIZES: Measure = Measure {
    name: "sizes",
    brief: "how cost grows with the size of sparse images, with plots",
    minutes: 1.5,
    about: "Sparse images of 1, 10 and 100 GiB with 64 MiB of data each, spread evenly: pushed, flashed into a new file, and flashed onto that again.",
    tools: &[],
    needs: "nothing",
    run: |stage| with(stage, sizes),
};

pub(super) const FULL: Measure = Measure {
    name: "full",
    brief: "how cost grows with the size of full images, with plots",
    minutes: 7.0,
    about: concat!(
        "Full images of 1, 10 and 100 GiB from a seeded generator, half noise and half text, of which one MiB in 64 is new and the others are earlier ones once more: pushed \
         from stdin, pulled to stdout and compared there byte by byte, and flashed where the disk has the room.",
        about_cells!()
    ),
    tools: &[],
    needs: "26 GB of disk to flash that of 10 GiB",
    run: |stage| with(stage, full::measure),
};

pub(super) const HISTORY: Measure = Measure {
    name: "history",
    brief: "how cost grows with the number of versions, with plots",
    minutes: 8.0,
    about: concat!("1, 100 and 10,000 versions of one image of 4 MiB, each of which changes 60 KiB.", about_cells!()),
    tools: &[],
    needs: "2 GB of disk",
    run: |stage| with(stage, versions::measure),
};

pub(super) const CORES: Measure = Measure {
    name: "cores",
    brief: "ingest and flash on one core and more, with a plot",
    minutes: 1.5,
    about: "The ingest of v1 and the flash of v2 into a new file, on one core, two, and four where the machine has them (`taskset`).",
    tools: &[tool("taskset", "util-linux")],
    needs: "nothing",
    run: |stage| with(stage, cores),
};

fn with(stage: &Stage, measure: fn(&Stage, &mut Found) -> Result<()>) -> Result<Found> {
    let mut found = Found::default();
    measure(stage, &mut found)?;
    Ok(found)
}

/// Bytes that the file system of a folder has free.
fn free_bytes(folder: &Path) -> Result<u64> {
    let facts = rustix::fs::statvfs(folder).with_context(|| format!("looking at {}", folder.display()))?;
    Ok(facts.f_bavail * facts.f_frsize)
}

/// A file that goes when it is dropped.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = remove(&self.0);
    }
}

/// A sparse image with 64 MiB of half noise and half text, in pieces of 1 MiB.
pub(super) fn large_image(stage: &Stage, size: u64) -> Result<Scratch> {
    let path = stage.folder().join(format!("large-{size}.img"));
    let file = File::create(&path).context("making an image")?;
    file.set_len(size).context("making an image")?;
    // Another image for each size, so that none is known already.
    let mut random = Random::new(size);
    for piece in 0..64 {
        let mut bytes = Vec::with_capacity((1 << 20) + 100);
        while bytes.len() < 1 << 20 {
            bytes.extend(random.bytes(40));
            bytes.extend(b"a line as many files have it, over again;");
        }
        file.write_all_at(&bytes[..1 << 20], piece * (size / 64) / 4096 * 4096).context("writing an image")?;
    }
    file.sync_all().context("flushing an image")?;
    Ok(Scratch(path))
}

fn sizes(stage: &Stage, found: &mut Found) -> Result<()> {
    let own = stage.server_new("growth")?;
    let target = stage.folder().join("growth.img");
    let sizes: &[u64] = if stage.quick { &[1, 10] } else { &[1, 10, 100] };
    let names = ["push, client", "flash into a new file", "flash, nothing differs"];
    let mut wall = names.map(|name| Series { name: name.into(), points: Vec::new() });
    let mut cpu = wall.clone();
    let mut memory = wall.clone();
    for gib in sizes {
        let image = large_image(stage, gib << 30)?;
        let reference = format!("me/size-{gib}");
        stage.settle()?;
        let push = timed(&own.slipway(stage, &["push", text(image.path())?, &reference, "-q"])?)?;
        calm(own.get()?)?;
        let reference = format!("{reference}:0");
        let once = || flash(own.get()?, None, &reference, &target, &[]).map(|flash| flash.sample);
        let (first, second) = (once()?, once()?);
        remove(&target)?;
        for (n, sample) in [push, first, second].into_iter().enumerate() {
            let x = *gib as f64;
            wall[n].points.push((x, sample.wall));
            cpu[n].points.push((x, sample.cpu));
            memory[n].points.push((x, sample.peak_mb));
            found.rows.push(Row::new(format!("sparse {gib} GiB, {}", names[n]), "s", sample.wall).of(sample));
        }
    }
    for (name, y, series) in [
        ("sparse-wall", "s", wall),
        ("sparse-processor", "s of processor", cpu),
        ("sparse-memory", "MB of memory", memory),
    ] {
        let title = format!("Sparse images with 64 MiB of data: {y}");
        found.plots.push(Plot { name, title, x: "GiB".into(), y: y.into(), series: series.into() });
    }
    Ok(())
}

fn cores(stage: &Stage, found: &mut Found) -> Result<()> {
    stage.pushed()?;
    let data = stage.data()?;
    let (store, target) = (stage.folder().join("cores-store"), stage.folder().join("cores.img"));
    let ingest = top().join("target/release/examples/ingest");
    let mut series =
        ["ingest of v1", "flash of v2 into a new file"].map(|name| Series { name: name.into(), points: Vec::new() });
    let have = std::thread::available_parallelism().map_or(1, usize::from);
    let all = [(1, "0"), (2, "0,1"), (4, "0-3")];
    let missing: Vec<_> = all.iter().filter(|(count, _)| *count > have).map(|(count, _)| count.to_string()).collect();
    if !missing.is_empty() {
        found
            .notes
            .push(format!("This machine has {have} cores, so there is no figure for {}.", missing.join(" and ")));
    }
    for (count, list) in all.into_iter().filter(|(count, _)| *count <= have) {
        let on = |program: &Path| {
            let mut taskset = command("taskset");
            taskset.args(["-c", list]).arg(program);
            taskset
        };
        let (mut ingests, mut flashes) = (Vec::new(), Vec::new());
        for _ in 0..stage.runs() {
            stage.settle()?;
            let mut one = on(&ingest);
            one.arg(&store).args([&count.to_string(), "0"]).arg(&data.v1);
            ingests.push(timed(&one)?);
            remove(&store)?;
            stage.settle()?;
            let mut one: Command = on(&super::own::agent());
            let client = stage.server()?.client(Path::new("slipway-agent"));
            one.envs(client.get_envs().filter_map(|(name, value)| Some((name, value?))));
            one.args(["flash", "me/os:1", text(&target)?]);
            flashes.push(timed(&one)?);
            remove(&target)?;
        }
        for (n, samples) in [ingests, flashes].iter().enumerate() {
            let sample = super::sample::middle(samples);
            series[n].points.push((count as f64, sample.wall));
            let what = format!("{}, {count} of the cores", series[n].name);
            found.rows.push(Row::new(what, "s", sample.wall).of(sample));
        }
    }
    let title = "One core and more; the server is on all".to_owned();
    found.plots.push(Plot { name: "cores-wall", title, x: "cores".into(), y: "s".into(), series: series.into() });
    Ok(())
}
