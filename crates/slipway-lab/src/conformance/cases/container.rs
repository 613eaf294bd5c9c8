//! Containers: how they are described, named, and what they see.

use super::{Case, case, differs};
use crate::conformance::bench::{Bench, Outcome, holds, id, same};
use serde_json::{Value, json};
use std::path::Path;

pub(super) const CASES: &[Case] = &[
    case("container_created", created),
    case("container_found_by_id_name_state", found),
    case("container_names_are_unique", names),
    differs("container_names_may_have_any_digit", "refuses the digits 2 to 9", name_digits),
    case("container_without_a_name", unnamed),
    case("container_states_that_cannot_be_asked_for", states_refused),
    differs("container_with_an_id", "panics and drops the connection", with_an_id),
    case("container_delete_refused", delete_refused),
    differs("container_words_as_a_shell", "leaves the quotes in the words", words),
    differs("container_environment", "gives none", environment),
    case("container_own_processes", own_processes),
    case("container_devices", devices),
    differs("container_dev_is_not_for_all", "mounts /dev for all to write, without programs", dev_mode),
    case("container_sys_is_read_only", sys_read_only),
    case("container_log", log),
    case("container_namespaces", namespaces),
    differs("container_command_refused", "answers 201 and dead", command_refused),
];

fn container(b: &Bench, more: Value) -> Value {
    let mut body = json!({"mount": b.tree(), "command": "/bin/sleep 1000"});
    if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
        body.extend(more.clone());
    }
    body
}

fn created(b: &Bench) -> Outcome {
    let made = b.made("/container", &container(b, json!({})))?;
    same("state", made["state"].as_str().unwrap_or_default(), "created")?;
    same("refs", &made["refs"], 1)?;
    holds(made.get("namespaces").is_some_and(Value::is_null), || format!("namespaces null, got {made}"))?;
    for zero in ["name", "systemd"] {
        holds(made.get(zero).is_none(), || format!("no {zero} in {made}"))?;
    }
    holds(made["logfile"].as_str().is_some_and(|path| path.starts_with('/')), || format!("a logfile, got {made}"))?;
    holds(id(&made["mount"]) > 0 && made["mount"]["mountpoint"].is_string(), || {
        format!("the mount in full, got {made}")
    })?;
    let was = b.delete(&format!("/container?id={}", id(&made)))?.is(200)?;
    same("what was deleted", id(&was), id(&made))?;
    b.get(&format!("/container?id={}", id(&made)))?.refused(404, 404, "not found")?;
    Ok(())
}

fn found(b: &Bench) -> Outcome {
    let one = id(&b.made("/container", &container(b, json!({"name": "one"})))?);
    let two = id(&b.made("/container", &container(b, json!({"name": "two", "state": "running"})))?);
    let of = |query: &str| -> Result<Vec<u64>, String> {
        Ok(b.all(&format!("/container?{query}"))?.iter().map(id).collect())
    };
    for (query, wanted) in [
        (format!("id={one}"), one),
        ("name=two".to_owned(), two),
        (format!("id={one}&name=two"), one),
        (format!("id={one}&name=nobody"), one),
        (format!("id={one}&state=running"), one),
        ("name=two&state=created".to_owned(), two),
    ] {
        holds(of(&query)? == [wanted], || format!("{wanted} alone for {query}, got {:?}", of(&query)))?;
    }
    let (created, running) = (of("state=created")?, of("state=running")?);
    holds(created.contains(&one) && !created.contains(&two), || format!("{one} among the created, got {created:?}"))?;
    holds(running.contains(&two) && !running.contains(&one), || format!("{two} among the running, got {running:?}"))?;
    for query in ["id=999999999", "name=nobody", "name=nobody&state=created", "id=999999999&name=one"] {
        b.get(&format!("/container?{query}"))?.refused(404, 404, "not found")?;
    }
    let mount = id(&b.made("/mount", &b.bind("jail"))?);
    b.get(&format!("/container?id={mount}"))?.refused(404, 404, "not found")?;
    Ok(())
}

