//! Disk images of other formats: pushed and uploaded in every wrapping, refused for their reasons with no other file opened, and pulled
//! as a qcow2. qemu-img is the oracle.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::client::Client;
use kit::server::{Place, Server};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const MIB: usize = 1 << 20;

/// A server, its admin, and a folder with a raw image.
struct Bench {
    server: Server,
    client: Client,
    folder: tempfile::TempDir,
    raw: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(&Place::new(&folder.path().join("server")));
        let client = server.admin();
        let mut raw = vec![0; 5 * MIB];
        for (at, byte) in raw.iter_mut().enumerate().filter(|(at, _)| at / 50_000 % 3 != 1) {
            *byte = (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[at % 3];
        }
        raw[4 * MIB..4 * MIB + 300_000].fill(0);
        std::fs::write(folder.path().join("disk.raw"), &raw).unwrap();
        Self { server, client, folder, raw }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes an image of the raw one with qemu-img.
    fn made(&self, name: &str, format: &str, options: &[&str]) -> PathBuf {
        let (raw, image) = (self.path("disk.raw"), self.path(name));
        let args = [&["convert", "-f", "raw", "-O", format], options, &[text(&raw), text(&image)]].concat();
        run("qemu-img", &args);
        image
    }

    /// Packs a file with one of the compressors.
    fn packed(&self, tool: &str, ending: &str, from: &Path) -> PathBuf {
        let to = PathBuf::from(format!("{}.{ending}", from.display()));
        let done = Command::new(tool).args(["-c", text(from)]).stderr(Stdio::null()).output().unwrap();
        std::fs::write(&to, done.stdout).unwrap();
        to
    }

    fn curl(&self, args: &[&str]) -> (u16, Vec<u8>) {
        let body = self.path("body");
        let token = format!("authorization: Bearer {}", self.client.token);
        let mut all = vec!["-s", "-H", &token, "-o", text(&body), "-w", "%{http_code}"];
        all.extend(args);
        let status = run("curl", &all).parse().unwrap();
        (status, std::fs::read(&body).unwrap_or_default())
    }

    fn url(&self, path: &str) -> String {
        format!("{}/api/v1/{path}", self.server.url)
    }

    /// Uploads in one go.
    fn put(&self, image: &str, query: &str, file: &Path) -> (u16, Value) {
        let url = self.url(&format!("images/{image}/content?{query}"));
        let (status, body) = self.curl(&["-T", text(file), &url]);
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// Uploads by PATCH, in two parts, and commits.
    fn patched(&self, image: &str, format: &str, file: &Path) -> (u16, Value) {
        let new = format!("{{\"image\":\"{image}\",\"format\":\"{format}\"}}");
        let json = ["-H", "content-type: application/json", "-d", &new, &self.url("uploads")];
        let (status, body) = self.curl(&json);
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
        let upload: Value = serde_json::from_slice(&body).unwrap();
        let url = self.url(&format!("uploads/{}", upload["id"].as_str().unwrap()));
        let bytes = std::fs::read(file).unwrap();
        let part = self.path("part");
        let half = bytes.len() / 2;
        for (at, bytes) in [(0, &bytes[..half]), (half, &bytes[half..])] {
            std::fs::write(&part, bytes).unwrap();
            let (offset, data) = (format!("upload-offset: {at}"), format!("@{}", text(&part)));
            let (status, body) = self.curl(&["-X", "PATCH", "-H", &offset, "--data-binary", &data, &url]);
            assert_eq!(status, 204, "{}", String::from_utf8_lossy(&body));
        }
        let commit = format!("{url}/commit");
        for _ in 0..100 {
            let (status, body) = self.curl(&["-X", "POST", "-d", "", &commit]);
            if status != 202 {
                return (status, serde_json::from_slice(&body).unwrap());
            }
        }
        panic!("upload {url} was never committed");
    }

    /// The version must hold the raw image and say where it came from.
    fn holds(&self, committed: &Value, format: &str) {
        let version = &committed["version"];
        assert_eq!(version["source_format"], format, "{committed}");
        let out = self.path("out.raw");
        self.client.ok(&["pull", committed["ref"].as_str().unwrap(), "-o", text(&out)]);
        assert!(std::fs::read(&out).unwrap() == self.raw, "{format}: {committed}");
    }

    /// Nothing but finished blobs and the catalogue is left on the server.
    fn spool_is_empty(&self) {
        let left: Vec<_> = std::fs::read_dir(self.server.place.data().join("spool"))
            .map(|entries| entries.map(|entry| entry.unwrap().file_name()).collect())
            .unwrap_or_default();
        assert!(left.is_empty(), "{left:?} was left in the spool");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).output().unwrap_or_else(|why| panic!("{program}: {why}"));
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{program} {args:?}: {said}{}", String::from_utf8_lossy(&done.stderr));
    said
}

/// Images of the bench's disk, and what a version says of them.
fn images(bench: &Bench) -> Vec<(PathBuf, String)> {
    let qcow2 = bench.made("disk.qcow2", "qcow2", &["-c", "-o", "compression_type=zstd"]);
    let vhd = bench.made("disk.vhd", "vpc", &["-o", "subformat=fixed,force_size=on"]);
    let mut all = vec![(qcow2.clone(), "qcow2".to_owned()), (vhd, "vhd".to_owned())];
    for (tool, ending) in [("gzip", "gz"), ("xz", "xz"), ("zstd", "zst")] {
        all.push((bench.packed(tool, ending, &qcow2), format!("qcow2.{ending}")));
    }
    all.push((bench.packed("gzip", "gz", &bench.path("disk.raw")), "raw.gz".to_owned()));
    all.push((bench.made("disk.vmdk", "vmdk", &[]), "vmdk".to_owned()));
    all.push((bench.made("disk.dynamic", "vpc", &["-o", "force_size=on"]), "vhd".to_owned()));
    all.push((bench.made("disk.vhdx", "vhdx", &[]), "vhdx".to_owned()));
    all.push((bench.made("disk.vdi", "vdi", &[]), "vdi".to_owned()));
    bench.made("stream.vmdk", "vmdk", &["-o", "subformat=streamOptimized"]);
    let tar = bench.path("disk.ova");
    run("tar", &["-C", text(bench.folder.path()), "-cf", text(&tar), "stream.vmdk"]);
    all.push((bench.packed("gzip", "gz", &tar), "vmdk.tar.gz".to_owned()));
    all.push((tar, "vmdk.tar".to_owned()));
    all
}

#[test]
fn images_are_pushed_as_what_they_are() {
    let bench = Bench::new();
    for (image, format) in images(&bench) {
        let tmp = bench.path("tmp");
        std::fs::create_dir_all(&tmp).unwrap();
        let push = |words: &[&str], input: Option<&Path>| {
            let mut command = bench.client.command(words);
            command.env("TMPDIR", &tmp);
            if let Some(input) = input {
                command.stdin(std::fs::File::open(input).unwrap());
            }
            let done = command.output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.success(), "{words:?}: {said}");
            let answer: Value = serde_json::from_slice(&done.stdout).unwrap();
            (answer, said)
        };
        let (answer, said) = push(&["push", text(&image), "me/file", "--new", "-o", "json"], None);
        bench.holds(&answer, &format);
        let name = format.split('.').next().unwrap();
        let known = slipway_format::Format::ALL.into_iter().find(|known| known.name() == name).unwrap();
        assert!(said.contains(&format!("{} image", known.title())), "{said}");
        let (answer, _) = push(&["push", "-", "me/stdin", "--new", "-o", "json"], Some(&image));
        // Of a stream only the end tells that it is a fixed VHD; it is read as one, but was called raw before.
        let fixed = image.extension().is_some_and(|ending| ending == "vhd");
        let format = if fixed { "raw" } else { &format };
        bench.holds(&answer, format);
        assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0, "a temporary file was left behind");
    }
    let qcow2 = bench.path("disk.qcow2");
    let kept = bench.client.json(&["push", text(&qcow2), "me/kept", "--format", "raw"]);
    assert_eq!(kept["version"]["source_format"], "raw");
    let out = bench.path("kept");
    bench.client.ok(&["pull", "me/kept", "-o", text(&out)]);
    assert!(std::fs::read(out).unwrap() == std::fs::read(qcow2).unwrap(), "--format raw keeps the file as it is");
}

