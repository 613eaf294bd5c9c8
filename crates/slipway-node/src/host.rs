//! A node's whole life: its attachments and mounts, and its containers from the first request to the last process. What serves people
//! (HTTP, a command line) stands on this alone. Every method may block, as the kernel or a container's patience makes it.

mod adopt;
mod container;
mod exec;
mod life;
mod log;
mod record;
mod start;
mod watch;

use crate::container::{Runtime, RuntimeConfig, now_ms};
use crate::event::Events;
use crate::linux::Linux;
use crate::node::{Node, NodeConfig};
use crate::object::Type;
use crate::plan::Draft;
use crate::refusal::{DriverError, Refusal};
use crate::table::Table;
use crate::view::{attach_view, container_view, mount_view};
pub use exec::Exec;
use life::{Act, Life};
pub use log::LogReader;
use record::Records;
use slipway_api::node::{Attach, Container, ContainerState, Health, Mount, ObjectId};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use watch::Watch;

/// The file in each directory that a service holds. It has the number of its process.
const LOCK: &str = "service.lock";
/// Between looks at what is well.
const HEALTH_LOOK: Duration = Duration::from_secs(1);

/// How to run a host.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// What does not outlive the kernel: mounts, containers, logs. On a tmpfs, as a rule `/run/slipway`.
    pub run_dir: PathBuf,
    /// What outlives it: descriptions, numbers, kept layers; as a rule `/var/lib/slipway/node`.
    pub state_dir: PathBuf,
    /// The program of the shim and its arguments; the container's directory is added.
    pub shim: Vec<String>,
    /// The program that calls [`exec_run`](crate::exec_run), and its arguments.
    pub exec: Vec<String>,
    /// The program that gives a version of a catalogue as an NBD export, and its arguments; the attachment's directory is added. Without it
    /// attachments of kind `slipway` are refused.
    pub export: Vec<String>,
    /// Tells services of one machine apart in the control groups.
    pub node: String,
    /// Bytes of a container's log file before the next one is begun; two are kept.
    pub log_max: u64,
    /// Which kernel this is: `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Deadlines and retries of the drivers.
    pub node_config: NodeConfig,
}

/// Names a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// By number.
    Id(ObjectId),
    /// By name.
    Name(String),
}

/// How much of everything, for whoever measures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Type (`attach`, `mount`, `container`), kind (empty for containers) and health or state: how many.
    pub objects: BTreeMap<(&'static str, &'static str, String), u64>,
    /// Calls of the kernel that have not come back yet.
    pub calls_pending: u64,
    /// Objects whose removal is to be tried again.
    pub retries_waiting: u64,
    /// Removals that were put off, since the start of the service.
    pub retries: u64,
    /// Containers started, by themselves or not, since the start of the service.
    pub starts: u64,
    /// Containers that did not start.
    pub start_failures: u64,
    /// Ends of containers.
    pub exits: u64,
    /// Containers started again by themselves.
    pub restarts: u64,
    /// Processes of containers that the kernel killed for want of memory.
    pub ooms: u64,
}

#[derive(Debug, Default)]
struct Counters {
    starts: AtomicU64,
    start_failures: AtomicU64,
    exits: AtomicU64,
    restarts: AtomicU64,
    ooms: AtomicU64,
}

/// One container as it lives. Its lock is held for looks and decisions only, never while anything slow is done; that is what
/// [`Life::act`] is for.
#[derive(Debug, Default)]
struct Cell {
    life: Mutex<Life>,
    changed: Condvar,
}

