//! Network block devices from real servers, by the kernel of a guest: this program runs itself in there.
#![allow(clippy::unwrap_used, reason = "a test")]

use slipway_api::node::{Attach, Health, Holder};
use slipway_lab::{Base, Guest, GuestSpec, Root, packages_unpack};
use slipway_node::{CRASH_POINTS, Draft, Linux, Node, NodeConfig, Phase, Refusal, Type, attach_view};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Runs the rest of a test in a guest: true there. The module nbd is not loaded, so that the driver has to.
fn inside(test: &str, packages: &[&str]) -> bool {
    if std::env::var_os("SLIPWAY_TEST_INSIDE").is_some() {
        return true;
    }
    let mut spec = GuestSpec::new(Root::Host).with_modules(&["squashfs", "ext4"]);
    if !packages.is_empty() {
        spec.layers.push(packages_unpack(packages, Base::Host).unwrap());
    }
    let guest = Guest::boot(&spec).unwrap();
    let program = std::env::current_exe().unwrap();
    let line = format!("exec {} --ignored --exact --nocapture {test} 2>&1", program.display());
    let job = guest.begin(&format!("export SLIPWAY_TEST_INSIDE=1 RUST_BACKTRACE=1\n{line}")).unwrap();
    let out = job.finish(Duration::from_secs(240)).unwrap();
    println!("{}", out.stdout);
    assert_eq!(out.code, 0, "{}", guest.console());
    assert!(out.stdout.contains("1 passed"), "the guest ran no test");
    false
}

