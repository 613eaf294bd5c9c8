//! What is asked of a container, and what happens to it. Each of its changes is: decide under its lock, do without it, write down, tell.

use super::life::{Act, Life, Step};
use super::start::{Started, Why};
use super::watch::Heard;
use super::{Cell, Host, Which};
use crate::container::{Running, now_ms, spec_of};
use crate::object::{Type, What};
use crate::plan::Draft;
use crate::refusal::{DriverError, Refusal};
use crate::schema::name_fits;
use serde_json::{Value, json};
use slipway_api::node::{Container, ContainerState, Health, ObjectId, StepError};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a request for an end waits for it before it answers with `stopping`.
const STOP_WAIT: Duration = Duration::from_secs(2);
/// How long a request waits for another one to be done with the same container.
const TURN_WAIT: Duration = Duration::from_secs(60);
/// Between asking to stop and killing, unless the container says otherwise.
const GRACE: Duration = Duration::from_secs(10);
const GRACE_SYSTEMD: Duration = Duration::from_secs(90);
/// Longer is no clock's business: a time that cannot be added to now would end the service.
const GRACE_MAX: Duration = Duration::from_secs(365 * 86_400);
/// When processes that were killed and did not vanish are looked at again.
const KILL_AGAIN: Duration = Duration::from_secs(5);

/// How long a container may take to stop.
pub(super) fn grace(container: &Container) -> Duration {
    let default = if container.systemd { GRACE_SYSTEMD } else { GRACE };
    container.stop_timeout.map_or(default, Duration::from_secs).min(GRACE_MAX)
}

fn unwritten(id: ObjectId, error: &std::io::Error) -> Refusal {
    DriverError::on_file("record", format_args!("writing down container {id}"), error).into()
}

fn lost() -> StepError {
    let text = "its shim ended without a word, so nobody knows how its init did".to_owned();
    StepError { step: "shim".into(), errno: None, text }
}

impl Host {
    /// Makes a container with all that it stands on, and starts it if that was asked for. One that does not start is made all the same,
    /// dead and with the reason. `privileged_default` is for a request that does not say.
    ///
    /// # Errors
    /// 400 for what the description has wrong, 409 for a name that is taken, else what the rules or the kernel refused of what it stands
    /// on; then nothing is left of it.
    pub fn container_create(
        self: &Arc<Self>,
        mut container: Container,
        privileged_default: bool,
    ) -> Result<Container, Refusal> {
        let starts = match container.state {
            ContainerState::Created => false,
            ContainerState::Running => true,
            other => {
                let hint = format!("state: a new container can be created or running, not {}", other.as_str());
                return Err(Refusal::new(400, "invalid data type").hint(hint));
            }
        };
        if !name_fits(&container.name) {
            let message = "name in body should match '^([A-Za-z0-9_-][A-Za-z0-9._-]{0,63})?$'";
            return Err(Refusal::invalid(605, message));
        }
        container.privileged.get_or_insert(privileged_default);
        // What only the service knows is not believed.
        container = Container {
            refs: 0,
            logfile: String::new(),
            pid: None,
            ready: false,
            exit: None,
            restarts: 0,
            ooms: 0,
            health: Health::Ready,
            created_at_ms: None,
            started_at_ms: None,
            error: None,
            ..container
        };
        spec_of(0, &container, PathBuf::new(), crate::CgroupPlace::default(), false, 0)?;
        let id = self.node.create(Draft::container(container)?, now_ms())?;
        let cell = Arc::new(Cell::default());
        cell.lock().kept.wanted = starts;
        // Nobody else touches it before its first start is over.
        cell.lock().act = starts.then_some(Act::Starting);
        self.cells().insert(id, cell.clone());
        self.runtime.note(id, "container created");
        let overdue = starts.then(|| self.start_work(id, &cell, Why::New)).and_then(|started| match started {
            Started::Overdue(refusal) => Some(refusal),
            Started::Yes | Started::Refused(_) => None,
        });
        if let Some(refusal) = overdue {
            // Nobody was told that it is there: it goes when its start comes back.
            return Err(refusal);
        }
        // From here on it is kept: until there is a record, a container is one whose request was never answered.
        // Under the lock, as every word of its life is written: it may have ended already, and that be written at the same time.
        let written = self.write(id, &cell.lock(), false);
        if let Err(refusal) = written {
            self.discard(id, &cell);
            return Err(refusal);
        }
        self.container(&Which::Id(id))
    }

