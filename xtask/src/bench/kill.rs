//! Flashes and servers that are killed on the way.

use super::Measure;
use super::device::Device;
use super::own::{agent, flash};
use super::proxy::{Proxy, Wire};
use super::random::Random;
use super::report::{Found, Row};
use super::stage::{Stage, text};
use crate::run::{is_root, read};
use anyhow::{Context, Result, ensure};
use std::process::{Child, Stdio};
use std::time::Duration;

pub(super) const MEASURE: Measure = Measure {
    name: "kill",
    brief: "flashes and servers that are killed, and what is fetched twice",
    minutes: 2.5,
    about: "A flash of v2 onto an empty disk is killed (SIGKILL) at a random moment and started again, and so is a server during a push. What came twice is \
            counted by a proxy. What the kernel held when a program died is still written; what a power cut takes is a test (`power_cut`), which makes disks \
            of a recording of all writes and flushes.",
    tools: &[],
    needs: "root, loop devices",
    run,
};

fn run(stage: &Stage) -> Result<Found> {
    ensure!(is_root(), "loop devices need root");
    let mut found = Found::default();
    flashes(stage, &mut found)?;
    servers(stage, &mut found)?;
    Ok(found)
}

fn kill(mut process: Child) -> Result<()> {
    process.kill().context("killing a program")?;
    process.wait().context("waiting for a program")?;
    Ok(())
}

fn flashes(stage: &Stage, found: &mut Found) -> Result<()> {
    stage.pushed()?;
    let data = stage.data()?;
    let server = stage.server()?;
    let size = std::fs::metadata(&data.v2).context("looking at an image")?.len();
    let file = stage.folder().join("kill.img");
    let (whole, seconds, raw) = {
        let proxy = Proxy::start(&server.url, Wire::default())?;
        let device = Device::empty(&file, size)?;
        let done = flash(server, Some(&proxy.url()), "me/os:1", device.path(), &[])?;
        (proxy.down(), done.sample.wall, done.said.written_bytes)
    };
    let mut random = Random::new(13);
    let rounds = if stage.quick { 2 } else { 8 };
    let (mut worst, mut total) = (0_f64, 0_f64);
    for _ in 0..rounds {
        let proxy = Proxy::start(&server.url, Wire::default())?;
        let device = Device::empty(&file, size)?;
        let mut first = server.client(&agent());
        first.env("SLIPWAY_URL", proxy.url()).args(["flash", "me/os:1", text(device.path())?]);
        let process = first.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = process.context("starting slipway-agent")?;
        std::thread::sleep(Duration::from_secs_f64(seconds * (0.1 + 0.8 * random.below(1000) as f64 / 1000.0)));
        kill(process)?;
        flash(server, Some(&proxy.url()), "me/os:1", device.path(), &[])?;
        device.check(&data.v2)?;
        let again = proxy.down().saturating_sub(whole) as f64 / 1e6;
        worst = worst.max(again);
        total += again;
    }
    // Frames of 64 MiB of raw data, as well as these compress, and what four connections and the queue behind them hold.
    let allowed = 67.1 * whole as f64 / raw as f64 + 8.0 * 1.6;
    found.rows.extend([
        Row::new("G13 fetched twice, most", "MB", worst).most(allowed),
        Row::new("fetched twice, mean", "MB", total / f64::from(rounds)),
        Row::new("a flash that is not killed", "MB", whole as f64 / 1e6),
        Row::new("flashes killed, each whole in the end", "", f64::from(rounds)),
    ]);
    Ok(())
}

fn servers(stage: &Stage, found: &mut Found) -> Result<()> {
    let data = stage.data()?;
    let mut own = stage.server_new("kill")?;
    let program = stage.program();
    read(&mut own.slipway(stage, &["push", text(&data.v1)?, "me/os", "-q"])?)?;
    let mut random = Random::new(14);
    let rounds = if stage.quick { 2 } else { 6 };
    let mut lost = 0;
    for round in 0..rounds {
        let mut push = own.slipway(stage, &["push", text(&data.v2)?, "me/new", "-q"])?;
        let push =
            push.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("starting a push")?;
        std::thread::sleep(Duration::from_millis(30 + random.below(if stage.quick { 300 } else { 2500 })));
        own.kill()?;
        // Without a server it would try for a while.
        kill(push)?;
        own.again(&program, &[])?;
        let verified = read(&mut own.slipway(stage, &["image", "verify", "me/os:0", "-q"])?);
        if let Err(why) = verified {
            eprintln!("  round {round}: {why:#}");
            lost += 1;
        }
    }
    read(&mut own.slipway(stage, &["push", text(&data.v2)?, "me/new", "-q"])?)?;
    read(&mut own.slipway(stage, &["check", "-q"])?)?;
    found.rows.extend([
        Row::new("G13 published versions lost", "", f64::from(lost)).most(0.0),
        Row::new("servers killed during a push", "", f64::from(rounds)),
    ]);
    Ok(())
}
