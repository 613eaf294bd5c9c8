//! Where the service is heard: a unix socket, and TCP where somebody asked for it.

use super::place::io_failure;
use super::settings::Settings;
use crate::failure::Failure;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, UnixListener};

/// A unix socket with a name, which goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Not what another service has put there meanwhile.
        if std::fs::metadata(&self.path).is_ok_and(|facts| facts.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Listens on the socket. What a service that died left there is replaced; a living one is not.
pub(crate) fn socket_listen(settings: &Settings) -> Result<Socket, Failure> {
    let path = settings.socket.as_path();
    let failed = |why: std::io::Error| io_failure(&format!("listening on {}", path.display()), &why);
    let group = settings.socket_group.as_deref().map(group_find).transpose()?;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    stale_remove(path)?;
    // Nobody may connect before the rights are what they shall be.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = bound.map_err(failed)?;
    let inode = std::fs::metadata(path).map_err(failed)?.ino();
    let socket = Socket { listener, path: path.to_owned(), inode };
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group)).map_err(failed)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    Ok(socket)
}

fn stale_remove(path: &Path) -> Result<(), Failure> {
    let failed = |why: std::io::Error| io_failure(&format!("looking at the socket {}", path.display()), &why);
    let facts = match std::fs::symlink_metadata(path) {
        Ok(facts) => facts,
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(failed(why)),
    };
    if !facts.file_type().is_socket() {
        return Err(Failure::new(
            5,
            format!("{} is there and is no socket", path.display()),
            "choose another path with --socket, or move that file away",
        ));
    }
    match UnixStream::connect(path) {
        Err(why) if why.kind() == ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replacing the socket of a service that is gone");
            std::fs::remove_file(path).map_err(failed)
        }
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(()),
        // Also when its queue is full: it lives.
        Ok(_) | Err(_) => Err(Failure::new(
            5,
            format!("a living service listens on {}", path.display()),
            "stop it first, or choose another path with --socket",
        )),
    }
}

/// The number of a group, from its number or its name in `/etc/group`.
fn group_find(name: &str) -> Result<u32, Failure> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let text = std::fs::read_to_string("/etc/group").map_err(|why| io_failure("reading /etc/group", &why))?;
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    found.ok_or_else(|| {
        Failure::new(3, format!("there is no group '{name}' in /etc/group"), "make it, or give the group's number")
    })
}

/// Listens on an address.
pub(crate) async fn address_listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|why| io_failure(&format!("listening on {address}"), &why))
}
