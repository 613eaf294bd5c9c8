//! What a service finds again: after it was killed, and after the node was restarted.

use crate::lab::{Lab, mark, processes, tool};
use serde_json::json;
use slipway_api::node::ContainerState::{Created, Dead, Exited, Paused, Running, Stopping};
use std::time::Duration;

pub(crate) fn root_a_new_service_finds_all_as_it_was() {
    let mut lab = Lab::new();
    let runs = lab.sh("trap 'exit 0' TERM; while true; do sleep 0.02; done", json!({"name": "runs"}));
    let ends = lab.sh("sleep 0.5; exit 7", json!({}));
    let held = lab.sh("while true; do sleep 0.02; done", json!({"stop_timeout": 1}));
    lab.set(held.id, Paused).unwrap();
    let created = lab.create("/bin/true", json!({"state": "created"})).unwrap();
    let failed = lab.create("/bin/nothing", json!({})).unwrap();
    let over = lab.create("/bin/true", json!({})).unwrap();
    let over = lab.until_state(over.id, Exited);
    let slow = lab.sh("trap '' TERM; echo up; while true; do sleep 0.02; done", json!({"stop_timeout": 3}));
    lab.heard(slow.id, "up");
    assert_eq!(lab.set(slow.id, Exited).unwrap().state, Stopping);
    lab.close();
    std::thread::sleep(Duration::from_millis(700));
    lab.open();
    assert_eq!(lab.get(runs.id), runs);
    assert_eq!(lab.get(held.id).state, Paused);
    assert_eq!(lab.get(created.id), created);
    assert_eq!(lab.get(failed.id), failed);
    assert_eq!(lab.get(over.id), over);
    assert_eq!((lab.get(ends.id).state, lab.get(ends.id).exit.unwrap().code), (Dead, Some(7)));
    // A stop that was asked for goes on.
    assert_eq!(lab.get(slow.id).state, Stopping);
    assert_eq!(lab.until_state(slow.id, Exited).exit.unwrap().signal, Some(9));
    assert_eq!(lab.set(runs.id, Exited).unwrap().exit.unwrap().code, Some(0));
    lab.restart();
    assert_eq!(lab.get(runs.id).state, Exited);
    assert_eq!(lab.set(created.id, Running).unwrap().error, None);
    // Numbers go on.
    assert!(lab.create("/bin/true", json!({})).unwrap().id > slow.id);
    lab.census();
}

pub(crate) fn root_a_restart_of_the_node_is_told() {
    let mut lab = Lab::new();
    let runs = lab.sh("while true; do sleep 0.02; done", json!({"stop_timeout": 0}));
    let created = lab.create("/bin/true", json!({"state": "created"})).unwrap();
    let over = lab.create("/bin/true", json!({})).unwrap();
    lab.until_state(over.id, Exited);
    let pid = runs.pid.unwrap().to_string();
    lab.close();
    lab.node_gone(&pid);
    lab.boot_set("two");
    lab.open();
    let found = lab.get(runs.id);
    assert_eq!((found.state, found.error.unwrap().step.as_str()), (Dead, "restart"));
    assert_eq!(lab.get(created.id).state, Created);
    assert_eq!(lab.get(over.id).state, Exited);
    lab.census();
}

pub(crate) fn root_one_whose_shim_is_killed_is_cleared_away_and_told() {
    let mut lab = Lab::new();
    let shim = |lab: &Lab, id: u64| {
        let status = std::fs::read(lab.at(&format!("run/containers/{id}/status.json"))).unwrap();
        serde_json::from_slice::<serde_json::Value>(&status).unwrap()["shim"].to_string()
    };
    let seen = lab.sh(&format!("exec sleep {}", mark(1)), json!({})).id;
    tool("kill", &["-9", &shim(&lab, seen)]);
    let dead = lab.until_state(seen, Dead);
    assert_eq!((dead.error.unwrap().step.as_str(), dead.pid), ("shim", None));
    assert_eq!(lab.told(seen)[2..], ["container.lost", "container.dead"]);
    // While no service looks.
    let unseen = lab.sh(&format!("exec sleep {}", mark(1)), json!({"restart": {"when": "on-failure", "max": 0}})).id;
    lab.close();
    tool("kill", &["-9", &shim(&lab, unseen)]);
    lab.open();
    let again = lab.until(unseen, |container| container.restarts == 1 && container.state == Running);
    let left = processes().iter().filter(|(_, words)| words.trim() == format!("sleep {}", mark(1))).count();
    assert_eq!((left, again.error), (1, None));
    lab.delete(unseen, true).unwrap();
    lab.census();
}
