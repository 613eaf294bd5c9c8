//! What runs in a guest: the service, and whoever asks it for containers and looks at the clock.

use crate::image::succeed;
use crate::{Tried, wrong};
use serde_json::{Value, json};
use slipway_api::node::{AttachKind, MountKind};
use slipway_lab::conformance::Client;
use slipway_node::{Driver, Kernel, Linux, Make, Proof, What};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SOCKET: &str = "/run/node.sock";
const RUN: &str = "/run/slipway";
/// An init that ends as soon as it is asked to.
const COOPERATIVE: &str = "trap 'exit 0' TERM; while true; do sleep 1000 & wait; done";
/// The first process of a namespace hears only signals that it handles: the shell needs a moment to say that it does.
const MOMENT: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(60);

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn client() -> Tried<Client> {
    Client::new(&format!("unix:{SOCKET}"), None)
}

/// A request that must succeed.
fn ok(client: &Client, method: &str, path: &str, body: Option<&Value>) -> Tried<Value> {
    match client.call(method, path, body)? {
        (status, answer) if (200..300).contains(&status) => Ok(answer),
        (status, answer) => Err(format!("{method} {path}: {status} {answer}")),
    }
}

/// The lines of a shell that start the service and wait until it answers.
pub(crate) fn serve_lines(agent: &str) -> String {
    format!(
        "{agent} serve --socket {SOCKET} --run-dir {RUN} --state-dir /var/lib/slipway-node </dev/null >/run/node.log 2>&1 &\n\
         for i in $(seq 300); do [ -S {SOCKET} ] && exit 0; sleep 0.1; done; cat /run/node.log >&2; exit 1\n"
    )
}

