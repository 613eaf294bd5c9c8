//! `attach` of kind `slipway` as a node does it: `slipway serve`, `slipway-agent serve` and the kernel's NBD client, all in one guest in
//! which this program runs itself.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::client::Client;
use kit::image::{Chance, image_dense};
use kit::server::{Place, Server};
use kit::{seed, text, tool_run};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use slipway_lab::{Guest, GuestSpec, Root};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs the rest of a test in a guest: true there.
fn inside(test: &str) -> bool {
    if std::env::var_os("SLIPWAY_TEST_INSIDE").is_some() {
        return true;
    }
    if !agent().exists() {
        println!("ignored: {test} (needs 'cargo build -p slipway-agent')");
        return false;
    }
    let mut spec = GuestSpec::new(Root::Host).with_modules(&["ext4"]);
    spec.memory_mib = 768;
    let guest = Guest::boot(&spec).unwrap();
    let program = std::env::current_exe().unwrap();
    let line = format!("exec {} --ignored --exact --nocapture {test} 2>&1", program.display());
    let seed = seed(test);
    let job = guest
        .begin(&format!("export SLIPWAY_TEST_INSIDE=1 SLIPWAY_TEST_SEED={seed} RUST_BACKTRACE=1\n{line}"))
        .unwrap();
    let out = job.finish(Duration::from_secs(400)).unwrap();
    println!("{}", out.stdout);
    assert_eq!(out.code, 0, "{}", guest.console());
    assert!(out.stdout.contains("1 passed"), "the guest ran no test");
    false
}

fn agent() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_slipway")).with_file_name("slipway-agent")
}

fn shell(line: &str) -> String {
    tool_run("sh", &["-ec", line])
}

fn wait(limit: Duration, what: &str, mut until: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !until() {
        assert!(begun.elapsed() < limit, "{what}: not in {limit:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A running `slipway-agent serve`.
struct Node {
    child: Child,
    folder: PathBuf,
}

impl Node {
    fn start(folder: &Path) -> Self {
        let node = Self::begin(folder, None);
        let up = || std::os::unix::net::UnixStream::connect(node.folder.join("node.sock")).is_ok();
        wait(Duration::from_secs(60), "the node serves", up);
        node
    }

    /// Does not wait for it; it dies at a crash point.
    fn begin(folder: &Path, crash_at: Option<&str>) -> Self {
        let at = |name: &str| folder.join(name);
        let log = fs::File::options().create(true).append(true).open(at("node.log")).unwrap();
        let mut command = Command::new(agent());
        command.arg("serve").arg("--socket").arg(at("node.sock"));
        command.arg("--run-dir").arg(at("run")).arg("--state-dir").arg(at("state"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        if let Some(point) = crash_at {
            command.env("SLIPWAY_NODE_CRASH_AT", point);
        }
        Self { child: command.spawn().unwrap(), folder: folder.to_owned() }
    }

    /// Status and body of a request.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let socket = self.folder.join("node.sock");
        let url = format!("http://node/imageapi/v1/{path}");
        let mut words =
            vec!["-sS", "--max-time", "90", "-w", "\n%{http_code}", "--unix-socket", text(&socket), "-X", method, &url];
        if !body.is_empty() {
            words.extend(["-H", "content-type: application/json", "-d", body]);
        }
        let said = tool_run("curl", &words);
        let (body, code) = said.rsplit_once('\n').unwrap();
        (code.trim().parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn attach(&self, url: &str, reference: &str, token: &str) -> (u16, Value) {
        let body =
            format!(r#"{{"kind":"slipway","slipway":{{"ref":"{reference}","server":"{url}","token_ref":"{token}"}}}}"#);
        self.ask("POST", "attach", &body)
    }

    fn delete(&self, kind: &str, id: u64) {
        let (code, said) = self.ask("DELETE", &format!("{kind}?id={id}"), "");
        assert_eq!(code, 200, "{said}");
    }

    fn health(&self, id: u64) -> String {
        let (_, said) = self.ask("GET", &format!("attach?id={id}"), "");
        said[0]["health"].as_str().unwrap_or("ready").to_owned()
    }

    fn kill(mut self) -> PathBuf {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.folder.clone()
    }

    /// No device, no folder and no process of ours.
    fn census(&self) {
        assert_eq!(shell("cat /sys/block/nbd*/pid /sys/block/nbd*/backend 2>/dev/null || true"), "");
        for dir in ["run/nbd", "run/exports", "run/mounts"] {
            assert_eq!(fs::read_dir(self.folder.join(dir)).unwrap().count(), 0, "{dir}");
        }
        wait(Duration::from_secs(5), "no export is left", || exports().is_empty());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the node\n{}", fs::read_to_string(self.folder.join("node.log")).unwrap_or_default());
            eprintln!(
                "--- its exports\n{}",
                shell(&format!("cat {}/run/exports/*/log || true", self.folder.display()))
            );
        }
    }
}

/// The processes that give versions.
fn exports() -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == b"export")
    })
    .collect()
}

/// Reads all of a device, past the page cache, in pieces: each is right or an error. Gives the number of errors.
fn errors(device: &str, bytes: &[u8]) -> usize {
    shell(&format!("blockdev --flushbufs {device}"));
    let file = fs::File::open(device).unwrap();
    let mut failed = 0;
    for (index, wanted) in bytes.chunks(64 << 10).enumerate() {
        let mut piece = vec![0; wanted.len()];
        match file.read_exact_at(&mut piece, (index * (64 << 10)) as u64) {
            Ok(()) => assert!(piece == wanted, "piece {index} is wrong"),
            Err(_) => failed += 1,
        }
    }
    failed
}

fn push(client: &Client, folder: &Path, image: &str, bytes: &[u8]) {
    let path = folder.join("push.raw");
    fs::write(&path, bytes).unwrap();
    client.ok(&["push", text(&path), image]);
    fs::remove_file(&path).unwrap();
}

/// Changes a byte in the middle of every pack of the store.
fn packs_damage(folder: &Path) -> usize {
    let mut damaged = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let (path, facts) = (entry.path(), entry.metadata().unwrap());
            if facts.is_dir() {
                folders.push(path);
            } else if path.components().any(|part| part.as_os_str() == "packs") && facts.len() > 100_000 {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
                let file = fs::File::options().read(true).write(true).open(&path).unwrap();
                let mut byte = [0];
                file.read_exact_at(&mut byte, facts.len() / 2).unwrap();
                file.write_all_at(&[!byte[0]], facts.len() / 2).unwrap();
                damaged += 1;
            }
        }
    }
    damaged
}

