//! Images into a store: the first, two later ones on top of it, and one that is known already.

use super::Measure;
use super::contest::{Contender, contest, sample_of};
use super::dataset::{data_len, differences};
use super::peers::{self, ZSTD, debian, file_mb, folder_mb, remove};
use super::report::{Found, Row};
use super::sample::{Sample, timed, timed_read};
use super::stage::{Stage, text};
use crate::run::top;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::path::Path;
use std::process::Command;

pub(super) const MEASURE: Measure = Measure {
    name: "ingest",
    brief: "images into a store, beside restic, casync, bita, qemu-img and zstd",
    minutes: 5.5,
    about: "A local file into a store, then two later versions on top: the second was changed in place, the third is the second's tree in a file \
            system made afresh. `kept` is what the store grew by; ours counts frames, what stands beside them is a row of its own. desync is not \
            in Debian and rustic takes longer to build than the whole measure, so neither runs here.",
    tools: &[ZSTD],
    needs: "8 GB of disk",
    run,
};

const STEPS: &[&str] = &["v1", "v2 on top", "v3 on top", "v1 again"];
const OURS: &str = "Store::ingest";
const WITH_DIGEST: &str = "Store::ingest, digest of the whole image";
const COMPRESSION: &str = "zstd -3 -T2";

/// A line of the example `ingest`.
#[derive(Deserialize)]
struct Said {
    wall: f64,
    cpu: f64,
    peak_mb: f64,
    size: u64,
    data: u64,
    stored: u64,
    new: u64,
}

fn ours(program: &Path, stage: &Stage, digest: bool) -> Result<Vec<Sample>> {
    let data = stage.data()?;
    let store = stage.folder().join("ingest-store");
    remove(&store)?;
    stage.settle()?;
    let zeros = if digest { u64::MAX } else { 0 };
    let mut ingest = Command::new(program);
    ingest.arg(&store).args(["2", &zeros.to_string()]).args([&data.v1, &data.v2, &data.v3, &data.v1]);
    let (whole, said) = timed_read(&ingest)?;
    let all: f64 = folder_mb(&store)?;
    remove(&store)?;
    let mut samples = Vec::new();
    for line in said.lines() {
        let Said { wall, cpu, peak_mb, size, data, stored, new } =
            serde_json::from_str(line).with_context(|| format!("reading {line:?}"))?;
        ensure!(data <= size && new <= stored, "the ingest says {line:?}");
        let mut sample = Sample { wall, cpu, peak_mb, kept_mb: Some(new as f64 / 1e6), ..Sample::default() };
        (sample.read_mb, sample.written_mb) = (data as f64 / 1e6, new as f64 / 1e6);
        samples.push(sample);
    }
    ensure!(samples.len() == STEPS.len(), "the ingest said {said:?}");
    // All of the process, and all that lies in the folder.
    samples.push(Sample { kept_mb: Some(all), ..whole });
    Ok(samples)
}

/// A peer with a store of its own: one command for each image, and what it is measured by.
fn with_store(
    stage: &Stage,
    folder: &Path,
    begin: impl Fn() -> Result<()>,
    take: impl Fn(&Path, &str) -> Result<Command>,
) -> Result<Vec<Sample>> {
    let data = stage.data()?;
    remove(folder)?;
    std::fs::create_dir_all(folder).context("making a folder")?;
    begin()?;
    let mut samples = Vec::new();
    for (image, name) in [(&data.v1, "v1"), (&data.v2, "v2"), (&data.v3, "v3")] {
        let before = folder_mb(folder)?;
        stage.settle()?;
        let sample = timed(&take(image, name)?)?;
        samples.push(Sample { kept_mb: Some(folder_mb(folder)? - before), ..sample });
    }
    remove(folder)?;
    Ok(samples)
}

