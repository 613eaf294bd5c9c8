//! What happened on a node, for whoever wants to hear of it: the last few thousand events, numbered.
//!
//! Numbers grow by one. The first one of a run of the service is the time of its start in milliseconds since 1970, times 1000, so that they
//! grow over restarts too; where a clock went back, a number that was never given here is seen as a gap like one that is no longer kept.

use slipway_api::node::{NodeEvent, ObjectId};
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many are kept for those who come back.
const KEPT: usize = 4096;

/// The events of one run of the service.
#[derive(Debug)]
pub struct Events {
    ring: Mutex<Ring>,
    more: Condvar,
}

#[derive(Debug)]
struct Ring {
    kept: VecDeque<NodeEvent>,
    next: u64,
    closed: bool,
}

/// What came after a number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// In order.
    pub events: Vec<NodeEvent>,
    /// Events between the number that was asked for and these are not kept any more, or were of another run: lists must be read anew.
    pub gap: bool,
    /// The service ends; there will be no more.
    pub closed: bool,
}

impl Events {
    /// Begins to number at the time of this start.
    pub fn new(now_ms: i64) -> Self {
        let next = u64::try_from(now_ms).unwrap_or_default().saturating_mul(1000).max(1);
        Self { ring: Mutex::new(Ring { kept: VecDeque::new(), next, closed: false }), more: Condvar::new() }
    }

    /// Tells of something.
    pub(crate) fn tell(
        &self,
        now_ms: i64,
        what: &str,
        object: ObjectId,
        name: Option<&str>,
        detail: serde_json::Value,
    ) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let event = NodeEvent {
            id: ring.next,
            at_ms: now_ms,
            what: what.into(),
            object,
            name: name.map(str::to_owned),
            detail,
        };
        ring.next += 1;
        if ring.kept.len() == KEPT {
            ring.kept.pop_front();
        }
        ring.kept.push_back(event);
        drop(ring);
        self.more.notify_all();
    }

    /// The number of the newest event, or the one before the first: from here on nothing is missed.
    pub fn last_id(&self) -> u64 {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).next - 1
    }

    /// What is newer than `id`; waits for something for at most `wait`. Blocks.
    pub fn after(&self, id: u64, wait: Duration) -> Batch {
        let until = Instant::now() + wait;
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let oldest = ring.kept.front().map_or(ring.next, |event| event.id);
            let gap = id + 1 < oldest || id >= ring.next;
            let events: Vec<_> = ring.kept.iter().filter(|event| gap || event.id > id).cloned().collect();
            let left = until.saturating_duration_since(Instant::now());
            if gap || ring.closed || !events.is_empty() || left.is_zero() {
                return Batch { events, gap, closed: ring.closed };
            }
            ring = self.more.wait_timeout(ring, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whoever waits goes home.
    pub(crate) fn close(&self) {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.more.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::{Events, KEPT};
    use std::time::Duration;

    #[test]
    fn events_are_numbered_kept_for_a_while_and_missed_ones_are_said_to_be() {
        let events = Events::new(7);
        assert_eq!(events.last_id(), 6999);
        assert_eq!(events.after(6999, Duration::ZERO), super::Batch::default());
        let tell = |object| events.tell(8, "mount.created", object, None, serde_json::Value::Null);
        (1..=3).for_each(tell);
        let batch = events.after(7000, Duration::ZERO);
        assert_eq!(
            (batch.events.iter().map(|event| event.id).collect::<Vec<_>>(), batch.gap),
            (vec![7001, 7002], false)
        );
        // Of an earlier run, and of a later one whose clock was ahead.
        for id in [12, 7003, u64::MAX - 1] {
            assert!(events.after(id, Duration::ZERO).gap, "{id}");
        }
        (0..KEPT as u64).for_each(tell);
        assert!(events.after(7001, Duration::ZERO).gap);
        assert_eq!(events.after(7002, Duration::ZERO).events.len(), KEPT);
    }

    #[test]
    fn who_waits_hears_at_once() {
        let events = std::sync::Arc::new(Events::new(1));
        let last = events.last_id();
        let other = events.clone();
        let waiting = std::thread::spawn(move || other.after(last, Duration::from_secs(60)));
        std::thread::sleep(Duration::from_millis(20));
        events.tell(1, "container.ready", 5, Some("five"), serde_json::Value::Null);
        assert_eq!(waiting.join().unwrap().events[0].name.as_deref(), Some("five"));
    }
}
