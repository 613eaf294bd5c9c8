//! One call of the drivers in a guest by JSON on stdin, its result by JSON on stdout: a process for each, so that nothing is known but what
//! the kernel and the run directory say.

use serde_json::{Value, json};
use slipway_api::node::Attach;
use slipway_node::{Driver, Kernel, Linux, Make, What};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// `{"make": ATTACH, "id": N}`, `{"undo": KIND, "id": N}` or `{"found": true}`, with `"patience"`, and how
/// long to `"stay"` after the answer, in seconds if wanted.
pub(crate) fn run() -> ExitCode {
    let call: Value = serde_json::from_reader(std::io::stdin()).unwrap();
    let mut linux = Linux::open(Path::new("/run/slipway"), Path::new("/run/slipway-state")).unwrap();
    if let Some(patience) = call["patience"].as_u64() {
        linux = linux.with_patience(Duration::from_secs(patience));
    }
    let id = call["id"].as_u64().unwrap_or_default();
    let done = if call["found"].is_boolean() {
        linux.found().map(|found| {
            let row =
                |one: slipway_node::Found| json!({"id": one.id, "device": one.proof.device, "driver": one.driver});
            Value::Array(found.into_iter().map(row).collect())
        })
    } else if call["undo"].is_string() {
        let kind = serde_json::from_value(call["undo"].clone()).unwrap();
        linux.undo(id, Driver::Attach(kind), None).map(|()| Value::Null)
    } else {
        let attach: Attach = serde_json::from_value(call["make"].clone()).unwrap();
        let make = Make { id, what: What::Attach(Box::new(attach)), on: Vec::new() };
        linux.make(&make).map(|proof| json!({"device": proof.device, "detail": proof.detail}))
    };
    let answer = match done {
        Ok(value) => json!({"ok": value}),
        Err(error) => json!({"status": error.status, "error": error.error, "holders": error.holders}),
    };
    println!("{answer}");
    if let Some(seconds) = call["stay"].as_u64() {
        std::thread::sleep(Duration::from_secs(seconds));
    }
    ExitCode::SUCCESS
}
