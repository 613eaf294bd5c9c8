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
mod ingest;
mod kill;
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

use crate::run::{cargo, run};
use crate::tools;
use anyhow::{Context, Result, bail};
use clap::Args;
use report::{Found, Report};
use stage::Stage;
use std::path::PathBuf;

/// Measure, each figure beside its peer or floor in the same run.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask bench\n  cargo xtask bench pull --quick\n  cargo xtask bench view --json"
)]
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
    /// One line for the head of its table.
    about: &'static str,
    /// Programs that it needs besides ours.
    tools: &'static [tools::Tool],
    run: fn(&Stage) -> Result<Found>,
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
    growth::MEASURE,
];

/// `cargo xtask bench`.
pub(crate) fn bench_run(args: &BenchArgs) -> Result<()> {
    let chosen = measures_choose(&args.names)?;
    tools::tools_need(tools::BENCH_TOOLS)?;
    for measure in &chosen {
        tools::tools_need(measure.tools)?;
    }
    if !args.no_build {
        programs_build()?;
    }
    let stage = Stage::new(args.quick, args.data.as_deref())?;
    let mut failed = Vec::new();
    for measure in chosen {
        eprintln!("measuring {}", measure.name);
        match (measure.run)(&stage).with_context(|| format!("measure {}", measure.name)) {
            Ok(found) => {
                let report = Report::new(measure.name, measure.about, args.quick, found);
                match args.json {
                    true => println!("{}", report.json()?),
                    false => println!("{}", report.table()),
                }
                if args.keep {
                    report.keep()?;
                }
            }
            Err(why) => {
                eprintln!("{why:#}");
                failed.push(measure.name);
            }
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("no result for {}", failed.join(", ")),
    }
}

fn programs_build() -> Result<()> {
    eprintln!("building release programs (the first time takes some minutes)");
    let build = ["build", "--release", "--locked", "--quiet"];
    run(cargo().args(build).args(["--package", "slipway-cli", "--package", "slipway-agent"]))?;
    // Ways into one crate that no program has.
    run(cargo().args(build).args(["--package", "slipway-store", "--example", "ingest"]))?;
    run(cargo().args(build).args(["--package", "slipway-format", "--example", "convert"]))
}

fn measures_choose(names: &[String]) -> Result<Vec<&'static Measure>> {
    if names.is_empty() {
        return Ok(MEASURES.iter().collect());
    }
    let find = |name: &String| match MEASURES.iter().find(|measure| measure.name == name) {
        Some(measure) => Ok(measure),
        None => {
            let known: Vec<_> = MEASURES.iter().map(|m| format!("  {:10} {}", m.name, m.about)).collect();
            bail!("nothing is measured under the name {name}; there are:\n{}", known.join("\n"))
        }
    };
    names.iter().map(find).collect()
}
