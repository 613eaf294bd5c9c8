//! The life of a node service: its start, its limits, its end and its next start.
#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::{Lab, Service, inside, tool, until};
use serde_json::json;
use std::io::Write;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::{Duration, Instant};

#[test]
#[ignore = "needs root"]
fn root_a_killed_service_is_followed_by_one_that_knows_all() {
    if !inside("root_a_killed_service_is_followed_by_one_that_knows_all") {
        return;
    }
    let mut lab = Lab::new();
    let body = json!({"name": "n", "mount": lab.nested(), "command": "/bin/sh -c 'while :; do echo tick; sleep 0.05; done'", "state": "running", "stop_timeout": 1});
    let made = lab.post("container", body).made();
    for _ in 0..3 {
        lab.service.as_mut().unwrap().child.kill().unwrap();
        lab.service.as_mut().unwrap().child.wait().unwrap();
        assert!(lab.socket().exists(), "it had no time to remove its socket");
        lab.start(&[], &[]);
        assert!(lab.service.as_ref().unwrap().log().contains("replacing the socket of a service that is gone"));
        let now = lab.one("container?name=n");
        for field in ["id", "pid", "state", "started_at_ms", "mount", "refs"] {
            assert_eq!(now[field], made[field], "{field}");
        }
    }
    let next = lab.post("mount", lab.bound()).made();
    assert_eq!(next["id"].as_u64().unwrap(), made["id"].as_u64().unwrap() + 1, "numbers go on");
    lab.close();
}

#[test]
#[ignore = "needs root"]
fn root_a_second_service_is_refused() {
    if !inside("root_a_second_service_is_refused") {
        return;
    }
    let lab = Lab::new();
    let (other, run, state) = (lab.path("other.sock"), lab.path("run2"), lab.path("state2"));
    let own = [("--run-dir", run.as_str()), ("--state-dir", state.as_str()), ("--socket", other.as_str())];
    for (missing, word) in
        [(0, "run is in use by process"), (1, "state is in use by process"), (2, "a living service listens on")]
    {
        let words: Vec<&str> = own
            .iter()
            .enumerate()
            .filter(|(n, _)| *n != missing)
            .flat_map(|(_, (name, value))| [*name, *value])
            .collect();
        let (code, said) = lab.command(&words, &[]).refused();
        assert_eq!(code, 5, "{said}");
        assert!(said.contains(word) && said.contains("next: "), "{said}");
    }
    assert_eq!(lab.get("mount").status, 200, "the first one is unharmed");
    std::fs::write(&other, "a file").unwrap();
    let words = [own[0].0, own[0].1, own[1].0, own[1].1, own[2].0, own[2].1];
    let (code, said) = lab.command(&words, &[]).refused();
    assert!(code == 5 && said.contains("is no socket"), "{said}");
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "a file");
    tool("umount", &[&run]);
    lab.close();
}

#[test]
#[ignore = "needs root"]
fn root_limits_hold() {
    if !inside("root_limits_hold") {
        return;
    }
    let lab = Lab::with(&[], &[("SLIPWAY_NODE_PATIENCE_SECONDS", "1"), ("SLIPWAY_NODE_CONNECTIONS_MAX", "4")]);
    let json = ("Content-Type", "application/json");
    let memory = || {
        let text = lab.ask("GET", "/metrics", None).text();
        let line =
            text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes ")).unwrap().to_owned();
        line.parse::<u64>().unwrap()
    };
    let before = memory();
    // A gigabyte is announced and sent, and never held.
    let mut stream = UnixStream::connect(lab.socket()).unwrap();
    write!(
        stream,
        "POST /imageapi/v1/mount HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        1_u64 << 30
    )
    .unwrap();
    let mut writer = stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let piece = vec![b' '; 1 << 20];
        (0..1024).all(|_| writer.write_all(&piece).is_ok())
    });
    stream.set_read_timeout(Some(kit::LONG)).unwrap();
    assert_eq!(kit::answer_read(stream).refusal().0, 413);
    sending.join().unwrap();
    let after = memory();
    assert!(after < before + (16 << 20), "{before} {after}");
    // Without a length, too, and for those who ask first.
    let big = vec![b' '; (1 << 20) + 1];
    let mut chunked = format!("{:x}\r\n", big.len()).into_bytes();
    chunked.extend_from_slice(&big);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    let answer = lab.ask_raw("POST", "/imageapi/v1/mount", &[json, ("Transfer-Encoding", "chunked")], &chunked);
    assert_eq!(answer.refusal().0, 413);
    let answer = lab.ask_raw(
        "POST",
        "/imageapi/v1/mount",
        &[json, ("Content-Length", "9999999"), ("Expect", "100-continue")],
        b"",
    );
    assert_eq!(answer.refusal().0, 413);
    // As much as is allowed is looked at.
    let most = format!("{{}}{}", " ".repeat((1 << 20) - 2));
    assert_eq!(lab.ask_raw("POST", "/imageapi/v1/mount", &[json], most.as_bytes()).status, 501);
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(400_000), "]".repeat(400_000));
    assert_eq!(lab.ask_raw("POST", "/imageapi/v1/mount", &[json], deep.as_bytes()).refusal().0, 400);
    let nested = (0..100).fold(lab.bound(), |inner, _| json!({"kind": "overlay", "overlay": {"lower": [inner]}}));
    assert_eq!(lab.post("mount", nested).refusal().0, 400);
    let long = "x".repeat(64 << 10);
    assert_eq!(lab.ask_raw("GET", "/livez", &[("X", &long)], b"").status, 431);
    // Whoever sends nothing, or slowly, is shown the door.
    let begun = Instant::now();
    let mut slow: Vec<UnixStream> = (0..4).map(|_| UnixStream::connect(lab.socket()).unwrap()).collect();
    for stream in &mut slow[1..] {
        stream.write_all(b"GET /livez HTTP/1.1\r\nX: ").unwrap();
    }
    // All seats are taken, so this one waits until they are free.
    assert_eq!(lab.ask("GET", "/livez", None).status, 200);
    let waited = begun.elapsed();
    assert!(waited > Duration::from_millis(700) && waited < Duration::from_secs(10), "{waited:?}");
    drop(slow);
    let body = lab.ask_raw("POST", "/imageapi/v1/mount", &[json, ("Content-Length", "100")], b"{");
    assert_eq!(body.refusal().0, 408);
    lab.close();
}

