//! Where a server is, and a connection to it that the kernel can take over.

use super::negotiate::{Export, choose, name_check, negotiate, starttls};
use crate::export::TunnelWord;
use crate::linux::address::resolve;
use crate::refusal::DriverError;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};
use serde::{Deserialize, Serialize};
use slipway_api::node::AttachNbd;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where a server listens unless something else is said.
const PORT: u16 = 10809;
/// From the look-up of its name to the choice of an export.
const PATIENCE: Duration = Duration::from_secs(10);
/// One of several addresses may be one that nothing comes back from.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(4);
/// A peer that is silent for so long is asked whether it still lives, …
const KEEP_IDLE: Duration = Duration::from_secs(20);
/// … again after this …
const KEEP_INTERVAL: Duration = Duration::from_secs(5);
/// … and so often.
const KEEP_COUNT: u32 = 4;

/// More than this is no word of a tunnel.
const WORD_MAX: usize = 16 << 10;
/// What a tunnel may take beside the time for its server: the handshake of TLS, and to say what became of it.
const TUNNEL_PATIENCE: Duration = Duration::from_secs(8);

/// A server and one of its exports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    pub(in crate::linux) at: Place,
    /// Empty for its default one.
    pub(in crate::linux) export: String,
}

/// Where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::linux) enum Place {
    Tcp {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
    /// A process of ours that speaks TLS with the server, and listens there.
    Tunnel {
        socket: PathBuf,
        server: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tunnel { server, .. } => write!(f, "{server}"),
        }
    }
}

impl Server {
    /// Of a request.
    ///
    /// # Errors
    /// 400 with the field that is wrong.
    pub(super) fn of(block: &AttachNbd) -> Result<Self, DriverError> {
        let wrong = |text: String| Err(DriverError::request("nbd", text));
        name_check(&block.export)?;
        let at = match (block.host.as_str(), block.socket.as_str()) {
            ("", "") => return wrong("nbd.host or nbd.socket must say where the server is".into()),
            ("", socket) if !socket.starts_with('/') || socket.contains('\0') => {
                return wrong(format!("nbd.socket '{socket}' is no absolute path"));
            }
            ("", _) if block.port != 0 => return wrong("nbd.port is for nbd.host; a socket has none".into()),
            ("", socket) => Place::Unix(socket.into()),
            (_, socket) if !socket.is_empty() => {
                return wrong("nbd.host and nbd.socket exclude each other".into());
            }
            (host, _) => {
                let port = match block.port {
                    0 => PORT,
                    port => u16::try_from(port)
                        .map_err(|_| DriverError::request("nbd", format!("nbd.port {port} is above 65535")))?,
                };
                // An IPv6 address may come with its brackets.
                let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
                Place::Tcp { host: bare.to_owned(), port }
            }
        };
        Ok(Self { at, export: block.export.clone() })
    }

    /// Connects, and agrees on the export. What comes back has no time limits of ours left: it is the kernel's from here.
    ///
    /// # Errors
    /// 400 for a name that nobody has or an export that the server does not give, else what went wrong with the server.
    pub(super) fn dial(&self) -> Result<(OwnedFd, Export), DriverError> {
        let tunnel = matches!(self.at, Place::Tunnel { .. });
        let until = Instant::now() + PATIENCE + if tunnel { TUNNEL_PATIENCE } else { Duration::ZERO };
        let mut timed = Timed { stream: self.connect(until)?, until };
        let export = match tunnel {
            // It names the server itself.
            true => {
                let no_zeroes = word_read(&mut timed)?;
                choose(&mut timed, &self.export, no_zeroes)
            }
            false => negotiate(&mut timed, &self.export),
        };
        let export = export.map_err(|error| self.named(error))?;
        timed.stream.limit(None).map_err(|error| self.failed(&error))?;
        Ok((timed.stream.into(), export))
    }

    /// Connects, up to the point at which TLS begins; says whether padding was agreed to be left out.
    ///
    /// # Errors
    /// As those of an attachment; 400 when the server has no TLS.
    pub fn starttls(&self) -> Result<(NbdStream, bool), DriverError> {
        let until = Instant::now() + PATIENCE;
        let mut timed = Timed { stream: self.connect(until)?, until };
        let no_zeroes = starttls(&mut timed).map_err(|error| self.named(error))?;
        timed.stream.limit(None).map_err(|error| self.failed(&error))?;
        Ok((timed.stream, no_zeroes))
    }

    /// The export's name.
    pub fn export(&self) -> &str {
        &self.export
    }

    /// Says which server an error is about.
    pub fn named(&self, mut error: DriverError) -> DriverError {
        error.error.text = format!("NBD server {}: {}", self.at, error.error.text);
        error
    }

    fn failed(&self, error: &io::Error) -> DriverError {
        match Errno::from_io_error(error) {
            Some(errno) => DriverError::system("nbd_connect", errno, format!("NBD server {}", self.at)),
            None => DriverError::other("nbd_connect", format!("NBD server {}: {error}", self.at)),
        }
    }

