//! Disk images of other formats as sparse raw files, beside `qemu-img convert` of the same image.

use super::Measure;
use super::report::{Found, Row};
use super::sample::{paired, timed};
use super::stage::Stage;
use crate::run::{run as run_through, top};
use crate::tools::{Tool, command};
use anyhow::{Context, Result};
use std::cell::RefCell;
use std::path::Path;
use std::process::Command;

pub(super) const MEASURE: Measure = Measure {
    name: "convert",
    brief: "disk images of other formats as raw, beside qemu-img",
    minutes: 4.0,
    about: "A disk image as a sparse raw file, out of the page cache and into it; beside `qemu-img convert` of the same image.",
    tools: &[Tool { program: "qemu-img", package: "qemu-utils" }],
    needs: "nothing",
    run,
};

/// What it is called, our and QEMU's name of the format, and the options that make it.
const IMAGES: &[(&str, &str, &str, &[&str])] = &[
    ("qcow2", "qcow2", "qcow2", &[]),
    ("qcow2, zlib", "qcow2", "qcow2", &["-c"]),
    ("qcow2, zstd", "qcow2", "qcow2", &["-c", "-o", "compression_type=zstd"]),
    ("qcow2, extended", "qcow2", "qcow2", &["-o", "extended_l2=on"]),
    ("VMDK", "vmdk", "vmdk", &[]),
    ("VMDK, streamOptimized", "vmdk", "vmdk", &["-o", "subformat=streamOptimized"]),
    ("VHD, dynamic", "vhd", "vpc", &["-o", "force_size=on"]),
    ("VHD, fixed", "vhd", "vpc", &["-o", "subformat=fixed,force_size=on"]),
    ("VHDX", "vhdx", "vhdx", &[]),
    ("VDI", "vdi", "vdi", &[]),
];

/// Speed of ours over that of the peer, at least.
const SPEED_MIN: f64 = 0.9;
const MEMORY_MAX_MB: f64 = 64.0;

fn run(stage: &Stage) -> Result<Found> {
    let ours = top().join("target/release/examples/convert");
    let (raw, _) = stage.images()?;
    let mut rows = Vec::new();
    for (what, format, qemu, options) in IMAGES {
        let (image, out) = (stage.folder().join("convert.image"), stage.folder().join("convert.raw"));
        let mut make = command("qemu-img");
        make.args(["convert", "-f", "raw", "-O", qemu]).args(*options).arg(raw).arg(&image);
        run_through(&mut make)?;
        let mut own = Command::new(&ours);
        own.arg(format).arg(&image).arg(&out);
        let mut peer = command("qemu-img");
        peer.args(["convert", "-f", qemu, "-O", "raw"]).arg(&image).arg(&out);
        let compared = RefCell::new(Vec::new());
        let one = |program: &Command| {
            stage.settle()?;
            let sample = timed(program)?;
            // A program's first result; the others are its work on the same bytes.
            let who = program.get_program().to_owned();
            if !compared.borrow().contains(&who) {
                same(raw, &out)?;
                compared.borrow_mut().push(who);
            }
            std::fs::remove_file(&out).context("removing what was converted")?;
            Ok(sample)
        };
        let (own, peer) = paired(stage.runs(), || one(&own), || one(&peer))?;
        std::fs::remove_file(&image).context("removing an image")?;
        let fast = peer.wall / own.wall >= SPEED_MIN;
        let small = own.peak_mb <= MEMORY_MAX_MB;
        let goal = format!("speed ≥ {SPEED_MIN} ×, ≤ {MEMORY_MAX_MB} MB");
        rows.push(Row::wall(*what, own, "qemu-img convert", peer).goal(goal, fast && small));
    }
    Ok(rows.into())
}

/// A conversion that gives other bytes is not worth measuring.
fn same(raw: &Path, out: &Path) -> Result<()> {
    run_through(Command::new("cmp").arg("--").arg(raw).arg(out)).context("comparing what was converted")
}
