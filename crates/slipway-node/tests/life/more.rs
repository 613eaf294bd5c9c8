//! Logs, memory, many at once, and a service that is killed.

use crate::lab::{LONG, Lab, config, mark, processes, tool};
use serde_json::json;
use slipway_api::node::Container;
use slipway_api::node::ContainerState::{Created, Dead, Exited, Paused, Running};
use slipway_api::node::Health;
use slipway_node::{Host, NodeConfig, Which};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

pub(crate) fn root_logs_are_bounded_and_read_over_their_files() {
    let lab = Lab::new();
    let line = "n=0; while [ $n -lt 9000 ]; do echo line $n; n=$((n+1)); done; echo end; sleep 0.3; echo after";
    let id = lab.sh(line, json!({})).id;
    lab.heard(id, "end");
    let mut follow = lab.host().log(&Which::Id(id), Some(1)).unwrap();
    let ended = lab.until_state(id, Exited);
    let old = format!("{}.1", ended.logfile);
    for file in [&ended.logfile, &old] {
        assert!(std::fs::metadata(file).unwrap().len() <= 64 << 10);
    }
    let read = |tail| {
        let mut reader = lab.host().log(&Which::Id(id), tail).unwrap();
        let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
        while let Some(len @ 1..) = reader.read(&mut buffer, Duration::ZERO).unwrap() {
            text.extend_from_slice(&buffer[..len]);
        }
        String::from_utf8(text).unwrap()
    };
    let whole = read(None);
    assert!(whole.len() > 64 << 10 && whole.contains("line 8999\nend\n"));
    let numbers: Vec<u32> = whole.lines().filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "nothing is missing between");
    assert_eq!(read(Some(6000)).lines().count(), 6000);
    assert!(read(Some(1)).contains("container state: exited"), "{}", read(Some(1)));
    // Whoever follows hears all of it, and its end.
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.contains("container state: exited") {
        let len = follow.read(&mut buffer, LONG).unwrap().unwrap();
        text.push_str(&String::from_utf8_lossy(&buffer[..len]));
    }
    assert!(text.starts_with("end\n") && text.contains("\nafter\n"), "{text}");
    lab.delete(id, false).unwrap();
    while let Some(len) = follow.read(&mut buffer, LONG).unwrap() {
        assert!(len > 0, "it ends with the container");
    }
    drop(follow);
    assert_eq!(lab.host().log(&Which::Id(id), None).unwrap_err().status, 404);
    lab.census();
}

pub(crate) fn root_want_of_memory_is_told() {
    let lab = Lab::new();
    let more = json!({"resources": {"memory": 33_554_432}});
    let id = lab.create("/bin/dd if=/dev/zero of=/dev/null bs=100M count=1", more).unwrap().id;
    let ended = lab.until_state(id, Dead).exit.unwrap();
    assert_eq!((ended.oom, ended.signal), (true, Some(9)));
    assert_eq!(lab.told(id)[2..], ["container.oom", "container.dead"]);
    assert_eq!(lab.host().counts().ooms, 1);
    lab.census();
}

pub(crate) fn root_want_of_memory_of_a_child_is_told_at_once() {
    let mut lab = Lab::new();
    let more = json!({"resources": {"memory": 33_554_432}, "stop_timeout": 1});
    let line = "dd if=/dev/zero of=/dev/null bs=100M count=1; echo went on; while true; do sleep 0.05; done";
    let id = lab.sh(line, more).id;
    lab.heard(id, "went on");
    let still = lab.until(id, |container| container.ooms == 1);
    assert_eq!((still.state, lab.host().counts().ooms), (Running, 1));
    assert!(lab.told(id).ends_with(&["container.oom".to_owned()]), "{:?}", lab.told(id));
    // The next service knows, and does not tell of it again; nor does the end.
    lab.restart();
    assert_eq!((lab.get(id).ooms, lab.host().counts().ooms), (1, 0));
    lab.set(id, Exited).unwrap();
    let ended = lab.until_state(id, Exited);
    assert_eq!((ended.ooms, ended.exit.unwrap().oom), (1, true));
    assert!(!lab.told(id).contains(&"container.oom".to_owned()), "{:?}", lab.told(id));
    lab.delete(id, false).unwrap();
    lab.census();
}

