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
const SIZE: u64 = 6144 * MIB;

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
}

fn sparse_check(path: &Path, max: u64) {
    let file = std::fs::metadata(path).unwrap();
    assert_eq!(file.size(), SIZE, "{}", path.display());
    assert!(file.blocks() * 512 <= max, "{} bytes are on the disk", file.blocks() * 512);
}

/// Zeros all through, read by its holes.
fn empty_check(path: &Path) {
    let zeros = path.with_extension("zeros");
    File::create(&zeros).unwrap().set_len(SIZE).unwrap();
    same(path, &zeros);
    std::fs::remove_file(zeros).unwrap();
}

fn flow(place: &Place) {
    let server = Server::start(place);
    let folder = place.folder.clone();
    let admin_token = std::fs::read_to_string(server.place.token_file()).unwrap().trim().to_owned();
    let admin = Curl { server: &server, token: admin_token };
    let user = r#"{"Username":"Jan","Name":"Jan Jansen","Email":"jan@lab.example","Role":"user"}"#;
    assert_eq!(admin.run(200, &["-d", user], "/user"), "Successfully created user\n");
    let made = server.admin().json(&["token", "new", "curl", "--user", "jan"]);
    let jan = Curl { server: &server, token: made["secret"].as_str().unwrap().to_owned() };
    assert_eq!(jan.json(200, &[], "/user/me")["Username"], "jan");

    // An image, and its UUID.
    let image = jan.json(201, &["-d", r#"{"Name":"Fedora","DiskCompressionStrategy":"ZSTD"}"#], "/user/jan/image");
    let uuid = image["UUID"].as_str().unwrap();
    assert_eq!(image["Versions"][0]["Version"], 0);
    let listed = jan.json(200, &[], "/user/jan/images/Fedora");
    assert_eq!(listed[0]["UUID"], *uuid);

    // The empty 6 GiB, in each coding.
    let empty = folder.join("empty.img");
    for (name, words) in [
        ("plain", &[][..]),
        ("gzip", &["--compressed", "-H", "Accept-Encoding: gzip"][..]),
        ("zstd", &["--compressed", "-H", "Accept-Encoding: zstd"][..]),
    ] {
        // A curl that was built without zstd would keep what it got as it came.
        if name == "zstd" && !tool_run("curl", &["--version"]).contains("zstd") {
            continue;
        }
        let took = jan.download(words, &format!("/image/{uuid}/latest"), &empty);
        println!("the empty {SIZE} bytes, {name}: {took:?}");
        sparse_check(&empty, MIB);
        empty_check(&empty);
    }

    // A file system with files, without a mount.
    let tree = folder.join("tree");
    std::fs::create_dir_all(tree.join("etc")).unwrap();
    std::fs::write(tree.join("etc/hostname"), "lab\n").unwrap();
    std::fs::write(tree.join("payload"), image_dense(7, 5 * MIB as usize)).unwrap();
    tool_run("mke2fs", &["-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d", text(&tree), text(&empty)]);
    let upload = |version: &str, file: &Path, expected: u16| {
        let (form, header) = (format!("file=@{}", text(file)), format!("X-BAAS-NewVersion: {version}"));
        jan.run(expected, &["-H", &header, "-F", &form], &format!("/image/{uuid}"))
    };
    let begun = Instant::now();
    assert_eq!(upload("true", &empty, 200), "Successfully uploaded image: 1\n");
    println!("uploading {SIZE} bytes: {:?}", begun.elapsed());
    assert_eq!(
        jan.json(200, &["-X", "PUT", "-d", r#"{"Filesystem":"ext4"}"#], &format!("/image/{uuid}"))["Filesystem"],
        "ext4"
    );

    let back = folder.join("back.img");
    jan.download(&[], &format!("/image/{uuid}/1"), &back);
    same(&empty, &back);
    tool_run("e2fsck", &["-fn", text(&back)]);
    assert_eq!(tool_run("debugfs", &["-R", "cat /etc/hostname", text(&back)]), "lab\n");

    // As its agent does: compressed with the image's strategy, sent in place of the newest, and asked for compressed.
    tool_run("debugfs", &["-w", "-R", "rm /etc/hostname", text(&back)]);
    let packed = folder.join("back.img.zst");
    tool_run("zstd", &["-q", "-f", "-1", text(&back), "-o", text(&packed)]);
    assert_eq!(upload("false", &packed, 200), "Successfully uploaded image: 1\n");
    let given = folder.join("given.zst");
    let out = given.clone();
    let path = format!("/image/{uuid}/latest?compress=zstd");
    assert!(jan.command(&["-f", "-o", text(&out)], &path).status().unwrap().success());
    let unpacked = folder.join("unpacked.img");
    tool_run("zstd", &["-q", "-f", "-d", "--sparse", text(&given), "-o", text(&unpacked)]);
    same(&back, &unpacked);

    // Cut half-way, it leaves nothing.
    let mut curl = jan.command(
        &["--limit-rate", "20M", "-H", "X-BAAS-NewVersion: true", "-F", &format!("file=@{}", text(&empty))],
        &format!("/image/{uuid}"),
    );
    let mut curl = curl.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    curl.kill().unwrap();
    curl.wait().unwrap();
    let shown = jan.json(200, &[], &format!("/image/{uuid}"));
    let numbers: Vec<_> =
        shown["Versions"].as_array().unwrap().iter().map(|version| version["Version"].clone()).collect();
    assert_eq!(json!(numbers), json!([0, 1]));

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
    flow(&Place::new(folder.path()));
}

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
    flow(&place);
    postgres_drop(&url, &database);
}
