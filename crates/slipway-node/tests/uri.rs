//! Downloads in memory, from a server in the test, on the kernel of this machine, in a mount namespace of the test's own.
#![allow(clippy::unwrap_used, reason = "a test")]

use sha2::{Digest, Sha256};
use slipway_api::node::{Holder, Mount};
use slipway_node::{CRASH_POINTS, Draft, Linux, Node, NodeConfig, Phase, Refusal, Type};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs the rest of a test in a mount namespace of its own: true there.
fn inside(test: &str) -> bool {
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

/// What a server does with a path.
#[derive(Clone)]
enum Answer {
    Bytes(Vec<u8>),
    Status(&'static str),
    To(String),
    /// Half of it, and hangs up.
    Half(Vec<u8>),
    /// A byte now and then.
    Drip,
}

fn serve(answers: BTreeMap<String, Answer>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answers = answers.clone();
            std::thread::spawn(move || answer(stream, &answers));
        }
    });
    format!("http://{to}")
}

fn answer(mut stream: TcpStream, answers: &BTreeMap<String, Answer>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap()?;
    while !lines.next().unwrap()?.is_empty() {}
    let path = first.split(' ').nth(1).unwrap();
    let head = |len: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n");
    match answers.get(path) {
        Some(Answer::Bytes(bytes)) => {
            stream.write_all(head(bytes.len()).as_bytes())?;
            stream.write_all(bytes)
        }
        Some(Answer::Half(bytes)) => {
            stream.write_all(head(bytes.len()).as_bytes())?;
            stream.write_all(&bytes[..bytes.len() / 2])
        }
        // Closed after each answer, and said so: a client that would go on would meet a connection that is reset.
        Some(Answer::Status(status)) => {
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        }
        Some(Answer::To(to)) => {
            write!(stream, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        }
        Some(Answer::Drip) => {
            stream.write_all(head(1000).as_bytes())?;
            loop {
                stream.write_all(b"x")?;
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        None => write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    }
}

struct Lab {
    node: Arc<Node<Linux>>,
    linux: Linux,
    top: tempfile::TempDir,
    has_images: bool,
}

impl Lab {
    fn new(has_images: bool) -> Self {
        let top = tempfile::tempdir().unwrap();
        let (node, linux) = Self::open(top.path());
        Self { node, linux, top, has_images }
    }

    fn open(top: &Path) -> (Arc<Node<Linux>>, Linux) {
        let (run, state) = (top.join("run"), top.join("state"));
        let linux = Linux::open(&run, &state).unwrap();
        (Node::open(linux.clone(), NodeConfig::default(), &run, &state, "this boot").unwrap(), linux)
    }

    /// What a line of the shell prints, run in a folder of its own.
    fn sh(&self, line: &str) -> Vec<u8> {
        let folder = self.top.path().join("work");
        fs::create_dir_all(&folder).unwrap();
        let out = Command::new("bash").args(["-euc", line]).current_dir(folder).output().unwrap();
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    }

    fn mount(&self, uri: &str, more: &str) -> Result<u64, Refusal> {
        let json = format!(r#"{{"kind":"uri","uri":{{"uri":"{uri}"{more}}}}}"#);
        self.node.create(Draft::mount(serde_json::from_str::<Mount>(&json).unwrap())?, 0)
    }

    fn place(&self, id: u64) -> PathBuf {
        self.node.read(|table| table.get(id).unwrap().proof.clone().unwrap().mountpoint.into())
    }

    fn delete(&self, id: u64) {
        self.node.delete(id, Type::Mount, false).unwrap();
        self.census();
    }

    /// Nothing of ours is left: no mount, no device of a file in memory, no file in memory.
    fn census(&self) {
        let top = self.top.path().join("run/").display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.lines().any(|line| line.contains(&top)), "{mounts}");
        assert_eq!(fs::read_dir(self.top.path().join("run/mounts")).unwrap().count(), 0);
        // Devices are the whole machine's, and the other test has some meanwhile.
        if self.has_images {
            assert_eq!(images(), 0);
        }
        let open =
            fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        assert!(!open.into_iter().any(|path| path.to_string_lossy().contains("slipway-image")));
        assert_eq!(self.node.read(|table| table.iter().count()), 0);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.linux.close();
    }
}

/// Loop devices of files in memory.
fn images() -> usize {
    let loops = Command::new("losetup").args(["-l", "-n", "-O", "BACK-FILE"]).output().unwrap();
    String::from_utf8(loops.stdout).unwrap().matches("slipway-image").count()
}

const TREE: &str = r#"rm -rf t; mkdir -p t/usr/bin t/etc; cd t; ln -s usr/bin bin; printf hello > etc/motd; ln etc/motd etc/issue
printf '#!/bin/sh\n' > usr/bin/su; chown 0:7 usr/bin/su; chmod 4755 usr/bin/su; ln -s /etc/motd etc/link; mkfifo pipe; mknod console c 5 1; touch -d @1000000000 etc/motd; chmod 751 .;"#;

#[test]
#[ignore = "needs root"]
fn root_archives_become_trees_in_memory() {
    if !inside("root_archives_become_trees_in_memory") {
        return;
    }
    let mut lab = Lab::new(false);
    let mut answers = BTreeMap::new();
    let lines = [
        ("/a.tar", "tar -c ."),
        ("/a.tar.gz", "tar -c . | gzip"),
        ("/a.tar.zst", "tar -c --format=pax . | zstd -q"),
        ("/a.tar.xz", "tar -c . | xz -1"),
        ("/a.cpio", "find . | cpio -oH newc --quiet"),
        ("/a.cpio.gz", "find . | cpio -oH newc --quiet | gzip"),
        // Through a link of the tree, as on systems with merged directories.
        (
            "/merged.tar",
            "tar -c . > ../m.tar; mkdir -p ../u/bin; cp usr/bin/su ../u/bin/ls; tar -rf ../m.tar -C ../u --owner=0 --mode=4755 bin/ls; cat ../m.tar",
        ),
    ];
    for (path, line) in lines {
        answers.insert(path.to_owned(), Answer::Bytes(lab.sh(&format!("{TREE} {line}"))));
    }
    answers.insert("/moved".into(), Answer::To("/a.tar".into()));
    let Some(Answer::Bytes(tar)) = answers.get("/a.tar") else { panic!() };
    let sum: String = Sha256::digest(tar).iter().map(|byte| format!("{byte:02x}")).collect();
    let at = serve(answers);
    for (path, _) in lines.iter().chain(&[("/moved", "")]) {
        let id = lab.mount(&format!("{at}{path}"), "").unwrap_or_else(|error| panic!("{path}: {error:?}"));
        let place = lab.place(id);
        assert_eq!(fs::read_to_string(place.join("etc/motd")).unwrap(), "hello", "{path}");
        let facts = fs::metadata(place.join("usr/bin/su")).unwrap();
        assert_eq!((facts.mode() & 0o7777, facts.uid(), facts.gid()), (0o4755, 0, 7), "{path}");
        let facts = fs::metadata(place.join("etc/motd")).unwrap();
        assert_eq!((facts.nlink(), facts.mtime()), (2, 1_000_000_000), "{path}");
        assert_eq!(fs::read_link(place.join("etc/link")).unwrap(), Path::new("/etc/motd"));
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o7777, 0o751);
        assert!(place.join("pipe").exists() && !place.join("console").exists(), "devices are left out");
        if *path == "/merged.tar" {
            assert!(place.join("usr/bin/ls").exists() && fs::read_link(place.join("bin")).is_ok());
        }
        fs::write(place.join("more"), "more").unwrap();
        lab.delete(id);
    }
    let id =
        lab.mount(&format!("{at}/a.tar"), &format!(r#","checksum":"sha256:{sum}","ro":true,"format":"tar""#)).unwrap();
    assert!(fs::write(lab.place(id).join("more"), "more").is_err());
    // The service dies: what is mounted stays, and the next one knows it.
    (lab.node, lab.linux) = Lab::open(lab.top.path());
    lab.node.read(|table| assert_eq!(table.get(id).unwrap().phase, Phase::Ready));
    let open = fs::File::open(lab.place(id).join("etc/motd")).unwrap();
    let refusal = lab.node.delete(id, Type::Mount, true).unwrap_err();
    let me = |holder: &Holder| matches!(holder, Holder::Process { pid, .. } if *pid == std::process::id());
    assert!(refusal.status == 409 && refusal.problem.holders.iter().any(me), "{refusal:?}");
    drop(open);
    lab.delete(id);
}

#[test]
#[ignore = "needs root"]
fn root_images_from_memory_and_what_is_refused() {
    if !inside("root_images_from_memory_and_what_is_refused") {
        return;
    }
    let lab = Lab::new(true);
    let mut answers = BTreeMap::new();
    let lines = [
        ("/squashfs", "mksquashfs . ../i -quiet -noappend >/dev/null; cat ../i"),
        ("/squashfs.zst", "mksquashfs . ../i -quiet -noappend >/dev/null; zstd -qc ../i"),
        ("/erofs", "mkfs.erofs ../e . >/dev/null 2>&1; cat ../e"),
        ("/ext4.gz", "rm -f ../x; truncate -s 8M ../x; mke2fs -q -t ext4 -d . ../x; gzip -c ../x"),
    ];
    for (path, line) in lines {
        answers.insert(path.to_owned(), Answer::Bytes(lab.sh(&format!("{TREE} {line}"))));
    }
    let at = serve(answers);
    for (path, _) in lines {
        let id = lab.mount(&format!("{at}{path}"), r#","size_limit":16777216"#).unwrap();
        let place = lab.place(id);
        assert_eq!(fs::read_to_string(place.join("etc/motd")).unwrap(), "hello", "{path}");
        assert!(fs::write(place.join("more"), "more").is_err());
        assert_eq!(images(), 1);
        assert!(fs::File::open(place.join("console")).is_err(), "devices do not work");
        lab.delete(id);
    }
    refused(&lab);
}

/// A service that dies at a point of the environment: mounts what is there, and removes it.
fn service_that_dies(top: &Path, uri: &str) {
    let (node, _) = Lab::open(top);
    let json = format!(r#"{{"kind":"uri","uri":{{"uri":"{uri}"}}}}"#);
    let id = node.create(Draft::mount(serde_json::from_str::<Mount>(&json).unwrap()).unwrap(), 0).unwrap();
    node.delete(id, Type::Mount, false).unwrap();
}

#[test]
#[ignore = "needs root"]
fn root_downloads_after_a_crash_at_every_point() {
    const TEST: &str = "root_downloads_after_a_crash_at_every_point";
    if let (Ok(top), Ok(uri)) = (std::env::var("SLIPWAY_TEST_TOP"), std::env::var("SLIPWAY_TEST_URI")) {
        return service_that_dies(Path::new(&top), &uri);
    }
    if !inside(TEST) {
        return;
    }
    let mut lab = Lab::new(false);
    let mut answers = BTreeMap::new();
    let image = "mksquashfs . ../i -quiet -noappend >/dev/null; cat ../i";
    for (path, line) in [("/tree", "tar -c ."), ("/image", image)] {
        answers.insert(path.to_owned(), Answer::Bytes(lab.sh(&format!("{TREE} {line}"))));
    }
    let at = serve(answers);
    for point in CRASH_POINTS.iter().filter(|point| point.starts_with("uri.")) {
        let path = if point.starts_with("uri.tree") { "/tree" } else { "/image" };
        let out = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", TEST])
            .env("SLIPWAY_TEST_TOP", lab.top.path())
            .env("SLIPWAY_TEST_URI", format!("{at}{path}"))
            .env("SLIPWAY_NODE_CRASH_AT", point)
            .output()
            .unwrap();
        assert!(out.status.code().is_none(), "{point} was not passed: {}", String::from_utf8_lossy(&out.stdout));
        (lab.node, lab.linux) = Lab::open(lab.top.path());
        // Whoever asked was not answered; what the crash came too late for is there, and goes as usual.
        let left: Vec<u64> = lab.node.read(|table| table.iter().map(|entry| entry.id).collect());
        println!("{point}: {left:?} left");
        for id in left {
            lab.node.delete(id, Type::Mount, false).unwrap();
        }
        lab.census();
        let devices = Command::new("losetup").args(["-l", "-n", "-O", "NAME,BACK-FILE"]).output().unwrap();
        let mark = lab.top.path().display().to_string();
        assert!(!String::from_utf8(devices.stdout).unwrap().contains(&mark));
    }
}

/// What is wrong, or goes wrong half-way, is said, and nothing of it is left.
fn refused(lab: &Lab) {
    let mut answers = BTreeMap::new();
    let evil = "import io,sys,tarfile; t=tarfile.open(fileobj=sys.stdout.buffer,mode='w|')\ndef add(name,kind=tarfile.REGTYPE,link='',data=b'x'):\n i=tarfile.TarInfo(name); i.type=kind; i.linkname=link; i.size=len(data) if kind==tarfile.REGTYPE else 0; t.addfile(i,io.BytesIO(data))\n";
    let python = |body: &str| lab.sh(&format!("python3 -c \"$(cat <<'END'\n{evil}{body}\nt.close()\nEND\n)\""));
    let plain = lab.sh(&format!("{TREE} tar -c ."));
    let squashfs = lab.sh(&format!(
        "{TREE} head -c 3000000 /dev/urandom > noise; mksquashfs . ../i -quiet -noappend >/dev/null; cat ../i"
    ));
    for (path, bytes) in [
        ("/up", python("add('../../../../../../../tmp/slipway-escaped')")),
        ("/absolute", python("add('/tmp/slipway-escaped')")),
        ("/link", python("add('out',tarfile.SYMTYPE,'/tmp'); add('out/slipway-escaped')")),
        (
            "/link-up",
            python(
                "add('d',tarfile.DIRTYPE); add('d/out',tarfile.SYMTYPE,'../../../../../tmp'); add('d/out/slipway-escaped')",
            ),
        ),
        ("/hard", python("add('x',tarfile.LNKTYPE,'../../../../../../etc/passwd')")),
        ("/hard-link", python("add('e',tarfile.SYMTYPE,'/etc'); add('x',tarfile.LNKTYPE,'e/passwd')")),
        ("/over", python("add('d/x'); add('d')")),
        ("/many", python("[add(str(n),data=b'') for n in range(2000)]")),
        ("/bomb", lab.sh("truncate -s 3G zeros; tar -c zeros | zstd -q -1; rm zeros")),
        ("/cut.gz", lab.sh("head -c 100000 /dev/urandom > n; tar -c n | gzip | head -c 50000")),
        ("/text", b"<html>not found</html>".repeat(100)),
        ("/squashfs", squashfs.clone()),
        ("/broken", [&squashfs[..64], &[0xff; 8000]].concat()),
        ("/a.tar", plain.clone()),
    ] {
        answers.insert(path.to_owned(), Answer::Bytes(bytes));
    }
    for (path, answer) in [
        ("/half", Answer::Half(plain)),
        ("/half-image", Answer::Half(squashfs)),
        ("/drip", Answer::Drip),
        ("/error", Answer::Status("503 Service Unavailable")),
        ("/round", Answer::To("/round".into())),
        ("/away", Answer::To("file:///etc/passwd".into())),
        ("/elsewhere", Answer::To("http://localhost:9/a.tar".into())),
    ] {
        answers.insert(path.to_owned(), answer);
    }
    let at = serve(answers);
    let zeros = format!(r#","checksum":"sha256:{}""#, "0".repeat(64));
    let rows: &[(&str, &str, u16, &str, &str)] = &[
        ("/up", "", 400, "unpack", "leads upwards"),
        ("/absolute", "", 400, "unpack", "absolute"),
        ("/link", "", 400, "unpack", "out/slipway-escaped"),
        ("/link-up", "", 400, "unpack", "d/out/slipway-escaped"),
        ("/hard", "", 400, "unpack", "leads upwards"),
        ("/hard-link", "", 400, "unpack", "x"),
        ("/over", "", 400, "unpack", "taken"),
        ("/many", r#","entries_limit":1000"#, 400, "unpack", "uri.entries_limit"),
        ("/bomb", r#","size_limit":1048576"#, 400, "unpack", "uri.size_limit"),
        ("/bomb", "", 400, "unpack", "uri.size_limit"),
        ("/squashfs", r#","size_limit":1048576,"format":"squashfs""#, 400, "download", "uri.size_limit"),
        ("/squashfs", r#","size_limit":2500000"#, 400, "unpack", "uri.size_limit"),
        ("/cut.gz", "", 400, "unpack", "cut off"),
        ("/text", "", 400, "format", "none of"),
        ("/a.tar", r#","format":"squashfs""#, 400, "format", "uri.format is squashfs"),
        ("/a.tar", &zeros, 400, "checksum", "sha256:"),
        ("/squashfs", &zeros, 400, "checksum", "sha256:"),
        ("/broken", "", 500, "mount", "squashfs"),
        ("/half", "", 500, "download", ""),
        ("/half-image", "", 500, "download", ""),
        ("/drip", r#","timeout":1"#, 500, "download", "uri.timeout"),
        ("/nothing", "", 400, "download", "404"),
        ("/error", "", 500, "download", "503"),
        ("/round", "", 500, "download", "more than five times"),
        ("/away", "", 400, "download", "302"),
        ("/elsewhere", "", 500, "download", "another host"),
    ];
    for (path, more, status, step, text) in rows {
        let begun = Instant::now();
        let refusal = lab.mount(&format!("{at}{path}"), more).unwrap_err();
        let error = refusal.problem.error.clone().unwrap();
        assert_eq!((refusal.status, error.step.as_str()), (*status, *step), "{path}: {error:?}");
        assert!(error.text.contains(text), "{path}: {error:?}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{path}");
        lab.census();
    }
    for (uri, status, step) in [
        ("http://nothing.invalid/x", 400, "resolve"),
        ("http://127.0.0.1:9/x", 500, "download"),
        ("http://me:secret@127.0.0.1/x", 400, "uri"),
        ("file:///etc/passwd", 400, "uri"),
        (&at.replace("http:", "https:"), 500, "download"),
    ] {
        let refusal = lab.mount(uri, "").unwrap_err();
        let error = refusal.problem.error.clone().unwrap();
        assert_eq!((refusal.status, error.step.as_str()), (status, step), "{uri}: {error:?}");
        assert!(!error.text.contains("secret"), "{error:?}");
        lab.census();
    }
    assert!(!Path::new("/tmp/slipway-escaped").exists());
}
