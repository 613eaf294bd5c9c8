//! The first hour of the documentation, run as it is written.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub)]
mod house;

use house::{PROGRAM, Place};
use std::path::Path;
use std::process::Command;

/// The commands of a page: all lines of its `sh` blocks, in order.
fn commands(page: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in page.lines() {
        match (inside, line) {
            (false, "```sh") => inside = true,
            (true, "```") => inside = false,
            (true, line) => out.extend([line, "\n"]),
            (false, _) => {}
        }
    }
    out
}

#[test]
fn the_first_hour_works_as_it_is_written() {
    let page = include_str!("../../../docs/first-hour.md");
    let script = commands(page);
    assert!(script.lines().count() > 25 && script.matches("slipway ").count() > 20, "{script}");
    // The port alone is another one, so that tests can run beside each other.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let script = script.replace("8440", &free.to_string());
    let place = Place::new();
    let file = place.file(
        "first-hour.sh",
        format!("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}").as_bytes(),
    );
    let folder = Path::new(PROGRAM).parent().unwrap();
    let path = format!("{}:{}:/usr/sbin:/sbin", folder.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("timeout");
    command.args(["120", "bash", "-x", &file]).env_clear().env("HOME", place.dir.path()).env("PATH", path);
    command.current_dir(place.dir.path());
    let ran = house::run(command, b"").expect(0);
    for said in ["with a file", "stable", "for-ci", "Clean"] {
        assert!(
            ran.text().contains(said) || ran.err.contains(said),
            "{said} was not said:\n{}\n{}",
            ran.text(),
            ran.err
        );
    }
}

/// Nobody finds a page out of date because a command has gone.
#[test]
fn the_page_names_only_commands_that_there_are() {
    let place = Place::new();
    for line in commands(include_str!("../../../docs/first-hour.md")).lines() {
        for call in line.split("slipway ").skip(1).filter(|call| !call.starts_with(['-', '"', '>'])) {
            let words: Vec<&str> =
                call.split_whitespace().take_while(|word| word.chars().all(|c| c.is_ascii_lowercase())).collect();
            let verb = words.first().copied().unwrap_or_default();
            place.run(&[verb, "--help"], &[], b"").expect(0);
        }
    }
}
