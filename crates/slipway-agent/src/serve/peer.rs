//! Who is at the other end of a connection, as the kernel or TLS say.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Between looks whether the other end is still there.
const LOOK: Duration = Duration::from_millis(500);
/// A peer over TCP that is silent for so long is asked whether it still lives, …
const KEEP_IDLE: Duration = Duration::from_secs(60);
/// … again after this …
const KEEP_INTERVAL: Duration = Duration::from_secs(15);
/// … and so often.
const KEEP_COUNT: u32 = 4;

/// The connection itself, for whoever does not read from it and must know that the other end has gone.
#[derive(Clone, Debug)]
pub(crate) struct Line(Arc<OwnedFd>);

impl Line {
    pub(crate) fn of(stream: &impl AsFd) -> io::Result<Self> {
        stream.as_fd().try_clone_to_owned().map(|fd| Self(Arc::new(fd)))
    }

    /// Has the kernel notice a machine that lost its power, which never says goodbye.
    pub(crate) fn keep_alive(&self) -> io::Result<()> {
        sockopt::set_socket_keepalive(&self.0, true)?;
        sockopt::set_tcp_keepidle(&self.0, KEEP_IDLE)?;
        sockopt::set_tcp_keepintvl(&self.0, KEEP_INTERVAL)?;
        sockopt::set_tcp_keepcnt(&self.0, KEEP_COUNT)?;
        Ok(())
    }

    /// Ends when the other end has closed the connection, or its half of it, whatever of it lies unread.
    pub(crate) async fn hung_up(&self) {
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            let mut look = [PollFd::new(&self.0, PollFlags::RDHUP)];
            if poll(&mut look, Some(&now)).is_ok() && look[0].revents().intersects(gone) {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

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
