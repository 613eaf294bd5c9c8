//! A wire between client and server that can be cut after so many bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

/// Carries connections to a server until the bytes it may carry are used up; then every connection is cut and none is taken.
pub struct Proxy {
    /// The address to use instead of the server's.
    pub url: String,
    state: Arc<State>,
}

struct State {
    to: String,
    left: AtomicI64,
    carried: AtomicI64,
    end: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// A wire to a server that is not cut.
    pub fn new(server_url: &str) -> Self {
        let to = server_url.rsplit('/').next().expect("an address").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            to,
            left: AtomicI64::new(i64::MAX),
            carried: AtomicI64::new(0),
            end: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let accepting = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.end.load(Ordering::SeqCst) {
                    return;
                }
                // What is not taken up is closed at once.
                if accepting.left.load(Ordering::SeqCst) > 0 {
                    accepting.carry(client);
                }
            }
        });
        Self { url, state }
    }

    /// Bytes carried so far, both ways.
    pub fn carried(&self) -> i64 {
        self.state.carried.load(Ordering::SeqCst)
    }

    /// Lets this many further bytes pass, then cuts.
    pub fn cut_after(&self, bytes: i64) {
        self.state.left.store(bytes, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.end.store(true, Ordering::SeqCst);
        self.state.cut();
        if let Some((_, address)) = self.url.split_once("//") {
            let _ = TcpStream::connect(address);
        }
    }
}

impl State {
    fn cut(&self) {
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for stream in open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn carry(self: &Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(&self.to) else { return };
        let ends =
            [(&client, &server), (&server, &client)].map(|(a, b)| Some((a.try_clone().ok()?, b.try_clone().ok()?)));
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        open.extend([client, server]);
        for (from, to) in ends.into_iter().flatten() {
            let state = self.clone();
            std::thread::spawn(move || state.pump(from, to));
        }
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buf = vec![0; 32 << 10];
        while let Ok(count) = from.read(&mut buf) {
            if count == 0 {
                break;
            }
            self.carried.fetch_add(count as i64, Ordering::SeqCst);
            if self.left.fetch_sub(count as i64, Ordering::SeqCst) <= count as i64 {
                self.cut();
                return;
            }
            if to.write_all(&buf[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}
