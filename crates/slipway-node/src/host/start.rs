//! Starting a container: what it stands on is there, its init is executed, or it is said why not, in a time that has an end.

use super::life::Act;
use super::{Cell, Host};
use crate::container::Status;
use crate::journal::RESTARTED;
use crate::object::{Phase, Type};
use crate::refusal::Refusal;
use serde_json::json;
use slipway_api::node::{Container, ObjectId, StepError};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, PoisonError};

/// On whose word a container is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It was just described, and nobody was told yet that it is there.
    New,
    /// Somebody asked.
    Asked,
    /// It is started again by itself.
    Again,
}

/// What came of a start.
pub(super) enum Started {
    Yes,
    Refused(Refusal),
    /// It has not come back in its time, and is undone when it does.
    Overdue(Refusal),
}

type Begun = Result<Status, Refusal>;

impl Host {
    /// Starts a container whose act is `Starting`.
    pub(super) fn start_work(self: &Arc<Self>, id: ObjectId, cell: &Arc<Cell>, why: Why) -> Started {
        let Some(container) = self.described(id) else {
            return Started::Refused(Refusal::not_found("container", id));
        };
        let begun = match self.remake(id).and_then(|()| self.root(id)) {
            Ok(root) => self.start_call(id, cell, &container, root, why),
            Err(refusal) => Some(Err(refusal)),
        };
        match begun {
            Some(begun) => self.start_settle(id, cell, &container, why, begun),
            None => Started::Overdue(self.start_overdue(id, cell)),
        }
    }

    /// Has the init executed by a thread of its own, and waits until the deadline; `None` if it is still at it. What comes after that is undone.
    fn start_call(
        self: &Arc<Self>,
        id: ObjectId,
        cell: &Arc<Cell>,
        container: &Container,
        root: PathBuf,
        why: Why,
    ) -> Option<Begun> {
        // Without room in between: what is not taken at this end stays at the other.
        let (send, receive) = sync_channel::<Begun>(0);
        let (host, cell, container) = (self.clone(), cell.clone(), container.clone());
        let begun = std::thread::Builder::new().name("slipway-start".into()).spawn(move || {
            let privileged = container.privileged.unwrap_or(false);
            let begun = host.runtime.start(id, &container, &root, privileged);
            if let Err(unheard) = send.send(begun) {
                host.start_late(id, &cell, &container, why, unheard.0);
            }
        });
        if let Err(error) = begun {
            let error = StepError { step: "start".into(), errno: None, text: format!("beginning a thread: {error}") };
            return Some(Err(Refusal::failed(error)));
        }
        match receive.recv_timeout(self.node.config.deadline) {
            Ok(begun) => Some(begun),
            // It may have come in this very moment.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => receive.try_recv().ok(),
        }
    }

    /// Takes note that a start has not come back, and kills what is at it: as a rule that is what brings it back.
    fn start_overdue(self: &Arc<Self>, id: ObjectId, cell: &Arc<Cell>) -> Refusal {
        let error = self.overdue();
        let mut life = cell.lock();
        // It may have come back between its deadline and here.
        if life.act != Some(Act::Starting) {
            return Refusal::failed(error);
        }
        (life.act, life.ending) = (Some(Act::Overdue), true);
        life.kept.error = Some(error.clone());
        drop(life);
        cell.changed.notify_all();
        self.runtime.note(id, &format!("container did not start: {}", error.text));
        let (host, ended) = (self.clone(), cell.clone());
        let begun = std::thread::Builder::new().name("slipway-start".into()).spawn(move || {
            if let Err(error) = host.runtime.clear(id) {
                tracing::warn!(id, %error, "ending a start that has not come back");
            }
            ended.lock().ending = false;
            ended.changed.notify_all();
        });
        if let Err(error) = begun {
            tracing::warn!(id, %error, "ending a start that has not come back");
            cell.lock().ending = false;
        }
        Refusal::failed(error)
    }

    fn overdue(&self) -> StepError {
        let deadline = self.node.config.deadline;
        let text = format!("the init was not executed within {deadline:?}; what there is of it is undone");
        StepError { step: "start".into(), errno: Some("ETIMEDOUT".into()), text }
    }

