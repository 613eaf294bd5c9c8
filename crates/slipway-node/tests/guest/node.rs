//! A guest as a node: what the tests say to its driver.

use serde_json::{Value, json};
use slipway_lab::{Guest, Job};
use slipway_node::CRASH_POINTS;
use std::time::{Duration, Instant};

/// Longer than any call may take.
const LONG: Duration = Duration::from_secs(90);

/// The driver of a guest.
pub(crate) struct Node {
    pub(crate) guest: Guest,
}

/// A refusal, with how long it took.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: u64,
    pub(crate) step: String,
    pub(crate) text: String,
    pub(crate) errno: String,
    pub(crate) holders: Value,
    pub(crate) took: Duration,
}

impl Node {
    pub(crate) fn begin(&self, call: &Value) -> Job<'_> {
        let program = std::env::current_exe().unwrap();
        let script = format!("{} call <<'CALL'\n{call}\nCALL\n", program.display());
        self.guest.begin(&script).unwrap()
    }

    /// Has an attachment die, made or undone, at each crash point that begins with `prefix` and that it passes, and undoes what is left as the next
    /// start does. Gives how many points were passed.
    pub(crate) fn crashes(&self, prefix: &str, attach: &Value, kind: &str, clean: impl Fn()) -> usize {
        let program = std::env::current_exe().unwrap();
        let mut passed = 0;
        for point in CRASH_POINTS.iter().filter(|point| point.starts_with(prefix)) {
            let dies = |call: &Value| {
                let script =
                    format!("SLIPWAY_NODE_CRASH_AT={point} {} call <<'CALL'\n{call}\nCALL\n", program.display());
                let output = self.guest.begin(&script).unwrap().finish(LONG).unwrap();
                assert!(output.code == 134 || output.stdout.contains("ok"), "{point}: {output:?}");
                output.code == 134
            };
            let mut died = dies(&json!({"make": attach, "id": 90}));
            if !died {
                died = dies(&json!({"undo": kind, "id": 90}));
            }
            println!("{point}: {}", if died { "passed" } else { "not passed" });
            passed += usize::from(died);
            // Those that are found, and those whose request was never answered.
            for (id, _) in self.found() {
                self.undo(id, kind);
            }
            self.undo(90, kind);
            clean();
        }
        passed
    }

    pub(crate) fn call(&self, call: &Value) -> Value {
        self.end(self.begin(call))
    }

    pub(crate) fn end(&self, job: Job<'_>) -> Value {
        let output = job.finish(LONG).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(output.code, 0, "{output:?}");
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    /// Makes an attachment and gives its device.
    #[track_caller]
    pub(crate) fn make(&self, id: u64, attach: &Value) -> String {
        let answer = self.call(&json!({"make": attach, "id": id}));
        let log = || self.guest.run("dmesg | tail -n 5").map(|output| output.stdout).unwrap_or_default();
        answer["ok"]["device"].as_str().unwrap_or_else(|| panic!("{answer}\n{}", log())).to_owned()
    }

    #[track_caller]
    pub(crate) fn undo(&self, id: u64, kind: &str) {
        let answer = self.call(&json!({"undo": kind, "id": id}));
        assert_eq!(answer, json!({"ok": null}));
    }

    /// A call that must be refused.
    #[track_caller]
    pub(crate) fn refused(&self, call: &Value) -> Refused {
        let begun = Instant::now();
        let answer = self.call(call);
        let text = |key: &str| answer["error"][key].as_str().unwrap_or_default().to_owned();
        let status = answer["status"].as_u64().unwrap_or_else(|| panic!("not refused: {answer}"));
        Refused {
            status,
            step: text("step"),
            text: text("text"),
            errno: text("errno"),
            holders: answer["holders"].clone(),
            took: begun.elapsed(),
        }
    }

    /// Numbers and devices of what is found, in order.
    pub(crate) fn found(&self) -> Vec<(u64, String)> {
        let answer = self.call(&json!({"found": true}));
        let rows = answer["ok"].as_array().unwrap_or_else(|| panic!("{answer}"));
        let mut found: Vec<_> =
            rows.iter().map(|row| (row["id"].as_u64().unwrap(), row["device"].as_str().unwrap().to_owned())).collect();
        found.sort();
        found
    }
}
