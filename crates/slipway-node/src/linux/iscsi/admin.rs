//! open-iscsi: its daemon, which keeps sessions alive, and `iscsiadm`, which asks it for them.
//!
//! `iscsiadm` reads records from folders that are compiled into it. Each call of ours has its own ones: an empty file system in memory, mounted
//! over those folders where only the thread that calls sees it. So a password lies in no file of the node and on no command line, records of
//! the node's administrator are neither used nor changed, and nothing is left when the thread ends.

use super::record::{LOGIN_TIMEOUT, Wanted, record_edit};
use super::session::Session;
use crate::linux::{folder_make, io_error, program, syscall, system};
use crate::refusal::DriverError;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use std::fs;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PACKAGE: &str = "open-iscsi";
/// Where builds of open-iscsi keep their records: that of its authors and Debian's, that of Red Hat's and SUSE's.
const RECORDS: [&str; 2] = ["/etc/iscsi", "/var/lib/iscsi"];
/// The daemon's socket.
const SOCKET: &[u8] = b"ISCSIADM_ABSTRACT_NAMESPACE";
/// How long the daemon may take to be ready.
const DAEMON_WAIT: Duration = Duration::from_secs(10);
/// A record of more bytes is none.
const RECORD_MAX: u64 = 64 << 10;

/// Exit codes of `iscsiadm` (iscsi_err.h) that have a reason for whoever asked.
mod code {
    pub(super) const LOGIN_TIMED_OUT: [i32; 2] = [8, 11];
    pub(super) const FATAL_LOGIN: i32 = 19;
    pub(super) const NO_OBJECTS: i32 = 21;
    pub(super) const AUTHENTICATION: i32 = 24;
}

/// Whether a daemon listens.
fn daemon_runs() -> bool {
    let address = std::os::unix::net::SocketAddr::from_abstract_name(SOCKET);
    address.and_then(|address| UnixStream::connect_addr(&address)).is_ok()
}

/// Makes sure that the kernel has iSCSI and that a daemon runs: the node's own, or one that is started here and stays.
pub(super) fn daemon_need(until: Instant) -> Result<(), DriverError> {
    program::module_need("iscsi_tcp", Path::new("/sys/class/iscsi_transport/tcp"), until)?;
    if daemon_runs() {
        return Ok(());
    }
    let iscsid = program::find("iscsid", PACKAGE)?;
    let mut args = Vec::new();
    // It complains about a missing file, and takes an empty one.
    for (option, file) in [("-c", "/etc/iscsi/iscsid.conf"), ("-i", "/etc/iscsi/initiatorname.iscsi")] {
        if !Path::new(file).exists() {
            args.extend([option, "/dev/null"]);
        }
    }
    // It goes to the background by itself, in a session of its own, so that it outlives this service as sessions do.
    let said = program::run(&iscsid, &args, until)?;
    let ready = Instant::now() + DAEMON_WAIT;
    while !daemon_runs() {
        if said.code != 0 || Instant::now() >= ready.min(until) {
            return Err(DriverError::other("iscsid", format!("the daemon iscsid did not start: {}", said.line())));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    tracing::info!("started iscsid, since none was running");
    Ok(())
}

/// Opens a session through an interface of ours.
pub(super) fn login(iface: &str, wanted: &Wanted, portal: SocketAddr, until: Instant) -> Result<(), DriverError> {
    let portal = portal.to_string();
    let node = ["-m", "node", "-T", &wanted.target, "-p", &portal, "-I", iface];
    with_records(|records| {
        records.iface_make(iface, &wanted.initiator, until)?;
        records.iscsiadm("record", &[&node[..], &["-o", "new"]].concat(), until)?;
        let record = records.node_record()?;
        let text = fs::read_to_string(&record).map_err(|error| io_error("record", &record, &error))?;
        // Only this thread and its children see the file, and it is in memory.
        fs::write(&record, record_edit(&text, &wanted.settings()))
            .map_err(|error| io_error("record", &record, &error))?;
        let said = program::run(&records.iscsiadm, &[&node[..], &["--login"]].concat(), until)?;
        match said.code {
            0 => Ok(()),
            code::AUTHENTICATION => {
                let text = format!(
                    "the target {} at {portal} refused the login (CHAP); check username and password, and the target's access list for {}",
                    wanted.target, wanted.initiator
                );
                Err(DriverError::other("login", text))
            }
            code::FATAL_LOGIN => {
                let text = format!(
                    "{portal} refused the login to {}: {}; check the target's name and its access list for {}",
                    wanted.target,
                    said.line(),
                    wanted.initiator
                );
                Err(DriverError::other("login", text))
            }
            code if code::LOGIN_TIMED_OUT.contains(&code) => {
                let text = format!(
                    "{portal} did not accept a login to {} within {LOGIN_TIMEOUT} s; check that it has this target and that the target is enabled",
                    wanted.target
                );
                Err(DriverError::timed_out("login", text))
            }
            _ => Err(DriverError::other("login", said.line())),
        }
    })
}

/// Closes a session.
pub(super) fn logout(session: &Session, until: Instant) -> Result<(), DriverError> {
    let sid = session.sid.to_string();
    let initiator = session.value("initiatorname").unwrap_or_default();
    let said = with_records(|records| {
        records.iface_make(&session.iface, &initiator, until)?;
        program::run(&records.iscsiadm, &["-m", "session", "-r", &sid, "--logout"], until)
    })?;
    match said.code {
        0 | code::NO_OBJECTS if session.gone_wait() => Ok(()),
        _ => Err(DriverError::other("logout", format!("session {sid}: {}", said.line()))),
    }
}

/// Records that only one thread and its children see.
struct Records {
    iscsiadm: PathBuf,
    folders: Vec<&'static Path>,
}

/// Runs `work` on a thread with empty records.
fn with_records<T: Send>(work: impl FnOnce(&Records) -> Result<T, DriverError> + Send) -> Result<T, DriverError> {
    let records = Records::new()?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            records.mount()?;
            work(&records)
        });
        thread.join().unwrap_or_else(|_| Err(DriverError::other("iscsiadm", "the thread ended in a panic")))
    })
}

