//! `nbd-export` with the clients that people have: qemu-img, nbdinfo, nbdcopy, and a kernel with nbd-client in a guest.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::base::{Base, pruned_after};
use kit::client::Client;
use kit::database::time_pass;
use kit::image::{Chance, data_bytes, first_difference, image_changed, image_dense, image_fresh, same};
use kit::oracle::{Ack, check_clean, file_of};
use kit::samples;
use kit::server::{Place, Server};
use kit::{seed, text, tool, tool_run};
use serde_json::Value;
use slipway_lab::{Guest, GuestNet, GuestSpec, Root};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// A running `slipway nbd-export`; dropped, it is killed.
struct Export {
    child: Child,
    /// One for each version.
    uris: Vec<String>,
    said: Arc<Mutex<String>>,
}

impl Export {
    /// Starts one that must come up.
    fn start(client: &Client, words: &[&str]) -> Self {
        let mut all = vec!["nbd-export", "-o", "jsonl"];
        all.extend(words);
        let mut child = client
            .command(&all)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let said = Arc::<Mutex<String>>::default();
        let (stderr, kept) = (child.stderr.take().unwrap(), said.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        let mut uris = Vec::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = words.iter().filter(|word| word.contains('/') && word.starts_with("me/")).count();
        while uris.len() < wanted {
            let line = lines.next().unwrap_or_else(|| panic!("nbd-export ended: {}", said.lock().unwrap())).unwrap();
            let row: Value = serde_json::from_str(&line).unwrap();
            uris.push(row["uri"].as_str().expect("it names its address").to_owned());
        }
        Self { child, uris, said }
    }

    fn uri(&self) -> &str {
        &self.uris[0]
    }

    /// The path of its unix socket.
    fn socket(&self) -> PathBuf {
        self.uri().split_once("socket=").expect("it listens on a unix socket").1.into()
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// SIGTERM, and how it ended.
    fn stop(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.ended()
    }

    fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status,
                None if begun.elapsed() > Duration::from_secs(20) => panic!("it does not end: {}", self.said()),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- what nbd-export said\n{}", self.said());
        }
    }
}