#[test]
#[ignore = "needs root"]
fn root_a_version_is_a_device_of_a_node() {
    slipway_lab::once_more(root_a_version_is_a_device_of_a_node_once);
}

fn root_a_version_is_a_device_of_a_node_once() {
    if !inside("root_a_version_is_a_device_of_a_node") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let top = folder.path();
    let mut chance = Chance::new(seed("attach"));
    let server = Server::start(&Place::new(&top.join("server")));
    let client = server.admin();
    // An ext4 disk with something in it, and after it another version of the same image.
    let tree = top.join("tree");
    fs::create_dir(&tree).unwrap();
    let big = image_dense(chance.next(), 4 << 20);
    fs::write(tree.join("big"), &big).unwrap();
    fs::write(tree.join("hello"), "from the catalogue\n").unwrap();
    let disk = top.join("disk.raw");
    shell(&format!("truncate -s 12M {0}; mke2fs -q -t ext4 -d {1} {0}", disk.display(), tree.display()));
    let first = fs::read(&disk).unwrap();
    push(&client, top, "me/os", &first);
    fs::create_dir(top.join("node")).unwrap();
    let node = Node::start(&top.join("node"));
    let credentials = node.folder.join("state/credentials");
    fs::write(credentials.join("catalogue"), format!("{}\n", client.token)).unwrap();
    fs::write(credentials.join("open"), &client.token).unwrap();
    fs::write(credentials.join("wrong"), "slp_nobodys").unwrap();
    for (name, mode) in [("catalogue", 0o600), ("open", 0o644), ("wrong", 0o600)] {
        fs::set_permissions(credentials.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    // What is wrong is said, and nothing is left of it.
    for (reference, url, token, code, word) in [
        ("me/none", &*client.url, "catalogue", 400, "none"),
        ("me/os:7", &client.url, "catalogue", 400, "7"),
        ("os", &client.url, "catalogue", 400, "slipway.ref"),
        ("me/os", &client.url, "wrong", 400, "token"),
        ("me/os", &client.url, "open", 400, "chmod 600"),
        ("me/os", &client.url, "none", 400, "is not there"),
        ("me/os", &client.url, "../../etc/shadow", 400, "slash"),
        ("me/os", "http://127.0.0.1:9", "catalogue", 500, "127.0.0.1:9"),
    ] {
        let (status, said) = node.attach(url, reference, token);
        let shown = said.to_string();
        assert!(status == code && shown.contains(word), "{reference} {url} {token}: {status} {shown}");
        assert!(!shown.contains(&client.token));
        node.census();
    }
    let (status, said) = node.attach(&client.url, "me/os", "catalogue");
    assert_eq!(status, 201, "{said}");
    let (id, device) = (said["id"].as_u64().unwrap(), said["device_file"].as_str().unwrap().to_owned());
    assert_eq!(shell(&format!("blockdev --getro --getsize64 {device}")), format!("1\n{}\n", first.len()));
    assert_eq!(errors(&device, &first), 0);
    // The token is nowhere but in its file.
    let found =
        shell(&format!("cd {}; grep -rlF -e '{}' run state node.log || true", node.folder.display(), client.token));
    let mut lines: Vec<_> = found.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["state/credentials/catalogue", "state/credentials/open"]);
    for pid in exports().into_iter().chain([node.child.id()]) {
        for file in ["cmdline", "environ"] {
            let words = fs::read(format!("/proc/{pid}/{file}")).unwrap();
            assert!(!String::from_utf8_lossy(&words).contains(&client.token), "{pid} {file}");
        }
    }
    // The name moves on, the device does not: not now, and not when its process is killed and started again.
    push(&client, top, "me/os", &image_dense(chance.next(), 12 << 20));
    let was = exports();
    assert_eq!(was.len(), 1);
    kill_process(Pid::from_raw(was[0].cast_signed()).unwrap(), Signal::KILL).unwrap();
    assert_eq!(errors(&device, &first), 0);
    let now = exports();
    assert!(now.len() == 1 && now != was, "{was:?} {now:?}");
    wait(Duration::from_secs(5), "it is well", || node.health(id) == "ready");
    // A mount on it, by another attachment within; in use it stays.
    let body =
        format!(r#"{{"kind":"attach","attach":{{"fs_type":"ext4","mount_options":["ro"],"attach":{{"id":{id}}}}}}}"#);
    let (status, said) = node.ask("POST", "mount", &body);
    assert_eq!(status, 201, "{said}");
    let (mount, place) = (said["id"].as_u64().unwrap(), said["mountpoint"].as_str().unwrap().to_owned());
    assert!(fs::read(Path::new(&place).join("big")).unwrap() == big);
    assert_eq!(node.ask("DELETE", &format!("attach?id={id}"), "").0, 409);
    node.delete("mount", mount);
    shell(&format!("mkdir -p /mnt/x; mount -t ext4 -o ro {device} /mnt/x"));
    let (status, said) = node.ask("DELETE", &format!("attach?id={id}&force=true"), "");
    assert!(status == 409 && said["holders"].to_string().contains("/mnt/x"), "{status} {said}");
    // The service dies: the device stays, and the next service finds it, with its process.
    let was = exports();
    let place = node.kill();
    shell("echo 3 > /proc/sys/vm/drop_caches");
    assert!(fs::read("/mnt/x/big").unwrap() == big);
    let node = Node::start(&place);
    assert_eq!(exports(), was);
    assert_eq!(node.health(id), "ready");
    // The process dies while no service runs.
    let place = node.kill();
    kill_process(Pid::from_raw(exports()[0].cast_signed()).unwrap(), Signal::KILL).unwrap();
    let node = Node::start(&place);
    shell("echo 3 > /proc/sys/vm/drop_caches");
    assert!(fs::read("/mnt/x/big").unwrap() == big);
    shell("umount /mnt/x");
    node.delete("attach", id);
    node.census();
    // Damage on the server is an error of what is damaged, and never a wrong byte.
    let dense = image_dense(chance.next(), 8 << 20);
    push(&client, top, "me/dense", &dense);
    let (status, said) = node.attach(&client.url, "me/dense:0", "catalogue");
    assert_eq!(status, 201, "{said}");
    let (id, device) = (said["id"].as_u64().unwrap(), said["device_file"].as_str().unwrap().to_owned());
    let damaged = packs_damage(&server.place.data());
    assert!(damaged > 0);
    let failed = errors(&device, &dense);
    println!("{damaged} packs damaged, {failed} of {} pieces failed", dense.len() / (64 << 10));
    assert!(failed > 0 && failed < dense.len() / (64 << 10));
    // The server goes: what is not here fails in its time, and everything can be removed.
    let place = server.kill();
    shell(&format!("blockdev --flushbufs {device}"));
    let begun = Instant::now();
    let mut sector = [0; 512];
    if fs::File::open(&device).unwrap().read_exact_at(&mut sector, 5 << 20).is_ok() {
        assert!(sector == dense[5 << 20..][..512]);
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    // What was damaged is not in memory: a read of it asks the server, and that it is away is said until it is back.
    let file = fs::File::open(&device).unwrap();
    let mut piece = vec![0; 64 << 10];
    let pieces = (dense.len() / piece.len()) as u64;
    assert!((0..pieces).any(|n| file.read_exact_at(&mut piece, n * (64 << 10)).is_err()));
    drop(file);
    wait(Duration::from_secs(20), "it is said", || node.health(id) == "degraded");
    let (_, said) = node.ask("GET", &format!("attach?id={id}"), "");
    assert!(said[0]["error"]["text"].as_str().unwrap().contains("the Slipway server is away"), "{said}");
    let server = Server::start(&place);
    wait(Duration::from_secs(20), "it is well", || node.health(id) == "ready");
    let place = server.kill();
    node.delete("attach", id);
    node.census();
    drop(place);
    let place = node.kill();
    shell(&format!("umount {}/run", place.display()));
}

/// The points of an attachment's export at which a crash would matter.
const POINTS: [&str; 8] = [
    "exports.folder.after",
    "exports.spawn.before",
    "exports.spawn.after",
    "exports.status.after",
    "exports.ready.after",
    "exports.stop.before",
    "exports.stop.ended",
    "exports.stop.after",
];

#[test]
#[ignore = "needs root"]
fn root_nothing_of_an_export_is_left_by_a_service_that_dies() {
    slipway_lab::once_more(root_nothing_of_an_export_is_left_by_a_service_that_dies_once);
}

fn root_nothing_of_an_export_is_left_by_a_service_that_dies_once() {
    if !inside("root_nothing_of_an_export_is_left_by_a_service_that_dies") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let top = folder.path();
    let mut chance = Chance::new(seed("attach"));
    let server = Server::start(&Place::new(&top.join("server")));
    let client = server.admin();
    push(&client, top, "me/os", &image_dense(chance.next(), 1 << 20));
    fs::create_dir(top.join("node")).unwrap();
    let mut place = Node::start(&top.join("node")).kill();
    let token = place.join("state/credentials/catalogue");
    fs::write(&token, &client.token).unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let body = format!(
        r#"{{"kind":"slipway","slipway":{{"ref":"me/os","server":"{}","token_ref":"catalogue"}}}}"#,
        client.url
    );
    for point in POINTS {
        let mut node = Node::begin(&place, Some(point));
        let socket = place.join("node.sock");
        let up = || std::os::unix::net::UnixStream::connect(&socket).is_ok();
        wait(Duration::from_secs(60), "the node serves", up);
        // It gets no answer when the service dies before.
        let ask = |method: &str, path: &str, body: &str| {
            let url = format!("http://node/imageapi/v1/{path}");
            let out = Command::new("curl")
                .args(["-sS", "--max-time", "90", "--unix-socket", text(&socket), "-X", method, &url])
                .args(["-H", "content-type: application/json", "-d", body])
                .output()
                .unwrap();
            serde_json::from_slice::<Value>(&out.stdout).unwrap_or(Value::Null)
        };
        if let Some(id) = ask("POST", "attach", &body)["id"].as_u64() {
            ask("DELETE", &format!("attach?id={id}"), "");
        }
        wait(Duration::from_secs(20), point, || node.child.try_wait().unwrap().is_some());
        drop(node);
        let node = Node::start(&place);
        let (_, left) = node.ask("GET", "attach", "");
        println!("{point}: {left}");
        for object in left.as_array().unwrap() {
            node.delete("attach", object["id"].as_u64().unwrap());
        }
        node.census();
        place = node.kill();
    }
    shell(&format!("umount {}/run", place.display()));
}
