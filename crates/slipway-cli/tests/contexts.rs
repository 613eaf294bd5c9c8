//! Several servers, several sources of settings, and what a person sees of them: against real servers.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub)]
mod house;

use house::{House, Place, image};
use std::os::unix::fs::MetadataExt;

#[test]
fn several_servers_are_kept_and_chosen() {
    let (one, two) = (House::start(), House::start());
    for (house, name) in [(&one, "me/in-one"), (&two, "me/in-two")] {
        house.run(&["image", "create", name]).expect(0);
    }
    let home = Place::new();
    let run = |words: &[&str]| home.run(words, &[], b"");
    home.run(&["login", &one.url, "--context", "one", "--token-stdin"], &[], one.token.as_bytes()).expect(0);
    let said = home.run(&["login", &two.url, "--context", "two", "--token-stdin"], &[], two.token.as_bytes()).expect(0);
    assert!(said.err.contains("'two' is used from now on"), "{}", said.err);
    let kept = home.path(".config/slipway/credentials.toml");
    assert_eq!(std::fs::metadata(&kept).unwrap().mode() & 0o777, 0o600);
    let sees = |words: &[&str], env: &[(&str, &str)]| home.run(words, env, b"").expect(0).text();
    assert!(sees(&["image", "ls"], &[]).contains("in-two"));
    assert!(sees(&["--context", "one", "image", "ls"], &[]).contains("in-one"));
    assert!(sees(&["image", "ls", "--context", "one"], &[("SLIPWAY_CONTEXT", "two")]).contains("in-one"));
    assert!(sees(&["image", "ls"], &[("SLIPWAY_CONTEXT", "one")]).contains("in-one"));
    assert!(
        sees(&["image", "ls"], &[("SLIPWAY_URL", &one.url)]).contains("in-one"),
        "its token is found by its server"
    );
    run(&["context", "use", "one"]).expect(0);
    assert!(sees(&["image", "ls"], &[]).contains("in-one"));
    assert_eq!(sees(&["context", "current"], &[]), "one\n");
    let listed = sees(&["context", "ls"], &[]);
    assert!(listed.contains(&two.url) && !listed.contains("slp_"), "{listed}");
    let rows = run(&["context", "ls", "-o", "json"]).expect(0).json();
    assert_eq!((rows[0]["current"].as_bool(), rows[1]["current"].as_bool()), (Some(true), Some(false)), "{rows}");
    assert!(!rows.to_string().contains("slp_"));

    run(&["context", "rename", "one", "lab"]).expect(0);
    assert_eq!(sees(&["context", "current"], &[]), "lab\n");
    run(&["context", "rename", "lab", "two"]).expect(5);
    run(&["context", "add", "two", "http://127.0.0.1:9"]).expect(5);
    run(&["context", "add", "Lab 3", "http://127.0.0.1:9"]).expect(2);
    run(&["context", "add", "three", "slip.lab"]).expect(2);
    let wrong = run(&["context", "use", "lap"]).expect(3);
    assert!(wrong.err.contains("did you mean 'lab'?"), "{}", wrong.err);
    run(&["--url", "http://127.0.0.1:9", "--context", "lab", "image", "ls"]).expect(2);

    // Without a token, with one that has ended, and with the wrong CA: each error names the command that helps.
    run(&["context", "add", "bare", &one.url]).expect(0);
    let bare = run(&["--context", "bare", "image", "ls"]).expect(4);
    assert!(bare.err.contains("'slipway login --context bare'"), "{}", bare.err);
    let text = std::fs::read_to_string(&kept).unwrap();
    let lab = text.split("[contexts.").find(|part| part.starts_with("lab]")).unwrap();
    let line = lab.lines().find(|line| line.starts_with("expires_at")).unwrap();
    std::fs::write(&kept, text.replace(line, "expires_at = \"2026-01-01T00:00:00Z\"")).unwrap();
    let id = one.run(&["token", "ls", "-o", "json"]).expect(0).json()[0]["id"].as_str().unwrap().to_owned();
    one.run(&["token", "rm", &id]).expect(0);
    let ended = run(&["image", "ls"]).expect(4);
    assert!(ended.err.contains("'slipway login --context lab'") && ended.err.contains("ended on"), "{}", ended.err);
    assert!(sees(&["context", "ls"], &[]).contains("expired"));

    // The token that is used is forgotten with its context, and no other is taken instead.
    run(&["logout", "--context", "two"]).expect(0);
    two.run(&["image", "ls"]).expect(4);
    run(&["context", "rm", "lab"]).expect(0);
    let open = run(&["image", "ls"]).expect(2);
    assert!(open.err.contains("slipway context use"), "{}", open.err);
    run(&["context", "rm", "bare"]).expect(0);
    assert!(!kept.exists());
    run(&["context", "current"]).expect(3);
}

#[test]
fn a_wrong_ca_is_named_with_what_mends_it() {
    let (one, two) =
        (House::start_with(Place::new(), &["--tls-self-made"]), House::start_with(Place::new(), &["--tls-self-made"]));
    let home = Place::new();
    let wrong = two.place.path("data/tls/ca.pem");
    home.run(&["context", "add", "lab", &one.url, "--ca", wrong.to_str().unwrap()], &[], b"").expect(0);
    let ran = home.run(&["image", "ls"], &[("SLIPWAY_TOKEN", "slp_x")], b"").expect(9);
    assert!(ran.err.contains("slipway login URL --ca FILE") && ran.err.contains("slipway doctor"), "{}", ran.err);
    let file = home.file("no.pem", b"no certificate");
    let ran = home.run(&["context", "add", "bad", &one.url, "--ca", &file], &[], b"").expect(2);
    assert!(ran.err.contains("next: "), "{}", ran.err);
}