#[test]
#[ignore = "needs root"]
fn root_a_stop_is_told_and_loses_no_answer() {
    if !inside("root_a_stop_is_told_and_loses_no_answer") {
        return;
    }
    let mut lab = Lab::empty();
    let manager = UnixDatagram::bind(lab.at("notify")).unwrap();
    manager.set_read_timeout(Some(kit::LONG)).unwrap();
    let heard = || {
        let mut text = [0; 100];
        let len = manager.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..len]).into_owned()
    };
    let notify = lab.path("notify");
    lab.start(&[], &[("NOTIFY_SOCKET", &notify), ("WATCHDOG_USEC", "200000")]);
    assert_eq!(heard(), "READY=1");
    assert_eq!((heard(), heard()), ("WATCHDOG=1".into(), "WATCHDOG=1".into()));
    let body =
        json!({"name": "n", "mount": lab.bound(), "command": "/bin/sleep 1000", "state": "running", "stop_timeout": 1});
    let made = lab.post("container", body).made();
    // A request that is half sent when the service is told to stop is answered all the same.
    let mut slow = UnixStream::connect(lab.socket()).unwrap();
    let mount = lab.bound().to_string();
    write!(
        slow,
        "POST /imageapi/v1/mount HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{{",
        mount.len()
    )
    .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    lab.service.as_ref().unwrap().terminate();
    until("the stop is told", || heard() == "STOPPING=1");
    slow.write_all(&mount.as_bytes()[1..]).unwrap();
    assert_eq!(kit::answer_read(slow).status, 201);
    let status = lab.service.as_mut().unwrap().child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(!lab.socket().exists(), "its socket is gone");
    lab.start(&[], &[]);
    let now = lab.one("container?name=n");
    assert_eq!((&now["state"], &now["pid"]), (&json!("running"), &made["pid"]), "it ran on");
    drop(manager);
    std::fs::remove_file(lab.at("notify")).unwrap();
    lab.close();
}

#[test]
#[ignore = "needs root"]
fn root_the_directories_are_closed_and_the_socket_is_for_its_group() {
    if !inside("root_the_directories_are_closed_and_the_socket_is_for_its_group") {
        return;
    }
    use std::os::unix::fs::MetadataExt;
    let lab = Lab::with(&["--socket-group", "12345"], &[]);
    for (name, mode) in [("run", 0o700), ("state", 0o700), ("sock", 0o660)] {
        assert_eq!(std::fs::metadata(lab.at(name)).unwrap().mode() & 0o7777, mode, "{name}");
    }
    let socket = std::fs::metadata(lab.socket()).unwrap();
    assert_eq!((socket.uid(), socket.gid()), (0, 12345));
    let (code, said) =
        lab.command(&["--socket", &lab.path("x.sock"), "--socket-group", "no-such-group"], &[]).refused();
    assert!(code == 5 || said.contains("no-such-group"), "{said}");
    lab.close();
}

#[test]
#[ignore = "needs root"]
fn root_only_root_starts_it() {
    if !inside("root_only_root_starts_it") {
        return;
    }
    let lab = Lab::empty();
    let program = lab.path("agent");
    std::fs::copy(env!("CARGO_BIN_EXE_slipway-agent"), &program).unwrap();
    let output = std::process::Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", &program, "serve", "--run-dir", "/tmp/none"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("only root") && said.contains("next: run 'sudo slipway-agent serve'"), "{said}");
    std::fs::remove_file(&program).unwrap();
    lab.forget();
}

/// A service whose socket was taken over by somebody else does not remove theirs.
#[test]
#[ignore = "needs root"]
fn root_a_socket_of_another_is_left_alone() {
    if !inside("root_a_socket_of_another_is_left_alone") {
        return;
    }
    let mut lab = Lab::new();
    std::fs::rename(lab.socket(), lab.at("moved")).unwrap();
    let other = UnixListener::bind(lab.socket()).unwrap();
    let service: Service = lab.service.take().unwrap();
    assert_eq!(service.stop().code(), Some(0));
    assert!(lab.socket().exists());
    drop(other);
    for name in ["sock", "moved"] {
        std::fs::remove_file(lab.at(name)).unwrap();
    }
    lab.start(&[], &[]);
    lab.close();
}