    /// A start has come back that nobody waits for: nothing of it stays.
    fn start_late(self: &Arc<Self>, id: ObjectId, cell: &Arc<Cell>, container: &Container, why: Why, begun: Begun) {
        {
            // What is being killed is this start, and must not be the next one.
            let mut life = cell.lock();
            while life.ending {
                life = cell.changed.wait(life).unwrap_or_else(PoisonError::into_inner);
            }
        }
        if begun.is_ok()
            && let Err(error) = self.runtime.clear(id).and_then(|()| self.runtime.kill(id))
        {
            tracing::error!(id, %error, "undoing a start that came too late");
        }
        self.start_settle(id, cell, container, why, Err(Refusal::failed(self.overdue())));
        match why {
            Why::New => self.discard(id, cell),
            Why::Asked | Why::Again => self.write_down(id, &cell.lock()),
        }
    }

    /// Takes note of what came of a start.
    fn start_settle(
        self: &Arc<Self>,
        id: ObjectId,
        cell: &Cell,
        container: &Container,
        why: Why,
        begun: Begun,
    ) -> Started {
        let policy = container.restart.clone().unwrap_or_default();
        let mut life = cell.lock();
        life.act = None;
        let started = match begun {
            Ok(status) => {
                life.started(status.pid, status.ready, status.started_at_ms);
                self.counters.starts.fetch_add(1, Ordering::Relaxed);
                self.tell(id, "started", json!({ "pid": status.pid }));
                self.watch.status(id, &self.runtime.files(id));
                // It may have been quicker than the watch.
                self.status_look(id, &mut life);
                self.watch.shim(id, self.runtime.shim_open(id));
                Started::Yes
            }
            Err(refusal) => {
                let fallback = || StepError {
                    step: "start".into(),
                    errno: None,
                    text: refusal.problem.hint.clone().unwrap_or_else(|| refusal.problem.message.clone()),
                };
                let error = refusal.problem.error.clone().unwrap_or_else(fallback);
                let again = life.start_failed(error.clone(), why == Why::Again, &policy);
                self.restart_later(id, &mut life, again);
                self.counters.start_failures.fetch_add(1, Ordering::Relaxed);
                self.tell(id, "failed", json!({ "error": error }));
                self.state_note(id, life.state);
                Started::Refused(refusal)
            }
        };
        drop(life);
        cell.changed.notify_all();
        started
    }

    /// Makes again what a restart of the node took from under a container. What vanished otherwise stays lost, for people to see.
    fn remake(&self, id: ObjectId) -> Result<(), Refusal> {
        let is_gone = |table: &crate::Table| {
            let lost = table.get(id).and_then(|entry| table.lost_below(entry));
            lost.is_some_and(|(_, error)| error.step == RESTARTED)
        };
        if !self.node.read(is_gone) {
            return Ok(());
        }
        // Two that share a mount do not make it twice.
        let turn = self.remaking.lock().unwrap_or_else(PoisonError::into_inner);
        let done = self.node.remake(id);
        drop(turn);
        done
    }

    /// The tree that a container starts in.
    fn root(&self, id: ObjectId) -> Result<PathBuf, Refusal> {
        self.node.read(|table| {
            let entry = table.of_type(id, Type::Container)?;
            let root = entry.children.first().and_then(|child| table.get(*child));
            match root {
                Some(root) if root.phase == Phase::Ready && table.is_whole(root) => {
                    let proof = root.proof.as_ref().map(|proof| PathBuf::from(&proof.mountpoint));
                    proof.ok_or_else(|| Refusal::busy(Vec::new()).hint("its mount has no place"))
                }
                Some(root) => {
                    let lost = table.lost_below(entry);
                    let number = lost.as_ref().map_or(root.id, |(id, _)| *id);
                    let error = lost.map(|(_, error)| error).unwrap_or_else(|| StepError {
                        step: "root".into(),
                        errno: None,
                        text: format!("mount {number} is not there (yet or any more)"),
                    });
                    Err(Refusal::failed(error).hint(format!("object {number}, which it stands on, is not there")))
                }
                None => Err(Refusal::failed(StepError {
                    step: "root".into(),
                    errno: None,
                    text: "the mount that it stands on was removed".into(),
                })),
            }
        })
    }
}
