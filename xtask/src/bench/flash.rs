//! Versions onto disks: an empty one, one that holds the version before, one that holds it already.

use super::Measure;
use super::contest::{Contender, contest, sample_of};
use super::dataset::{data_len, differences};
use super::device::Device;
use super::own::{Said, flash};
use super::peers::{ZSTD, bita, debian, remove, zstd};
use super::report::{Found, Line, Row};
use super::sample::{Sample, timed};
use super::stage::Stage;
use crate::run::{is_root, read};
use anyhow::{Context, Result, ensure};
use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

pub(super) const MEASURE: Measure = Measure {
    name: "flash",
    brief: "versions onto empty, older and equal disks, beside dd, bmaptool, qemu-img, partclone, casync and bita",
    minutes: 9.0,
    about: "Onto a loop device, from a server on loopback over plain HTTP: `slipway-agent flash` reads the disk, writes what differs, flushes, and reads \
            back what it wrote; the server's processor is a row of its own. `written` is what the kernel sent to the device, zeroed ranges included. \
            Of the peers only bmaptool checks what it copies (the archive's sums, not the disk), and none reads back. Every program's first result is \
            compared with the image.",
    tools: &[ZSTD],
    needs: "root, loop devices",
    run,
};

const OURS: &str = "slipway-agent flash";
const NO_VERIFY: &str = "slipway-agent flash --no-verify";
const FLOOR: &str = "floor: dd conv=sparse,fsync";
const READ: &str = "floor: dd iflag=direct of the disk";
const READ_AND_WRITE: &str = "floor: dd iflag=direct of the disk, then what differs";

/// Work of which the disk is the object: prepared, timed, and compared the first time.
struct Disk<'a> {
    stage: &'a Stage,
    file: PathBuf,
    holds: Option<&'a Path>,
    wanted: &'a Path,
    compared: RefCell<Vec<String>>,
}

impl<'a> Disk<'a> {
    fn new(stage: &'a Stage, holds: Option<&'a Path>, wanted: &'a Path) -> Self {
        Self { stage, file: stage.folder().join("disk.img"), holds, wanted, compared: RefCell::default() }
    }

    fn run(&self, who: &str, work: impl FnOnce(&Path) -> Result<Sample>) -> Result<Sample> {
        let device = match self.holds {
            Some(image) => Device::holding(&self.file, image)?,
            None => Device::empty(&self.file, std::fs::metadata(self.wanted).context("looking at an image")?.len())?,
        };
        self.stage.settle()?;
        let before = device.written_mb()?;
        let sample = work(device.path())?;
        // What a program left in the page cache is its work all the same.
        File::open(device.path()).and_then(|disk| disk.sync_all()).context("flushing a disk")?;
        let written_mb = device.written_mb()? - before;
        if !self.compared.borrow().iter().any(|done| done == who) {
            device.check(self.wanted)?;
            self.compared.borrow_mut().push(who.to_owned());
        }
        Ok(Sample { written_mb, ..sample })
    }

    /// Reads the disk to its end past the page cache.
    fn read_direct(&self, device: &Path) -> Result<Sample> {
        let mut dd = Command::new("dd");
        dd.arg(format!("if={}", device.display())).args(["of=/dev/null", "bs=4M", "iflag=direct", "status=none"]);
        timed(&dd)
    }
}

/// What our flashes said beside time and memory.
#[derive(Default)]
struct Own {
    said: Said,
    server_cpu: Vec<f64>,
}

fn own(stage: &Stage, reference: &str, device: &Path, more: &[&str], own: &RefCell<Own>) -> Result<Sample> {
    let done = flash(stage.server()?, None, reference, device, more)?;
    own.borrow_mut().said = done.said;
    own.borrow_mut().server_cpu.push(done.server_cpu);
    Ok(done.sample)
}

fn run(stage: &Stage) -> Result<Found> {
    ensure!(is_root(), "loop devices need root");
    stage.all_pushed()?;
    let mut found = Found::default();
    // The unit of the goals: what compression alone of the first image takes.
    let out = stage.folder().join("flash.out");
    let compression = vec![Contender::one("zstd -3 -T2", || {
        stage.settle()?;
        timed(&zstd(&stage.data()?.v1, &out))
    })];
    let unit = contest(stage.runs(), &["compression of v1, the unit of the goals"], compression);
    remove(&out)?;
    let unit_cpu = unit.first().and_then(|line| line.result.as_ref().ok()).map(|sample| sample.cpu);
    found.lines.extend(unit);
    full(stage, unit_cpu, &mut found)?;
    delta(stage, unit_cpu, &mut found)?;
    moved(stage, &mut found)?;
    unchanged(stage, &mut found)?;
    Ok(found)
}