    /// Takes a container to a state: running, exited or paused. Answers when it is there, and for an end after a moment at the latest; then
    /// the state is `stopping`, and lasts until no process is left.
    ///
    /// # Errors
    /// 404; 409 while something else is done with it; 422 for another state; 500 with the step at which a start failed.
    pub fn container_set(self: &Arc<Self>, which: &Which, state: ContainerState) -> Result<Container, Refusal> {
        self.set(which, state, None)
    }

    /// Takes a container to its end, and is patient for so long instead of for as long as it says itself; so also when it was asked to end
    /// before. Answers as [`Host::container_set`] does.
    ///
    /// # Errors
    /// As those of [`Host::container_set`].
    pub fn container_stop(self: &Arc<Self>, which: &Which, patience: Duration) -> Result<Container, Refusal> {
        self.set(which, ContainerState::Exited, Some(patience))
    }

    fn set(
        self: &Arc<Self>,
        which: &Which,
        state: ContainerState,
        patience: Option<Duration>,
    ) -> Result<Container, Refusal> {
        let (id, cell) = self.find(which)?;
        let mut life = self.turn(&cell)?;
        match life.asked(state)? {
            Step::Nothing => {
                // Also ends what was to happen by itself.
                let wanted = state != ContainerState::Exited;
                if life.kept.wanted != wanted && state != ContainerState::Paused {
                    life.wanted_set(wanted);
                    self.write(id, &life, true)?;
                }
                drop(life);
            }
            Step::Start => {
                let was = (life.kept.clone(), life.restart_at);
                life.wanted_set(true);
                // What cannot be written down is not begun.
                if let Err(refusal) = self.write(id, &life, true) {
                    (life.kept, life.restart_at) = was;
                    return Err(refusal);
                }
                life.act = Some(Act::Starting);
                drop(life);
                let started = self.start_work(id, &cell, Why::Asked);
                self.write_down(id, &cell.lock());
                return match started {
                    Started::Yes => self.container(&Which::Id(id)),
                    Started::Refused(refusal) | Started::Overdue(refusal) => Err(refusal),
                };
            }
            Step::Stop => {
                life.wanted_set(false);
                drop(self.stop_begin(id, &cell, life)?);
            }
            step @ (Step::Freeze | Step::Thaw) => return self.hold(id, &cell, life, step == Step::Freeze),
        }
        if let Some(patience) = patience {
            self.patience_set(id, &cell, patience);
        }
        if state == ContainerState::Exited {
            self.end_wait(&cell, STOP_WAIT);
        }
        self.container(&Which::Id(id))
    }

    /// Lets patience with a stop end so long from now.
    fn patience_set(&self, id: ObjectId, cell: &Cell, patience: Duration) {
        let mut life = cell.lock();
        if life.state == ContainerState::Stopping {
            let at = Instant::now() + patience.min(GRACE_MAX);
            life.kill_at = Some(at);
            drop(life);
            self.watch.at(at, id);
        }
    }

