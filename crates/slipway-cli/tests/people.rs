//! Who may see what, how people log in, and what happens to what is deleted, against a real server.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub)]
mod house;

use house::{House, Place, image};
use std::os::unix::fs::MetadataExt;

#[test]
fn sharing_opens_and_closes() {
    let house = House::start();
    let bytes = image(11);
    let raw = house.place.file("disk.raw", &bytes);
    house.run(&["push", &raw, "me/os"]).expect(0);
    let eva = house.user("eva");
    let out = house.place.path("eva.raw");
    let out = out.to_str().unwrap();
    let sees = |code| {
        house.run_as(&eva, &["image", "show", "admin/os"], b"").expect(code);
        house.run_as(&eva, &["pull", "admin/os", "-o", out], b"").expect(code);
    };
    assert_eq!(house.run_as(&eva, &["image", "ls", "-o", "json"], b"").expect(0).json(), serde_json::json!([]));
    sees(3);
    house.run(&["image", "share", "me/os", "--add", "eva"]).expect(0);
    sees(0);
    assert!(std::fs::read(out).unwrap() == bytes);
    let ran = house.run_as(&eva, &["push", &raw, "admin/os", "--new"], b"");
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert_eq!(house.run_as(&eva, &["image", "rm", "admin/os"], b"").code, 4);
    house.run(&["image", "share", "me/os", "--remove", "eva"]).expect(0);
    sees(3);
    house.run(&["image", "share", "me/os", "--public"]).expect(0);
    sees(0);
    house.run_as(&eva, &["prune"], b"").expect(4);
    house.run_as(&eva, &["user", "ls"], b"").expect(4);
}

#[test]
fn what_is_deleted_comes_back() {
    let house = House::start();
    for seed in [21, 22] {
        let raw = house.place.file("disk.raw", &image(seed));
        house.run(&["push", &raw, "me/os"]).expect(0);
    }
    house.run(&["image", "rm", "me/os:1"]).expect(0);
    house.run(&["image", "show", "me/os:1"]).expect(3);
    house.run(&["image", "restore", "me/os:1"]).expect(0);
    house.run(&["image", "show", "me/os:1"]).expect(0);

    house.run(&["image", "protect", "me/os:0"]).expect(0);
    let ran = house.run(&["image", "rm", "me/os:0"]).expect(5);
    assert!(ran.err.contains("next: "), "{}", ran.err);
    house.run(&["image", "protect", "me/os:0", "--off"]).expect(0);
    house.run(&["channel", "set", "me/os:0", "stable"]).expect(0);
    house.run(&["image", "rm", "me/os:0"]).expect(5);
    house.run(&["channel", "rm", "me/os", "stable"]).expect(0);

    house.run(&["image", "rename", "me/os", "new"]).expect(0);
    house.run(&["image", "set", "me/new", "--title", "New \u{202e}one", "--label", "team=lab", "--type", "system"]);
    house.run(&["image", "set", "me/new", "--title", "New one", "--label", "team=lab", "--type", "system"]).expect(0);
    let shown = house.run(&["image", "show", "me/new"]).expect(0).text();
    assert!(shown.contains("New one") && shown.contains("team=lab") && shown.contains("system"), "{shown}");

    house.run(&["image", "rm", "me/new"]).expect(0);
    assert_eq!(house.run(&["image", "ls", "-o", "json"]).expect(0).json(), serde_json::json!([]));
    assert_eq!(house.run(&["image", "ls", "--trash", "-o", "json"]).expect(0).json().as_array().unwrap().len(), 1);
    house.run(&["image", "restore", "me/new"]).expect(0);

    let plan = house.run(&["prune", "--dry-run", "-o", "json"]).expect(0).json();
    assert_eq!((plan["dry_run"].as_bool(), plan["packs_deleted"].as_u64()), (Some(true), Some(0)), "{plan}");
    house.run(&["prune"]).expect(0);
    for words in [&["check"][..], &["check", "--quick"], &["check", "--repair"]] {
        assert!(house.run(words).expect(0).text().contains("Clean"));
    }
    let tasks = house.run(&["task", "ls", "-o", "json"]).expect(0).json();
    let id = tasks[0]["id"].as_str().unwrap().to_owned();
    house.run(&["task", "wait", &id, "--timeout", "20s"]).expect(0);
    house.run(&["task", "show", &id]).expect(0);
    let journal = house.run(&["journal", "-o", "jsonl"]).expect(0).text();
    assert!(journal.lines().count() > 8 && journal.contains("admin"), "{journal}");
    assert_eq!(house.run(&["journal", "--limit", "3", "-o", "jsonl"]).expect(0).text().lines().count(), 3);
    let out = house.place.path("out.raw");
    house.run(&["pull", "me/new:1", "-o", out.to_str().unwrap()]).expect(0);
    assert!(std::fs::read(out).unwrap() == image(22));
}

