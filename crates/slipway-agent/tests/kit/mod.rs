//! A node service as a process, in a mount namespace and directories of a test's own, and a small client that hides nothing.
#![allow(dead_code, reason = "not every test needs all of it")]

pub(crate) mod guest;

use serde_json::Value;
use slipway_lab::census::{CensusGuard, Scope};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Runs the rest of a test in a mount namespace of its own: true there.
pub(crate) fn inside(test: &str) -> bool {
    if std::env::var_os("SLIPWAY_TEST_INSIDE").is_some() {
        return true;
    }
    let done = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", test])
        .env("SLIPWAY_TEST_INSIDE", "1")
        .status()
        .unwrap();
    assert!(done.success());
    false
}

pub(crate) fn tool(program: &str, args: &[&str]) -> String {
    let said = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(said.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8_lossy(&said.stdout).into_owned()
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LONG, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Directories, and a service that works in them.
pub(crate) struct Lab {
    pub(crate) service: Option<Service>,
    census: Option<CensusGuard>,
    top: tempfile::TempDir,
}

impl Lab {
    /// Without a service yet.
    pub(crate) fn empty() -> Self {
        let top = tempfile::Builder::new().prefix("serve").tempdir().unwrap();
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let census = CensusGuard::new(Scope::below(top.path()));
        Self { service: None, census: Some(census), top }
    }

    pub(crate) fn new() -> Self {
        Self::with(&[], &[])
    }

    pub(crate) fn with(args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut lab = Self::empty();
        lab.start(args, env);
        lab
    }

    pub(crate) fn start(&mut self, args: &[&str], env: &[(&str, &str)]) {
        self.service = Some(Service::start(&self.command(args, env), &self.socket()));
    }

    /// The words of a service of this lab.
    pub(crate) fn command(&self, args: &[&str], env: &[(&str, &str)]) -> Words {
        let at = |name: &str| self.at(name).display().to_string();
        let mut words = vec!["serve".to_owned()];
        for (option, name) in [("--socket", "sock"), ("--run-dir", "run"), ("--state-dir", "state")] {
            if !args.contains(&option) {
                words.extend([option.to_owned(), at(name)]);
            }
        }
        words.extend(args.iter().map(|word| (*word).to_owned()));
        Words { words, env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect() }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.at("sock")
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    /// Asks the service over its socket.
    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let text = body.map(ToString::to_string);
        let json = ("Content-Type", "application/json");
        let headers: &[(&str, &str)] = if body.is_some() { &[json] } else { &[] };
        self.ask_raw(method, path, headers, text.unwrap_or_default().as_bytes())
    }

    pub(crate) fn ask_raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        exchange(stream, method, path, headers, body)
    }

    pub(crate) fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.ask(method, &format!("/imageapi/v1/{path}"), body)
    }

    pub(crate) fn post(&self, path: &str, body: Value) -> Answer {
        self.api("POST", path, Some(&body))
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.api("GET", path, None)
    }

    /// The one object of a list.
    #[track_caller]
    pub(crate) fn one(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let list = answer.json();
        assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
        list[0].clone()
    }

    /// A small system as a directory: busybox and what it needs.
    pub(crate) fn tree(&self) -> String {
        let root = self.at("root");
        for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "run"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        if !root.join("bin/busybox").exists() {
            fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
            for name in ["sh", "sleep", "cat", "ls", "id", "true", "false", "echo", "stty", "head", "tr"] {
                symlink("busybox", root.join("bin").join(name)).unwrap();
            }
            fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\njan:x:1234:4321::/:/bin/sh\n").unwrap();
        }
        root.display().to_string()
    }

    /// The same as a squashfs image.
    pub(crate) fn image(&self) -> String {
        let (tree, image) = (self.tree(), self.path("image.sqfs"));
        if !Path::new(&image).exists() {
            tool("mksquashfs", &[&tree, &image, "-quiet", "-noappend"]);
        }
        image
    }

    /// A mount of the tree.
    pub(crate) fn bound(&self) -> Value {
        serde_json::json!({"kind": "bind", "bind": {"path": self.tree(), "base": "root"}})
    }

    /// A loop device of the image, with its file system, under an overlay.
    pub(crate) fn nested(&self) -> Value {
        let attach = serde_json::json!({"kind": "loopback", "loopback": {"path": self.image(), "base": "root"}});
        let mount = serde_json::json!({"kind": "attach", "attach": {"fs_type": "squashfs", "attach": attach}});
        serde_json::json!({"kind": "overlay", "overlay": {"lower": [mount]}})
    }

    /// Ends the service and removes what it mounted; fails the test if anything else is left.
    pub(crate) fn close(mut self) {
        for container in self.get("container").json().as_array().unwrap().clone() {
            let path = format!("container?id={}&force=true", container["id"]);
            assert_eq!(self.api("DELETE", &path, None).status, 200);
        }
        for kind in ["mount", "attach"] {
            let mut list = self.get(kind).json().as_array().unwrap().clone();
            list.reverse();
            for object in list {
                self.api("DELETE", &format!("{kind}?id={}&force=true", object["id"]), None);
            }
            until("all is gone", || self.get(kind).json().as_array().unwrap().is_empty());
        }
        let status = self.service.take().unwrap().stop();
        assert_eq!(status.code(), Some(0));
        tool("umount", &[&self.path("run")]);
        self.census.take().unwrap().check();
    }

    /// For a lab without a service, or whose service has ended.
    pub(crate) fn forget(mut self) {
        drop(self.service.take());
        let _ = Command::new("umount").arg(self.at("run")).stderr(Stdio::null()).status();
        self.census.take().unwrap().check();
    }
}