/// One image into one file.
fn into_file(stage: &Stage, out: &Path, command: Command) -> Result<Sample> {
    remove(out)?;
    stage.settle()?;
    let sample = timed(&command)?;
    let kept_mb = Some(file_mb(out)?);
    remove(out)?;
    Ok(Sample { kept_mb, ..sample })
}

fn restic(stage: &Stage) -> Result<Vec<Sample>> {
    let folder = stage.folder().join("restic");
    let command = || -> Result<Command> {
        let mut restic = debian("restic", "restic")?;
        restic.env("RESTIC_PASSWORD", "bench").env("RESTIC_REPOSITORY", &folder).args(["--no-cache", "-q"]);
        Ok(restic)
    };
    let take = |image: &Path, _: &str| {
        let mut restic = command()?;
        restic.arg("backup").arg(image);
        Ok(restic)
    };
    with_store(stage, &folder, || crate::run::read(command()?.arg("init")).map(|_| ()), take)
}

fn casync(stage: &Stage) -> Result<Vec<Sample>> {
    let folder = stage.folder().join("casync");
    let take = |image: &Path, name: &str| {
        let mut casync = debian("casync", "casync")?;
        casync.arg("make").arg(format!("--store={}", folder.join("default.castr").display()));
        casync.arg(folder.join(format!("{name}.caibx"))).arg(image);
        Ok(casync)
    };
    with_store(stage, &folder, || Ok(()), take)
}

fn run(stage: &Stage) -> Result<Found> {
    let program = top().join("target/release/examples/ingest");
    let data = stage.data()?;
    let out = stage.folder().join("ingest.out");
    let contenders = vec![
        Contender::new(OURS, || ours(&program, stage, false)),
        Contender::new(WITH_DIGEST, || ours(&program, stage, true)),
        Contender::new(COMPRESSION, || {
            [&data.v1, &data.v2, &data.v3]
                .map(|image| into_file(stage, &out, peers::zstd(image, &out)))
                .into_iter()
                .collect()
        }),
        Contender::new("restic backup", || restic(stage)),
        Contender::new("casync make", || casync(stage)),
        Contender::one("bita compress", || {
            let mut bita = peers::bita()?;
            bita.args(["compress", "--force-create", "-i"]).arg(&data.v1).arg(&out);
            into_file(stage, &out, bita)
        }),
        Contender::one("qemu-img convert -c, zstd", || {
            let mut qemu = debian("qemu-img", "qemu-utils")?;
            qemu.args(["convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd"])
                .arg(&data.v1)
                .arg(&out);
            into_file(stage, &out, qemu)
        }),
        Contender::new("b3sum of the data", || {
            let mut sum = debian("b3sum", "b3sum")?;
            sum.arg("--num-threads=1").arg(&data.dense);
            let sample = timed(&sum)?;
            // It is the floor of the last step only.
            Ok(vec![sample])
        }),
    ];
    let mut steps = STEPS.to_vec();
    steps.push("all four");
    let mut lines = contest(stage.runs(), &steps, contenders);
    for line in lines.iter_mut().filter(|line| line.who.starts_with("b3sum")) {
        line.what = STEPS[3].to_owned();
    }
    lines.sort_by_key(|line| (steps.iter().position(|step| *step == line.what), line.who.starts_with("b3sum")));
    let rows = goals(stage, &lines)?;
    let facts = format!(
        "The images: {:.0} MB each; v1 holds {:.1} MB of data, v2 {:.1}, v3 {:.1}; v2 differs from v1 in {:.1} MB of 4 KiB blocks.",
        file_mb(&data.v1)?,
        data_len(&data.v1)? as f64 / 1e6,
        data_len(&data.v2)? as f64 / 1e6,
        data_len(&data.v3)? as f64 / 1e6,
        differences(&data.v1, &data.v2)?.iter().map(|(begin, end)| end - begin).sum::<u64>() as f64 / 1e6
    );
    Ok(Found { lines, rows, notes: vec![facts], ..Found::default() })
}

