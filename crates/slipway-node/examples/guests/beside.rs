//! Containers beside crun, both in one guest.

use crate::{Tried, program, said};
use serde_json::Value;
use slipway_lab::{Guest, GuestSpec, Root, Share};
use std::path::Path;
use std::time::Duration;

/// All of it, many times longer than it takes.
const LONG: Duration = Duration::from_secs(300);

pub(crate) fn run(agent: &str, image: &Path, runs: usize) -> Tried<Value> {
    let text = |why: slipway_lab::LabError| why.to_string();
    let mut spec = GuestSpec::new(Root::Host).with_modules(&["loop", "squashfs"]);
    spec.shares.push(Share {
        host: image.parent().unwrap_or(Path::new("/")).to_owned(),
        guest: "/srv".into(),
        writable: false,
    });
    let guest = Guest::boot(&spec).map_err(text)?;
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let script = format!(
        "set -e\nmount -t cgroup2 none /sys/fs/cgroup\ncp '/srv/{name}' /run/image\nexec {} inside beside {agent} /run/image {runs}",
        program()?
    );
    let output = guest.begin(&script).and_then(|job| job.finish(LONG)).map_err(text)?;
    said(&output)
}