impl Cell {
    fn lock(&self) -> MutexGuard<'_, Life> {
        // A life is changed by whole steps only.
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node's service, without the wire.
pub struct Host {
    exec: Vec<String>,
    node: Arc<Node<Linux>>,
    runtime: Runtime,
    records: Records,
    cells: Mutex<BTreeMap<ObjectId, Arc<Cell>>>,
    remaking: Mutex<()>,
    watch: Arc<Watch>,
    counters: Counters,
    over: Arc<AtomicBool>,
    /// Held while this service lives, so that no second one works in the same directories.
    _locks: [File; 2],
}

impl Host {
    /// Opens the journal, adopts what runs, undoes what was never answered, and begins to watch.
    ///
    /// # Errors
    /// `ResourceBusy` when another service uses one of the directories; else when the directories, the journal or the kernel's lists cannot
    /// be used.
    pub fn open(config: HostConfig) -> io::Result<Arc<Self>> {
        let failed = |error: DriverError| io::Error::other(error.to_string());
        // Before anything else is looked at or changed.
        let locks = [directory_take(&config.run_dir)?, directory_take(&config.state_dir)?];
        let linux = Linux::open(&config.run_dir, &config.state_dir).map_err(failed)?;
        // Drivers that wait for a server give up before their call is given up.
        let patience = config.node_config.deadline.mul_f32(0.8);
        let linux = linux.with_export(config.export.clone()).with_patience(patience);
        // Links in these are followed once, so that what is told to others names the same place for ever.
        let config = HostConfig {
            run_dir: config.run_dir.canonicalize()?,
            state_dir: config.state_dir.canonicalize()?,
            ..config
        };
        let (run, state) = (&config.run_dir, &config.state_dir);
        let node = Node::open(linux, config.node_config.clone(), run, state, &config.boot_id)?;
        let runtime = Runtime::new(RuntimeConfig {
            run_dir: run.clone(),
            shim: config.shim.clone(),
            node: config.node.clone(),
            log_max: config.log_max,
        });
        let records = Records::open(state)?;
        let host = Arc::new(Self {
            exec: config.exec.clone(),
            node,
            runtime,
            records,
            cells: Mutex::default(),
            remaking: Mutex::default(),
            watch: Arc::new(Watch::new()?),
            counters: Counters::default(),
            over: Arc::default(),
            _locks: locks,
        });
        host.adopt()?;
        host.threads_begin()?;
        Ok(host)
    }

    /// The two threads that stay: one for what ends and what is due, one for removals that are tried again.
    fn threads_begin(self: &Arc<Self>) -> io::Result<()> {
        let (host, watch) = (Arc::downgrade(self), self.watch.clone());
        std::thread::Builder::new().name("slipway-watch".into()).spawn(move || {
            let mut shims = Vec::new();
            while let Some(heard) = watch.wait(&mut shims) {
                let Some(host) = Weak::upgrade(&host) else { return };
                heard.into_iter().for_each(|heard| host.heard(heard));
            }
        })?;
        let (node, over) = (self.node.clone(), self.over.clone());
        std::thread::Builder::new().name("slipway-reconcile".into()).spawn(move || {
            while !over.load(Ordering::Acquire) {
                node.reconcile_wait(HEALTH_LOOK, &over);
                node.reconcile();
            }
        })?;
        Ok(())
    }

    /// Looks at the table.
    pub fn read<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        self.node.read(look)
    }

    /// What happens on this node.
    pub fn events(&self) -> Arc<Events> {
        self.node.events().clone()
    }

    /// Every attachment, by number.
    pub fn attaches(&self) -> Vec<Attach> {
        self.node.read(|table| table.iter().filter_map(|entry| attach_view(table, entry)).collect())
    }

    /// One attachment.
    ///
    /// # Errors
    /// 404.
    pub fn attach(&self, id: ObjectId) -> Result<Attach, Refusal> {
        let found = self.node.read(|table| table.get(id).and_then(|entry| attach_view(table, entry)));
        found.ok_or_else(|| Refusal::not_found("attach", id))
    }

    /// Makes an attachment with all that it stands on, or nothing.
    ///
    /// # Errors
    /// What the rules or the kernel refused.
    pub fn attach_create(&self, attach: Attach) -> Result<Attach, Refusal> {
        let id = self.node.create(Draft::attach(attach)?, now_ms())?;
        self.attach(id)
    }

    /// Removes an attachment, and gives it as it was.
    ///
    /// # Errors
    /// 404, 409 with who holds it.
    pub fn attach_delete(&self, id: ObjectId, force: bool) -> Result<Attach, Refusal> {
        let was = self.attach(id)?;
        self.node.delete(id, Type::Attach, force)?;
        Ok(was)
    }

    /// Every mount, by number.
    pub fn mounts(&self) -> Vec<Mount> {
        self.node.read(|table| table.iter().filter_map(|entry| mount_view(table, entry)).collect())
    }

    /// One mount.
    ///
    /// # Errors
    /// 404.
    pub fn mount(&self, id: ObjectId) -> Result<Mount, Refusal> {
        let found = self.node.read(|table| table.get(id).and_then(|entry| mount_view(table, entry)));
        found.ok_or_else(|| Refusal::not_found("mount", id))
    }

    /// Makes a mount with all that it stands on, or nothing.
    ///
    /// # Errors
    /// What the rules or the kernel refused.
    pub fn mount_create(&self, mount: Mount) -> Result<Mount, Refusal> {
        let id = self.node.create(Draft::mount(mount)?, now_ms())?;
        self.mount(id)
    }

    /// Removes a mount, and gives it as it was.
    ///
    /// # Errors
    /// 404, 409 with who holds it.
    pub fn mount_delete(&self, id: ObjectId, force: bool) -> Result<Mount, Refusal> {
        let was = self.mount(id)?;
        self.node.delete(id, Type::Mount, force)?;
        Ok(was)
    }

