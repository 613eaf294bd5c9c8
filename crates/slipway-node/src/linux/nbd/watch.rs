//! Keeps devices connected: hears of each connection that dies, and gives the kernel a new one as soon as the server is there again. What a
//! device needs for that lies in a file, so that the next service goes on with it.

use super::control::{self, Deaths};
use super::negotiate::Export;
use super::server::{Place, Server};
use super::wire::export_flag;
use crate::container::file_write;
use crate::linux::exports::Exports;
use crate::linux::io_error;
use crate::refusal::DriverError;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use slipway_api::node::{AttachKind, ObjectId, StepError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long a look for deaths waits; a thread that nobody needs any more ends so late.
const LOOK: Duration = Duration::from_secs(1);
/// Between attempts: first this, then double, …
const WAIT_FIRST: Duration = Duration::from_millis(100);
/// … up to this.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// A device of an earlier service that gives a sector in this time has a connection.
const PROBE: Duration = Duration::from_secs(2);

/// What it takes to connect a device again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::linux) struct Record {
    pub(in crate::linux) kind: AttachKind,
    pub(in crate::linux) mark: String,
    pub(in crate::linux) server: Server,
    pub(in crate::linux) size: u64,
    pub(in crate::linux) read_only: bool,
    pub(in crate::linux) connections: u64,
    pub(in crate::linux) dead_timeout: u64,
}

struct Watched {
    index: u32,
    record: Record,
    /// Connections that may be dead, and are to be given anew.
    missing: u64,
    /// A thread is at it.
    busy: bool,
    since: Instant,
    last: Option<String>,
}

#[derive(Default)]
struct State {
    devices: BTreeMap<ObjectId, Watched>,
    hearing: bool,
    /// Devices that are being made: their numbers are not known yet, and what is heard of unknown ones is kept.
    making: usize,
    early: Vec<u32>,
}

struct Shared {
    state: Mutex<State>,
    folder: PathBuf,
    exports: Exports,
}

/// The devices of one service. Clones are the same watch; threads end with the last of them.
#[derive(Clone)]
pub(in crate::linux) struct Watch(Arc<Shared>);

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("folder", &self.0.folder).finish_non_exhaustive()
    }
}

/// Held while a device is made.
pub(super) struct Making<'a>(&'a Watch);

impl Drop for Making<'_> {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.making -= 1;
        if state.making == 0 {
            state.early.clear();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Keeps its files in a folder.
    pub(in crate::linux) fn new(folder: &Path, exports: Exports) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), folder: folder.to_owned(), exports }))
    }

    pub(in crate::linux) fn exports(&self) -> &Exports {
        &self.0.exports
    }

    pub(super) fn record_path(&self, id: ObjectId) -> PathBuf {
        self.0.folder.join(format!("{id}.json"))
    }

    /// Writes down how a device is connected, before it is made.
    pub(super) fn record_write(&self, id: ObjectId, record: &Record) -> Result<(), DriverError> {
        let path = self.record_path(id);
        file_write(&path, record).map_err(|error| io_error("write", &path, &error))
    }

    pub(super) fn record_remove(&self, id: ObjectId) {
        let _ = std::fs::remove_file(self.record_path(id));
    }

    /// The objects that have a file.
    pub(super) fn recorded(&self) -> Vec<ObjectId> {
        let entries = std::fs::read_dir(&self.0.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".json")?.parse().ok()).collect()
    }

    /// From before the kernel is asked until [`add`](Self::add): nothing that happens meanwhile is missed.
    pub(super) fn making(&self) -> Result<Making<'_>, DriverError> {
        self.hear()?;
        self.0.lock().making += 1;
        Ok(Making(self))
    }

    /// Keeps a device that was made connected.
    pub(super) fn add(&self, id: ObjectId, index: u32, record: Record) {
        let mut state = self.0.lock();
        let died = state.early.contains(&index);
        let watched = Watched { index, record, missing: 0, busy: false, since: Instant::now(), last: None };
        state.devices.insert(id, watched);
        drop(state);
        if died {
            self.0.died(&[id]);
        }
    }

    /// Looks after a device no more.
    pub(super) fn forget(&self, id: ObjectId) {
        self.0.lock().devices.remove(&id);
    }

    /// Goes on with a device of an earlier service, whose connections may have died unheard.
    pub(super) fn adopt(&self, id: ObjectId, index: u32) {
        if self.0.lock().devices.contains_key(&id) {
            return;
        }
        let path = self.record_path(id);
        let read = std::fs::read(&path).and_then(|text| Ok(serde_json::from_slice::<Record>(&text)?));
        let record = match read.and_then(|record| self.hear().map(|()| record).map_err(std::io::Error::other)) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(id, %error, path = %path.display(), "the device is not connected again if its server goes away");
                return;
            }
        };
        self.add(id, index, record);
        let shared = Arc::downgrade(&self.0);
        std::thread::spawn(move || adopted_check(&shared, id, index));
    }

    /// What is wrong with which device.
    pub(in crate::linux) fn troubles(&self) -> BTreeMap<ObjectId, StepError> {
        let state = self.0.lock();
        let trouble = |(id, device): (&ObjectId, &Watched)| {
            let trouble = match device.missing > 0 {
                true => device.trouble(),
                false => self.0.exports.trouble(*id).filter(|_| device.record.kind == AttachKind::Slipway)?,
            };
            Some((*id, trouble))
        };
        state.devices.iter().filter_map(trouble).collect()
    }

    /// Begins to hear of deaths, once.
    fn hear(&self) -> Result<(), DriverError> {
        let mut state = self.0.lock();
        if !state.hearing {
            let deaths = Deaths::hear(LOOK)?;
            let shared = Arc::downgrade(&self.0);
            std::thread::spawn(move || deaths_hear(&deaths, &shared));
            state.hearing = true;
        }
        Ok(())
    }
}

