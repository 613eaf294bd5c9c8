//! Several programs that do the same work, in turn, so that whatever else the machine does falls on all of them.

use super::report::Line;
use super::sample::{Sample, middle};
use crate::run::may_go_on;
use anyhow::Result;
use std::time::{Duration, Instant};

type Work<'a> = Box<dyn FnMut() -> Result<Vec<Sample>> + 'a>;

/// One program; a run prepares, works and checks, and gives a sample for each of the first steps of the contest.
pub(super) struct Contender<'a> {
    who: String,
    work: Work<'a>,
    samples: Vec<Vec<Sample>>,
    failed: Option<String>,
    slow: bool,
}

/// A peer that takes longer does not run again, so that all of it ends within an hour.
const LONG: Duration = Duration::from_secs(50);

impl<'a> Contender<'a> {
    pub(super) fn new(who: impl Into<String>, work: impl FnMut() -> Result<Vec<Sample>> + 'a) -> Self {
        Self { who: who.into(), work: Box::new(work), samples: Vec::new(), failed: None, slow: false }
    }

    /// One that has a single step.
    pub(super) fn one(who: impl Into<String>, mut work: impl FnMut() -> Result<Sample> + 'a) -> Self {
        Self::new(who, move || Ok(vec![work()?]))
    }
}

/// Runs all of them `runs` times in turn; the first is ours, which everything is compared with. One that fails is out, and its line says why.
pub(super) fn contest(runs: usize, steps: &[&str], mut contenders: Vec<Contender<'_>>) -> Vec<Line> {
    for round in 0..runs {
        for (number, contender) in contenders.iter_mut().enumerate() {
            if contender.failed.is_some() || contender.slow && number > 0 {
                continue;
            }
            if let Err(why) = may_go_on() {
                contender.failed = Some(why.to_string());
                continue;
            }
            let begun = Instant::now();
            eprintln!("  {} ({} of {runs})", contender.who, round + 1);
            match (contender.work)() {
                Ok(samples) => {
                    contender.samples.push(samples);
                    contender.slow = begun.elapsed() > LONG;
                }
                Err(why) => {
                    eprintln!("  {}: {why:#}", contender.who);
                    contender.failed = Some(format!("{why:#}"));
                }
            }
        }
    }
    let mut lines = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        for contender in &contenders {
            let samples: Vec<Sample> = contender.samples.iter().filter_map(|run| run.get(number).copied()).collect();
            let result = match &contender.failed {
                Some(why) if number == 0 => Err(why.clone()),
                Some(_) => continue,
                None if samples.is_empty() => continue,
                None => Ok(middle(&samples)),
            };
            let once = runs > 1 && samples.len() == 1;
            lines.push(Line { what: (*step).to_owned(), who: contender.who.clone(), once, result });
        }
    }
    lines
}

/// The sample of one program in one step, if it has one.
pub(super) fn sample_of(lines: &[Line], what: &str, who: &str) -> Option<Sample> {
    lines.iter().find(|line| line.what == what && line.who == who)?.result.as_ref().ok().copied()
}
