//! A real server on a free port, and the real program against it.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_slipway");
const READY: &str = "ready on ";
const START_MAX: Duration = Duration::from_secs(30);

/// What a run of the program came to.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: Vec<u8>,
    pub err: String,
}

impl Ran {
    /// Fails the test with everything that was said unless the exit code is as expected.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.text(), self.err);
        self
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|why| panic!("{why}: {}", self.text()))
    }
}

/// A folder, with a home and nothing of this machine's environment.
pub struct Place {
    pub dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(words).env_clear().current_dir(self.dir.path());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.dir.path()).env("TZ", "UTC");
        // How full the machine's disk is must not decide a test.
        if words.first() == Some(&"serve") {
            command.env("SLIPWAY_MIN_FREE_PERCENT", "0");
        }
        command
    }

    pub fn run(&self, words: &[&str], env: &[(&str, &str)], input: &[u8]) -> Ran {
        let mut command = self.command(words);
        command.envs(env.iter().copied());
        run(command, input)
    }
}

/// Runs a command with this on its stdin.
pub fn run(mut command: Command, input: &[u8]) -> Ran {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A program that fails early does not read its stdin, which is no fault of the test.
    let feeding = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: output.stdout,
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A running server.
pub struct House {
    pub place: Place,
    pub url: String,
    pub token: String,
    pub ca: Option<PathBuf>,
    pub said: Arc<Mutex<String>>,
    child: Child,
}

impl House {
    /// A server of an empty folder with an admin.
    pub fn start() -> Self {
        let place = Place::new();
        let token_file = place.path("admin.token");
        let words = ["--admin-token-file", token_file.to_str().unwrap()];
        let mut house = Self::start_with(place, &words);
        house.token = std::fs::read_to_string(&token_file).unwrap().trim().to_owned();
        house
    }

    /// A server of the place's `data` folder with these options more.
    pub fn start_with(place: Place, options: &[&str]) -> Self {
        let data = place.path("data");
        let mut words = vec!["serve", "--data", data.to_str().unwrap(), "--listen", "127.0.0.1:0"];
        words.extend_from_slice(options);
        let mut command = place.command(&words);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (tell, ready) = mpsc::channel();
        let said = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let kept = said.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if let Some((_, url)) = line.split_once(READY) {
                    let _ = tell.send(url.trim().to_owned());
                }
                let mut kept = kept.lock().unwrap();
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        let url = match ready.recv_timeout(START_MAX) {
            Ok(url) => url,
            Err(why) => {
                let _ = child.kill();
                panic!("the server is not ready ({why}):\n{}", said.lock().unwrap())
            }
        };
        Self { place, url, token: String::new(), ca: None, said, child }
    }

    /// Runs the program as the admin.
    pub fn run(&self, words: &[&str]) -> Ran {
        self.run_as(&self.token, words, b"")
    }

    /// Runs the program with a token and something on stdin.
    pub fn run_as(&self, token: &str, words: &[&str], input: &[u8]) -> Ran {
        run(self.command(token, words), input)
    }

    /// The program with this server and a token in its environment.
    pub fn command(&self, token: &str, words: &[&str]) -> Command {
        let mut command = self.place.command(words);
        command.env("SLIPWAY_URL", &self.url).env("SLIPWAY_TOKEN", token);
        if let Some(ca) = &self.ca {
            command.env("SLIPWAY_CA", ca);
        }
        command
    }

    /// A new user's token.
    pub fn user(&self, name: &str) -> String {
        self.run(&["user", "add", name]).expect(0);
        self.run(&["token", "new", "test", "--user", name]).expect(0).text().trim().to_owned()
    }

    /// Sends the server a signal.
    pub fn signal(&self, signal: &str) {
        signal_send(self.child.id(), signal);
    }

    /// Waits until the server has said this on stderr.
    #[track_caller]
    pub fn said_wait(&self, words: &str) {
        for _ in 0..1000 {
            if self.said.lock().unwrap().contains(words) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the server did not say {words:?}:\n{}", self.said.lock().unwrap());
    }

    /// Sends the server a signal and gives its exit code.
    pub fn stop(mut self, signal: &str) -> i32 {
        signal_send(self.child.id(), signal);
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a process a signal, like `TERM`.
pub fn signal_send(id: u32, signal: &str) {
    assert!(Command::new("kill").args([&format!("-{signal}"), &id.to_string()]).status().unwrap().success());
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// An image with data, a hole and a tail that is no whole block.
pub fn image(seed: u64) -> Vec<u8> {
    let mut bytes = noise(seed, 1 << 20);
    bytes.resize(3 << 20, 0);
    bytes.extend(noise(seed + 1, (1 << 20) + 1000));
    bytes
}

/// Compares a text with a golden file, or writes it when `SLIPWAY_ACCEPT` is set.
#[track_caller]
pub fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("SLIPWAY_ACCEPT").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "{} differs; SLIPWAY_ACCEPT=1 accepts this:\n{text}", path.display());
}