#[test]
fn login_keeps_a_token_that_only_its_owner_reads() {
    let house = House::start();
    house.run_as(&house.token, &["user", "add", "eva", "--password-stdin"], b"correct horse battery\n").expect(0);
    let home = Place::new();
    let login = ["login", house.url.as_str(), "--user", "eva", "--password-stdin"];
    home.run(&login, &[], b"wrong horse battery\n").expect(4);
    assert!(!home.path(".config").exists());
    let ran = home.run(&login, &[], b"correct horse battery\n").expect(0);
    assert!(ran.out.is_empty() && ran.err.contains("as eva"), "{}", ran.err);
    let kept = home.path(".config/slipway/credentials.toml");
    assert_eq!(std::fs::metadata(&kept).unwrap().mode() & 0o777, 0o600);

    home.run(&["image", "ls"], &[], b"").expect(0);
    let me = home.run(&["user", "show", "-o", "json"], &[], b"").expect(0).json();
    assert_eq!(me["name"].as_str(), Some("eva"));
    let shown = home.run(&["config", "show", "--origin"], &[], b"").expect(0).text();
    assert!(shown.contains("credentials.toml") && !shown.contains("slp_"), "{shown}");
    // The token stays with its server.
    home.run(&["--url", "http://127.0.0.1:9", "image", "ls"], &[], b"").expect(4);

    home.run(&["user", "passwd", "--password-stdin"], &[], b"correct horse battery\na better one, much\n").expect(0);
    let token = home.run(&["token", "new", "robot", "--ttl", "2h", "--scope", "image:read"], &[], b"").expect(0);
    let secret = token.text().trim().to_owned();
    assert!(secret.starts_with("slp_") && !secret.contains('\n'), "{}", token.text());
    let other = Place::new();
    let config = other.path("xdg");
    let xdg = [("XDG_CONFIG_HOME", config.to_str().unwrap())];
    other.run(&["login", &house.url, "--token-stdin"], &xdg, secret.as_bytes()).expect(0);
    other.run(&["image", "ls"], &xdg, b"").expect(0);
    other.run(&["image", "create", "me/x"], &xdg, b"").expect(4);

    home.run(&["logout"], &[], b"").expect(0);
    assert!(!kept.exists());
    home.run(&["image", "ls"], &[], b"").expect(2);
    home.run(&["logout"], &[], b"").expect(0);
}

#[test]
fn a_new_server_is_set_up_with_its_code() {
    let house = House::start_with(Place::new(), &[]);
    let said = house.said.lock().unwrap().clone();
    let code = said
        .split_whitespace()
        .find(|word| word.len() >= 16 && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    let code = code.unwrap_or_else(|| panic!("no code in:\n{said}"));
    let home = Place::new();
    let setup = ["login", house.url.as_str(), "--setup", "--password-stdin"];
    home.run(&setup, &[], b"not-the-code-at-all\na good password\n").expect(4);
    home.run(&setup, &[], format!("{code}\na good password\n").as_bytes()).expect(0);
    assert_eq!(home.run(&["user", "show", "-o", "json"], &[], b"").expect(0).json()["role"].as_str(), Some("admin"));
    let ran = home.run(&setup, &[], format!("{code}\na good password\n").as_bytes());
    assert!(ran.code != 0, "the code worked twice");
}
