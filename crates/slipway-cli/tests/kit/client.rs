//! `slipway` as a person or script runs it: a process with an address and a token in its environment.

use serde_json::Value;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(300);

/// An address, a token and an empty home.
#[derive(Clone)]
pub struct Client {
    pub url: String,
    pub token: String,
    home: PathBuf,
    program: PathBuf,
}

/// What a command came to.
#[derive(Clone, Debug)]
pub struct Said {
    /// The command line, for messages.
    pub line: String,
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

/// A command that runs.
pub struct Running {
    line: String,
    begun: Instant,
    child: Child,
    stdout: JoinHandle<String>,
    stderr: JoinHandle<String>,
}

impl Client {
    pub fn new(url: &str, token: &str, home: &Path) -> Self {
        std::fs::create_dir_all(home).unwrap();
        Self {
            url: url.to_owned(),
            token: token.to_owned(),
            home: home.to_owned(),
            program: env!("CARGO_BIN_EXE_slipway").into(),
        }
    }

    /// The same person at another address.
    pub fn at(&self, url: &str) -> Self {
        Self { url: url.to_owned(), ..self.clone() }
    }

    /// A command that is not yet started.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SLIPWAY_") {
                command.env_remove(name);
            }
        }
        command.env("SLIPWAY_URL", &self.url).env("SLIPWAY_TOKEN", &self.token);
        command.env("HOME", &self.home).env("XDG_CONFIG_HOME", self.home.join("config"));
        command.env("RUST_BACKTRACE", "0").args(words);
        command
    }

    /// Starts a command.
    pub fn begin(&self, words: &[&str]) -> Running {
        let mut child = self
            .command(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = drain(child.stdout.take().expect("piped"));
        let stderr = drain(child.stderr.take().expect("piped"));
        Running { line: words.join(" "), begun: Instant::now(), child, stdout, stderr }
    }

    /// Runs a command to its end.
    pub fn run(&self, words: &[&str]) -> Said {
        self.begin(words).finish()
    }

    /// Runs a command that must succeed.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> Said {
        let said = self.run(words);
        said.expect(0);
        said
    }

    /// Runs a command that must succeed and prints JSON.
    #[track_caller]
    pub fn json(&self, words: &[&str]) -> Value {
        let mut all = words.to_vec();
        all.extend(["-o", "json"]);
        self.ok(&all).json()
    }
}

impl Said {
    /// Fails the test unless the command ended with this code.
    #[track_caller]
    pub fn expect(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "slipway {}\n{}{}", self.line, self.stdout, self.stderr);
        self
    }

    /// Fails the test unless the command ended with one of these codes.
    #[track_caller]
    pub fn expect_any(&self, codes: &[i32]) -> &Self {
        let fine = self.code.is_some_and(|code| codes.contains(&code));
        assert!(fine, "slipway {}: {:?}, not one of {codes:?}\n{}{}", self.line, self.code, self.stdout, self.stderr);
        self
    }

    /// Fails the test unless what went wrong is said with all of these words and a next step, in one message without a trace of our insides.
    #[track_caller]
    pub fn names(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.stderr.contains(word), "slipway {} does not say '{word}':\n{}", self.line, self.stderr);
        }
        assert!(self.stderr.contains("next:"), "slipway {} names no next step:\n{}", self.line, self.stderr);
        for leak in ["panicked", "RUST_BACKTRACE", "Error {", "Os {", "error:"] {
            assert!(!self.stderr.contains(leak), "slipway {} shows '{leak}':\n{}", self.line, self.stderr);
        }
        self
    }

    /// What it printed, as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|why| {
            panic!("slipway {} printed no JSON ({why}):\n{}{}", self.line, self.stdout, self.stderr)
        })
    }
}

impl Running {
    /// Waits for the end; a command that hangs fails the test.
    #[track_caller]
    pub fn finish(mut self) -> Said {
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if self.begun.elapsed() > LIMIT => {
                    let _ = self.child.kill();
                    let _ = self.child.wait();
                    let said = self.stderr.join().unwrap_or_default();
                    panic!("slipway {} did not end within {LIMIT:?}:\n{said}", self.line);
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        Said {
            line: self.line,
            code: status.code(),
            signal: status.signal(),
            took: self.begun.elapsed(),
            stdout: self.stdout.join().unwrap_or_default(),
            stderr: self.stderr.join().unwrap_or_default(),
        }
    }

    /// It still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// kill -9.
    pub fn kill(mut self) -> Said {
        let _ = self.child.kill();
        self.finish()
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
