//! Measures: our figure, and beside it a peer's or a floor's, both in the same run on the same machine.
//!
//! A measure is a file here and a line in [`MEASURES`]. It gets a [`Stage`] (release programs, a server, images), runs each side at least
//! three times in turn ([`sample::paired`]), and gives [`Found`]. Nothing is written into the checkout unless `--keep` is given.

mod capture;
mod contest;
mod convert;
mod dataset;
mod device;
mod flash;
mod growth;
mod halt;
mod ingest;
mod kill;
mod leftovers;
mod limits;
mod line;
mod many;
mod node;
mod own;
mod peers;
mod plot;
mod proxy;
mod pull;
mod random;
mod report;
mod sample;
mod serve;
mod stage;
mod versions;
mod view;

use crate::run::{Going, cargo, going_set, is_stopped, may_go_on, run};
use crate::tools;
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use report::{Found, Report};
use rustix::fs::{FlockOperation, flock};
use stage::{Stage, cache};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Measure, each figure beside its peer or floor in the same run.
///
/// A measure that fails says why, and the others go on. Ctrl-C ends what runs and takes away what it made.
#[derive(Args)]
#[command(after_help = help())]
pub(crate) struct BenchArgs {
    /// What to measure; all of it if not given (a wrong name lists them)
    names: Vec<String>,
    /// Small images and one run: for trying, not for comparing
    #[arg(long)]
    quick: bool,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// A folder with v1.img, v2.img and v3.img to use instead of images made here; they are only read
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Measure the release programs that are there instead of building them
    #[arg(long)]
    no_build: bool,
    /// Write the results into docs/benchmarks.md, in place of the same measure's
    #[arg(long)]
    keep: bool,
}

/// Something that is measured.
struct Measure {
    name: &'static str,
    /// For the list of measures.
    brief: &'static str,
    /// About how long a full run takes on two idle cores.
    minutes: f64,
    /// For the head of its table.
    about: &'static str,
    /// Programs that it needs besides ours.
    tools: &'static [tools::Tool],
    /// Whether it needs root, and what of the kernel.
    needs: &'static str,
    run: fn(&Stage) -> Result<Found>,
}

impl Measure {
    /// When it is ended. It is far from what it takes, also on a machine that has other work.
    fn limit(&self) -> Duration {
        Duration::from_secs_f64(60.0 * (10.0 + 4.0 * self.minutes))
    }
}

const MEASURES: &[Measure] = &[
    ingest::MEASURE,
    flash::MEASURE,
    limits::MEASURE,
    serve::MEASURE,
    many::MEASURE,
    line::MEASURE,
    view::MEASURE,
    kill::MEASURE,
    capture::MEASURE,
    versions::MEASURE,
    node::MEASURE,
    pull::MEASURE,
    convert::MEASURE,
    growth::SIZES,
    growth::CORES,
    growth::HISTORY,
    growth::FULL,
];

fn help() -> String {
    let mut text = "Measures, minutes of a full run on two idle cores, and what they need beside Debian's packages (installed by root if they are missing):\n".to_owned();
    for Measure { name, brief, minutes, needs, .. } in MEASURES {
        text += &format!("  {name:9} {minutes:4.1}  {brief}; {needs}\n");
    }
    let all: f64 = MEASURES.iter().map(|measure| measure.minutes).sum();
    text += &format!("  all       {all:4.1}\n");
    text += "\nBefore the first run the release programs are built, and three images of 4 GiB made in target/bench from Debian's archive (root, debootstrap, 8 GB).\n\n\
             Examples:\n  cargo xtask bench --keep\n  cargo xtask bench pull --quick\n  cargo xtask bench view --json\n  cargo xtask bench ingest flash --no-build";
    text
}