#[test]
fn images_are_uploaded_as_what_they_are() {
    let bench = Bench::new();
    bench.client.ok(&["image", "create", "me/put"]);
    let owner = bench.client.json(&["image", "show", "me/put"])["owner"].as_str().unwrap_or("admin").to_owned();
    for (image, format) in images(&bench) {
        let (status, answer) = bench.put(&format!("{owner}/put"), "new=true", &image);
        assert_eq!(status, 201, "{answer}");
        bench.holds(&answer, &format);
        let slug = format!("patched-{}", image.file_name().unwrap().to_str().unwrap());
        bench.client.ok(&["image", "create", &format!("me/{slug}")]);
        let name = format!("{owner}/{slug}");
        let (status, answer) = bench.patched(&name, "auto", &image);
        assert_eq!(status, 201, "{answer}");
        bench.holds(&answer, &format);
    }
    let (status, answer) = bench.put(&format!("{owner}/put"), "new=true&format=raw", &bench.path("disk.qcow2"));
    assert_eq!((status, answer["version"]["source_format"].as_str()), (201, Some("raw")), "{answer}");
    let (status, answer) = bench.put(&format!("{owner}/put"), "format=rar", &bench.path("disk.raw"));
    assert_eq!((status, answer["field"].as_str()), (400, Some("format")), "{answer}");
}

