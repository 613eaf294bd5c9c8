//! What one run took, and the middle of several.

use crate::run::may_go_on;
use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use std::io::Read;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

/// Time, processor, memory and bytes of one run. MB are 10^6 bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Sample {
    /// Seconds from beginning to end.
    pub(super) wall: f64,
    /// Seconds of processor, user and system together.
    pub(super) cpu: f64,
    /// The most memory it had, in MB of 10^6 bytes.
    pub(super) peak_mb: f64,
    /// What it and its children read by calls of the kernel, from files and pipes; what comes over a socket is not in it.
    pub(super) read_mb: f64,
    /// The same for what they wrote; of a block device, what the kernel sent to it.
    pub(super) written_mb: f64,
    /// What came over the network, where that is known.
    pub(super) fetched_mb: Option<f64>,
    /// By what a store or a file grew, where that is the point.
    pub(super) kept_mb: Option<f64>,
}

/// Bytes that we and the children we have waited for read and wrote so far, in MB.
fn bytes_so_far() -> (f64, f64) {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0) / 1e6
    };
    (field("rchar"), field("wchar"))
}

/// Runs a program to its end, under `time`, which counts what its children took as well.
pub(super) fn timed(command: &Command) -> Result<Sample> {
    Ok(timed_read(command)?.0)
}

/// The same, with what it wrote to its standard output.
pub(super) fn timed_read(command: &Command) -> Result<(Sample, String)> {
    let mut said = Vec::new();
    let sample = timed_with(command, Stdio::null(), |child| {
        let mut out = child.stdout.take().context("its output is piped")?;
        out.read_to_end(&mut said).context("reading what a program says")?;
        Ok(())
    })?;
    Ok((sample, String::from_utf8_lossy(&said).into_owned()))
}

/// A program that reads from us.
pub(super) fn timed_fed(command: &Command, feed: impl FnOnce(ChildStdin) -> std::io::Result<()>) -> Result<Sample> {
    timed_with(command, Stdio::piped(), |child| {
        let into = child.stdin.take().context("its input is piped")?;
        // Fewer calls of the kernel, as a program that cares would have it.
        let _ = rustix::pipe::fcntl_setpipe_size(&into, 1 << 20);
        feed(into).context("feeding a program")
    })
}

/// A program whose output we take.
pub(super) fn timed_drained(command: &Command, take: impl FnOnce(ChildStdout) -> Result<()>) -> Result<Sample> {
    timed_with(command, Stdio::null(), |child| {
        let from = child.stdout.take().context("its output is piped")?;
        let _ = rustix::pipe::fcntl_setpipe_size(&from, 1 << 20);
        take(from)
    })
}

/// Runs a program under `time` while something is done with its input or output.
fn timed_with(command: &Command, stdin: Stdio, talk: impl FnOnce(&mut Child) -> Result<()>) -> Result<Sample> {
    may_go_on()?;
    let file = || tempfile::NamedTempFile::new().context("making a file for the times");
    let (said, troubles) = (file()?, file()?);
    let mut timed = Command::new("/usr/bin/time");
    timed.args(["-f", "%U %S %M", "-o"]).arg(said.path()).arg("--");
    timed.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => timed.env(name, value),
            None => timed.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        timed.current_dir(folder);
    }
    timed.stdin(stdin).stdout(Stdio::piped()).stderr(troubles.reopen().context("opening a file for the times")?);
    let (read_before, written_before) = bytes_so_far();
    let begun = Instant::now();
    let mut child = timed.spawn().context("starting /usr/bin/time")?;
    let talked = talk(&mut child);
    drop((child.stdin.take(), child.stdout.take()));
    let status = child.wait().context("waiting for a program")?;
    let wall = begun.elapsed().as_secs_f64();
    // What a child did is added to ours when it has ended.
    let (read, written) = bytes_so_far();
    if !status.success() {
        let program = command.get_program().to_string_lossy();
        let why = std::fs::read_to_string(troubles.path()).unwrap_or_default();
        bail!("{program}: {status}\n{}", why.trim());
    }
    talked?;
    let text = std::fs::read_to_string(said.path()).context("reading the times")?;
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    ensure!(numbers.len() == 3, "/usr/bin/time said {text:?}");
    let (cpu, peak_mb) = (numbers[0] + numbers[1], numbers[2] * 1024.0 / 1e6);
    let (read_mb, written_mb) = (read - read_before, written - written_before);
    Ok(Sample { wall, cpu, peak_mb, read_mb, written_mb, ..Sample::default() })
}

/// What a process that goes on has taken so far: seconds of processor and its peak memory.
pub(super) fn so_far(pid: u32) -> Result<Sample> {
    let stat =
        std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("looking at process {pid}"))?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("looking at {pid}"))?;
    // The name, in parentheses, may hold anything.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 = rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<f64>().ok()).sum();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<f64>().ok());
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Ok(Sample { cpu: ticks / per_second, peak_mb: peak.unwrap_or(0.0) * 1024.0 / 1e6, ..Sample::default() })
}

/// From now on the peak of a process is that of what it does from now on, beside what it has at this moment.
pub(super) fn peak_forget(pid: u32) -> Result<()> {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").context("forgetting a peak of memory")
}

/// The middle of the values; of an even number the mean of the two in the middle.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// The middle of each number by itself; the peak is the highest.
pub(super) fn middle(samples: &[Sample]) -> Sample {
    let of = |pick: fn(&Sample) -> f64| median(samples.iter().map(pick));
    let known = |pick: fn(&Sample) -> Option<f64>| {
        let values: Vec<f64> = samples.iter().filter_map(pick).collect();
        (!values.is_empty()).then(|| median(values))
    };
    Sample {
        wall: of(|sample| sample.wall),
        cpu: of(|sample| sample.cpu),
        peak_mb: samples.iter().map(|sample| sample.peak_mb).fold(0.0, f64::max),
        read_mb: of(|sample| sample.read_mb),
        written_mb: of(|sample| sample.written_mb),
        fetched_mb: known(|sample| sample.fetched_mb),
        kept_mb: known(|sample| sample.kept_mb),
    }
}

/// Both sides in turn, `runs` times, so that whatever else the machine does falls on both.
pub(super) fn paired(
    runs: usize,
    mut ours: impl FnMut() -> Result<Sample>,
    mut peer: impl FnMut() -> Result<Sample>,
) -> Result<(Sample, Sample)> {
    let (mut our_samples, mut peer_samples) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        our_samples.push(ours()?);
        peer_samples.push(peer()?);
    }
    Ok((middle(&our_samples), middle(&peer_samples)))
}
