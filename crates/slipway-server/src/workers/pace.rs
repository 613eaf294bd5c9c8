//! Reading slowly: work in the background leaves the disk to those who wait for it.

use crate::workers::run::Running;
use std::time::{Duration, Instant};

/// The longest it sleeps before it looks whether it shall stop.
const SLICE: Duration = Duration::from_millis(100);
/// What it did not read while it waited for others is not made up for beyond this.
const CREDIT: Duration = Duration::from_secs(1);

/// Holds reading back to so many bytes in a second. For threads, not for tasks of the runtime: it sleeps.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: Option<u64>,
    /// When the bytes read so far may have been read, at the earliest.
    due: Instant,
}

impl Pace {
    /// `None` holds nothing back.
    pub(crate) fn new(rate: Option<u64>) -> Self {
        Self { rate, due: Instant::now() }
    }

    /// Counts bytes that were read and waits until they were due; false if the work shall stop.
    pub(crate) fn read(&mut self, bytes: u64, running: &Running) -> bool {
        if let Some(rate) = self.rate {
            let now = Instant::now();
            self.due = self.due.max(now.checked_sub(CREDIT).unwrap_or(now)) + cost(bytes, rate);
            loop {
                let left = self.due.saturating_duration_since(Instant::now());
                if left.is_zero() || running.is_stopped() {
                    break;
                }
                std::thread::sleep(left.min(SLICE));
            }
        }
        !running.is_stopped()
    }
}

fn cost(bytes: u64, rate: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::cost;
    use std::time::Duration;

    #[test]
    fn bytes_take_their_time() {
        for (bytes, rate, took) in [(0, 1, 0), (1 << 20, 1 << 20, 1000), (1 << 20, 4 << 20, 250), (5, 0, 5000)] {
            assert_eq!(cost(bytes, rate), Duration::from_millis(took), "{bytes} at {rate}");
        }
    }
}
