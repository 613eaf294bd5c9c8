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
    let program = std::env::current_exe().unwrap().display().to_string();
    let helper = format!("{program} exec");
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