/// Images that would have another file read, and a word of the reason.
fn foreign(bench: &Bench) -> Vec<(PathBuf, &'static str)> {
    let secret = bench.path("secret");
    std::fs::write(&secret, vec![0x5a; 2 * MIB]).unwrap();
    let made = |name: &str, args: &[&str]| {
        let image = bench.path(name);
        let mut all = vec!["create", "-q"];
        all.extend(args);
        all.push(text(&image));
        run("qemu-img", &all);
        image
    };
    let (base, size) = (text(&secret).to_owned(), "2M");
    let backed = bench.path("backed.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &base, "-F", "raw", text(&backed), size]);
    let data = bench.path("data.qcow2");
    let options = format!("data_file={base},data_file_raw=on");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, text(&data), size]);
    std::fs::write(&secret, vec![0x5a; 2 * MIB]).unwrap();
    let mut all = vec![(backed.clone(), "backing file"), (data, "data file")];
    let v2 = bench.path("v2.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "compat=0.10", "-b", &base, "-F", "raw", text(&v2), size]);
    all.push((v2, "backing file"));
    all.push((bench.packed("gzip", "gz", &backed), "backing file"));
    let qed = made("old.qed", &["-f", "qed", "-b", &base, "-F", "raw"]);
    all.push((qed, "QED"));
    let descriptor = bench.path("flat.vmdk");
    let lines = format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
         # Extent description\nRW 4096 FLAT \"{base}\" 0\n# The Disk Data Base\nddb.adapterType = \"ide\"\n"
    );
    std::fs::write(&descriptor, lines).unwrap();
    all.push((descriptor, "VMDK"));
    all
}

#[test]
fn no_other_file_is_ever_opened() {
    let bench = Bench::new();
    for (image, word) in foreign(&bench) {
        let log = bench.path("trace");
        let words = ["push", text(&image), "me/foreign"];
        let plain = bench.client.command(&words);
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-s", "4096", "-e", "trace=open,openat,openat2,creat", "-o", text(&log)]);
        command.arg(plain.get_program()).args(plain.get_args());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let done = command.output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && said.contains(word) && said.contains("next:"), "{}: {said}", image.display());
        let opened = std::fs::read_to_string(&log).unwrap();
        assert!(opened.contains(text(&image)), "the trace is empty: {opened}");
        assert!(!opened.contains("/secret\""), "{} had another file opened:\n{opened}", image.display());
    }
    assert!(bench.client.run(&["image", "show", "me/foreign"]).code != Some(0), "a version was made");
}

