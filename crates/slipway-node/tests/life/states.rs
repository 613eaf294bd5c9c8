//! States, and what leads from one to the next.

use crate::lab::{LONG, Lab};
use serde_json::json;
use slipway_api::node::ContainerState::{Created, Dead, Exited, Paused, Running, Stopping};
use slipway_node::Which;
use std::time::{Duration, Instant};

pub(crate) fn root_states_follow_each_other_as_the_contract_says() {
    let lab = Lab::new();
    let made = lab
        .sh("echo up; trap 'exit 0' TERM; while true; do sleep 0.02; done", json!({"state": "created", "name": "one"}));
    let id = made.id;
    assert_eq!((made.state, made.pid, made.refs, made.restarts), (Created, None, 1, 0));
    assert_eq!(made.mount.as_ref().unwrap().overlay.as_ref().unwrap().lower.len(), 1);
    // What does not run, cannot stop and cannot be held.
    assert_eq!(lab.set(id, Exited).unwrap().state, Created);
    assert_eq!(lab.set(id, Paused).unwrap_err().status, 409);
    for _ in 0..2 {
        let ran = lab.set(id, Running).unwrap();
        assert_eq!((ran.state, ran.error), (Running, None));
        assert!(ran.pid.is_some() && ran.started_at_ms.is_some());
        assert_eq!(lab.set(id, Running).unwrap().pid, ran.pid, "running while running changes nothing");
        lab.heard(id, "up");
        assert_eq!(lab.set(id, Paused).unwrap().state, Paused);
        assert_eq!(lab.set(id, Paused).unwrap().state, Paused);
        assert_eq!(lab.set(id, Running).unwrap().pid, ran.pid);
        let refusal = lab.delete(id, false).unwrap_err();
        assert_eq!((refusal.status, refusal.problem.message.as_str()), (409, "object is busy"));
        let ended = lab.set(id, Exited).unwrap();
        assert_eq!((ended.state, ended.pid, ended.exit.unwrap().code), (Exited, None, Some(0)));
        assert_eq!(lab.set(id, Exited).unwrap().state, Exited);
    }
    // One that is held is stopped all the same.
    lab.set(id, Running).unwrap();
    lab.set(id, Paused).unwrap();
    assert!(!lab.host().container_set(&Which::Name("one".into()), Exited).unwrap().state.as_str().is_empty());
    lab.until(id, |container| matches!(container.state, Exited | Dead));
    for state in [Created, Stopping, Dead] {
        let refusal = lab.set(id, state).unwrap_err();
        assert_eq!((refusal.status, refusal.problem.code), (422, 606));
    }
    let log = lab.log(id);
    for text in ["container created", "starting container", "container state: exited", "process ended, exit code (0)"] {
        let line = log.lines().find(|line| line.ends_with(&format!(" container({id}): {text}")));
        let line = line.unwrap_or_else(|| panic!("{text}: {log}"));
        assert_eq!((&line[4..5], &line[7..8], &line[10..11], &line[13..14]), ("/", "/", " ", ":"), "{line}");
    }
    let told = lab.told(id);
    assert_eq!(&told[..4], ["container.created", "container.started", "container.paused", "container.resumed"]);
    assert_eq!(lab.delete(id, false).unwrap().name, "one");
    assert_eq!(lab.told(id).last().unwrap(), "container.removed");
    assert_eq!(lab.host().container(&Which::Name("one".into())).unwrap_err().status, 404);
    assert_eq!(lab.delete(id, true).unwrap_err().status, 404);
    // Others than 0 are dead, unless somebody asked for the end.
    for (line, code, state) in [("exit 3", Some(3), Dead), ("sleep 60", None, Exited)] {
        let id = lab.sh(line, json!({"stop_timeout": 1})).id;
        if code.is_none() {
            lab.set(id, Exited).unwrap();
        }
        let ended = lab.until(id, |container| !matches!(container.state, Running | Stopping));
        assert_eq!((ended.state, ended.exit.as_ref().unwrap().code), (state, code), "{ended:?}");
    }
    lab.census();
}

