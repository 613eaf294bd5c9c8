//! After a start: containers that run are ours again, ends that nobody saw are read, and what was never answered or belongs to nobody goes.

use super::life::{Kept, Life};
use super::{Cell, Host};
use crate::container::Running;
use crate::object::{Entry, Phase, What};
use slipway_api::node::{Container, ContainerState, Exit, ObjectId, RestartWhen, StepError};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Instant;

impl Host {
    /// Brings records, run directory and processes together. Nobody else works with this host yet.
    pub(super) fn adopt(self: &Arc<Self>) -> io::Result<()> {
        let failed = |error: crate::DriverError| io::Error::other(error.to_string());
        let entries: Vec<Entry> = self
            .node
            .read(|table| table.iter().filter(|entry| matches!(entry.what, What::Container(_))).cloned().collect());
        let known: BTreeSet<ObjectId> = entries.iter().map(|entry| entry.id).collect();
        for id in self.runtime.found()?.into_iter().filter(|id| !known.contains(id)) {
            tracing::warn!(id, "removing what was left of a container of an earlier run");
            self.runtime.clear(id).and_then(|()| self.runtime.kill(id)).map_err(failed)?;
            self.runtime.remove(id).map_err(failed)?;
        }
        for entry in entries {
            let What::Container(container) = &entry.what else { continue };
            let cell = Arc::new(Cell::default());
            self.cells().insert(entry.id, cell.clone());
            let kept = self.records.get(entry.id);
            let rebooted = matches!(entry.phase, Phase::Lost(_));
            // After a restart of the node, a missing record is one that never reached the disk.
            let answered = kept.is_some() || rebooted;
            if !answered || matches!(entry.phase, Phase::Making | Phase::Removing(_)) {
                self.node.interrupted(entry.id);
                self.discard(entry.id, &cell);
                continue;
            }
            let mut life = cell.lock();
            let wanted = container.state == ContainerState::Running;
            life.kept = kept.unwrap_or_else(|| Kept { wanted, ..Kept::default() });
            match rebooted {
                true => self.rebooted(entry.id, container, &mut life)?,
                false => self.find_again(entry.id, container, &mut life)?,
            }
        }
        self.records.sweep(|id| self.cell(id).is_some())
    }

    /// One that is of this boot.
    fn find_again(&self, id: ObjectId, container: &Container, life: &mut Life) -> io::Result<()> {
        let failed = |error: crate::DriverError| io::Error::other(error.to_string());
        match self.runtime.running(id) {
            Running::Yes(status) => {
                life.state = ContainerState::Running;
                life.kept.started_at_ms = Some(status.started_at_ms);
                life.kept.retrying = false;
                (life.pid, life.ready) = (Some(status.pid), status.ready);
                self.watch.status(id, &self.runtime.files(id));
                self.status_look(id, life);
                self.watch.shim(id, self.runtime.shim_open(id));
                if !life.kept.wanted {
                    // The stop that it was asked for goes on, with all its patience.
                    self.stop_again(id, container, life);
                } else if let Err(error) = self.runtime.pause(id, life.kept.still) {
                    tracing::warn!(id, %error, "holding a container still");
                } else {
                    let still = life.kept.still;
                    life.held(still);
                }
            }
            // Seen by an earlier service already, or not.
            Running::Ended(exit) if life.kept.exit.as_ref() == Some(&exit) => self.rest(id, container, life, &exit),
            Running::Ended(_) | Running::Lost => {
                life.state = ContainerState::Running;
                self.runtime.kill(id).map_err(failed)?;
                self.end_take(id, life);
            }
            Running::No => {
                // An earlier service may have been at starting it.
                self.runtime.clear(id).map_err(failed)?;
                life.state = match (&life.kept.exit, &life.kept.error) {
                    (Some(exit), None) if exit.code == Some(0) => ContainerState::Exited,
                    (None, None) => ContainerState::Created,
                    _ => ContainerState::Dead,
                };
                self.retry(id, container, life);
            }
        }
        Ok(())
    }

    /// One that has ended, and everybody knows.
    fn rest(&self, id: ObjectId, container: &Container, life: &mut Life, exit: &Exit) {
        life.state = if exit.code == Some(0) && life.kept.error.is_none() {
            ContainerState::Exited
        } else {
            ContainerState::Dead
        };
        self.retry(id, container, life);
    }

    /// What an earlier service was about to start again.
    fn retry(&self, id: ObjectId, container: &Container, life: &mut Life) {
        if life.kept.retrying {
            let again = life.restart_wait(&container.restart.clone().unwrap_or_default());
            self.restart_later(id, life, again);
        }
    }

    fn stop_again(&self, id: ObjectId, container: &Container, life: &mut Life) {
        let until = Instant::now() + super::container::grace(container);
        life.stop_begun(until);
        if let Err(error) = self.runtime.stop_ask(id, container.systemd) {
            tracing::warn!(id, %error, "asking a container to stop");
            life.kill_at = Some(Instant::now());
        }
        if let Some(at) = life.kill_at {
            self.watch.at(at, id);
        }
    }

    /// One that was described under another kernel: none of its processes is left, and none of its mounts. One that is to run always is
    /// started again, and what it stands on made again; any other says that the node was restarted while it ran.
    fn rebooted(&self, id: ObjectId, container: &Container, life: &mut Life) -> io::Result<()> {
        // Files that outlived the kernel speak of processes that did not.
        self.runtime.remove(id).map_err(|error| io::Error::other(error.to_string()))?;
        life.kept.still = false;
        let ended = life.kept.exit.as_ref().map(|exit| exit.at_ms);
        let ran = life.kept.wanted && life.kept.error.is_none() && (ended.is_none() || ended < life.kept.started_at_ms);
        life.state = match (&life.kept.exit, &life.kept.error) {
            _ if ran => ContainerState::Dead,
            (Some(exit), None) if exit.code == Some(0) => ContainerState::Exited,
            (None, None) => ContainerState::Created,
            _ => ContainerState::Dead,
        };
        if ran {
            let text = "the node was restarted while it ran; start it again".to_owned();
            life.kept.error = Some(StepError { step: "restart".into(), errno: None, text });
        }
        let policy = container.restart.clone().unwrap_or_default();
        // A restart of the node is not one that counts as in a row.
        life.kept.in_row = 0;
        let again = match policy.when {
            RestartWhen::Always if ran || life.kept.retrying => life.restart_wait(&policy),
            RestartWhen::Always | RestartWhen::OnFailure | RestartWhen::No => None,
        };
        life.kept.retrying = again.is_some();
        self.restart_later(id, life, again);
        self.write_down(id, life);
        // It is a description like any other now; only what it stands on is lost.
        self.node.described(id);
        Ok(())
    }
}
