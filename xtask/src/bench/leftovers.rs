//! What a measure that failed may have left behind: processes, mounts, loop devices, control groups, files.

use super::halt::tell;
use crate::run::is_root;
use crate::tools::command;
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

/// Takes away whatever of the system belongs to files below the folder; the files stay. Gives what there was.
pub(super) fn sweep(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let running = processes(folder);
    for (pid, words) in &running {
        found.push(format!("process {pid}: {words}"));
        tell(*pid, Signal::TERM);
    }
    for round in 0..60 {
        let still = processes(folder);
        if still.is_empty() {
            break;
        }
        if round == 30 {
            still.iter().for_each(|(pid, _)| tell(*pid, Signal::KILL));
        }
        thread::sleep(Duration::from_millis(100));
    }
    if !is_root() {
        return found;
    }
    let quiet = |program: &str, words: &[&str], on: &Path| {
        let mut run = command(program);
        run.args(words).arg(on).stdout(Stdio::null()).stderr(Stdio::null());
        run.status().is_ok_and(|status| status.success())
    };
    for at in mounts(folder).iter().rev() {
        found.push(format!("mount {}", at.display()));
        if !quiet("umount", &[], at) {
            quiet("umount", &["-l"], at);
        }
    }
    for device in loops(folder) {
        found.push(format!("loop device {}", device.display()));
        quiet("losetup", &["-d"], &device);
    }
    for group in groups() {
        found.push(format!("control group {}", group.display()));
        let _ = fs::remove_dir(group);
    }
    found
}

/// Processes other than ours whose words name a file below the folder.
fn processes(folder: &Path) -> Vec<(i32, String)> {
    let below = format!("{}/", folder.display());
    let own = std::process::id().cast_signed();
    let listed = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = listed.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let named = pids.filter(|pid| *pid != own).filter_map(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        words.contains(&below).then_some((pid, words))
    });
    named.collect()
}

fn mounts(folder: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = text.lines().filter_map(|line| Some(PathBuf::from(line.split(' ').nth(1)?)));
    places.filter(|at| at.starts_with(folder)).collect()
}

fn loops(folder: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let named = listed.filter_map(|entry| {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        Path::new(file.trim()).starts_with(folder).then(|| Path::new("/dev").join(entry.file_name()))
    });
    named.collect()
}

/// Control groups of measures whose program has ended; only empty ones can be removed.
fn groups() -> Vec<PathBuf> {
    let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/memory"];
    let listed = places.iter().flat_map(|at| fs::read_dir(at).into_iter().flatten().flatten());
    let ended = listed.filter(|entry| {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("slipway-bench-"));
        pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
    });
    ended.map(|entry| entry.path()).collect()
}