pub(crate) fn root_a_start_that_does_not_come_back() {
    let mut lab = Lab::new();
    let shim = std::env::current_exe().unwrap().display().to_string();
    let hang = lab.at("hang").display().to_string();
    // What keeps the start from coming back outlives its shim, as what waits in the kernel does.
    let script = format!(
        "if [ -e {hang} ]; then sh -c 'while [ -e {hang} ]; do sleep 0.02; done' & wait; fi; exec {shim} shim \"$0\""
    );
    lab.shim = Some(vec!["/bin/sh".into(), "-c".into(), script]);
    lab.node_config.deadline = Duration::from_secs(1);
    lab.restart();
    let overdue = |error: Option<slipway_api::node::StepError>| {
        let error = error.unwrap();
        (error.step, error.errno) == ("start".to_owned(), Some("ETIMEDOUT".to_owned()))
    };
    let id = lab.create("/bin/sleep 1000", json!({"state": "created", "stop_timeout": 1})).unwrap().id;
    std::fs::write(&hang, "").unwrap();
    // One that was asked to start: listed as pending, and dead when it comes back.
    let refusal = lab.set(id, Running).unwrap_err();
    assert!(refusal.status == 500 && overdue(refusal.problem.error.clone()), "{refusal:?}");
    let pending = lab.get(id);
    assert!(pending.health == Health::Pending && pending.state == Created && overdue(pending.error));
    let begun = Instant::now();
    for refusal in [lab.set(id, Running).unwrap_err(), lab.delete(id, true).unwrap_err()] {
        assert!(refusal.status == 409 && refusal.problem.hint.unwrap().contains("has not come back"));
    }
    assert!(begun.elapsed() < Duration::from_secs(1));
    // One that was to be made and started: nobody was told that it is there, so nothing of it stays.
    let refusal = lab.create("/bin/sleep 1000", json!({})).unwrap_err();
    assert!(refusal.status == 500 && overdue(refusal.problem.error.clone()), "{refusal:?}");
    let new = lab.host().containers().into_iter().map(|container| container.id).max().unwrap();
    assert!(new > id && lab.get(new).health == Health::Pending);
    std::fs::remove_file(&hang).unwrap();
    let dead = lab.until_state(id, Dead);
    assert!(dead.health.is_ready() && overdue(dead.error));
    let begun = Instant::now();
    while lab.host().container(&Which::Id(new)).is_ok() {
        assert!(begun.elapsed() < LONG);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(lab.told(id).ends_with(&["container.failed".to_owned()]), "{:?}", lab.told(id));
    // It starts when nothing is in the way.
    lab.set(id, Running).unwrap();
    assert_eq!(lab.get(id).state, Running);
    lab.delete(id, true).unwrap();
    lab.census();
}

pub(crate) fn root_a_full_disk_begins_nothing_and_keeps_nothing() {
    let mut lab = Lab::new();
    let records = lab.at("state/containers");
    lab.close();
    tool("mount", &["-t", "tmpfs", "-o", "size=64k", "none", &records.display().to_string()]);
    lab.open();
    let id = lab.create("/bin/sleep 1000", json!({"state": "created", "stop_timeout": 1})).unwrap().id;
    let fill = records.join("fill");
    let mut file = std::fs::File::create(&fill).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    let full = |refusal: slipway_node::Refusal| {
        let error = refusal.problem.error.clone().unwrap();
        assert_eq!((refusal.status, error.errno.as_deref()), (500, Some("ENOSPC")), "{refusal:?}");
        assert_eq!(error.step, "record");
    };
    full(lab.create("/bin/sleep 1000", json!({})).unwrap_err());
    full(lab.set(id, Running).unwrap_err());
    let names = |dir: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = entries.collect();
        names.sort();
        names
    };
    assert_eq!((lab.host().containers().len(), lab.get(id).state), (1, Created));
    assert_eq!(names(&records), [format!("{id}.json"), "fill".to_owned()]);
    // The watch may hear of an end after the container has gone: that leaves nothing either.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(names(&lab.at("run/containers")), [id.to_string()]);
    std::fs::remove_file(&fill).unwrap();
    drop(file);
    lab.set(id, Running).unwrap();
    lab.delete(id, true).unwrap();
    lab.close();
    tool("umount", &[&records.display().to_string()]);
    lab.open();
    lab.census();
}

pub(crate) fn root_one_that_is_held_does_nothing() {
    let lab = Lab::new();
    let id = lab.sh("while true; do echo tick; sleep 0.02; done", json!({"stop_timeout": 1})).id;
    lab.heard(id, "tick");
    lab.set(id, Paused).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let before = lab.log(id).len();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(lab.log(id).len(), before);
    lab.set(id, Running).unwrap();
    let begun = Instant::now();
    while lab.log(id).len() == before {
        assert!(begun.elapsed() < LONG);
    }
    lab.set(id, Paused).unwrap();
    assert_eq!(lab.delete(id, false).unwrap_err().status, 409);
    lab.delete(id, true).unwrap();
    lab.census();
}

