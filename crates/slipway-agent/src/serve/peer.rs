//! Who is at the other end of a connection, as the kernel or TLS say.

use std::fmt;
use std::net::SocketAddr;

/// The other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A process of this machine.
    Unix { uid: u32, gid: u32, pid: Option<i32> },
    /// Somebody with this address, and the certificate (DER) that was shown and verified.
    Tcp { from: SocketAddr, certificate: Option<Vec<u8>> },
}

impl Peer {
    pub(crate) fn unix(who: &tokio::net::unix::UCred) -> Self {
        Self::Unix { uid: who.uid(), gid: who.gid(), pid: who.pid() }
    }

    pub(crate) fn tcp(from: SocketAddr, certificate: Option<Vec<u8>>) -> Self {
        Self::Tcp { from, certificate }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { uid, pid, .. } => write!(out, "uid {uid} (process {})", pid.unwrap_or_default()),
            Self::Tcp { from, .. } => write!(out, "{from}"),
        }
    }
}
