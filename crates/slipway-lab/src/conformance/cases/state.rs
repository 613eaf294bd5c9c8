//! Containers: from one state to the next.

use super::{Case, case, differs};
use crate::conformance::bench::{Bench, Outcome, SOON, holds, id, same, until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub(super) const CASES: &[Case] = &[
    case("state_ends", ends),
    case("state_started_again", started_again),
    case("state_stopped", stopped),
    case("state_patch_that_changes_nothing", nothing_changes),
    case("state_patch_refused", patch_refused),
    case("state_start_failed", start_failed),
    differs("state_start_failed_says_why", "says it in the log only", start_failed_why),
    case("state_delete_running_refused", delete_running),
    differs("state_delete_running_forced", "answers 501", delete_forced),
    differs("state_stop_asks_first", "kills at once", stop_asks),
    differs("state_stop_kills_in_the_end", "kills at once", stop_kills),
    case("state_systemd_is_asked_its_way", systemd),
    differs("state_paused", "answers 400", paused),
    case("state_kraken", kraken),
    differs("state_kraken_deaf_init", "says exited while the process runs", kraken_deaf),
];

/// An init that ends when it is asked to.
const POLITE: &str = "/bin/sh -c 'trap \"exit 0\" TERM; while :; do sleep 0.05; done'";
/// One that does not listen.
const DEAF: &str = "/bin/sh -c 'trap \"\" TERM; while :; do sleep 0.05; done'";

fn run(b: &Bench, command: &str, more: Value) -> Result<Value, String> {
    let mut body = json!({"mount": b.tree(), "command": command, "state": "running"});
    if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
        body.extend(more.clone());
    }
    b.made("/container", &body)
}

fn state(object: &Value) -> &str {
    object["state"].as_str().unwrap_or_default()
}

fn patch(b: &Bench, number: u64, state: &str) -> Result<Value, String> {
    b.patch(&format!("/container?id={number}&state={state}"))?.is(200)
}

fn ends(b: &Bench) -> Outcome {
    for (command, wanted) in [("/bin/true", "exited"), ("/bin/sh -c 'exit 7'", "dead"), ("/bin/false", "dead")] {
        let made = run(b, command, json!({}))?;
        holds(["running", "exited", "dead"].contains(&state(&made)), || {
            format!("running, or ended already, got {made}")
        })?;
        b.state_reached(id(&made), wanted)?;
        b.delete(&format!("/container?id={}", id(&made)))?.is(200)?;
    }
    let made = run(b, "/bin/sleep 1000", json!({}))?;
    same("state", state(&made), "running")?;
    if let Some(pid) = made["pid"].as_u64() {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap_or_default());
        let killed = pid.is_some_and(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok());
        holds(killed, || "that its init can be killed".into())?;
        b.state_reached(id(&made), "dead")?;
    }
    Ok(())
}

fn started_again(b: &Bench) -> Outcome {
    let made = b.made("/container", &json!({"mount": b.tree(), "command": "/bin/sh -c 'echo again; exit 0'"}))?;
    for _ in 0..3 {
        patch(b, id(&made), "running")?;
        b.state_reached(id(&made), "exited")?;
    }
    let log = b.log(&made)?;
    same("runs in the log", log.lines().filter(|line| *line == "again").count(), 3)
}

fn stopped(b: &Bench) -> Outcome {
    let made = run(b, POLITE, json!({"name": "polite"}))?;
    // It must have come so far that it listens.
    std::thread::sleep(Duration::from_millis(300));
    let answer = b.patch("/container?name=polite&state=exited")?.is(200)?;
    holds(["stopping", "exited"].contains(&state(&answer)), || format!("stopping or exited, got {answer}"))?;
    b.state_reached(id(&made), "exited")?;
    b.delete("/container?name=polite")?.is(200)?;
    Ok(())
}

fn nothing_changes(b: &Bench) -> Outcome {
    let made = b.made("/container", &json!({"mount": b.tree(), "command": "/bin/sleep 1000"}))?;
    same("created, asked to stop", state(&patch(b, id(&made), "exited")?), "created")?;
    let first = patch(b, id(&made), "running")?;
    same("started", state(&first), "running")?;
    let second = patch(b, id(&made), "running")?;
    same("started twice", state(&second), "running")?;
    same("the same process", &second["pid"], &first["pid"])?;
    b.delete(&format!("/container?id={}&force=true", id(&made)))?.is(200)?;
    let ended = run(b, "/bin/false", json!({}))?;
    b.state_reached(id(&ended), "dead")?;
    same("dead, asked to stop", state(&patch(b, id(&ended), "exited")?), "dead")
}

