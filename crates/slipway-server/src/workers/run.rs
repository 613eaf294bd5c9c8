//! Keeps workers going, and a task's lease alive while its work runs.

use crate::core::{Core, Nudge};
use crate::db::DbError;
use crate::rules::task::{Claimed, Hold, TaskEnd, task_claim, task_finish, task_step};
use crate::workers::{Worker, workers};
use futures_util::future::BoxFuture;
use serde_json::Value;
use slipway_api::{Code, Problem, TaskKind};
use slipway_store::{Progress, StoreError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;

/// Progress is written at most this often.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// How long a task that may succeed later waits.
const RETRY_AFTER: Duration = Duration::from_secs(15);

/// Whether the server stops.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// A stop that never comes, for tests.
    pub fn never() -> Self {
        let (sender, receiver) = watch::channel(false);
        // A sender that is gone says no more: `asked` then waits for ever.
        drop(sender);
        Self(receiver)
    }

    /// Whether it was asked for.
    pub fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is asked for.
    pub async fn asked(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The running workers.
pub struct Workers {
    stop: watch::Sender<bool>,
    running: JoinSet<()>,
}

impl Workers {
    /// Asks them to stop and waits for at most `patience`. What is still running then is left: its lease ends, and it is begun again.
    pub async fn stop(mut self, patience: Duration) {
        let _ = self.stop.send(true);
        let all = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::warn!("a worker did not stop in time; its task will be begun again");
        }
    }
}

/// Starts every worker.
pub fn workers_start(core: &Arc<Core>) -> Workers {
    let (stop, receiver) = watch::channel(false);
    let mut running = JoinSet::new();
    for worker in workers() {
        let (core, stop) = (core.clone(), Stop(receiver.clone()));
        running.spawn(async move { keep_going(worker, core, stop).await });
    }
    Workers { stop, running }
}

async fn keep_going(worker: Box<dyn Worker>, core: Arc<Core>, stop: Stop) {
    let mut nudges = core.nudges();
    while !stop.is_asked() {
        match worker.pass(&core, &stop).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::error!(worker = worker.name(), %error, "worker"),
        }
        let next = tokio::time::Instant::now() + worker.period();
        tokio::select! {
            () = stop.asked() => return,
            () = tokio::time::sleep_until(next) => {}
            () = woken(worker.as_ref(), &mut nudges) => {}
        }
    }
}