/// The peers' archives of v2, made before anything is timed.
struct Archives {
    zst: PathBuf,
    bmap: PathBuf,
    qcow2: PathBuf,
    partclone: PathBuf,
    casync: PathBuf,
}

impl Archives {
    fn new(stage: &Stage) -> Self {
        let file = |name: &str| stage.folder().join(name);
        Self {
            zst: file("v2.img.zst"),
            bmap: file("v2.bmap"),
            qcow2: file("v2.qcow2"),
            partclone: file("v2.pcl.zst"),
            casync: file("v2-casync"),
        }
    }

    fn packed(&self, image: &Path) -> Result<&Path> {
        if !self.zst.exists() {
            read(&mut zstd(image, &self.zst))?;
        }
        Ok(&self.zst)
    }
}

impl Drop for Archives {
    fn drop(&mut self) {
        for path in [&self.zst, &self.bmap, &self.qcow2, &self.partclone, &self.casync] {
            let _ = remove(path);
        }
    }
}

fn shell(script: &str, words: &[&Path]) -> Command {
    let mut sh = Command::new("sh");
    sh.args(["-c", script, "sh"]).args(words);
    sh
}

fn full(stage: &Stage, unit_cpu: Option<f64>, found: &mut Found) -> Result<()> {
    const STEP: &str = "v2 onto an empty disk";
    let image = stage.data()?.v2.as_path();
    let disk = Disk::new(stage, None, image);
    let archives = Archives::new(stage);
    let (first, second) = (RefCell::new(Own::default()), RefCell::new(Own::default()));
    let lines = {
        let contenders = vec![
            Contender::one(OURS, || disk.run(OURS, |device| own(stage, "me/os:1", device, &[], &first))),
            Contender::one(NO_VERIFY, || {
                disk.run(NO_VERIFY, |device| own(stage, "me/os:1", device, &["--no-verify"], &second))
            }),
            Contender::one(FLOOR, || {
                let script = "dd if=\"$1\" of=\"$2\" bs=1M conv=sparse,fsync,notrunc status=none";
                disk.run(FLOOR, |device| timed(&shell(script, &[image, device])))
            }),
            Contender::one(READ, || {
                let device = Device::holding(&stage.folder().join("disk.img"), image)?;
                stage.settle()?;
                disk.read_direct(device.path())
            }),
            Contender::one("bmaptool copy", || bmaptool(&disk, &archives)),
            Contender::one("zstd -dc | dd conv=fsync", || {
                archives.packed(image)?;
                let script = "zstd -dc -q \"$1\" | dd of=\"$2\" bs=1M conv=fsync iflag=fullblock status=none";
                disk.run("zstd", |device| timed(&shell(script, &[&archives.zst, device])))
            }),
            Contender::one("qemu-img convert, qcow2 of zstd", || qemu(&disk, &archives)),
            Contender::one("partclone, zstd", || partclone(&disk, &archives)),
            Contender::one("casync extract", || casync(&disk, &archives)),
        ];
        contest(stage.runs(), &[STEP], contenders)
    };
    let ours = sample_of(&lines, STEP, OURS).context("our own flash gave no figure")?;
    let data_mb = data_len(image)? as f64 / 1e6;
    let wall = |who: &str| sample_of(&lines, STEP, who).map(|sample| sample.wall);
    let said = first.borrow().said;
    found.rows.extend([
        Row::new("G5 written to an empty disk", "MB", said.written_bytes as f64 / 1e6).times(
            "data of v2",
            Some(data_mb),
            1.01,
        ),
        Row::new("G5 processor", "s", ours.cpu).times("zstd -3 -T2 of v1", unit_cpu, 0.46).most_or(stage.quick, 3.5),
        Row::new("G5 memory", "MB", ours.peak_mb).most(48.0),
        Row::new("G5 wall, not read back", "s", wall(NO_VERIFY).unwrap_or(f64::NAN)).times(FLOOR, wall(FLOOR), 1.15),
        Row::new("G5 wall of reading back", "s", ours.wall - wall(NO_VERIFY).unwrap_or(f64::NAN)).times(
            READ,
            wall(READ),
            1.1,
        ),
        Row::new(
            "processor of the server for a full flash",
            "s",
            super::sample::median(first.borrow().server_cpu.clone()),
        ),
    ]);
    found.lines.extend(lines);
    Ok(())
}

