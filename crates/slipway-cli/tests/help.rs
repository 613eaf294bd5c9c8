//! `--help` of every command: golden, one screen, at least two examples that name the command.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub)]
mod house;

use house::{Place, golden};
use std::collections::BTreeSet;
use std::path::Path;

/// Lines and columns of one screen.
const LINES: usize = 40;
const COLUMNS: usize = 100;

fn help(place: &Place, path: &[String]) -> String {
    let mut words: Vec<&str> = path.iter().map(String::as_str).collect();
    words.push("--help");
    place.run(&words, &[], b"").expect(0).text()
}

/// The names below `Commands:`.
fn commands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    lines
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .filter(|name| name != "help")
        .collect()
}

fn walk(place: &Place, path: &[String], seen: &mut BTreeSet<String>) {
    let text = help(place, path);
    let name = [&["slipway".to_owned()], path].concat().join("-");
    let lines = text.lines().count();
    assert!(lines <= LINES, "{name} --help has {lines} lines");
    for line in text.lines() {
        assert!(line.chars().count() <= COLUMNS, "{name} --help has the long line {line:?}");
    }
    let below = commands(&text);
    let examples: Vec<&str> = text.lines().skip_while(|line| *line != "Examples:").skip(1).collect();
    let mine = [&["slipway".to_owned()], path].concat().join(" ");
    assert!(examples.len() >= 2, "{name} --help has fewer than two examples");
    assert!(examples.iter().any(|line| line.contains(&mine)), "{name} --help has no example of itself");
    golden(&format!("help/{name}.txt"), &text);
    seen.insert(format!("{name}.txt"));
    for next in below {
        walk(place, &[path, &[next]].concat(), seen);
    }
}

#[test]
fn help_is_golden_short_and_has_examples() {
    let mut seen = BTreeSet::new();
    walk(&Place::new(), &[], &mut seen);
    assert!(seen.len() > 35, "{seen:?}");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help");
    for kept in std::fs::read_dir(folder).unwrap() {
        let name = kept.unwrap().file_name().into_string().unwrap();
        assert!(seen.contains(&name), "{name} belongs to no command any more");
    }
}

#[test]
fn completions_know_every_verb() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let text = place.run(&["completions", shell, "--static"], &[], b"").expect(0).text();
        for verb in ["push", "flash", "restore", "completions"] {
            assert!(text.contains(verb), "{shell} does not know {verb}");
        }
    }
}