fn patch_refused(b: &Bench) -> Outcome {
    let number = id(&b.made("/container", &json!({"mount": b.tree(), "command": "/bin/true"}))?);
    b.patch(&format!("/container?id={number}"))?.refused(422, 602, "state")?;
    b.patch(&format!("/container?id={number}&state="))?.refused(422, 602, "state")?;
    for wrong in ["dead", "created", "stopping", "asleep"] {
        b.patch(&format!("/container?id={number}&state={wrong}"))?.refused(422, 606, "state")?;
    }
    b.patch("/container?state=running")?.refused(400, 400, "")?;
    for query in ["id=999999999", "name=nobody"] {
        b.patch(&format!("/container?state=running&{query}"))?.refused(404, 404, "not found")?;
    }
    same("its state", state(&b.one("/container", number)?), "created")
}

fn start_failed(b: &Bench) -> Outcome {
    for command in ["/bin/nothing", "/etc/data", "/etc"] {
        let made = run(b, command, json!({}))?;
        same("state in the answer", state(&made), "dead")?;
        b.patch(&format!("/container?id={}&state=running", id(&made)))?.refused(500, 500, "operation failed")?;
        same("state", state(&b.one("/container", id(&made))?), "dead")?;
        b.delete(&format!("/container?id={}", id(&made)))?.is(200)?;
    }
    Ok(())
}

fn start_failed_why(b: &Bench) -> Outcome {
    let made = run(b, "/bin/nothing", json!({}))?;
    let text = made["error"]["text"].as_str().unwrap_or_default();
    holds(made["error"]["step"] == "init" && text.contains("/bin/nothing"), || {
        format!("step init and the path, got {made}")
    })?;
    let refused =
        b.patch(&format!("/container?id={}&state=running", id(&made)))?.refused(500, 500, "operation failed")?;
    same("the step", refused["error"]["step"].as_str().unwrap_or_default(), "init")
}

fn delete_running(b: &Bench) -> Outcome {
    let made = run(b, DEAF, json!({"stop_timeout": 4}))?;
    std::thread::sleep(Duration::from_millis(300));
    b.delete(&format!("/container?id={}", id(&made)))?.refused(409, 409, "object is busy")?;
    same("state", state(&b.one("/container", id(&made))?), "running")?;
    let stopping = patch(b, id(&made), "exited")?;
    same("state", state(&stopping), "stopping")?;
    b.delete(&format!("/container?id={}", id(&made)))?.refused(409, 409, "object is busy")?;
    let over = until(SOON, || Ok(["exited", "dead"].contains(&state(&b.one("/container", id(&made))?))))?;
    holds(over, || "its end".into())?;
    b.delete(&format!("/container?id={}", id(&made)))?.is(200)?;
    Ok(())
}

fn delete_forced(b: &Bench) -> Outcome {
    let made = run(b, DEAF, json!({"name": "forced", "stop_timeout": 1}))?;
    let begun = Instant::now();
    b.delete("/container?name=forced&force=true")?.is(200)?;
    holds(begun.elapsed() < Duration::from_secs(5), || {
        format!("no more patience than its second, took {:?}", begun.elapsed())
    })?;
    holds(b.is_gone("/container", id(&made))?, || "it gone".into())?;
    holds(until(SOON, || b.is_gone("/mount", id(&made["mount"])))?, || "its mount gone with it".into())
}

fn stop_asks(b: &Bench) -> Outcome {
    let line = "/bin/sh -c 'trap \"echo asked; exit 0\" TERM; while :; do sleep 0.05; done'";
    let made = run(b, line, json!({}))?;
    std::thread::sleep(Duration::from_millis(300));
    patch(b, id(&made), "exited")?;
    let ended = b.state_reached(id(&made), "exited")?;
    holds(b.log(&ended)?.lines().any(|line| line == "asked"), || "that it was asked to end".into())
}

