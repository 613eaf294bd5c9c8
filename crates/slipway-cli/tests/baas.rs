//! The flow of BAAS's documentation, by curl against the real program: make an image, get the empty 6 GiB, put a file system with files into
//! it, upload it, get version 1, download the same.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::database::{postgres, postgres_drop, postgres_new};
use kit::image::{image_dense, same};
use kit::oracle::check_clean;
use kit::server::{Place, Server};
use kit::{text, tool, tool_run};
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// curl as a person of this server.
struct Curl<'a> {
    server: &'a Server,
    token: String,
}

impl Curl<'_> {
    fn command(&self, words: &[&str], path: &str) -> Command {
        let mut command = Command::new(tool("curl"));
        command.args(["-sS", "--max-time", "300", "-H", &format!("X-Auth-Token: {}", self.token)]);
        command.args(words).arg(format!("{}{path}", self.server.url)).env_clear().stdin(Stdio::null());
        command
    }

    /// Runs it; the answer's body must come with this status.
    #[track_caller]
    fn run(&self, status: u16, words: &[&str], path: &str) -> String {
        let out = self.command(&[words, &["-w", "\n%{http_code}"]].concat(), path).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        let (body, code) = said.rsplit_once('\n').unwrap_or(("", &said));
        assert_eq!(code, status.to_string(), "{words:?} {path}: {body}\n{}", String::from_utf8_lossy(&out.stderr));
        body.to_owned()
    }

    #[track_caller]
    fn json(&self, status: u16, words: &[&str], path: &str) -> Value {
        serde_json::from_str(&self.run(status, words, path)).unwrap()
    }

    /// Downloads into a file, which keeps its holes, and gives how long it took.
    #[track_caller]
    fn download(&self, words: &[&str], path: &str, to: &Path) -> Duration {
        let begun = Instant::now();
        let mut curl = self.command(&[&["-f"], words].concat(), path).stdout(Stdio::piped()).spawn().unwrap();
        let body = curl.stdout.take().unwrap();
        let mut dd = Command::new(tool("dd"));
        dd.arg(format!("of={}", text(to))).args(["bs=1M", "iflag=fullblock", "conv=sparse", "status=none"]);
        assert!(dd.stdin(body).status().unwrap().success());
        assert!(curl.wait().unwrap().success(), "{path}");
        begun.elapsed()
    }

    /// Uploads a file by form.
    #[track_caller]
    fn upload(&self, status: u16, uuid: &str, new: &str, file: &Path) -> String {
        let (form, header) = (format!("file=@{}", text(file)), format!("X-BAAS-NewVersion: {new}"));
        self.run(status, &["-H", &header, "-F", &form], &format!("/image/{uuid}"))
    }

    /// Makes an image and gives its UUID.
    #[track_caller]
    fn image(&self, body: &str) -> String {
        let image = self.json(201, &["-d", body], "/user/jan/image");
        assert_eq!(image["Versions"][0]["Version"], 0);
        image["UUID"].as_str().unwrap().to_owned()
    }

    fn numbers(&self, uuid: &str) -> Value {
        let shown = self.json(200, &[], &format!("/image/{uuid}"));
        shown["Versions"].as_array().unwrap().iter().map(|version| version["Version"].clone()).collect()
    }
}

/// Made by the admin with curl, and given a token.
fn jan(server: &Server) -> Curl<'_> {
    let token = std::fs::read_to_string(server.place.token_file()).unwrap().trim().to_owned();
    let admin = Curl { server, token };
    let user = r#"{"Username":"Jan","Name":"Jan Jansen","Email":"jan@lab.example","Role":"user"}"#;
    assert_eq!(admin.run(200, &["-d", user], "/user"), "Successfully created user\n");
    let made = server.admin().json(&["token", "new", "curl", "--user", "jan"]);
    let jan = Curl { server, token: made["secret"].as_str().unwrap().to_owned() };
    assert_eq!(jan.json(200, &[], "/user/me")["Username"], "jan");
    jan
}

/// Downloads the empty disk in each coding: it has its size, costs nothing on the disk it lands on, and is zeros all through.
fn empty_get(jan: &Curl<'_>, uuid: &str, size: u64, to: &Path) {
    for coding in ["", "gzip", "zstd"] {
        // A curl that was built without zstd would keep what it got as it came.
        if coding == "zstd" && !tool_run("curl", &["--version"]).contains("zstd") {
            continue;
        }
        let accept = format!("Accept-Encoding: {coding}");
        let words = ["--compressed", "-H", &accept];
        let took = jan.download(if coding.is_empty() { &[] } else { &words }, &format!("/image/{uuid}/latest"), to);
        println!("the empty {size} bytes, coded '{coding}': {took:?}");
        let file = std::fs::metadata(to).unwrap();
        assert_eq!(file.size(), size);
        assert!(file.blocks() * 512 <= MIB, "{} bytes are on the disk", file.blocks() * 512);
        let zeros = to.with_extension("zeros");
        File::create(&zeros).unwrap().set_len(size).unwrap();
        same(to, &zeros);
        std::fs::remove_file(zeros).unwrap();
    }
}

