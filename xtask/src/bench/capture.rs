//! A disk as a new version of what the server has, beside an image of the whole disk.

use super::Measure;
use super::contest::{Contender, contest, sample_of};
use super::device::Device;
use super::peers::{ZSTD, debian, file_mb, remove};
use super::report::{Found, Row};
use super::sample::{Sample, so_far, timed, timed_read};
use super::stage::{Stage, calm, text};
use crate::run::{is_root, read};
use anyhow::{Context, Result, ensure};
use std::process::Command;

pub(super) const MEASURE: Measure = Measure {
    name: "capture",
    brief: "a disk as a new version, beside partclone",
    minutes: 2.0,
    about: "A loop device that holds v2 is pushed to a server that has v1; processor of client and server together, memory of the client. `fetched` is what was sent. \
            Beside it what makes an image of the same device without knowing the one before.",
    tools: &[ZSTD],
    needs: "root, loop devices",
    run,
};

const STEP: &str = "v2 from a disk";
const OURS: &str = "slipway push, client and server";
const PEER: &str = "partclone, zstd -3 -T2";

fn run(stage: &Stage) -> Result<Found> {
    ensure!(is_root(), "loop devices need root");
    let data = stage.data()?;
    let disk = Device::holding(&stage.folder().join("capture.img"), &data.v2)?;
    let out = stage.folder().join("capture.zst");
    let contenders = vec![
        Contender::one(OURS, || {
            let own = stage.server_new("capture")?;
            read(&mut own.slipway(stage, &["push", text(&data.v1)?, "me/os", "-q"])?)?;
            calm(own.get()?)?;
            stage.settle()?;
            let pid = own.get()?.pid().context("the server has ended")?;
            let before = so_far(pid)?.cpu;
            let (sample, said) =
                timed_read(&own.slipway(stage, &["push", text(disk.path())?, "me/os", "-o", "json"])?)?;
            let cpu = sample.cpu + so_far(pid)?.cpu - before;
            let said: serde_json::Value = serde_json::from_str(&said).with_context(|| format!("reading {said:?}"))?;
            let sent = said["sent_bytes"].as_f64().context("a push says what it sent")? / 1e6;
            Ok(Sample { cpu, fetched_mb: Some(sent), ..sample })
        }),
        Contender::one(PEER, || {
            debian("partclone.ext4", "partclone")?;
            remove(&out)?;
            stage.settle()?;
            let script = "partclone.ext4 -c -q -L /dev/null -s \"$1\" -o - | zstd -3 -T2 -q -o \"$2\"";
            let mut image = Command::new("sh");
            image.args(["-c", script, "sh"]).arg(disk.path()).arg(&out);
            let sample = timed(&image)?;
            let kept_mb = Some(file_mb(&out)?);
            remove(&out)?;
            Ok(Sample { kept_mb, ..sample })
        }),
    ];
    let lines = contest(stage.runs(), &[STEP], contenders);
    let ours = sample_of(&lines, STEP, OURS).context("our own push gave no figure")?;
    let peer = sample_of(&lines, STEP, PEER);
    let rows = vec![
        Row::new("G14 processor", "s", ours.cpu).times(PEER, peer.map(|sample| sample.cpu), 0.3),
        Row::new("G14 wall", "s", ours.wall).times(PEER, peer.map(|sample| sample.wall), 0.3),
        Row::new("G14 sent", "MB", ours.fetched_mb.unwrap_or(f64::NAN)).most_full(stage.quick, 80.0),
    ];
    Ok(Found { lines, rows, ..Found::default() })
}