pub(crate) fn root_twenty_at_once_all_run() {
    let lab = Lab::new();
    let made: Vec<Container> = std::thread::scope(|scope| {
        let one = |n: u32| {
            let lab = &lab;
            let line = format!("echo up; exec sleep {}", mark(1));
            scope.spawn(move || lab.sh(&line, json!({"name": format!("n{n}"), "stop_timeout": 0})))
        };
        let all: Vec<_> = (0..20).map(one).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(made.iter().all(|container| container.state == Running), "{made:?}");
    assert_eq!((lab.host().containers().len(), lab.host().mounts().len(), lab.host().attaches().len()), (20, 40, 20));
    // Many requests for one: one at a time, and one name only once.
    let id = made[0].id;
    std::thread::scope(|scope| {
        for n in 0..24 {
            let lab = &lab;
            scope.spawn(move || {
                for _ in 0..5 {
                    let _ = lab.set(id, if n % 3 == 0 { Exited } else { Running });
                }
            });
            scope.spawn(move || assert_eq!(lab.create("/bin/true", json!({"name": "n1"})).unwrap_err().status, 409));
        }
    });
    let counted = || {
        let inits = processes().iter().filter(|(_, words)| words.trim() == format!("sleep {}", mark(1))).count();
        (inits, lab.host().containers().iter().filter(|container| container.pid.is_some()).count())
    };
    // The last request may have been for an end, which takes a moment.
    let begun = Instant::now();
    while !matches!(counted(), (19, 19) | (20, 20)) {
        assert!(begun.elapsed() < LONG, "{:?}", counted());
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::scope(|scope| {
        for container in lab.host().containers() {
            let lab = &lab;
            scope.spawn(move || lab.delete(container.id, true).unwrap());
        }
    });
    lab.census();
}

pub(crate) fn root_what_ends_at_once_is_kept_as_it_ended() {
    let mut lab = Lab::new();
    let mount = json!({"kind": "bind", "bind": {"path": lab.at("root"), "base": "root"}});
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let (lab, mount) = (&lab, &mount);
            scope.spawn(move || {
                for _ in 0..25 {
                    lab.create("/bin/true", json!({"mount": mount})).unwrap();
                }
            });
        }
    });
    let all = lab.host().containers();
    all.iter().for_each(|container| drop(lab.until_state(container.id, Exited)));
    lab.restart();
    let kept = lab.host().containers();
    assert_eq!(kept.len(), 200);
    for container in kept {
        assert_eq!((container.state, container.exit.and_then(|exit| exit.code)), (Exited, Some(0)), "{}", container.id);
        lab.delete(container.id, false).unwrap();
    }
    lab.census();
}

/// What is killed: a service with so many containers, of which every second one ends soon, with its number as its code.
pub(crate) fn service(top: &Path, count: u32) -> ExitCode {
    let host = Host::open(config(top, "one", &NodeConfig::default())).unwrap();
    let root = json!({"kind": "bind", "bind": {"path": top.join("root"), "base": "root"}});
    for n in 0..count {
        let line = if n % 2 == 0 { format!("sleep 0.5; exit {n}") } else { "exec sleep 1000".to_owned() };
        let command = format!("/bin/sh -c \"{line}\"");
        let json =
            json!({"command": command, "mount": root, "state": "running", "name": format!("n{n}"), "stop_timeout": 0});
        let made = host.container_create(serde_json::from_value(json).unwrap(), true).unwrap();
        assert_eq!(made.state, Running);
    }
    println!("ready");
    std::thread::sleep(LONG * 10);
    ExitCode::FAILURE
}

pub(crate) fn root_a_killed_service_loses_no_container_and_no_exit_code() {
    let mut lab = Lab::new();
    lab.close();
    let program = std::env::current_exe().unwrap();
    let mut service =
        Command::new(program).arg("service").arg(lab.top.path()).arg("20").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(service.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    tool("kill", &["-9", &service.id().to_string()]);
    service.wait().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let begun = Instant::now();
    lab.open();
    println!("    open with 20 containers: {:?}", begun.elapsed());
    let all = lab.host().containers();
    assert_eq!(all.len(), 20);
    for (n, container) in all.iter().enumerate() {
        match n % 2 {
            0 => {
                let state = if n == 0 { Exited } else { Dead };
                let code = container.exit.as_ref().unwrap().code;
                assert_eq!((container.state, code), (state, Some(n as i32)), "{container:?}");
            }
            _ => {
                assert_eq!(container.state, Running);
                assert!(Path::new(&format!("/proc/{}", container.pid.unwrap())).exists());
            }
        }
    }
    // Their ends are heard of, though their shims are nobody's children here.
    let id = all[1].id;
    tool("kill", &["-9", &all[1].pid.unwrap().to_string()]);
    assert_eq!(lab.until_state(id, Dead).exit.unwrap().signal, Some(9));
    lab.census();
}
