//! Containers where this machine cannot run them: on control groups of version 2, with systemd as init, on an initramfs.

use crate::Test;
use serde_json::{Value, json};
use slipway_api::node::Container;
use slipway_lab::{Guest, GuestFile, GuestSpec, Root, SYSTEMD_ROOT, systemd_share};
use slipway_node::{Running, Runtime, RuntimeConfig};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("root_systemd_runs_and_stops_on_version_2", root_systemd_runs_and_stops_on_version_2),
    ("root_systemd_runs_beside_version_1", root_systemd_runs_beside_version_1),
    ("root_limits_of_version_2_hold", root_limits_of_version_2_hold),
    ("root_containers_on_an_initramfs", root_containers_on_an_initramfs),
];

/// Runs containers in the guest, as lines say: `start ID ROOT JSON`, `ready ID MS` waits for readiness, `wait ID MS` for the end, `stop ID MS`
/// and `halt ID MS` (with systemd), `hold ID`, `go ID`, `log ID`, `remove ID`, `sh LINE`. Each answer is a line of JSON.
pub(crate) fn run() -> ExitCode {
    let program = std::env::current_exe().unwrap().display().to_string();
    let runtime = Runtime::new(RuntimeConfig {
        run_dir: "/run/node".into(),
        shim: vec![program, "shim".into()],
        node: "lab".into(),
        log_max: 1 << 20,
    });
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let begun = Instant::now();
        let mut answer = answer(&runtime, line.trim());
        answer["ms"] = json!(begun.elapsed().as_millis() as u64);
        println!("{answer}");
    }
    ExitCode::SUCCESS
}

fn answer(runtime: &Runtime, line: &str) -> Value {
    let (word, rest) = line.split_once(' ').unwrap();
    if word == "sh" {
        let out = Command::new("/bin/sh").args(["-c", rest]).output().unwrap();
        return json!({"said": format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))});
    }
    let (id, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let id: u64 = id.parse().unwrap();
    let time = || Duration::from_millis(rest.parse().unwrap());
    let done = |done: Result<(), slipway_node::DriverError>| match done {
        Ok(()) => json!({}),
        Err(error) => json!({"error": error.to_string()}),
    };
    match word {
        "start" => {
            let (root, json) = rest.split_once(' ').unwrap();
            let container: Container = serde_json::from_str(json).unwrap();
            match runtime.start(id, &container, Path::new(root), true) {
                Ok(status) => json!({"pid": status.pid}),
                Err(refusal) => json!({"status": refusal.status, "problem": *refusal.problem}),
            }
        }
        "ready" => {
            let until = Instant::now() + time();
            loop {
                match runtime.running(id) {
                    Running::Yes(status) if status.ready => return json!({"ready": true}),
                    Running::Yes(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
                    other => return json!({"ready": false, "is": format!("{other:?}")}),
                }
            }
        }
        "wait" => match runtime.wait(id, time()) {
            Some(Running::Ended(exit)) => json!({"exit": exit}),
            other => json!({"is": format!("{other:?}")}),
        },
        "stop" => done(runtime.stop(id, false, time())),
        "halt" => done(runtime.stop(id, true, time())),
        "hold" => done(runtime.pause(id, true)),
        "go" => done(runtime.pause(id, false)),
        "log" => json!({"log": std::fs::read_to_string(runtime.files(id).log()).unwrap_or_default()}),
        "remove" => done(runtime.remove(id)),
        _ => panic!("'{line}' is nothing to do"),
    }
}

#[track_caller]
fn drive(guest: &Guest, program: &str, lines: &[&str]) -> Vec<Value> {
    let text = lines.join("\n");
    let job = guest.begin(&format!("{program} containers 2>/lab/containers.err <<'END'\n{text}\nEND")).unwrap();
    let said = job.finish(Duration::from_secs(300)).unwrap();
    let answers: Vec<Value> = said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), lines.len(), "{said:?}");
    answers
}

fn program() -> String {
    std::env::current_exe().unwrap().display().to_string()
}