impl Watched {
    fn trouble(&self) -> StepError {
        let at = &self.record.server.at;
        let (away, most) = (self.since.elapsed().as_secs(), self.record.dead_timeout);
        let last = self.last.as_deref().unwrap_or("it is being connected again");
        let text = format!(
            "the connection to NBD server {at} was lost {away} s ago; a request waits {most} s for a new one, then it fails; {last}"
        );
        StepError { step: "nbd_reconfigure".into(), errno: None, text }
    }
}

fn deaths_hear(deaths: &Deaths, shared: &Weak<Shared>) {
    loop {
        let heard = deaths.next();
        let Some(shared) = shared.upgrade() else { return };
        let ids: Vec<ObjectId> = match heard {
            Ok(Some(dead)) => {
                let mut state = shared.lock();
                if state.making > 0 {
                    state.early.extend(&dead);
                }
                let devices = state.devices.iter().filter(|(_, device)| dead.contains(&device.index));
                devices.map(|(id, _)| *id).collect()
            }
            Ok(None) => shared.lock().devices.keys().copied().collect(),
            Err(Errno::INTR) => Vec::new(),
            Err(errno) => {
                tracing::error!(%errno, "listening for lost NBD connections");
                std::thread::sleep(LOOK);
                Vec::new()
            }
        };
        shared.died(&ids);
    }
}

impl Shared {
    /// One connection or more of these are dead. Which does not matter: what the kernel does not need it does not take.
    fn died(self: &Arc<Self>, ids: &[ObjectId]) {
        let mut state = self.lock();
        for id in ids {
            let Some(device) = state.devices.get_mut(id) else { continue };
            if device.missing == 0 {
                (device.since, device.last) = (Instant::now(), None);
                tracing::warn!(id, server = %device.record.server.at, "lost the connection to an NBD server");
            }
            device.missing = device.record.connections;
            if !std::mem::replace(&mut device.busy, true) {
                let (shared, id) = (Arc::downgrade(self), *id);
                std::thread::spawn(move || reconnect(&shared, id));
            }
        }
    }

    fn is_well(&self, id: ObjectId) {
        if let Some(device) = self.lock().devices.get_mut(&id) {
            device.missing = 0;
        }
    }
}

