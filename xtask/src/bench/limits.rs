//! Flash and ingest where memory is short: in a control group that counts the page cache too.

use super::Measure;
use super::device::Device;
use super::own::agent;
use super::report::{Found, Row};
use super::stage::{Stage, text};
use crate::run::{is_root, may_go_on, top};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(super) const MEASURE: Measure = Measure {
    name: "limits",
    brief: "flash and ingest in control groups of 64 and 128 MB",
    minutes: 3.0,
    about: "In a control group of the kernel with little memory, page cache included: a flash in 64 MB, whatever the image's size, and an ingest in 128 MB. \
            The figure is the group's peak; a process that the kernel kills misses the goal.",
    tools: &[],
    needs: "root, loop devices, control groups of memory",
    run,
};

/// A control group, removed when dropped.
struct Group {
    folder: PathBuf,
    peak: &'static str,
}

impl Group {
    fn new(limit: u64) -> Result<Self> {
        let name = format!("slipway-bench-{}", std::process::id());
        let (first, second) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let (folder, most, peak) = if first.is_dir() {
            (first.join(name), "memory.limit_in_bytes", "memory.max_usage_in_bytes")
        } else {
            let controllers = fs::read_to_string(second.join("cgroup.subtree_control")).unwrap_or_default();
            ensure!(controllers.contains("memory"), "no control group of this machine limits memory");
            (second.join(name), "memory.max", "memory.peak")
        };
        fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        let group = Self { folder, peak };
        fs::write(group.folder.join(most), limit.to_string()).context("limiting the memory of a group")?;
        Ok(group)
    }

    /// Runs a program in it; its peak in MB.
    fn run(&self, command: &Command) -> Result<f64> {
        let mut within = Command::new("sh");
        within.args(["-c", "echo $$ > \"$1\" && shift && exec \"$@\"", "sh"]).arg(self.folder.join("cgroup.procs"));
        within.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                within.env(name, value);
            }
        }
        may_go_on()?;
        let out = within.stdin(Stdio::null()).output().context("starting a program in a group")?;
        if !out.status.success() {
            bail!("{}: {}", out.status, String::from_utf8_lossy(&out.stderr).trim());
        }
        let peak = fs::read_to_string(self.folder.join(self.peak)).context("reading the peak of a group")?;
        Ok(peak.trim().parse::<f64>().context("reading the peak of a group")? / 1e6)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last process of a group may be on its way out.
        for _ in 0..20 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

fn row(what: &str, limit: u64, result: Result<f64>) -> Row {
    let goal = format!("works in {} MB", limit / 1_000_000);
    match result {
        Ok(peak) => Row::new(what, "MB", peak).goal(goal, true),
        Err(why) => {
            eprintln!("  {what}: {why:#}");
            // The first words say how it ended, the lines after them are the program's own.
            let why = format!("{why:#}");
            let ended =
                why.lines().next().and_then(|line| line.rsplit_once(": ").map(|(ended, _)| ended)).unwrap_or("failed");
            Row::new(what, "MB", f64::NAN).goal(format!("{goal} ({ended})"), false)
        }
    }
}

fn run(stage: &Stage) -> Result<Found> {
    ensure!(is_root(), "control groups and loop devices need root");
    const FLASH: u64 = 64_000_000;
    const INGEST: u64 = 128_000_000;
    stage.all_pushed()?;
    let data = stage.data()?;
    let file = stage.folder().join("limits.img");
    let size = fs::metadata(&data.v2).context("looking at an image")?.len();
    let flash = |reference: &str, device: &Device, image: &Path| -> Result<f64> {
        let mut command = stage.server()?.client(&agent());
        command.args(["flash", reference, text(device.path())?]);
        let peak = Group::new(FLASH)?.run(&command)?;
        device.check(image)?;
        Ok(peak)
    };
    let full = Device::empty(&file, size).and_then(|device| flash("me/os:1", &device, &data.v2));
    let mut rows = vec![row("G9 v2 onto an empty disk", FLASH, full)];
    let moved = Device::holding(&file, &data.v2).and_then(|device| flash("me/os:2", &device, &data.v3));
    rows.push(row("G9 v3 onto a disk that holds v2", FLASH, moved));
    let large = super::growth::large_image(stage, 100 << 30).and_then(|image| {
        let path = image.path();
        crate::run::read(&mut stage.slipway(&["push", text(path)?, "me/large", "-q"])?)?;
        let device = Device::empty(&file, 100 << 30)?;
        flash("me/large:0", &device, path)
    });
    rows.push(row("G9 an image of 100 GiB onto an empty disk", FLASH, large));
    let store = stage.folder().join("limits-store");
    let mut ingest = Command::new(top().join("target/release/examples/ingest"));
    ingest.arg(&store).args(["2", "0"]).args([&data.v1, &data.v2, &data.v3]);
    let ingested = Group::new(INGEST).and_then(|group| group.run(&ingest));
    super::peers::remove(&store)?;
    rows.push(row("G9 ingest of v1, v2 and v3", INGEST, ingested));
    Ok(rows.into())
}
