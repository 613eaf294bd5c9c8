//! The life of a container as rules: what may follow what. No call is made here; what happens comes in, what is to be done goes out.

use crate::refusal::Refusal;
use serde::{Deserialize, Serialize};
use slipway_api::node::{ContainerState, Exit, Restart, RestartWhen, StepError};
use std::time::{Duration, Instant};

/// Who runs so long has not ended "in a row" with what was before.
const LASTING_MS: i64 = 10_000;
const RESTART_FIRST: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(30);

/// What of a life outlives the service, and the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Kept {
    /// Somebody wants it to run, and nobody has said otherwise since.
    pub(super) wanted: bool,
    /// It is, or is to be, held still.
    pub(super) still: bool,
    /// It is to be started again by itself.
    pub(super) retrying: bool,
    /// How often it was started again by itself.
    pub(super) restarts: u64,
    /// How often of these without lasting.
    pub(super) in_row: u64,
    /// How many of its processes the kernel has killed for want of memory, …
    pub(super) ooms: u64,
    /// … and how many of these since it was started last.
    pub(super) ooms_run: u64,
    /// When it was started last.
    pub(super) started_at_ms: Option<i64>,
    /// How it ended last.
    pub(super) exit: Option<Exit>,
    /// Why it did not start, or what is wrong.
    pub(super) error: Option<StepError>,
}

/// Slow work that is under way for a container; until it is done, nothing else is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Its init is being made.
    Starting,
    /// Its start has not come back in its time; what comes of it is undone.
    Overdue,
    /// A signal is sent, or its processes are held or let go.
    Signalling,
    /// What is left of its processes is being killed.
    Ending,
    /// It is being removed.
    Deleting,
}

/// A container's life.
#[derive(Clone, Debug, Default)]
pub(super) struct Life {
    pub(super) state: ContainerState,
    pub(super) kept: Kept,
    pub(super) pid: Option<u32>,
    pub(super) ready: bool,
    pub(super) act: Option<Act>,
    /// It is to be removed as soon as it has ended: nothing starts it any more.
    pub(super) doomed: bool,
    /// What is at a start that is overdue is being killed.
    pub(super) ending: bool,
    /// When patience with a stop ends, or an end is looked at again.
    pub(super) kill_at: Option<Instant>,
    /// When it is started again by itself.
    pub(super) restart_at: Option<Instant>,
}

/// What a request for a state comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is so already, or on its way there.
    Nothing,
    /// Start it.
    Start,
    /// Ask it to end.
    Stop,
    /// Hold it still.
    Freeze,
    /// Let it go on.
    Thaw,
}

fn busy(why: &str) -> Refusal {
    Refusal::new(409, "object is busy").hint(why)
}

impl Life {
    /// Whether it has processes.
    pub(super) fn is_alive(&self) -> bool {
        use ContainerState::{Created, Dead, Exited, Paused, Running, Stopping};
        match self.state {
            Running | Paused | Stopping => true,
            Created | Exited | Dead => false,
        }
    }

    /// Somebody asks for a state.
    pub(super) fn asked(&self, state: ContainerState) -> Result<Step, Refusal> {
        use ContainerState::{Created, Dead, Exited, Paused, Running, Stopping};
        if self.doomed {
            return Err(busy("the container is being deleted"));
        }
        match (state, self.state) {
            (Running, Created | Exited | Dead) => Ok(Step::Start),
            (Running, Running) | (Paused, Paused) => Ok(Step::Nothing),
            (Running, Paused) => Ok(Step::Thaw),
            (Running, Stopping) => Err(busy("the container is stopping; start it when it has ended")),
            (Paused, Running) => Ok(Step::Freeze),
            (Paused, Created | Stopping | Exited | Dead) => {
                Err(busy("only a running container can be paused; this one does not run"))
            }
            (Exited, Running | Paused) => Ok(Step::Stop),
            (Exited, Created | Stopping | Exited | Dead) => Ok(Step::Nothing),
            (Created | Stopping | Dead, _) => {
                Err(Refusal::invalid(606, "state in query should be one of [running exited paused]"))
            }
        }
    }

