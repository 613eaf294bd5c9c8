//! Typical mistakes without a server: what is said, what comes next, which exit code.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub)]
mod house;

use house::{Place, golden};
use std::fmt::Write;
use std::io::{Read, Write as _};

/// A port where something answers that is not Slipway.
fn stranger() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 15\r\nconnection: close\r\n\r\n<p>Hello!</p>\r\n");
        }
    });
    url
}

/// A port where nobody listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A command line, its environment, its exit code.
type Row<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], i32);

#[test]
fn mistakes_are_named_with_the_next_step() {
    let place = Place::new();
    place.file("empty.raw", b"");
    place.file("disk.raw", b"some bytes");
    place.file("disk.qcow2", &b"QFI\xfb\0\0\0\x03".repeat(100));
    place.file("open.toml", b"");
    place.file("typo.yaml", b"kind: nfs\nnfs: {host: s1.lab, paht: /x}\n");
    place.file("web.yaml", b"name: web\ncommand: /init\nmount: {kind: bind, bind: {path: \"${tree}\"}}\n");
    std::fs::create_dir(place.path("folder")).unwrap();
    let (stranger, nobody) = (stranger(), nobody());
    let none: &[(&str, &str)] = &[];
    let node = &[("SLIPWAY_NODE", "unix:/nonexistent/node.sock")][..];
    let far = &[("SLIPWAY_NODE", "https://n17.lab:8450")][..];
    let url = &[("SLIPWAY_URL", "http://127.0.0.1:9")][..];
    let gone = &[("SLIPWAY_URL", nobody.as_str()), ("SLIPWAY_TOKEN", "slp_x")][..];
    let other = &[("SLIPWAY_URL", stranger.as_str()), ("SLIPWAY_TOKEN", "slp_x")][..];
    let wrong = &[("SLIPWAY_URL", "slip.lab"), ("SLIPWAY_TOKEN", "slp_x")][..];
    let no_ca = &[("SLIPWAY_URL", "https://slip.lab"), ("SLIPWAY_TOKEN", "slp_x"), ("SLIPWAY_CA", "none.pem")][..];
    let rows: &[Row] = &[
        (&["image", "ls"], none, 2),
        (&["image", "ls"], url, 4),
        (&["image", "ls"], wrong, 2),
        (&["image", "ls"], no_ca, 3),
        (&["image", "ls"], gone, 9),
        (&["image", "ls"], other, 1),
        (&["image", "show", "os"], gone, 2),
        (&["image", "show", "me/../etc"], gone, 2),
        (&["image", "show", "me/a\u{202e}b\u{1b}[2J"], gone, 2),
        (&["image", "show", "Jan/os"], gone, 2),
        (&["image", "log", "me/os:1"], gone, 2),
        (&["image", "rm", "me/os:latest"], gone, 2),
        (&["image", "rm", "me/fine", "me/not fine"], gone, 2),
        (&["image", "set", "me/os"], gone, 2),
        (&["image", "share", "me/os"], gone, 2),
        (&["image", "rename", "me/os", "latest"], gone, 2),
        (&["channel", "set", "me/os:1", "7up"], gone, 2),
        (&["user", "add", "me"], gone, 2),
        (&["user", "add", "eva", "--password"], gone, 2),
        (&["push", "empty.raw", "me/os"], gone, 2),
        (&["push", "missing.raw", "me/os"], gone, 3),
        (&["push", "folder", "me/os"], gone, 2),
        (&["push", "disk.qcow2", "me/os"], gone, 2),
        (&["push", "disk.raw", "me/os", "--format", "xz"], gone, 2),
        (&["push", "-", "me/os"], gone, 2),
        (&["push", "disk.raw", "me/os"], gone, 9),
        (&["pull", "me/os", "-o", "json"], gone, 2),
        (&["login", "http://127.0.0.1:9"], none, 2),
        (&["login", "http://127.0.0.1:9", "--user", "eva"], none, 2),
        (&["config", "show", "--orgin"], none, 2),
        (&["imgae", "ls"], none, 2),
        (&["image", "shwo", "me/os"], none, 2),
        (&["image", "ls", "-o", "xml"], none, 2),
        (&["image", "create", "me/os", "--type", "sytem"], none, 2),
        (&["task", "wait", "\u{1b}[2Jx"], none, 2),
        (&["node", "ps"], node, 9),
        (&["node", "--node", "n17", "ps"], none, 3),
        (&["node", "--node", "http://n17.lab:1", "ps"], none, 2),
        (&["node", "--url", "https://slip.lab", "ps"], none, 2),
        (&["node", "--token-file", "none.token", "ps"], node, 3),
        (&["node", "--key", "node.key", "ps"], node, 2),
        (&["node", "run", "disk.raw", "/bin/sh"], node, 2),
        (&["node", "run", "folder"], node, 2),
        (&["node", "run", "folder", "sh"], node, 2),
        (&["node", "run", "--cpus", "many", "folder", "/bin/sh"], node, 2),
        (&["node", "attach", "lopback", "disk.raw"], node, 2),
        (&["node", "attach", "loopback", "disk.raw"], far, 2),
        (&["node", "attach", "iscsi", "s1.lab:x", "iqn.x:y", "--initiator", "iqn.x:z"], node, 2),
        (&["node", "attach", "rbd", "os", "--monitor", "m", "--user", "u", "--secret-file", "open.toml"], node, 2),
        (&["node", "attach", "slipway", "me/os", "--server", "https://slip.lab"], node, 2),
        (&["node", "mount", "nfs", "s1.lab"], node, 2),
        (&["node", "apply", "-f", "none.yaml"], node, 3),
        (&["node", "apply", "-f", "empty.raw"], node, 2),
        (&["node", "apply", "-f", "typo.yaml"], node, 2),
        (&["node", "apply", "-f", "web.yaml"], node, 2),
        (&["node", "apply", "-f", "web.yaml", "--set", "tree=/", "--set", "tere=/"], node, 2),
        (&["node", "events", "-f", "-o", "json"], node, 2),
        (&["node", "lsg"], node, 2),
        (&["serve", "--listen", "nowhere"], none, 2),
        (&["serve", "--config", "missing.toml"], none, 3),
        (&["serve", "--database", "postgres://me:secret@db/slipway"], none, 2),
        (&["serve", "--database", "postgres://me@db/slipway?password=secret"], none, 2),
    ];
    let mut all = String::new();
    for (words, env, code) in rows {
        let ran = place.run(words, env, b"").expect(*code);
        assert!(ran.out.is_empty(), "{words:?} printed {}", ran.text());
        assert!(ran.err.chars().all(|c| c == '\n' || !c.is_control()), "{words:?} steers the terminal: {:?}", ran.err);
        assert!(
            ran.err.contains("next: ") || ran.err.contains("try '--help'"),
            "{words:?} has no next step: {}",
            ran.err
        );
        assert!(!ran.err.contains("failed to") && !ran.err.contains("os error"), "{words:?}: {}", ran.err);
        let shown = ran.err.replace(&stranger, "http://STRANGER").replace(&nobody, "http://NOBODY");
        let shown = shown.replace(place.dir.path().to_str().unwrap(), "FOLDER");
        let words: Vec<String> = words.iter().map(|word| word.escape_debug().to_string()).collect();
        writeln!(all, "$ slipway {}\n{}exit {code}\n", words.join(" "), shown).unwrap();
    }
    golden("mistakes.txt", &all);
}

/// Whatever is wrong with a database, its place is named and its password is not.
#[test]
fn a_database_that_lets_nobody_in_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let place = Place::new();
    for address in [format!("postgres://me:s3cret@{at}/x"), format!("postgres://me@{at}/x?password=s3cret")] {
        let env = [("SLIPWAY_DATABASE", address.as_str())];
        let ran = place.run(&["serve", "--data", "data", "--listen", "127.0.0.1:0"], &env, b"").expect(1);
        assert!(ran.err.contains(&format!("PostgreSQL at {at}")) && !ran.err.contains("s3cret"), "{}", ran.err);
        let shown = place.run(&["config", "show", "--server"], &env, b"").expect(0).text();
        assert!(shown.contains("***") && !shown.contains("s3cret"), "{shown}");
    }
}

/// The page that scripts are written from names every code that the wire can become.
#[test]
fn the_page_of_exit_codes_is_complete() {
    let page = include_str!("../../../docs/exit-codes.md");
    let rows: Vec<u8> =
        page.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok()).collect();
    assert_eq!(rows, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 70, 130]);
    for code in slipway_api::Code::ALL {
        assert!(rows.contains(&code.exit_code()), "{code:?}");
    }
}
