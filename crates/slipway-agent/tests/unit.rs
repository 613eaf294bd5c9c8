//! The packaged unit under a real systemd, which is the first process of a guest whose control groups are of version 2: containers go on
//! whatever systemd does with the service, and their limits are the kernel's.
#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::guest::ask;
use serde_json::{Value, json};
use slipway_lab::{Guest, GuestSpec, Root, SYSTEMD_ROOT, SYSTEMD_UP, systemd_share, with_systemd};

const UNIT: &str = include_str!("../../../packaging/systemd/slipway-agent.service");

const NAMES: [&str; 2] = ["plain", "system"];

/// A small image, whose init ends with 7 when it finds a file.
const IMAGE: &str = r#"
mkdir -p /srv/tree/bin /srv/tree/proc /srv/tree/sys /srv/tree/dev; cp /bin/busybox /srv/tree/bin/
for a in sh sleep; do ln -s busybox /srv/tree/bin/$a; done
mksquashfs /srv/tree /srv/image.sqfs -quiet -noappend -no-progress
"#;

/// What a service can leave.
const SEEN: &str = "set +e; grep ' /run/slipway' /proc/self/mountinfo; losetup -l; ls -d /sys/fs/cgroup/slipway 2>/dev/null; pgrep -f slipway-agent; true";

fn guest() -> Guest {
    let mut spec = GuestSpec::new(Root::Host).with_modules(&["loop", "squashfs", "ext4", "overlay"]);
    spec.memory_mib = 1024;
    spec.shares.push(systemd_share().unwrap());
    let agent = env!("CARGO_BIN_EXE_slipway-agent");
    let spec = with_systemd(spec).with_setup(&format!(
        "ln -sf {agent} /usr/bin/slipway-agent\ncat > /etc/systemd/system/slipway-agent.service <<'UNIT'\n{UNIT}\nUNIT\n"
    ));
    let guest = Guest::boot(&spec).unwrap();
    guest.ok(SYSTEMD_UP);
    guest
}

/// What systemd says of the service.
fn shown(guest: &Guest, property: &str) -> String {
    guest.ok(&format!("systemctl show -P {property} slipway-agent")).trim().to_owned()
}

fn container(guest: &Guest, name: &str) -> Value {
    let (status, list) = ask(guest, "GET", &format!("/container?name={name}"), None);
    assert_eq!(status, 200, "{list}");
    list[0].clone()
}

/// A container that runs: its processes, and what the kernel holds it to.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    pid: u64,
    /// The number of its init and its shim, and when they began.
    began: String,
    groups: String,
    limits: String,
}

fn held(guest: &Guest, name: &str) -> Held {
    let seen = container(guest, name);
    assert_eq!(seen["state"], "running", "{seen}");
    let pid = seen["pid"].as_u64().unwrap();
    let shim = format!("$(awk '/^PPid/ {{print $2}}' /proc/{pid}/status)");
    Held {
        pid,
        began: guest.ok(&format!("for p in {pid} {shim}; do awk '{{print $1, $22}}' /proc/$p/stat; done")),
        groups: guest.ok(&format!("cat /proc/{pid}/cgroup /proc/{shim}/cgroup")),
        limits: guest.ok(&format!("cd /sys/fs/cgroup/slipway/*/{}; cat memory.max pids.max cpu.max", seen["id"])),
    }
}

fn both(guest: &Guest) -> Vec<Held> {
    NAMES.iter().map(|name| held(guest, name)).collect()
}

/// Waits until another process of the service answers.
fn another(guest: &Guest, before: &str) -> String {
    guest.ok(&format!(
        "until systemctl is-active -q slipway-agent && [ $(systemctl show -P MainPID slipway-agent) != {before} ]; do sleep 0.1; done"
    ));
    shown(guest, "MainPID")
}

fn containers_make(guest: &Guest) {
    let attach = json!({"kind": "loopback", "loopback": {"path": "/srv/image.sqfs", "base": "root"}});
    let image = json!({"kind": "attach", "attach": {"fs_type": "squashfs", "attach": attach}});
    let plain = json!({
        "name": "plain", "state": "running", "mount": {"kind": "overlay", "overlay": {"lower": [image]}},
        "command": "/bin/sh -c 'until [ -e /end ]; do sleep 0.1; done; exit 7'",
        "resources": {"memory": 67_108_864, "pids": 50, "cpu_millis": 500},
    });
    let system = json!({
        "name": "system", "state": "running", "mount": {"kind": "bind", "bind": {"path": "/run/c/root", "base": "root"}},
        "command": "/lib/systemd/systemd", "systemd": true, "stop_timeout": 30,
        "resources": {"memory": 536_870_912, "pids": 300},
    });
    for body in [plain, system] {
        let (status, made) = ask(guest, "POST", "/container", Some(&body));
        assert!(status == 201 && made["state"] == "running", "{made}");
    }
    guest.ok("until curl -s --unix-socket /run/slipway/node.sock 'http://node/imageapi/v1/container?name=system' | grep -q '\"ready\":true'; do sleep 0.2; done");
}