fn names(b: &Bench) -> Outcome {
    let one = id(&b.made("/container", &container(b, json!({"name": "taken"})))?);
    let before = b.ids()?;
    b.post("/container", &container(b, json!({"name": "taken"})))?.refused(409, 409, "object is busy")?;
    holds(b.ids()? == before, || format!("objects {before:?} only, got {:?}", b.ids()))?;
    b.delete("/container?name=taken")?.is(200)?;
    let again = id(&b.made("/container", &container(b, json!({"name": "taken"})))?);
    holds(again != one, || "another number".into())
}

fn name_digits(b: &Bench) -> Outcome {
    let long = "n".repeat(64);
    for name in ["node2", "0123456789", "a.b-c_d", "-", "_x", long.as_str()] {
        let made = b.made("/container", &container(b, json!({"name": name})))?;
        same("name", made["name"].as_str().unwrap_or_default(), name)?;
        b.delete(&format!("/container?name={name}"))?.is(200)?;
    }
    Ok(())
}

fn unnamed(b: &Bench) -> Outcome {
    for _ in 0..2 {
        b.made("/container", &container(b, json!({"name": ""})))?;
        b.made("/container", &container(b, json!({})))?;
    }
    Ok(())
}

fn states_refused(b: &Bench) -> Outcome {
    let before = b.ids()?;
    for state in ["stopping", "exited", "dead"] {
        b.post("/container", &container(b, json!({"state": state})))?.refused(400, 400, "invalid data type")?;
    }
    holds(b.ids()? == before, || format!("objects {before:?} only, got {:?}", b.ids()))
}

fn with_an_id(b: &Bench) -> Outcome {
    b.post("/container", &container(b, json!({"id": 5})))?.refused(400, 400, "invalid data type")?;
    Ok(())
}

fn delete_refused(b: &Bench) -> Outcome {
    for query in ["", "?force=true", "?id=&name="] {
        b.delete(&format!("/container{query}"))?.refused(400, 400, "")?;
    }
    for query in ["id=999999999", "name=nobody", "id=999999999&force=true"] {
        b.delete(&format!("/container?{query}"))?.refused(404, 404, "not found")?;
    }
    Ok(())
}

/// The output of a command in a container on the tree of the cases, run to its end.
fn output(b: &Bench, line: &str) -> Result<String, String> {
    Ok(b.sh(b.tree(), line)?.1)
}

fn words(b: &Bench) -> Outcome {
    let command = r#"/bin/sh -c "for word; do echo =$word=; done" sh "a b" 'c "d"' e\ f """#;
    let made = b.made("/container", &container(b, json!({"command": command, "state": "running"})))?;
    let ended = b.state_reached(id(&made), "exited")?;
    let log = b.log(&ended)?;
    let said: Vec<&str> = log.lines().filter(|line| line.starts_with('=')).collect();
    same("words", said.join(" "), "=a b= =c \"d\"= =e f= ==")
}

fn environment(b: &Bench) -> Outcome {
    let said = output(b, "env")?;
    for wanted in ["container=slipway", "PATH=/"] {
        holds(said.lines().any(|line| line.starts_with(wanted)), || {
            format!("{wanted}… in its environment, got {said}")
        })?;
    }
    let made =
        b.made("/container", &container(b, json!({"command": "/bin/env", "state": "running", "env": {"A": "b c"}})))?;
    let ended = b.state_reached(id(&made), "exited")?;
    holds(b.log(&ended)?.contains("\nA=b c\n"), || "A=b c in its environment".into())
}

fn own_processes(b: &Bench) -> Outcome {
    same("the number of its init", output(b, "echo $$")?.as_str(), "1")?;
    let said = output(b, "ls -d /proc/[0-9]* | wc -l")?;
    holds(said.trim().parse::<u32>().is_ok_and(|count| count < 6), || format!("its own processes only, got {said}"))
}

