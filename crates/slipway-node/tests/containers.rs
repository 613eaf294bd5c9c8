//! Containers on the kernel of this machine. The test's own program is the shim too.
#![allow(clippy::unwrap_used, reason = "a test")]

use slipway_api::node::{Container, Exit};
use slipway_lab::census::{CensusGuard, Scope};
use slipway_node::{Running, Runtime, RuntimeConfig, Status};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(20);

/// `cargo test` runs this instead of a harness: with two words it is a shim, else the tests.
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, word, dir] = &args[..]
        && word == "shim"
    {
        return slipway_node::shim_run(Path::new(dir));
    }
    let filters: Vec<&String> = args[1..].iter().filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let runs_ignored = args.iter().any(|arg| arg == "--ignored" || arg == "--include-ignored");
    let mut failed = 0;
    let (mut passed, mut ignored) = (0, 0);
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted(name)) {
        if !runs_ignored {
            println!("test {name} ... ignored, needs root");
            ignored += 1;
            continue;
        }
        match std::panic::catch_unwind(test) {
            Ok(()) => {
                println!("test {name} ... ok");
                passed += 1;
            }
            Err(_) => {
                println!("test {name} ... FAILED");
                failed += 1;
            }
        }
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; 0 filtered out\n"
    );
    ExitCode::from(u8::from(failed > 0))
}

type Test = fn();
const TESTS: &[(&str, Test)] = &[
    ("root_an_init_runs_in_its_own_world", root_an_init_runs_in_its_own_world),
    ("root_ends_are_told_as_they_were", root_ends_are_told_as_they_were),
    ("root_what_does_not_start_says_at_which_step", root_what_does_not_start_says_at_which_step),
    ("root_stopping_waits_and_kills", root_stopping_waits_and_kills),
    ("root_limits_hold", root_limits_hold),
    ("root_confined_unless_privileged", root_confined_unless_privileged),
    ("root_the_node_is_out_of_reach", root_the_node_is_out_of_reach),
    ("root_found_again_after_a_restart", root_found_again_after_a_restart),
];

struct Lab {
    runtime: Runtime,
    census: CensusGuard,
    top: tempfile::TempDir,
    root: PathBuf,
}

impl Lab {
    fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("root");
        for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "run"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for name in
            ["sh", "sleep", "cat", "ls", "id", "mount", "true", "false", "grep", "hostname", "date", "dd", "mknod"]
        {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\njan:x:1234:4321::/:/bin/sh\n").unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(top.path().join("run/containers")).unwrap();
        let groups = format!("/slipway/{}/", Self::node(top.path()));
        let census = CensusGuard::new(Scope::below(top.path()).named(&groups).files_in(&top.path().join("run")));
        Self { runtime: Self::runtime(top.path()), census, top, root }
    }

    fn node(top: &Path) -> String {
        top.file_name().unwrap().to_string_lossy().trim_start_matches('.').to_owned()
    }

    fn runtime(top: &Path) -> Runtime {
        let program = std::env::current_exe().unwrap().display().to_string();
        Runtime::new(RuntimeConfig {
            run_dir: top.join("run"),
            shim: vec![program, "shim".into()],
            node: Self::node(top),
            log_max: 64 << 10,
        })
    }

    fn container(&self, json: &str) -> Container {
        serde_json::from_str(json).unwrap()
    }

    fn start(&self, id: u64, json: &str) -> Status {
        self.runtime.start(id, &self.container(json), &self.root, true).unwrap()
    }

    fn end(&self, id: u64) -> Exit {
        match self.runtime.wait(id, LONG) {
            Some(Running::Ended(exit)) => exit,
            other => panic!("{other:?}"),
        }
    }

    fn log(&self, id: u64) -> String {
        fs::read_to_string(self.runtime.files(id).log()).unwrap()
    }

