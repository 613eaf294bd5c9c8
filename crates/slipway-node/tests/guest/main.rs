//! The drivers against servers and kernels in a guest. The guest runs this same program as [`driver`], which reads what to do.
#![allow(clippy::unwrap_used, reason = "a test")]

mod call;
mod containers;
mod driver;
mod iscsi;
mod nfs;
mod node;
mod rbd;

use std::process::ExitCode;

type Test = fn();

/// All tests, each needing root.
fn tests() -> Vec<(&'static str, Test)> {
    [nfs::TESTS, iscsi::TESTS, rbd::TESTS, containers::TESTS].concat()
}

/// `cargo test` runs this instead of a harness: with a role it is a program in the guest, else the tests.
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["driver", run, state, deadline] => {
            return driver::run(run.as_ref(), state.as_ref(), deadline.parse().unwrap());
        }
        ["call"] => return call::run(),
        ["mute", port] => return nfs::mute_server(port.parse().unwrap(), true),
        ["silent", port] => return nfs::mute_server(port.parse().unwrap(), false),
        ["containers"] => return containers::run(),
        ["shim", dir] => return slipway_node::shim_run(dir.as_ref()),
        _ => {}
    }
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let exact = args.iter().any(|arg| arg == "--exact");
    let fits = |name: &str, filter: &str| if exact { name == filter } else { name.contains(filter) };
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|filter| fits(name, filter));
    let runs_ignored = args.iter().any(|arg| arg == "--ignored" || arg == "--include-ignored");
    if args.iter().any(|arg| arg == "--list") {
        tests().iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut failed, mut ignored, mut left_out) = (0, 0, 0, 0);
    for (name, test) in tests() {
        if !wanted(name) {
            left_out += 1;
        } else if !runs_ignored {
            println!("test {name} ... ignored, needs root");
            ignored += 1;
        } else if std::panic::catch_unwind(|| slipway_lab::once_more(test)).is_ok() {
            println!("test {name} ... ok");
            passed += 1;
        } else {
            println!("test {name} ... FAILED");
            failed += 1;
        }
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; {left_out} filtered out\n"
    );
    ExitCode::from(u8::from(failed > 0))
}
