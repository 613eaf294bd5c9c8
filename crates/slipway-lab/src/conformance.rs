//! Whether a service speaks the ImageAPI: the flows and refusals of its contract, and the faults of the first implementation, as cases that
//! know nothing of a service but its URL. They can be pointed at any implementation; where ours differs from the first one on purpose, the
//! case says so.

mod bench;
mod cases;
mod http;

use crate::census::{Census, Scope};
use bench::{Bench, Files, Outcome};
use std::path::Path;
use std::time::{Duration, Instant};

pub use http::Client;

/// How long what a case has deleted may take to be gone from the kernel.
const SETTLE: Duration = Duration::from_secs(5);

/// One case.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name: area, then what holds.
    pub name: &'static str,
    /// What the first implementation does instead, if that is known and left behind on purpose.
    pub differs: Option<&'static str>,
    run: fn(&Bench) -> Outcome,
}

/// How one case went.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Its name.
    pub name: &'static str,
    /// What the first implementation does instead.
    pub differs: Option<&'static str>,
    /// What was expected and what came instead, if it failed.
    pub failure: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// Where to look for what is left, beside the files of the cases.
#[derive(Clone, Debug, Default)]
pub struct Sights {
    /// The service's run directory.
    pub run_dir: Option<std::path::PathBuf>,
    /// The name of its control groups.
    pub groups: Option<String>,
}

/// All of them, in the order in which they run.
pub fn cases() -> Vec<Case> {
    cases::all()
}

/// Runs the cases whose name has one of these words (all, if there are none) against a service, with files made in `top`. Each is told to
/// `heard` as it ends.
///
/// # Errors
/// When the files cannot be made, or nobody answers.
pub fn run(
    client: Client,
    top: &Path,
    sights: &Sights,
    only: &[String],
    mut heard: impl FnMut(&Verdict),
) -> Result<Vec<Verdict>, String> {
    let bench = Bench { client, files: Files::make(top)? };
    bench.ids()?;
    let mut scope = Scope::below(&bench.files.top);
    if let Some(dir) = &sights.run_dir {
        scope = scope.named(&dir.display().to_string());
        for part in ["mounts", "overlays", "containers"] {
            scope = scope.files_in(&dir.join(part));
        }
    }
    if let Some(name) = &sights.groups {
        scope = scope.named(&format!("/slipway/{name}/"));
    }
    let mut verdicts = Vec::new();
    for case in cases() {
        if only.is_empty() || only.iter().any(|word| case.name.contains(word.as_str())) {
            let verdict = case_run(&bench, &scope, &case);
            heard(&verdict);
            verdicts.push(verdict);
        }
    }
    Ok(verdicts)
}

fn case_run(bench: &Bench, scope: &Scope, case: &Case) -> Verdict {
    let begun = Instant::now();
    let before = Census::take(scope);
    let outcome = bench.ids().and_then(|ids| {
        let outcome = (case.run)(bench);
        // What it has made goes in any case; what it has to say is more than that.
        let swept = bench.sweep(&ids);
        outcome.and(swept)
    });
    let outcome = outcome.and_then(|()| census_check(scope, &before));
    Verdict { name: case.name, differs: case.differs, failure: outcome.err(), took: begun.elapsed() }
}

fn census_check(scope: &Scope, before: &Census) -> Outcome {
    let begun = Instant::now();
    loop {
        let difference = Census::take(scope).diff(before);
        if difference.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > SETTLE {
            return Err(format!("the census is not what it was:\n{difference}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