/// A test that failed leaves no process and no loop device.
impl Drop for Lab {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        drop(self.service.take());
        let top = self.top.path().display().to_string();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if !String::from_utf8_lossy(&words).contains(&top) {
                continue;
            }
            // A shim, and the init below it.
            let pid = entry.file_name().to_string_lossy().into_owned();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            let pids: Vec<&str> = std::iter::once(pid.as_str()).chain(children.split_whitespace()).collect();
            let _ = Command::new("kill").arg("-KILL").args(&pids).status();
        }
        let loops = Command::new("losetup").args(["-l", "-n", "-O", "NAME,BACK-FILE"]).output().unwrap();
        for line in String::from_utf8_lossy(&loops.stdout).lines().filter(|line| line.contains(&top)) {
            let _ = Command::new("losetup").args(["-d", line.split(' ').next().unwrap()]).status();
        }
        // Its mounts end with the test's mount namespace, but the folder is removed before.
        let _ =
            Command::new("umount").args(["--recursive", "--lazy", &self.path("run")]).stderr(Stdio::null()).status();
        std::mem::forget(self.census.take());
    }
}

/// A command line of the service.
#[derive(Clone)]
pub(crate) struct Words {
    words: Vec<String>,
    env: Vec<(String, String)>,
}

impl Words {
    pub(crate) fn command(&self) -> Command {
        // What whoever runs the tests has left open is not for processes that may outlive them.
        let close = "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; exec \"$0\" \"$@\"";
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", close, env!("CARGO_BIN_EXE_slipway-agent")])
            .args(&self.words)
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Runs it where it must refuse: exit code and what it said.
    pub(crate) fn refused(&self) -> (i32, String) {
        let output = self.command().output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A service that runs; killed when it is dropped.
pub(crate) struct Service {
    pub(crate) child: Child,
    /// Where it said that it listens, without the socket.
    pub(crate) addresses: Vec<String>,
    log: std::sync::Arc<std::sync::Mutex<String>>,
}

impl Service {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(words: &Words, socket: &Path) -> Self {
        let mut child = words.command().spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let wanted = 1 + words.words.iter().filter(|word| *word == "--listen").count();
        let mut addresses = Vec::new();
        while addresses.len() < wanted {
            let line = lines.next().unwrap_or_else(|| panic!("it ended: {}", log.lock().unwrap())).unwrap();
            addresses.extend(line.strip_prefix("slipway-agent serve: ready on ").map(str::to_owned));
            log.lock().unwrap().push_str(&(line + "\n"));
        }
        addresses.retain(|address| *address != format!("unix:{}", socket.display()));
        let kept = log.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                kept.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Self { child, addresses, log }
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn terminate(&self) {
        tool("kill", &["-TERM", &self.child.id().to_string()]);
    }

    pub(crate) fn stop(mut self) -> ExitStatus {
        self.terminate();
        self.child.wait().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|why| panic!("{why}: {}", self.text()))
    }

    /// The object of a success.
    #[track_caller]
    pub(crate) fn made(&self) -> Value {
        assert_eq!(self.status, 201, "{}", self.text());
        self.json()
    }

    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// Status, code and message of a refusal.
    #[track_caller]
    pub(crate) fn refusal(&self) -> (u16, u64, String) {
        let body = self.json();
        (self.status, body["code"].as_u64().unwrap(), body["message"].as_str().unwrap().to_owned())
    }
}

/// One request over a stream of its own.
pub(crate) fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() && !headers.iter().any(|(name, _)| *name == "Transfer-Encoding" || *name == "Content-Length") {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    // A service that refuses early does not read it all.
    let _ = stream.write_all(body);
    answer_read(stream)
}

pub(crate) fn answer_read(stream: impl Read) -> Answer {
    let mut reader = BufReader::new(stream);
    let (status, headers) = head_read(&mut reader);
    let mut body = Vec::new();
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    if chunked {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let len = usize::from_str_radix(line.trim(), 16).unwrap();
            let mut part = vec![0; len + 2];
            reader.read_exact(&mut part).unwrap();
            body.extend_from_slice(&part[..len]);
            if len == 0 {
                break;
            }
        }
    } else if let Some((_, len)) = headers.iter().find(|(name, _)| name == "content-length") {
        body = vec![0; len.parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
    }
    Answer { status, headers, body }
}

/// Status and headers.
pub(crate) fn head_read(reader: &mut impl BufRead) -> (u16, Vec<(String, String)>) {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {line:?}")).parse().unwrap();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_lowercase(), value.to_owned())),
            None => return (status, headers),
        }
    }
}

/// A TCP connection to `http://ADDR:PORT`.
pub(crate) fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}