fn ran(name: &str, words: &[&str]) -> (bool, String) {
    let out = Command::new(tool(name)).args(words).stdin(Stdio::null()).output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// Bytes of data and of holes that `nbdinfo --map` counts.
fn map_totals(uri: &str) -> (u64, u64) {
    let said = tool_run("nbdinfo", &["--map", "--json", uri]);
    let map: Value = serde_json::from_str(&said).unwrap();
    let total = |kind: u64| -> u64 {
        let rows = map.as_array().unwrap().iter().filter(|row| row["type"].as_u64() == Some(kind));
        rows.map(|row| row["length"].as_u64().unwrap()).sum()
    };
    (total(0), total(3))
}

#[test]
fn real_clients_read_the_same_bytes_and_see_the_holes() {
    let folder = tempfile::tempdir().unwrap();
    let tree = samples::tree(folder.path());
    let ext4 = samples::ext4(folder.path(), &tree, "ext4", 64);
    let mut all = vec![samples::gpt(folder.path(), &ext4.path), ext4];
    all.push(samples::odd(folder.path(), "bytes", 3 * MIB as u64 + 777));
    all.push(samples::empty(folder.path()));
    all.push(samples::scattered(folder.path()));
    let server = Server::start(&Place::new(folder.path()));
    let client = server.admin();
    for sample in &all {
        client.ok(&["push", text(&sample.path), &sample.reference()]);
    }
    let references: Vec<_> = all.iter().map(samples::Sample::reference).collect();
    let export = Export::start(&client, &references.iter().map(String::as_str).collect::<Vec<_>>());
    let socket = export.socket();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(socket.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    let out = folder.path().join("out.raw");
    for (sample, uri) in all.iter().zip(&export.uris) {
        let begun = Instant::now();
        let size: u64 = tool_run("nbdinfo", &["--size", uri]).trim().parse().unwrap();
        assert_eq!(size, sample.size(), "{}", sample.name);
        let (data, hole) = map_totals(uri);
        let known = data_bytes(&sample.path);
        assert!(data <= known && data + 4096 > known, "{}: {data} of {known}", sample.name);
        assert_eq!(data + hole, size, "{}", sample.name);
        // qemu sees sectors: a size that is none is rounded up by it, with zeros.
        let info: Value =
            serde_json::from_str(&tool_run("qemu-img", &["info", "-f", "raw", "--output=json", uri])).unwrap();
        assert_eq!(info["virtual-size"].as_u64(), Some(size.next_multiple_of(512)), "{}", sample.name);
        let map: Value =
            serde_json::from_str(&tool_run("qemu-img", &["map", "-f", "raw", "--output=json", uri])).unwrap();
        let shown = map.as_array().unwrap().iter().filter(|row| row["data"] == Value::Bool(true));
        let shown: u64 = shown.map(|row| row["length"].as_u64().unwrap()).sum();
        assert!(shown.abs_diff(data) < 4096, "{}: qemu shows {shown}", sample.name);
        tool_run("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&sample.path), uri]);
        let _ = std::fs::remove_file(&out);
        tool_run("nbdcopy", &[uri.as_str(), text(&out)]);
        same(&out, &sample.path);
        let _ = std::fs::remove_file(&out);
        tool_run("qemu-img", &["convert", "-f", "raw", "-O", "raw", uri, text(&out)]);
        assert_eq!(first_difference(&out, &sample.path, size), None, "{}", sample.name);
        println!("{}: {} ms", sample.name, begun.elapsed().as_millis());
    }
    // All of them are listed, by the names that they were asked for and by their numbers.
    let listed = tool_run("nbdinfo", &["--list", "--json", &format!("nbd+unix:///?socket={}", text(&socket))]);
    for reference in &references {
        assert!(listed.contains(&format!("\"export-name\": \"{reference}:0\"")), "{listed}");
    }
    // Nobody writes.
    let (fine, said) = ran("qemu-io", &["-f", "raw", "-c", "write 0 4096", export.uri()]);
    assert!(!fine && said.contains("ermission denied"), "{said}");
    assert!(export.stop().success());
    assert!(!socket.parent().unwrap().exists());
}

#[test]
fn an_export_ends_and_starts_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let sample = samples::odd(folder.path(), "os", 2 * MIB as u64);
    let server = Server::start(&Place::new(folder.path()));
    let client = server.admin();
    client.ok(&["push", text(&sample.path), "me/os"]);
    let (socket, out) = (folder.path().join("s p"), folder.path().join("out.raw"));
    let mut once = Export::start(&client, &["me/os", "--once", "--socket", text(&socket)]);
    let busy = client.run(&["nbd-export", "me/os", "--socket", text(&socket)]);
    busy.expect(5).names(&["another program listens there", "s p"]);
    tool_run("nbdcopy", &[once.uri(), text(&out)]);
    same(&out, &sample.path);
    assert!(once.ended().success());
    assert!(!socket.exists());
    // What a killed one left behind is in nobody's way.
    let killed = Export::start(&client, &["me/os", "--socket", text(&socket)]);
    drop(killed);
    assert!(socket.exists());
    let again = Export::start(&client, &["me/os", "--socket", text(&socket)]);
    tool_run("nbdinfo", &[again.uri()]);
    // TCP, and the name by which it was asked for.
    let tcp = Export::start(&client, &["me/os:latest", "--listen", "127.0.0.1:0"]);
    assert!(tcp.uri().starts_with("nbd://127.0.0.1:"), "{}", tcp.uri());
    tool_run("nbdinfo", &[&format!("{}me/os:latest", tcp.uri())]);
    assert!(!ran("nbdinfo", &[&format!("{}me/other", tcp.uri())]).0);
    // Mistakes.
    let file = folder.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    for (words, code, says) in [
        (&["me/nothing"][..], 3, "nothing"),
        (&["me/os:9"], 3, "os:9"),
        (&["os"], 2, "os"),
        (&["me/os", "me/os:0"], 2, "named twice"),
        (&["me/os", "--listen", "0.0.0.0:0"], 2, "asks for no token"),
        (&["me/os", "--listen", "203.0.113.7:1", "--allow-remote"], 1, "203.0.113.7"),
        (&["me/os", "--socket", text(&file)], 5, "something else has this name"),
        (&["me/os", "--socket", "/nowhere/at/all"], 3, "/nowhere/at/all"),
        (&["me/os", "--socket", &format!("/tmp/{}", "x".repeat(120))], 2, "107 bytes"),
    ] {
        let mut all = vec!["nbd-export"];
        all.extend(words);
        client.run(&all).expect(code).names(&[says]);
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
}

/// Copies a version with nbdcopy; if that succeeds, its bytes are compared, and must be right.
fn copied(folder: &Path, uri: &str, ack: &Ack) -> Result<(), String> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let out = folder.join(format!("copy.{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    let (fine, said) = ran("nbdcopy", &[uri, text(&out)]);
    let bytes = std::fs::read(&out).unwrap_or_default();
    let _ = std::fs::remove_file(&out);
    if !fine {
        return Err(said);
    }
    assert!(bytes == *ack.bytes, "{}:{} came back wrong", ack.image, ack.number);
    Ok(())
}

/// Waits for some more whole reads, a minute at most.
fn reads_go_on(reads: &AtomicU64) {
    let (before, until) = (reads.load(Ordering::Relaxed), Instant::now() + Duration::from_secs(60));
    while reads.load(Ordering::Relaxed) < before + 4 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn never_a_wrong_byte_while_versions_come_and_go_and_are_pruned() {
    let folder = tempfile::tempdir().unwrap();
    let mut chance = Chance::new(seed("nbd under load"));
    let Base { place, oracle, .. } = Base::new(folder.path(), None);
    let server = Server::start(&place);
    let client = server.admin();
    let acks = oracle.standing();
    let mut words: Vec<_> = acks.iter().map(|ack| format!("{}:{}", ack.image, ack.number)).collect();
    // Less than any of them: what is read again is fetched again.
    words.extend(["--cache".into(), "1".into()]);
    let export = Export::start(&client, &words.iter().map(String::as_str).collect::<Vec<_>>());
    let (stop, reads, refused) = (AtomicBool::new(false), AtomicU64::new(0), Mutex::new(Vec::new()));
    let mut place = std::thread::scope(|scope| {
        for reader in 0..2_usize {
            let (stop, reads, refused, acks, uris) = (&stop, &reads, &refused, &acks, &export.uris);
            let folder = folder.path();
            scope.spawn(move || {
                for number in reader.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let which = number % acks.len();
                    match copied(folder, &uris[which], &acks[which]) {
                        Ok(()) => {
                            reads.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(said) => refused.lock().unwrap().push((acks[which].image.clone(), said)),
                    }
                }
            });
        }
        let mut server = server;
        for round in 0..3 {
            let client = server.admin();
            let name = format!("me/new{round}");
            let fresh = image_fresh(chance.next(), 2 * MIB);
            oracle.push(&client, folder.path(), &name, fresh.clone());
            oracle.push(&client, folder.path(), &name, image_changed(&fresh, chance.next()));
            oracle.push(&client, folder.path(), "me/keep", image_dense(chance.next(), MIB));
            client.ok(&["image", "rm", &format!("{name}:0")]);
            oracle.give_up(&name, 0);
            if round == 1 {
                // One that is exported goes, too.
                client.ok(&["image", "rm", "me/victim"]);
                oracle.give_up("me/victim", 0);
            }
            client.ok(&["prune"]);
            // Trash and grace pass at once; the server is down meanwhile, and the readers wait for it.
            let place = pruned_after(server.kill(), 9 * 24);
            time_pass(&place, 3 * 24);
            server = Server::start(&place);
            server.admin().ok(&["prune"]);
            // Long enough for whoever waited.
            reads_go_on(&reads);
        }
        stop.store(true, Ordering::Relaxed);
        server.place.clone()
    });
    place.port = 0;
    let refused = refused.into_inner().unwrap();
    println!("{} whole reads, {} refused", reads.load(Ordering::Relaxed), refused.len());
    assert!(reads.load(Ordering::Relaxed) >= 8);
    // Each reason is said at least once. A version that stands is refused only while the server is away for longer than a read waits,
    // which on a machine that does much else may happen between two of its starts.
    let said = export.said();
    let mut reasons = said.lines().filter(|line| line.starts_with("slipway: reading "));
    assert!(reasons.all(|line| line.contains("victim") || line.contains("no answer from the server")), "{said}");
    assert_eq!(refused.is_empty(), !said.contains("slipway: reading "), "{said}");
    drop(export);
    // Afterwards all that stands reads right from the start, and what is gone says so.
    let server = Server::start(&place);
    let client = server.admin();
    for ack in oracle.standing() {
        let export = Export::start(&client, &[&format!("{}:{}", ack.image, ack.number)]);
        copied(folder.path(), export.uri(), &ack).unwrap();
        assert!(export.stop().success());
    }
    client.run(&["nbd-export", "me/victim"]).expect(3);
    check_clean(&client);
}

#[test]
fn rights_that_end_and_servers_that_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path());
    let server = Server::start(&place);
    let client = server.admin();
    let bytes = Arc::new(image_dense(7, 24 * MIB));
    let file = file_of(folder.path(), &bytes);
    for image in ["me/os", "me/other"] {
        client.ok(&["push", text(&file), image]);
    }
    let ack = |image: &str| Ack { image: image.into(), number: 0, root: String::new(), bytes: bytes.clone() };
    // The server is killed in the middle of reading and comes back: the reader waits, and all is right.
    let export = Export::start(&client, &["me/os", "--cache", "8"]);
    let place = std::thread::scope(|scope| {
        let reading = scope.spawn(|| copied(folder.path(), export.uri(), &ack("me/os")));
        std::thread::sleep(Duration::from_millis(100));
        let place = server.kill();
        std::thread::sleep(Duration::from_millis(700));
        let server = Server::start(&place);
        reading.join().unwrap().unwrap();
        server
    });
    // A token that is revoked, and an image that is deleted, before anything was read: an error that says which, and no hang.
    client.ok(&["user", "add", "jan"]);
    client.ok(&["image", "share", "me/os", "--add", "jan"]);
    let token = client.ok(&["token", "new", "test", "--user", "jan"]).stdout.trim().to_owned();
    let jan = Client::new(&client.url, &token, &folder.path().join("jan"));
    let revoked = Export::start(&client, &["me/other"]);
    let shared = {
        let mut words = vec!["nbd-export", "admin/os"];
        words.extend(["-o", "jsonl"]);
        let mut child = jan.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let row: Value = serde_json::from_str(&line).unwrap();
        (child, row["uri"].as_str().unwrap().to_owned())
    };
    let id = client.json(&["token", "ls", "--user", "jan"])[0]["id"].as_str().unwrap().to_owned();
    client.ok(&["token", "rm", &id]);
    client.ok(&["image", "rm", "me/other"]);
    for (uri, image) in [(shared.1.as_str(), "me/os"), (revoked.uri(), "me/other")] {
        let begun = Instant::now();
        let said = copied(folder.path(), uri, &ack(image)).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(60) && said.contains("Input/output error"), "{said}");
    }
    assert!(revoked.said().contains("reading ") && revoked.said().contains("other"), "{}", revoked.said());
    let mut child = shared.0;
    child.kill().unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("token"), "{out:?}");
    // What was open before and is here already, or may still be read, goes on.
    copied(folder.path(), export.uri(), &ack("me/os")).unwrap();
    drop(place);
}

#[test]
#[ignore = "needs root"]
fn root_a_guests_kernel_attaches_and_mounts_an_export() {
    slipway_lab::once_more(root_a_guests_kernel_attaches_and_mounts_an_export_once);
}

fn root_a_guests_kernel_attaches_and_mounts_an_export_once() {
    let folder = tempfile::tempdir().unwrap();
    let tree = samples::tree(folder.path());
    let sample = samples::ext4(folder.path(), &tree, "ext4", 64);
    let server = Server::start(&Place::new(folder.path()));
    let client = server.admin();
    client.ok(&["push", text(&sample.path), "me/ext4"]);
    let socket = folder.path().join("nbd");
    let export = Export::start(&client, &["me/ext4", "--socket", text(&socket), "--cache", "8"]);
    let net = Arc::new(GuestNet::new().unwrap());
    let port = net.forward(&socket).unwrap();
    let spec = GuestSpec::new(Root::Host).with_modules(&["nbd", "ext4"]).with_net(&net);
    let guest = Guest::boot(&spec).unwrap();
    let host = net.host_address();
    let sum = tool_run("sha256sum", &[text(&sample.path)]).split_whitespace().next().unwrap().to_owned();
    let files = |at: &str| format!("cd {at}; find . -type f -print0 | sort -z | xargs -0 sha256sum");
    let known = tool_run("sh", &["-c", &files(text(&tree))]);
    // By netlink, as nbd-client does by default.
    guest.ok(&format!("nbd-client {host} {port} /dev/nbd0 -readonly -connections 2"));
    assert_eq!(guest.ok("blockdev --getsize64 /dev/nbd0").trim(), sample.size().to_string());
    assert_eq!(guest.ok("blockdev --getro /dev/nbd0").trim(), "1");
    let begun = Instant::now();
    assert_eq!(guest.ok("sha256sum </dev/nbd0").split_whitespace().next(), Some(&*sum));
    println!("the whole device in {} ms", begun.elapsed().as_millis());
    guest.ok("mkdir -p /mnt/os; mount -t ext4 -o ro,noload /dev/nbd0 /mnt/os");
    assert_eq!(guest.ok(&files("/mnt/os")), known);
    assert_ne!(guest.run("echo no > /mnt/os/new").unwrap().code, 0);
    // The server goes and comes back under a reading kernel.
    let place = {
        guest.ok("echo 3 > /proc/sys/vm/drop_caches");
        let reading = guest.begin(&files("/mnt/os")).unwrap();
        let place = server.kill();
        std::thread::sleep(Duration::from_millis(500));
        let server = Server::start(&place);
        let read = reading.finish(Duration::from_secs(120)).unwrap();
        assert_eq!((read.code, read.stdout.as_str()), (0, known.as_str()));
        server
    };
    guest.ok("umount /mnt/os; nbd-client -d /dev/nbd0");
    // The export goes and comes back, too: it is the same disk.
    assert!(export.stop().success());
    let export = Export::start(&place.admin(), &["me/ext4", "--socket", text(&socket)]);
    guest.ok(&format!("nbd-client {host} {port} /dev/nbd1 -readonly"));
    assert_eq!(guest.ok("sha256sum </dev/nbd1").split_whitespace().next(), Some(&*sum));
    guest.ok("nbd-client -d /dev/nbd1");
    assert!(export.stop().success());
    assert!(guest.stop().unwrap().success());
}
