//! The accept loop: hyper's connections with limits that hyper and axum leave to others, and a stop that loses nothing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::tls::Tls;
use super::watch::{Patience, Pulse, Watched};

/// What answers requests.
pub(crate) trait Answer: Send + Sync + 'static {
    /// Answers one request. The body of the answer holds `pulse`'s guard until it is sent.
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
        pulse: Arc<Pulse>,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// What the loop needs besides its listener.
pub(crate) struct Door<A> {
    pub(crate) app: Arc<A>,
    pub(crate) tls: Option<Tls>,
    pub(crate) patience: Patience,
    pub(crate) connections_max: usize,
    /// Ends the accepting; connections finish what they are at.
    pub(crate) stop: CancellationToken,
    /// Ends the connections too.
    pub(crate) kill: CancellationToken,
    pub(crate) tracker: TaskTracker,
}

/// Accepts until `stop`, then waits for nobody: the tracker knows the connections that are still in work.
pub(crate) async fn connections_accept<A: Answer>(listener: TcpListener, door: Door<A>) {
    let door = Arc::new(door);
    let seats = Arc::new(Semaphore::new(door.connections_max));
    loop {
        // A seat is taken before accepting: beyond the limit clients wait in the kernel's queue instead of being refused.
        let seat = tokio::select! {
            () = door.stop.cancelled() => return,
            seat = seats.clone().acquire_owned() => match seat {
                Ok(seat) => seat,
                Err(_) => return,
            },
        };
        let accepted = tokio::select! {
            () = door.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let door = door.clone();
                let tracker = door.tracker.clone();
                tracker.spawn(connection_open(stream, peer, door, seat));
            }
            Err(error) => {
                // Out of descriptors, or a client that was gone before we came: neither ends the server.
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection_open<A: Answer>(
    stream: TcpStream,
    peer: SocketAddr,
    door: Arc<Door<A>>,
    seat: OwnedSemaphorePermit,
) {
    let _seat = seat;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "setting TCP_NODELAY");
    }
    let pulse = Pulse::new();
    let Some(tls) = &door.tls else {
        return connection_serve(Watched::new(stream, pulse.clone()), peer, &door, pulse).await;
    };
    match tokio::time::timeout(door.patience.header, tls.acceptor().accept(stream)).await {
        Ok(Ok(stream)) => {
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let watched = Watched::new(stream, pulse.clone());
            let watched = if h2 { watched.first_header_only() } else { watched };
            connection_serve(watched, peer, &door, pulse).await;
        }
        Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake"),
        Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
    }
}

async fn connection_serve<A: Answer, S>(stream: S, peer: SocketAddr, door: &Door<A>, pulse: Arc<Pulse>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // hyper's own limit also counts the time between requests; the pulse knows the difference.
        .header_read_timeout(door.patience.idle)
        .max_headers(64)
        .max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_concurrent_streams(64)
        .max_header_list_size(32 << 10)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_send_buf_size(512 << 10);
    let service = service_fn(|request| {
        let answer = door.app.clone().answer(request, peer, pulse.clone());
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut tick = tokio::time::interval(Duration::from_millis(500).min(door.patience.header / 4));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
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
            _ = tick.tick() => {
                if let Some(why) = pulse.overdue(&door.patience) {
                    tracing::debug!(%peer, why, "closing the connection");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Body, Door, Patience, Pulse, Request, Response, connections_accept};
    use crate::http::stream::{Pieces, body_of};
    use bytes::Bytes;
    use hyper::body::Incoming;
    use slipway_api::Problem;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    const PIECE: usize = 128 << 10;

    /// Pieces that somebody holds now, and the most there ever were.
    #[derive(Default)]
    struct Held {
        now: AtomicUsize,
        most: AtomicUsize,
    }

    struct Piece(Vec<u8>, Arc<Held>);

    impl AsRef<[u8]> for Piece {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Piece {
        fn drop(&mut self) {
            self.1.now.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Gives pieces without end, in turn at once and from a thread.
    struct Endless(Arc<Held>, bool);

    impl Endless {
        fn piece(&self) -> Bytes {
            let now = self.0.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.0.most.fetch_max(now, Ordering::SeqCst);
            Bytes::from_owner(Piece(vec![7; PIECE], self.0.clone()))
        }
    }

    impl Pieces for Endless {
        fn next(&mut self) -> Result<Option<Bytes>, Problem> {
            Ok(Some(self.piece()))
        }

        fn ready(&mut self) -> Option<Bytes> {
            self.1 = !self.1;
            self.1.then(|| self.piece())
        }
    }

    struct App(Arc<Held>);

    impl Answer for App {
        async fn answer(self: Arc<Self>, _: Request<Incoming>, _: SocketAddr, _: Arc<Pulse>) -> Response<Body> {
            Response::new(body_of(Endless(self.0.clone(), false), "giving bytes"))
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_client_holds_two_pieces_at_most() {
        const CLIENTS: usize = 8;
        let held = Arc::new(Held::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = Door {
            app: Arc::new(App(held.clone())),
            tls: None,
            patience: Patience::default(),
            connections_max: CLIENTS,
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            tracker: TaskTracker::new(),
        };
        let (stop, kill, tracker) = (door.stop.clone(), door.kill.clone(), door.tracker.clone());
        let accepting = tokio::spawn(connections_accept(listener, door));
        let clients = (0..CLIENTS).map(|_| async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            // More than all buffers between us hold, so that the server had to wait for us; then we read no more.
            let mut buf = vec![0; 24 << 20];
            stream.read_exact(&mut buf).await.unwrap();
            stream
        });
        let clients = futures_util::future::join_all(clients).await;
        let most = held.most.load(Ordering::SeqCst);
        assert!(most <= 2 * CLIENTS, "{most} pieces for {CLIENTS} clients");
        drop(clients);
        stop.cancel();
        kill.cancel();
        accepting.await.unwrap();
        tracker.close();
        tracker.wait().await;
        assert_eq!(held.now.load(Ordering::SeqCst), 0);
    }
}