/// `cargo xtask bench`.
pub(crate) fn bench_run(args: &BenchArgs) -> Result<()> {
    let chosen = measures_choose(&args.names)?;
    tools::tools_need(tools::BENCH_TOOLS)?;
    if !args.no_build {
        programs_build()?;
    }
    let _alone = alone()?;
    halt::signals_take()?;
    let begun = Instant::now();
    let mut stage = Stage::new(args.quick, args.data.as_deref())?;
    let mut times = Vec::new();
    for measure in chosen {
        eprintln!("measuring {} (about {:.0} min in full)", measure.name, measure.minutes.max(1.0));
        let begun = Instant::now();
        let found = measure_run(measure, &stage);
        let took = begun.elapsed();
        let result = found.and_then(|found| {
            // What was ended on the way has no figures to keep.
            may_go_on()?;
            let report = Report::new(measure.name, measure.about, args.quick, took, found);
            match args.json {
                true => println!("{}", report.json()?),
                false => println!("{}", report.table()),
            }
            if args.keep { report.keep() } else { Ok(()) }
        });
        if let Err(why) = &result {
            eprintln!("{}: no result: {why:#}", measure.name);
            // Nobody knows what it left; the next one gets a stage of its own.
            drop(stage);
            stage = Stage::new(args.quick, args.data.as_deref())?;
        }
        times.push((measure.name, took, result));
        if is_stopped() {
            break;
        }
    }
    drop(stage);
    summary(&times, begun.elapsed())
}

/// One measure, which may fail, panic, or take too long.
fn measure_run(measure: &'static Measure, stage: &Stage) -> Result<Found> {
    tools::tools_need(measure.tools)?;
    going_set(Going::On);
    let watch = halt::Watch::new(measure.name, measure.limit());
    let found = catch_unwind(AssertUnwindSafe(|| (measure.run)(stage)));
    drop(watch);
    found.unwrap_or_else(|why| {
        let said = why.downcast_ref::<String>().cloned();
        let said = said.or_else(|| why.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(anyhow!("it panicked: {}", said.unwrap_or_default()))
    })
}

/// What each measure took; an error if one has no result.
fn summary(times: &[(&'static str, Duration, Result<()>)], all: Duration) -> Result<()> {
    let shown = |took: &Duration| format!("{:3} min {:2} s", took.as_secs() / 60, took.as_secs() % 60);
    for (name, took, result) in times {
        let how = result.as_ref().map_or_else(|why| format!("no result: {why:#}"), |()| String::new());
        eprintln!("{name:9} {}  {}", shown(took), how.lines().next().unwrap_or_default());
    }
    eprintln!("all       {}", shown(&all));
    let failed: Vec<_> = times.iter().filter(|(_, _, result)| result.is_err()).map(|(name, _, _)| *name).collect();
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("no result for {}", failed.join(", ")),
    }
}

/// Two of these at once would measure each other. Whoever holds the lock takes away what one that was killed has left.
fn alone() -> Result<File> {
    std::fs::create_dir_all(cache()).context("making target/bench")?;
    let lock = File::create(cache().join("lock")).context("making a lock")?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("another 'cargo xtask bench' of this checkout runs; wait for its end");
    }
    for what in leftovers::sweep(&cache()) {
        eprintln!("left by an earlier run, and taken away: {what}");
    }
    for entry in std::fs::read_dir(cache()).context("listing target/bench")?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("run-") {
            std::fs::remove_dir_all(entry.path()).context("removing an earlier run's files")?;
        }
    }
    Ok(lock)
}

fn programs_build() -> Result<()> {
    eprintln!("building release programs (the first time takes some minutes)");
    let build = ["build", "--release", "--locked", "--quiet"];
    run(cargo().args(build).args(["--package", "slipway-cli", "--package", "slipway-agent"]))?;
    // Ways into one crate that no program has.
    run(cargo().args(build).args(["--package", "slipway-store", "--example", "ingest"]))?;
    run(cargo().args(build).args(["--package", "slipway-format", "--example", "convert"]))?;
    // What is measured in guests.
    run(cargo().args(build).args(["--package", "slipway-node", "--example", "guests"]))
}

fn measures_choose(names: &[String]) -> Result<Vec<&'static Measure>> {
    if names.is_empty() {
        return Ok(MEASURES.iter().collect());
    }
    let find = |name: &String| match MEASURES.iter().find(|measure| measure.name == name) {
        Some(measure) => Ok(measure),
        None => {
            let known: Vec<_> = MEASURES.iter().map(|m| format!("  {:10} {}", m.name, m.brief)).collect();
            bail!("nothing is measured under the name {name}; there are:\n{}", known.join("\n"))
        }
    };
    names.iter().map(find).collect()
}
