//! Slows down who guesses passwords: a growing delay before the answer, then a time in which no answer is given at all.
//!
//! Counted in memory, bounded, and for each server by itself: a table would let strangers cause a durable write with every guess. A restart
//! forgets the counts, which gives a guesser a few more tries and nobody less safety than Argon2 alone.
//!
//! Three counts are kept. The strict one is for a name from one source, so that a stranger elsewhere cannot lock a person out of their
//! account. A source that tries many names, and a name that is tried from many sources, are slowed down later and less.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Keys remembered at most; a key is at most some 100 bytes.
const KEYS_MAX: usize = 20_000;
/// Seconds that somebody is told to wait at most.
const WAIT_MAX: u32 = 900;
/// A key is forgotten after so long without an attempt.
const QUIET_MS: i64 = 3_600_000;

#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Pair(String, Option<IpAddr>),
    Source(IpAddr),
    Name(String),
}

impl Key {
    /// Attempts that are free, attempts that are answered late, and the longest wait after that in seconds.
    fn limits(&self) -> (u32, u32, u32) {
        match self {
            Self::Pair(..) => (3, 4, WAIT_MAX),
            Self::Source(_) => (20, 20, WAIT_MAX),
            Self::Name(_) => (50, 50, 60),
        }
    }
}

#[derive(Clone, Copy)]
struct Count {
    failures: u32,
    last: i64,
    not_before: i64,
}

impl Count {
    /// Quiet for long, or from before the clock was set back by long.
    fn is_stale(&self, now: i64) -> bool {
        (now - self.last).abs() > QUIET_MS
    }
}

/// What to do with an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on after this long, which may be zero.
    Go(Duration),
    /// Refuse; ask again in so many seconds.
    Wait(u32),
}

/// The counts of failed attempts.
#[derive(Default)]
pub struct SlowDown(Mutex<HashMap<Key, Count>>);

/// An IPv6 user commonly holds a whole /64, so that is what counts as one source; v4-mapped addresses are v4.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6([a, b, c, d, 0, 0, 0, 0].into())
        }
    }
}

fn keys(name: &str, source: Option<IpAddr>) -> Vec<Key> {
    let name: String = name.chars().take(64).collect();
    let source = source.map(source_of);
    let mut keys = vec![Key::Pair(name.clone(), source), Key::Name(name)];
    keys.extend(source.map(Key::Source));
    keys
}

impl SlowDown {
    fn counts(&self) -> MutexGuard<'_, HashMap<Key, Count>> {
        // The map is whole after every single operation on it, so a panic elsewhere cannot have left it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an attempt as failed until [`SlowDown::succeeded`] takes it back, so that attempts side by side all count.
    /// `now` is in milliseconds.
    pub fn attempt(&self, name: &str, source: Option<IpAddr>, now: i64) -> Verdict {
        let mut counts = self.counts();
        let keys = keys(name, source);
        let known = keys.iter().filter_map(|key| counts.get(key)).filter(|count| !count.is_stale(now));
        let wait = known.map(|count| count.not_before - now).max().unwrap_or(0);
        if wait > 0 {
            let seconds = u32::try_from((wait as u64).div_ceil(1000)).unwrap_or(WAIT_MAX);
            return Verdict::Wait(seconds.min(WAIT_MAX));
        }
        room_make(&mut counts, now);
        let mut delay = Duration::ZERO;
        for key in keys {
            let (free, late, longest) = key.limits();
            let count = counts.entry(key).or_insert(Count { failures: 0, last: now, not_before: now });
            if count.is_stale(now) {
                *count = Count { failures: 0, last: now, not_before: now };
            }
            count.failures = count.failures.saturating_add(1);
            count.last = now;
            let over = count.failures.saturating_sub(free);
            if over > late {
                let seconds = 1u32.checked_shl(over - late).unwrap_or(u32::MAX).min(longest);
                count.not_before = now + i64::from(seconds) * 1000;
            } else if over > 0 {
                delay = delay.max(Duration::from_millis(250 << over.min(3)));
            }
        }
        Verdict::Go(delay)
    }

    /// The attempt was right: the name is free again from this source, and the attempt no longer counts for the source and the name.
    pub fn succeeded(&self, name: &str, source: Option<IpAddr>) {
        let mut counts = self.counts();
        for key in keys(name, source) {
            match &key {
                Key::Pair(..) => drop(counts.remove(&key)),
                Key::Source(_) | Key::Name(_) => {
                    if let Some(count) = counts.get_mut(&key) {
                        count.failures = count.failures.saturating_sub(1);
                        count.not_before = count.last;
                    }
                }
            }
        }
    }
}