#[test]
fn hostile_uploads_leave_nothing() {
    let bench = Bench::new();
    bench.client.ok(&["image", "create", "me/hostile"]);
    let owner = bench.client.json(&["image", "show", "me/hostile"])["owner"].as_str().unwrap_or("admin").to_owned();
    let name = format!("{owner}/hostile");
    let qcow2 = bench.made("disk.qcow2", "qcow2", &[]);
    let cut = bench.path("cut.qcow2");
    let bytes = std::fs::read(&qcow2).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() - 70_000]).unwrap();
    let two = bench.path("two.qcow2");
    let vhd = std::fs::read(bench.made("disk.vhd", "vpc", &["-o", "subformat=fixed,force_size=on"])).unwrap();
    std::fs::write(&two, [&bytes[..], &vhd[vhd.len() - 512..]].concat()).unwrap();
    let mut all = foreign(&bench);
    all.extend([(cut, "past the end"), (two, "two formats at once")]);
    let gz = bench.packed("gzip", "gz", &qcow2);
    let broken = bench.path("broken.gz");
    let bytes = std::fs::read(gz).unwrap();
    std::fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
    all.push((broken, "cut off"));
    for (image, word) in all {
        let (status, problem) = bench.put(&name, "", &image);
        assert_eq!(status, 422, "{}: {problem}", image.display());
        assert!(problem.to_string().contains(word), "{}: {problem}", image.display());
        bench.spool_is_empty();
        let (status, problem) = bench.patched(&name, "auto", &image);
        assert_eq!(status, 422, "{}: {problem}", image.display());
        assert!(problem.to_string().contains(word), "{}: {problem}", image.display());
        // The upload can be given up, and then its file goes.
        let uploads = std::fs::read_dir(bench.server.place.data().join("spool")).unwrap();
        for upload in uploads {
            let id = upload.unwrap().file_name().into_string().unwrap();
            assert_eq!(bench.curl(&["-X", "DELETE", &bench.url(&format!("uploads/{id}"))]).0, 204);
        }
        for _ in 0..200 {
            if std::fs::read_dir(bench.server.place.data().join("spool")).unwrap().count() == 0 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        bench.spool_is_empty();
    }
    let shown = bench.client.json(&["image", "show", "me/hostile"]);
    assert_eq!(shown["versions"].as_array().map(Vec::len), Some(0), "{shown}");
}

/// Whether qemu takes a file for the raw image.
fn qemu_agrees(bench: &Bench, image: &Path) {
    run("qemu-img", &["check", "-f", "qcow2", text(image)]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", text(&bench.path("disk.raw")), text(image)]);
}

#[test]
fn versions_are_pulled_as_qcow2() {
    let bench = Bench::new();
    bench.client.ok(&["push", text(&bench.path("disk.raw")), "me/os"]);
    let out = bench.path("out.qcow2");
    for more in [&[][..], &["--no-verify"]] {
        let mut words = vec!["pull", "me/os", "-o", text(&out), "--format", "qcow2"];
        words.extend(more);
        bench.client.ok(&words);
        qemu_agrees(&bench, &out);
        assert!(run("qemu-img", &["info", text(&out)]).contains("compression type: zstd"));
    }
    let said = bench.client.run(&["pull", "me/os", "-o", "-", "--format", "qcow2"]);
    said.expect(2).names(&["front to back"]);
    // What comes out goes in again as the same version.
    let again = bench.client.json(&["push", text(&out), "me/os"]);
    assert_eq!(again["outcome"], "unchanged", "{again}");
    let left: Vec<_> =
        std::fs::read_dir(bench.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".part")), "{left:?}");
}

#[test]
fn versions_are_downloaded_as_qcow2() {
    let bench = Bench::new();
    bench.client.ok(&["push", text(&bench.path("disk.raw")), "me/os"]);
    let owner = bench.client.json(&["image", "show", "me/os"])["owner"].as_str().unwrap_or("admin").to_owned();
    let url = bench.url(&format!("images/{owner}/os/versions/0/content?format=qcow2"));
    let (status, whole) = bench.curl(&[&url]);
    assert_eq!(status, 200);
    let image = bench.path("down.qcow2");
    std::fs::write(&image, &whole).unwrap();
    qemu_agrees(&bench, &image);
    let (status, head) = bench.curl(&["-I", &url]);
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(status == 200 && head.contains(&format!("content-length: {}\r\n", whole.len())), "{head}");
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    assert!(tag.starts_with('"') && tag.contains("qcow2") && !head.contains("repr-digest"), "{head}");
    assert_eq!(bench.curl(&["-H", &format!("if-none-match: {tag}"), &url]).0, 304);
    let len = whole.len();
    for (from, to) in
        [(0, 0), (0, 111), (100, 70_000), (65_535, 65_536), (len / 2, len / 2 + 300_001), (len - 1, len - 1)]
    {
        let range = format!("{from}-{to}");
        let (status, part) = bench.curl(&["-r", &range, "-H", &format!("if-range: {tag}"), &url]);
        assert!(status == 206 && part == whole[from..=to], "{range}: {status}");
    }
    assert_eq!(bench.curl(&["-r", &format!("{len}-"), &url]).0, 416);
    let (status, packed) = bench.curl(&["-H", "accept-encoding: zstd", &url]);
    assert!(status == 200 && zstd::stream::decode_all(&packed[..]).unwrap() == whole, "zstd: {status}");
    let (status, problem) = bench.curl(&[&url.replace("qcow2", "vmdk")]);
    assert_eq!(status, 400, "{}", String::from_utf8_lossy(&problem));
}
