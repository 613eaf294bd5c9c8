//! Connections: hyper's, with limits that hyper leaves to others, and a stop that loses no answer.

use super::patient::Patient;
use super::peer::{Line, Peer};
use super::site::Site;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Bytes of a request's header.
const HEADER_MAX: usize = 32 << 10;
const HEADERS_MAX: usize = 64;

/// One place where connections come from.
pub(crate) enum Listener {
    Unix(Arc<super::listen::Socket>),
    Tcp(TcpListener, Option<TlsAcceptor>),
}

enum Arrival {
    Unix(UnixStream),
    Tcp(TcpStream, SocketAddr),
}

/// What all listeners share.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) site: Arc<Site>,
    /// Ends the accepting; connections finish what they are at.
    pub(crate) stop: CancellationToken,
    /// Ends the connections too.
    pub(crate) kill: CancellationToken,
    pub(crate) tracker: TaskTracker,
    pub(crate) connections_max: usize,
    /// From a connection's beginning, or its last answer, to the end of the next request's header; also for a TLS handshake.
    pub(crate) patience: Duration,
}

impl Listener {
    async fn next(&self) -> io::Result<Arrival> {
        match self {
            Self::Unix(socket) => accept_unix(&socket.listener).await,
            Self::Tcp(listener, _) => listener.accept().await.map(|(stream, from)| Arrival::Tcp(stream, from)),
        }
    }
}

async fn accept_unix(listener: &UnixListener) -> io::Result<Arrival> {
    listener.accept().await.map(|(stream, _)| Arrival::Unix(stream))
}

/// Accepts until the stop. Each listener has seats of its own, so that the network cannot keep root from the socket.
pub(crate) async fn connections_accept(listener: Listener, door: Door) {
    let seats = Arc::new(Semaphore::new(door.connections_max));
    loop {
        // A seat is taken before accepting: beyond the limit clients wait in the kernel's queue.
        let arrived = tokio::select! {
            () = door.stop.cancelled() => return,
            arrived = async {
                let seat = seats.clone().acquire_owned().await;
                (seat, listener.next().await)
            } => arrived,
        };
        let (Ok(seat), arrival) = arrived else { return };
        match arrival {
            Ok(arrival) => {
                let tls = match &listener {
                    Listener::Unix(_) | Listener::Tcp(_, None) => None,
                    Listener::Tcp(_, Some(tls)) => Some(tls.clone()),
                };
                let inner = door.clone();
                door.tracker.spawn(async move {
                    let _seat = seat;
                    connection_open(arrival, tls, inner).await;
                });
            }
            Err(error) => {
                // Out of descriptors, or a client that was gone before we came: neither ends the service.
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection_open(arrival: Arrival, tls: Option<TlsAcceptor>, door: Door) {
    let line = match &arrival {
        Arrival::Unix(stream) => Line::of(stream),
        Arrival::Tcp(stream, _) => Line::of(stream).and_then(|line| line.keep_alive().map(|()| line)),
    };
    let line = match line {
        Ok(line) => line,
        Err(error) => return tracing::warn!(%error, "taking a connection"),
    };
    match (arrival, tls) {
        (Arrival::Unix(stream), _) => match stream.peer_cred() {
            Ok(who) => connection_serve(stream, Peer::unix(&who), line, &door).await,
            Err(error) => tracing::warn!(%error, "asking who connected"),
        },
        (Arrival::Tcp(stream, from), None) => connection_serve(stream, Peer::tcp(from, None), line, &door).await,
        (Arrival::Tcp(stream, from), Some(tls)) => {
            let shaken = tokio::select! {
                shaken = tokio::time::timeout(door.patience, tls.accept(stream)) => shaken,
                () = door.stop.cancelled() => return,
            };
            match shaken {
                Ok(Ok(stream)) => {
                    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                    let peer = Peer::tcp(from, shown.map(|shown| shown.as_ref().to_vec()));
                    connection_serve(stream, peer, line, &door).await;
                }
                Ok(Err(error)) => tracing::debug!(%from, %error, "TLS handshake"),
                Err(_) => tracing::debug!(%from, "TLS handshake took too long"),
            }
        }
    }
}

async fn connection_serve<S>(stream: S, peer: Peer, line: Line, door: &Door)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let peer = Arc::new(peer);
    let service = service_fn(|mut request: Request<Incoming>| {
        let (site, peer) = (door.site.clone(), peer.clone());
        request.extensions_mut().insert(line.clone());
        async move { Ok::<_, Infallible>(super::answer::request_answer(site, peer, request).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(door.patience)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_MAX);
    let connection = builder.serve_connection(TokioIo::new(Patient::new(stream)), service).with_upgrades();
    let mut connection = pin!(connection);
    let mut stopping = false;
    loop {
        tokio::select! {
            served = connection.as_mut() => {
                if let Err(error) = served {
                    tracing::debug!(%peer, %error, "connection ended");
                }
                return;
            }
            () = door.kill.cancelled() => return,
            () = door.stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
