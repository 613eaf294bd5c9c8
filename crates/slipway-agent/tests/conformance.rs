//! Whether the service speaks the ImageAPI, and what grows when it is used for long.
#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::{Lab, inside, until};
use serde_json::json;
use slipway_lab::census::Figures;
use slipway_lab::conformance::{Client, Sights, run};
use slipway_lab::{Guest, GuestSpec, Root};
use std::time::Duration;

const EVERY_CASE: &str = "root_every_case_of_the_imageapi_passes";

#[test]
#[ignore = "needs root"]
fn root_every_case_of_the_imageapi_passes() {
    if !inside(EVERY_CASE) {
        return;
    }
    let lab = Lab::new();
    let client = Client::new(&format!("unix:{}", lab.path("sock")), None).unwrap();
    let sights = Sights { run_dir: Some(lab.at("run")), groups: None };
    let verdicts = run(client, &lab.at("files"), &sights, &[], |_| {}).unwrap();
    let failed: Vec<String> = verdicts
        .iter()
        .filter_map(|verdict| Some(format!("{}: {}", verdict.name, verdict.failure.as_ref()?)))
        .collect();
    assert!(failed.is_empty(), "{} of {} cases failed:\n{}", failed.len(), verdicts.len(), failed.join("\n"));
    println!("{} cases passed", verdicts.len());
    lab.close();
}

/// The same where nobody else works and control groups are of version 2.
#[test]
#[ignore = "needs root"]
fn root_cases_of_the_imageapi_in_a_guest() {
    slipway_lab::once_more(root_cases_of_the_imageapi_in_a_guest_once);
}

fn root_cases_of_the_imageapi_in_a_guest_once() {
    let modules = ["loop", "squashfs", "ext4", "overlay"];
    let guest = Guest::boot(&GuestSpec::new(Root::Host).with_modules(&modules)).unwrap();
    guest.ok("mount -t cgroup2 none /sys/fs/cgroup");
    let seen =
        || guest.ok("cat /proc/self/mountinfo; losetup -l; ls /sys/fs/cgroup /tmp; pgrep -f slipway-agent || true");
    let before = seen();
    let program = std::env::current_exe().unwrap();
    let script = format!("SLIPWAY_TEST_INSIDE=1 exec {} --ignored --exact --nocapture {EVERY_CASE}", program.display());
    let said = guest.begin(&script).unwrap().finish(Duration::from_secs(600)).unwrap();
    let all = format!("{} cases passed", slipway_lab::conformance::cases().len());
    assert!(said.code == 0 && said.stdout.contains(&all), "{}\n{}", said.stdout, said.stderr);
    // Nobody but the service has handed these on.
    let handed_on = guest.ok("cat /sys/fs/cgroup/cgroup.subtree_control");
    for controller in ["memory", "cpu", "pids", "io"] {
        assert!(handed_on.split_whitespace().any(|name| name == controller), "{handed_on}");
    }
    assert_eq!(seen(), before);
}

/// Makes, runs and deletes a nested container so often; then the service holds what it held before.
fn cycles(times: usize) {
    let lab = Lab::new();
    let pid = lab.service.as_ref().unwrap().child.id();
    let cycle = |n: usize| {
        let body =
            json!({"mount": lab.nested(), "command": "/bin/true", "state": "running", "name": format!("n{}", n % 7)});
        let made = lab.post("container", body);
        assert_eq!(made.status, 201, "{}", made.text());
        let id = made.json()["id"].clone();
        until("it has ended", || lab.one(&format!("container?id={id}"))["state"] == "exited");
        assert_eq!(lab.api("DELETE", &format!("container?id={id}"), None).status, 200);
    };
    // Until all that is made once, such as threads and buffers, is there.
    (0..20).for_each(cycle);
    let settled = || {
        until("nothing is left", || lab.get("attach").json().as_array().unwrap().is_empty());
        // Threads that wait for more work go after some seconds without.
        std::thread::sleep(Duration::from_secs(12));
        Figures::of(pid).unwrap()
    };
    let before = settled();
    (0..times).for_each(cycle);
    let after = settled();
    assert!(after.files <= before.files, "open files: {before:?}, then {after:?}");
    assert!(after.threads <= before.threads + 1, "threads: {before:?}, then {after:?}");
    assert!(after.memory <= before.memory + (4 << 20), "memory: {before:?}, then {after:?}");
    println!("{times} cycles: {before:?}, then {after:?}");
    lab.close();
}

#[test]
#[ignore = "needs root"]
fn root_fifty_containers_leave_nothing() {
    if inside("root_fifty_containers_leave_nothing") {
        cycles(50);
    }
}

#[test]
#[ignore = "long"]
fn long_two_thousand_containers_leave_nothing() {
    if inside("long_two_thousand_containers_leave_nothing") {
        cycles(2000);
    }
}
