//! The static agent: one file that runs in an empty chroot.

use crate::run::{cargo, is_root, read, run, top};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The one target whose standard library every Debian toolchain has; glibc itself is linked in.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds `target/dist/slipway-agent`, static, and checks that it is.
pub(crate) fn agent_build() -> Result<PathBuf> {
    // An explicit --target keeps the flag off build scripts and procedural macros.
    run(cargo().env("RUSTFLAGS", "-C target-feature=+crt-static").args([
        "build",
        "--release",
        "--locked",
        "--package",
        "slipway-agent",
        "--target",
        TARGET,
    ]))?;
    let folder = top().join("target/dist");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let built = top().join("target").join(TARGET).join("release/slipway-agent");
    let out = folder.join("slipway-agent");
    std::fs::copy(&built, &out).with_context(|| format!("copying {} to {}", built.display(), out.display()))?;
    let needed = Command::new("ldd").arg(&out).output().context("starting ldd")?;
    let text = [needed.stdout, needed.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    ensure!(
        text.contains("statically linked") || text.contains("not a dynamic"),
        "{} is not static: {text}",
        out.display()
    );
    Ok(out)
}

/// Runs the static agent where nothing else exists. Needs root, for chroot.
pub(crate) fn agent_try(agent: &Path) -> Result<()> {
    if !is_root() {
        println!("ignored: the static agent in an empty chroot (needs root)");
        return Ok(());
    }
    let empty = tempfile::tempdir().context("making an empty folder")?;
    std::fs::copy(agent, empty.path().join("slipway-agent")).context("copying the agent")?;
    for flag in ["--version", "--help"] {
        let said = read(Command::new("chroot").arg(empty.path()).args(["/slipway-agent", flag]))?;
        ensure!(said.contains("slipway-agent"), "slipway-agent {flag} said {said:?}");
    }
    println!("static agent: runs in an empty chroot");
    Ok(())
}
