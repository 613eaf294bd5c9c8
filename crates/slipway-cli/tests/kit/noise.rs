//! A wire that does one wrong thing at one place: what a bad cable, a mad middlebox or a dying server does to bytes.

use super::image::Chance;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Every connection ends.
    Cut,
    /// One bit is another.
    Flip,
    /// Bytes come twice.
    Twice,
    /// Two neighbouring pieces change places.
    Swapped,
    /// Bytes are missing.
    Missing,
    /// Bytes are there that nobody sent.
    Added,
}

impl Wrong {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Cut, Self::Flip, Self::Twice, Self::Swapped, Self::Missing, Self::Added];
}

/// What goes wrong where.
#[derive(Clone, Copy, Debug)]
pub struct Strike {
    /// What.
    pub wrong: Wrong,
    /// On the way to the client, else to the server.
    pub to_client: bool,
    /// After so many bytes of that way.
    pub at: u64,
    /// Of how many bytes.
    pub len: usize,
}

/// How long a connection with missing bytes stays open: nobody waits for ever for what will not come.
const SILENCE: Duration = Duration::from_millis(150);

/// How long a connection on which something went wrong lives on. Who waits for the rest of an answer that cannot come may wait
/// for a minute; tests need not.
const LINGER: Duration = Duration::from_secs(4);

/// The wire. Dropped, it ends.
pub struct Noise {
    /// The address to use instead of the server's.
    pub url: String,
    line: Arc<Line>,
    accepting: JoinHandle<()>,
}

struct Line {
    to: String,
    strike: Option<Strike>,
    struck: AtomicBool,
    /// To the server, to the client.
    carried: [AtomicU64; 2],
    pumps: Mutex<Vec<JoinHandle<()>>>,
}

impl Noise {
    /// A wire to a server.
    pub async fn new(server_url: &str, strike: Option<Strike>) -> Self {
        let to = server_url.rsplit('/').next().expect("an address").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let line = Arc::new(Line {
            to,
            strike,
            struck: AtomicBool::new(false),
            carried: Default::default(),
            pumps: Mutex::default(),
        });
        let carrying = line.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&carrying.to).await else { continue };
                let pump = tokio::spawn(carrying.clone().carry(client, server));
                carrying.pumps.lock().unwrap().push(pump);
            }
        });
        Self { url, line, accepting }
    }

    /// Bytes carried to the client, or to the server.
    pub fn carried(&self, to_client: bool) -> u64 {
        self.line.carried[usize::from(to_client)].load(Ordering::SeqCst)
    }

    /// Whether it went wrong already.
    pub fn struck(&self) -> bool {
        self.line.struck.load(Ordering::SeqCst)
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        self.accepting.abort();
        for pump in self.line.pumps.lock().unwrap().drain(..) {
            pump.abort();
        }
    }
}

impl Line {
    /// Both ways of one connection; ends when either does.
    async fn carry(self: Arc<Self>, client: TcpStream, server: TcpStream) {
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let here = Notify::new();
        let lingered = async {
            here.notified().await;
            tokio::time::sleep(LINGER).await;
        };
        tokio::select! {
            () = self.pump(from_client, to_server, false, &here) => {}
            () = self.pump(from_server, to_client, true, &here) => {}
            () = lingered => {}
        }
    }

    async fn pump(
        &self,
        mut from: impl AsyncReadExt + Unpin,
        mut to: impl AsyncWriteExt + Unpin,
        to_client: bool,
        struck_here: &Notify,
    ) {
        let mut buf = vec![0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut buf).await {
            let begin = self.carried[usize::from(to_client)].fetch_add(count as u64, Ordering::SeqCst);
            let mut bytes = buf[..count].to_vec();
            let here = self
                .strike
                .filter(|strike| strike.to_client == to_client && (begin..begin + count as u64).contains(&strike.at));
            let mut goes_on = true;
            if let Some(strike) = here
                && !self.struck.swap(true, Ordering::SeqCst)
            {
                goes_on = strike.apply((strike.at - begin) as usize, &mut bytes);
                struck_here.notify_one();
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
            if !goes_on {
                if here.is_some_and(|strike| strike.wrong == Wrong::Missing) {
                    tokio::time::sleep(SILENCE).await;
                }
                return;
            }
        }
    }
}

impl Strike {
    /// Changes what is carried; false when the connection ends behind it.
    fn apply(&self, at: usize, bytes: &mut Vec<u8>) -> bool {
        let end = (at + self.len).min(bytes.len());
        match self.wrong {
            Wrong::Cut => bytes.truncate(at),
            Wrong::Flip => bytes[at] ^= 1 << (self.len % 8),
            Wrong::Twice => {
                let again = bytes[at..end].to_vec();
                bytes.splice(end..end, again);
            }
            Wrong::Swapped => {
                let middle = (at + end) / 2;
                bytes[at..end].rotate_left(middle - at);
            }
            Wrong::Missing => drop(bytes.drain(at..end)),
            Wrong::Added => {
                let mut more = vec![0; self.len];
                Chance::new(self.at).fill(&mut more);
                bytes.splice(at..at, more);
            }
        }
        !matches!(self.wrong, Wrong::Cut | Wrong::Missing)
    }
}
