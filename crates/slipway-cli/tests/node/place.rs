//! A node's service in a mount namespace of its own, and something that it can run.

use super::house::{PROGRAM, Place, Ran, run, signal_send};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const READY: &str = "ready on";
const LONG: Duration = Duration::from_secs(20);

/// A running service; stopped when dropped, with all that runs in it.
pub struct Node {
    pub place: Place,
    /// Where it listens beside its socket.
    pub address: Option<String>,
    words: Vec<String>,
    child: Child,
}

/// A service's process, and what it said of where it listens.
fn spawn(place: &Place, words: &[String]) -> (Child, Vec<String>) {
    let agent = Path::new(PROGRAM).with_file_name("slipway-agent");
    assert!(agent.exists(), "'cargo build -p slipway-agent' makes what this test needs");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]).arg(agent).arg("serve");
    command.arg("--socket").arg(place.path("node.sock"));
    command.arg("--run-dir").arg(place.path("run")).arg("--state-dir").arg(place.path("state")).args(words);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (tell, ready) = mpsc::channel();
    let streams: [Box<dyn std::io::Read + Send>; 2] =
        [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
    for stream in streams {
        let tell = tell.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once(READY) {
                    let _ = tell.send(address.trim().to_owned());
                }
                println!("node: {line}");
            }
        });
    }
    let places = 1 + words.iter().filter(|word| *word == "--listen").count();
    let said: Vec<String> = (0..places).map_while(|_| ready.recv_timeout(LONG).ok()).collect();
    if said.len() < places {
        let _ = child.kill();
        panic!("the node's service is not ready");
    }
    (child, said)
}

impl Node {
    pub fn start() -> Self {
        Self::start_with(Place::new(), &[])
    }

    pub fn start_with(place: Place, words: &[&str]) -> Self {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let (child, said) = spawn(&place, &words);
        let address = said.into_iter().find(|address| address.starts_with("http"));
        Self { place, address, words, child }
    }

    /// Ends the service, and begins another in its directories.
    pub fn restart(&mut self) {
        signal_send(self.child.id(), "TERM");
        self.child.wait().unwrap();
        self.child = spawn(&self.place, &self.words).0;
    }

    pub fn socket(&self) -> PathBuf {
        self.place.path("node.sock")
    }

    /// `slipway node …` with this node.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.place.command(&[&["node"], words].concat());
        command.env("SLIPWAY_NODE", format!("unix:{}", self.socket().display()));
        command
    }

    pub fn run(&self, words: &[&str]) -> Ran {
        self.run_with(words, b"")
    }

    pub fn run_with(&self, words: &[&str], input: &[u8]) -> Ran {
        run(self.command(words), input)
    }

    #[track_caller]
    pub fn wait(&self, seen: impl Fn() -> bool) {
        let begun = Instant::now();
        while !seen() {
            assert!(begun.elapsed() < LONG, "it did not come to pass");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until no attachment and no mount is left: collection follows a removal.
    #[track_caller]
    pub fn gone_wait(&self) {
        self.wait(|| self.run(&["ls", "-o", "json"]).expect(0).json() == serde_json::json!([]));
    }

    /// The same with containers.
    #[track_caller]
    pub fn empty_wait(&self) {
        self.wait(|| self.run(&["ps", "-a", "-o", "json"]).expect(0).json() == serde_json::json!([]));
        self.gone_wait();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Containers outlive the service; those of a test must not.
        let words = ["ps", "-a", "-o", "json"];
        let left = serde_json::from_slice::<serde_json::Value>(&self.run(&words).out).unwrap_or_default();
        for container in left.as_array().into_iter().flatten() {
            self.run(&["rm", "-f", &container["id"].to_string()]);
        }
        for _ in 0..50 {
            let left =
                serde_json::from_slice::<serde_json::Value>(&self.run(&["ls", "-o", "json"]).out).unwrap_or_default();
            let Some(objects) = left.as_array().filter(|objects| !objects.is_empty()) else { break };
            for object in objects.iter().rev() {
                self.run(&["rm", "-f", &object["id"].to_string()]);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        signal_send(self.child.id(), "TERM");
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if begun.elapsed() > LONG {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A directory with a system of one program.
pub fn folder(place: &Place, name: &str) -> PathBuf {
    let root = place.path(name);
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "run"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for name in ["sh", "sleep", "cat", "ls", "true", "false", "stty", "tty", "kill", "ps", "head", "dd"] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
    root
}

/// The same as an image.
pub fn image(place: &Place, name: &str) -> String {
    let root = folder(place, &format!("{name}.tree"));
    let file = place.path(name);
    let made = Command::new("mksquashfs").arg(&root).arg(&file).args(["-quiet", "-noappend", "-no-progress"]).status();
    assert!(made.unwrap().success(), "mksquashfs");
    file.to_str().unwrap().to_owned()
}
