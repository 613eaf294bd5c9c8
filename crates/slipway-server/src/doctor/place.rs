//! Who has the folder, whether the address is free, and what the clock says.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::Probe;
use crate::config::ServeOptions;
use crate::db::DbUrl;

/// Who has a SQLite database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    /// Nobody.
    Free,
    /// A server, by its own words.
    Held(String),
}

/// Looks without keeping: the lock is shared and given back at once, and a server that starts in this very moment waits for it.
/// `None` for PostgreSQL, which has no such lock.
pub(super) fn lock_look(url: &DbUrl) -> Option<Lock> {
    let DbUrl::Sqlite(path) = url else { return None };
    let Ok(mut file) = std::fs::File::open(path.with_extension("lock")) else { return Some(Lock::Free) };
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return Some(Lock::Free);
    }
    let mut holder = String::new();
    let _ = file.by_ref().take(200).read_to_string(&mut holder);
    let holder = holder.trim();
    Some(Lock::Held(if holder.is_empty() { "another process".to_owned() } else { holder.to_owned() }))
}

pub(super) async fn place_examine(options: &ServeOptions, lock: Option<&Lock>) -> Vec<Probe> {
    let mut report = Vec::new();
    if let Some(lock) = lock {
        report.push(Probe::ok(
            "lock",
            match lock {
                Lock::Free => "no server has this data folder".to_owned(),
                Lock::Held(holder) => format!("a server has this data folder: {holder}"),
            },
        ));
    }
    report.push(port(options.listen, lock).await);
    if jiff::Timestamp::now().as_second() < BUILT_AFTER {
        report.push(Probe::fail(
            "clock",
            format!("this machine's clock says {}, which is before this program was made", jiff::Timestamp::now()),
            "'timedatectl set-ntp true', or 'date -s'; tokens and certificates depend on it",
        ));
    }
    report
}

/// The beginning of 2026.
const BUILT_AFTER: i64 = 1_767_225_600;

/// Where a server that listens everywhere can be reached from here.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

async fn port(listen: SocketAddr, lock: Option<&Lock>) -> Probe {
    if listen.port() == 0 {
        return Probe::ok("port", format!("{listen}: the system chooses a free port at each start"));
    }
    let who = format!("'ss -ltnp sport = :{}' shows who listens there", listen.port());
    if let Some(Lock::Held(holder)) = lock {
        let connecting = tokio::net::TcpStream::connect(reachable(listen));
        return match tokio::time::timeout(Duration::from_secs(3), connecting).await {
            Ok(Ok(_)) => Probe::ok("port", format!("something answers at {listen}, as the server should")),
            Ok(Err(_)) | Err(_) => Probe::warn(
                "port",
                format!("{holder} has the data folder, but nothing answers at {listen}"),
                "it may listen elsewhere by its own options, or be stuck: look at its log and at 'ss -ltnp'",
            ),
        };
    }
    let Err(why) = std::net::TcpListener::bind(listen) else {
        return Probe::ok("port", format!("{listen} is free"));
    };
    match why.kind() {
        std::io::ErrorKind::AddrInUse if lock.is_none() => {
            Probe::ok("port", format!("something listens at {listen}; with PostgreSQL that may be this server"))
        }
        std::io::ErrorKind::AddrInUse => Probe::fail(
            "port",
            format!("{listen} is in use by another program, so no server can start here"),
            format!("{who}; end it, or choose another port with --listen"),
        ),
        std::io::ErrorKind::PermissionDenied => Probe::fail(
            "port",
            format!("you may not listen at {listen}: ports below 1024 are for root"),
            "choose a port from 1024 on with --listen, or give the right with 'setcap cap_net_bind_service=+ep $(which slipway)'",
        ),
        std::io::ErrorKind::AddrNotAvailable => Probe::fail(
            "port",
            format!("{} is no address of this machine", listen.ip()),
            "'ip -brief address' lists them; 0.0.0.0 means all of them",
        ),
        _ => Probe::fail("port", format!("listening at {listen}: {}", why), who),
    }
}