async fn woken(worker: &dyn Worker, nudges: &mut broadcast::Receiver<Nudge>) {
    loop {
        match nudges.recv().await {
            Ok(nudge) if worker.wakes(nudge) => return,
            // Some were missed: one of them may have been ours.
            Err(broadcast::error::RecvError::Lagged(_)) => return,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Why a task's work ended without a result.
#[derive(Debug)]
pub(crate) enum Halt {
    /// It will not succeed.
    Failed(Problem),
    /// It may succeed later.
    Again(Problem),
    /// It was asked to stop.
    Stopped,
}

impl From<Problem> for Halt {
    fn from(problem: Problem) -> Self {
        match problem.code {
            Code::Unavailable | Code::Internal | Code::ChunksGone | Code::NoSpace => Self::Again(problem),
            _ => Self::Failed(problem),
        }
    }
}

impl From<DbError> for Halt {
    fn from(error: DbError) -> Self {
        Self::Again(error.into())
    }
}

impl From<crate::db::TxError> for Halt {
    fn from(error: crate::db::TxError) -> Self {
        Problem::from(error).into()
    }
}

/// The problem of a store call within a task.
pub(crate) fn halt(act: &str, error: StoreError) -> Halt {
    let busy = matches!(error, StoreError::Busy | StoreError::PlanStale);
    let problem = crate::rules::store_problem::store_problem(act, error);
    if busy { Halt::Again(problem) } else { problem.into() }
}

#[derive(Clone, Debug, Default)]
struct Progressed {
    step: String,
    done: u64,
    total: u64,
}

/// A task while its work runs: how far it is, and whether it shall stop.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) task: Claimed,
    at: Arc<Mutex<Progressed>>,
    stopped: Arc<AtomicBool>,
    held_until: Arc<Mutex<Instant>>,
}

impl Running {
    fn new(task: Claimed, held_until: Instant) -> Self {
        let at = Progressed { step: "starting".to_owned(), ..Progressed::default() };
        Self {
            task,
            at: Arc::new(Mutex::new(at)),
            stopped: Arc::new(AtomicBool::new(false)),
            held_until: Arc::new(Mutex::new(held_until)),
        }
    }

    fn hold(&self, until: Instant) {
        *self.held_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Says how far it is; cheap, from any thread.
    pub(crate) fn report(&self, progress: Progress) {
        self.step(progress.step, progress.done, progress.total);
    }

    /// Says which step it is at.
    pub(crate) fn step(&self, step: &str, done: u64, total: u64) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Progressed { step: step.to_owned(), done, total };
    }

    /// Whether the work shall stop: cancelled, claimed by another, or the server stops. A lease that could not be renewed in time counts as
    /// lost, because another server may hold the task by now.
    pub(crate) fn is_stopped(&self) -> bool {
        let held_until = *self.held_until.lock().unwrap_or_else(PoisonError::into_inner);
        self.stopped.load(Ordering::Relaxed) || Instant::now() >= held_until
    }

    /// Stops the work where it can be stopped.
    pub(crate) fn go_on(&self) -> Result<(), Halt> {
        if self.is_stopped() { Err(Halt::Stopped) } else { Ok(()) }
    }

    fn at(&self) -> Progressed {
        self.at.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The work of one kind of task.
pub(crate) trait TaskWork: Send + Sync {
    /// Which tasks are its.
    fn kind(&self) -> TaskKind;

    /// Does it. The answer is the task's result.
    fn run<'a>(&'a self, core: &'a Arc<Core>, running: &'a Running) -> BoxFuture<'a, Result<Value, Halt>>;

    /// Clears up after a task that failed for good or was cancelled, before that is written down.
    fn give_up<'a>(&'a self, _core: &'a Arc<Core>, _task: &'a Claimed) -> BoxFuture<'a, Result<(), DbError>> {
        Box::pin(async { Ok(()) })
    }
}

/// Claims one task of the kind and sees it to an end; false if there was none.
pub(crate) async fn task_pass(core: &Arc<Core>, work: &dyn TaskWork, stop: &Stop) -> Result<bool, DbError> {
    // Taken before the database is asked, so that it never ends later than the lease there.
    let held_until = Instant::now() + core.config.task_lease;
    let Some(task) = task_claim(core, work.kind()).await? else { return Ok(false) };
    let running = Running::new(task, held_until);
    let task = &running.task;
    let end = if task.cancelled {
        TaskEnd::Cancelled
    } else if task.attempt > core.config.task_attempts {
        let title = format!("{} was begun {} times and its worker vanished each time", task.object, task.attempt - 1);
        TaskEnd::Failed(Problem::new(Code::Internal, title))
    } else {
        work_watched(core, work, &running, stop).await
    };
    match &end {
        TaskEnd::Failed(_) | TaskEnd::Cancelled => work.give_up(core, task).await?,
        TaskEnd::Done(_) | TaskEnd::Again(..) | TaskEnd::Released => {}
    }
    if !task_finish(core, task, &end).await? {
        tracing::debug!(task = %task.id, "the task's end was written already, or another worker has it");
    }
    Ok(!stop.is_asked())
}

/// Runs the work while its lease is renewed beside it. Both are polled side by side, never one within the other: the work may hold the one
/// connection of SQLite that writes while the renewal waits for it.
async fn work_watched(core: &Arc<Core>, work: &dyn TaskWork, running: &Running, stop: &Stop) -> TaskEnd {
    let cancelled = AtomicBool::new(false);
    let result = tokio::select! {
        result = work.run(core, running) => result,
        () = lease_keep(core, running, &cancelled) => Err(Halt::Stopped),
        () = async {
            stop.asked().await;
            running.stopped.store(true, Ordering::Relaxed);
            std::future::pending().await
        } => Err(Halt::Stopped),
    };
    match result {
        Ok(result) => TaskEnd::Done(result),
        Err(Halt::Stopped) if cancelled.load(Ordering::Relaxed) => TaskEnd::Cancelled,
        Err(Halt::Stopped) => TaskEnd::Released,
        Err(Halt::Failed(problem)) => TaskEnd::Failed(problem),
        Err(Halt::Again(problem)) if running.task.attempt >= core.config.task_attempts => TaskEnd::Failed(problem),
        Err(Halt::Again(problem)) => TaskEnd::Again(problem, RETRY_AFTER),
    }
}

/// Writes how far the work is and renews the lease, for ever. Tells the work to stop when the task is cancelled or another worker has it.
async fn lease_keep(core: &Core, running: &Running, cancelled: &AtomicBool) {
    let mut written = Progressed::default();
    let mut renewed = Instant::now();
    let mut tick = tokio::time::interval(REPORT_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let at = running.at();
        let moved = (&at.step, at.done, at.total) != (&written.step, written.done, written.total);
        if !moved && renewed.elapsed() < core.config.task_lease / 4 {
            continue;
        }
        let asked = Instant::now();
        match task_step(core, &running.task, &at.step, at.done, at.total).await {
            Ok(Hold::Kept) => {
                renewed = asked;
                running.hold(asked + core.config.task_lease);
            }
            Ok(Hold::Cancelled) => {
                renewed = asked;
                running.hold(asked + core.config.task_lease);
                cancelled.store(true, Ordering::Relaxed);
                running.stopped.store(true, Ordering::Relaxed);
            }
            Ok(Hold::Lost) => running.stopped.store(true, Ordering::Relaxed),
            Err(error) => tracing::warn!(task = %running.task.id, %error, "renewing a task's lease"),
        }
        written = at;
    }
}