    /// Removes a container, and gives it as it was. With `force` it is stopped first, with all the patience that it has.
    ///
    /// # Errors
    /// 404; 409 while it runs, unless forced, or while something else is done with it.
    pub fn container_delete(self: &Arc<Self>, which: &Which, force: bool) -> Result<Container, Refusal> {
        let (id, cell) = self.find(which)?;
        let was = self.container(&Which::Id(id))?;
        let mut life = self.turn(&cell)?;
        if life.doomed {
            return Err(Refusal::busy(Vec::new()).hint(format!("container {id} is already being deleted")));
        }
        if life.is_alive() {
            if !force {
                let state = life.state.as_str();
                let hint = format!("container {id} is {state}; stop it first, or use force=true");
                return Err(Refusal::busy(Vec::new()).hint(hint));
            }
            life.doomed = true;
            life.wanted_set(false);
            if life.state == ContainerState::Stopping {
                drop(life);
            } else {
                // One that was not told is killed all the same.
                drop(self.stop_begin(id, &cell, life));
            }
            let patience = self.described(id).map_or(GRACE, |container| grace(&container));
            self.end_wait(&cell, patience + TURN_WAIT);
            life = self.turn(&cell)?;
            if life.is_alive() {
                life.doomed = false;
                let error = life.kept.error.clone();
                drop(life);
                let mut refusal = Refusal::busy(Vec::new()).hint(format!("processes of container {id} do not end"));
                refusal.problem.error = error;
                return Err(refusal);
            }
        }
        life.doomed = true;
        life.restart_at = None;
        life.act = Some(Act::Deleting);
        drop(life);
        let removed = self.remove(id);
        let mut life = cell.lock();
        // Whoever has waited for a turn finds it doomed for ever.
        (life.act, life.doomed) = (None, removed.is_ok());
        drop(life);
        cell.changed.notify_all();
        removed.map(|()| was)
    }

    fn remove(&self, id: ObjectId) -> Result<(), Refusal> {
        self.runtime.note(id, "container deleted");
        self.runtime.remove(id)?;
        self.node.delete(id, Type::Container, true)?;
        self.cells().remove(&id);
        if let Err(error) = self.records.forget(id) {
            // It is swept away at the next start.
            tracing::warn!(id, %error, "removing the record of a container");
        }
        Ok(())
    }

    /// Takes back a container that cannot be kept.
    pub(super) fn discard(&self, id: ObjectId, cell: &Cell) {
        {
            let mut life = cell.lock();
            life.doomed = true;
            life.act = Some(Act::Deleting);
        }
        let gone = self.runtime.clear(id).and_then(|()| self.runtime.kill(id)).map_err(Refusal::from);
        let gone = gone.and_then(|()| self.remove(id));
        let mut life = cell.lock();
        match gone {
            // Whoever hears of its end late finds nothing to take note of.
            Ok(()) => life.state = ContainerState::Dead,
            Err(refusal) => tracing::error!(id, problem = ?refusal.problem, "taking back a container"),
        }
        life.act = None;
        drop(life);
        cell.changed.notify_all();
    }

    fn find(&self, which: &Which) -> Result<(ObjectId, Arc<Cell>), Refusal> {
        let id = self.container(which)?.id;
        let cell = self.cell(id).ok_or_else(|| Refusal::not_found("container", id))?;
        Ok((id, cell))
    }

    /// The description, as it was asked for.
    pub(super) fn described(&self, id: ObjectId) -> Option<Container> {
        self.node.read(|table| match table.get(id).map(|entry| &entry.what) {
            Some(What::Container(container)) => Some(container.as_ref().clone()),
            _ => None,
        })
    }

