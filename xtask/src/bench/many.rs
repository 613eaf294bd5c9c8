//! Many flashes at once from one server, while it checks and prunes.

use super::Measure;
use super::dataset::data_len;
use super::own::flash;
use super::peers::remove;
use super::report::{Found, Row};
use super::sample::{median, peak_forget, so_far};
use super::stage::{OwnServer, Stage, calm, text};
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
    minutes: 1.5,
    about: "32 flashes at once of one image of 2 GiB with 400 MiB of data, into sparse files, from one server on loopback, on the same cores; then once \
            more, while `check` and `prune` run over and over. Every file is compared with the image.",
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
    let pushed = calm(own.get()?)?;
    let plain = round(stage, &own, &image, clients, false)?;
    let cared = round(stage, &own, &image, clients, true)?;
    // One more, alone, says what each of them fetched.
    let target = stage.folder().join("many-0.img");
    let alone = flash(own.get()?, None, "me/many:0", &target, &[])?;
    remove(&target)?;
    let fetched_mb = alone.said.fetched_bytes as f64 / 1e6 * f64::from(clients);
    let most = 64.0 * 1.048_576 + 0.262_144 * f64::from(clients);
    let data_mb = data_len(&image)? as f64 / 1e6;
    remove(&image)?;
    let mut found = Found::default();
    found.rows.push(Row::new("flashes at once", "", f64::from(clients)));
    found.rows.push(Row::new("written into files, all together", "MB", data_mb * f64::from(clients)));
    found.rows.push(Row::new("memory of the server before, push and digests", "MB", pushed.peak_mb));
    for (when, round) in [("nothing else", &plain), ("checks and prunes meanwhile", &cared)] {
        let row = |what: &str, unit, value| Row::new(format!("{what}, {when}"), unit, value);
        found.rows.push(row("flashes that failed", "", f64::from(round.failures)).most(0.0));
        if round.rounds > 0 {
            found.rows.push(row("rounds", "", f64::from(round.rounds)));
            found.rows.push(row("rounds that failed", "", f64::from(round.troubles)).most(0.0));
        }
        found.rows.push(row("all of them", "s", round.wall).peer("one alone", alone.sample.wall));
        found
            .rows
            .push(row("slowest flash's rate over the median", "×", round.share).goal("≥ 0.5", round.share >= 0.5));
        let cpu = round.cpu * 1e3 / (fetched_mb / 100.0);
        found.rows.push(row("processor of the server for 100 MB", "ms", cpu));
        found.rows.push(row("memory of the server", "MB", round.peak_mb).most(most));
    }
    Ok(found)
}

/// What became of many flashes at once, and what the server took for them.
struct Round {
    failures: u32,
    rounds: u32,
    troubles: u32,
    wall: f64,
    share: f64,
    cpu: f64,
    peak_mb: f64,
}

/// Flashes at once, with checks and prunes meanwhile if `care` says so.
fn round(stage: &Stage, own: &OwnServer, image: &Path, clients: u32, care: bool) -> Result<Round> {
    let server = own.get()?;
    let pid = server.pid().context("the server has ended")?;
    calm(server)?;
    peak_forget(pid)?;
    let before = so_far(pid)?.cpu;
    let begun = Instant::now();
    let agents: Vec<_> =
        (0..clients).map(|number| (number, stage.folder().join(format!("many-{number}.img")))).collect();
    let care = match care {
        true => vec![own.slipway(stage, &["check", "-q"])?, own.slipway(stage, &["prune", "-q"])?],
        false => Vec::new(),
    };
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
        let same = Command::new("cmp").arg(image).arg(target).output().context("starting cmp")?.status.success();
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
    let slowest = seconds.iter().copied().fold(0.0, f64::max);
    let share = median(seconds) / slowest;
    Ok(Round { failures, rounds, troubles, wall, share, cpu: after.cpu - before, peak_mb: after.peak_mb })
}

/// All of them at once, each with its seconds, and the others again and again meanwhile: how many rounds, and how many of these failed.
fn together(words: Vec<Command>, mut care: Vec<Command>) -> (Vec<Result<f64>>, u32, u32) {
    let (ended, rounds, troubles) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    let results = thread::scope(|scope| {
        scope.spawn(|| {
            while !care.is_empty() && !ended.load(Ordering::Relaxed) {
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
