//! A node service of its own for the measures, and what it and the kernel have.

use super::http;
use crate::run::top;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// In memory, as the default is.
const RUN: &str = "/run/slipway-bench";

pub(super) struct Service {
    folder: PathBuf,
    child: Child,
}

impl Service {
    /// Starts the release build; the folder keeps its directories, so that a second one goes on with them.
    pub(super) fn start(folder: &Path) -> Result<Self> {
        let mut service = Self { folder: folder.to_owned(), child: program_start(folder)? };
        service.ready()?;
        Ok(service)
    }

    /// Waits until it answers.
    fn ready(&mut self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if http::raw(&self.socket(), "GET", "/readyz", None).is_ok_and(|(status, _)| status == 200) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("slipway-agent serve ended with {status}:\n{}", self.log());
            }
            ensure!(Instant::now() < until, "slipway-agent serve is not ready after 30 s:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("node.sock")
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("node.log")).unwrap_or_default()
    }

    pub(super) fn ok(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        http::ok(&self.socket(), method, path, body)
    }

    /// Kills it, and starts another on the same directories. Seconds until that one is ready.
    pub(super) fn kill_and_start(&mut self) -> Result<f64> {
        self.child.kill()?;
        self.child.wait()?;
        let begun = Instant::now();
        self.child = program_start(&self.folder)?;
        self.ready()?;
        Ok(begun.elapsed().as_secs_f64())
    }

    /// What of it the kernel has: loop devices of files in its folder, mounts below it, and control groups of containers.
    pub(super) fn left(&self) -> Vec<String> {
        let folder = self.folder.display().to_string();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        // The run directory itself is a mount for as long as the service lives.
        let below = format!("{RUN}/");
        let mounts = mounts.lines().filter(|line| line.contains(&below)).map(str::to_owned);
        let loops = fs::read_dir("/sys/block").into_iter().flatten().flatten().filter_map(|entry| {
            let file = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
            file.contains(&folder).then(|| format!("{} {}", entry.file_name().display(), file.trim()))
        });
        let containers = fs::read_dir(format!("{RUN}/containers")).into_iter().flatten().flatten();
        let containers = containers.map(|entry| entry.path().display().to_string());
        mounts.chain(loops).chain(containers).collect()
    }

    /// Waits until nothing is left, at most so long.
    pub(super) fn clean_wait(&self, limit: Duration) {
        let until = Instant::now() + limit;
        while !self.left().is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Deletes all that it has.
    fn clear(&self) -> Result<()> {
        for (kind, force) in [("container", "&force=true"), ("mount", ""), ("attach", "")] {
            let all = self.ok("GET", &format!("/{kind}"), None)?;
            for one in all.as_array().into_iter().flatten() {
                // What belongs to another one has gone with it.
                let _ = self.ok("DELETE", &format!("/{kind}?id={}{force}", one["id"]), None);
            }
        }
        self.clean_wait(Duration::from_secs(30));
        match self.left() {
            left if left.is_empty() => Ok(()),
            left => bail!("left over: {}", left.join("\n")),
        }
    }

    /// Resident memory now, in MB.
    pub(super) fn memory(&self) -> Result<f64> {
        field(&format!("/proc/{}/status", self.pid()), "VmRSS:")
    }

    pub(super) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// Private pages of each shim, in MB.
    pub(super) fn shims(&self) -> Vec<f64> {
        let names = fs::read_dir("/proc").into_iter().flatten().flatten().filter(|entry| {
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).into_owned();
            words.contains("shim") && words.contains(RUN)
        });
        let private = |path: PathBuf| {
            let rollup = path.join("smaps_rollup").display().to_string();
            Some(field(&rollup, "Private_Clean:").ok()? + field(&rollup, "Private_Dirty:").ok()?)
        };
        names.filter_map(|entry| private(entry.path())).collect()
    }
}

fn program_start(folder: &Path) -> Result<Child> {
    let log = fs::File::options().create(true).append(true).open(folder.join("node.log"))?;
    // Ends with us, however that is.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(top().join("target/release/slipway-agent"));
    command.arg("serve").arg("--socket").arg(folder.join("node.sock")).args(["--run-dir", RUN]);
    command.arg("--state-dir").arg(folder.join("state"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().context("starting slipway-agent serve")
}

impl Drop for Service {
    fn drop(&mut self) {
        // A measure that failed leaves containers, which outlive a service.
        if !self.left().is_empty()
            && let Err(why) = self.kill_and_start().and_then(|_| self.clear())
        {
            eprintln!("the node service of the measure: {why:#}");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = Command::new("umount").arg(RUN).stderr(Stdio::null()).status();
        let _ = fs::remove_dir_all(RUN);
    }
}

/// A field in kB of a file of the kernel, in MB.
fn field(path: &str, name: &str) -> Result<f64> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("{path} has no {name}"))?;
    let kib: f64 = line.split_whitespace().next().unwrap_or_default().parse()?;
    Ok(kib * 1024.0 / 1e6)
}
