//! Taking connections, so many at once, until the server is to stop.

use super::exports::NbdExports;
use super::handshake::handshake;
use super::listen::{NbdListener, Stream};
use super::transmit::transmit;
use crate::Cancel;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

/// What strangers may take up.
#[derive(Clone, Debug)]
pub struct NbdLimits {
    /// Connections at once; a further one is closed at once.
    pub connections: usize,
    /// Options in one handshake.
    pub options: usize,
    /// From the connection to the choice of an export.
    pub handshake: Duration,
    /// How long a client may take nothing of a reply, or stop in the middle of a request.
    pub stall: Duration,
    /// Requests of one connection that are worked on at once; further ones wait in the socket.
    pub in_flight: usize,
    /// The memory that their replies may take up together, in bytes.
    pub in_flight_bytes: u64,
}

impl Default for NbdLimits {
    fn default() -> Self {
        Self {
            connections: 16,
            options: 64,
            handshake: Duration::from_secs(20),
            stall: Duration::from_secs(60),
            in_flight: 16,
            in_flight_bytes: 8 << 20,
        }
    }
}

/// What happens, for whoever watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NbdEvent {
    /// A client has chosen an export.
    Opened {
        /// Who.
        peer: String,
        /// The export's first name.
        export: String,
    },
    /// A connection ended.
    Closed {
        /// Who.
        peer: String,
        /// What was wrong, if anything was.
        why: Option<String>,
    },
    /// There are too many connections already.
    Refused {
        /// Who.
        peer: String,
    },
    /// The source could not give what a client asked for.
    Failed {
        /// Who.
        peer: String,
        /// The first byte asked for.
        offset: u64,
        /// How many bytes.
        len: u32,
        /// Why.
        why: String,
    },
}

pub(super) type Tell = Arc<dyn Fn(NbdEvent) + Send + Sync>;

/// What a server did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NbdServed {
    /// Connections that got as far as an export.
    pub connections: u64,
    /// Bytes of images that were sent, holes included.
    pub bytes: u64,
}

/// How long running requests may take once the server is to stop.
const STOP: Duration = Duration::from_secs(2);

/// Serves until `stop`, or with `once` until the last client has gone after the first had come.
///
/// # Errors
/// When no connection can be accepted any more.
pub async fn nbd_serve(
    listener: &NbdListener,
    exports: &NbdExports,
    limits: &NbdLimits,
    once: bool,
    stop: &Cancel,
    tell: impl Fn(NbdEvent) + Send + Sync + 'static,
) -> io::Result<NbdServed> {
    let tell: Tell = Arc::new(tell);
    let (opened, sent) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut running = JoinSet::new();
    let ended = loop {
        let (stream, peer) = tokio::select! {
            biased;
            () = stop.cancelled() => break Ok(()),
            Some(_) = running.join_next() => {
                if once && running.is_empty() && opened.load(Ordering::Relaxed) > 0 {
                    break Ok(());
                }
                continue;
            }
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(why) if passes(&why) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                Err(why) => break Err(why),
            },
        };
        if running.len() >= limits.connections {
            tell(NbdEvent::Refused { peer });
            continue;
        }
        let client = Client {
            exports: exports.clone(),
            limits: limits.clone(),
            stop: stop.clone(),
            tell: tell.clone(),
            peer,
            opened: opened.clone(),
            sent: sent.clone(),
        };
        running.spawn(async move {
            match stream {
                Stream::Unix(stream) => client.serve(stream).await,
                Stream::Tcp(stream) => client.serve(stream).await,
            }
        });
    };
    let all = async { while running.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP, all).await.is_err() {
        running.shutdown().await;
    }
    let served = NbdServed { connections: opened.load(Ordering::Relaxed), bytes: sent.load(Ordering::Relaxed) };
    ended.map(|()| served)
}

struct Client {
    exports: NbdExports,
    limits: NbdLimits,
    stop: Cancel,
    tell: Tell,
    peer: String,
    opened: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
}

impl Client {
    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S) {
        let (tell, peer) = (self.tell.clone(), self.peer.clone());
        let why = self.talk(stream).await.err().map(|why| words(&why));
        tell(NbdEvent::Closed { peer, why });
    }

    async fn talk<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, mut stream: S) -> io::Result<()> {
        let choosing = tokio::time::timeout(self.limits.handshake, handshake(&mut stream, &self.exports, &self.limits));
        let chosen = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(()),
            chosen = choosing => chosen.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?,
        };
        let agreed = match chosen {
            Ok(Some(agreed)) => agreed,
            Ok(None) => return Ok(()),
            // Who looks whether anybody listens says nothing, or goes in the middle: that is its right.
            Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(why) => return Err(why),
        };
        self.opened.fetch_add(1, Ordering::Relaxed);
        let export = agreed.export.names.first().cloned().unwrap_or_default();
        (self.tell)(NbdEvent::Opened { peer: self.peer.clone(), export });
        transmit(stream, agreed, &self.limits, &self.stop, (self.tell, self.peer, self.sent)).await
    }
}

/// Errors of one connection, or of a moment.
fn passes(why: &io::Error) -> bool {
    use rustix::io::Errno;
    let passing =
        [Errno::CONNABORTED, Errno::INTR, Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::PERM];
    passing.iter().any(|errno| why.raw_os_error() == Some(errno.raw_os_error()))
}

/// An error and its sources on one line.
pub(super) fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let said = inner.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = inner.source();
    }
    text
}
