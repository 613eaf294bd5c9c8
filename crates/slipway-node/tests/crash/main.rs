//! The service dies at every crash point, on the kernel of this machine and on that of a guest: a new one finds what was answered and nothing
//! else, the kernel has nothing that the new one does not know, and all of it can be deleted. The test's own program is the service that dies,
//! and the shim.
#![allow(clippy::unwrap_used, reason = "a test")]

mod check;
mod guest;
mod session;

use slipway_node::CRASH_POINTS;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

const INSIDE: &str = "SLIPWAY_TEST_INSIDE";
/// Every pass of every point, and a second crash when the next service begins.
const ALL: &str = "SLIPWAY_TEST_ALL";
/// How the points begin that are wanted, separated by commas; all, if it is not set.
const POINTS: &str = "SLIPWAY_TEST_POINT";

type Test = fn();

const HERE: &str = "root_a_crash_at_every_point_leaves_what_was_answered";
const TESTS: &[(&str, Test)] = &[
    (HERE, here),
    ("root_a_crash_in_a_guest_leaves_what_was_answered", guest::some),
    ("long_a_crash_at_every_point_in_a_guest_leaves_what_was_answered", guest::all),
];

/// How points begin that the scripted session does not pass: they need other programs, or another machine. Those of the drivers that need a
/// server are passed in the tests of these drivers.
const ELSEWHERE: &[&str] = &["iscsi.", "rbd.", "nbd.", "exports.", "nfs.", "uri."];

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
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let runs_ignored = args.iter().any(|arg| arg == "--ignored" || arg == "--include-ignored");
    if args.iter().any(|arg| arg == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted(name)) {
        if !runs_ignored {
            println!("test {name} ... ignored, {}", if name.starts_with("root") { "needs root" } else { "long" });
            ignored += 1;
        } else if std::panic::catch_unwind(test).is_ok() {
            println!("test {name} ... ok");
            passed += 1;
        } else {
            println!("test {name} ... FAILED");
            failed += 1;
        }
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; 0 filtered out\n"
    );
    ExitCode::from(u8::from(failed > 0))
}

/// On this machine's kernel.
fn here() {
    if std::env::var_os(INSIDE).is_some() {
        let failed = crash_everywhere();
        assert!(failed == 0, "at {failed} points something was not as it must be");
        return;
    }
    // In a mount namespace of its own: what a session leaves mounted is gone with it, should the test fail.
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "--propagation", "private"]).arg(std::env::current_exe().unwrap());
    let status = inside.args(["--ignored", HERE]).env(INSIDE, "1").status().unwrap();
    assert!(status.success(), "{status}");
}

/// Gives the number of points at which something was not as it must be.
fn crash_everywhere() -> usize {
    let all = std::env::var_os(ALL).is_some();
    let only = std::env::var(POINTS).ok();
    let is_wanted =
        |point: &str| only.as_ref().is_none_or(|only| only.split(',').any(|begin| point.starts_with(begin)));
    let files = check::Files::make();
    let mut failed = 0;
    let mut tries = 0;
    let begun = Instant::now();
    // Without a crash the session must work as a whole.
    for point in std::iter::once(&"nowhere").chain(CRASH_POINTS) {
        if ELSEWHERE.iter().any(|begin| point.starts_with(begin)) || !is_wanted(point) {
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
