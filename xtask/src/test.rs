//! The test command: gates, then tests, then the programs as a whole.

use crate::run::{cargo, is_root, run, top};
use crate::{ceph, demo, dist, docs, ignored, layers, licences, postgres, sizes, tools};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::process::Command;
use std::time::Instant;

/// Every gate and every test that fits in CI.
#[derive(Args)]
pub(crate) struct TestArgs {
    /// Every sweep position, every crash point, every size: much longer
    #[arg(long)]
    all: bool,
    /// Only the gates (formatting, lints, layers, sizes, licences, docs)
    #[arg(long)]
    gates: bool,
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    println!("== {name}");
    work().with_context(|| format!("step '{name}'"))?;
    println!("== {name}: {:.0} s", begun.elapsed().as_secs_f32());
    Ok(())
}

/// Runs all of it; the first failure ends it.
pub(crate) fn test_run(args: &TestArgs) -> Result<()> {
    place_check(args)?;
    tools::tools_need(tools::TEST_TOOLS)?;
    if args.all {
        tools::tools_need(tools::ALL_TOOLS)?;
    }
    gates()?;
    if args.gates {
        return Ok(());
    }
    tests(args.all)?;
    step("static agent", || dist::agent_build().and_then(|agent| dist::agent_try(&agent)))?;
    step("demo", demo::demo_try)?;
    if !is_root() {
        println!("ignored: every test that needs root (loop devices, mounts); run as root for all");
    }
    Ok(())
}

/// Guests see this machine's files, but for a /tmp of their own.
fn place_check(args: &TestArgs) -> Result<()> {
    let place = top();
    ensure!(
        args.gates || !is_root() || !place.starts_with("/tmp"),
        "{} lies below /tmp, where the guests of the tests do not see it: run it in a checkout elsewhere",
        place.display()
    );
    Ok(())
}

fn gates() -> Result<()> {
    step("rustfmt", || run(cargo().args(["fmt", "--all", "--check"])))?;
    step("layers", layers::layers_check)?;
    step("sizes", sizes::sizes_check)?;
    step("licences", licences::licences_check)?;
    step("ignored tests", ignored::ignored_check)?;
    step("docs", docs::docs_check)?;
    step("clippy", || {
        run(cargo().args(["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"]))
    })?;
    step("rustdoc", || {
        run(cargo().env("RUSTDOCFLAGS", "-D warnings").args([
            "doc",
            "--workspace",
            "--no-deps",
            "--locked",
            "--quiet",
            "--document-private-items",
        ]))
    })
}

/// Tests that need root or a long time are `#[ignore]`d and named `root_…` and `long_…`, so that each set can be run by name.
fn tests(all: bool) -> Result<()> {
    let postgres = postgres::Postgres::start()?;
    let cargo_test = |filters: &[&str]| -> Command {
        let mut command = cargo();
        command.env("SLIPWAY_TEST_POSTGRES", &postgres.url).env("RUST_BACKTRACE", "1");
        if all {
            command.env("SLIPWAY_TEST_ALL", "1");
        }
        command.args(["test", "--workspace", "--locked", "--no-fail-fast", "--"]).args(filters);
        command
    };
    step("tests", || run(&mut cargo_test(&[])))?;
    if is_root() {
        step("tests that need root", || run(&mut cargo_test(&["--ignored", "--test-threads=2", "root_"])))?;
    }
    if all {
        let ceph = ceph::Ceph::start()?;
        let long = &["--ignored", "--test-threads=1", "long_"];
        step("long tests", || run(cargo_test(long).env("SLIPWAY_TEST_S3", &ceph.s3)))?;
    }
    Ok(())
}
