//! Names of hosts, and which of our own addresses a host is reached from.

use crate::refusal::DriverError;
use rustix::io::Errno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::mpsc::channel;
use std::time::Duration;

/// How long a name server may take. The resolver of the system has no limit that could be set from here.
const RESOLVE_LIMIT: Duration = Duration::from_secs(10);
/// A name with more addresses than this is not tried further.
const ADDRESSES_MAX: usize = 8;

/// The addresses of a host, as the system's resolver gives them; `field` is what the request calls it.
///
/// # Errors
/// 400 when it is no name of a host, or nobody knows it.
pub(super) fn resolve(field: &str, host: &str, port: u16) -> Result<Vec<SocketAddr>, DriverError> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let fits = !bare.is_empty()
        && bare.len() <= 253
        && !bare.starts_with('-')
        && bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:%".contains(&byte));
    if !fits {
        let shown: String = host.escape_debug().take(80).collect();
        return Err(DriverError::request(
            "resolve",
            format!("{field} '{shown}' is neither a host name nor an address"),
        ));
    }
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (send, receive) = channel();
    let name = bare.to_owned();
    // Stays behind if nobody answers it; it holds nothing but the name.
    std::thread::spawn(move || send.send((name.as_str(), port).to_socket_addrs().map(Vec::from_iter)));
    let unknown = |why: String| Err(DriverError::request("resolve", format!("{field} '{bare}' is not known: {why}")));
    match receive.recv_timeout(RESOLVE_LIMIT) {
        Ok(Ok(mut found)) if !found.is_empty() => {
            found.truncate(ADDRESSES_MAX);
            Ok(found)
        }
        Ok(Ok(_)) => unknown("it has no address".into()),
        Ok(Err(why)) => unknown(why.to_string()),
        Err(_) => unknown(format!("no answer within {RESOLVE_LIMIT:?}")),
    }
}

/// The addresses of a server that is given with a port or without: `10.0.0.1`, `10.0.0.1:6789`, `[fd00::1]:6789`, `fd00::1`.
///
/// # Errors
/// As [`resolve`], and 400 for a port that is none.
pub(super) fn resolve_with_port(field: &str, server: &str, port: u16) -> Result<Vec<SocketAddr>, DriverError> {
    let (host, own_port) = match server.rsplit_once(':') {
        // Without brackets more than one colon is an IPv6 address and nothing else.
        Some((host, own)) if host.ends_with(']') || !host.contains(':') => (host, Some(own)),
        _ => (server, None),
    };
    let port = match own_port.map(str::parse) {
        None => port,
        Some(Ok(own)) if own != 0 => own,
        Some(_) => {
            let shown: String = server.escape_debug().take(80).collect();
            let text = format!("{field} '{shown}' has no port between 1 and 65535 after its colon");
            return Err(DriverError::request("resolve", text));
        }
    };
    resolve(field, host, port)
}

/// Our own address on the way to another.
///
/// # Errors
/// When there is no way there.
pub(super) fn source_of(to: SocketAddr) -> Result<SocketAddr, DriverError> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Connecting such a socket sends nothing: the kernel only looks for the way.
    let asked = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(to).and_then(|()| socket.local_addr()));
    asked.map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::NETUNREACH);
        DriverError::system("connect", errno, to.ip().to_string())
    })
}

/// An address without port or brackets, with the number of its interface if it is only valid there.
pub(super) fn bare(address: SocketAddr) -> String {
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        _ => address.ip().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{bare, resolve, resolve_with_port, source_of};

    #[test]
    fn names_and_addresses() {
        for (host, found) in [("127.0.0.1", "127.0.0.1:7"), ("::1", "[::1]:7"), ("[::1]", "[::1]:7")] {
            let addresses = resolve("host", host, 7).unwrap();
            assert_eq!(addresses[0].to_string(), found);
        }
        for host in ["", "a b", "a,addr=1", "a/b", "-x", "a\0", "nothing.invalid"] {
            let error = resolve("nfs.host", host, 7).unwrap_err();
            assert_eq!((error.status, error.error.step.as_str()), (400, "resolve"), "{host:?}");
            assert!(error.error.text.contains("nfs.host"), "{}", error.error.text);
        }
        let here = source_of("127.0.0.1:9".parse().unwrap()).unwrap();
        assert_eq!(bare(here), "127.0.0.1");
    }

    #[test]
    fn servers_are_read_with_and_without_ports() {
        for (server, wanted) in [
            ("10.0.0.1", "10.0.0.1:6789"),
            ("10.0.0.1:6790", "10.0.0.1:6790"),
            ("[fd00::1]", "[fd00::1]:6789"),
            ("[fd00::1]:3300", "[fd00::1]:3300"),
            ("fd00::1", "[fd00::1]:6789"),
        ] {
            assert_eq!(resolve_with_port("monitors", server, 6789).unwrap()[0].to_string(), wanted);
        }
        for wrong in ["", "10.0.0.1:0", "10.0.0.1:x", "10.0.0.1:70000", "a b", "x,name=y", "host.invalid"] {
            let error = resolve_with_port("monitors", wrong, 6789).unwrap_err();
            assert!(error.status == 400 && error.error.text.contains("monitors"), "{wrong}: {error}");
        }
    }
}
