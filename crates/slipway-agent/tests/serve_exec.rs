//! Commands in containers, over the service: a JSON answer, or frames over the connection.
#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::{Lab, inside, until};
use serde_json::{Value, json};
use slipway_api::node::{FRAME_HEAD, FrameKind, frame_head, frame_head_read};
use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

fn running(lab: &Lab) -> Value {
    let command = "/bin/sh -c 'trap \"exit 0\" TERM; while :; do sleep 0.05; done'";
    let body = json!({"name": "c", "mount": lab.bound(), "command": command, "state": "running", "stop_timeout": 1});
    lab.post("container", body).made()
}

fn exec(lab: &Lab, command: Value) -> kit::Answer {
    lab.post("container/exec?name=c", json!({ "command": command }))
}

/// Whether a process with this word in its command line is there.
fn is_there(word: &str) -> bool {
    let own = std::process::id().to_string();
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        entry.file_name().to_string_lossy() != own && String::from_utf8_lossy(&words).contains(word)
    })
}

#[test]
#[ignore = "needs root"]
fn root_a_command_is_answered_when_it_has_ended() {
    if !inside("root_a_command_is_answered_when_it_has_ended") {
        return;
    }
    let lab = Lab::new();
    let made = running(&lab);
    let done = exec(&lab, json!(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"])).ok();
    assert_eq!((&done["stdout"], &done["stderr"]), (&json!("out\n"), &json!("err\n")));
    assert_eq!((&done["exit"]["code"], &done["truncated"]), (&json!(3), &json!(false)));
    let done = exec(&lab, json!(["/bin/sh", "-c", "kill -9 $$"])).ok();
    assert_eq!(done["exit"]["signal"], 9);
    let long = exec(&lab, json!(["/bin/sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; echo end >&2"])).ok();
    assert_eq!((long["stdout"].as_str().unwrap().len(), &long["stderr"]), (1 << 20, &json!("end\n")));
    assert_eq!(long["truncated"], true);
    let more =
        json!({"command": ["/bin/sh", "-c", "echo $A; pwd; id -u"], "env": {"A": "b"}, "cwd": "/etc", "user": "jan"});
    let done = lab.post(&format!("container/exec?id={}", made["id"]), more).ok();
    assert_eq!(done["stdout"], "b\n/etc\n1234\n");
    for (path, body, status, code) in [
        ("container/exec?name=c", json!({}), 422, 602),
        ("container/exec?name=c", json!([]), 422, 601),
        ("container/exec?name=c", json!({"command": "text"}), 400, 400),
        ("container/exec?name=c", json!({"command": []}), 400, 400),
        ("container/exec?name=c", json!({"command": ["/bin/none"]}), 400, 400),
        ("container/exec", json!({"command": ["/bin/true"]}), 400, 400),
        ("container/exec?id=99", json!({"command": ["/bin/true"]}), 404, 404),
    ] {
        let refusal = lab.post(path, body.clone()).refusal();
        assert_eq!((refusal.0, refusal.1), (status, code), "{body}: {}", refusal.2);
    }
    // A client that does not wait takes the command with it.
    let mut stream = UnixStream::connect(lab.socket()).unwrap();
    let body = r#"{"command":["/bin/sleep","71234"]}"#;
    write!(stream, "POST /imageapi/v1/container/exec?name=c HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    until("it runs", || is_there("71234"));
    drop(stream);
    until("it is gone", || !is_there("71234"));
    lab.api("PATCH", "container?name=c&state=exited", None).ok();
    until("it has exited", || lab.one("container?name=c")["state"] == "exited");
    assert_eq!(exec(&lab, json!(["/bin/true"])).refusal().0, 409);
    lab.close();
}

/// A command whose connection was handed over.
struct Session {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Session {
    fn new(lab: &Lab, body: Value) -> Self {
        let mut stream = UnixStream::connect(lab.socket()).unwrap();
        stream.set_read_timeout(Some(kit::LONG)).unwrap();
        let body = body.to_string();
        write!(
            stream,
            "POST /imageapi/v1/container/exec?name=c HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Connection: Upgrade\r\nUpgrade: slipway-exec\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (status, headers) = kit::head_read(&mut reader);
        assert_eq!(status, 101, "{headers:?}");
        assert!(headers.contains(&("upgrade".into(), "slipway-exec".into())));
        Self { stream, reader }
    }

    fn send(&mut self, kind: FrameKind, bytes: &[u8]) {
        self.stream.write_all(&frame_head(kind, bytes.len() as u32)).unwrap();
        self.stream.write_all(bytes).unwrap();
    }

    fn next(&mut self) -> (FrameKind, Vec<u8>) {
        let mut head = [0; FRAME_HEAD];
        self.reader.read_exact(&mut head).unwrap();
        let (kind, len) = frame_head_read(head).unwrap();
        let mut bytes = vec![0; len];
        self.reader.read_exact(&mut bytes).unwrap();
        (kind, bytes)
    }

    /// Reads until some output has this in it.
    fn hear(&mut self, word: &str) -> String {
        let mut text = String::new();
        while !text.contains(word) {
            let (kind, bytes) = self.next();
            assert_eq!(kind, FrameKind::Stdout, "{text:?} {}", String::from_utf8_lossy(&bytes));
            text += &String::from_utf8_lossy(&bytes);
        }
        text
    }

    /// Output, errors and the exit.
    fn end(mut self) -> (Vec<u8>, Vec<u8>, Value) {
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        loop {
            match self.next() {
                (FrameKind::Stdout, bytes) => output.extend(bytes),
                (FrameKind::Stderr, bytes) => errors.extend(bytes),
                (FrameKind::Exit, bytes) => {
                    let mut rest = Vec::new();
                    self.reader.read_to_end(&mut rest).unwrap();
                    assert!(rest.is_empty(), "nothing follows the exit");
                    return (output, errors, serde_json::from_slice(&bytes).unwrap());
                }
                (kind, _) => panic!("{kind:?}"),
            }
        }
    }
}

#[test]
#[ignore = "needs root"]
fn root_a_connection_carries_a_command() {
    if !inside("root_a_connection_carries_a_command") {
        return;
    }
    let mut lab = Lab::new();
    running(&lab);
    // A megabyte through and back, byte for byte, while both directions are full.
    let session = Session::new(&lab, json!({"command": ["/bin/sh", "-c", "cat; echo done >&2; exit 5"]}));
    let bytes: Vec<u8> = (0..1_u32 << 20).map(|n| (n % 251) as u8).collect();
    let mut writer = Session {
        stream: session.stream.try_clone().unwrap(),
        reader: BufReader::new(session.stream.try_clone().unwrap()),
    };
    let sent = bytes.clone();
    let sending = std::thread::spawn(move || {
        for part in sent.chunks(100_000) {
            writer.send(FrameKind::Stdin, part);
        }
        writer.send(FrameKind::Stdin, &[]);
    });
    session.stream.set_read_timeout(Some(kit::LONG)).unwrap();
    let (output, errors, exit) = session.end();
    sending.join().unwrap();
    assert!(output == bytes && errors == b"done\n" && exit["code"] == 5, "{} {exit}", output.len());

    // On a terminal, which has a size that changes.
    let mut session = Session::new(
        &lab,
        json!({"command": ["/bin/sh", "-c", "stty size; read x; stty size; echo got $x"], "tty": true, "size": {"rows": 7, "columns": 50}}),
    );
    session.hear("7 50");
    session.send(FrameKind::Resize, br#"{"rows":9,"columns":90}"#);
    session.send(FrameKind::Stdin, b"word\n");
    let said = session.hear("got word");
    assert!(said.contains("9 90"), "{said}");
    assert_eq!(session.end().2["code"], 0);

    // Whoever goes away takes the command along; so does a frame that makes no sense.
    let session = Session::new(&lab, json!({"command": ["/bin/sleep", "71235"]}));
    until("it runs", || is_there("71235"));
    drop(session);
    until("it is gone", || !is_there("71235"));
    let mut session = Session::new(&lab, json!({"command": ["/bin/sleep", "71236"]}));
    session.stream.write_all(&[9, 0, 0, 0, 0]).unwrap();
    assert_eq!(session.end().2["signal"], 9);
    assert!(!is_there("71236"));

    // Also when the command reads nothing, and what was sent to it fills every buffer on the way.
    let mut session = Session::new(&lab, json!({"command": ["/bin/sleep", "71238"]}));
    until("it runs", || is_there("71238"));
    session.stream.set_nonblocking(true).unwrap();
    let part = [&frame_head(FrameKind::Stdin, 65_536)[..], &[0; 65_536]].concat();
    let (mut at, mut refused) = (0, 0);
    while refused < 20 {
        match session.stream.write(&part[at..]) {
            Ok(len) => (at, refused) = ((at + len) % part.len(), 0),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                refused += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    assert!(is_there("71238"));
    drop(session);
    until("it is gone", || !is_there("71238"));

    // The end of the service is told to whoever listens, and does not wait for the command; the container runs on.
    let session = Session::new(&lab, json!({"command": ["/bin/sleep", "71237"]}));
    until("it runs", || is_there("71237"));
    let begun = Instant::now();
    lab.service.as_ref().unwrap().terminate();
    assert_eq!(session.end().2["signal"], 9);
    assert_eq!(lab.service.as_mut().unwrap().child.wait().unwrap().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5) && !is_there("71237"));
    lab.start(&[], &[]);
    assert_eq!(lab.one("container?name=c")["state"], "running");
    lab.close();
}
