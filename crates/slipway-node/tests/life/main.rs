//! The life of containers on the kernel of this machine: a whole host, from the first request to the last process. The test's own program
//! is also the shim, and the service that is killed.
#![allow(clippy::unwrap_used, reason = "a test")]

mod adopt;
mod exec;
mod lab;
mod more;
mod restart;
mod states;

use std::path::Path;
use std::process::{Command, ExitCode};

const INSIDE: &str = "SLIPWAY_TEST_INSIDE";

/// `cargo test` runs this instead of a harness: with certain words it is something else, else the tests.
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match &args[1..] {
        [word, dir] if word == "shim" => return slipway_node::shim_run(Path::new(dir)),
        [word] if word == "exec" => return slipway_node::exec_run(),
        [word, top, count] if word == "service" => return more::service(Path::new(top), count.parse().unwrap()),
        _ => {}
    }
    let filters: Vec<&String> = args[1..].iter().filter(|arg| !arg.starts_with('-')).collect();
    let exact = args.iter().any(|arg| arg == "--exact");
    let wanted = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|filter| if exact { name == filter.as_str() } else { name.contains(filter.as_str()) })
    };
    let runs_ignored = args.iter().any(|arg| arg == "--ignored" || arg == "--include-ignored");
    if runs_ignored && std::env::var_os(INSIDE).is_none() {
        // All of it in a mount namespace of its own: nothing that is mounted here is seen, or left, outside.
        let program = std::env::current_exe().unwrap();
        let mut inside = Command::new("unshare");
        inside.args(["--mount", "--propagation", "private"]).arg(program).args(&args[1..]).env(INSIDE, "1");
        return ExitCode::from(u8::from(!inside.status().unwrap().success()));
    }
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted(name)) {
        if !runs_ignored {
            println!("test {name} ... ignored, needs root");
            ignored += 1;
            continue;
        }
        let begun = std::time::Instant::now();
        match std::panic::catch_unwind(test) {
            Ok(()) => {
                println!("test {name} ... ok ({:.1} s)", begun.elapsed().as_secs_f32());
                passed += 1;
            }
            Err(_) => {
                println!("test {name} ... FAILED");
                failed += 1;
            }
        }
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; 0 filtered out\n"
    );
    ExitCode::from(u8::from(failed > 0))
}

type Test = fn();
const TESTS: &[(&str, Test)] = &[
    ("root_states_follow_each_other_as_the_contract_says", states::root_states_follow_each_other_as_the_contract_says),
    ("root_stopping_lasts_until_no_process_is_left", states::root_stopping_lasts_until_no_process_is_left),
    ("root_what_does_not_start_is_dead_with_its_reason", states::root_what_does_not_start_is_dead_with_its_reason),
    ("root_requests_that_do_not_fit_change_nothing", states::root_requests_that_do_not_fit_change_nothing),
    ("root_a_new_service_finds_all_as_it_was", adopt::root_a_new_service_finds_all_as_it_was),
    ("root_a_restart_of_the_node_is_told", adopt::root_a_restart_of_the_node_is_told),
    (
        "root_one_whose_shim_is_killed_is_cleared_away_and_told",
        adopt::root_one_whose_shim_is_killed_is_cleared_away_and_told,
    ),
    ("root_a_program_runs_in_the_world_of_its_container", exec::root_a_program_runs_in_the_world_of_its_container),
    (
        "root_a_program_has_no_more_rights_than_its_container",
        exec::root_a_program_has_no_more_rights_than_its_container,
    ),
    ("root_nothing_of_a_program_is_left", exec::root_nothing_of_a_program_is_left),
    ("root_a_program_can_have_a_terminal", exec::root_a_program_can_have_a_terminal),
    (
        "root_what_fails_is_started_again_and_no_more_often_than_asked",
        restart::root_what_fails_is_started_again_and_no_more_often_than_asked,
    ),
    ("root_restarts_outlive_the_service_and_the_node", restart::root_restarts_outlive_the_service_and_the_node),
    ("root_logs_are_bounded_and_read_over_their_files", more::root_logs_are_bounded_and_read_over_their_files),
    ("root_want_of_memory_is_told", more::root_want_of_memory_is_told),
    ("root_want_of_memory_of_a_child_is_told_at_once", more::root_want_of_memory_of_a_child_is_told_at_once),
    ("root_a_full_disk_begins_nothing_and_keeps_nothing", more::root_a_full_disk_begins_nothing_and_keeps_nothing),
    ("root_a_start_that_does_not_come_back", more::root_a_start_that_does_not_come_back),
    ("root_one_that_is_held_does_nothing", more::root_one_that_is_held_does_nothing),
    ("root_twenty_at_once_all_run", more::root_twenty_at_once_all_run),
    ("root_what_ends_at_once_is_kept_as_it_ended", more::root_what_ends_at_once_is_kept_as_it_ended),
    (
        "root_a_killed_service_loses_no_container_and_no_exit_code",
        more::root_a_killed_service_loses_no_container_and_no_exit_code,
    ),
];
