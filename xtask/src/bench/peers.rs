//! The programs that ours are compared with: from Debian, and one from crates.io. One that cannot be had is a line without figures.

use super::stage::cache;
use crate::run::{cargo, read};
use crate::tools::{self, Tool, command, tool};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

const BITA_VERSION: &str = "0.15.0";

/// A program of Debian, installed if it is not there.
pub(super) fn debian(program: &'static str, package: &'static str) -> Result<Command> {
    tools::tools_need(&[Tool { program, package }])?;
    Ok(command(program))
}

/// bita, built once into `target/bench/peers`.
pub(super) fn bita() -> Result<Command> {
    let root = cache().join("peers");
    let program = root.join("bin/bita");
    if !program.exists() {
        eprintln!("building bita {BITA_VERSION} (once, some minutes)");
        let mut build = cargo();
        build.args(["install", "--quiet", "--locked", "bita", "--version", BITA_VERSION, "--root"]).arg(&root);
        // Not within this workspace, whose features and profile are others.
        build.current_dir(cache()).env("CARGO_TARGET_DIR", root.join("target"));
        read(&mut build).context("building bita")?;
        let _ = std::fs::remove_dir_all(root.join("target"));
    }
    Ok(Command::new(program))
}

pub(super) const ZSTD: Tool = tool("zstd", "zstd");

/// `zstd -3 -T2` of a file into another: the work that compression alone is.
pub(super) fn zstd(from: &Path, to: &Path) -> Command {
    let mut pack = command("zstd");
    pack.args(["-3", "-T2", "-q", "-f", "-o"]).arg(to).arg(from);
    pack
}

/// Bytes of all files below a folder, in MB.
pub(super) fn folder_mb(folder: &Path) -> Result<f64> {
    let mut total = 0;
    let mut left = vec![PathBuf::from(folder)];
    while let Some(path) = left.pop() {
        for entry in std::fs::read_dir(&path).with_context(|| format!("listing {}", path.display()))? {
            let entry = entry.with_context(|| format!("listing {}", path.display()))?;
            let facts = entry.metadata().with_context(|| format!("looking at {}", entry.path().display()))?;
            match facts.is_dir() {
                true => left.push(entry.path()),
                false => total += facts.len(),
            }
        }
    }
    Ok(total as f64 / 1e6)
}

/// Length of a file in MB.
pub(super) fn file_mb(path: &Path) -> Result<f64> {
    Ok(std::fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?.len() as f64 / 1e6)
}

/// Removes what a run made, whether it is there or not.
pub(super) fn remove(path: &Path) -> Result<()> {
    let removed = match path.is_dir() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    };
    match removed {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
            Err(why).with_context(|| format!("removing {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