/// Until the kernel has nothing of the service any more.
fn clean_wait() -> Tried<()> {
    let begun = Instant::now();
    loop {
        let mounts = fs::read_to_string("/proc/mounts").map_err(wrong("reading /proc/mounts"))?;
        let left: Vec<_> = mounts.lines().filter(|line| line.contains(&format!(" {RUN}/"))).collect();
        let loops = (0..8).any(|n| Path::new(&format!("/sys/block/loop{n}/loop/backing_file")).exists());
        if left.is_empty() && !loops {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("left over: {left:?}, loop devices: {loops}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Times of one side, in milliseconds: until an init was executed, and until nothing was left of it.
#[derive(Default)]
struct Times {
    begin: Vec<f64>,
    end: Vec<f64>,
}

impl Times {
    fn add(&mut self, (begin, end): (f64, f64)) {
        self.begin.push(begin);
        self.end.push(end);
    }

    fn json(&self) -> Value {
        json!({"begin": self.begin, "end": self.end})
    }
}

/// Ours and crun in turn: with the mounts as part of the work on both sides, and on a mount that is there on both.
pub(crate) fn beside(agent: &str, image: &Path, runs: usize) -> Tried<Value> {
    succeed(Command::new("/bin/sh").args(["-c", &serve_lines(agent)]))?;
    // The inits that crun leaves behind are then ours to wait for.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|why| why.to_string())?;
    let client = client()?;
    let mounts = Mounts::new(image)?;
    let nested = json!({"kind": "overlay", "overlay": {"lower": [{"kind": "attach", "attach": {"fs_type": "squashfs", "attach": mounts.attach}}]}});
    let [mut nested_ours, mut nested_crun, mut plain_ours, mut plain_crun] = <[Times; 4]>::default();
    // One of each before, which is not counted: it reads the programs from this machine.
    for n in 0..=runs {
        let ours = ours_once(&client, &nested)?;
        clean_wait()?;
        let crun = crun_mounted_once(&mounts)?;
        let there = ok(&client, "POST", "/mount", Some(&nested))?;
        let at = there["mountpoint"].as_str().ok_or("a mount without a mountpoint")?;
        let ours_there = ours_once(&client, &json!({"id": there["id"]}))?;
        let crun_there = crun_once(Path::new(at))?;
        ok(&client, "DELETE", &format!("/mount?id={}", there["id"]), None)?;
        clean_wait()?;
        if n > 0 {
            nested_ours.add(ours);
            nested_crun.add(crun);
            plain_ours.add(ours_there);
            plain_crun.add(crun_there);
        }
    }
    Ok(json!({
        "nested": {"ours": nested_ours.json(), "crun": nested_crun.json()},
        "plain": {"ours": plain_ours.json(), "crun": plain_crun.json()},
    }))
}

/// A container of ours from the request until it is gone, its own mounts included.
fn ours_once(client: &Client, mount: &Value) -> Tried<(f64, f64)> {
    let command = format!("/bin/sh -c \"{COOPERATIVE}\"");
    let container = json!({"name": "one", "command": command, "state": "running", "mount": mount});
    let begun = Instant::now();
    let made = ok(client, "POST", "/container", Some(&container))?;
    let begin = ms(begun);
    if made["state"] != "running" {
        return Err(format!("not running: {made}"));
    }
    std::thread::sleep(MOMENT);
    let begun = Instant::now();
    ok(client, "PATCH", "/container?name=one&state=exited", None)?;
    ok(client, "DELETE", "/container?name=one", None)?;
    let has_mounts = mount["id"].is_null();
    if has_mounts {
        clean_wait()?;
    }
    Ok((begin, ms(begun)))
}

/// `crun run` until its init was executed, and `crun kill` and `crun delete` until it is gone.
fn crun_once(root: &Path) -> Tried<(f64, f64)> {
    let bundle = Path::new("/run/bundle");
    fs::create_dir_all(bundle).map_err(wrong("making a bundle"))?;
    fs::write(bundle.join("config.json"), crun_config(root).to_string()).map_err(wrong("writing a bundle"))?;
    let crun = |words: &[&str]| {
        // Its init keeps what it was given.
        let status = Command::new("crun")
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .status();
        match status.map_err(wrong("crun"))? {
            status if status.success() => Ok(()),
            status => Err(format!("crun {}: {status}", words.join(" "))),
        }
    };
    let begun = Instant::now();
    crun(&["run", "--detach", "--bundle", "/run/bundle", "--pid-file", "/run/crun-pid", "one"])?;
    let begin = ms(begun);
    let pid = fs::read_to_string("/run/crun-pid").map_err(wrong("reading the pid"))?;
    let pid = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw).ok_or("crun wrote no pid")?;
    std::thread::sleep(MOMENT);
    let begun = Instant::now();
    crun(&["kill", "one", "TERM"])?;
    rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
        .map_err(|why| format!("waiting: {why}"))?;
    crun(&["delete", "one"])?;
    Ok((begin, ms(begun)))
}

/// The same mounts as ours has, made by the same system calls in this process, as part of the time.
fn crun_mounted_once(mounts: &Mounts) -> Tried<(f64, f64)> {
    let begun = Instant::now();
    let made = mounts.make()?;
    let making = ms(begun);
    let (begin, end) = crun_once(Path::new(&made.overlay.mountpoint))?;
    let begun = Instant::now();
    mounts.undo(&made)?;
    Ok((making + begin, end + ms(begun)))
}

/// Loop device, squashfs and overlay, without a service.
struct Mounts {
    linux: std::sync::Arc<Linux>,
    attach: Value,
}

struct Made {
    device: Proof,
    squashfs: Proof,
    overlay: Proof,
}

const LOOP: Driver = Driver::Attach(AttachKind::Loopback);
const SQUASHFS: Driver = Driver::Mount(MountKind::Attach);
const OVERLAY: Driver = Driver::Mount(MountKind::Overlay);

impl Mounts {
    fn new(image: &Path) -> Tried<Self> {
        let linux = Linux::open(Path::new("/run/crun-mounts"), Path::new("/run/crun-state"));
        let linux = linux.map_err(|why| format!("opening a directory for crun's mounts: {why:?}"))?;
        let attach = json!({"kind": "loopback", "loopback": {"path": image, "base": "root", "ro": true}});
        Ok(Self { linux: linux.into(), attach })
    }

    fn make(&self) -> Tried<Made> {
        let make = |id, what, on: &[&Proof]| {
            let make = Make { id, what, on: on.iter().map(|proof| (*proof).clone()).collect() };
            self.linux.make(&make).map_err(|why| format!("mounting for crun: {why:?}"))
        };
        let bad = |why: serde_json::Error| why.to_string();
        let attach = serde_json::from_value(self.attach.clone()).map_err(bad)?;
        let device = make(1, What::Attach(Box::new(attach)), &[])?;
        let mount = json!({"kind": "attach", "attach": {"fs_type": "squashfs"}});
        let mount = serde_json::from_value(mount).map_err(bad)?;
        let squashfs = make(2, What::Mount(Box::new(mount)), &[&device])?;
        let mount = serde_json::from_value(json!({"kind": "overlay", "overlay": {}})).map_err(bad)?;
        let overlay = make(3, What::Mount(Box::new(mount)), &[&squashfs])?;
        Ok(Made { device, squashfs, overlay })
    }

    fn undo(&self, made: &Made) -> Tried<()> {
        for (id, driver, proof) in [(3, OVERLAY, &made.overlay), (2, SQUASHFS, &made.squashfs), (1, LOOP, &made.device)]
        {
            self.linux.undo(id, driver, Some(proof)).map_err(|why| format!("unmounting for crun: {why:?}"))?;
        }
        Ok(())
    }
}

/// As much as a container of ours has without being asked for more.
fn crun_config(root: &Path) -> Value {
    let mount = |kind: &str, to: &str, options: &[&str]| json!({"destination": to, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", COOPERATIVE], "env": ["PATH=/bin"], "cwd": "/"},
        "root": {"path": root},
        "mounts": [
            mount("proc", "/proc", &[]), mount("sysfs", "/sys", &["ro"]), mount("tmpfs", "/dev", &[]), mount("devpts", "/dev/pts", &["newinstance"]),
            mount("tmpfs", "/dev/shm", &[]), mount("mqueue", "/dev/mqueue", &[]),
        ],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]},
    })
}

/// Has the service make the container whose description is on stdin, and waits until its init has ended. Times in milliseconds.
pub(crate) fn begin() -> Tried<Value> {
    let container: Value = serde_json::from_reader(std::io::stdin()).map_err(|why| why.to_string())?;
    let client = client()?;
    let mut events = UnixStream::connect(SOCKET).map_err(wrong("connecting"))?;
    events.set_read_timeout(Some(PATIENCE)).map_err(wrong("setting a limit"))?;
    events.write_all(b"GET /imageapi/v1/events HTTP/1.1\r\nHost: node\r\n\r\n").map_err(wrong("following events"))?;
    let mut events = BufReader::new(events).lines();
    // It follows from where the head of the answer was sent.
    if !events.next().is_some_and(|line| line.is_ok_and(|line| line.contains(" 200 "))) {
        return Err("the service shows no events".into());
    }
    let begun = Instant::now();
    let made = ok(&client, "POST", "/container", Some(&container))?;
    let running = ms(begun);
    if !matches!(made["state"].as_str(), Some("running" | "exited")) {
        return Err(format!("did not start: {made}"));
    }
    loop {
        let line = events.next().ok_or("the events ended")?.map_err(wrong("following events"))?;
        if line.contains("container.exited") || line.contains("container.dead") {
            break;
        }
    }
    let ended = ms(begun);
    let after = ok(&client, "GET", "/container?name=one", None)?;
    match after[0]["exit"]["code"].as_i64() {
        Some(0) => Ok(json!({"running": running, "ended": ended})),
        code => {
            Err(format!("the first act ended with {code:?}: other bytes than there should be, or none: {}", after[0]))
        }
    }
}

/// Deletes it, and waits until nothing of it is left.
pub(crate) fn end() -> Tried<Value> {
    let client = client()?;
    ok(&client, "DELETE", "/container?name=one", None)?;
    let begun = Instant::now();
    loop {
        let left = [ok(&client, "GET", "/mount", None)?, ok(&client, "GET", "/attach", None)?];
        if left.iter().all(|list| list.as_array().is_some_and(Vec::is_empty)) {
            return clean_wait().map(|()| Value::Null);
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("left over: {left:?}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