/// A unit in the container that says what it sees.
const LOOK: &str = r#"
cd /run/c/root; mkdir -p var/log/journal
cat > etc/systemd/system/look.service <<'UNIT'
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'exec > /looked 2>&1; cat /proc/1/comm; cat /proc/self/cgroup; echo SUB $(ls /sys/fs/cgroup); cat /etc/machine-id; echo a line for the journal | systemd-cat -t look; journalctl --sync; journalctl -q -t look -o cat; ls /var/log/journal; cat /proc/mounts'
UNIT
mkdir -p etc/systemd/system/multi-user.target.wants
ln -s ../look.service etc/systemd/system/multi-user.target.wants/look.service
"#;

fn systemd_guest(groups: &str) -> Guest {
    let mut spec = GuestSpec::new(Root::Host);
    spec.memory_mib = 1024;
    spec.shares.push(systemd_share().unwrap());
    let guest = Guest::boot(&spec).unwrap();
    guest.ok(groups);
    guest.ok(SYSTEMD_ROOT);
    guest.ok(LOOK);
    guest
}

const NODE_GROUPS: &str = "cd /sys/fs/cgroup; cat cgroup.controllers cgroup.subtree_control; ls";

fn root_systemd_runs_and_stops_on_version_2() {
    let guest = systemd_guest(
        "mount -t cgroup2 none /sys/fs/cgroup; echo '+memory +pids +cpu +io' > /sys/fs/cgroup/cgroup.subtree_control",
    );
    let before = guest.ok(NODE_GROUPS);
    for (more, id) in [("", 1), (r#","privileged":false"#, 2)] {
        let start = format!(
            r#"start {id} /run/c/root {{"command":"/lib/systemd/systemd","systemd":true,"resources":{{"memory":536870912,"pids":300}}{more}}}"#
        );
        let answers = drive(
            &guest,
            &program(),
            &[
                &start,
                &format!("ready {id} 90000"),
                "sh for i in $(seq 100); do [ -e /run/c/root/looked ] && break; sleep 0.1; done; sleep 1; cat /run/c/root/looked; rm /run/c/root/looked",
                "sh cat /proc/mounts",
                &format!("sh cd /sys/fs/cgroup/slipway/lab/{id}; cat memory.max pids.max; ls -d *.scope *.slice"),
                &format!("halt {id} 60000"),
                &format!("wait {id} 1000"),
                &format!("log {id}"),
                &format!("remove {id}"),
            ],
        );
        let log = answers[7]["log"].as_str().unwrap();
        assert_eq!(answers[1]["ready"], true, "{answers:?}\n{log}");
        let looked = answers[2]["said"].as_str().unwrap();
        let mut lines = looked.lines();
        assert_eq!(lines.next(), Some("systemd"), "{looked}\n{log}");
        assert_eq!(
            lines.next(),
            Some("0::/system.slice/look.service"),
            "its own groups are at the top for it: {looked}"
        );
        assert!(lines.next().is_some_and(|sub| sub.contains("system.slice") && !sub.contains("slipway")), "{looked}");
        assert_eq!(lines.next().map(str::len), Some(32), "it has an id: {looked}");
        assert_eq!(lines.next(), Some("a line for the journal"), "{looked}");
        for (at, kind) in [("/sys/fs/cgroup", "cgroup2"), ("/run", "tmpfs"), ("/tmp", "tmpfs")] {
            assert!(looked.contains(&format!(" {at} {kind} ")), "{looked}");
        }
        assert!(!looked.contains("/srv/root ") && !looked.contains(" /lab "), "{looked}");
        assert!(!answers[3]["said"].as_str().unwrap().contains("/run/node"), "nothing of it is mounted outside");
        let groups = answers[4]["said"].as_str().unwrap();
        assert!(groups.starts_with("536870912\n300\n") && groups.contains("system.slice"), "{groups}");
        assert!(answers[5]["error"].is_null() && answers[5]["ms"].as_u64().unwrap() < 30_000, "{:?}", answers[5]);
        assert_eq!(answers[6]["exit"]["code"], 0, "it ended by itself: {:?}\n{log}", answers[6]);
        assert!(log.contains("container ready"), "{log}");
        assert!(answers[8]["error"].is_null(), "{:?}", answers[8]);
    }
    assert_eq!(guest.ok(NODE_GROUPS), before, "the node's groups are as they were");
    assert_eq!(guest.ok("ls -d /sys/fs/cgroup/slipway/lab/[0-9]* 2>/dev/null || true; pgrep systemd || true"), "");
}

fn root_systemd_runs_beside_version_1() {
    let guest = systemd_guest(
        r#"mount -t tmpfs -o mode=755 cg /sys/fs/cgroup; cd /sys/fs/cgroup
for c in memory cpu pids blkio freezer devices; do mkdir $c; mount -t cgroup -o $c $c $c || rmdir $c; done
mkdir unified; mount -t cgroup2 none unified"#,
    );
    let answers = drive(
        &guest,
        &program(),
        &[
            r#"start 1 /run/c/root {"command":"/lib/systemd/systemd","systemd":true,"resources":{"memory":536870912,"pids":300}}"#,
            "ready 1 90000",
            "sh for i in $(seq 100); do [ -e /run/c/up/looked ] && break; sleep 0.1; done; sleep 1; cat /run/c/up/looked",
            "halt 1 60000",
            "wait 1 1000",
            "log 1",
            "remove 1",
        ],
    );
    let log = answers[5]["log"].as_str().unwrap();
    assert_eq!(answers[1]["ready"], true, "{answers:?}\n{log}");
    assert!(answers[2]["said"].as_str().unwrap().contains("a line for the journal"), "{answers:?}");
    assert_eq!(answers[4]["exit"]["code"], 0, "{answers:?}");
    assert!(answers[6]["error"].is_null(), "{answers:?}");
    assert_eq!(guest.ok("find /sys/fs/cgroup -path '*slipway/lab/1*' -type d"), "");
}

fn root_limits_of_version_2_hold() {
    let mut spec = GuestSpec::new(Root::Host).with_modules(&["loop", "ext4"]);
    spec.memory_mib = 768;
    let guest = Guest::boot(&spec).unwrap();
    guest.ok(r#"mount -t cgroup2 none /sys/fs/cgroup
mkdir -p /run/t/bin /run/root; cp /bin/busybox /run/t/bin/; for a in sh dd sleep true cat ls; do ln -s busybox /run/t/bin/$a; done
head -c 12000000 /dev/urandom > /run/t/file
truncate -s 40M /run/disk; mke2fs -q -F -t ext4 -d /run/t /run/disk
losetup /dev/loop0 /run/disk; mount /dev/loop0 /run/root"#);
    let answers = drive(
        &guest,
        &program(),
        &[
            r#"start 1 /run/root {"command":"/bin/dd if=/dev/zero of=/dev/null bs=100M count=1","resources":{"memory":33554432}}"#,
            "wait 1 60000",
            r#"start 2 /run/root {"command":"/bin/sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 3 & done; wait'","resources":{"pids":8}}"#,
            "wait 2 60000",
            "log 2",
            r#"start 3 /run/root {"command":"/bin/sh -c 'while :; do :; done'","resources":{"cpu_millis":200}}"#,
            "sh sleep 3; cat /sys/fs/cgroup/slipway/lab/3/cpu.stat",
            "hold 3",
            "sh cat /sys/fs/cgroup/slipway/lab/3/cpu.stat; sleep 1; cat /sys/fs/cgroup/slipway/lab/3/cpu.stat",
            "go 3",
            "stop 3 200",
            "wait 3 1000",
            "sh echo 3 > /proc/sys/vm/drop_caches",
            r#"start 4 /run/root {"command":"/bin/dd if=/file of=/dev/null bs=1000000","resources":{"io":[{"device":"/dev/loop0","read_bps":3000000}]}}"#,
            "wait 4 60000",
            "remove 1",
            "remove 2",
            "remove 3",
            "remove 4",
            "sh ls -d /sys/fs/cgroup/slipway/lab/[0-9]* 2>/dev/null",
        ],
    );
    assert_eq!((&answers[1]["exit"]["oom"], &answers[1]["exit"]["signal"]), (&json!(true), &json!(9)), "{answers:?}");
    assert!(answers[4]["log"].as_str().unwrap().contains("fork"), "{answers:?}");
    let usage = |answer: &Value, nth: usize| -> u64 {
        let said = answer["said"].as_str().unwrap();
        let all = said.lines().filter_map(|line| line.strip_prefix("usage_usec ")?.parse().ok());
        all.collect::<Vec<u64>>()[nth]
    };
    // A fifth of each period of 100 ms, and at most two more of them.
    let said = answers[6]["said"].as_str().unwrap();
    let periods: u64 = said.lines().find_map(|line| line.strip_prefix("nr_periods ")?.parse().ok()).unwrap();
    assert!((200_000..(periods + 2) * 20_000).contains(&usage(&answers[6], 0)) && periods > 10, "{said}");
    assert_eq!(usage(&answers[8], 0), usage(&answers[8], 1), "what is held does nothing");
    assert_eq!(answers[11]["exit"]["signal"], 9, "{answers:?}");
    assert_eq!(answers[14]["exit"]["code"], 0, "{answers:?}");
    assert!(answers[14]["ms"].as_u64().unwrap() > 2500, "12 MB at 3 MB/s take four seconds: {:?}", answers[14]);
    assert_eq!(answers[19]["said"], "", "{answers:?}");
}

/// The files that a program needs to start, beside itself.
fn libraries(program: &str) -> Vec<GuestFile> {
    let out = Command::new("ldd").arg(program).output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    let paths = said.split_whitespace().filter(|word| word.starts_with('/'));
    paths.map(|path| GuestFile::program(Path::new(path), path).unwrap()).collect()
}

fn root_containers_on_an_initramfs() {
    let program = program();
    let mut spec = GuestSpec::new(Root::Initramfs(libraries(&program)));
    spec.memory_mib = 512;
    let guest = Guest::boot(&spec).unwrap();
    std::fs::copy(&program, guest.folder().join("program")).unwrap();
    guest.ok(r#"mount -t cgroup2 none /sys/fs/cgroup
mkdir -p /run/c/root/bin /run/c/root/etc; cp /bin/busybox /run/c/root/bin/; for a in sh sleep cat ls; do ln -s busybox /run/c/root/bin/$a; done
mkdir -p /secret; mount -t tmpfs secret /secret; echo x > /secret/file"#);
    let before = guest.ok("cat /proc/mounts");
    let answers = drive(
        &guest,
        "/lab/program",
        &[
            r#"start 1 /run/c/root {"command":"/bin/sh -c 'cat /proc/mounts; ls /; ls /secret /lab /run/c; echo $$'"}"#,
            "wait 1 30000",
            "log 1",
            r#"start 2 /run/c/root {"command":"/bin/sleep 1000","privileged":false}"#,
            "hold 2",
            "go 2",
            "stop 2 300",
            "wait 2 1000",
            r#"start 3 /run/c/root {"command":"/bin/nothing"}"#,
            r#"start 4 /run/c/root {"command":"/bin/sh -c 'cd ../../..; ls; exit 7'","read_only":true}"#,
            "wait 4 30000",
            "log 4",
            "remove 1",
            "remove 2",
            "remove 3",
            "remove 4",
        ],
    );
    let log = answers[2]["log"].as_str().unwrap();
    assert_eq!(answers[1]["exit"]["code"], 0, "{answers:?}");
    let mut places: Vec<&str> =
        log.lines().filter_map(|line| line.split(' ').nth(1).filter(|at| at.starts_with('/'))).collect();
    places.retain(|at| log.contains(&format!(" {at} ")) && !at.ends_with(':'));
    for wanted in ["/", "/dev", "/dev/console", "/dev/mqueue", "/dev/pts", "/dev/shm", "/proc", "/sys"] {
        assert!(places.contains(&wanted), "{wanted}: {log}");
    }
    assert_eq!(places.len(), 8, "{places:?} {log}");
    assert!(log.contains("/secret: No such file") && log.contains("/lab: No such file"), "{log}");
    assert!(log.lines().any(|line| line == "1"), "{log}");
    assert_eq!(answers[7]["exit"]["signal"], 9, "a first process hears no TERM that it does not want: {answers:?}");
    assert_eq!(answers[8]["problem"]["error"]["step"], "init", "{answers:?}");
    assert_eq!(answers[10]["exit"]["code"], 7, "{answers:?}");
    assert!(!answers[11]["log"].as_str().unwrap().contains("secret"), "{answers:?}");
    assert_eq!(guest.ok("cat /proc/mounts"), before, "the node has the mounts that it had");
    assert_eq!(guest.ok("ls -d /sys/fs/cgroup/slipway/lab/[0-9]* 2>/dev/null || true"), "");
}
