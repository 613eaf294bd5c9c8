//! A cold flash over a line of 1 Gbit/s with a round trip of 40 ms.

use super::Measure;
use super::contest::{Contender, contest, sample_of};
use super::own::flash;
use super::peers::remove;
use super::proxy::{Proxy, Wire};
use super::report::{Found, Row};
use super::sample::{Sample, median, timed};
use super::stage::Stage;
use crate::tools::{command, tool};
use anyhow::{Context, Result};
use std::cell::RefCell;
use std::os::unix::fs::symlink;
use std::time::Duration;

pub(super) const MEASURE: Measure = Measure {
    name: "line",
    brief: "a flash over 1 Gbit/s with 40 ms round trip, beside curl",
    minutes: 1.0,
    about: "v2 into a new file in memory, so that no disk is the bound, through a proxy of ours that lets 125 MB/s through, all connections together, and holds each piece back for 20 ms each way \
            (it has no loss and no slow start). The rate is that from the first byte that came to the last; beside curl with one connection and one request for the same \
            packs over the same line.",
    tools: &[tool("curl", "curl")],
    needs: "2 GB of memory in /dev/shm",
    run,
};

const WIRE: Wire = Wire { rate: Some(125_000_000), delay: Duration::from_millis(20) };
const STEP: &str = "v2 over the line";
const OURS: &str = "slipway-agent flash";
const CURL: &str = "curl, whole packs";

fn run(stage: &Stage) -> Result<Found> {
    stage.pushed()?;
    let server = stage.server()?;
    let memory = tempfile::tempdir_in("/dev/shm").context("making a folder in memory")?;
    // A file below /dev is never made by a flash: it would be a device that is not there.
    let link = stage.folder().join("memory");
    symlink(memory.path(), &link).context("making a link")?;
    let target = link.join("line.img");
    let asked = super::serve::record(stage, server, "me/os:1")?;
    let mut packs: Vec<String> = asked.iter().map(|asked| asked.path.clone()).collect();
    packs.sort();
    packs.dedup();
    let (rates, per_mb) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
    let curl_rates = RefCell::new(Vec::new());
    let contenders = vec![
        Contender::one(OURS, || {
            let proxy = Proxy::start(&server.url, WIRE)?;
            stage.settle()?;
            let done = flash(server, Some(&proxy.url()), "me/os:1", &target, &[])?;
            remove(&target)?;
            rates.borrow_mut().push(proxy.down() as f64 / 1e6 / proxy.seconds());
            per_mb.borrow_mut().push(done.said.requests as f64 / (done.said.fetched_bytes as f64 / 1e6));
            Ok(done.sample)
        }),
        Contender::one(CURL, || {
            let proxy = Proxy::start(&server.url, WIRE)?;
            let mut curl = command("curl");
            curl.args(["-sS", "--fail"]);
            for pack in &packs {
                curl.args(["-o", "/dev/null"]).arg(format!("{}{pack}", proxy.url()));
            }
            let sample = timed(&curl)?;
            curl_rates.borrow_mut().push(proxy.down() as f64 / 1e6 / proxy.seconds());
            Ok(Sample { fetched_mb: Some(proxy.down() as f64 / 1e6), ..sample })
        }),
    ];
    let lines = contest(stage.runs(), &[STEP], contenders);
    sample_of(&lines, STEP, OURS).context("our own flash gave no figure")?;
    let rate = median(rates.take());
    let per_mb = median(per_mb.take());
    let row = Row::new("G11 rate", "MB/s", rate).peer("the line", 125.0);
    let rows = vec![
        if stage.quick { row } else { row.goal("≥ 0.9 ×", rate >= 0.9 * 125.0) },
        Row::new("rate of curl", "MB/s", median(curl_rates.take())).peer("the line", 125.0),
        Row::new("G11 requests for a MB", "", per_mb).goal("≤ 1", per_mb <= 1.0),
    ];
    Ok(Found { lines, rows, ..Found::default() })
}