/// As its agent does: compressed with the image's strategy, sent in place of the newest, and asked for compressed.
fn packed_round(jan: &Curl<'_>, folder: &Path) {
    let uuid = jan.image(r#"{"Name":"Packed","Size":32,"DiskCompressionStrategy":"ZSTD"}"#);
    let raw = folder.join("small.img");
    std::fs::write(&raw, image_dense(9, 3 * MIB as usize)).unwrap();
    File::options().write(true).open(&raw).unwrap().set_len(32 * MIB).unwrap();
    let packed = folder.join("small.img.zst");
    tool_run("zstd", &["-q", "-f", "-1", text(&raw), "-o", text(&packed)]);
    assert_eq!(jan.upload(200, &uuid, "false", &packed), "Successfully uploaded image: 0\n");
    let given = folder.join("given.zst");
    let path = format!("/image/{uuid}/latest?compress=zstd");
    assert!(jan.command(&["-f", "-o", text(&given)], &path).status().unwrap().success());
    let unpacked = folder.join("unpacked.img");
    tool_run("zstd", &["-q", "-f", "-d", text(&given), "-o", text(&unpacked)]);
    same(&raw, &unpacked);
}

/// Cut half-way, an upload leaves nothing.
fn cut_off(jan: &Curl<'_>, uuid: &str, file: &Path) {
    let words = ["--limit-rate", "20M", "-F", &format!("file=@{}", text(file))];
    let mut curl = jan.command(&words, &format!("/image/{uuid}"));
    let mut curl = curl.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    curl.kill().unwrap();
    curl.wait().unwrap();
    assert_eq!(jan.numbers(uuid), json!([0, 1]));
}

/// `size` goes into the body of the request; none is the 6 GiB of the documentation.
fn flow(place: &Place, size: Option<u64>) {
    let server = Server::start(place);
    let folder = place.folder.clone();
    let jan = jan(&server);
    // An image, and its UUID.
    let wish = size.map(|mib| format!(r#","Size":{mib}"#)).unwrap_or_default();
    let uuid = jan.image(&format!(r#"{{"Name":"Fedora"{wish}}}"#));
    assert_eq!(jan.json(200, &[], "/user/jan/images/Fedora")[0]["UUID"], *uuid);

    let disk = folder.join("disk.img");
    empty_get(&jan, &uuid, size.unwrap_or(6144) * MIB, &disk);

    // A file system with files, without a mount.
    let tree = folder.join("tree");
    std::fs::create_dir_all(tree.join("etc")).unwrap();
    std::fs::write(tree.join("etc/hostname"), "lab\n").unwrap();
    std::fs::write(tree.join("payload"), image_dense(7, 5 * MIB as usize)).unwrap();
    tool_run("mke2fs", &["-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d", text(&tree), text(&disk)]);
    let begun = Instant::now();
    assert_eq!(jan.upload(200, &uuid, "true", &disk), "Successfully uploaded image: 1\n");
    println!("uploading it: {:?}", begun.elapsed());
    let said = jan.json(200, &["-X", "PUT", "-d", r#"{"Filesystem":"ext4"}"#], &format!("/image/{uuid}"));
    assert_eq!(said["Filesystem"], "ext4");

    let back = folder.join("back.img");
    jan.download(&[], &format!("/image/{uuid}/1"), &back);
    same(&disk, &back);
    tool_run("e2fsck", &["-fn", text(&back)]);
    assert_eq!(tool_run("debugfs", &["-R", "cat /etc/hostname", text(&back)]), "lab\n");

    packed_round(&jan, &folder);
    cut_off(&jan, &uuid, &disk);

    // The native side has it all, and whole.
    let native = server.admin().json(&["image", "show", "jan/fedora"]);
    assert_eq!((&native["latest"], &native["title"]), (&json!(1), &json!("Fedora")));
    assert_eq!(jan.run(200, &["-X", "DELETE"], &format!("/image/{uuid}")), "Successfully deleted image\n");
    jan.run(404, &[], &format!("/image/{uuid}"));
    let admin = server.admin();
    check_clean(&admin);
    let (_, status) = server.stop();
    assert!(status.success(), "{status}");
}

#[test]
fn the_documented_flow_by_curl_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    flow(&Place::new(folder.path()), None);
}

/// The same on the other database; what differs is in rows, not in bytes, so a smaller disk does.
#[test]
fn the_documented_flow_by_curl_on_postgresql() {
    let Some(url) = postgres() else {
        println!("ignored: SLIPWAY_TEST_POSTGRES is not set; 'cargo xtask test' sets it");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut place = Place::new(folder.path());
    let database = postgres_new(&url);
    place.database = Some(database.clone());
    flow(&place, Some(128));
    postgres_drop(&url, &database);
}