#[test]
#[ignore = "needs root"]
fn root_containers_outlive_all_that_systemd_does_with_the_service() {
    slipway_lab::once_more(root_containers_outlive_all_that_systemd_does_with_the_service_once);
}

fn root_containers_outlive_all_that_systemd_does_with_the_service_once() {
    let guest = guest();
    guest.ok(IMAGE);
    guest.ok(SYSTEMD_ROOT);
    let before = guest.ok(SEEN);
    // It is started when it says that it is ready, and not before.
    guest.ok("systemctl start slipway-agent; systemd-analyze verify --man=no slipway-agent.service");
    let first = shown(&guest, "MainPID");
    // No namespace of its own: what it mounts is mounted for the node.
    guest.ok(&format!("[ $(readlink /proc/1/ns/mnt) = $(readlink /proc/{first}/ns/mnt) ]"));
    containers_make(&guest);
    let begun = both(&guest);
    for (one, name) in begun.iter().zip(NAMES) {
        assert!(one.groups.contains("/slipway/") && !one.groups.contains("slipway-agent.service"), "{name}: {one:?}");
    }
    assert_eq!(
        (begun[0].limits.as_str(), begun[1].limits.as_str()),
        ("67108864\n50\n50000 100000\n", "536870912\n300\nmax 100000\n")
    );

    guest.ok("systemctl restart slipway-agent");
    let second = shown(&guest, "MainPID");
    assert_ne!(first, second);
    assert_eq!(both(&guest), begun, "after a restart");
    // All processes of the unit, not only the first one.
    guest.ok("systemctl kill -s KILL slipway-agent");
    let third = another(&guest, &second);
    assert_eq!(both(&guest), begun, "after kill -9");
    // systemd reads its units, and sets up their groups, anew.
    guest.ok("systemctl daemon-reload");
    assert_eq!((both(&guest), shown(&guest, "MainPID")), (begun, third), "after a reload");
    assert_eq!((shown(&guest, "NRestarts"), shown(&guest, "Result")), ("1".into(), "success".into()));

    ends_while_it_is_away(&guest);
    deleted_leave_nothing(&guest, &before);
}

/// A container ends while the service is stopped; the other one goes on.
fn ends_while_it_is_away(guest: &Guest) {
    let (plain, system) = (container(guest, "plain"), held(guest, "system"));
    guest.ok("systemctl stop slipway-agent");
    assert_eq!((shown(guest, "ActiveState"), shown(guest, "ControlGroup")), ("inactive".into(), String::new()));
    // What it mounted is there, for everybody; by that the container is told to end.
    let (at, pid) = (plain["mount"]["mountpoint"].as_str().unwrap(), &plain["pid"]);
    guest.ok(&format!(
        "kill -0 {pid}; touch {at}/end; while kill -0 {pid} 2>/dev/null; do sleep 0.1; done; kill -0 {}",
        system.pid
    ));
    guest.ok("systemctl start slipway-agent");
    let ended = container(guest, "plain");
    assert_eq!((&ended["state"], &ended["exit"]["code"]), (&json!("dead"), &json!(7)), "{ended}");
    assert_eq!(held(guest, "system"), system);
}

fn deleted_leave_nothing(guest: &Guest, before: &str) {
    for name in NAMES {
        let (status, gone) = ask(guest, "DELETE", &format!("/container?name={name}&force=true"), None);
        assert_eq!(status, 200, "{gone}");
    }
    let all = ["attach", "mount", "container"];
    guest.ok(&format!("for i in {}; do until [ \"$(curl -s --unix-socket /run/slipway/node.sock http://node/imageapi/v1/$i)\" = '[]' ]; do sleep 0.1; done; done", all.join(" ")));
    guest.ok("systemctl stop slipway-agent; umount /run/slipway/node");
    assert_eq!(guest.ok(SEEN), before);
}