fn stop_kills(b: &Bench) -> Outcome {
    let made = run(b, DEAF, json!({"stop_timeout": 1}))?;
    std::thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    patch(b, id(&made), "exited")?;
    let over = until(SOON, || Ok(["exited", "dead"].contains(&state(&b.one("/container", id(&made))?))))?;
    holds(over, || "its end".into())?;
    let took = begun.elapsed();
    holds(took > Duration::from_millis(900) && took < Duration::from_secs(5), || {
        format!("a second of patience, took {took:?}")
    })?;
    same("how it ended", &b.one("/container", id(&made))?["exit"]["signal"], 9)
}

fn systemd(b: &Bench) -> Outcome {
    // SIGRTMIN+3 is 37; who handles it instead of SIGTERM is asked as systemd is.
    let line = "/bin/sh -c 'trap \"echo asked; exit 0\" 37; trap \"echo wrong\" TERM; while :; do sleep 0.05; done'";
    let made = run(b, line, json!({"systemd": true}))?;
    same("systemd", &made["systemd"], true)?;
    std::thread::sleep(Duration::from_millis(300));
    patch(b, id(&made), "exited")?;
    let ended = b.state_reached(id(&made), "exited")?;
    let log = b.log(&ended)?;
    holds(log.lines().any(|line| line == "asked") && !log.contains("wrong"), || {
        format!("one signal, SIGRTMIN+3, got {log}")
    })
}

fn paused(b: &Bench) -> Outcome {
    let made = run(b, "/bin/sh -c 'while :; do echo tick; sleep 0.02; done'", json!({}))?;
    same("state", state(&patch(b, id(&made), "paused")?), "paused")?;
    std::thread::sleep(Duration::from_millis(100));
    let before = b.log(&made)?.len();
    std::thread::sleep(Duration::from_millis(200));
    same("bytes of output", b.log(&made)?.len(), before)?;
    same("state", state(&patch(b, id(&made), "running")?), "running")?;
    let goes_on = until(SOON, || Ok(b.log(&made)?.len() > before))?;
    holds(goes_on, || "that it goes on".into())?;
    b.delete(&format!("/container?id={}&force=true", id(&made)))?.is(200)?;
    Ok(())
}

/// What Kraken does, with its second between looks: list, make, see it run, ask it to end, see it exited, delete.
fn kraken_with(b: &Bench, command: &str, more: Value, end: &str) -> Outcome {
    let listed = |name: &str| -> Result<Option<Value>, String> {
        std::thread::sleep(Duration::from_secs(1));
        Ok(b.all("/container")?.into_iter().find(|one| one["name"] == name))
    };
    let name = "layer1.vm0";
    holds(listed(name)?.is_none(), || "that there is none yet".into())?;
    let mut body = json!({"name": name, "mount": b.layered(), "command": command, "state": "running"});
    if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
        body.extend(more.clone());
    }
    let made = b.made("/container", &body)?;
    same("state when made", state(&made), "running")?;
    let seen = listed(name)?.unwrap_or_default();
    same("state in the list", state(&seen), "running")?;
    holds(seen["mount"]["overlay"]["lower"][0]["attach"]["attach"]["loopback"].is_object(), || {
        format!("it in full in the list, got {seen}")
    })?;
    let asked = b.patch(&format!("/container?name={name}&state=exited"))?.is(200)?;
    holds(["stopping", "exited"].contains(&state(&asked)), || format!("stopping or exited, got {asked}"))?;
    let mut last = Value::Null;
    for _ in 0..15 {
        last = listed(name)?.unwrap_or_default();
        if state(&last) != "stopping" {
            break;
        }
    }
    same("state in the end", state(&last), end)?;
    b.delete(&format!("/container?name={name}"))?.is(200)?;
    holds(listed(name)?.is_none(), || "it gone from the list".into())?;
    let inner = &made["mount"]["overlay"]["lower"][0];
    for (path, number) in
        [("/mount", id(&made["mount"])), ("/mount", id(inner)), ("/attach", id(&inner["attach"]["attach"]))]
    {
        holds(b.is_gone(path, number)?, || format!("{path} {number} gone with it"))?;
    }
    Ok(())
}

fn kraken(b: &Bench) -> Outcome {
    kraken_with(b, POLITE, json!({}), "exited")
}

/// An init that has to be killed has ended as it was asked to; Kraken waits for nothing else.
fn kraken_deaf(b: &Bench) -> Outcome {
    kraken_with(b, "/bin/sleep 1000", json!({"stop_timeout": 2}), "exited")
}
