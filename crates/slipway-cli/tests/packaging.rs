//! The packaged units are what systemd takes, and name options that the program has.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging")
}

#[test]
fn units_are_sound() {
    let folder = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for unit in std::fs::read_dir(packaging().join("systemd")).unwrap() {
        let unit = unit.unwrap();
        // The agent's is tested beside the agent.
        if unit.file_name() == "slipway-agent.service" {
            continue;
        }
        // The program is not installed here; its place is all that is changed.
        let text = std::fs::read_to_string(unit.path()).unwrap();
        assert!(text.contains("ExecStart=/usr/bin/slipway "), "{:?}", unit.path());
        let copy = folder.path().join(unit.file_name());
        std::fs::write(&copy, text.replace("/usr/bin/slipway ", concat!(env!("CARGO_BIN_EXE_slipway"), " "))).unwrap();
        units.push(copy);
    }
    assert_eq!(units.len(), 2);
    let checked = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args(&units)
        .output()
        .expect("systemd-analyze is installed; 'cargo xtask test' names its package");
    let said = String::from_utf8_lossy(&checked.stderr);
    // What other units of this machine are blamed for is not ours.
    let ours: Vec<_> = said.lines().filter(|line| line.contains("slipway")).collect();
    assert!(checked.status.success() && ours.is_empty(), "{said}");
}

#[test]
fn units_name_options_that_there_are() {
    for (unit, verb) in [("slipway.service", "serve"), ("slipway-disk-view.service", "disk-view")] {
        let text = std::fs::read_to_string(packaging().join("systemd").join(unit)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/slipway ")).unwrap();
        let help = Command::new(env!("CARGO_BIN_EXE_slipway")).args([verb, "--help"]).output().unwrap();
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        let mut words = line.split(' ');
        assert_eq!(words.next(), Some(verb));
        for option in words.filter(|word| word.starts_with("--")) {
            assert!(help.contains(&format!("{option} ")), "{unit}: {option} is no option of {verb}:\n{help}");
        }
    }
}
