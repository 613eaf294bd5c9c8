//! Many flashes at once from one server, while it checks and prunes.

use super::Measure;
use super::dataset::data_len;
use super::own::flash;
use super::peers::remove;
use super::report::{Found, Row};
use super::sample::{median, so_far};
use super::stage::{Stage, calm, text};
use crate::run::read;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

pub(super) const MEASURE: Measure = Measure {
    name: "many",
    brief: "32 flashes at once while the server checks and prunes",
    minutes: 1.0,
    about: "32 flashes at once of one image of 2 GiB with 400 MiB of data, into sparse files, from one server on loopback, on the same cores; `check` and `prune` run \
            over and over meanwhile. Every file is compared with the image.",
    tools: &[],
    needs: "14 GB of disk",
    run,
};

/// 2 GiB, of which every fifth part is data of the first image.
fn image_make(stage: &Stage, image: &Path) -> Result<()> {
    let data = &stage.data()?.dense;
    let source = File::open(data).context("opening the data of an image")?;
    let target = File::create(image).context("making an image")?;
    target.set_len(2 << 30).context("making an image")?;
    let (parts, piece) = if stage.quick { (16_u64, 1_usize << 20) } else { (100, 4 << 20) };
    let mut buf = vec![0; piece];
    for part in 0..parts {
        source.read_exact_at(&mut buf, part * piece as u64).context("reading the data of an image")?;
        target.write_all_at(&buf, part * ((2 << 30) / parts) / 4096 * 4096).context("writing an image")?;
    }
    target.sync_all().context("flushing an image")
}

fn run(stage: &Stage) -> Result<Found> {
    let clients = if stage.quick { 8 } else { 32 };
    let image = stage.folder().join("many.img");
    image_make(stage, &image)?;
    let own = stage.server_new("many")?;
    read(&mut own.slipway(stage, &["push", text(&image)?, "me/many", "-q"])?)?;
    calm(own.get()?)?;
    let server = own.get()?;
    let pid = server.pid().context("the server has ended")?;
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").context("forgetting a peak of memory")?;
    let before = so_far(pid)?.cpu;
    let begun = Instant::now();
    let agents: Vec<_> =
        (0..clients).map(|number| (number, stage.folder().join(format!("many-{number}.img")))).collect();
    let care = [own.slipway(stage, &["check", "-q"])?, own.slipway(stage, &["prune", "-q"])?];
    let mut words: Vec<Command> = Vec::new();
    for (_, target) in &agents {
        let mut command = server.client(&super::own::agent());
        command.args(["flash", "me/many:0", text(target)?]);
        words.push(command);
    }
    let (results, rounds, troubles) = together(words, care);
    let wall = begun.elapsed().as_secs_f64();
    let after = so_far(pid)?;
    let mut failures = 0;
    let mut seconds = Vec::new();
    for ((number, target), result) in agents.iter().zip(results) {
        let same = Command::new("cmp").arg(&image).arg(target).output().context("starting cmp")?.status.success();
        match result {
            Ok(took) if same => seconds.push(took),
            Ok(_) => {
                eprintln!("  flash {number} gave other bytes");
                failures += 1;
            }
            Err(why) => {
                eprintln!("  flash {number}: {why:#}");
                failures += 1;
            }
        }
        remove(target)?;
    }
    // One more, alone, says what each of them fetched.
    let alone = flash(server, None, "me/many:0", &agents[0].1, &[])?;
    remove(&agents[0].1)?;
    let fetched_mb = alone.said.fetched_bytes as f64 / 1e6 * f64::from(clients);
    let cpu = (after.cpu - before) * 1e3 / (fetched_mb / 100.0);
    let slowest = seconds.iter().copied().fold(0.0, f64::max);
    let most = 64.0 * 1.048_576 + 0.262_144 * f64::from(clients);
    let data_mb = data_len(&image)? as f64 / 1e6;
    remove(&image)?;
    let share = median(seconds.iter().copied()) / slowest;
    Ok(vec![
        Row::new("flashes at once", "", f64::from(clients)),
        Row::new("of which failed", "", f64::from(failures)).most(0.0),
        Row::new("checks and prunes meanwhile", "", f64::from(rounds)),
        Row::new("of which failed", "", f64::from(troubles)).most(0.0),
        Row::new("all of them", "s", wall).peer("one alone", alone.sample.wall),
        Row::new("written into files, all together", "MB", data_mb * f64::from(clients)),
        Row::new("slowest flash's rate over the median", "×", share).goal("≥ 0.5", share >= 0.5),
        Row::new("processor of the server for 100 MB, checks and prunes included", "ms", cpu),
        Row::new("memory of the server, checks and prunes included", "MB", after.peak_mb).most(most),
    ]
    .into())
}

/// All of them at once, each with its seconds, and the others again and again meanwhile: how many rounds, and how many of these failed.
fn together(words: Vec<Command>, mut care: [Command; 2]) -> (Vec<Result<f64>>, u32, u32) {
    let (ended, rounds, troubles) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    let results = thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                for command in &mut care {
                    if let Err(why) = read(command) {
                        eprintln!("  {why:#}");
                        troubles.fetch_add(1, Ordering::Relaxed);
                    }
                }
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        let running: Vec<_> = words
            .into_iter()
            .map(|mut command| {
                scope.spawn(move || {
                    let begun = Instant::now();
                    read(&mut command).map(|_| begun.elapsed().as_secs_f64())
                })
            })
            .collect();
        let joined = running.into_iter().map(|one| one.join().unwrap_or_else(|_| bail!("a thread panicked"))).collect();
        ended.store(true, Ordering::Relaxed);
        joined
    });
    (results, rounds.into_inner(), troubles.into_inner())
}