fn goals(stage: &Stage, lines: &[super::report::Line]) -> Result<Vec<Row>> {
    let quick = stage.quick;
    let own = |step: usize| sample_of(lines, STEPS[step], OURS).context("our own ingest gave no figure");
    let first = own(0)?;
    let compression = sample_of(lines, STEPS[0], COMPRESSION);
    let cpu = compression.map(|sample| sample.cpu);
    let name = "zstd -3 -T2 of v1";
    let mut rows = vec![
        Row::new("G1 processor of ingest v1", "s", first.cpu).times(name, cpu, 0.75).most_or(quick, 5.6),
        Row::new("G1 peak memory of ingest v1", "MB", first.peak_mb).most(96.0),
    ];
    if let Some(digest) = sample_of(lines, STEPS[0], WITH_DIGEST) {
        rows.push(Row::new("G1 processor with the digest", "s", digest.cpu).most_full(quick, 6.5));
    }
    rows.push(Row::new("G2 processor of v2 on top", "s", own(1)?.cpu).times(name, cpu, 0.27).most_or(quick, 2.0));
    rows.push(Row::new("G2 processor of v3 on top", "s", own(2)?.cpu).times(name, cpu, 0.27).most_or(quick, 1.8));
    let hash = sample_of(lines, STEPS[3], "b3sum of the data").map(|sample| sample.cpu);
    rows.push(Row::new("G2 processor of a known image", "s", own(3)?.cpu).times(
        "b3sum of its data, one thread",
        hash,
        2.0,
    ));
    let kept = |sample: Sample| sample.kept_mb.unwrap_or(f64::NAN);
    let whole = compression.map(kept);
    rows.push(Row::new("G3 stored for v1", "MB", kept(first)).times_full(quick, "zstd -3 of the file", whole, 1.04));
    if let Some(all) = sample_of(lines, "all four", OURS) {
        let frames: f64 = (0..4).map(|step| own(step).map(kept)).sum::<Result<f64>>()?;
        rows.push(Row::new("manifests, segments and footers beside the frames", "MB", kept(all) - frames));
    }
    let exact = exact_new(stage)?;
    for (step, name, floor, most) in
        [(1, "new blocks of v2, zstd -1 each", exact.0, 1.7), (2, "new blocks of v3, raw", exact.1, 1.6)]
    {
        let what = if step == 1 { "G4 added by v2" } else { "G4 added by v3" };
        rows.push(Row::new(what, "MB", kept(own(step)?)).times_full(quick, name, Some(floor), most));
    }
    Ok(rows)
}

/// What exact deduplication of 4 KiB blocks would add: v2's blocks compressed, v3's raw, in MB.
fn exact_new(stage: &Stage) -> Result<(f64, f64)> {
    let data = stage.data()?;
    let mut seen = std::collections::HashSet::new();
    let fresh = stage.folder().join("fresh");
    let mut result = Vec::new();
    for image in [&data.v1, &data.v2, &data.v3] {
        let out = std::fs::File::create(&fresh).context("making a file")?;
        let raw = super::dataset::blocks_fresh(image, &mut seen, out)?;
        result.push((raw as f64 / 1e6, fresh.clone()));
        if image == &data.v2 {
            let mut pack = crate::tools::command("zstd");
            // Blocks of the file on their own, as a store of single blocks would keep them.
            pack.args(["-b1", "-i1", "-B4096"]).arg(text(&fresh)?);
            let out = pack.output().context("starting zstd")?;
            let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).replace('\r', "\n");
            let packed = said.lines().rev().find_map(|line| {
                let (_, rest) = line.rsplit_once("->")?;
                rest.split_whitespace().next()?.parse::<f64>().ok()
            });
            result[1].0 = packed.with_context(|| format!("zstd said {said:?}"))? / 1e6;
        }
    }
    remove(&fresh)?;
    Ok((result[1].0, result[2].0))
}
