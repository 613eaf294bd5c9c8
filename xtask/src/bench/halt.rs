//! Ends what runs: on Ctrl-C, and when a measure takes far longer than it should. The programs are ended, what waits for them gets an
//! error, nothing new begins ([`Going`]), and each guard takes away what it made.

use crate::run::{Going, going_set};
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Programs that do not end when they are asked to are killed after this time.
const PATIENCE: Duration = Duration::from_secs(3);

/// From now on SIGINT, SIGTERM and SIGHUP end the measures in order; a second one ends us at once.
pub(super) fn signals_take() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("waiting for signals")?;
    let (mut int, mut term, mut hup) = {
        let _inside = runtime.enter();
        let take = |kind| signal(kind).context("waiting for signals");
        (take(SignalKind::interrupt())?, take(SignalKind::terminate())?, take(SignalKind::hangup())?)
    };
    thread::spawn(move || {
        let mut next = || {
            runtime.block_on(async {
                tokio::select! { _ = int.recv() => {}, _ = term.recv() => {}, _ = hup.recv() => {} }
            })
        };
        next();
        eprintln!("stopping; what runs is ended and taken away (once more: at once, and things are left)");
        going_set(Going::Stopped);
        thread::spawn(descendants_end);
        next();
        std::process::exit(130);
    });
    Ok(())
}

/// While it lives a measure may go on until its limit.
pub(super) struct Watch {
    _ends: Sender<()>,
}

impl Watch {
    pub(super) fn new(name: &'static str, limit: Duration) -> Self {
        let (ends, ended): (Sender<()>, Receiver<()>) = channel();
        thread::spawn(move || {
            if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{name} is not done after {} minutes; it is ended", limit.as_secs() / 60);
                going_set(Going::Late);
                descendants_end();
            }
        });
        Self { _ends: ends }
    }
}

/// All processes and their parents.
fn parents() -> HashMap<i32, i32> {
    let listed = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = listed.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let parent = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<i32>().ok()
    };
    pids.filter_map(|pid| Some((pid, parent(pid)?))).collect()
}

/// Our children, theirs, and so on.
fn descendants() -> Vec<i32> {
    let parents = parents();
    let own = std::process::id().cast_signed();
    let is_ours = |mut pid: i32| {
        while let Some(parent) = parents.get(&pid) {
            if *parent == own {
                return true;
            }
            pid = *parent;
        }
        false
    };
    parents.keys().copied().filter(|pid| is_ours(*pid)).collect()
}

/// Asks all that we started to end, and kills what does not. What a guard starts meanwhile, to clean up, is spared.
fn descendants_end() {
    let asked = descendants();
    asked.iter().for_each(|pid| tell(*pid, Signal::TERM));
    thread::sleep(PATIENCE);
    let still = descendants();
    asked.iter().filter(|pid| still.contains(pid)).for_each(|pid| tell(*pid, Signal::KILL));
}

pub(super) fn tell(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // That it has ended already is as good.
        let _ = kill_process(pid, signal);
    }
}
