//! Exports of NBD servers as block devices. The kernel's client has the connections; we make them, and make them again when they die. Every
//! device has its object's mark as backend identifier, which the kernel shows and compares.

mod control;
mod negotiate;
mod server;
mod watch;
mod wire;

pub use negotiate::{NBD_REPLY_HEAD, nbd_info_reply, nbd_info_request};
pub(super) use server::Place;
pub use server::{NbdStream, Server};
pub(super) use watch::{Record, Watch};

use super::holders::device_holders;
use super::{io_error, system};
use crate::crash::crash_point;
use crate::export::{ExportSpec, TunnelSpec};
use crate::kernel::Found;
use crate::object::{Driver, Proof};
use crate::refusal::DriverError;
use negotiate::block_size;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use slipway_api::node::{AttachKind, AttachNbd, Holder, NbdTls, ObjectId};
use std::path::Path;
use std::time::Duration;
use wire::export_flag;

/// Seconds, unless the request says.
const DEAD_TIMEOUT: u64 = 30;
const DEAD_TIMEOUT_MAX: u64 = 24 * 60 * 60;
const CONNECTIONS_MAX: u64 = 16;
/// How often, and how long between, a device is tried again that somebody only looks at.
const LOOKS: usize = 50;
const LOOK: Duration = Duration::from_millis(10);

/// A device to be.
pub(super) struct Wanted {
    pub(super) id: ObjectId,
    pub(super) kind: AttachKind,
    pub(super) mark: String,
    pub(super) server: Server,
    pub(super) read_only: bool,
    pub(super) connections: u64,
    /// Seconds until a connection that gives no answer is taken for dead.
    pub(super) timeout: u64,
    /// Seconds that a request waits for a connection.
    pub(super) dead_timeout: u64,
    /// The bytes of a block, if they are known otherwise than from the server.
    pub(super) block_size: Option<u32>,
}

pub(super) fn make(watch: &Watch, id: ObjectId, mark: String, block: &AttachNbd) -> Result<Proof, DriverError> {
    let within = |field: &str, given: u64, absent: u64, most: u64| match given {
        0 => Ok(absent),
        given if given <= most => Ok(given),
        given => Err(DriverError::request("nbd", format!("nbd.{field} {given} is above {most}"))),
    };
    let dead_timeout = within("dead_timeout", block.dead_timeout, DEAD_TIMEOUT, DEAD_TIMEOUT_MAX)?;
    let mut wanted = Wanted {
        id,
        kind: AttachKind::Nbd,
        mark,
        server: Server::of(block)?,
        read_only: block.ro,
        connections: within("connections", block.connections, 1, CONNECTIONS_MAX)?,
        timeout: dead_timeout,
        dead_timeout,
        block_size: None,
    };
    let Some(tls) = &block.tls else { return attach(watch, wanted) };
    // The kernel speaks no TLS: a process of ours does, and the kernel has a socket of its.
    let spec = tunnel_spec(&wanted.server, tls)?;
    let exports = watch.exports();
    exports.begin(id, ExportSpec::Tunnel(spec))?;
    let (socket, server) = (exports.files(id).socket(), wanted.server.at.to_string());
    wanted.server.at = Place::Tunnel { socket, server };
    attach(watch, wanted).inspect_err(|_| {
        if let Err(error) = exports.stop(id) {
            tracing::warn!(id, %error, "clearing away a tunnel of an attachment that did not come about");
        }
    })
}

fn tunnel_spec(server: &Server, tls: &NbdTls) -> Result<TunnelSpec, DriverError> {
    let wrong = |text: &str| Err(DriverError::request("nbd", text));
    let name = match (tls.name.as_str(), &server.at) {
        ("", Place::Tcp { host, .. }) => host.as_str(),
        ("", _) => return wrong("nbd.tls.name must say the name in the server's certificate, since a socket has none"),
        (name, _) => name,
    };
    if tls.ca_ref.is_empty() {
        return wrong("nbd.tls.ca_ref must name the file with the CA of the server's certificate");
    }
    if tls.cert_ref.is_empty() != tls.key_ref.is_empty() {
        return wrong("nbd.tls.cert_ref and nbd.tls.key_ref go together");
    }
    let NbdTls { ca_ref, cert_ref, key_ref, .. } = tls.clone();
    Ok(TunnelSpec { nbd: server.clone(), ca_ref, cert_ref, key_ref, name: name.to_owned() })
}

