//! Processes of ours, and what one of them holds.

use super::kernel::{names, pids, text};
use super::{Scope, Thing};
use std::collections::BTreeSet;
use std::fs;

/// The program of a service and of what it starts.
const PROGRAM: &str = "slipway-agent";
/// Where containers have their groups.
const GROUP: &str = "/slipway/";

/// Processes that have a word of the scope in their command line, or are in a control group that has; for a whole machine, those of the
/// service and of containers. The one that asks and those that started it are left out.
pub(super) fn processes(scope: &Scope, things: &mut BTreeSet<Thing>) {
    let asking = ancestors();
    for pid in pids().into_iter().filter(|pid| !asking.contains(pid)) {
        let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let line: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let is_program = line.first().is_some_and(|program| program.ends_with(PROGRAM));
        let line = line.join(" ").trim().to_owned();
        let group = text(format!("/proc/{pid}/cgroup"));
        let group = group.lines().find(|line| line.contains(GROUP)).unwrap_or_default();
        let is_ours = match scope.words.is_empty() {
            true => is_program || !group.is_empty(),
            false => scope.has(&[&line, group]),
        };
        let Some(start) = start(pid).filter(|_| is_ours) else { continue };
        let name = format!("{pid}, begun at tick {start}");
        let on = format!("{} {group}", line.chars().take(200).collect::<String>());
        things.insert(Thing { kind: "process", name, on: on.trim().to_owned() });
    }
}

/// This process and all above it.
fn ancestors() -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut pid = std::process::id();
    while pid != 0 && found.insert(pid) {
        pid = field(pid, 1).and_then(|parent| parent.parse().ok()).unwrap_or(0);
    }
    found
}

/// When the kernel started it, unless it is only waiting to be asked how it ended.
fn start(pid: u32) -> Option<u64> {
    (field(pid, 0)? != "Z").then(|| field(pid, 19)?.parse().ok())?
}

/// A field of proc_pid_stat(5), counted from the state, which comes behind the name in parentheses.
fn field(pid: u32, number: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.split_whitespace().nth(number)?.to_owned())
}

/// What a process holds, for tests of what grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Open files.
    pub files: usize,
    /// Threads.
    pub threads: usize,
    /// Memory of its own that is not backed by files, in bytes.
    pub memory: u64,
    /// Processor time that it has used, in ticks of a hundredth of a second.
    pub ticks: u64,
}

impl Figures {
    /// Of a process; `None` when there is none of that number.
    pub fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?.trim().trim_end_matches(" kB").trim();
        let ticks = |number| field(pid, number).and_then(|ticks| ticks.parse::<u64>().ok());
        Some(Self {
            files: names(format!("/proc/{pid}/fd")).len(),
            threads: names(format!("/proc/{pid}/task")).len(),
            memory: kib.parse::<u64>().ok()? * 1024,
            ticks: ticks(11)? + ticks(12)?,
        })
    }
}