    /// Runs a shell line to its end and gives what it said.
    fn sh(&self, id: u64, line: &str, more: &str) -> String {
        let json = serde_json::json!({"command": format!("/bin/sh -c '{line}'")});
        let mut container: Container = serde_json::from_value(json).unwrap();
        let extra: Container = serde_json::from_str(&format!(r#"{{"command":""{more}}}"#)).unwrap();
        container = Container { command: container.command, ..extra };
        self.runtime.start(id, &container, &self.root, true).unwrap();
        self.end(id);
        let log = self.log(id);
        let said: Vec<&str> = log.lines().filter(|line| !line.contains(&format!(" container({id}): "))).collect();
        self.runtime.remove(id).unwrap();
        said.join("\n")
    }

    fn census(&self) {
        for id in 0..20 {
            self.runtime.remove(id).unwrap();
        }
        self.census.check();
    }
}

fn root_an_init_runs_in_its_own_world() {
    let lab = Lab::new();
    assert_eq!(lab.sh(1, "echo $$", ""), "1");
    assert_eq!(lab.sh(1, "hostname", r#","hostname":"node-7""#), "node-7");
    assert_ne!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim(), "node-7");
    assert_eq!(
        lab.sh(1, "echo $container $A; cd ..; cat /proc/self/cmdline | grep -c cat", r#","env":{"A":"b c"}"#),
        "slipway b c\n1"
    );
    assert_eq!(lab.sh(1, "id -u; id -g", r#","user":"jan""#), "1234\n4321");
    assert_eq!(lab.sh(1, "id -u; id -g", r#","user":"7:8""#), "7\n8");
    let dev = lab.sh(1, "ls /dev", "");
    assert_eq!(
        dev.split_whitespace().collect::<Vec<_>>().join(" "),
        "console fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
    // Nothing of the node is mounted in it: only its root and what belongs into one.
    let mounts = lab.sh(1, "cat /proc/mounts", "");
    let mut places: Vec<&str> = mounts.lines().map(|line| line.split(' ').nth(1).unwrap()).collect();
    places.sort_unstable();
    assert_eq!(places, ["/", "/dev", "/dev/console", "/dev/mqueue", "/dev/pts", "/dev/shm", "/proc", "/sys"]);
    assert!(lab.sh(1, "echo x > /sys/kernel/mm/ksm/run", "").contains("Read-only"), "sys is read-only");
    assert!(lab.sh(1, "echo x > /file", r#","read_only":true"#).contains("Read-only"));
    assert!(!lab.root.join("file").exists());
    assert_eq!(lab.sh(1, "ls /proc/sys/net/ipv4/conf", r#","network":"none""#), "all\ndefault\nlo");
    lab.census();
}

fn root_ends_are_told_as_they_were() {
    let lab = Lab::new();
    for (line, code, signal) in [("true", Some(0), None), ("exit 7", Some(7), None), ("kill -9 $$", None, None)] {
        lab.start(2, &serde_json::json!({"command": format!("/bin/sh -c '{line}'")}).to_string());
        let exit = lab.end(2);
        if signal.is_none() && code.is_some() {
            assert_eq!((exit.code, exit.signal), (code, signal), "{line}");
        }
        lab.runtime.remove(2).unwrap();
    }
    // The init of a pid namespace cannot be killed from inside; from outside it can.
    let status = lab.start(2, r#"{"command":"/bin/sleep 100"}"#);
    Command::new("kill").args(["-9", &status.pid.to_string()]).status().unwrap();
    let exit = lab.end(2);
    assert_eq!((exit.code, exit.signal, exit.oom), (None, Some(9), false));
    assert!(lab.log(2).contains("process ended in error state: signal 9"), "{}", lab.log(2));
    lab.runtime.remove(2).unwrap();
    // Output is kept to the last byte, and rotated.
    let said = lab.sh(2, "dd if=/dev/zero bs=1000 count=200 2>/dev/null; echo end", "");
    assert!(said.ends_with("end"), "{} bytes", said.len());
    lab.census();
}

fn root_what_does_not_start_says_at_which_step() {
    let lab = Lab::new();
    fs::write(lab.root.join("etc/data"), "x").unwrap();
    fs::write(lab.root.join("bin/bad"), "\x7fELFbad").unwrap();
    fs::set_permissions(lab.root.join("bin/bad"), fs::Permissions::from_mode(0o755)).unwrap();
    let before = fs::read_link("/proc/self/root").unwrap();
    for (json, status, step) in [
        (r#"{"command":"/bin/nothing"}"#, 500, "init"),
        (r#"{"command":"/etc/data"}"#, 500, "init"),
        (r#"{"command":"/etc"}"#, 500, "init"),
        (r#"{"command":"/bin/bad"}"#, 500, "exec"),
        (r#"{"command":"/bin/true","cwd":"/nowhere"}"#, 500, "chdir"),
        (r#"{"command":"/bin/true","user":"eve"}"#, 500, "user"),
        (r#"{"command":"/bin/true","privileged":false,"capabilities":["CAP_ALL"]}"#, 500, "capabilities"),
        (r#"{"command":"/bin/true","resources":{"io":[{"device":"/dev/nothing","read_bps":1}]}}"#, 500, "cgroup"),
        (r#"{"command":"relative"}"#, 400, ""),
    ] {
        let refusal = lab.runtime.start(3, &lab.container(json), &lab.root, true).unwrap_err();
        assert_eq!(refusal.status, status, "{json} {refusal:?}");
        assert_eq!(refusal.problem.error.map(|error| error.step).unwrap_or_default(), step, "{json}");
        lab.runtime.remove(3).unwrap();
    }
    let refusal =
        lab.runtime.start(3, &lab.container(r#"{"command":"/bin/true"}"#), Path::new("/nowhere"), true).unwrap_err();
    assert_eq!(refusal.problem.error.unwrap().step, "open_tree");
    assert_eq!(fs::read_link("/proc/self/root").unwrap(), before);
    lab.runtime.remove(3).unwrap();
    lab.census();
}

fn root_stopping_waits_and_kills() {
    let lab = Lab::new();
    // One that listens.
    lab.start(4, r#"{"command":"/bin/sh -c 'trap \"echo bye; exit 0\" TERM; while true; do sleep 0.05; done'"}"#);
    std::thread::sleep(Duration::from_millis(200));
    lab.runtime.stop(4, false, LONG).unwrap();
    assert_eq!(lab.end(4).code, Some(0));
    assert!(lab.log(4).contains("bye"));
    lab.runtime.remove(4).unwrap();
    // One that does not, with children that do not either.
    lab.start(4, r#"{"command":"/bin/sh -c 'trap \"\" TERM; sleep 1000 & sleep 1000 & wait; sleep 1000'"}"#);
    let begun = Instant::now();
    lab.runtime.stop(4, false, Duration::from_millis(300)).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300) && begun.elapsed() < Duration::from_secs(5));
    assert_eq!(lab.end(4).signal, Some(9));
    lab.runtime.remove(4).unwrap();
    // One that is held still: it does nothing, and can be stopped.
    lab.start(4, r#"{"command":"/bin/sh -c 'while true; do echo tick; sleep 0.02; done'"}"#);
    std::thread::sleep(Duration::from_millis(200));
    lab.runtime.pause(4, true).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let before = lab.log(4).len();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(lab.log(4).len(), before);
    lab.runtime.pause(4, false).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(lab.log(4).len() > before);
    lab.runtime.pause(4, true).unwrap();
    lab.runtime.stop(4, false, Duration::from_millis(300)).unwrap();
    lab.runtime.remove(4).unwrap();
    lab.census();
}

fn root_limits_hold() {
    let lab = Lab::new();
    let limits = r#""resources":{"memory":33554432,"pids":8,"cpu_millis":500}"#;
    lab.start(5, &format!(r#"{{"command":"/bin/dd if=/dev/zero of=/dev/null bs=100M count=1",{limits}}}"#));
    let exit = lab.end(5);
    assert!(exit.oom && exit.signal == Some(9), "{exit:?}");
    lab.runtime.remove(5).unwrap();
    let said = lab.sh(5, "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1 & done; wait", &format!(",{limits}"));
    assert!(said.contains("fork"), "{said}");
    lab.census();
}

fn root_confined_unless_privileged() {
    let lab = Lab::new();
    let mask = "cat /proc/self/status | grep -e CapEff -e Seccomp: -e NoNewPrivs";
    let all = lab.sh(6, mask, "");
    assert!(all.contains("Seccomp:\t0") && all.contains("NoNewPrivs:\t0"), "{all}");
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find(|line| line.starts_with("CapEff")).unwrap();
    assert!(all.contains(own), "a privileged one has what the service has: {all} {own}");
    let few = lab.sh(6, mask, r#","privileged":false"#);
    assert!(few.contains("Seccomp:\t2") && few.contains("NoNewPrivs:\t1") && !few.contains(own), "{few}");
    for line in ["mount -t tmpfs x /tmp", "mknod /tmp/sda b 8 0"] {
        let said = lab.sh(6, &format!("{line} && echo done"), r#","privileged":false"#);
        assert!(!said.contains("done"), "{line}: {said}");
    }
    assert!(
        lab.sh(6, "mknod /tmp/x b 8 0 && echo done", r#","privileged":false,"capabilities":["CAP_MKNOD"]"#)
            .contains("done")
    );
    assert!(lab.sh(6, "date -s 2001-01-01", r#","privileged":false"#).contains("not permitted"));
    lab.census();
}

/// Root in a container reaches neither the node's devices nor what of `/proc` changes it.
fn root_the_node_is_out_of_reach() {
    let lab = Lab::new();
    let node = lab.root.join("disk").display().to_string();
    assert!(Command::new("mknod").args([&node, "c", "1", "1"]).status().unwrap().success());
    let read = "dd if=/disk of=/dev/null bs=1 count=1 2>&1; dd if=/dev/zero of=/dev/null bs=1 count=1 && echo fine";
    for (more, reason) in [
        (r#","privileged":false"#, "Permission denied"),
        (r#","privileged":false,"capabilities":["CAP_MKNOD"]"#, "Permission denied"),
    ] {
        let said = lab.sh(6, read, more);
        assert!(said.contains(reason) && said.contains("fine"), "{said}");
    }
    assert!(!lab.sh(6, read, "").contains("denied"), "a privileged one has the devices of its image");
    let made = "mknod /dev/mem c 1 1; dd if=/dev/mem of=/dev/null bs=1 count=1";
    let said = lab.sh(6, made, r#","privileged":false,"capabilities":["CAP_MKNOD"]"#);
    assert!(said.contains("not permitted"), "{said}");
    for (file, word) in [("/proc/sysrq-trigger", "h"), ("/proc/sys/vm/stat_interval", "60")] {
        // Not every kernel has both.
        if Path::new(file).exists() {
            let said = lab.sh(6, &format!("echo {word} > {file} && echo done"), r#","privileged":false"#);
            assert!(said.contains("Read-only") && !said.contains("done"), "{file}: {said}");
            assert!(lab.sh(6, &format!("ls {file} && echo done"), "").contains("done"), "{file}");
        }
    }
    let tells = "cat /proc/keys /proc/kcore /proc/timer_list 2>/dev/null; ls /sys/firmware";
    assert_eq!(lab.sh(6, tells, r#","privileged":false"#), "");
    lab.census();
}

fn root_found_again_after_a_restart() {
    let lab = Lab::new();
    let status = lab.start(7, r#"{"command":"/bin/sh -c 'sleep 0.5; exit 3'"}"#);
    lab.start(8, r#"{"command":"/bin/sleep 1000"}"#);
    // Another service on the same directories.
    let runtime = Lab::runtime(lab.top.path());
    assert_eq!(runtime.running(7), Running::Yes(status));
    assert!(matches!(runtime.wait(7, LONG), Some(Running::Ended(Exit { code: Some(3), .. }))));
    assert_eq!(runtime.running(9), Running::No);
    let Running::Yes(status) = runtime.running(8) else { panic!("it runs") };
    Command::new("kill").args(["-9", &status.shim.to_string()]).status().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(runtime.running(8), Running::Lost);
    runtime.stop(8, false, Duration::from_millis(100)).unwrap();
    runtime.remove(8).unwrap();
    lab.census();
}
