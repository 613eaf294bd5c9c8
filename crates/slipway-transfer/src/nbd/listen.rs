//! Where clients come in: a unix socket that only its owner may use, or a TCP port.

use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

const BACKLOG: i32 = 64;
/// A peer that is silent for so long is asked whether it still lives, …
const KEEP_IDLE: Duration = Duration::from_secs(60);
/// … again after this …
const KEEP_INTERVAL: Duration = Duration::from_secs(15);
/// … and so often.
const KEEP_COUNT: u32 = 4;

/// Where a server listens.
#[derive(Debug)]
pub enum NbdListener {
    /// A unix socket.
    Unix(NbdSocket),
    /// A TCP port.
    Tcp(TcpListener),
}

/// A connection.
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl NbdListener {
    pub(super) async fn accept(&self) -> io::Result<(Stream, String)> {
        match self {
            Self::Unix(socket) => {
                let (stream, _) = socket.listener.accept().await?;
                let peer = match stream.peer_cred() {
                    Ok(cred) => format!("user {}, process {}", cred.uid(), cred.pid().unwrap_or(0)),
                    Err(_) => "a local client".to_owned(),
                };
                Ok((Stream::Unix(stream), peer))
            }
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                // A kernel that lost its power never says goodbye.
                sockopt::set_socket_keepalive(&stream, true)?;
                sockopt::set_tcp_keepidle(&stream, KEEP_IDLE)?;
                sockopt::set_tcp_keepintvl(&stream, KEEP_INTERVAL)?;
                sockopt::set_tcp_keepcnt(&stream, KEEP_COUNT)?;
                Ok((Stream::Tcp(stream), peer.to_string()))
            }
        }
    }
}

/// A unix socket with mode 0600; its file is gone when this is.
#[derive(Debug)]
pub struct NbdSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, so that only our own is removed.
    id: (u64, u64),
}

impl NbdSocket {
    /// Listens there. What a server that is gone left behind is replaced; whatever else is there is not.
    ///
    /// # Errors
    /// When something else has the name, or the folder does not take it.
    pub fn bind(path: &Path) -> io::Result<Self> {
        leftover_remove(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // The file gets the mode that the socket has before: there is no moment at which others may connect (unix(7)).
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        let facts = std::fs::symlink_metadata(path)?;
        listen(&socket, BACKLOG)?;
        let listener = UnixListener::from_std(socket.into())?;
        Ok(Self { listener, path: path.to_owned(), id: (facts.dev(), facts.ino()) })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for NbdSocket {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|facts| (facts.dev(), facts.ino()) == self.id);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn leftover_remove(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(why),
        Ok(facts) if !facts.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else has this name"));
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(why) if why.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another program listens there")),
        Err(why) => Err(why),
    }
}

/// The address of an export on a unix socket, as qemu and libnbd read it.
pub fn nbd_unix_uri(export: &str, socket: &Path) -> String {
    format!("nbd+unix:///{}?socket={}", percent(export), percent(&socket.to_string_lossy()))
}

/// The same for a TCP port.
pub fn nbd_tcp_uri(export: &str, at: SocketAddr) -> String {
    format!("nbd://{at}/{}", percent(export))
}

/// Leaves letters, digits and a few marks as they are.
fn percent(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{NbdSocket, nbd_tcp_uri, nbd_unix_uri};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    #[test]
    fn addresses_are_readable_ones() {
        let uri = nbd_unix_uri("me/os:1", Path::new("/run/a b.sock"));
        assert_eq!(uri, "nbd+unix:///me/os%3A1?socket=/run/a%20b.sock");
        assert_eq!(nbd_tcp_uri("", ([127, 0, 0, 1], 10809).into()), "nbd://127.0.0.1:10809/");
    }

    #[tokio::test]
    async fn only_what_is_left_over_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let first = NbdSocket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(NbdSocket::bind(&path).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        // A killed server leaves its file.
        drop(std::os::unix::net::UnixListener::bind(folder.path().join("old")).unwrap());
        let second = NbdSocket::bind(&folder.path().join("old")).unwrap();
        drop((first, second));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        std::fs::write(&path, "a file").unwrap();
        assert_eq!(NbdSocket::bind(&path).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"a file");
    }
}
