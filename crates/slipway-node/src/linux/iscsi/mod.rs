//! Units of iSCSI targets, by open-iscsi.
//!
//! A session carries our mark in the name of its interface; attachments of several units of one target share one. A unit has no place for
//! a mark, so each attachment is a link in the run directory, named by its number, that says which unit of which session it is. It is
//! there before the session and goes after it.

mod admin;
mod record;
mod session;

use super::holders::disk_holders;
use super::{address, folder_make, io_error, syscall, sysfs_write, system};
use crate::crash::crash_point;
use crate::kernel::Found;
use crate::object::{Driver, Proof};
use crate::refusal::{DriverError, object_holder};
use record::Wanted;
use rustix::fs::OFlags;
use rustix::io::Errno;
use session::{Session, sessions};
use slipway_api::node::{AttachIscsi, AttachKind, Holder, ObjectId, StepError};
use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an address may take to accept a connection.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// How often, and how long between, a disk is looked at again that somebody only looks at.
const LOOKS: usize = 50;
const LOOK: Duration = Duration::from_millis(10);
/// How often sessions are looked after.
const WATCH: Duration = Duration::from_secs(5);

/// The iSCSI attachments of one node.
#[derive(Clone, Debug)]
pub(super) struct Iscsi {
    /// Links of attachments.
    dir: PathBuf,
    /// Begins the names of our interfaces.
    tag: String,
    /// One for each session: what is asked of one of them comes one after the other, and waits for no other.
    locks: Arc<Mutex<BTreeMap<String, Arc<Mutex<()>>>>>,
    /// Whether a thread looks after the sessions.
    watched: Arc<AtomicBool>,
}

/// What an attachment is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    iface: String,
    lun: u64,
    read_only: bool,
    dead_timeout: u64,
}

impl Link {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (iface, lun, mode) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?, parts.next()?);
        Some(Self { iface, lun, read_only: mode == "ro", dead_timeout: parts.next()?.parse().ok()? })
    }

    fn read(path: &Path) -> Option<Self> {
        Self::parse(fs::read_link(path).ok()?.to_str()?)
    }

    fn text(&self) -> String {
        let mode = if self.read_only { "ro" } else { "rw" };
        format!("{}/{}/{mode}/{}", self.iface, self.lun, self.dead_timeout)
    }
}

impl Iscsi {
    pub(super) fn new(run_dir: &Path, tag: &str) -> Result<Self, DriverError> {
        let dir = run_dir.join("iscsi");
        folder_make(&dir)?;
        Ok(Self { dir, tag: tag.to_owned(), locks: Arc::default(), watched: Arc::default() })
    }

    pub(super) fn make(&self, id: ObjectId, block: &AttachIscsi, until: Instant) -> Result<Proof, DriverError> {
        let wanted = Wanted::new(block)?;
        let portals = address::resolve("iscsi.host", &wanted.host, wanted.port)?;
        let link = Link {
            iface: format!("{}{:016x}", self.tag, wanted.session_key()),
            lun: wanted.lun,
            read_only: wanted.read_only,
            dead_timeout: wanted.dead_timeout,
        };
        let lock = self.lock(&link.iface);
        let _turn = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let others = self.others(id, &link.iface)?;
        let writes = |other: &Link| !other.read_only || !link.read_only;
        if let Some((other, _)) = others.iter().find(|(_, other)| other.lun == link.lun && writes(other)) {
            let text = format!(
                "unit {} of {} is attached already, and one of both may write; refer to it by its id, or make both read-only",
                wanted.lun, wanted.target
            );
            return Err(DriverError::busy("attach", text).held_by(vec![object_holder("attach", *other)]));
        }
        let path = self.dir.join(id.to_string());
        std::os::unix::fs::symlink(link.text(), &path).map_err(|error| io_error("symlink", &path, &error))?;
        crash_point("iscsi.link.after");
        self.unit_make(&wanted, &link, &portals, &others, until).inspect_err(|_| {
            if let Err(error) = self.unit_undo(id, &link, Instant::now() + CONNECT_WAIT) {
                tracing::warn!(id, %error, "taking back an attachment that was not made");
            }
        })
    }