/// Makes room for the three keys of an attempt: first what is quiet, then the oldest half.
fn room_make(counts: &mut HashMap<Key, Count>, now: i64) {
    if counts.len() + 3 <= KEYS_MAX {
        return;
    }
    counts.retain(|_, count| !count.is_stale(now));
    if counts.len() + 3 > KEYS_MAX {
        let mut ages: Vec<i64> = counts.values().map(|count| count.last).collect();
        let (_, middle, _) = ages.select_nth_unstable(KEYS_MAX / 2);
        let middle = *middle;
        counts.retain(|_, count| count.last > middle);
    }
}

#[cfg(test)]
mod tests {
    use super::{KEYS_MAX, SlowDown, Verdict};
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    const HERE: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    const THERE: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)));

    #[test]
    fn guesses_are_delayed_then_refused_ever_longer() {
        let slow = SlowDown::default();
        let mut now = 0;
        for delay in [0, 0, 0, 500, 1000, 2000, 2000] {
            assert_eq!(slow.attempt("jan", HERE, now), Verdict::Go(Duration::from_millis(delay)));
            now += 1000;
        }
        for wait in [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900] {
            assert!(matches!(slow.attempt("jan", HERE, now), Verdict::Go(_)));
            assert_eq!(slow.attempt("jan", HERE, now), Verdict::Wait(wait));
            // Asking too early neither helps nor makes it worse.
            assert_eq!(slow.attempt("jan", HERE, now + i64::from(wait) * 1000 - 1), Verdict::Wait(1));
            // The person themselves, from another place, is not locked out.
            assert!(matches!(slow.attempt("jan", THERE, now), Verdict::Go(_)));
            slow.succeeded("jan", THERE);
            now += i64::from(wait) * 1000;
        }
        slow.succeeded("jan", HERE);
        assert_eq!(slow.attempt("jan", HERE, now), Verdict::Go(Duration::ZERO));
    }

    #[test]
    fn quiet_keys_and_clocks_set_back_begin_anew() {
        for later in [3_600_001 + 20_000, -5_000_000] {
            let slow = SlowDown::default();
            (0..8).for_each(|_| {
                let _ = slow.attempt("jan", HERE, 10_000);
            });
            assert!(matches!(slow.attempt("jan", HERE, 10_000), Verdict::Wait(_)));
            let now = 10_000 + later;
            assert_eq!(slow.attempt("jan", HERE, now), Verdict::Go(Duration::ZERO));
        }
        // Less than that gives a guesser nothing.
        for nearby in [9_990, 10_010] {
            let slow = SlowDown::default();
            (0..8).for_each(|_| {
                let _ = slow.attempt("jan", HERE, 10_000);
            });
            assert!(matches!(slow.attempt("jan", HERE, nearby), Verdict::Wait(_)));
        }
    }

    #[test]
    fn one_source_with_many_names_and_one_name_from_many_sources_are_slowed_too() {
        let slow = SlowDown::default();
        let refused = (0..100).filter(|n| matches!(slow.attempt(&format!("u{n}"), HERE, 0), Verdict::Wait(_))).count();
        assert_eq!(refused, 59);
        let slow = SlowDown::default();
        let from = |n: u16| Some(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, n, 0, 0, 0, 1)));
        let refused = (0..300).filter(|n| matches!(slow.attempt("jan", from(*n), 0), Verdict::Wait(_))).count();
        assert_eq!(refused, 199);
        // Addresses of one /64 are one source, and a v4-mapped address is the v4 one.
        let slow = SlowDown::default();
        let within = |n: u16| Some(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n)));
        let refused = (0..100).filter(|n| matches!(slow.attempt("jan", within(*n), 0), Verdict::Wait(_))).count();
        assert_eq!(refused, 92);
        let mapped = Some(IpAddr::V6(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped()));
        (0..8).for_each(|_| {
            let _ = slow.attempt("eva", mapped, 0);
        });
        assert!(matches!(slow.attempt("eva", HERE, 0), Verdict::Wait(_)));
    }

    #[test]
    fn memory_is_bounded() {
        let slow = SlowDown::default();
        for n in 0..(KEYS_MAX as u32) {
            let source = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n));
            slow.attempt(&format!("u{n}"), Some(source), i64::from(n));
            assert!(slow.counts().len() <= KEYS_MAX);
        }
        // All at one instant, where no key is older than another.
        let slow = SlowDown::default();
        for n in 0..(KEYS_MAX as u32) {
            let source = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n));
            slow.attempt(&"x".repeat(10_000 + n as usize % 7), Some(source), 5);
            slow.attempt(&format!("u{n}"), Some(source), 5);
            assert!(slow.counts().len() <= KEYS_MAX);
        }
    }
}
