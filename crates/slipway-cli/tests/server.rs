//! `slipway serve` as a process: ready line, TLS, one server for each folder, stop; and how data is printed.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub)]
mod house;

use house::{House, Place, image};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

#[test]
fn a_stopped_server_has_lost_nothing() {
    let house = House::start();
    let token = house.token.clone();
    let raw = house.place.file("disk.raw", &image(31));
    house.run(&["push", &raw, "me/os"]).expect(0);
    let token_file = house.place.path("admin.token");
    assert_eq!(std::fs::metadata(&token_file).unwrap().mode() & 0o777, 0o600);

    let data = house.place.path("data");
    let second = house.place.run(&["serve", "--data", data.to_str().unwrap(), "--listen", "127.0.0.1:0"], &[], b"");
    let second = second.expect(5);
    assert!(second.err.contains("in use by process") && second.err.contains("next: "), "{second:?}");
    let address = house.url.trim_start_matches("http://");
    let taken = house.place.run(&["serve", "--data", "other", "--listen", address], &[], b"").expect(5);
    assert!(taken.err.contains("already in use") && !taken.err.contains("os error"), "{taken:?}");

    let kept = Place::new();
    std::fs::create_dir(kept.path("data")).unwrap();
    let mut house = house;
    let place = std::mem::replace(&mut house.place, kept);
    assert_eq!(house.stop("TERM"), 0);
    let mut house = House::start_with(place, &[]);
    house.token = token;
    let out = house.place.path("out.raw");
    house.run(&["pull", "me/os", "-o", out.to_str().unwrap()]).expect(0);
    assert!(std::fs::read(out).unwrap() == image(31));
    assert_eq!(house.stop("INT"), 0);
}

#[test]
fn a_server_with_its_own_ca_is_reached_with_that_ca_only() {
    let place = Place::new();
    let token_file = place.path("admin.token");
    let mut house = House::start_with(place, &["--tls-self-made", "--admin-token-file", token_file.to_str().unwrap()]);
    assert!(house.url.starts_with("https://"), "{}", house.url);
    house.token = std::fs::read_to_string(&token_file).unwrap().trim().to_owned();
    house.run(&["image", "ls"]).expect(9);
    house.ca = Some(house.place.path("data/tls/ca.pem"));
    house.run(&["image", "ls"]).expect(0);
    let raw = house.place.file("disk.raw", &image(41));
    house.run(&["push", &raw, "me/os"]).expect(0);
    let target = house.place.path("t.raw");
    house.run(&["flash", "me/os", target.to_str().unwrap()]).expect(0);

    // Login keeps the CA, so that the file may go.
    let home = Place::new();
    let ca = std::fs::read(house.ca.as_ref().unwrap()).unwrap();
    let ca = home.file("ca.pem", &ca);
    home.run(&["login", &house.url, "--ca", &ca, "--token-stdin"], &[], house.token.as_bytes()).expect(0);
    std::fs::remove_file(&ca).unwrap();
    home.run(&["image", "ls"], &[], b"").expect(0);
}

#[test]
fn a_hangup_ends_no_server() {
    let house = House::start();
    house.signal("HUP");
    house.said_wait("without TLS");
    house.run(&["image", "ls"]).expect(0);
    let said = house.run(&["prune", "--dry-run"]).expect(0).text();
    assert_eq!(said, "Nothing to free.\n");
    assert!(house.run(&["prune", "-o", "json"]).expect(0).json()["lines"].is_array());
    assert_eq!(house.stop("TERM"), 0);

    let house = House::start_with(Place::new(), &["--tls-self-made"]);
    let (cert, key) = (house.place.path("data/tls/ca.pem"), house.place.path("data/tls/ca.key"));
    let files = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let other = House::start_with(Place::new(), &files);
    other.signal("HUP");
    other.said_wait("loaded the certificate anew");
    std::fs::write(&cert, "no certificate").unwrap();
    other.signal("HUP");
    other.said_wait("the old one stays");
    assert_eq!(other.stop("TERM"), 0);
}

#[test]
fn a_signal_right_after_the_start_is_heard() {
    for _ in 0..20 {
        let house = House::start_with(Place::new(), &[]);
        house.signal("HUP");
        house.said_wait("without TLS");
        assert_eq!(house.stop("INT"), 0);
        assert_eq!(House::start_with(Place::new(), &[]).stop("TERM"), 0);
    }
}

#[test]
fn data_is_printed_as_asked() {
    let house = House::start();
    for name in ["me/a", "me/b"] {
        house.run(&["image", "create", name]).expect(0);
    }
    let table = house.run(&["image", "ls"]).expect(0).text();
    assert!(table.starts_with("IMAGE") && table.lines().count() == 3, "{table}");
    assert_eq!(house.run(&["image", "ls", "-o", "json"]).expect(0).json().as_array().unwrap().len(), 2);
    let lines = house.run(&["image", "ls", "-o", "jsonl"]).expect(0).text();
    let read = |line: &str| serde_json::from_str::<serde_json::Value>(line).is_ok();
    assert!(lines.lines().count() == 2 && lines.lines().all(read), "{lines}");
    let yaml = house.run(&["image", "ls", "-o", "yaml"]).expect(0).text();
    assert!(yaml.contains("- id:") && yaml.contains("ref: admin/a"), "{yaml}");
    let ran = house.run(&["-q", "image", "ls", "nothing has this name"]).expect(0);
    assert!(ran.err.is_empty(), "{}", ran.err);

    // A reader that has seen enough is no failure.
    let mut child = house.command(&house.token, &["journal"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let _ = out.read(&mut [0; 1]);
    drop(out);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
