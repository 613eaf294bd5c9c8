//! Running other programs, with their names in every error.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

/// Whether programs may still be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Going {
    On,
    /// What runs now took too long; the next thing may begin.
    Late,
    /// Somebody said so; for good.
    Stopped,
}

static GOING: AtomicU8 = AtomicU8::new(Going::On as u8);

/// What was stopped stays so.
pub(crate) fn going_set(to: Going) {
    let change = |now: u8| (now != Going::Stopped as u8).then_some(to as u8);
    // It gives back what was there in either case.
    let _ = GOING.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change);
}

pub(crate) fn is_stopped() -> bool {
    GOING.load(Ordering::SeqCst) == Going::Stopped as u8
}

/// An error where nothing more shall begin.
pub(crate) fn may_go_on() -> Result<()> {
    match GOING.load(Ordering::SeqCst) {
        going if going == Going::On as u8 => Ok(()),
        going if going == Going::Late as u8 => bail!("it took too long and was ended"),
        _ => bail!("stopped"),
    }
}

/// The top of the checkout.
pub(crate) fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the checkout").to_path_buf()
}

/// The cargo that runs this program.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(top());
    command
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Runs it with our own output; an exit code other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    may_go_on()?;
    let status = command.status().with_context(|| format!("starting {}", shown(command)))?;
    if !status.success() {
        bail!("{}: {status}", shown(command));
    }
    Ok(())
}

/// Runs it quietly and gives its standard output; its standard error is part of the error.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    may_go_on()?;
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("starting {}", shown(command)))?;
    if !out.status.success() {
        bail!("{}: {}\n{}", shown(command), out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Whether we may do what needs root: loop devices, mounts, other users.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
