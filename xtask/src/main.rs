//! The repository's chores and gates: `cargo xtask --help` lists them.

mod bench;
mod ceph;
mod demo;
mod dist;
mod docs;
mod ignored;
mod layers;
mod licences;
mod man;
mod postgres;
mod run;
mod sizes;
mod test;
mod tools;

use clap::{Parser, Subcommand};

/// The repository's chores and gates.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    after_help = "Examples:\n  cargo xtask demo\n  cargo xtask test\n  cargo xtask test --all"
)]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build, start a server, push two versions of an image, flash one over the other, verify
    Demo(demo::DemoArgs),
    /// Measure, each figure beside its peer or floor in the same run
    Bench(bench::BenchArgs),
    /// Every gate and every test that fits in CI; --all for all of them
    Test(test::TestArgs),
    /// Build the static slipway-agent into target/dist
    Dist,
    /// Check that no crate depends on one that it must not know
    Layers,
    /// Check that long files and functions are listed with a reason
    Sizes,
    /// List what this machine has of devices, mounts, groups and processes of a node: all, or what was made below a folder
    Census(CensusArgs),
    /// Write the pages of the documentation that are made from the help texts
    Docs(docs::DocsArgs),
    /// Write the manual pages of both programs
    Man(man::ManArgs),
    /// Check licences and banned crates of everything that is linked
    Licences,
}

/// What of this machine to list.
#[derive(clap::Args)]
struct CensusArgs {
    /// Only what was made from files below this folder
    #[arg(long, value_name = "FOLDER")]
    below: Option<std::path::PathBuf>,
}

fn main() -> std::process::ExitCode {
    match chore_run(Args::parse().chore) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn chore_run(chore: Chore) -> anyhow::Result<()> {
    match chore {
        Chore::Demo(args) => demo::demo_run(&args),
        Chore::Bench(args) => bench::bench_run(&args),
        Chore::Test(args) => test::test_run(&args),
        Chore::Dist => dist::agent_build().map(|path| println!("{}", path.display())),
        Chore::Layers => layers::layers_check(),
        Chore::Sizes => sizes::sizes_check(),
        Chore::Census(args) => {
            let mut census = run::cargo();
            census.args(["run", "--quiet", "--package", "slipway-lab", "--bin", "census", "--"]);
            if let Some(folder) = args.below {
                census.arg("--below").arg(folder);
            }
            run::run(&mut census)
        }
        Chore::Docs(args) => docs::docs_run(&args),
        Chore::Man(args) => man::man_write(&args),
        Chore::Licences => licences::licences_check(),
    }
}
