//! What only guest kernels can measure: an example of the node's crate boots them, and its figures become rows here.

use super::Lab;
use crate::bench::report::{Row, Table, short};
use crate::bench::sample::median;
use crate::run::{read, top};
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn example(temporary: &Path, words: &[&str]) -> Result<Value> {
    // Guests end with the one who speaks with them, and that one with us.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(top().join("target/release/examples/guests")).args(words);
    serde_json::from_str(&read(command.env("TMPDIR", temporary))?).context("reading what was measured in guests")
}

fn agent() -> String {
    top().join("target/release/slipway-agent").display().to_string()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

/// Containers beside crun, in one guest.
pub(super) fn beside(lab: &Lab, temporary: &Path) -> Result<Vec<Row>> {
    let runs = lab.times(30).max(5).to_string();
    let found = example(temporary, &["beside", &agent(), super::text(&lab.small)?, &runs])?;
    let middle = |way: &str, who: &str, what: &str| median(numbers(&found[way][who][what]));
    let row = |what: &str, way: &str, figure: &str, peer: &str| {
        Row::new(format!("in a guest with cgroup v2: {what}"), "ms", middle(way, "ours", figure))
            .peer(peer, middle(way, "crun", figure))
    };
    let most = |row: Row| {
        let ours = row.ours;
        let theirs = row.peer.as_ref().map_or(0.0, |(_, theirs)| *theirs);
        row.goal("≤ 1 ×", ours <= theirs)
    };
    Ok(vec![
        most(row(
            "POST of a nested container until its init was executed",
            "nested",
            "begin",
            "the same mounts by system calls, crun run --detach",
        )),
        most(row(
            "POST of a container on a mount that is there",
            "plain",
            "begin",
            "crun run --detach on the same mount",
        )),
        row(
            "stop and DELETE of the nested one until the kernel is clean",
            "nested",
            "end",
            "crun kill, crun delete, unmounted by system calls",
        ),
        row("stop and DELETE of the one on a mount that stays", "plain", "end", "crun kill, crun delete"),
    ])
}

const HEAD: [&str; 9] = [
    "the image over",
    "guests",
    "MB on the wire",
    "MB for each",
    "server CPU s",
    "CPU s of each guest",
    "POST answered, ms",
    "files read, ms",
    "slowest, ms",
];

/// One image to several guests.
pub(super) fn several(lab: &Lab, temporary: &Path) -> Result<Table> {
    let (rounds, counts) = if lab.quick { ("1", "1,2") } else { ("3", "1,2,4") };
    let folder = lab.folder.join("several");
    std::fs::create_dir_all(&folder).context("making a folder for the image")?;
    let found = example(temporary, &["several", &agent(), super::text(&folder)?, rounds, counts])?;
    std::fs::remove_dir_all(&folder).context("removing the image")?;
    let all: Vec<&Value> = found["rows"].as_array().context("no rows of several guests")?.iter().collect();
    let mut rows = Vec::new();
    for same in all.chunk_by(|a, b| (&a["way"], &a["guests"]) == (&b["way"], &b["guests"])) {
        let Some(first) = same.first() else { continue };
        let guests = first["guests"].as_f64().unwrap_or(f64::NAN);
        let middle = |name: &str| median(same.iter().filter_map(|row| row[name].as_f64()));
        let times = |name: &str| same.iter().flat_map(|row| numbers(&row[name])).collect::<Vec<_>>();
        let ended = times("ended");
        let slowest = ended.iter().copied().fold(0.0, f64::max);
        let bytes = middle("bytes") / 1e6;
        rows.push(vec![
            first["way"].as_str().unwrap_or_default().to_owned(),
            format!("{guests}"),
            short(bytes),
            short(bytes / guests),
            short(middle("server_cpu")),
            short(middle("guests_cpu") / guests),
            short(median(times("running"))),
            short(median(ended)),
            short(slowest),
        ]);
    }
    Ok(Table { about: about(&found, rounds), head: HEAD.to_vec(), rows })
}

/// The shape of the experiment.
fn about(found: &Value, rounds: &str) -> String {
    let image = &found["image"];
    let mb = |name: &str| short(image[name].as_f64().unwrap_or(f64::NAN) / 1e6);
    format!(
        "**One image to several nodes at once.** A Debian 12 root with systemd ({files} files, {bytes} MB; as squashfs {packed} MB) is on a server, and each of one, two or more guests \
         (user-mode Linux with {memory} MB of memory, one processor each, on the cores of this machine) gets the same request at the same moment: a container on an overlay in memory on the image, over NFS as a tree, \
         over NFS as a file behind a loop device, or as a block device over iSCSI or RBD. Its init reads {read_files} of the image's files ({read} MB), compares their sum, and ends; a wrong byte would end the measure. \
         NFS 4.2 and iSCSI are served from memory by the kernel (nfsd, LIO) of one more guest, RBD by a Ceph of one monitor and one store in memory, which runs on this machine itself and so pays less for each call: \
         its processor seconds do not compare with the others'. *On the wire* is all that passed the guests' network devices, both ways, from the requests until the last init had ended; \
         *server* and *guest* CPU are what the processes of the guests, or Ceph's, took. Times begin with the request: until it was answered, which is when the init had been executed, \
         and until the init had ended. Each guest begins with nothing of the image in its memory, and everything is removed after each round; servers are warm. Rounds of each row: {rounds}; the figures are medians, the slowest is that of all.",
        files = image["files"],
        bytes = mb("bytes"),
        packed = mb("image_bytes"),
        memory = found["memory_mib"],
        read_files = image["read_files"],
        read = mb("read_bytes"),
    )
}