#[test]
fn where_each_setting_of_a_server_comes_from() {
    let place = Place::new();
    let text = "data = \"/file\"\nmin_free_bytes = 1\nstop_seconds = 1\n";
    let file = place.file("slipway.toml", text.as_bytes());
    let secret = "postgres://me:s3cret@db/x";
    let env = [("SLIPWAY_MIN_FREE_BYTES", "2"), ("SLIPWAY_DATABASE", secret), ("SLIPWAY_DATA", "/env")];
    let words = ["config", "show", "--server", "--origin", "--config", &file, "--data", "/flag", "-o", "json"];
    let ran = place.run(&words, &env, b"").expect(0);
    let rows = ran.json();
    let row = |name: &str| rows.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap().clone();
    for (name, value, origin) in [
        ("data", "/flag", "flag --data".to_owned()),
        ("min_free_bytes", "2", "environment SLIPWAY_MIN_FREE_BYTES".into()),
        ("stop_seconds", "1", format!("file {file}")),
        ("connections_max", "1024", "default".into()),
        ("database", "postgres://me:***@db/x", "environment SLIPWAY_DATABASE".into()),
    ] {
        assert_eq!(
            (row(name)["value"].as_str(), row(name)["origin"].as_str()),
            (Some(value), Some(&*origin)),
            "{name}"
        );
    }
    assert!(!ran.text().contains("s3cret"));
    let table = place.run(&["config", "show", "--server"], &env, b"").expect(0).text();
    assert!(table.contains("/env") && !table.contains("s3cret") && !table.contains("ORIGIN"), "{table}");
}

#[test]
fn settings_are_checked_before_they_are_used() {
    let place = Place::new();
    let bad = place.file("bad.toml", b"tls_selfmade = true\n");
    let good = place.file("good.toml", b"stop_seconds = 5\n");
    let check =
        |words: &[&str], env: &[(&str, &str)]| place.run(&[&["config", "check", "--server"], words].concat(), env, b"");
    check(&["--config", &good], &[]).expect(0);
    let ran = check(&["--config", &bad], &[]).expect(1);
    assert!(ran.text().contains("did you mean 'tls_self_made'?") && ran.text().contains("next: "), "{}", ran.text());
    assert!(check(&[], &[("SLIPWAY_GRACE_HOURS", "2")]).expect(1).text().contains("grace_hours"));
    let ran = check(&[], &[("SLIPWAY_LISTEM", "x")]).expect(0);
    assert!(ran.text().contains("warn") && ran.text().contains("did you mean SLIPWAY_LISTEN?"), "{}", ran.text());
    // The same words when the server is started with it.
    let ran = place.run(&["serve", "--config", &bad], &[], b"").expect(2);
    assert!(ran.err.contains("did you mean 'tls_self_made'?"), "{}", ran.err);
    place.run(&["config", "check"], &[("SLIPWAY_URL", "http://x"), ("SLIPWAY_TOKEN", "y")], b"").expect(0);
    place.run(&["config", "check"], &[("SLIPWAY_URL", "x")], b"").expect(1);
}

#[test]
fn names_that_are_nearly_right_are_recognized() {
    let house = House::start();
    let raw = house.place.file("disk.raw", &image(81));
    house.run(&["push", &raw, "me/debian-13"]).expect(0);
    house.run(&["channel", "set", "me/debian-13:0", "stable"]).expect(0);
    let eva = house.user("eva");
    for (words, meant) in [
        (&["image", "show", "me/debain-13"][..], "did you mean admin/debian-13?"),
        (&["image", "show", "amdin/debian-13"], "did you mean admin/debian-13?"),
        (&["pull", "eva/debian-13", "-o", "x"], "did you mean admin/debian-13?"),
        (&["image", "show", "me/debian-13:stabel"], "did you mean admin/debian-13:stable?"),
        (&["user", "show", "eav"], "did you mean eva?"),
    ] {
        let ran = house.run(words).expect(3);
        assert!(ran.err.contains(meant), "{words:?}: {}", ran.err);
    }
    let ran = house.run(&["image", "show", "me/windows"]).expect(3);
    assert!(!ran.err.contains("did you mean"), "{}", ran.err);
    // What somebody may not read is not named to them, however near it is.
    let ran = house.run_as(&eva, &["image", "show", "admin/debian-12"], b"").expect(3);
    assert!(!ran.err.contains("debian-13"), "{}", ran.err);
}

#[test]
fn colours_are_where_they_are_wanted() {
    let place = Place::new();
    let esc = '\u{1b}';
    for (words, env, painted) in [
        (&["image", "ls"][..], &[][..], false),
        (&["image", "ls", "--color", "always"], &[], true),
        (&["image", "ls", "--color", "always"], &[("NO_COLOR", "1")], true),
        (&["image", "ls"], &[("CLICOLOR_FORCE", "1")], true),
        (&["image", "ls"], &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false),
        (&["image", "ls"], &[("CLICOLOR_FORCE", "0")], false),
        (&["--color=never", "image", "ls"], &[("CLICOLOR_FORCE", "1")], false),
        (&["imgae", "--color=always"], &[], true),
        (&["imgae"], &[], false),
    ] {
        let ran = place.run(words, env, b"").expect(2);
        assert_eq!(ran.err.contains(esc), painted, "{words:?} {env:?}: {:?}", ran.err);
    }
    let help = place.run(&["--help", "--color=never"], &[("CLICOLOR_FORCE", "1")], b"").expect(0).text();
    assert!(!help.contains(esc), "{help:?}");
    let doctor = place.run(&["doctor", "--color=always"], &[], b"").expect(1).text();
    assert!(doctor.contains(esc) && doctor.contains("fail"), "{doctor:?}");
}
