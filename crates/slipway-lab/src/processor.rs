//! How long processes have kept processors busy, user and system together.

use std::fs;
use std::time::Duration;

/// The fields of proc_pid_stat(5) from the state on, which comes behind the name in parentheses.
struct Stat(Vec<i64>);

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let rest = stat.rsplit_once(')')?.1;
        // The state is a letter, all else are numbers.
        Some(Self(rest.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect()))
    }

    fn field(&self, number: usize) -> i64 {
        self.0.get(number).copied().unwrap_or(0)
    }

    fn group(&self) -> i64 {
        self.field(2)
    }

    /// Its own time and that of children that it has waited for.
    fn ticks(&self) -> u64 {
        (11..15).map(|number| self.field(number).unsigned_abs()).sum()
    }
}

fn time(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Of one process, with what its ended children took.
pub(crate) fn process_processor(pid: u32) -> Duration {
    time(Stat::of(pid).map_or(0, |stat| stat.ticks()))
}

/// Of all processes of a group, with what their ended children took.
pub(crate) fn group_processor(group: u32) -> Duration {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let stats = pids.filter_map(Stat::of).filter(|stat| stat.group() == i64::from(group));
    time(stats.map(|stat| stat.ticks()).sum())
}
