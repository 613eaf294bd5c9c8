//! Our own flash as every measure runs it.

use super::sample::{Sample, so_far, timed_read};
use super::stage::text;
use crate::demo::server::Server;
use crate::run::top;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// What `slipway-agent flash -o json` says.
#[derive(Clone, Copy, Default, Deserialize)]
pub(super) struct Said {
    pub(super) fetched_bytes: u64,
    pub(super) written_bytes: u64,
    pub(super) zeroed_bytes: u64,
    pub(super) moved_bytes: u64,
    pub(super) requests: u64,
}

/// One flash: what it took, what it said, and the processor of the server meanwhile.
#[derive(Clone, Copy, Default)]
pub(super) struct Flash {
    pub(super) sample: Sample,
    pub(super) said: Said,
    pub(super) server_cpu: f64,
}

/// The release build of `slipway-agent`.
pub(super) fn agent() -> PathBuf {
    top().join("target/release/slipway-agent")
}

/// Flashes and waits. `url` is another address of the same server, a proxy's.
pub(super) fn flash(
    server: &Server,
    url: Option<&str>,
    reference: &str,
    target: &Path,
    more: &[&str],
) -> Result<Flash> {
    let pid = server.pid().context("the server has ended")?;
    let before = so_far(pid)?.cpu;
    let mut command = server.client(&agent());
    if let Some(url) = url {
        command.env("SLIPWAY_URL", url);
    }
    command.args(["flash", reference, text(target)?, "-o", "json"]).args(more);
    let (sample, said) = timed_read(&command)?;
    let said: Said = serde_json::from_str(&said).with_context(|| format!("reading {said:?}"))?;
    let sample = Sample { fetched_mb: Some(said.fetched_bytes as f64 / 1e6), ..sample };
    Ok(Flash { sample, said, server_cpu: so_far(pid)?.cpu - before })
}
