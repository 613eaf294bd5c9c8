//! Containers that are started again by themselves.

use crate::lab::{LONG, Lab};
use serde_json::json;
use slipway_api::node::ContainerState::{Dead, Exited, Running};
use std::time::{Duration, Instant};

pub(crate) fn root_what_fails_is_started_again_and_no_more_often_than_asked() {
    let lab = Lab::new();
    let id = lab.sh("echo run; exit 3", json!({"restart": {"when": "on-failure", "max": 3}})).id;
    let begun = Instant::now();
    let given_up = lab.until(id, |container| container.restarts == 3 && container.error.is_some());
    // 100, 200 and 400 ms between.
    assert!(begun.elapsed() >= Duration::from_millis(600) && begun.elapsed() < LONG);
    assert_eq!((given_up.state, given_up.exit.unwrap().code), (Dead, Some(3)));
    assert_eq!(given_up.error.unwrap().step, "restart_max");
    std::thread::sleep(Duration::from_millis(900));
    assert_eq!(lab.get(id).restarts, 3);
    assert_eq!(lab.log(id).matches("\nrun\n").count(), 4);
    assert_eq!(lab.told(id).iter().filter(|what| *what == "container.restarted").count(), 3);
    // One that ends well is not.
    let well = lab.sh("exit 0", json!({"restart": {"when": "on-failure", "max": 0}})).id;
    lab.until_state(well, Exited);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((lab.get(well).state, lab.get(well).restarts), (Exited, 0));
    // Always, until somebody says otherwise.
    let always = lab.sh("exit 0", json!({"restart": {"when": "always", "max": 0}})).id;
    lab.until(always, |container| container.restarts >= 2);
    lab.set(always, Exited).unwrap();
    let stopped = lab.until_state(always, Exited).restarts;
    std::thread::sleep(Duration::from_millis(1000));
    assert_eq!((lab.get(always).state, lab.get(always).restarts), (Exited, stopped));
    let counts = lab.host().counts();
    assert!(counts.restarts >= 5 && counts.starts >= 7 && counts.exits == counts.starts, "{counts:?}");
    assert_eq!(counts.objects[&("container", "", "exited".to_owned())], 2);
    lab.census();
}

pub(crate) fn root_restarts_outlive_the_service_and_the_node() {
    let mut lab = Lab::new();
    let forever = "echo run; trap 'exit 0' TERM; while true; do sleep 0.02; done";
    let always = lab.sh(forever, json!({"restart": {"when": "always", "max": 0}, "stop_timeout": 1}));
    let stopped = lab.sh(forever, json!({"restart": {"when": "always", "max": 0}, "stop_timeout": 1}));
    lab.heard(stopped.id, "run");
    lab.set(stopped.id, Exited).unwrap();
    let failing = lab.sh("exit 3", json!({"restart": {"when": "on-failure", "max": 0}}));
    lab.until(failing.id, |container| container.restarts >= 2);
    lab.close();
    // It ends while nobody looks.
    crate::lab::tool("kill", &["-9", &always.pid.unwrap().to_string()]);
    std::thread::sleep(Duration::from_millis(200));
    lab.open();
    let again = lab.until(always.id, |container| container.restarts == 1 && container.state == Running);
    assert_ne!(again.pid, always.pid);
    assert_eq!(again.exit.unwrap().signal, Some(9));
    let count = lab.get(failing.id).restarts;
    assert!(count >= 2);
    lab.until(failing.id, |container| container.restarts > count);
    lab.set(failing.id, Exited).unwrap();
    // Another kernel: what is to run always does, on what is made again for it.
    lab.close();
    lab.node_gone(&again.pid.unwrap().to_string());
    lab.boot_set("two");
    lab.open();
    let ran = lab.until(always.id, |container| container.state == Running);
    assert_eq!((ran.restarts, ran.mount.as_ref().unwrap().health.is_ready()), (2, true));
    assert_eq!((lab.get(stopped.id).state, lab.get(stopped.id).restarts), (Exited, 0));
    // And a service after that one finds it as any other.
    lab.restart();
    assert_eq!(lab.get(always.id), ran);
    // What a person starts is made again too; what is taken by hand is not.
    assert_eq!(lab.set(stopped.id, Running).unwrap().state, Running);
    lab.census();
}
