//! A version as a new sparse file, beside the copy of such a file.

use super::Measure;
use super::report::{Found, Row};
use super::sample::{median, paired, so_far, timed};
use super::stage::Stage;
use anyhow::{Context, Result};
use std::process::Command;

pub(super) const MEASURE: Measure = Measure {
    name: "pull",
    brief: "a version as a file, beside cp",
    minutes: 0.5,
    about: "A version as a new sparse file: decoded, verified, flushed and read back; beside `cp --sparse=always` and sync of the same image.",
    tools: &[],
    needs: "nothing",
    run,
};

fn run(stage: &Stage) -> Result<Found> {
    stage.pushed()?;
    let (first, _) = stage.images()?;
    let out = stage.folder().join("pulled.img");
    let shown = out.to_str().context("a path that is not UTF-8")?;
    let remove = || std::fs::remove_file(&out).with_context(|| format!("removing {shown}"));
    let pull = stage.slipway(&["pull", "me/os:0", "-o", shown, "-q"])?;
    let mut copy = Command::new("sh");
    copy.args(["-c", "cp --sparse=always \"$1\" \"$2\" && sync \"$2\"", "sh"]).arg(first).arg(&out);
    let server = stage.server()?.pid().context("the server has ended")?;
    let mut server_cpu = Vec::new();
    let (ours, peer) = paired(
        stage.runs(),
        || {
            stage.settle()?;
            let before = so_far(server)?.cpu;
            let sample = timed(&pull)?;
            server_cpu.push(so_far(server)?.cpu - before);
            remove()?;
            Ok(sample)
        },
        || {
            stage.settle()?;
            let sample = timed(&copy)?;
            remove()?;
            Ok(sample)
        },
    )?;
    Ok(vec![
        Row::wall("pull", ours, "cp --sparse=always, sync", peer),
        Row::new("memory of pull", "MB", ours.peak_mb).goal("≤ 64", ours.peak_mb <= 64.0),
        Row::new("processor of the server meanwhile", "s", median(server_cpu)),
    ]
    .into())
}