    fn unit_make(
        &self,
        wanted: &Wanted,
        link: &Link,
        portals: &[SocketAddr],
        others: &[(ObjectId, Link)],
        until: Instant,
    ) -> Result<Proof, DriverError> {
        let session = self.session_need(wanted, link, portals, !others.is_empty(), until)?;
        let is_shared = others.iter().any(|(_, other)| other.lun == link.lun);
        // A unit from before may be of another disk by now: the kernel keeps what it once learnt of a number.
        if !is_shared {
            session.remove(link.lun)?;
        }
        let disk = session.scan(link.lun, until)?;
        crash_point("iscsi.scan.after");
        if !is_shared {
            disk_set(&session, wanted, &disk)?;
        }
        Ok(proof(&session, link.lun, &disk))
    }

    /// The session of a link: the one that others of ours use, or a new one.
    fn session_need(
        &self,
        wanted: &Wanted,
        link: &Link,
        portals: &[SocketAddr],
        is_used: bool,
        until: Instant,
    ) -> Result<Session, DriverError> {
        admin::daemon_need(until)?;
        match self.session(&link.iface)? {
            Some(session) if is_used => {
                let shown = |name: &str| session.value(name).unwrap_or_default();
                let (own, theirs) = wanted.passwords();
                if own != shown("password") || theirs != shown("password_in") {
                    let text = format!(
                        "the session with {} that other attachments use was opened with another password; correct it, or delete them first",
                        wanted.target
                    );
                    return Err(DriverError::other("login", text));
                }
                if session.up_wait(until) {
                    return Ok(session);
                }
                let text = format!("the connection with {} is lost; iscsid tries to bring it back", wanted.target);
                return Err(DriverError::timed_out("login", text));
            }
            // Left by a run that ended half-way: whoever asks now must prove himself anew.
            Some(session) => admin::logout(&session, until)?,
            None => {}
        }
        admin::login(&link.iface, wanted, reachable(portals, until)?, until)?;
        crash_point("iscsi.login.after");
        self.watch();
        let gone = || DriverError::other("login", format!("the session with {} was lost at once", wanted.target));
        self.session(&link.iface)?.ok_or_else(gone)
    }

    /// Removes an attachment, of which perhaps only a part was made.
    pub(super) fn undo(&self, id: ObjectId, until: Instant) -> Result<(), DriverError> {
        let Some(link) = self.link(id) else { return Ok(()) };
        let lock = self.lock(&link.iface);
        let _turn = lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.unit_undo(id, &link, until)
    }

