//! Planned faults and crash points: how tests break every step of the same code that production runs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// What an operation of the store does to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpKind {
    Write,
    Fsync,
    Rename,
    Read,
    Delete,
    /// One request to S3.
    Remote,
}

/// How the planned operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultMode {
    /// It has no effect and answers with an I/O error.
    Error,
    /// A local write or read moves only half of its bytes and says so; a request to S3 has its
    /// effect, but the answer is lost; anything else fails as in `Error`.
    ShortWrite,
    /// It has no effect and answers ENOSPC.
    NoSpace,
}

/// A plan which operation fails; `Faults::default()` is empty and costs one branch per operation.
/// Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    plan: Option<Arc<Plan>>,
}

#[derive(Debug)]
struct Plan {
    kind: Option<OpKind>,
    at: u64,
    mode: FaultMode,
    stays: bool,
    seen: AtomicU64,
    fired: AtomicBool,
}

impl Faults {
    /// The empty plan, as in production.
    pub const fn none() -> Faults {
        Faults { plan: None }
    }

    /// Fails nothing, only counts.
    pub fn counting() -> Faults {
        Faults::planned(None, u64::MAX, FaultMode::Error, false)
    }

    /// Fails the `n`-th operation of any kind, counted from 0, once.
    pub fn fail_nth(n: u64, mode: FaultMode) -> Faults {
        Faults::planned(None, n, mode, false)
    }

    /// Fails the `n`-th operation of one kind, counted from 0, once.
    pub fn fail_nth_of(kind: OpKind, n: u64, mode: FaultMode) -> Faults {
        Faults::planned(Some(kind), n, mode, false)
    }

    /// Fails the `n`-th operation of one kind and every later one: a disk that stays full.
    pub fn fail_from(kind: OpKind, n: u64, mode: FaultMode) -> Faults {
        Faults::planned(Some(kind), n, mode, true)
    }

    fn planned(kind: Option<OpKind>, at: u64, mode: FaultMode, stays: bool) -> Faults {
        Faults {
            plan: Some(Arc::new(Plan {
                kind,
                at,
                mode,
                stays,
                seen: AtomicU64::new(0),
                fired: AtomicBool::new(false),
            })),
        }
    }

    /// Operations of the planned kind so far.
    pub fn operations(&self) -> u64 {
        self.plan.as_ref().map_or(0, |plan| plan.seen.load(Ordering::Relaxed))
    }

    /// Whether the planned fault has happened.
    pub fn fired(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.fired.load(Ordering::Relaxed))
    }

    /// Counts one operation and says how it fails, if it does.
    pub(crate) fn next(&self, kind: OpKind) -> Option<FaultMode> {
        let plan = self.plan.as_ref()?;
        if plan.kind.is_some_and(|wanted| wanted != kind) {
            return None;
        }
        let n = plan.seen.fetch_add(1, Ordering::Relaxed);
        let hit = if plan.stays { n >= plan.at } else { n == plan.at };
        if !hit {
            return None;
        }
        plan.fired.store(true, Ordering::Relaxed);
        Some(plan.mode)
    }
}

/// Every crash point of this crate, in the order in which an ingest and a prune pass them.
pub const CRASH_POINTS: [&str; 12] = [
    "blob_staged",
    "blob_written",
    "blob_synced",
    "blob_renamed",
    "blob_durable",
    "blob_live",
    "manifest_before",
    "prune_rewritten",
    "prune_doomed",
    "prune_gone",
    "prune_deleted",
    "check_quarantined",
];

const UNKNOWN: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;
static CRASH: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Aborts the process when the environment says `SLIPWAY_CRASH_AT=name` (first pass) or
/// `SLIPWAY_CRASH_AT=name:n` (the n-th, counted from 1). Otherwise one relaxed load.
pub fn crash_point(name: &'static str) {
    if CRASH.load(Ordering::Relaxed) != OFF {
        crash_point_slow(name);
    }
}

#[cold]
fn crash_point_slow(name: &'static str) {
    static PLAN: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSES: OnceLock<Mutex<HashMap<&'static str, u64>>> = OnceLock::new();
    let plan = PLAN.get_or_init(|| {
        let text = std::env::var("SLIPWAY_CRASH_AT").ok()?;
        let (name, n) = match text.split_once(':') {
            Some((name, n)) => (name, n.parse().ok()?),
            None => (text.as_str(), 1),
        };
        Some((name.to_owned(), n))
    });
    let Some((wanted, n)) = plan else {
        CRASH.store(OFF, Ordering::Relaxed);
        return;
    };
    CRASH.store(ON, Ordering::Relaxed);
    if wanted != name {
        return;
    }
    let passes = PASSES.get_or_init(Mutex::default);
    let mut passes = passes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let pass = passes.entry(name).or_insert(0);
    *pass += 1;
    if *pass == *n {
        // abort() runs no destructors and flushes nothing: as close to kill -9 as a process comes.
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::{FaultMode, Faults, OpKind};

    #[test]
    fn the_nth_operation_of_the_kind_fails_once() {
        let faults = Faults::fail_nth_of(OpKind::Write, 1, FaultMode::NoSpace);
        assert_eq!(faults.next(OpKind::Write), None);
        assert_eq!(faults.next(OpKind::Read), None);
        assert!(!faults.fired());
        assert_eq!(faults.next(OpKind::Write), Some(FaultMode::NoSpace));
        assert!(faults.fired());
        assert_eq!(faults.next(OpKind::Write), None);
        assert_eq!(faults.operations(), 3);
    }

    #[test]
    fn a_full_disk_stays_full() {
        let faults = Faults::fail_from(OpKind::Write, 1, FaultMode::NoSpace);
        assert_eq!(faults.next(OpKind::Write), None);
        for _ in 0..3 {
            assert_eq!(faults.next(OpKind::Write), Some(FaultMode::NoSpace));
        }
    }
}
