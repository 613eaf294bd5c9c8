//! Ten versions of which each changes two hundredths of the data.

use super::Measure;
use super::dataset::{data_extents, sparse_copy};
use super::device::Device;
use super::own::flash;
use super::peers::{ZSTD, file_mb, folder_mb, remove, zstd};
use super::random::Random;
use super::report::{Found, Row};
use super::sample::{Sample, paired};
use super::stage::{Stage, calm, text};
use crate::run::{is_root, read};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub(super) const MEASURE: Measure = Measure {
    name: "versions",
    brief: "ten versions of 2 % each, beside ten files of zstd",
    minutes: 3.0,
    about: "Ten versions of v1, in each of which 2 % of the data are written anew, in runs of 16 to 256 KiB of noise and text; beside ten files of `zstd -3`. \
            Then the tenth and the first onto empty disks.",
    tools: &[ZSTD],
    needs: "root, loop devices",
    run,
};

/// Writes 2 % of the data anew.
fn change(image: &Path, seed: u64) -> Result<()> {
    let extents = data_extents(image)?;
    let total: u64 = extents.iter().map(|(begin, end)| end - begin).sum();
    let file = File::options().write(true).open(image).context("opening an image")?;
    let mut random = Random::new(seed);
    let mut left = total / 50;
    while left > 0 {
        let mut at = random.below(total);
        let (begin, end) = extents
            .iter()
            .find(|(begin, end)| {
                let inside = at < end - begin;
                at -= if inside { 0 } else { end - begin };
                inside
            })
            .context("a place lies within the data")?;
        let from = (begin + at) / 4096 * 4096;
        let len = ((1 + random.below(16)) * 16_384).min(end - from).min(left.next_multiple_of(4096));
        let mut bytes = Vec::with_capacity(len as usize + 64);
        while bytes.len() < len as usize {
            bytes.extend(random.bytes(32));
            bytes.extend(b"a line as many files have it, again;");
        }
        file.write_all_at(&bytes[..len as usize], from).context("changing an image")?;
        left = left.saturating_sub(len);
    }
    file.sync_all().context("flushing an image")
}

fn run(stage: &Stage) -> Result<Found> {
    ensure!(is_root(), "loop devices need root");
    let data = stage.data()?;
    let own = stage.server_new("versions")?;
    let (image, packed) = (stage.folder().join("version.img"), stage.folder().join("version.zst"));
    sparse_copy(&data.v1, &image)?;
    let first = stage.folder().join("version-0.img");
    sparse_copy(&data.v1, &first)?;
    let mut files_mb = 0.0;
    for number in 0..10 {
        if number > 0 {
            change(&image, number)?;
        }
        read(&mut own.slipway(stage, &["push", text(&image)?, "me/os", "-q"])?)?;
        read(&mut zstd(&image, &packed))?;
        files_mb += file_mb(&packed)?;
    }
    remove(&packed)?;
    calm(own.get()?)?;
    let store_mb = folder_mb(&own.data.join("blobs"))?;
    let size = std::fs::metadata(&image).context("looking at an image")?.len();
    let file = stage.folder().join("versions-disk.img");
    let once = |reference: &str, wanted: &Path| -> Result<Sample> {
        let device = Device::empty(&file, size)?;
        stage.settle()?;
        let sample = flash(own.get()?, None, reference, device.path(), &[])?.sample;
        device.check(wanted)?;
        Ok(sample)
    };
    let (tenth, first_sample) = paired(stage.runs(), || once("me/os:9", &image), || once("me/os:0", &first))?;
    remove(&image)?;
    remove(&first)?;
    let mut wall = Row::wall("G15 flash of the tenth", tenth, "flash of the first", first_sample);
    wall = wall.goal("≤ 1.1 ×", tenth.wall <= 1.1 * first_sample.wall);
    let row = Row::new("G15 store of ten versions, all files of it", "MB", store_mb);
    let cpu = Row::new("G15 processor of the tenth's flash", "s", tenth.cpu);
    Ok(vec![
        row.times_full(stage.quick, "ten files of zstd -3", Some(files_mb), 0.25),
        wall,
        cpu.times("flash of the first", Some(first_sample.cpu), 1.1),
    ]
    .into())
}