fn bmaptool(disk: &Disk<'_>, archives: &Archives) -> Result<Sample> {
    debian("bmaptool", "bmap-tools")?;
    archives.packed(disk.wanted)?;
    if !archives.bmap.exists() {
        read(debian("bmaptool", "bmap-tools")?.args(["create", "-o"]).arg(&archives.bmap).arg(disk.wanted))?;
    }
    disk.run("bmaptool", |device| {
        let mut copy = debian("bmaptool", "bmap-tools")?;
        copy.args(["-q", "copy", "--bmap"]).arg(&archives.bmap).arg(&archives.zst).arg(device);
        timed(&copy)
    })
}

fn qemu(disk: &Disk<'_>, archives: &Archives) -> Result<Sample> {
    if !archives.qcow2.exists() {
        let mut make = debian("qemu-img", "qemu-utils")?;
        make.args(["convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd"]);
        read(make.arg(disk.wanted).arg(&archives.qcow2))?;
    }
    disk.run("qemu-img", |device| {
        let script = "qemu-img convert -n -W --target-is-zero -f qcow2 -O raw \"$1\" \"$2\" && sync \"$2\"";
        timed(&shell(script, &[&archives.qcow2, device]))
    })
}

fn partclone(disk: &Disk<'_>, archives: &Archives) -> Result<Sample> {
    debian("partclone.ext4", "partclone")?;
    if !archives.partclone.exists() {
        let script = "partclone.ext4 -c -q -L /dev/null -s \"$1\" -o - | zstd -3 -T2 -q -o \"$2\"";
        let source = Device::holding(&disk.stage.folder().join("source.img"), disk.wanted)?;
        read(&mut shell(script, &[source.path(), &archives.partclone]))?;
    }
    // It gives back the blocks in use; the others are not compared.
    disk.compared.borrow_mut().push("partclone".into());
    disk.run("partclone", |device| {
        let script = "zstd -dc -q \"$1\" | partclone.ext4 -r -q -L /dev/null -s - -o \"$2\" && sync \"$2\"";
        timed(&shell(script, &[&archives.partclone, device]))
    })
}

fn casync(disk: &Disk<'_>, archives: &Archives) -> Result<Sample> {
    let index = archives.casync.join("v2.caibx");
    let store = format!("--store={}", archives.casync.join("default.castr").display());
    if !index.exists() {
        std::fs::create_dir_all(&archives.casync).context("making a folder")?;
        read(debian("casync", "casync")?.args(["make", &store]).arg(&index).arg(disk.wanted))?;
    }
    disk.run("casync", |device| {
        let script = "casync extract \"$3\" \"$1\" \"$2\" && sync \"$2\"";
        timed(&shell(script, &[&index, device, Path::new(&store)]))
    })
}

/// The extents in which two images differ, read beforehand so that only the writing is timed.
fn differing_write(disk: &Disk<'_>, device: &Path, extents: &[(u64, u64)]) -> Result<Sample> {
    let mut sample = disk.read_direct(device)?;
    let image = File::open(disk.wanted).context("opening an image")?;
    let mut pieces = Vec::with_capacity(extents.len());
    for (begin, end) in extents {
        let mut bytes = vec![0; (end - begin) as usize];
        image.read_exact_at(&mut bytes, *begin).context("reading an image")?;
        pieces.push((*begin, bytes));
    }
    let begun = Instant::now();
    let target = File::options().write(true).open(device).context("opening a disk")?;
    for (at, bytes) in &pieces {
        target.write_all_at(bytes, *at).context("writing a disk")?;
    }
    target.sync_all().context("flushing a disk")?;
    sample.wall += begun.elapsed().as_secs_f64();
    Ok(sample)
}

