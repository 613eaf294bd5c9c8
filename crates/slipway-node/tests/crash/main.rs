//! The service dies at every crash point, on the kernel of this machine: a new one finds what was answered and nothing else, the kernel has
//! nothing that the new one does not know, and all of it can be deleted. The test's own program is the service that dies, and the shim.
#![allow(clippy::unwrap_used, reason = "a test")]

mod check;
mod session;

use slipway_node::CRASH_POINTS;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

const INSIDE: &str = "SLIPWAY_TEST_INSIDE";
const NAME: &str = "root_a_crash_at_every_point_leaves_what_was_answered";

/// How points begin that the scripted session does not pass: they need other programs, or another machine. Those of the drivers that need a
/// server are passed in the tests of these drivers.
const ELSEWHERE: &[&str] = &["iscsi.", "rbd.", "nbd.", "exports."];

/// `cargo test` runs this instead of a harness: with certain words it is something else, else the test.
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match &args[1..] {
        [word, dir] if word == "shim" => return slipway_node::shim_run(Path::new(dir)),
        [word, top] if word == "session" => return session::run(Path::new(top)),
        [word, top] if word == "reopen" => return session::reopen(Path::new(top)),
        _ => {}
    }
    let filters: Vec<&String> = args[1..].iter().filter(|arg| !arg.starts_with('-')).collect();
    let wanted = filters.is_empty() || filters.iter().any(|filter| NAME.contains(filter.as_str()));
    let runs_ignored = args.iter().any(|arg| arg == "--ignored" || arg == "--include-ignored");
    if !wanted || !runs_ignored {
        if wanted {
            println!("test {NAME} ... ignored, needs root");
        }
        println!("\ntest result: ok. 0 passed; 0 failed; {} ignored; 0 measured; 0 filtered out\n", u8::from(wanted));
        return ExitCode::SUCCESS;
    }
    if std::env::var_os(INSIDE).is_none() {
        // In a mount namespace of its own: what a session leaves mounted is gone with it, should the test fail.
        let mut inside = Command::new("unshare");
        inside.args(["--mount", "--propagation", "private"]).arg(&args[0]).args(&args[1..]).env(INSIDE, "1");
        return ExitCode::from(u8::from(!inside.status().unwrap().success()));
    }
    let failed = crash_everywhere();
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!("test {NAME} ... {result}");
    println!(
        "\ntest result: {result}. {} passed; {} failed; 0 ignored; 0 measured; 0 filtered out\n",
        u8::from(failed == 0),
        u8::from(failed > 0)
    );
    ExitCode::from(u8::from(failed > 0))
}

/// Gives the number of points at which something was not as it must be.
fn crash_everywhere() -> usize {
    let all = std::env::var_os("SLIPWAY_TEST_ALL").is_some();
    let only = std::env::var("SLIPWAY_TEST_POINT").ok();
    let files = check::Files::make();
    let mut failed = 0;
    let mut tries = 0;
    let begun = Instant::now();
    // Without a crash the session must work as a whole.
    for point in std::iter::once(&"nowhere").chain(CRASH_POINTS) {
        if ELSEWHERE.iter().any(|begin| point.starts_with(begin))
            || only.as_ref().is_some_and(|only| !point.starts_with(only.as_str()))
        {
            continue;
        }
        for n in 1.. {
            let at = format!("{point}:{n}");
            tries += 1;
            let went = std::panic::catch_unwind(|| check::crash(&files, &at, all));
            let passed = match went {
                Ok(passed) => passed,
                Err(_) => {
                    eprintln!("--- at {at}");
                    failed += 1;
                    true
                }
            };
            // Points of a shim are passed there; the service lives on, so nobody counts them.
            let counts = *point != "nowhere" && !point.starts_with("shim");
            if counts && n == 1 && !passed {
                eprintln!("--- {point} is never passed");
                failed += 1;
            }
            if !all || !counts || !passed {
                break;
            }
        }
    }
    println!("{tries} crashes, {failed} with something wrong, in {:.0} s", begun.elapsed().as_secs_f32());
    failed
}