pub(crate) fn root_stopping_lasts_until_no_process_is_left() {
    let lab = Lab::new();
    let deaf = "trap '' TERM; echo up; sleep 1000 & sleep 1000 & wait; sleep 1000";
    let id = lab.sh(deaf, json!({"stop_timeout": 1})).id;
    lab.heard(id, "up");
    let begun = Instant::now();
    let host = lab.host().clone();
    let stop = std::thread::spawn(move || host.container_set(&Which::Id(id), Exited).unwrap());
    let stopping = lab.until_state(id, Stopping);
    let pid = stopping.pid.unwrap();
    // Meanwhile nothing starts a second one, and nothing pulls its mounts from under it.
    assert_eq!(lab.set(id, Running).unwrap_err().status, 409);
    assert_eq!(lab.set(id, Paused).unwrap_err().status, 409);
    assert_eq!(lab.delete(id, false).unwrap_err().status, 409);
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(lab.get(id).state, Stopping);
    let ended = stop.join().unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1) && begun.elapsed() < Duration::from_secs(2));
    assert_eq!((ended.state, ended.exit.unwrap().signal), (Exited, Some(9)));
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    // With more patience the answer does not wait for the end.
    lab.set(id, Running).unwrap();
    let slow = lab.sh("trap 'sleep 3; exit 0' TERM; echo up; while true; do sleep 0.02; done", json!({})).id;
    lab.heard(slow, "up");
    assert_eq!(lab.set(slow, Exited).unwrap().state, Stopping);
    assert_eq!(lab.until_state(slow, Exited).exit.unwrap().code, Some(0));
    // By force: with the same patience, then gone.
    let was = lab.delete(id, true).unwrap();
    assert_eq!(was.state, Running);
    assert_eq!(lab.host().container(&Which::Id(id)).unwrap_err().status, 404);
    assert!(begun.elapsed() < LONG);
    lab.census();
}

pub(crate) fn root_what_does_not_start_is_dead_with_its_reason() {
    let lab = Lab::new();
    let before = std::fs::read_link("/proc/self/root").unwrap();
    let places = std::fs::read_dir("/").unwrap().count();
    for (command, more, step, errno) in [
        ("/bin/nothing", json!({}), "init", Some("ENOENT")),
        ("/etc/passwd", json!({}), "init", None),
        ("/bin/true", json!({"cwd": "/nowhere"}), "chdir", Some("ENOENT")),
        ("/bin/true", json!({"user": "eve"}), "user", None),
    ] {
        let dead = lab.create(command, more).unwrap();
        let error = dead.error.unwrap();
        assert_eq!((dead.state, error.step.as_str(), error.errno.as_deref()), (Dead, step, errno), "{command}");
        let refusal = lab.set(dead.id, Running).unwrap_err();
        assert_eq!((refusal.status, refusal.problem.error.unwrap().step.as_str()), (500, step));
        assert_eq!(lab.get(dead.id).state, Dead);
        assert_eq!(lab.told(dead.id), ["container.created", "container.failed", "container.failed"]);
        lab.delete(dead.id, false).unwrap();
    }
    assert_eq!(std::fs::read_link("/proc/self/root").unwrap(), before);
    assert_eq!(std::fs::read_dir("/").unwrap().count(), places);
    lab.census();
}

pub(crate) fn root_requests_that_do_not_fit_change_nothing() {
    let lab = Lab::new();
    let kept = lab.create("/bin/true", json!({"state": "created", "name": "kept"})).unwrap();
    let (attaches, mounts) = (lab.host().attaches(), lab.host().mounts());
    for (command, more, status) in [
        ("/bin/true", json!({"state": "exited"}), 400),
        ("/bin/true", json!({"state": "dead"}), 400),
        ("/bin/true", json!({"state": "stopping"}), 400),
        ("/bin/true", json!({"state": "paused"}), 400),
        ("/bin/true", json!({"name": "kept"}), 409),
        ("/bin/true", json!({"name": ".kept"}), 422),
        ("/bin/true", json!({"id": 7}), 400),
        ("/bin/true", json!({"mount": {"id": 999}}), 404),
        ("/bin/true", json!({"mount": null}), 400),
        ("/bin/true 'open", json!({}), 400),
        ("", json!({}), 400),
    ] {
        let refusal = lab.create(command, more.clone()).unwrap_err();
        assert_eq!(refusal.status, status, "{command} {more} {refusal:?}");
    }
    assert_eq!((lab.host().attaches(), lab.host().mounts()), (attaches, mounts));
    assert_eq!(lab.host().containers(), [kept]);
    lab.census();
}
