//! Programs beside an init.

use crate::lab::{LONG, Lab, mark, processes};
use serde_json::{Value, json};
use slipway_api::node::ContainerState::{Exited, Paused};
use slipway_api::node::Exit;
use slipway_node::{Exec, Refusal, Which};
use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

const IDLE: &str = "trap 'exit 0' TERM; echo up; while true; do sleep 0.05; done";

impl Lab {
    fn exec(&self, id: u64, request: Value) -> Result<Exec, Refusal> {
        self.host().exec_spawn(&Which::Id(id), serde_json::from_value(request).unwrap())
    }

    /// Runs a line to its end: what it said, what it said of errors, and how it ended.
    fn exec_all(&self, id: u64, line: &str, more: Value) -> (String, String, Exit) {
        let mut request = json!({"argv": ["sh", "-c", line]});
        for (key, value) in more.as_object().unwrap() {
            request[key] = value.clone();
        }
        let mut exec = self.exec(id, request).unwrap();
        drop(exec.stdin.take());
        let read = |fd: Option<std::os::fd::OwnedFd>| {
            let mut text = String::new();
            File::from(fd.unwrap()).read_to_string(&mut text).unwrap();
            text.trim().to_owned()
        };
        let said = (read(exec.stdout.take()), read(exec.stderr.take()));
        (said.0, said.1, exec.wait())
    }
}

fn gone(word: &str) {
    let begun = Instant::now();
    while processes().iter().any(|(_, words)| words.contains(word)) {
        assert!(begun.elapsed() < LONG, "{word} is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn root_a_program_runs_in_the_world_of_its_container() {
    let lab = Lab::new();
    let id = lab.sh(IDLE, json!({"env": {"A": "of the init"}, "hostname": "node-7", "stop_timeout": 1})).id;
    lab.heard(id, "up");
    let (said, errors, exit) =
        lab.exec_all(id, "echo $A $B; echo oh >&2; pwd; exit 7", json!({"env": {"B": "mine"}, "cwd": "/etc"}));
    assert_eq!((said.as_str(), errors.as_str()), ("of the init mine\n/etc", "oh"));
    assert_eq!((exit.code, exit.signal), (Some(7), None));
    assert_eq!(lab.exec_all(id, "id -u; id -g", json!({"user": "jan"})).0, "1234\n4321");
    assert_eq!(lab.exec_all(id, "cat /proc/sys/kernel/hostname", json!({})).0, "node-7");
    // Among the container's processes, with its root and none of the node's.
    let seen = lab.exec_all(id, "ps; ls /", json!({})).0;
    assert!(seen.contains("sleep 0.05") && !seen.contains("cargo") && !seen.contains("work"), "{seen}");
    assert_eq!(lab.exec_all(id, "kill -9 $$", json!({})).2.signal, Some(9));
    // What it reads comes from here.
    let mut exec = lab.exec(id, json!({"command": "/bin/cat"})).unwrap();
    let mut input = File::from(exec.stdin.take().unwrap());
    input.write_all(b"through and back").unwrap();
    drop(input);
    let mut text = String::new();
    File::from(exec.stdout.take().unwrap()).read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), exec.wait().code), ("through and back", Some(0)));
    for (request, status, step) in [
        (json!({"argv": ["/bin/nothing"]}), 400, "exec"),
        (json!({"argv": ["nothing"]}), 400, "exec"),
        (json!({"argv": ["sh"], "cwd": "/nowhere"}), 400, "chdir"),
        (json!({"argv": ["sh"], "user": "eve"}), 400, "user"),
        (json!({"argv": []}), 400, ""),
        (json!({"command": "sh 'open"}), 400, ""),
        (json!({"command": "sh", "argv": ["sh"]}), 400, ""),
        (json!({"argv": ["sh"], "cwd": "etc"}), 400, ""),
        (json!({"argv": ["sh"], "env": {"A=B": ""}}), 400, ""),
        (json!({"argv": ["sh", "x".repeat(200_000)]}), 400, ""),
    ] {
        let refusal = lab.exec(id, request.clone()).unwrap_err();
        let at = refusal.problem.error.map(|error| error.step).unwrap_or_default();
        assert_eq!((refusal.status, at.as_str()), (status, step));
    }
    lab.set(id, Paused).unwrap();
    assert_eq!(lab.exec(id, json!({"argv": ["sh"]})).unwrap_err().status, 409);
    lab.set(id, Exited).unwrap();
    assert_eq!(lab.exec(id, json!({"argv": ["sh"]})).unwrap_err().status, 409);
    assert_eq!(lab.exec(999, json!({"argv": ["sh"]})).unwrap_err().status, 404);
    lab.census();
}