    fn unit_undo(&self, id: ObjectId, link: &Link, until: Instant) -> Result<(), DriverError> {
        let others = self.others(id, &link.iface)?;
        if let Some(session) = self.session(&link.iface)? {
            if others.iter().all(|(_, other)| other.lun != link.lun) {
                if let Some(disk) = session.disk(link.lun) {
                    unused_need(&Path::new("/dev").join(disk))?;
                }
                // Without a connection the removal would wait for one; the end of the session takes the unit along at once.
                if session.is_up() || !others.is_empty() {
                    crash_point("iscsi.remove.before");
                    session.remove(link.lun)?;
                    crash_point("iscsi.remove.after");
                }
            }
            if others.is_empty() {
                admin::daemon_need(until)?;
                admin::logout(&session, until)?;
                crash_point("iscsi.logout.after");
            }
        }
        let path = self.dir.join(id.to_string());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("unlink", &path, &error)),
            Ok(()) | Err(_) => {
                crash_point("iscsi.unlink.after");
                Ok(())
            }
        }
    }

    /// What is attached.
    pub(super) fn found(&self) -> Result<Vec<Found>, DriverError> {
        let sessions = sessions(&self.tag)?;
        if !sessions.is_empty() {
            self.watch();
        }
        let found = links(&self.dir)?.into_iter().filter_map(|(id, link)| {
            let session = sessions.iter().find(|session| session.iface == link.iface)?;
            let disk = session.disk(link.lun)?;
            Some(Found { id, driver: Driver::Attach(AttachKind::Iscsi), proof: proof(session, link.lun, &disk) })
        });
        Ok(found.collect())
    }

    /// Attachments whose connection is lost, and not given up.
    pub(super) fn troubles(&self) -> BTreeMap<ObjectId, StepError> {
        // What cannot be read now is seen by the next look.
        let lost: Vec<Session> = sessions(&self.tag).into_iter().flatten().filter(|session| !session.is_up()).collect();
        if lost.is_empty() {
            return BTreeMap::new();
        }
        let troubles = links(&self.dir).into_iter().flatten().filter_map(|(id, link)| {
            let session = lost.iter().find(|session| session.iface == link.iface)?;
            let target = session.value("targetname").unwrap_or_default();
            let text = format!("the connection with {target} is lost; iscsid tries to bring it back");
            Some((id, StepError { step: "session".into(), errno: None, text }))
        });
        troubles.collect()
    }

    fn lock(&self, iface: &str) -> Arc<Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody waits for are of no use any more.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(iface.to_owned()).or_default().clone()
    }

    fn session(&self, iface: &str) -> Result<Option<Session>, DriverError> {
        Ok(sessions(iface)?.into_iter().find(|session| session.iface == iface))
    }

    fn link(&self, id: ObjectId) -> Option<Link> {
        Link::read(&self.dir.join(id.to_string()))
    }

    /// Has a thread look after the sessions, as long as this value lives.
    fn watch(&self) {
        if self.watched.swap(true, Ordering::SeqCst) {
            return;
        }
        let (alive, dir, tag) = (Arc::downgrade(&self.watched), self.dir.clone(), self.tag.clone());
        std::thread::spawn(move || {
            while alive.upgrade().is_some() {
                if let Err(error) = sessions_tend(&dir, &tag) {
                    tracing::error!(%error, "looking after iSCSI sessions: a connection that is lost may not come back");
                }
                std::thread::sleep(WATCH);
            }
        });
    }

    /// Other attachments that use a session.
    fn others(&self, id: ObjectId, iface: &str) -> Result<Vec<(ObjectId, Link)>, DriverError> {
        let mut links = links(&self.dir)?;
        links.retain(|(other, link)| *other != id && link.iface == iface);
        Ok(links)
    }
}

fn links(dir: &Path) -> Result<Vec<(ObjectId, Link)>, DriverError> {
    let entries = fs::read_dir(dir).map_err(|error| io_error("readdir", dir, &error))?;
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(ids.filter_map(|id: ObjectId| Some((id, Link::read(&dir.join(id.to_string()))?))).collect())
}

/// Starts the daemon again if it is gone while there are sessions of ours, gives them back what a new one does not know, and ends those that
/// no attachment uses.
fn sessions_tend(dir: &Path, tag: &str) -> Result<(), DriverError> {
    let sessions = sessions(tag)?;
    if sessions.is_empty() {
        return Ok(());
    }
    admin::daemon_need(Instant::now() + WATCH)?;
    let links = links(dir)?;
    for session in &sessions {
        match links.iter().find(|(_, link)| link.iface == session.iface) {
            Some((_, link)) if session.is_up() => session.dead_timeout(link.dead_timeout)?,
            Some(_) => {}
            // A link is there before its session and goes after it, so nobody knows of this one: the run directory was emptied.
            None => {
                for disk in session.disks() {
                    unused_need(&Path::new("/dev").join(disk))?;
                }
                admin::logout(session, Instant::now() + CONNECT_WAIT)?;
                tracing::warn!(session = session.sid, "ended a session that no attachment uses");
            }
        }
    }
    Ok(())
}

