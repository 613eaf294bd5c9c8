//! The manual pages of both programs, for packages.

use crate::run::{cargo, run, top};
use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use std::path::PathBuf;

/// The agent's command line. The agent itself makes no pages: it is downloaded at every boot.
#[path = "../../crates/slipway-agent/src/args.rs"]
#[allow(dead_code, reason = "only the tree is used here, not what is read with it")]
mod agent;

/// The manual pages of both programs.
#[derive(Args)]
pub(crate) struct ManArgs {
    /// Where to; target/man/man1 if not given
    folder: Option<PathBuf>,
}

/// Writes all pages.
pub(crate) fn man_write(args: &ManArgs) -> Result<()> {
    let folder = args.folder.clone().unwrap_or_else(|| top().join("target/man/man1"));
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let folder = std::path::absolute(&folder).context("finding the folder")?;
    run(cargo().args(["run", "--quiet", "--locked", "-p", "slipway-cli", "--", "man"]).arg(&folder))?;
    agent_write(&folder)?;
    println!("{}", folder.display());
    Ok(())
}

fn agent_write(folder: &std::path::Path) -> Result<()> {
    let command = agent::Cli::command();
    clap_mangen::generate_to(command, folder)
        .with_context(|| format!("writing pages of the agent in {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::agent_write;
    use std::process::Command;

    #[test]
    fn the_agent_has_pages_without_a_fault() {
        let folder = tempfile::tempdir().expect("a folder");
        agent_write(folder.path()).expect("pages");
        for page in ["slipway-agent.1", "slipway-agent-flash.1", "slipway-agent-serve.1"] {
            let path = folder.path().join(page);
            let text = std::fs::read_to_string(&path).expect(page);
            assert!(text.contains("Examples:"), "{page}: {text}");
            // The test command installs mandoc; without it the text alone is looked at.
            if let Ok(out) = Command::new("mandoc").args(["-T", "lint", "-W", "error"]).arg(&path).output() {
                assert!(out.status.success(), "{page}: {}", String::from_utf8_lossy(&out.stdout));
            }
        }
    }
}