/// Connects a device again, however long that takes; ends with the device, or with the service.
fn reconnect(shared: &Weak<Shared>, id: ObjectId) {
    let mut wait = WAIT_FIRST;
    loop {
        let Some(shared) = shared.upgrade() else { return };
        let (index, record) = {
            let mut state = shared.lock();
            let Some(device) = state.devices.get_mut(&id) else { return };
            if device.missing == 0 {
                device.busy = false;
                tracing::info!(id, server = %device.record.server.at, "connected to an NBD server again");
                return;
            }
            (device.index, device.record.clone())
        };
        let tried = attempt(&shared, id, index, &record);
        let mut state = shared.lock();
        let Some(device) = state.devices.get_mut(&id) else { return };
        match tried {
            Ok(()) => {
                device.missing = device.missing.saturating_sub(1);
                wait = WAIT_FIRST;
                continue;
            }
            Err(error) => device.last = Some(error.to_string()),
        }
        drop(state);
        drop(shared);
        std::thread::sleep(wait);
        wait = (wait * 2).min(WAIT_MAX);
    }
}

fn attempt(shared: &Shared, id: ObjectId, index: u32, record: &Record) -> Result<(), DriverError> {
    if record.kind == AttachKind::Slipway || matches!(record.server.at, Place::Tunnel { .. }) {
        shared.exports.ensure(id)?;
    }
    let (socket, export) = record.server.dial()?;
    same_check(record, &export)?;
    control::reconnect(index, &record.mark, &socket)
}

/// Another disk behind the same name would be mixed with what the kernel has read of the first.
fn same_check(record: &Record, export: &Export) -> Result<(), DriverError> {
    if export.size != record.size {
        let text = format!("the export has {} bytes now, and had {}", export.size, record.size);
        return Err(DriverError::other("nbd_negotiate", text));
    }
    if export.has(export_flag::READ_ONLY) && !record.read_only {
        return Err(DriverError::other("nbd_negotiate", "the export is read-only now, and was not"));
    }
    Ok(())
}

/// Reads a sector: a device without a connection does not give it.
fn adopted_check(shared: &Weak<Shared>, id: ObjectId, index: u32) {
    let (done, waiting) = std::sync::mpsc::channel();
    let late = shared.clone();
    std::thread::spawn(move || {
        let well = sector_read(&control::device_path(index));
        // It may come only after the device was connected again.
        if let (true, Some(shared)) = (well, late.upgrade()) {
            shared.is_well(id);
        }
        let _ = done.send(well);
    });
    if let (Ok(false) | Err(_), Some(shared)) = (waiting.recv_timeout(PROBE), shared.upgrade()) {
        shared.died(&[id]);
    }
}

/// Past the page cache, which may have it from better days.
fn sector_read(device: &Path) -> bool {
    const BLOCK: usize = 4096;
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    let Ok(device) = rustix::fs::open(device, flags, Mode::empty()) else { return false };
    let mut buffer = vec![0; 2 * BLOCK];
    let skip = buffer.as_ptr().align_offset(BLOCK);
    buffer.get_mut(skip..skip + BLOCK).is_some_and(|block| rustix::io::pread(&device, block, 0).is_ok())
}

#[cfg(test)]
mod tests {
    use super::{Record, same_check};
    use crate::linux::nbd::negotiate::Export;
    use crate::linux::nbd::server::{Place, Server};
    use slipway_api::node::AttachKind;

    #[test]
    fn another_disk_is_not_taken_for_the_same() {
        let server = Server { at: Place::Unix("/s".into()), export: String::new() };
        let mut record = Record {
            kind: AttachKind::Nbd,
            mark: "m".into(),
            server,
            size: 1024,
            read_only: false,
            connections: 1,
            dead_timeout: 30,
        };
        let export = |size, flags| Export { size, flags, block_min: 1, block_max: None };
        assert!(same_check(&record, &export(1024, 1)).is_ok());
        assert!(same_check(&record, &export(2048, 1)).unwrap_err().error.text.contains("2048 bytes now"));
        assert!(same_check(&record, &export(1024, 3)).unwrap_err().error.text.contains("read-only now"));
        record.read_only = true;
        assert!(same_check(&record, &export(1024, 3)).is_ok());
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }
}
