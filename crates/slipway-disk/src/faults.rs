//! Faults for tests: one concrete plan, empty in production, the same code in both.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A kind of operation on a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// `pread`.
    Read,
    /// `pwrite`.
    Write,
    /// `fdatasync`.
    Fsync,
    /// `fallocate(PUNCH_HOLE)`.
    Punch,
}

/// What happens instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// EIO, nothing done.
    Error,
    /// A write stores its first half and then fails; other operations fail with EIO.
    ShortWrite,
    /// ENOSPC, nothing done.
    NoSpace,
    /// EOPNOTSUPP, nothing done: what has another way (direct transfers, punching) takes it.
    Unsupported,
    /// From here on every operation fails: the machine lost its disk, or was switched off.
    Gone,
}

#[derive(Debug)]
struct Plan {
    op: Option<Op>,
    at: u64,
    fault: Fault,
    seen: AtomicU64,
    log: Mutex<Vec<Op>>,
}

/// A fault plan. Clones share their counter.
#[derive(Debug, Clone, Default)]
pub struct Faults(Option<Arc<Plan>>);

impl Faults {
    /// Nothing ever fails, nothing is counted.
    pub fn none() -> Faults {
        Faults(None)
    }

    /// The `n`-th operation (from 0) of any kind fails.
    pub fn nth(n: u64, fault: Fault) -> Faults {
        Faults::plan(None, n, fault)
    }

    /// The `n`-th operation (from 0) of kind `op` fails.
    pub fn nth_of(op: Op, n: u64, fault: Fault) -> Faults {
        Faults::plan(Some(op), n, fault)
    }

    fn plan(op: Option<Op>, at: u64, fault: Fault) -> Faults {
        Faults(Some(Arc::new(Plan { op, at, fault, seen: AtomicU64::new(0), log: Mutex::default() })))
    }

    /// Operations counted so far (those of the plan's kind); 0 without a plan.
    pub fn seen(&self) -> u64 {
        self.0.as_ref().map_or(0, |plan| plan.seen.load(Ordering::Relaxed))
    }

    /// Every operation so far, in order; empty without a plan.
    pub fn log(&self) -> Vec<Op> {
        match &self.0 {
            Some(plan) => plan.log.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            None => Vec::new(),
        }
    }

    /// Counts one operation and tells whether it is to fail.
    pub(crate) fn strike(&self, op: Op) -> Option<Fault> {
        let plan = self.0.as_ref()?;
        plan.log.lock().unwrap_or_else(PoisonError::into_inner).push(op);
        if plan.op.is_some_and(|only| only != op) {
            return None;
        }
        let n = plan.seen.fetch_add(1, Ordering::Relaxed);
        (n == plan.at || (n > plan.at && plan.fault == Fault::Gone)).then_some(plan.fault)
    }
}

impl Fault {
    pub(crate) fn to_error(self) -> io::Error {
        let errno = match self {
            Fault::Error | Fault::ShortWrite | Fault::Gone => rustix::io::Errno::IO,
            Fault::NoSpace => rustix::io::Errno::NOSPC,
            Fault::Unsupported => rustix::io::Errno::OPNOTSUPP,
        };
        errno.into()
    }
}