pub(crate) fn root_a_program_has_no_more_rights_than_its_container() {
    let lab = Lab::new();
    let status = "cat /proc/self/status | grep -e CapEff -e CapBnd -e Seccomp: -e NoNewPrivs";
    let id = lab.sh(&format!("{status}; {IDLE}"), json!({"privileged": false})).id;
    lab.heard(id, "up");
    let log = lab.log(id);
    let own: Vec<&str> = log.lines().filter(|line| line.contains(":\t")).collect();
    assert_eq!(own.len(), 4, "{log}");
    assert_eq!(lab.exec_all(id, status, json!({})).0, own.join("\n"));
    // Limits are those of all processes together.
    let tight = lab.sh(IDLE, json!({"resources": {"pids": 6}})).id;
    lab.heard(tight, "up");
    let said = lab.exec_all(tight, "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; wait", json!({}));
    assert!(said.1.contains("fork"), "{said:?}");
    lab.census();
}

pub(crate) fn root_nothing_of_a_program_is_left() {
    let lab = Lab::new();
    let id = lab.sh(IDLE, json!({"stop_timeout": 1})).id;
    lab.heard(id, "up");
    // Whoever asked hangs up: it goes with all that it began, though that hides.
    let sleep = |n| format!("sleep {}", mark(n));
    let one = sleep(1);
    let line = format!("trap '' TERM HUP INT; (setsid {one} &) ; {one} & echo begun; {one}");
    let mut exec = lab.exec(id, json!({"argv": ["sh", "-c", line]})).unwrap();
    let mut text = [0; 6];
    File::from(exec.stdout.take().unwrap()).read_exact(&mut text).unwrap();
    let begun = Instant::now();
    while processes().iter().filter(|(_, words)| words.trim() == one).count() < 3 {
        assert!(begun.elapsed() < LONG);
    }
    drop(exec);
    assert_eq!(processes().iter().filter(|(_, words)| words.contains(&one)).count(), 0);
    // It ends: what it leaves behind ends with it.
    let begun = Instant::now();
    let exec = lab.exec(id, json!({"argv": ["sh", "-c", format!("{} & exit 3", sleep(2))]})).unwrap();
    assert_eq!(exec.wait().code, Some(3));
    gone(&sleep(2));
    // Its helper is killed.
    let exec = lab.exec(id, json!({"command": sleep(3)})).unwrap();
    let helper = format!("{} exec", std::env::current_exe().unwrap().display());
    let helpers: Vec<u32> =
        processes().iter().filter(|(_, words)| words.trim() == helper).map(|(pid, _)| *pid).collect();
    assert!(!helpers.is_empty());
    for helper in helpers {
        let _ = std::process::Command::new("kill").args(["-9", &helper.to_string()]).status();
    }
    assert_eq!(exec.wait().signal, Some(9));
    gone(&sleep(3));
    // Its container ends.
    let exec = lab.exec(id, json!({"command": sleep(4)})).unwrap();
    lab.set(id, Exited).unwrap();
    assert_eq!(exec.wait().signal, Some(9));
    gone(&sleep(4));
    assert!(begun.elapsed() < LONG);
    lab.census();
}

pub(crate) fn root_a_program_can_have_a_terminal() {
    let lab = Lab::new();
    let id = lab.sh(IDLE, json!({})).id;
    lab.heard(id, "up");
    let line = "tty; stty size; read x; echo got $x; stty size; exit 4";
    let exec = lab.exec(id, json!({"argv": ["sh", "-c", line], "tty": true, "rows": 33, "cols": 111})).unwrap();
    assert!(exec.stdin.is_none() && exec.stdout.is_none());
    let mut terminal = File::from(exec.terminal.as_ref().unwrap().try_clone().unwrap());
    let mut said = String::new();
    let mut buffer = [0; 256];
    let mut told = false;
    // The end of a terminal is an error.
    while let Ok(len @ 1..) = terminal.read(&mut buffer) {
        said.push_str(&String::from_utf8_lossy(&buffer[..len]));
        if said.contains("33 111") && !told {
            told = true;
            exec.resize(20, 50);
            terminal.write_all(b"it\r").unwrap();
        }
    }
    assert!(said.starts_with("/dev/pts/0") && said.contains("got it") && said.contains("20 50"), "{said}");
    assert_eq!(exec.wait().code, Some(4));
    lab.census();
}