    /// Waits until nobody else is at work with a container.
    fn turn<'a>(&self, cell: &'a Cell) -> Result<MutexGuard<'a, Life>, Refusal> {
        let until = Instant::now() + TURN_WAIT;
        let mut life = cell.lock();
        while let Some(act) = life.act {
            if act == Act::Overdue {
                return Err(
                    Refusal::busy(Vec::new()).hint("its start has not come back yet, and is undone when it does")
                );
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Refusal::busy(Vec::new()).hint("something else is being done with this container"));
            }
            life = cell.changed.wait_timeout(life, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(life)
    }

    /// Waits until a container has no processes.
    fn end_wait(&self, cell: &Cell, wait: Duration) {
        let until = Instant::now() + wait;
        let mut life = cell.lock();
        while life.is_alive() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            life = cell.changed.wait_timeout(life, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn write(&self, id: ObjectId, life: &Life, firmly: bool) -> Result<(), Refusal> {
        self.records.put(id, &life.kept, firmly).map_err(|error| unwritten(id, &error))
    }

    /// As [`write`](Self::write), where nobody waits for an answer.
    pub(super) fn write_down(&self, id: ObjectId, life: &Life) {
        if let Err(refusal) = self.write(id, life, false) {
            tracing::error!(id, problem = ?refusal.problem, "writing down a container");
        }
    }

    /// Asks a container that runs to end; the watch does the rest.
    fn stop_begin<'a>(
        &self,
        id: ObjectId,
        cell: &'a Cell,
        mut life: MutexGuard<'a, Life>,
    ) -> Result<MutexGuard<'a, Life>, Refusal> {
        let container = self.described(id).unwrap_or_default();
        let until = Instant::now() + grace(&container);
        life.stop_begun(until);
        life.act = Some(Act::Signalling);
        // A stop that was asked for outlives us: the next service goes on with it.
        let written = self.write(id, &life, true);
        drop(life);
        let asked = self.runtime.stop_ask(id, container.systemd);
        let mut life = cell.lock();
        life.act = None;
        if let Err(error) = asked {
            // Patience would be in vain.
            tracing::warn!(id, %error, "asking a container to stop");
            life.kill_at = Some(Instant::now());
        }
        if let Some(at) = life.kill_at {
            self.watch.at(at, id);
        }
        self.tell(id, "stopping", Value::Null);
        cell.changed.notify_all();
        written.map(|()| life)
    }

    fn hold(
        &self,
        id: ObjectId,
        cell: &Cell,
        mut life: MutexGuard<'_, Life>,
        still: bool,
    ) -> Result<Container, Refusal> {
        life.act = Some(Act::Signalling);
        // First, so that the next service knows what it finds.
        life.kept.still = still;
        let written = self.write(id, &life, false);
        drop(life);
        let done = written.and_then(|()| self.runtime.pause(id, still).map_err(Refusal::from));
        let mut life = cell.lock();
        life.act = None;
        match &done {
            Ok(()) => life.held(still),
            Err(_) => {
                life.kept.still = !still;
                self.write_down(id, &life);
            }
        }
        drop(life);
        cell.changed.notify_all();
        done?;
        self.tell(id, if still { "paused" } else { "resumed" }, Value::Null);
        self.container(&Which::Id(id))
    }

    /// Something has happened. What may take long is done by a thread of its own, which ends with it.
    pub(super) fn heard(self: &Arc<Self>, heard: Heard) {
        let (id, ended) = match heard {
            Heard::Status(id) => {
                if let Some(cell) = self.cell(id) {
                    self.status_look(id, &mut cell.lock());
                }
                return;
            }
            Heard::Ended(id) => (id, true),
            Heard::Due(id) => (id, false),
        };
        let host = self.clone();
        let begun = std::thread::Builder::new()
            .name("slipway-container".into())
            .spawn(move || if ended { host.ended(id) } else { host.due(id) });
        if let Err(error) = begun {
            tracing::error!(id, %error, "beginning a thread; it is tried again");
            self.watch.at(Instant::now() + KILL_AGAIN, id);
        }
    }

    /// Takes note of what the shim of one that runs has said since the last look.
    pub(super) fn status_look(&self, id: ObjectId, life: &mut Life) {
        let Some(status) = self.runtime.files(id).status().filter(|_| life.is_alive()) else { return };
        if status.ready && !life.ready {
            life.ready = true;
            self.tell(id, "ready", Value::Null);
        }
        self.ooms_take(id, life, status.ooms);
    }

    /// So many were killed since its start.
    fn ooms_take(&self, id: ObjectId, life: &mut Life, run: u64) {
        let more = life.ooms_seen(run);
        if more > 0 {
            self.counters.ooms.fetch_add(more, Ordering::Relaxed);
            self.tell(id, "oom", json!({ "count": more }));
            self.write_down(id, life);
        }
    }

    /// A time that was waited for has come: whatever is due by now is done, and nothing else.
    fn due(self: &Arc<Self>, id: ObjectId) {
        let Some(cell) = self.cell(id) else { return };
        let Ok(mut life) = self.turn(&cell) else { return };
        let now = Instant::now();
        if life.is_alive() && !matches!(self.runtime.running(id), Running::Yes(_)) {
            drop(life);
            return self.ended(id);
        }
        if life.kill_at.is_some_and(|at| at <= now) && life.is_alive() {
            life.act = Some(Act::Ending);
            drop(life);
            let killed = self.runtime.kill(id);
            let mut life = cell.lock();
            life.act = None;
            match killed {
                // Its shim's end is heard of.
                Ok(()) => life.kill_at = None,
                Err(error) => self.kill_later(id, &mut life, error),
            }
            drop(life);
            cell.changed.notify_all();
        } else if life.restart_at.is_some_and(|at| at <= now) && !life.is_alive() {
            life.restarting();
            life.act = Some(Act::Starting);
            self.write_down(id, &life);
            drop(life);
            self.counters.restarts.fetch_add(1, Ordering::Relaxed);
            self.tell(id, "restarted", Value::Null);
            self.start_work(id, &cell, Why::Again);
            self.write_down(id, &cell.lock());
        }
    }

    fn kill_later(&self, id: ObjectId, life: &mut Life, error: DriverError) {
        tracing::warn!(id, %error, "killing a container again in {KILL_AGAIN:?}");
        life.kept.error = Some(error.error);
        let at = Instant::now() + KILL_AGAIN;
        life.kill_at = Some(at);
        self.watch.at(at, id);
    }

    /// A container's shim has ended: so has its init, or it is nobody's any more.
    pub(super) fn ended(self: &Arc<Self>, id: ObjectId) {
        let Some(cell) = self.cell(id) else { return };
        let Ok(mut life) = self.turn(&cell) else { return };
        if !life.is_alive() || matches!(self.runtime.running(id), Running::Yes(_)) {
            return;
        }
        life.act = Some(Act::Ending);
        drop(life);
        // What was put into its groups from outside, and what has lost its shim.
        let killed = self.runtime.kill(id);
        let mut life = cell.lock();
        life.act = None;
        match killed {
            Ok(()) => self.end_take(id, &mut life),
            Err(error) => {
                life.state = ContainerState::Stopping;
                self.kill_later(id, &mut life, error);
            }
        }
        drop(life);
        cell.changed.notify_all();
    }

    /// Takes note of an end, when no process is left.
    pub(super) fn end_take(&self, id: ObjectId, life: &mut Life) {
        // What the shim has said before its last word.
        self.status_look(id, life);
        let how = match self.runtime.running(id) {
            Running::Ended(exit) => Ok(exit),
            Running::Yes(_) | Running::Lost | Running::No => Err(lost()),
        };
        let policy = self.described(id).and_then(|container| container.restart).unwrap_or_default();
        let is_lost = how.is_err();
        let again = life.ended(how, &policy, now_ms());
        self.restart_later(id, life, again);
        self.write_down(id, life);
        self.counters.exits.fetch_add(1, Ordering::Relaxed);
        let exit = life.kept.exit.clone().unwrap_or_default();
        self.state_note(id, life.state);
        if is_lost {
            self.tell(id, "lost", json!({ "error": life.kept.error }));
        }
        self.tell(id, life.state.as_str(), json!({ "exit": exit }));
    }

    pub(super) fn restart_later(&self, id: ObjectId, life: &mut Life, wait: Option<Duration>) {
        life.restart_at = wait.map(|wait| Instant::now() + wait);
        if let Some(at) = life.restart_at {
            self.watch.at(at, id);
        }
    }
}