fn delta(stage: &Stage, unit_cpu: Option<f64>, found: &mut Found) -> Result<()> {
    const STEP: &str = "v2 onto a disk that holds v1";
    let data = stage.data()?;
    let disk = Disk::new(stage, Some(&data.v1), &data.v2);
    let extents = differences(&data.v1, &data.v2)?;
    let differing_mb = extents.iter().map(|(begin, end)| end - begin).sum::<u64>() as f64 / 1e6;
    let archive = stage.folder().join("v2.cba");
    let told = RefCell::new(Own::default());
    let lines = {
        let contenders = vec![
            Contender::one(OURS, || disk.run(OURS, |device| own(stage, "me/os:1", device, &[], &told))),
            Contender::one(READ_AND_WRITE, || {
                disk.run(READ_AND_WRITE, |device| differing_write(&disk, device, &extents))
            }),
            Contender::one("bita clone --seed-output", || {
                if !archive.exists() {
                    read(bita()?.args(["compress", "--force-create", "-i"]).arg(&data.v2).arg(&archive))?;
                }
                disk.run("bita", |device| {
                    let mut clone = bita()?;
                    clone.args(["clone", "--seed-output", "--force-create"]).arg(&archive).arg(device);
                    timed(&clone)
                })
            }),
        ];
        contest(stage.runs(), &[STEP], contenders)
    };
    remove(&archive)?;
    let ours = sample_of(&lines, STEP, OURS).context("our own flash gave no figure")?;
    let floor = sample_of(&lines, STEP, READ_AND_WRITE).map(|sample| sample.wall);
    let said = told.borrow().said;
    found.rows.extend([
        Row::new("G6 written", "MB", said.written_bytes as f64 / 1e6).times(
            "blocks that differ",
            Some(differing_mb),
            1.02,
        ),
        Row::new("zeroed beside it", "MB", said.zeroed_bytes as f64 / 1e6),
        Row::new("G6 fetched", "MB", said.fetched_bytes as f64 / 1e6).most_full(stage.quick, 80.0),
        Row::new("G6 processor", "s", ours.cpu).times("zstd -3 -T2 of v1", unit_cpu, 0.26).most_or(stage.quick, 2.0),
        Row::new("G6 wall", "s", ours.wall).times(READ_AND_WRITE, floor, 1.3),
        Row::new("G6 memory", "MB", ours.peak_mb).most(48.0),
    ]);
    found.lines.extend(lines);
    Ok(())
}

/// What version `number` added to the store, in MB.
fn added_mb(stage: &Stage, number: u64) -> Result<f64> {
    let shown = read(&mut stage.slipway(&["image", "show", "me/os", "-o", "json"])?)?;
    let shown: serde_json::Value = serde_json::from_str(&shown).context("reading what image show says")?;
    let versions = shown["versions"].as_array().context("an image has versions")?;
    let version = versions.iter().find(|version| version["number"] == number).context("the version is not there")?;
    Ok(version["new_bytes"].as_f64().context("a version says what it added")? / 1e6)
}

fn moved(stage: &Stage, found: &mut Found) -> Result<()> {
    const STEP: &str = "v3 onto a disk that holds v2";
    let data = stage.data()?;
    let disk = Disk::new(stage, Some(&data.v2), &data.v3);
    let told = RefCell::new(Own::default());
    let ours = vec![Contender::one(OURS, || disk.run(OURS, |device| own(stage, "me/os:2", device, &[], &told)))];
    let lines = contest(stage.runs(), &[STEP], ours);
    let ours = sample_of(&lines, STEP, OURS).context("our own flash gave no figure")?;
    let said = told.borrow().said;
    let fetched = said.fetched_bytes as f64 / 1e6;
    let added = added_mb(stage, 2)?;
    found.rows.extend([
        Row::new("G7 fetched where blocks moved", "MB", fetched).times("frames that v3 added", Some(added), 1.15),
        Row::new("of it, chunks whose old place was gone", "MB", (fetched - added).max(0.0)),
        Row::new("copied within the disk", "MB", said.moved_bytes as f64 / 1e6),
        Row::new("G7 requests", "", said.requests as f64),
        Row::new("G7 memory", "MB", ours.peak_mb).most(48.0),
    ]);
    found.lines.extend(lines);
    Ok(())
}

fn unchanged(stage: &Stage, found: &mut Found) -> Result<()> {
    const STEP: &str = "v2 onto a disk that holds it";
    let data = stage.data()?;
    let disk = Disk::new(stage, Some(&data.v2), &data.v2);
    let told = RefCell::new(Own::default());
    let contenders = vec![
        Contender::one(OURS, || disk.run(OURS, |device| own(stage, "me/os:1", device, &[], &told))),
        Contender::one(READ, || disk.run(READ, |device| disk.read_direct(device))),
    ];
    let lines: Vec<Line> = contest(stage.runs(), &[STEP], contenders);
    let ours = sample_of(&lines, STEP, OURS).context("our own flash gave no figure")?;
    let floor = sample_of(&lines, STEP, READ).map(|sample| sample.wall);
    let said = told.borrow().said;
    found.rows.extend([
        Row::new("G8 written where nothing differs", "MB", (said.written_bytes + said.zeroed_bytes) as f64 / 1e6)
            .most(0.0),
        Row::new("G8 fetched beside manifest and segments", "MB", said.fetched_bytes as f64 / 1e6).most(0.0),
        Row::new("G8 wall", "s", ours.wall).times(READ, floor, 1.1),
        Row::new("G8 processor", "s", ours.cpu).most_full(stage.quick, 0.6),
    ]);
    found.lines.extend(lines);
    Ok(())
}