/// Connects, and has the kernel make the device.
pub(super) fn attach(watch: &Watch, wanted: Wanted) -> Result<Proof, DriverError> {
    control::module_load()?;
    let (socket, export) = wanted.server.dial()?;
    let block = block_size(&export)?;
    let read_only = wanted.read_only || export.has(export_flag::READ_ONLY);
    let connections = if export.has(export_flag::CAN_MULTI_CONN) { wanted.connections } else { 1 };
    let mut sockets = vec![socket];
    for _ in 1..connections {
        let (socket, other) = wanted.server.dial()?;
        if other != export {
            return Err(DriverError::other("nbd_negotiate", "the export changed while it was being attached"));
        }
        sockets.push(socket);
    }
    let Wanted { id, kind, mark, server, timeout, dead_timeout, .. } = wanted;
    let record = Record { kind, mark, server, size: export.size, read_only, connections, dead_timeout };
    let flags = (export.flags & export_flag::OF_KERNEL) | if read_only { export_flag::READ_ONLY } else { 0 };
    let device = control::Device {
        size: export.size,
        block_size: wanted.block_size.unwrap_or(block),
        flags,
        timeout,
        dead_timeout,
        mark: &record.mark.clone(),
    };
    watch.record_write(id, &record)?;
    crash_point("nbd.record.after");
    let made = connect(watch, id, &device, &sockets, record, export.block_max);
    made.inspect_err(|_| watch.record_remove(id))
}

fn connect(
    watch: &Watch,
    id: ObjectId,
    device: &control::Device<'_>,
    sockets: &[OwnedFd],
    record: Record,
    block_max: Option<u32>,
) -> Result<Proof, DriverError> {
    let making = watch.making()?;
    crash_point("nbd.connect.before");
    let index = control::connect(device, sockets)?;
    crash_point("nbd.connect.after");
    watch.add(id, index, record);
    drop(making);
    begin(index, block_max).inspect_err(|_| {
        watch.forget(id);
        if let Err(error) = control::disconnect(index) {
            tracing::warn!(id, %error, "clearing away an NBD device that did not come about");
        }
    })?;
    let mut proof = proof(index);
    proof.detail.insert("size".to_owned(), device.size.into());
    Ok(proof)
}

/// The first opening has the kernel look for partitions, which is better done while the server is surely there.
fn begin(index: u32, block_max: Option<u32>) -> Result<(), DriverError> {
    let path = control::device_path(index);
    if let Some(most) = block_max {
        requests_bound(index, most)?;
    }
    let opened = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    opened.map(drop).map_err(|errno| system("open", &path, errno))
}

/// Lets the kernel send no request that is larger than the server takes.
fn requests_bound(index: u32, most: u32) -> Result<(), DriverError> {
    let path = control::sysfs(index).join("queue/max_sectors_kb");
    let now = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u32>().ok());
    match now {
        Some(now) if most / 1024 < now => {
            let most = (most / 1024).max(4).to_string();
            std::fs::write(&path, most).map_err(|error| io_error("write", &path, &error))
        }
        _ => Ok(()),
    }
}

fn proof(index: u32) -> Proof {
    Proof { device: control::device_path(index).display().to_string(), ..Proof::default() }
}

/// Removes the device of a mark, and nothing while somebody uses it; then the process that it needed, if there is one.
pub(super) fn undo(watch: &Watch, id: ObjectId, mark: &str) -> Result<(), DriverError> {
    device_undo(watch, id, mark)?;
    watch.exports().stop(id)
}