fn proof(session: &Session, lun: u64, disk: &str) -> Proof {
    let mut proof = Proof { device: format!("/dev/{disk}"), ..Proof::default() };
    proof.detail.insert("session".into(), session.sid.into());
    proof.detail.insert("address".into(), session.address(lun).into());
    proof
}

/// The first address that accepts a connection, so that a server that is away is known by the network's own words, and soon.
fn reachable(portals: &[SocketAddr], until: Instant) -> Result<SocketAddr, DriverError> {
    let mut last = None;
    for portal in portals {
        let wait = CONNECT_WAIT.min(until.saturating_duration_since(Instant::now())).max(LOOK);
        match TcpStream::connect_timeout(portal, wait) {
            Ok(_) => return Ok(*portal),
            Err(error) => last = Some((portal, error)),
        }
    }
    let Some((portal, error)) = last else { return Err(DriverError::other("connect", "the host has no address")) };
    let hint = "check host and port, and that the target's server runs";
    let errno =
        if error.kind() == std::io::ErrorKind::TimedOut { Some(Errno::TIMEDOUT) } else { Errno::from_io_error(&error) };
    Err(match errno {
        Some(errno) => DriverError::system("connect", errno, format!("{portal} ({hint})")),
        None => DriverError::other("connect", format!("{portal}: {error}; {hint}")),
    })
}

/// Gives a disk its queue and its mode.
fn disk_set(session: &Session, wanted: &Wanted, disk: &str) -> Result<(), DriverError> {
    session.queue_depth(wanted.lun, wanted.queue_depth)?;
    let queue = Path::new("/sys/block").join(disk).join("queue");
    let scheduler = queue.join("scheduler");
    match &wanted.scheduler {
        Some(name) => sysfs_write("scheduler", &scheduler, name).map_err(|_| {
            let known = fs::read_to_string(&scheduler).unwrap_or_default().replace(['[', ']'], "");
            DriverError::request("scheduler", format!("iscsi.scheduler '{name}' is none of: {}", known.trim()))
        })?,
        // Nobody asked for it, and a kernel may have none.
        None => drop(sysfs_write("scheduler", &scheduler, "mq-deadline")),
    }
    sysfs_write("rotational", &queue.join("rotational"), "0")?;
    if wanted.read_only {
        let path = Path::new("/dev").join(disk);
        let device = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty())
            .map_err(|errno| system("open", &path, errno))?;
        syscall::device_read_only(&device).map_err(|errno| system("read_only", &path, errno))?;
    }
    Ok(())
}

/// Refuses if a disk, or a partition of it, is mounted or open. What only looks at it is gone in a moment.
fn unused_need(device: &Path) -> Result<(), DriverError> {
    let mut holders = Vec::new();
    for _ in 0..LOOKS {
        let exclusive = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::EXCL | OFlags::CLOEXEC;
        let opened = rustix::fs::open(device, exclusive, rustix::fs::Mode::empty());
        holders = disk_holders(device);
        let own = std::process::id();
        holders.retain(|holder| !matches!(holder, Holder::Process { pid, .. } if *pid == own));
        match opened {
            // A disk that its target has given up cannot be opened by anybody.
            Ok(_) | Err(Errno::NXIO | Errno::IO | Errno::NODEV | Errno::NOENT) if holders.is_empty() => return Ok(()),
            Ok(_) | Err(_) => std::thread::sleep(LOOK),
        }
    }
    Err(system("detach", device, Errno::BUSY).held_by(holders))
}

#[cfg(test)]
mod tests {
    use super::Link;

    #[test]
    fn links_are_read_as_they_were_written() {
        for link in [
            Link { iface: "slipway-0a-1".into(), lun: 3, read_only: true, dead_timeout: 30 },
            Link { iface: "x".into(), lun: 0, read_only: false, dead_timeout: 1 },
        ] {
            assert_eq!(Link::parse(&link.text()), Some(link));
        }
        assert_eq!(Link::parse("x/y/rw/1"), None);
        assert_eq!(Link::parse("x"), None);
    }
}
