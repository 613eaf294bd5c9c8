//! A proxy between our programs and a server: it counts, remembers what was asked, and can be as slow and as far as a line.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A line as it is between two machines.
#[derive(Clone, Copy, Default)]
pub(super) struct Wire {
    /// Bytes a second towards the client, all connections together; none: as fast as it goes.
    pub(super) rate: Option<u64>,
    /// One way.
    pub(super) delay: Duration,
}

/// One request: its path with the query, and its Range header.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) range: Option<String>,
}

struct Shared {
    wire: Wire,
    /// Bytes that went towards the client, heads of answers included.
    down: AtomicU64,
    asked: Mutex<Vec<Asked>>,
    /// When the line is free again.
    free_at: Mutex<Instant>,
    /// When the first and the last bytes went towards the client.
    times: Mutex<Option<(Instant, Instant)>>,
    ended: AtomicBool,
}

pub(super) struct Proxy {
    at: SocketAddr,
    shared: Arc<Shared>,
}

const PIECE: usize = 64 << 10;
/// Bytes on their way on one connection: as the largest window that Linux gives by itself.
const WINDOW: usize = 6 << 20;

impl Proxy {
    /// Starts one before the server at `http://HOST:PORT`.
    pub(super) fn start(url: &str, wire: Wire) -> Result<Self> {
        let server: SocketAddr = url
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .parse()
            .with_context(|| format!("reading {url}"))?;
        let listener = TcpListener::bind("127.0.0.1:0").context("listening for the proxy")?;
        let at = listener.local_addr().context("listening for the proxy")?;
        let shared = Arc::new(Shared {
            wire,
            down: AtomicU64::new(0),
            asked: Mutex::default(),
            free_at: Mutex::new(Instant::now()),
            times: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let own = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if own.ended.load(Ordering::Relaxed) {
                    return;
                }
                let shared = own.clone();
                thread::spawn(move || connection(client, server, &shared));
            }
        });
        Ok(Self { at, shared })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    /// Bytes towards the client so far.
    pub(super) fn down(&self) -> u64 {
        self.shared.down.load(Ordering::Relaxed)
    }

    /// Seconds between the first and the last bytes that went towards the client.
    pub(super) fn seconds(&self) -> f64 {
        let times = self.shared.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.map_or(0.0, |(first, last)| (last - first).as_secs_f64())
    }

    /// What was asked since the last call.
    pub(super) fn asked_take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that listens.
        let _ = TcpStream::connect(self.at);
    }
}

type Late = (Instant, Vec<u8>);

/// What is on its way on one connection, in bytes: pieces are as short as the server's writes.
#[derive(Default)]
struct Window {
    bytes: Mutex<usize>,
    fewer: Condvar,
}

impl Window {
    /// Waits until there is room for so many.
    fn add(&self, len: usize) {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |bytes: &mut usize| *bytes + len > WINDOW;
        *self.fewer.wait_while(bytes, full).unwrap_or_else(PoisonError::into_inner) += len;
    }

    fn sub(&self, len: usize) {
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) -= len;
        self.fewer.notify_one();
    }

    fn clear(&self) {
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) = 0;
        self.fewer.notify_one();
    }
}

fn connection(client: TcpStream, server: SocketAddr, shared: &Arc<Shared>) {
    let Ok(server) = TcpStream::connect(server) else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    // What making a connection takes over a long line.
    thread::sleep(2 * shared.wire.delay);
    let clones = (client.try_clone(), server.try_clone());
    let (Ok(client_out), Ok(server_out)) = clones else { return };
    let (own_up, own_down) = (shared.clone(), shared.clone());
    let up = thread::spawn(move || forward(client, server_out, &own_up, false));
    forward(server, client_out, &own_down, true);
    let _ = up.join();
}

/// Copies one direction until it ends; each piece is handed on when a line would have brought it.
fn forward(mut from: TcpStream, to: TcpStream, shared: &Shared, down: bool) {
    let (sender, receiver) = channel::<Late>();
    let window = Arc::new(Window::default());
    let (ending, freed) = (from.try_clone(), window.clone());
    let writer = thread::spawn(move || deliver(receiver, to, &freed));
    let mut buf = vec![0; PIECE];
    while let Ok(len) = from.read(&mut buf) {
        if len == 0 {
            break;
        }
        let mut due = Instant::now();
        match down {
            true => {
                shared.down.fetch_add(len as u64, Ordering::Relaxed);
                if let Some(rate) = shared.wire.rate {
                    let mut free = shared.free_at.lock().unwrap_or_else(PoisonError::into_inner);
                    *free = (*free).max(due) + Duration::from_secs_f64(len as f64 / rate as f64);
                    due = *free;
                }
                let mut times = shared.times.lock().unwrap_or_else(PoisonError::into_inner);
                let first = times.map_or(due, |(first, _)| first);
                *times = Some((first, due.max(first)));
            }
            false => {
                let found = asked_read(&buf[..len]);
                shared.asked.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
            }
        }
        window.add(len);
        if sender.send((due + shared.wire.delay, buf[..len].to_vec())).is_err() {
            break;
        }
    }
    drop(sender);
    let _ = writer.join();
    if let Ok(from) = ending {
        let _ = from.shutdown(Shutdown::Both);
    }
}

fn deliver(pieces: Receiver<Late>, mut to: TcpStream, window: &Window) {
    for (due, bytes) in &pieces {
        let now = Instant::now();
        if due > now {
            thread::sleep(due - now);
        }
        if to.write_all(&bytes).is_err() {
            break;
        }
        window.sub(bytes.len());
    }
    // Who waits for room shall see that nobody takes it any more.
    drop(pieces);
    window.clear();
    let _ = to.shutdown(Shutdown::Write);
}

/// A client sends one request at a time, and a head without a body in one piece.
fn asked_read(bytes: &[u8]) -> Option<Asked> {
    let text = String::from_utf8_lossy(bytes.strip_prefix(b"GET ")?);
    let path = text.split(' ').next()?.to_owned();
    let range = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("range").then(|| value.trim().trim_start_matches("bytes=").to_owned())
    });
    Some(Asked { path, range })
}
