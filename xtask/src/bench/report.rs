//! Results as a table, as JSON, and in docs/benchmarks.md.

use super::plot::Plot;
use super::sample::Sample;
use crate::run::{read, top};
use anyhow::{Context, Result};
use serde::Serialize;
use std::process::Command;

/// What a measure found.
#[derive(Default, Serialize)]
pub(super) struct Found {
    /// Programs side by side.
    pub(super) lines: Vec<Line>,
    /// Single figures and goals.
    pub(super) rows: Vec<Row>,
    /// Figures that are neither.
    pub(super) tables: Vec<Table>,
    /// What the figures do not say by themselves.
    pub(super) notes: Vec<String>,
    pub(super) plots: Vec<Plot>,
}

impl From<Vec<Row>> for Found {
    fn from(rows: Vec<Row>) -> Self {
        Self { rows, ..Self::default() }
    }
}

/// Figures of a shape of their own, below what they are about.
#[derive(Serialize)]
pub(super) struct Table {
    pub(super) about: String,
    pub(super) head: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
}

/// What one program took for one step, or why there is no figure.
#[derive(Serialize)]
pub(super) struct Line {
    pub(super) what: String,
    pub(super) who: String,
    /// It was so slow that it ran once only.
    pub(super) once: bool,
    pub(super) result: Result<Sample, String>,
}

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

    /// With the time, processor and memory of what it is a figure of.
    pub(super) fn of(self, sample: Sample) -> Self {
        Self { sample: Some(sample), ..self }
    }

    /// And beside them those of somebody else's part in it.
    pub(super) fn beside(self, other: Sample) -> Self {
        Self { peer_sample: Some(other), ..self }
    }

    pub(super) fn peer(self, name: impl Into<String>, value: f64) -> Self {
        Self { peer: Some((name.into(), value)), ..self }
    }

    pub(super) fn goal(self, text: impl Into<String>, met: bool) -> Self {
        Self { goal: Some((text.into(), met)), ..self }
    }

    /// A goal that is a multiple of the peer's figure; without one there is nothing to hold ours against.
    pub(super) fn times(self, name: &str, theirs: Option<f64>, most: f64) -> Self {
        match theirs {
            Some(theirs) => {
                let met = self.ours <= theirs * most;
                self.peer(name, theirs).goal(format!("≤ {most} ×"), met)
            }
            None => Self { peer: None, ..self },
        }
    }

    /// The same where small images would say nothing: a quick run then shows the ratio only.
    pub(super) fn times_full(self, quick: bool, name: &str, theirs: Option<f64>, most: f64) -> Self {
        let row = self.times(name, theirs, most);
        if quick { Self { goal: None, ..row } } else { row }
    }

    /// A goal that is a figure.
    pub(super) fn most(self, most: f64) -> Self {
        let (met, unit) = (self.ours <= most, self.unit);
        self.goal(format!("≤ {} {unit}", short(most)), met)
    }

    /// A goal that is a figure of one set of images: a quick run has others.
    pub(super) fn most_full(self, quick: bool, most: f64) -> Self {
        if quick { self } else { self.most(most) }
    }

    /// Beside the goal that is a multiple, one that is a figure of the full set of images; either is enough, as the figure is of one machine.
    pub(super) fn most_or(mut self, quick: bool, most: f64) -> Self {
        if let (false, Some((text, met))) = (quick, &mut self.goal) {
            *text += &format!(" or ≤ {} {}", short(most), self.unit);
            *met |= self.ours <= most;
        }
        self
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

pub(super) fn short(value: f64) -> String {
    match value.abs() {
        none if none.is_nan() => "–".into(),
        big if big >= 100.0 => format!("{value:.0}"),
        big if big >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

const LINE_HEAD: [&str; 11] = [
    "what",
    "program",
    "wall s",
    "CPU s",
    "peak MB",
    "read MB",
    "written MB",
    "fetched MB",
    "kept MB",
    "CPU ÷ ours",
    "wall ÷ ours",
];

fn lines_cells(lines: &[Line]) -> Vec<[String; 11]> {
    let maybe = |value: Option<f64>| value.map_or_else(|| "–".into(), short);
    let ratio = |theirs: f64, ours: f64| if ours > 0.0 { short(theirs / ours) } else { "–".into() };
    let mut first: Option<&Line> = None;
    let mut cells = Vec::new();
    for line in lines {
        if first.is_none_or(|first| first.what != line.what) {
            first = Some(line);
        }
        let ours = first.and_then(|line| line.result.as_ref().ok()).copied().unwrap_or_default();
        let Sample { wall, cpu, peak_mb, read_mb, written_mb, fetched_mb, kept_mb } = match &line.result {
            Ok(sample) => *sample,
            Err(why) => {
                let mut row: [String; 11] = std::array::from_fn(|_| "–".into());
                let why: String = why.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/");
                row[0] = line.what.clone();
                row[1] = format!("{}: no figure: {}", line.who, why.chars().take(160).collect::<String>());
                cells.push(row);
                continue;
            }
        };
        cells.push([
            line.what.clone(),
            if line.once { format!("{} (one run: too slow for more)", line.who) } else { line.who.clone() },
            short(wall),
            short(cpu),
            short(peak_mb),
            short(read_mb),
            short(written_mb),
            maybe(fetched_mb),
            maybe(kept_mb),
            ratio(cpu, ours.cpu),
            ratio(wall, ours.wall),
        ]);
    }
    cells
}

fn markdown(head: &[&str], rows: &[impl AsRef<[String]>]) -> String {
    let mut lines: Vec<Vec<String>> = vec![head.iter().map(|word| (*word).to_owned()).collect()];
    lines.extend(rows.iter().map(|row| row.as_ref().to_vec()));
    let width = |n: usize| lines.iter().map(|line| line[n].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded: Vec<_> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("| {} |\n", padded.join(" | "))
    };
    let rule: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
    let mut text = line(&lines[0]);
    text += &format!("| {} |\n", rule.join(" | "));
    lines[1..].iter().for_each(|cells| text += &line(cells));
    text
}

/// The results of one measure.
#[derive(Serialize)]
pub(super) struct Report {
    name: &'static str,
    about: &'static str,
    quick: bool,
    /// Seconds of the whole measure, with all that it prepared.
    took: f64,
    #[serde(flatten)]
    found: Found,
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
    pub(super) fn new(
        name: &'static str,
        about: &'static str,
        quick: bool,
        took: std::time::Duration,
        found: Found,
    ) -> Self {
        Self { name, about, quick, took: took.as_secs_f64(), found, machine: Machine::look() }
    }

    pub(super) fn json(&self) -> Result<String> {
        serde_json::to_string(self).context("writing the results")
    }

    /// Markdown, which is also good to read as it is.
    pub(super) fn table(&self) -> String {
        let mut text = format!("## {}\n\n{}\n\n", self.name, self.about);
        if !self.found.lines.is_empty() {
            text += &markdown(&LINE_HEAD, &lines_cells(&self.found.lines));
            text += "\n";
        }
        if !self.found.rows.is_empty() {
            text += &markdown(&HEAD, &self.found.rows.iter().map(Row::cells).collect::<Vec<_>>());
            text += "\n";
        }
        for table in &self.found.tables {
            text += &format!("{}\n\n{}\n", table.about, markdown(&table.head, &table.rows));
        }
        for plot in &self.found.plots {
            text += &format!("![{}](benchmarks/{}.svg)\n\n", plot.title, plot.name);
        }
        for note in &self.found.notes {
            text += &format!("{note}\n\n");
        }
        let Machine { cores, processor, kernel, load, commit, date } = &self.machine;
        let quick = if self.quick { " A quick run: for trying, not for comparing." } else { "" };
        text + &format!(
            "{date}, commit {commit}; {cores} cores ({processor}), Linux {kernel}, load {load}. Medians, in turn; {:.1} minutes in all.{quick}\n",
            self.took / 60.0
        )
    }

    /// Puts the table into docs/benchmarks.md, in place of the one of the same measure.
    pub(super) fn keep(&self) -> Result<()> {
        let path = top().join("docs/benchmarks.md");
        for plot in &self.found.plots {
            plot.keep(&top().join("docs/benchmarks"))?;
        }
        let (begin, end) = (format!("<!-- measure {} -->\n", self.name), "<!-- end -->\n");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
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
