//! What a person at a terminal sees: bars, questions, hidden passwords. `script` lends the terminal.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub)]
mod house;

use house::{House, PROGRAM, Ran, image};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Runs the program on a terminal and types an answer after each prompt.
fn typed(house: &House, words: &[&str], answers: &[(&str, &str)]) -> Ran {
    typed_on(house, "xterm", 100, words, answers)
}

/// The same on a terminal of this kind and width.
fn typed_on(house: &House, term: &str, columns: u16, words: &[&str], answers: &[(&str, &str)]) -> Ran {
    let quoted = std::iter::once(PROGRAM).chain(words.iter().copied()).map(|word| format!("'{word}'"));
    let line = format!("stty cols {columns}; {}", quoted.collect::<Vec<_>>().join(" "));
    let mut command = Command::new("timeout");
    command.args(["60", "script", "-qec", &line, "/dev/null"]).current_dir(house.place.dir.path()).env("TERM", term);
    command.env("HOME", house.place.dir.path()).env("SLIPWAY_URL", &house.url).env("SLIPWAY_TOKEN", &house.token);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut out, mut buf, mut answers, mut from) = (Vec::new(), [0; 4096], answers.iter(), 0);
    let mut next = answers.next();
    loop {
        let count = stdout.read(&mut buf).unwrap_or(0);
        if count == 0 {
            break;
        }
        out.extend_from_slice(&buf[..count]);
        if let Some((prompt, keys)) = next
            && String::from_utf8_lossy(&out[from..]).contains(prompt)
        {
            // A password prompt throws away what was typed before it was ready.
            std::thread::sleep(Duration::from_millis(200));
            stdin.write_all(keys.as_bytes()).unwrap();
            stdin.flush().unwrap();
            (next, from) = (answers.next(), out.len());
        }
    }
    drop(stdin);
    let code = child.wait().unwrap().code().unwrap_or(-1);
    Ran { code, out, err: String::new() }
}

#[test]
fn a_person_sees_bars_and_is_asked() {
    if Command::new("script").arg("--version").output().is_err() {
        println!("ignored: what a terminal shows (needs 'script' of bsdutils)");
        return;
    }
    let house = House::start();
    let bytes = image(51);
    let raw = house.place.file("disk.raw", &bytes);
    let seen = typed(&house, &["push", &raw, "me/os"], &[]).expect(0).text();
    assert!(seen.contains("push") && seen.contains("left"), "no bar: {seen:?}");
    let quiet = typed(&house, &["-q", "push", &raw, "me/os"], &[]).expect(0).text();
    assert!(!quiet.contains('['), "a bar in spite of -q: {quiet:?}");

    // A file that exists is shown and asked about; no leaves it as it is.
    let target = house.place.file("target.raw", &vec![7; bytes.len()]);
    // Ctrl-C ends the question at once.
    typed(&house, &["flash", "me/os", &target], &[("[y/N]", "\u{3}")]).expect(130);
    let seen = typed(&house, &["flash", "me/os", &target], &[("[y/N]", "n\n")]).expect(130).text();
    assert!(
        seen.contains("Overwrite") && seen.contains("on it: raw bytes") && seen.contains("left as it is"),
        "{seen:?}"
    );
    assert!(std::fs::read(&target).unwrap() == vec![7; bytes.len()]);
    typed(&house, &["flash", "me/os", &target], &[("[y/N]", "y\n")]).expect(0);
    assert!(std::fs::read(&target).unwrap() == bytes);
    typed(&house, &["flash", "me/os", &target, "--yes"], &[("[y/N]", "n\n")]).expect(0);

    // What is typed as a password is not shown.
    let twice = [("Password of eva", "a long password\n"), ("again", "a long password\n")];
    let seen = typed(&house, &["user", "add", "eva", "--password"], &twice).expect(0).text();
    assert!(!seen.contains("a long password") && seen.contains("eva"), "{seen:?}");
    typed(&house, &["--no-input", "user", "rm", "eva"], &[("[y/N]", "y\n")]).expect(2);
    typed(&house, &["user", "rm", "eva"], &[("[y/N]", "y\n")]).expect(0);
    house.run(&["user", "show", "eva"]).expect(3);
}

#[test]
fn terminals_differ() {
    if Command::new("script").arg("--version").output().is_err() {
        println!("ignored: what a terminal shows (needs 'script' of bsdutils)");
        return;
    }
    let house = House::start();
    let raw = house.place.file("disk.raw", &image(52));
    let dumb = typed_on(&house, "dumb", 100, &["push", &raw, "me/os"], &[]).expect(0).text();
    assert!(!dumb.contains("left") && !dumb.contains('\u{1b}'), "a bar or a colour on a dumb terminal: {dumb:?}");
    let title = "A title that is as long as titles of people who like long titles are";
    house.run(&["image", "set", "me/os", "--title", title]).expect(0);
    let widest = |text: &str| text.lines().map(|line| line.trim_end().chars().count()).max().unwrap();
    for (columns, whole) in [(200, true), (85, false)] {
        let shown = typed_on(&house, "xterm", columns, &["image", "log", "me/os"], &[]).expect(0).text();
        assert!(widest(&shown) <= usize::from(columns), "{columns}: {shown}");
        let shown = typed_on(&house, "xterm", columns, &["image", "ls"], &[]).expect(0).text();
        assert!(widest(&shown) <= usize::from(columns) && shown.contains("admin/os"), "{columns}: {shown}");
        assert_eq!(shown.contains("A title that is as long"), whole, "{columns}: {shown}");
    }
    // A pipe gets everything that the table has.
    assert!(house.run(&["image", "ls"]).expect(0).text().contains("A title that is as long"));
    let failed = typed_on(&house, "xterm", 100, &["image", "show", "me/none"], &[]).expect(3).text();
    assert!(failed.contains("\u{1b}[1;31m"), "no colour on a terminal: {failed:?}");
}

#[test]
fn the_agent_flashes_what_was_pushed() {
    let agent = std::path::Path::new(PROGRAM).with_file_name("slipway-agent");
    if !agent.exists() {
        println!("ignored: the agent against a server (needs 'cargo build -p slipway-agent')");
        return;
    }
    let house = House::start();
    let bytes = image(61);
    let raw = house.place.file("disk.raw", &bytes);
    house.run(&["push", &raw, "me/os"]).expect(0);
    let target = house.place.path("target.raw");
    let run = |words: &[&str]| {
        let mut command = Command::new(&agent);
        command.args(words).env_clear().env("SLIPWAY_URL", &house.url).env("SLIPWAY_TOKEN", &house.token);
        house::run(command, b"")
    };
    let target = target.to_str().unwrap();
    run(&["flash", "me/os:0", target]).expect(0);
    assert!(std::fs::read(target).unwrap() == bytes);
    let again = run(&["flash", "me/os", target, "-o", "json"]).expect(0).json();
    assert_eq!((again["ref"].as_str(), again["unchanged"].as_bool()), (Some("me/os:0"), Some(true)));
    let small = house.place.file("small.raw", &[1; 4096]);
    for (words, code) in [
        (["flash", "me/none", target], 3),
        (["flash", "me/os", "/dev/null"], 10),
        (["flash", "me/os", "/dev/no-such-device"], 3),
        (["flash", "me/os", &small], 10),
    ] {
        let ran = run(&words).expect(code);
        assert!(ran.err.contains("next: "), "{}", ran.err);
    }
}
