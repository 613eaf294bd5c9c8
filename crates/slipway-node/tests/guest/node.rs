//! A guest as a node: what the tests say to its driver.

use serde_json::{Value, json};
use slipway_lab::{Guest, Job};
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
