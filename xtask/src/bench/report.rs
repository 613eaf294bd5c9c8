//! Results as a table, as JSON, and in docs/benchmarks.md.

use super::sample::Sample;
use crate::run::{read, top};
use anyhow::{Context, Result};
use serde::Serialize;
use std::process::Command;

/// One figure of ours beside one of a peer or a floor.
#[derive(Serialize)]
pub(super) struct Row {
    /// "random 4 KiB read, median".
    pub(super) what: String,
    /// "s", "ms", "MB".
    pub(super) unit: &'static str,
    pub(super) ours: f64,
    /// Who it is compared with, and its figure.
    pub(super) peer: Option<(String, f64)>,
    /// What it shall be, in words, and whether it is; `None` where there is no goal, only a figure.
    pub(super) goal: Option<(String, bool)>,
    /// Time, processor and memory of our side, where that says more than the figure.
    pub(super) sample: Option<Sample>,
    pub(super) peer_sample: Option<Sample>,
}

impl Row {
    /// Only a figure.
    pub(super) fn new(what: impl Into<String>, unit: &'static str, ours: f64) -> Self {
        Self { what: what.into(), unit, ours, peer: None, goal: None, sample: None, peer_sample: None }
    }

    /// Seconds of two samples.
    pub(super) fn wall(what: impl Into<String>, ours: Sample, peer: &str, theirs: Sample) -> Self {
        let row = Self::new(what, "s", ours.wall).peer(peer, theirs.wall);
        Self { sample: Some(ours), peer_sample: Some(theirs), ..row }
    }

    pub(super) fn peer(self, name: impl Into<String>, value: f64) -> Self {
        Self { peer: Some((name.into(), value)), ..self }
    }

    pub(super) fn goal(self, text: impl Into<String>, met: bool) -> Self {
        Self { goal: Some((text.into(), met)), ..self }
    }

    /// Ours over the peer's.
    pub(super) fn ratio(&self) -> Option<f64> {
        self.peer.as_ref().map(|(_, value)| self.ours / value)
    }

    fn cells(&self) -> [String; 9] {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".into());
        let sample = |pick: fn(&Sample) -> f64| match (&self.sample, &self.peer_sample) {
            (Some(ours), Some(peer)) => format!("{} / {}", short(pick(ours)), short(pick(peer))),
            (Some(ours), None) => short(pick(ours)),
            _ => "–".into(),
        };
        [
            self.what.clone(),
            format!("{} {}", short(self.ours), self.unit),
            or_dash(self.peer.as_ref().map(|(_, value)| format!("{} {}", short(*value), self.unit))),
            or_dash(self.peer.as_ref().map(|(name, _)| name.clone())),
            or_dash(self.ratio().map(short)),
            sample(|sample| sample.wall),
            sample(|sample| sample.cpu),
            sample(|sample| sample.peak_mb),
            or_dash(self.goal.as_ref().map(|(text, met)| format!("{text}: {}", if *met { "met" } else { "NOT met" }))),
        ]
    }
}

const HEAD: [&str; 9] = ["what", "ours", "peer", "peer is", "ratio", "wall s, ours / peer", "CPU s", "peak MB", "goal"];

fn short(value: f64) -> String {
    match value.abs() {
        big if big >= 100.0 => format!("{value:.0}"),
        big if big >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The results of one measure.
#[derive(Serialize)]
pub(super) struct Report {
    name: &'static str,
    about: &'static str,
    quick: bool,
    rows: Vec<Row>,
    machine: Machine,
}

/// Where it was measured, and what else the machine did.
#[derive(Serialize)]
struct Machine {
    cores: usize,
    processor: String,
    kernel: String,
    /// Of the last 1, 5 and 15 minutes, when the measure ended.
    load: String,
    commit: String,
    date: String,
}

impl Machine {
    fn look() -> Self {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let said = |command: &mut Command| read(command).unwrap_or_default().trim().to_owned();
        let processor = file("/proc/cpuinfo");
        let processor = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: processor.map_or_else(|| "unknown".into(), |(_, name)| name.to_owned()),
            kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: file("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" "),
            commit: said(Command::new("git").current_dir(top()).args(["rev-parse", "--short", "HEAD"])),
            date: said(Command::new("date").args(["-u", "+%Y-%m-%d"])),
        }
    }
}

impl Report {
    pub(super) fn new(name: &'static str, about: &'static str, quick: bool, rows: Vec<Row>) -> Self {
        Self { name, about, quick, rows, machine: Machine::look() }
    }

    pub(super) fn json(&self) -> Result<String> {
        serde_json::to_string(self).context("writing the results")
    }

    /// A Markdown table, which is also good to read as it is.
    pub(super) fn table(&self) -> String {
        let mut lines = vec![HEAD.map(str::to_owned)];
        lines.extend(self.rows.iter().map(Row::cells));
        let width = |n: usize| lines.iter().map(|line| line[n].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
        let line = |cells: &[String; 9]| {
            let padded: Vec<_> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            format!("| {} |\n", padded.join(" | "))
        };
        let rule: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
        let Machine { cores, processor, kernel, load, commit, date } = &self.machine;
        let quick = if self.quick { " A quick run: for trying, not for comparing." } else { "" };
        let mut text = format!("## {}\n\n{}\n\n", self.name, self.about);
        text += &line(&lines[0]);
        text += &format!("| {} |\n", rule.join(" | "));
        lines[1..].iter().for_each(|cells| text += &line(cells));
        text += &format!(
            "\n{date}, commit {commit}; {cores} cores ({processor}), Linux {kernel}, load {load}. Medians; ours / peer in turn.{quick}\n"
        );
        text
    }

    /// Puts the table into docs/benchmarks.md, in place of the one of the same measure.
    pub(super) fn keep(&self) -> Result<()> {
        let path = top().join("docs/benchmarks.md");
        let (begin, end) = (format!("<!-- measure {} -->\n", self.name), "<!-- end -->\n");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|_| {
            "# Benchmarks\n\nMade by `cargo xtask bench --keep`. The ratio to a peer or floor in the same run counts; seconds are those of one machine.\n".into()
        });
        let new = format!("{begin}{}{end}", self.table());
        let text = match text.split_once(&begin) {
            Some((before, rest)) => {
                let after = rest.split_once(end).map_or("", |(_, after)| after);
                format!("{before}{new}{after}")
            }
            None => format!("{text}\n{new}"),
        };
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }
}