fn device_undo(watch: &Watch, id: ObjectId, mark: &str) -> Result<(), DriverError> {
    // What only looks at a device, such as udev or another request of ours, is gone in a moment.
    for _ in 0..LOOKS {
        match clear(watch, id, mark) {
            Err(error) if error.is_busy() && error.holders.is_empty() => std::thread::sleep(LOOK),
            done => return done,
        }
    }
    clear(watch, id, mark)
}

fn clear(watch: &Watch, id: ObjectId, mark: &str) -> Result<(), DriverError> {
    let found = control::marked()?.into_iter().find(|(_, found)| found == mark);
    let Some((index, _)) = found else {
        watch.forget(id);
        watch.record_remove(id);
        return Ok(());
    };
    let path = control::device_path(index);
    let busy = || system("nbd_disconnect", &path, Errno::BUSY).held_by(users(index));
    // Who has it mounted, or another device on it, or a partition of it in use, refuses us here; and none of them comes while we hold it.
    let exclusive = rustix::fs::open(&path, OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC, Mode::empty());
    let device = exclusive.map_err(|errno| match errno {
        Errno::BUSY => busy(),
        errno => system("open", &path, errno),
    })?;
    // Open as it is, the kernel gives its number to no other.
    if control::mark_of(index).as_deref() != Some(mark) {
        return Ok(());
    }
    if !users(index).is_empty() {
        return Err(busy());
    }
    let read_only = super::syscall::is_read_only(&device).unwrap_or(true);
    if !read_only && let Err(errno) = rustix::fs::fsync(&device) {
        tracing::warn!(id, %errno, device = %path.display(), "the server did not take the last writes");
    }
    crash_point("nbd.disconnect.before");
    control::disconnect(index)?;
    crash_point("nbd.disconnect.after");
    watch.forget(id);
    drop(device);
    // It is free when the last of its requests has ended.
    for _ in 0..LOOKS * 10 {
        if control::mark_of(index).as_deref() != Some(mark) {
            watch.record_remove(id);
            crash_point("nbd.forget.after");
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
    Err(busy())
}

/// Who uses a device or a partition of it; not this service, which only looks.
fn users(index: u32) -> Vec<Holder> {
    let name = format!("nbd{index}");
    let entries = std::fs::read_dir(control::sysfs(index)).into_iter().flatten().flatten();
    let parts = entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|part| part.starts_with(&name));
    let devices = parts.chain([name.clone()]).map(|name| Path::new("/dev").join(name));
    let mut users: Vec<Holder> = devices.flat_map(|device| device_holders(&device)).collect();
    users.retain(|user| !matches!(user, Holder::Process { pid, .. } if *pid == std::process::id()));
    users
}

/// The devices that carry our mark; each is kept connected from here on. What an earlier service left without a device goes.
pub(super) fn found(watch: &Watch, mark: &str) -> Result<Vec<Found>, DriverError> {
    let mut found = Vec::new();
    for (index, text) in control::marked()? {
        let named = text.strip_prefix(mark).and_then(|rest| rest.split_once('-'));
        let Some((kind, Ok(id))) = named.map(|(kind, id)| (kind, id.parse::<ObjectId>())) else { continue };
        let kinds = [AttachKind::Nbd, AttachKind::Slipway];
        let Some(kind) = kinds.into_iter().find(|known| known.as_str() == kind) else { continue };
        watch.adopt(id, index);
        found.push(Found { id, driver: Driver::Attach(kind), proof: proof(index) });
    }
    let known = |id: &ObjectId| found.iter().any(|found| found.id == *id);
    for id in watch.recorded().into_iter().filter(|id| !known(id)) {
        watch.record_remove(id);
    }
    for id in watch.exports().ids().into_iter().filter(|id| !known(id)) {
        watch.exports().stop(id)?;
    }
    Ok(found)
}

/// What a device of this kind and number is found by.
pub(super) fn mark(prefix: &str, kind: AttachKind, id: ObjectId) -> String {
    format!("{prefix}{}-{id}", kind.as_str())
}