    /// A person's word ends whatever was to happen by itself.
    pub(super) fn wanted_set(&mut self, wanted: bool) {
        self.kept.wanted = wanted;
        self.kept.in_row = 0;
        self.kept.retrying = false;
        self.restart_at = None;
    }

    /// Its init was executed.
    pub(super) fn started(&mut self, pid: u32, ready: bool, now_ms: i64) {
        self.state = ContainerState::Running;
        self.kept.started_at_ms = Some(now_ms);
        self.kept.error = None;
        (self.kept.still, self.kept.retrying, self.kept.ooms_run) = (false, false, 0);
        (self.pid, self.ready, self.restart_at) = (Some(pid), ready, None);
    }

    /// So many of its processes were killed for want of memory since it was started. Gives how many more than was known.
    pub(super) fn ooms_seen(&mut self, run: u64) -> u64 {
        let more = run.saturating_sub(self.kept.ooms_run);
        (self.kept.ooms, self.kept.ooms_run) = (self.kept.ooms + more, self.kept.ooms_run + more);
        more
    }

    /// Its init was not executed. Gives when to try again, if it was started by itself.
    pub(super) fn start_failed(&mut self, error: StepError, by_itself: bool, policy: &Restart) -> Option<Duration> {
        self.state = ContainerState::Dead;
        self.kept.error = Some(error);
        (self.restart_at, self.kept.retrying) = (None, false);
        if by_itself { self.restart_wait(policy) } else { None }
    }

    /// It was asked to end.
    pub(super) fn stop_begun(&mut self, until: Instant) {
        self.state = ContainerState::Stopping;
        self.kept.still = false;
        self.kill_at = Some(until);
    }

    /// It is held still, or goes on.
    pub(super) fn held(&mut self, still: bool) {
        self.kept.still = still;
        self.state = if still { ContainerState::Paused } else { ContainerState::Running };
    }

    /// None of its processes is left. `Err` when nobody saw how its init ended. Gives when to start it again.
    pub(super) fn ended(&mut self, how: Result<Exit, StepError>, policy: &Restart, now_ms: i64) -> Option<Duration> {
        (self.pid, self.ready, self.kill_at) = (None, false, None);
        self.kept.still = false;
        self.kept.error = how.as_ref().err().cloned();
        // Who asked for the end has got what was asked for, even of an init that had to be killed: an ImageAPI client waits for `exited`.
        let was_stopped = how.is_ok() && !self.kept.wanted;
        let exit = how.unwrap_or(Exit { at_ms: now_ms, ..Exit::default() });
        let is_well = was_stopped || exit.code == Some(0);
        self.state = if is_well { ContainerState::Exited } else { ContainerState::Dead };
        let ran_ms = exit.at_ms - self.kept.started_at_ms.unwrap_or(exit.at_ms);
        if ran_ms >= LASTING_MS {
            self.kept.in_row = 0;
        }
        self.kept.exit = Some(exit);
        self.restart_wait(policy)
    }

    /// How long until it is started again by itself, if it is.
    pub(super) fn restart_wait(&mut self, policy: &Restart) -> Option<Duration> {
        let wait = self.wait_of(policy);
        self.kept.retrying = wait.is_some();
        wait
    }

    fn wait_of(&mut self, policy: &Restart) -> Option<Duration> {
        let due = match policy.when {
            RestartWhen::No => false,
            RestartWhen::OnFailure => self.state == ContainerState::Dead,
            RestartWhen::Always => true,
        };
        if !due || !self.kept.wanted || self.doomed || self.is_alive() {
            return None;
        }
        if policy.max > 0 && self.kept.in_row >= policy.max {
            let text =
                format!("it was started again {} times in a row; start it yourself when it is mended", policy.max);
            self.kept.error.get_or_insert(StepError { step: "restart_max".into(), errno: None, text });
            return None;
        }
        let doublings = u32::try_from(self.kept.in_row).unwrap_or(u32::MAX).min(16);
        Some((RESTART_FIRST * 2_u32.pow(doublings)).min(RESTART_MAX))
    }

    /// It is being started again by itself.
    pub(super) fn restarting(&mut self) {
        self.restart_at = None;
        self.kept.restarts += 1;
        self.kept.in_row += 1;
    }
}

#[cfg(test)]
#[path = "life_test.rs"]
mod tests;