    fn connect(&self, until: Instant) -> Result<NbdStream, DriverError> {
        match &self.at {
            Place::Unix(path) | Place::Tunnel { socket: path, .. } => {
                // A server that is held still takes no connection once its queue is full; that is no reason to wait here.
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                let connected = SocketAddrUnix::new(path).and_then(|address| {
                    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
                    connect(&socket, &address)?;
                    Ok(UnixStream::from(socket))
                });
                let stream = connected.map_err(|errno| self.failed(&errno.into()))?;
                stream.set_nonblocking(false).map_err(|error| self.failed(&error))?;
                Ok(NbdStream::Unix(stream))
            }
            Place::Tcp { host, port } => {
                let addresses = resolve("nbd.host", host, *port)?;
                let mut last = io::Error::from(io::ErrorKind::NotFound);
                for address in &addresses {
                    let left = until.saturating_duration_since(Instant::now());
                    let wait = if addresses.len() > 1 { left.min(ADDRESS_PATIENCE) } else { left };
                    if wait.is_zero() {
                        break;
                    }
                    match TcpStream::connect_timeout(address, wait).and_then(tuned) {
                        Ok(stream) => return Ok(NbdStream::Tcp(stream)),
                        Err(error) => last = error,
                    }
                }
                Err(self.failed(&last))
            }
        }
    }
}

/// What a tunnel says before anything else, on one line.
fn word_read(timed: &mut Timed) -> Result<bool, DriverError> {
    let mut line = Vec::new();
    // Byte by byte: what follows is the server's.
    while line.last() != Some(&b'\n') && line.len() < WORD_MAX {
        let mut byte = [0];
        timed.read_exact(&mut byte).map_err(|error| {
            DriverError::other("nbd_tls", format!("the process that speaks TLS with the server: {error}"))
        })?;
        line.extend(byte);
    }
    match serde_json::from_slice(&line) {
        Ok(TunnelWord::Open { no_zeroes }) => Ok(no_zeroes),
        Ok(TunnelWord::Failed { status, error }) => Err(DriverError { status, error, holders: Vec::new() }),
        Err(_) => Err(DriverError::other("nbd_tls", "the process that speaks TLS with the server says something else")),
    }
}

/// Small requests go at once, and a machine that lost its power is noticed.
fn tuned(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEP_IDLE)?;
    sockopt::set_tcp_keepintvl(&stream, KEEP_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&stream, KEEP_COUNT)?;
    Ok(stream)
}

/// A connection to a server.
#[derive(Debug)]
pub enum NbdStream {
    /// Over the network.
    Tcp(TcpStream),
    /// On this node.
    Unix(UnixStream),
}

impl NbdStream {
    fn limit(&self, limit: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit)),
            Self::Unix(stream) => stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit)),
        }
    }
}

impl From<NbdStream> for OwnedFd {
    fn from(stream: NbdStream) -> Self {
        match stream {
            NbdStream::Tcp(stream) => stream.into(),
            NbdStream::Unix(stream) => stream.into(),
        }
    }
}

/// A stream whose reads and writes all end at one time, however slowly the other end drips.
struct Timed {
    stream: NbdStream,
    until: Instant,
}

impl Timed {
    fn limit(&self) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.limit(Some(left))
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.limit()?;
        match &mut self.stream {
            NbdStream::Tcp(stream) => stream.read(buffer),
            NbdStream::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.limit()?;
        match &mut self.stream {
            NbdStream::Tcp(stream) => stream.write(bytes),
            NbdStream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, Server};
    use slipway_api::node::AttachNbd;
    use std::os::unix::net::UnixListener;

    fn of(json: &str) -> Result<String, String> {
        let block: AttachNbd = serde_json::from_str(json).unwrap();
        Server::of(&block).map(|server| server.at.to_string()).map_err(|error| {
            assert_eq!(error.status, 400);
            error.error.text
        })
    }

    #[test]
    fn a_server_has_one_place() {
        for (json, place) in [
            (r#"{"host":"disks.example"}"#, "disks.example:10809"),
            (r#"{"host":"10.0.0.1","port":1}"#, "10.0.0.1:1"),
            (r#"{"host":"fd00::1"}"#, "[fd00::1]:10809"),
            (r#"{"host":"[fd00::1]","port":65535}"#, "[fd00::1]:65535"),
            (r#"{"socket":"/run/s"}"#, "/run/s"),
        ] {
            assert_eq!(of(json).as_deref(), Ok(place));
        }
        for (json, word) in [
            ("{}", "nbd.host or nbd.socket"),
            (r#"{"host":"a","socket":"/b"}"#, "exclude"),
            (r#"{"socket":"b"}"#, "absolute"),
            (r#"{"socket":"/b","port":1}"#, "nbd.port"),
            (r#"{"host":"a","port":65536}"#, "65536"),
            (r#"{"host":"a","export":"\u0000"}"#, "nbd.export"),
        ] {
            let said = of(json).unwrap_err();
            assert!(said.contains(word), "{json}: {said}");
        }
    }

    #[test]
    fn a_server_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let server = Server { at: Place::Unix(path.clone()), export: String::new() };
        let error = server.dial().unwrap_err();
        assert_eq!((error.status, error.error.errno.as_deref()), (500, Some("ENOENT")));
        assert!(error.error.text.contains(path.to_str().unwrap()), "{error}");
        // One that hangs up.
        let listener = UnixListener::bind(&path).unwrap();
        let hung = std::thread::spawn(move || drop(listener.accept()));
        let error = server.dial().unwrap_err();
        hung.join().unwrap();
        assert_eq!(error.error.step, "nbd_negotiate");
        for host in ["host.invalid", "nbd://a", "a b", ""] {
            let none = Server { at: Place::Tcp { host: host.into(), port: 1 }, export: String::new() };
            let error = none.dial().unwrap_err();
            assert_eq!((error.status, error.error.step.as_str()), (400, "resolve"), "{host}");
        }
    }
}
