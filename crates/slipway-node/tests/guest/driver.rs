//! A node in the guest: reads lines, does what they say, and prints a line of JSON for each. It ends without undoing anything, as a
//! service that dies does; the next one on the same directories finds what is there.
//!
//! `attach JSON` and `mount JSON` make an object, `delete ID` removes one (`delete ID force` too), `list` shows the table, `found` what the kernel has,
//! `reconcile` tries removals again, `sleep MS` waits, `sh LINE` runs a line of the shell meanwhile.

use serde_json::{Value, json};
use slipway_lab::Guest;
use slipway_node::{Draft, Kernel, Linux, Node, NodeConfig, Refusal};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) fn run(run_dir: &Path, state_dir: &Path, deadline_ms: u64) -> ExitCode {
    let linux = Linux::open(run_dir, state_dir).unwrap();
    let config = NodeConfig { deadline: Duration::from_millis(deadline_ms), ..NodeConfig::default() };
    let node = Node::open(linux.clone(), config, run_dir, state_dir, "this boot").unwrap();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let begun = Instant::now();
        let mut answer = answer(&node, &linux, line.trim());
        if let Value::Object(answer) = &mut answer {
            answer.insert("ms".into(), json!(begun.elapsed().as_millis() as u64));
        }
        println!("{answer}");
    }
    ExitCode::SUCCESS
}

fn answer(node: &Arc<Node<Linux>>, linux: &Linux, line: &str) -> Value {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let made = |draft: Result<Draft, Refusal>| match draft.and_then(|draft| node.create(draft, 0)) {
        Ok(id) => node.read(|table| json!({"id": id, "proof": table.get(id).unwrap().proof})),
        Err(refusal) => refused(&refusal),
    };
    match word {
        "attach" => made(Draft::attach(serde_json::from_str(rest).unwrap())),
        "mount" => made(Draft::mount(serde_json::from_str(rest).unwrap())),
        "delete" => {
            let (id, force) = rest.split_once(' ').unwrap_or((rest, ""));
            let id = id.parse().unwrap();
            let kind = node.read(|table| table.get(id).map(|entry| entry.what.kind()));
            match kind.map(|kind| node.delete(id, kind, force == "force")) {
                Some(Ok(_)) => json!({"deleted": id}),
                Some(Err(refusal)) => refused(&refusal),
                None => json!({"status": 404}),
            }
        }
        "list" => node.read(|table| json!({"objects": table.iter().collect::<Vec<_>>()})),
        "found" => {
            let found = linux.found().unwrap();
            json!({"found": found.iter().map(|one| json!({"id": one.id, "proof": one.proof})).collect::<Vec<_>>()})
        }
        "reconcile" => {
            node.reconcile();
            json!({})
        }
        "sleep" => {
            std::thread::sleep(Duration::from_millis(rest.parse().unwrap()));
            json!({})
        }
        "sh" => {
            let out = Command::new("/bin/sh").args(["-c", rest]).output().unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            json!({"code": out.status.code(), "stdout": text(&out.stdout), "stderr": text(&out.stderr)})
        }
        _ => panic!("'{line}' is nothing to do"),
    }
}

fn refused(refusal: &Refusal) -> Value {
    json!({"status": refusal.status, "problem": *refusal.problem})
}

/// Has a node in the guest do these lines, and gives its answers.
#[track_caller]
pub(crate) fn drive(guest: &Guest, deadline: Duration, lines: &[String]) -> Vec<Value> {
    let program = std::env::current_exe().unwrap().display().to_string();
    let (millis, text) = (deadline.as_millis(), lines.join("\n"));
    let said = guest.ok(&format!("{program} driver /run/slipway /var/lib/slipway {millis} <<'END'\n{text}\nEND"));
    let answers: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), lines.len(), "{said}");
    answers
}
