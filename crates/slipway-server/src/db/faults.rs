//! Planned database faults: tests break every statement and commit of the same code that production runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How the planned operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlFault {
    /// It has no effect and answers with an error.
    Error,
    /// It has its effect, but the answer is lost.
    Lost,
}

#[derive(Debug)]
struct Plan {
    at: AtomicU64,
    lost: AtomicBool,
    seen: AtomicU64,
    fired: AtomicBool,
}

/// A plan which statement or commit fails; the default is empty, as in production. Clones share the plan.
#[derive(Clone, Debug, Default)]
pub struct SqlFaults(Option<Arc<Plan>>);

impl SqlFaults {
    /// The empty plan.
    pub fn none() -> Self {
        Self(None)
    }

    /// A plan that can be armed later and until then fails nothing.
    pub fn armable() -> Self {
        Self(Some(Arc::new(Plan {
            at: AtomicU64::new(u64::MAX),
            lost: AtomicBool::new(false),
            seen: AtomicU64::new(0),
            fired: AtomicBool::new(false),
        })))
    }

    /// From now on the `n`-th operation, counted from 0, fails once.
    pub fn arm(&self, n: u64, fault: SqlFault) {
        if let Some(plan) = &self.0 {
            plan.seen.store(0, Ordering::SeqCst);
            plan.fired.store(false, Ordering::SeqCst);
            plan.lost.store(fault == SqlFault::Lost, Ordering::SeqCst);
            plan.at.store(n, Ordering::SeqCst);
        }
    }

    /// Nothing fails from now on.
    pub fn disarm(&self) {
        if let Some(plan) = &self.0 {
            plan.at.store(u64::MAX, Ordering::SeqCst);
        }
    }

    /// Whether the fault has happened since it was armed.
    pub fn fired(&self) -> bool {
        self.0.as_ref().is_some_and(|plan| plan.fired.load(Ordering::SeqCst))
    }

    /// Counts one operation and says how it fails, if it does, with its number.
    pub(crate) fn next(&self) -> Option<(u64, SqlFault)> {
        let plan = self.0.as_ref()?;
        let n = plan.seen.fetch_add(1, Ordering::SeqCst);
        if n != plan.at.load(Ordering::SeqCst) {
            return None;
        }
        plan.fired.store(true, Ordering::SeqCst);
        let fault = if plan.lost.load(Ordering::SeqCst) { SqlFault::Lost } else { SqlFault::Error };
        Some((n, fault))
    }
}