impl Records {
    fn new() -> Result<Self, DriverError> {
        let iscsiadm = program::find("iscsiadm", PACKAGE)?;
        let folders: Vec<_> = RECORDS.iter().map(Path::new).filter(|folder| folder.is_dir()).collect();
        if folders.is_empty() {
            let text = format!("neither {} is there; install the package {PACKAGE}", RECORDS.join(" nor "));
            return Err(DriverError::other("iscsiadm", text));
        }
        // Its lock, which others who call it share.
        folder_make(Path::new("/run/lock"))?;
        Ok(Self { iscsiadm, folders })
    }

    /// In the calling thread and its children only.
    fn mount(&self) -> Result<(), DriverError> {
        let top = Path::new("/");
        syscall::mounts_unshare().map_err(|errno| system("unshare", top, errno))?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change(top, private).map_err(|errno| system("mount", top, errno))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        for folder in &self.folders {
            mount("slipway", *folder, "tmpfs", flags, c"mode=0700,size=1m")
                .map_err(|errno| system("mount", folder, errno))?;
        }
        Ok(())
    }

    fn iscsiadm(&self, step: &str, args: &[&str], until: Instant) -> Result<(), DriverError> {
        let said = program::run(&self.iscsiadm, args, until)?;
        match said.code {
            0 => Ok(()),
            _ => Err(DriverError::other(step, format!("iscsiadm {}: {}", args.join(" "), said.line()))),
        }
    }

    fn iface_make(&self, iface: &str, initiator: &str, until: Instant) -> Result<(), DriverError> {
        self.iscsiadm("iface", &["-m", "iface", "-I", iface, "-o", "new"], until)?;
        let update = ["-m", "iface", "-I", iface, "-o", "update", "-n", "iface.initiatorname", "-v", initiator];
        self.iscsiadm("iface", &update, until)
    }

    /// The only record of a node: a file at one of several depths, by version.
    fn node_record(&self) -> Result<PathBuf, DriverError> {
        let mut places: Vec<PathBuf> = self.folders.iter().map(|folder| folder.join("nodes")).collect();
        while let Some(place) = places.pop() {
            if place.is_dir() {
                places.extend(fs::read_dir(&place).into_iter().flatten().flatten().map(|entry| entry.path()));
            } else if fs::metadata(&place).is_ok_and(|facts| facts.len() <= RECORD_MAX) {
                return Ok(place);
            }
        }
        let text = "iscsiadm made a record, but not in a folder that is known here; is its version newer than 2.1?";
        Err(DriverError::other("record", text))
    }
}
