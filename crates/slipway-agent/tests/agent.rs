//! The agent as a process: help, version, and what it says when it cannot even begin.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn run(words: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipway-agent"));
    command.args(words).env_clear().envs(env.iter().copied());
    command.output().unwrap()
}

#[test]
fn help_and_version() {
    for (words, wanted) in [
        (&["--version"][..], "slipway-agent 0."),
        (&["--help"], "slipway-agent flash jan/os:3"),
        (&["flash", "--help"], "slipway-agent flash jan/os:3"),
        (&["serve", "--help"], "slipway-agent serve --socket"),
        (&["token", "add", "--help"], "slipway-agent token add monitoring"),
    ] {
        let output = run(words, &[]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains(wanted), "{text}");
        assert!(text.lines().count() <= 40 && text.lines().all(|line| line.chars().count() <= 110), "{text}");
    }
}

#[test]
fn mistakes_are_named_with_the_next_step() {
    let url = ("SLIPWAY_URL", "http://127.0.0.1:9");
    let token = ("SLIPWAY_TOKEN", "slp_secret");
    for (words, env, code, word) in [
        (&["flash", "jan/os", "x"][..], &[][..], 2, "SLIPWAY_URL"),
        (&["flash", "jan/os", "x"], &[url], 4, "SLIPWAY_TOKEN"),
        (&["flash", "os", "x"], &[url, token], 2, "owner/name"),
        (&["flash", "jan/o\u{202e}s", "x"], &[url, token], 2, "image name"),
        (&["flash", "jan/os", "x"], &[url, token, ("SLIPWAY_CA", "none.pem")], 3, "none.pem"),
        (&["flash", "jan/os", "x"], &[("SLIPWAY_URL", "slip.lab"), token], 2, "address"),
    ] {
        let output = run(words, env);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
        assert!(text.contains(word) && text.contains("next: ") && !text.contains("slp_secret"), "{words:?}: {text}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()) && !text.contains('\u{202e}'), "{text:?}");
    }
}

#[test]
fn a_token_is_shown_once_listed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let place = ("SLIPWAY_NODE_STATE_DIR", dir.path().to_str().unwrap());
    let said = |words: &[&str]| {
        let output = run(words, &[place]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, token, note) = said(&["token", "add", "farm", "--role", "run"]);
    assert!(code == Some(0) && token.starts_with("sln_") && !note.contains(token.trim()), "{note}");
    let (_, listed, _) = said(&["token", "list"]);
    assert!(listed.contains("farm") && listed.contains("run") && !listed.contains(token.trim()), "{listed}");
    let (_, listed, _) = said(&["token", "list", "-o", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed[0]["role"], listed[0].as_object().unwrap().len()), (&"run".into(), 3), "{listed}");
    for (words, code, word) in [
        (&["token", "add", "farm", "--role", "read"][..], 2, "already"),
        (&["token", "add", "b", "--role", "king"], 2, "king"),
        (&["token", "add", "b", "--role", "read", "--days", "900"], 2, "365"),
        (&["token", "remove", "nobody"], 3, "nobody"),
        (&["token", "list", "--state-dir", "/nowhere/at/all"], 3, "/nowhere/at/all"),
    ] {
        let (ended, _, text) = said(words);
        assert!(ended == Some(code) && text.contains(word), "{words:?}: {ended:?} {text}");
    }
    assert_eq!(said(&["token", "remove", "farm"]).0, Some(0));
    assert_eq!(said(&["token", "list"]).1, "");
}

/// The agent is downloaded at every boot, and runs as root: what only a server needs has no place in it.
#[test]
fn neither_server_nor_store_is_linked() {
    let manifest = include_str!("../Cargo.toml");
    for name in ["slipway-server", "slipway-store", "sqlx", "object_store"] {
        assert!(!manifest.contains(name), "{name}");
    }
}
