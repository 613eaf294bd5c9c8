//! `slipway serve` as a process that can be killed and started again where it was.

use super::client::Client;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The product's own word is 2 s on a quiet machine with the release build; tests run a debug build beside others.
pub const READY_LIMIT: Duration = Duration::from_secs(10);
const READY_WAIT: Duration = Duration::from_secs(60);

/// Where a server keeps things and what it is told; a server can be started on it again and again.
#[derive(Clone)]
pub struct Place {
    /// Holds `data/`, the token and the logs.
    pub folder: PathBuf,
    /// `--database`.
    pub database: Option<String>,
    /// `--blobs`.
    pub blobs: Option<String>,
    /// Further options.
    pub args: Vec<String>,
    /// Further environment.
    pub env: Vec<(String, String)>,
    /// 0 for any; a second start takes the port of the first, so that clients find it again.
    pub port: u16,
}

impl Place {
    /// SQLite and local blobs in a folder.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), database: None, blobs: None, args: Vec::new(), env: Vec::new(), port: 0 }
    }

    /// The same with a variable in the environment.
    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The server's data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Where the first start writes the admin's token.
    pub fn token_file(&self) -> PathBuf {
        self.folder.join("admin.token")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slipway"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SLIPWAY_") {
                command.env_remove(name);
            }
        }
        command.arg("serve").arg("--data").arg(self.data());
        command.arg("--listen").arg(format!("127.0.0.1:{}", self.port));
        command.arg("--admin-token-file").arg(self.token_file());
        // How full the machine's disk is must not decide a test.
        command.env("SLIPWAY_MIN_FREE_BYTES", "67108864").env("SLIPWAY_MIN_FREE_PERCENT", "0");
        if let Some(url) = &self.database {
            // It may hold a password, which the flag refuses.
            command.env("SLIPWAY_DATABASE", url);
        }
        if let Some(url) = &self.blobs {
            command.args(["--blobs", url]);
        }
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.env("RUST_BACKTRACE", "0").stdin(Stdio::null());
        command
    }
}

/// A running server; dropped, it is killed.
pub struct Server {
    /// Where it runs; `port` is the one it has.
    pub place: Place,
    /// Its address.
    pub url: String,
    /// From start to the line that says it is ready.
    pub ready_after: Duration,
    log: PathBuf,
    child: Child,
}

/// A server that did not come up.
#[derive(Debug)]
pub struct NotReady {
    /// How it ended.
    pub status: ExitStatus,
    /// What it said.
    pub log: String,
}

impl Server {
    /// Starts a server that must come up.
    pub fn start(place: &Place) -> Self {
        match Self::try_start(place) {
            Ok(server) => server,
            Err(why) => panic!("the server did not start: {}\n{}", why.status, why.log),
        }
    }

    /// Starts a server; an error if it ends before it is ready.
    pub fn try_start(place: &Place) -> Result<Self, NotReady> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        std::fs::create_dir_all(&place.folder).unwrap();
        let log = place.folder.join(format!("serve.{}.log", COUNT.fetch_add(1, Ordering::Relaxed)));
        let file = File::create(&log).unwrap();
        let begun = Instant::now();
        let mut child = place
            .command()
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .expect("the server's program starts");
        loop {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            if let Some(url) = ready_url(&said) {
                let port =
                    url.rsplit(':').next().and_then(|text| text.parse().ok()).expect("the address ends in a port");
                let place = Place { port, ..place.clone() };
                return Ok(Self { place, url, ready_after: begun.elapsed(), log, child });
            }
            if let Some(status) = child.try_wait().unwrap() {
                return Err(NotReady { status, log: said });
            }
            if begun.elapsed() > READY_WAIT {
                let _ = child.kill();
                panic!("the server was not ready within {READY_WAIT:?}:\n{said}");
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Starts it again where it was, which must be soon.
    pub fn start_again(place: &Place) -> Self {
        let server = Self::start(place);
        assert!(server.ready_after < READY_LIMIT, "ready only after {:?}", server.ready_after);
        server
    }

    /// A client with the admin's token.
    pub fn admin(&self) -> Client {
        let token = std::fs::read_to_string(self.place.token_file()).expect("the first start wrote a token");
        Client::new(&self.url, token.trim(), &self.place.folder.join("home"))
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// kill -9, and gives the place to start again.
    pub fn kill(mut self) -> Place {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.place.clone()
    }

    /// SIGTERM, waits for the end and gives how it ended.
    pub fn stop(mut self) -> (Place, ExitStatus) {
        self.signal(rustix::process::Signal::TERM);
        let begun = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if begun.elapsed() > Duration::from_secs(60) => panic!("the server did not stop:\n{}", self.log()),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        (self.place.clone(), status)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).expect("a process has a number");
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- what the server of {} said\n{}", self.place.folder.display(), tail(&self.log(), 40));
        }
    }
}

fn ready_url(said: &str) -> Option<String> {
    let (_, rest) = said.split_once("ready on ")?;
    let (line, _) = rest.split_once('\n')?;
    line.split_whitespace().next().map(str::to_owned)
}

fn tail(said: &str, lines: usize) -> String {
    let all: Vec<_> = said.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
