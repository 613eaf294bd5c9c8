//! How time and memory grow with the size of an image, the number of versions, and the cores.

use super::Measure;
use super::own::flash;
use super::peers::remove;
use super::plot::{Plot, Series};
use super::random::Random;
use super::report::{Found, Row};
use super::sample::{Sample, median, so_far, timed};
use super::stage::{Stage, calm, text};
use crate::demo::server::Server;
use crate::run::{read, top};
use crate::tools::{command, tool};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

pub(super) const MEASURE: Measure = Measure {
    name: "growth",
    about: "What grows with what: sparse images of 1, 10 and 100 GiB with 64 MiB of data each, spread evenly; 1, 100 and 10,000 versions of images of 4 MiB, each of which \
            changes 64 KiB; one core and two (`taskset`).",
    tools: &[tool("taskset", "util-linux")],
    run,
};

fn run(stage: &Stage) -> Result<Found> {
    let mut found = Found::default();
    sizes(stage, &mut found)?;
    versions(stage, &mut found)?;
    cores(stage, &mut found)?;
    Ok(found)
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
            let Sample { wall, cpu, peak_mb, .. } = sample;
            found.rows.push(Row::new(format!("{} of {gib} GiB: wall", names[n]), "s", wall));
            found.rows.push(Row::new(format!("{} of {gib} GiB: processor", names[n]), "s", cpu));
            found.rows.push(Row::new(format!("{} of {gib} GiB: memory", names[n]), "MB", peak_mb));
        }
    }
    for (name, y, series) in
        [("size-wall", "s", wall), ("size-processor", "s of processor", cpu), ("size-memory", "MB of memory", memory)]
    {
        let title = format!("Images with 64 MiB of data: {y}");
        found.plots.push(Plot { name, title, x: "GiB".into(), y: y.into(), series: series.into() });
    }
    Ok(())
}

/// Pushes versions to `images` images, several at once, each from a file of its own.
fn versions_push(stage: &Stage, server: &Server, images: usize, each: usize) -> Result<()> {
    let mut pushes = Vec::new();
    for number in 0..images {
        let file = stage.folder().join(format!("small-{number}.img"));
        if !file.exists() {
            std::fs::write(&file, Random::new(number as u64).bytes(4 << 20)).context("making an image")?;
        }
        let mut push = server.client(&stage.program());
        push.args(["push", text(&file)?, &format!("me/small-{number}"), "-q"]);
        pushes.push((push, file));
    }
    thread::scope(|scope| {
        let one = |(mut push, file): (Command, PathBuf)| -> Result<()> {
            let image = File::options().read(true).write(true).open(&file).context("opening an image")?;
            for _ in 0..each {
                // What the image holds says what comes next, so that no version is like one before.
                let mut seed = [0; 8];
                image.read_exact_at(&mut seed, 0).context("reading an image")?;
                let mut random = Random::new(u64::from_le_bytes(seed));
                image.write_all_at(&random.bytes(8), 0).context("changing an image")?;
                let bytes = random.bytes(60 << 10);
                image.write_all_at(&bytes, (1 + random.below(63)) * (64 << 10)).context("changing an image")?;
                read(&mut push)?;
            }
            Ok(())
        };
        let running: Vec<_> = pushes.into_iter().map(|push| scope.spawn(move || one(push))).collect();
        running.into_iter().try_for_each(|one| one.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })
}

fn versions(stage: &Stage, found: &mut Found) -> Result<()> {
    let own = stage.server_new("growth-versions")?;
    let server = own.get()?;
    let pid = server.pid().context("the server has ended")?;
    let target = stage.folder().join("growth-small.img");
    let names = ["push of one more", "flash", "image ls"];
    let mut wall = names.map(|name| Series { name: name.into(), points: Vec::new() });
    let mut memory = Vec::new();
    // So many images, so many versions of each in all.
    let steps: &[(usize, usize)] = if stage.quick { &[(1, 1), (4, 25)] } else { &[(1, 1), (4, 25), (20, 500)] };
    let mut pushed = [0; 20];
    for (images, each) in steps {
        let lacking = pushed[..*images].iter().map(|have| each.saturating_sub(*have)).max().unwrap_or(0);
        versions_push(stage, server, *images, lacking)?;
        pushed[..*images].iter_mut().for_each(|have| *have += lacking);
        let count: usize = pushed.iter().sum();
        calm(server)?;
        let runs = 3;
        let (mut push, mut one, mut list) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..runs {
            let begun = std::time::Instant::now();
            versions_push(stage, server, 1, 1)?;
            push.push(begun.elapsed().as_secs_f64());
            one.push(flash(server, None, "me/small-0", &target, &[])?.sample.wall);
            remove(&target)?;
            list.push(timed(&own.slipway(stage, &["image", "ls", "-o", "json"])?)?.wall);
        }
        pushed[0] += runs;
        for (n, values) in [push, one, list].into_iter().enumerate() {
            let value = median(values);
            wall[n].points.push((count as f64, value));
            found.rows.push(Row::new(format!("{count} versions: {}", names[n]), "ms", value * 1e3));
        }
        let peak = so_far(pid)?.peak_mb;
        memory.push((count as f64, peak));
        found.rows.push(Row::new(format!("{count} versions: memory of the server"), "MB", peak));
    }
    for number in 0..20 {
        remove(&stage.folder().join(format!("small-{number}.img")))?;
    }
    let plot = |name, title: &str, y: &str, series| Plot {
        name,
        title: title.into(),
        x: "versions".into(),
        y: y.into(),
        series,
    };
    found.plots.push(plot("versions-wall", "What takes longer with many versions", "s", wall.into()));
    let memory = vec![Series { name: "slipway serve".into(), points: memory }];
    found.plots.push(plot("versions-memory", "Memory of the server with many versions", "MB", memory));
    Ok(())
}

fn cores(stage: &Stage, found: &mut Found) -> Result<()> {
    stage.pushed()?;
    let data = stage.data()?;
    let (store, target) = (stage.folder().join("cores-store"), stage.folder().join("cores.img"));
    let ingest = top().join("target/release/examples/ingest");
    let mut series =
        ["ingest of v1", "flash of v2 into a new file"].map(|name| Series { name: name.into(), points: Vec::new() });
    for (count, list) in [(1, "0"), (2, "0,1")] {
        let on = |program: &Path| {
            let mut taskset = command("taskset");
            taskset.args(["-c", list]).arg(program);
            taskset
        };
        let (mut ingests, mut flashes) = (Vec::new(), Vec::new());
        for _ in 0..stage.runs() {
            stage.settle()?;
            let mut one = on(&ingest);
            one.arg(&store).args([if count == 1 { "1" } else { "2" }, "0"]).arg(&data.v1);
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
            series[n].points.push((f64::from(count), sample.wall));
            let Sample { wall, cpu, .. } = sample;
            let what = format!("{}, {count} of the cores", series[n].name);
            found.rows.push(Row::new(format!("{what}: wall"), "s", wall));
            found.rows.push(Row::new(format!("{what}: processor"), "s", cpu));
        }
    }
    let title = "One core and two; the server is on both".to_owned();
    found.plots.push(Plot { name: "cores-wall", title, x: "cores".into(), y: "s".into(), series: series.into() });
    Ok(())
}