    /// Every container, by number.
    pub fn containers(&self) -> Vec<Container> {
        let views: Vec<Container> =
            self.node.read(|table| table.iter().filter_map(|entry| container_view(table, entry)).collect());
        views.into_iter().filter_map(|view| self.lived(view)).collect()
    }

    /// One container.
    ///
    /// # Errors
    /// 404.
    pub fn container(&self, which: &Which) -> Result<Container, Refusal> {
        let missing = || match which {
            Which::Id(id) => Refusal::not_found("container", id),
            Which::Name(name) => Refusal::not_found("container", name.escape_debug()),
        };
        let view = self.node.read(|table| {
            let entry = match which {
                Which::Id(id) => table.get(*id),
                Which::Name(name) => table.named(name),
            };
            entry.and_then(|entry| container_view(table, entry))
        });
        view.and_then(|view| self.lived(view)).ok_or_else(missing)
    }

    /// A view with what only a life knows. None while its request has not come so far that it has one.
    fn lived(&self, mut view: Container) -> Option<Container> {
        let cell = self.cell(view.id)?;
        let life = cell.lock();
        view.state = life.state;
        view.pid = life.pid;
        view.ready = life.ready;
        view.exit.clone_from(&life.kept.exit);
        view.restarts = life.kept.restarts;
        view.ooms = life.kept.ooms;
        view.started_at_ms = life.kept.started_at_ms;
        view.error.clone_from(&life.kept.error);
        if life.act == Some(Act::Overdue) {
            view.health = Health::Pending;
        }
        view.logfile = self.runtime.files(view.id).log().display().to_string();
        Some(view)
    }

    fn cells(&self) -> MutexGuard<'_, BTreeMap<ObjectId, Arc<Cell>>> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cell(&self, id: ObjectId) -> Option<Arc<Cell>> {
        self.cells().get(&id).cloned()
    }

    /// How much of everything there is now.
    pub fn counts(&self) -> Counts {
        let mut objects = BTreeMap::new();
        let mut add = |kind: &'static str, of: &'static str, state: String| {
            *objects.entry((kind, of, state)).or_insert(0) += 1;
        };
        let health = |health: slipway_api::node::Health| format!("{health:?}").to_lowercase();
        for attach in self.attaches() {
            add("attach", attach.kind.map_or("", |kind| kind.as_str()), health(attach.health));
        }
        for mount in self.mounts() {
            add("mount", mount.kind.map_or("", |kind| kind.as_str()), health(mount.health));
        }
        for container in self.containers() {
            add("container", "", container.state.as_str().to_owned());
        }
        let (calls, waiting, retries) = self.node.counts();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            objects,
            calls_pending: calls as u64,
            retries_waiting: waiting as u64,
            retries,
            starts: read(&self.counters.starts),
            start_failures: read(&self.counters.start_failures),
            exits: read(&self.counters.exits),
            restarts: read(&self.counters.restarts),
            ooms: read(&self.counters.ooms),
        }
    }

    fn tell(&self, id: ObjectId, what: &str, detail: serde_json::Value) {
        let name = self
            .node
            .read(|table| table.get(id).and_then(|entry| crate::table::name_of(&entry.what).map(str::to_owned)));
        self.node.events().tell(now_ms(), &format!("container.{what}"), id, name.as_deref(), detail);
    }

    /// A line in the container's own log, and for whoever watches the service.
    fn state_note(&self, id: ObjectId, state: ContainerState) {
        self.runtime.note(id, &format!("container state: {}", state.as_str()));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.watch.close();
        self.node.reconcile_wake();
        self.node.events().close();
    }
}

/// Takes a directory for this service, and makes it first if it is not there.
fn directory_take(dir: &Path) -> io::Result<File> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let open = |file: &mut OpenOptions| file.mode(0o600).open(dir.join(LOCK));
    let mut file = open(OpenOptions::new().read(true).write(true).create(true).truncate(false))?;
    if lock_wait(&file).is_err() {
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        let who = if pid.trim().is_empty() { "another service".to_owned() } else { format!("process {}", pid.trim()) };
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("{} is in use by {who}", dir.display())));
    }
    // For people and for the next service's message; the lock itself is the kernel's.
    file.rewind()?;
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// How long the lock of a service that died may outlive it: until a program that it was just starting has become one of its own.
const LOCK_LINGERS: Duration = Duration::from_secs(2);

/// Locks a file that one living service may hold.
fn lock_wait(file: &File) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        match rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Err(_) if begun.elapsed() < LOCK_LINGERS => std::thread::sleep(Duration::from_millis(20)),
            locked => return locked.map_err(io::Error::from),
        }
    }
}