fn devices(b: &Bench) -> Outcome {
    let said = output(b, "ls /dev")?;
    for wanted in [
        "null", "zero", "full", "tty", "random", "urandom", "console", "shm", "mqueue", "pts", "ptmx", "fd", "stdin",
        "stdout", "stderr",
    ] {
        holds(said.split_whitespace().any(|name| name == wanted), || format!("/dev/{wanted}, got {said}"))?;
    }
    same("what null gives", output(b, "cat /dev/null; head -c 3 /dev/zero | wc -c")?.trim(), "3")?;
    let mounts = output(b, "cat /proc/mounts")?;
    for (at, kind) in [
        ("/proc", "proc"),
        ("/dev", "tmpfs"),
        ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"),
        ("/dev/pts", "devpts"),
        ("/sys", "sysfs"),
    ] {
        let there =
            mounts.lines().any(|line| line.split(' ').nth(1) == Some(at) && line.split(' ').nth(2) == Some(kind));
        holds(there, || format!("{kind} on {at}, got {mounts}"))?;
    }
    Ok(())
}

fn dev_mode(b: &Bench) -> Outcome {
    same("modes of /dev and /dev/pts/ptmx", output(b, "stat -c %a /dev /dev/pts/ptmx")?.as_str(), "755\n666")
}

fn sys_read_only(b: &Bench) -> Outcome {
    let said = output(b, "touch /sys/x; grep sysfs /proc/mounts")?;
    holds(said.contains(" ro,"), || format!("/sys read-only, got {said}"))
}

fn log(b: &Bench) -> Outcome {
    let made = b.made(
        "/container",
        &container(b, json!({"command": "/bin/sh -c 'echo out; echo err >&2'", "state": "running"})),
    )?;
    let ended = b.state_reached(id(&made), "exited")?;
    let log = b.log(&ended)?;
    for wanted in ["out", "err"] {
        holds(log.lines().any(|line| line == wanted), || format!("'{wanted}' in the log, got {log}"))?;
    }
    for wanted in ["container created", "starting container", "process ended, exit code (0)"] {
        let line = log.lines().find(|line| line.ends_with(wanted)).unwrap_or_default();
        let shape: String = line.chars().take(20).map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
        same(&format!("the time before '{wanted}' in {log}"), shape.as_str(), "9999/99/99 99:99:99 ")?;
        holds(line[20..].starts_with(&format!("container({}): ", id(&made))), || {
            format!("'container(ID): {wanted}', got {line}")
        })?;
    }
    Ok(())
}

fn namespaces(b: &Bench) -> Outcome {
    let made = b.made("/container", &container(b, json!({"namespaces": ["net", "pid", "mnt"], "command": "/bin/ls /proc/sys/net/ipv4/conf", "state": "running"})))?;
    holds(made["namespaces"].as_array().is_some_and(|all| all.len() == 3), || {
        format!("the three that were asked for, got {made}")
    })?;
    let ended = b.state_reached(id(&made), "exited")?;
    let log = b.log(&ended)?;
    let said: Vec<&str> = log.lines().filter(|line| !line.contains(" container(")).collect();
    same("networks of its own", said.join(" "), "all default lo")
}

fn command_refused(b: &Bench) -> Outcome {
    let before = b.ids()?;
    for command in ["", "  ", "relative", "/bin/sh 'open"] {
        let answer = b.post("/container", &container(b, json!({"command": command})))?;
        // A command that is absent or empty is missing; one that makes no sense is invalid.
        let fits = answer.refused(400, 400, "invalid data type").or_else(|_| answer.refused(422, 602, "command"));
        fits.map_err(|why| format!("'{command}': {why}"))?;
    }
    holds(b.ids()? == before, || format!("objects {before:?} only, got {:?}", b.ids()))?;
    holds(Path::new(&b.files.at("rootfs")).exists(), || "the tree".into())
}