fn shell(line: &str) -> String {
    let out = Command::new("sh").args(["-ec", line]).output().unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// A server that dies with the test, or when it is told to.
struct Server(Child);

impl Server {
    fn start(words: &[&str], ready: impl Fn() -> bool) -> Self {
        let mut child =
            Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        wait(Duration::from_secs(20), &format!("{words:?} listens"), || {
            assert!(child.try_wait().unwrap().is_none(), "{words:?} ended");
            ready()
        });
        Self(child)
    }

    fn on_socket(words: &[&str], socket: &Path) -> Self {
        let _ = fs::remove_file(socket);
        Self::start(words, || std::os::unix::net::UnixStream::connect(socket).is_ok())
    }

    fn signal(&self, name: &str) {
        shell(&format!("kill -{name} {}", self.0.id()));
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait(limit: Duration, what: &str, mut until: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !until() {
        assert!(begun.elapsed() < limit, "{what}: not in {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A service whose loop runs, as the program's does.
struct Service {
    node: Arc<Node<Linux>>,
    linux: Linux,
    end: Arc<AtomicBool>,
}

impl Service {
    fn start(top: &Path) -> Self {
        let (run, state) = (top.join("run"), top.join("state"));
        let linux = Linux::open(&run, &state).unwrap();
        let node = Node::open(linux.clone(), NodeConfig::default(), &run, &state, "this boot").unwrap();
        let end = Arc::new(AtomicBool::new(false));
        let (looped, ended) = (node.clone(), end.clone());
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                looped.reconcile();
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        Self { node, linux, end }
    }

    fn attach(&self, json: &str) -> Result<u64, Refusal> {
        let block = serde_json::from_str::<Attach>(&format!(r#"{{"kind":"nbd","nbd":{json}}}"#)).unwrap();
        self.node.create(Draft::attach(block)?, 0)
    }

    fn mount(&self, fs_type: &str, json: &str) -> Result<u64, Refusal> {
        let block =
            format!(r#"{{"kind":"attach","attach":{{"fs_type":"{fs_type}","attach":{{"kind":"nbd","nbd":{json}}}}}}}"#);
        self.node.create(Draft::mount(serde_json::from_str(&block).unwrap())?, 0)
    }

    fn view(&self, id: u64) -> Attach {
        self.node.read(|table| attach_view(table, table.get(id).unwrap()).unwrap())
    }

    fn device(&self, id: u64) -> String {
        self.view(id).device_file
    }

    fn place(&self, id: u64) -> PathBuf {
        self.node.read(|table| table.get(id).unwrap().proof.clone().unwrap().mountpoint.into())
    }

    fn delete(&self, id: u64, kind: Type) -> Result<(), Refusal> {
        self.node.delete(id, kind, false).map(drop)
    }

    /// Nothing of ours is left in the kernel, on disk or among the processes.
    fn census(&self, top: &Path) {
        let used = shell("cat /sys/block/nbd*/pid /sys/block/nbd*/backend 2>/dev/null || true");
        assert_eq!(used, "");
        for dir in ["run/nbd", "run/exports", "run/mounts"] {
            assert_eq!(fs::read_dir(top.join(dir)).unwrap().count(), 0, "{dir}");
        }
        assert_eq!(self.node.read(|table| table.iter().count()), 0);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let _ = self.linux.close();
    }
}

/// A disk and a squashfs image in a folder.
fn images(top: &Path) -> (String, String) {
    let at = |name: &str| top.join(name).display().to_string();
    let (tree, squashfs, disk) = (at("tree"), at("squashfs.img"), at("disk.img"));
    shell(&format!("mkdir {tree}; head -c 3000000 /dev/urandom > {tree}/big; echo hello > {tree}/hello"));
    shell(&format!("mksquashfs {tree} {squashfs} -quiet -noappend; truncate -s 16M {disk}; mke2fs -q -t ext4 {disk}"));
    (squashfs, disk)
}

/// Reads from a device past the page cache.
fn direct(device: &str, at: u64) -> (bool, Duration) {
    let begun = Instant::now();
    let read = Command::new("dd")
        .args([&format!("if={device}"), "of=/dev/null", "bs=4096", "count=1", "iflag=direct", &format!("skip={at}")])
        .stderr(Stdio::null())
        .status();
    (read.unwrap().success(), begun.elapsed())
}

#[test]
#[ignore = "needs root"]
fn root_nbd_from_real_servers() {
    slipway_lab::once_more(root_nbd_from_real_servers_once);
}

fn root_nbd_from_real_servers_once() {
    if !inside("root_nbd_from_real_servers", &["nbd-server", "nbdkit"]) {
        return;
    }
    let top = tempfile::tempdir().unwrap();
    let (squashfs, disk) = images(top.path());
    let service = Service::start(top.path());
    // nbd-server, which needs no other: two exports by name, on both addresses of loopback.
    let config = top.path().join("nbd.conf");
    fs::write(
        &config,
        format!(
            "[generic]\nlistenaddr = 127.0.0.1,::1\nallowlist = true\n[os]\nexportname = {squashfs}\nreadonly = true\n[disk]\nexportname = {disk}\nflush = true\n"
        ),
    )
    .unwrap();
    // It goes to the background by itself.
    shell(&format!("nbd-server -C {} -p /run/nbd-server.pid", config.display()));
    wait(Duration::from_secs(20), "nbd-server listens", || std::net::TcpStream::connect("127.0.0.1:10809").is_ok());
    let id = service.mount("squashfs", r#"{"host":"127.0.0.1","export":"os"}"#).unwrap();
    shell(&format!("cmp {}/tree/big {}/big", top.path().display(), service.place(id).display()));
    service.delete(id, Type::Mount).unwrap();
    service.census(top.path());
    // By IPv6, writable; what was written is on the server, and the device says what it is.
    let id = service.mount("ext4", r#"{"host":"[::1]","export":"disk"}"#).unwrap();
    fs::write(service.place(id).join("note"), "over the net").unwrap();
    service.delete(id, Type::Mount).unwrap();
    assert_eq!(shell(&format!("debugfs -R 'cat note' {disk} 2>/dev/null")), "over the net");
    let id = service.attach(r#"{"host":"::1","export":"disk","ro":true}"#).unwrap();
    let device = service.device(id);
    assert_eq!(shell(&format!("blockdev --getro --getsize64 --getss {device}")), "1\n16777216\n512\n");
    shell(&format!("cmp {device} {disk}"));
    service.delete(id, Type::Attach).unwrap();
    service.census(top.path());
    // What a server or a request has wrong is said, and nothing is left of it.
    for (json, status, word) in [
        (r#"{"host":"127.0.0.1","export":"none"}"#, 400, "has not the export 'none'"),
        (r#"{"host":"127.0.0.1","port":9}"#, 500, "Connection refused"),
        (r#"{"host":"no-such-host.invalid"}"#, 400, "nbd.host"),
        (r#"{"host":"127.0.0.1","export":"os","connections":17}"#, 400, "nbd.connections 17"),
        (r#"{"host":"127.0.0.1","export":"os","dead_timeout":86401}"#, 400, "nbd.dead_timeout"),
        (r#"{"socket":"/no/socket"}"#, 500, "/no/socket"),
        ("{}", 400, "nbd.host"),
    ] {
        let refusal = service.attach(json).unwrap_err();
        let text = refusal.problem.error.unwrap().text;
        assert!(refusal.status == status && text.contains(word), "{json}: {} {text}", refusal.status);
        service.census(top.path());
    }
    shell("kill $(cat /run/nbd-server.pid)");
    // nbdkit: large blocks, a small limit, several connections; TLS only; a size that is no device's.
    let socket = top.path().join("nbdkit.sock");
    let (path, unix) = (socket.to_str().unwrap(), format!(r#"{{"socket":"{}","connections":4}}"#, socket.display()));
    let server = Server::on_socket(
        &[
            "nbdkit",
            "-f",
            "-U",
            path,
            "--filter=blocksize-policy",
            "--filter=multi-conn",
            "file",
            &disk,
            "multi-conn-mode=unsafe",
            "blocksize-minimum=4096",
            "blocksize-preferred=4096",
            "blocksize-maximum=65536",
            "blocksize-error-policy=error",
        ],
        &socket,
    );
    let id = service.attach(&unix).unwrap();
    let device = service.device(id);
    let queue = device.replace("/dev/", "/sys/block/");
    assert_eq!(shell(&format!("blockdev --getro --getss {device}; cat {queue}/queue/max_sectors_kb")), "0\n4096\n64\n");
    shell(&format!("cmp {device} {disk}"));
    let written = fs::OpenOptions::new().write(true).open(&device).unwrap();
    written.write_all_at(&[7; 300_000], 1 << 20).unwrap();
    drop(written);
    service.delete(id, Type::Attach).unwrap();
    assert_eq!(&fs::read(&disk).unwrap()[1 << 20..][..300_000], &[7; 300_000]);
    service.census(top.path());
    server.kill();
    shell(&format!("echo me:0102030405060708090a0b0c0d0e0f10 > {0}/keys; chmod 600 {0}/keys", top.path().display()));
    let keys = format!("--tls-psk={}/keys", top.path().display());
    let server = Server::on_socket(&["nbdkit", "-f", "-U", path, "--tls=require", &keys, "memory", "1M"], &socket);
    let refusal = service.attach(&unix).unwrap_err();
    assert!(refusal.status == 400 && refusal.problem.error.unwrap().text.contains("only with TLS"));
    server.kill();
    let server = Server::on_socket(&["nbdkit", "-f", "-U", path, "memory", "1000000"], &socket);
    let refusal = service.attach(&unix).unwrap_err();
    assert!(refusal.status == 500 && refusal.problem.error.unwrap().text.contains("whole blocks of 512"));
    server.kill();
    service.census(top.path());
}

#[test]
#[ignore = "needs root"]
fn root_nbd_in_use_stays_and_servers_come_and_go() {
    slipway_lab::once_more(root_nbd_in_use_stays_and_servers_come_and_go_once);
}

fn root_nbd_in_use_stays_and_servers_come_and_go_once() {
    if !inside("root_nbd_in_use_stays_and_servers_come_and_go", &[]) {
        return;
    }
    let top = tempfile::tempdir().unwrap();
    let (squashfs, disk) = images(top.path());
    let mut service = Service::start(top.path());
    let socket = top.path().join("qemu.sock");
    let path = socket.to_str().unwrap();
    // It takes one client and no more.
    let serve = |image: &str| {
        let _ = fs::remove_file(&socket);
        let words = ["qemu-nbd", "-f", "raw", "-t", "-k", path, "-x", "os", image];
        Server::start(&words, || socket.exists())
    };
    let server = serve(&squashfs);
    let json = format!(r#"{{"socket":"{path}","export":"os","ro":true,"dead_timeout":5}}"#);
    let id = service.attach(&json).unwrap();
    let device = service.device(id);
    // In use: opened, then mounted by somebody else. It stays as it was, and the answer names who.
    let open = fs::File::open(&device).unwrap();
    let mut other = Command::new("sleep").arg("1000").stdin(open).spawn().unwrap();
    let refusal = service.delete(id, Type::Attach).unwrap_err();
    assert_eq!(refusal.status, 409);
    let held = |holder: &Holder| matches!(holder, Holder::Process { pid, .. } if *pid == other.id());
    assert!(refusal.problem.holders.iter().any(held), "{:?}", refusal.problem.holders);
    other.kill().unwrap();
    other.wait().unwrap();
    shell(&format!("mkdir -p /mnt/n; mount -t squashfs {device} /mnt/n"));
    let refusal = service.delete(id, Type::Attach).unwrap_err();
    let mounted = |holder: &Holder| matches!(holder, Holder::Mount { path, .. } if path == "/mnt/n");
    assert!(refusal.status == 409 && refusal.problem.holders.iter().any(mounted), "{:?}", refusal.problem.holders);
    assert_eq!(fs::read_to_string("/mnt/n/hello").unwrap(), "hello\n");
    // The server dies and comes back: a read that began meanwhile is answered.
    server.kill();
    wait(Duration::from_secs(3), "it is said", || service.view(id).health == Health::Degraded);
    let text = service.view(id).error.unwrap().text;
    assert!(text.contains(path) && text.contains("a request waits 5 s"), "{text}");
    let reader = std::thread::spawn({
        let device = device.clone();
        move || direct(&device, 100)
    });
    std::thread::sleep(Duration::from_secs(1));
    let server = serve(&squashfs);
    let (read, took) = reader.join().unwrap();
    assert!(read && took < Duration::from_secs(5), "{took:?}");
    wait(Duration::from_secs(3), "it is well", || service.view(id).health == Health::Ready);
    let told = || -> Vec<String> {
        let batch = service.node.events().after(0, Duration::ZERO);
        batch.events.into_iter().filter(|event| event.object == id).map(|event| event.what).collect()
    };
    wait(Duration::from_secs(3), "it is told", || told().ends_with(&["attach.recovered".to_owned()]));
    assert!(told().contains(&"attach.degraded".to_owned()), "{:?}", told());
    shell("echo 3 > /proc/sys/vm/drop_caches");
    shell(&format!("cmp {}/tree/big /mnt/n/big", top.path().display()));
    // The service dies and another finds the device; it does not disturb a connection that is well, and makes a dead one again.
    let again = |service: Service, top: &Path| {
        drop(service);
        Service::start(top)
    };
    service = again(service, top.path());
    assert_eq!(service.device(id), device);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(service.view(id).health, Health::Ready);
    service.end.store(true, Ordering::Relaxed);
    drop(service);
    server.kill();
    let server = serve(&squashfs);
    service = Service::start(top.path());
    let (read, took) = direct(&device, 200);
    assert!(read && took < Duration::from_secs(5), "{took:?}");
    wait(Duration::from_secs(5), "it is well", || service.view(id).health == Health::Ready);
    // Another disk is not taken for the first one.
    server.kill();
    let server = serve(&disk);
    wait(Duration::from_secs(10), "it is said", || {
        service.view(id).error.is_some_and(|error| error.text.contains("16777216 bytes now"))
    });
    server.kill();
    // Gone for good: an error within the time, no hang, and everything can be removed.
    let (read, took) = direct(&device, 300);
    assert!(!read && took < Duration::from_secs(8), "{read} {took:?}");
    let (read, took) = direct(&device, 301);
    assert!(!read && took < Duration::from_secs(1), "{read} {took:?}");
    assert_eq!(service.view(id).health, Health::Degraded);
    // Back after all.
    let server = serve(&squashfs);
    wait(Duration::from_secs(10), "it is well", || service.view(id).health == Health::Ready);
    assert!(direct(&device, 302).0);
    server.kill();
    shell("umount /mnt/n");
    let begun = Instant::now();
    service.delete(id, Type::Attach).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(8));
    service.census(top.path());
    // A server that is held still, with the kernel's timer against it.
    let server = serve(&squashfs);
    let id = service.attach(&json.replace("\"dead_timeout\":5", "\"dead_timeout\":2")).unwrap();
    server.signal("STOP");
    let (read, took) = direct(&service.device(id), 10);
    assert!(!read && took < Duration::from_secs(15), "{read} {took:?}");
    let begun = Instant::now();
    service.delete(id, Type::Attach).unwrap();
    println!("removed in {:?}", begun.elapsed());
    server.kill();
    service.census(top.path());
    // A device that somebody else took away is lost, and can be deleted.
    let server = serve(&squashfs);
    let id = service.attach(&json).unwrap();
    shell(&format!("nbd-client -d {}", service.device(id)));
    service = again(service, top.path());
    service.node.read(|table| assert!(matches!(table.get(id).unwrap().phase, Phase::Lost(_))));
    service.delete(id, Type::Attach).unwrap();
    server.kill();
    service.census(top.path());
}

/// A service that dies at a point of the environment: attaches and removes.
fn service_that_dies(top: &Path) {
    let service = Service::start(top);
    let json = format!(r#"{{"socket":"{}/qemu.sock","export":"os","ro":true}}"#, top.display());
    let id = service.attach(&json).unwrap();
    service.delete(id, Type::Attach).unwrap();
}

#[test]
#[ignore = "needs root"]
fn root_nbd_after_a_crash_at_every_point() {
    slipway_lab::once_more(root_nbd_after_a_crash_at_every_point_once);
}

fn root_nbd_after_a_crash_at_every_point_once() {
    if let Some(top) = std::env::var_os("SLIPWAY_TEST_TOP") {
        return service_that_dies(Path::new(&top));
    }
    if !inside("root_nbd_after_a_crash_at_every_point", &[]) {
        return;
    }
    let top = tempfile::tempdir().unwrap();
    let (squashfs, _) = images(top.path());
    let socket = top.path().join("qemu.sock");
    let words = ["qemu-nbd", "-f", "raw", "-t", "-k", socket.to_str().unwrap(), "-e", "3", "-x", "os", &squashfs];
    let server = Server::start(&words, || socket.exists());
    let points: Vec<_> = CRASH_POINTS.iter().filter(|point| point.starts_with("nbd.")).collect();
    assert!(points.len() >= 6);
    for point in points {
        let out = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "root_nbd_after_a_crash_at_every_point"])
            .env("SLIPWAY_TEST_TOP", top.path())
            .env("SLIPWAY_NODE_CRASH_AT", point)
            .output()
            .unwrap();
        assert!(out.status.code().is_none(), "{point} was not passed: {}", String::from_utf8_lossy(&out.stdout));
        let service = Service::start(top.path());
        // Whoever asked was not answered, so nobody wants it.
        let left: Vec<u64> = service.node.read(|table| table.iter().map(|entry| entry.id).collect());
        println!("{point}: {left:?} left");
        for id in left {
            service.delete(id, Type::Attach).unwrap();
        }
        service.census(top.path());
    }
    server.kill();
}
