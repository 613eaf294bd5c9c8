//! `slipway doctor` against what is really broken: each fault is made, and its line, its verdict and its next step are looked for.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub)]
mod house;
mod kit;

use house::{House, Place, Ran, image};
use kit::database::{execute, postgres, postgres_drop, postgres_new};
use kit::s3::{KEY, S3, SECRET};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Runs a doctor and looks for a line of this name and verdict that says these words; the exit code must fit all verdicts.
#[track_caller]
fn seen(ran: &Ran, name: &str, verdict: &str, words: &str) -> String {
    let report = ran.json();
    let lines = report.as_array().unwrap();
    let failed = lines.iter().any(|line| line["verdict"] == "fail");
    assert_eq!(ran.code, i32::from(failed), "{report:#}\n{}", ran.err);
    for line in lines {
        let next = line["next"].as_str().unwrap_or_default();
        assert_eq!(line["verdict"] == "ok", next.is_empty(), "only what is well has no next step: {line}");
        assert!(!line.to_string().contains("os error"), "{line}");
    }
    let found = lines.iter().find(|line| {
        line["name"] == name && line["verdict"] == verdict && line["what"].as_str().unwrap().contains(words)
    });
    let found = found.unwrap_or_else(|| panic!("no line '{verdict} {name} … {words} …' in\n{report:#}"));
    found["next"].as_str().unwrap_or_default().to_owned()
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn client(place: &Place, env: &[(&str, &str)]) -> Ran {
    place.run(&["doctor", "-o", "json"], env, b"")
}

#[test]
fn a_client_is_told_what_is_wrong_on_the_way() {
    let house = House::start();
    let well = house.run(&["doctor", "-o", "json"]).expect(0);
    for (name, words) in [
        ("settings", "SLIPWAY_URL"),
        ("server", "as this program"),
        ("clock", "same"),
        ("ready", "answer"),
        ("token", "admin"),
    ] {
        seen(&well, name, "ok", words);
    }
    let text = house.run(&["doctor"]).expect(0).text();
    assert!(text.contains("ok    token") && !text.contains("slp_"), "{text}");

    let place = Place::new();
    let next = seen(&client(&place, &[]), "settings", "fail", "no server is named");
    assert!(next.contains("slipway login URL"), "{next}");
    let url = ("SLIPWAY_URL", house.url.as_str());
    assert!(seen(&client(&place, &[url]), "token", "fail", "no token").contains("slipway login"));
    let revoked = house.run(&["token", "new", "short", "--ttl", "1h"]).expect(0).text().trim().to_owned();
    seen(&client(&place, &[url, ("SLIPWAY_TOKEN", &revoked)]), "token", "warn", "ends soon");
    let id = house.run(&["token", "ls", "-o", "json"]).expect(0).json();
    let id = id.as_array().unwrap().iter().find(|token| token["name"] == "short").unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    house.run(&["token", "rm", &id]).expect(0);
    let next = seen(&client(&place, &[url, ("SLIPWAY_TOKEN", &revoked)]), "token", "fail", "environment SLIPWAY_TOKEN");
    assert!(next.contains("slipway login"), "{next}");
    let next = seen(&client(&place, &[url, ("SLIPWAY_TOKN", "x")]), "variable", "warn", "SLIPWAY_TOKN");
    assert!(next.contains("did you mean SLIPWAY_TOKEN?"), "{next}");

    // The wrong kind of door, no door, no house.
    let tls = house.url.replace("http://", "https://");
    seen(&client(&place, &[("SLIPWAY_URL", &tls)]), "tls", "fail", "does not speak TLS");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let closed = format!("http://{closed}");
    assert!(
        seen(&client(&place, &[("SLIPWAY_URL", &closed)]), "connection", "fail", "refused")
            .contains("systemctl status")
    );
    let ran = client(&place, &[("SLIPWAY_URL", "http://no-such-host.invalid")]);
    assert!(seen(&ran, "name", "fail", "no-such-host.invalid").contains("getent hosts"));

    // A server whose disk is full answers, and says that it takes no uploads.
    let place = Place::new();
    let config = place.file("slipway.toml", format!("min_free_bytes = {}\n", i64::MAX).as_bytes());
    let full = House::start_with(place, &["--config", &config]);
    let next = seen(&client(&full.place, &[("SLIPWAY_URL", &full.url)]), "ready", "warn", "MiB are free");
    assert!(next.contains("slipway doctor --server"), "{next}");
}

#[test]
fn a_client_is_told_whom_not_to_trust() {
    let place = Place::new();
    let token_file = place.path("admin.token");
    let house = House::start_with(place, &["--tls-self-made", "--admin-token-file", token_file.to_str().unwrap()]);
    let token = std::fs::read_to_string(&token_file).unwrap().trim().to_owned();
    let place = Place::new();
    let base = [("SLIPWAY_URL", house.url.as_str()), ("SLIPWAY_TOKEN", token.as_str())];
    let next = seen(&client(&place, &base), "tls", "fail", "not trusted");
    assert!(next.contains("tls/ca.pem") && next.contains("slipway login"), "{next}");
    let ca = house.place.path("data/tls/ca.pem");
    let right = client(&place, &[base[0], base[1], ("SLIPWAY_CA", ca.to_str().unwrap())]);
    seen(&right, "certificate", "ok", "Slipway self-made authority");
    seen(&right, "token", "ok", "admin");
    let other = House::start_with(Place::new(), &["--tls-self-made"]);
    let wrong = other.place.path("data/tls/ca.pem");
    seen(&client(&place, &[base[0], base[1], ("SLIPWAY_CA", wrong.to_str().unwrap())]), "tls", "fail", "not trusted");
    let missing = client(&place, &[base[0], base[1], ("SLIPWAY_CA", "none.pem")]);
    seen(&missing, "settings", "fail", "none.pem");

    // What login keeps is for one's own eyes, in a folder that nobody else writes.
    let login = ["login", house.url.as_str(), "--ca", ca.to_str().unwrap(), "--token-stdin"];
    place.run(&login, &[], token.as_bytes()).expect(0);
    seen(&client(&place, &[]), "credentials", "ok", "1 context");
    let kept = place.path(".config/slipway/credentials.toml");
    mode(&kept, 0o644);
    assert!(seen(&client(&place, &[]), "credentials", "fail", "644").contains("chmod 600"));
    mode(&kept, 0o600);
    mode(kept.parent().unwrap(), 0o777);
    assert!(seen(&client(&place, &[]), "credentials", "fail", "others may write").contains("chmod 700"));
    mode(kept.parent().unwrap(), 0o700);
    place.run(&["context", "add", "bare", "http://127.0.0.1:9"], &[], b"").expect(0);
    assert!(
        seen(&client(&place, &[]), "context", "warn", "'bare' has no token").contains("slipway login --context bare")
    );
}

/// Something that is nearly a Slipway server: another version, another clock.
#[test]
fn another_version_and_another_clock_are_seen() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\netag: \"0.0.7\"\r\ndate: Sat, 01 Jan 2000 00:00:00 GMT\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            );
        }
    });
    let ran = client(&Place::new(), &[("SLIPWAY_URL", &url)]);
    seen(&ran, "server", "warn", "its version is 0.0.7");
    assert!(seen(&ran, "clock", "warn", "ahead of the server's").contains("timedatectl"));
}

/// A stopped server's place, with an image in it.
fn stopped() -> Place {
    let mut house = House::start();
    let raw = house.place.file("disk.raw", &image(71));
    house.run(&["push", &raw, "me/os"]).expect(0);
    let place = std::mem::replace(&mut house.place, Place::new());
    assert_eq!(house.stop("TERM"), 0);
    place
}

fn server(place: &Place, words: &[&str], env: &[(&str, &str)]) -> Ran {
    let data = place.path("data");
    let base = ["doctor", "--data", data.to_str().unwrap(), "-o", "json"];
    let listen = ["--listen", "127.0.0.1:0"];
    let listen = if words.contains(&"--listen") { &[][..] } else { &listen };
    place.run(&[&base[..], listen, words].concat(), env, b"")
}

fn database(place: &Place, statement: &str) {
    execute(&format!("sqlite:{}", place.path("data/slipway.sqlite").display()), &[statement.to_owned()]);
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push(path),
        }
    }
    found.sort();
    found
}

#[test]
fn a_healthy_server_is_found_healthy_and_left_as_it_is() {
    let house = House::start();
    let raw = house.place.file("disk.raw", &image(72));
    house.run(&["push", &raw, "me/os"]).expect(0);
    let address = house.url.trim_start_matches("http://").to_owned();
    // Beside the running server, while it is at work.
    let beside = server(&house.place, &["--listen", &address], &[]);
    for (name, words) in [
        ("data", "only its owner"),
        ("flush", "read back"),
        ("lock", "process"),
        ("port", "answers"),
        ("database", "whole"),
        ("clock", "not behind"),
        ("capability-key", "right length"),
        ("admin", "1 admin"),
        ("blobs", "written, read and deleted"),
        ("blobs", "all there"),
        ("spool", "nothing left"),
    ] {
        seen(&beside, name, "ok", words);
    }
    beside.expect(0);
    let out = house.place.path("out.raw");
    house.run(&["pull", "me/os", "-o", out.to_str().unwrap()]).expect(0);
    house.run(&["push", &house.place.file("disk.raw", &image(73)), "me/os"]).expect(0);

    let place = stopped();
    let before = files(&place.path("data"));
    server(&place, &[], &[]).expect(0);
    seen(&server(&place, &[], &[]), "lock", "ok", "no server");
    assert_eq!(files(&place.path("data")), before, "doctor leaves nothing behind");
    let text = place.run(
        &["doctor", "--server", "--data", place.path("data").to_str().unwrap(), "--listen", "127.0.0.1:0"],
        &[],
        b"",
    );
    assert!(text.expect(0).text().contains("ok    database"));
}

#[test]
fn a_servers_folder_and_address_are_looked_at() {
    let place = stopped();
    let data = place.path("data");
    mode(&data, 0o755);
    assert!(seen(&server(&place, &[], &[]), "data", "warn", "755").contains("chmod 700"));
    mode(&data, 0o700);
    let empty = Place::new();
    assert!(seen(&server(&empty, &[], &[]), "data", "warn", "not there").contains("slipway serve"));
    assert!(!empty.path("data").exists());
    empty.file("data", b"");
    seen(&server(&empty, &[], &[]), "data", "fail", "is not a folder");
    let much = u64::MAX / 4;
    let ran = server(&place, &[], &[("SLIPWAY_MIN_FREE_BYTES", &much.to_string())]);
    assert!(seen(&ran, "space", "fail", "507").contains("slipway prune"));

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert!(seen(&server(&place, &["--listen", &address], &[]), "port", "fail", "in use").contains("ss -ltnp"));
    let ran = server(&place, &["--listen", "192.0.2.1:8440"], &[]);
    assert!(seen(&ran, "port", "fail", "no address of this machine").contains("ip -brief address"));
    let open = server(&place, &["--listen", "0.0.0.0:0"], &[]);
    assert!(seen(&open, "tls", "warn", "not used").contains("--tls-self-made"));

    let spool = data.join("spool");
    std::fs::write(spool.join("0198c0de-0000-7000-8000-000000000000"), b"left over").unwrap();
    kit::tool_run("touch", &["-d", "2 days ago", spool.join("0198c0de-0000-7000-8000-000000000000").to_str().unwrap()]);
    seen(&server(&place, &[], &[]), "spool", "warn", "1 files with 9 B");

    let file = place.file("slipway.toml", b"listn = \"127.0.0.1:0\"\n");
    assert!(!seen(&server(&place, &["--config", &file], &[]), "settings", "fail", "did you mean 'listen'?").is_empty());
    seen(&server(&place, &[], &[("SLIPWAY_STOP_SECONDS", "soon")]), "settings", "fail", "SLIPWAY_STOP_SECONDS");
    seen(&server(&place, &[], &[("SLIPWAY_GRACE_HOURS", "1")]), "settings", "fail", "grace_hours");
}

#[test]
fn a_servers_certificates_are_looked_at() {
    let one = House::start_with(Place::new(), &["--tls-self-made"]);
    let two = House::start_with(Place::new(), &["--tls-self-made"]);
    let (cert, key) = (one.place.path("data/tls/ca.pem"), one.place.path("data/tls/ca.key"));
    let other = two.place.path("data/tls/ca.key");
    let place = stopped();
    let with = |cert: &Path, key: &Path| {
        server(&place, &["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()], &[])
    };
    let well = with(&cert, &key);
    seen(&well, "tls-pair", "ok", "belongs to");
    seen(&well, "tls", "ok", "until");
    assert!(seen(&with(&cert, &other), "tls-pair", "fail", "does not belong").contains("--tls-key"));
    mode(&key, 0o644);
    assert!(seen(&with(&cert, &key), "tls-key", "warn", "644").contains("chmod 600"));
    seen(&with(Path::new(&place.file("cert.pem", b"no certificate")), &key), "tls", "fail", "holds no certificate");
    seen(&with(&place.path("none.pem"), &key), "tls", "fail", "none.pem");
    seen(&with(&cert, &place.path("none.key")), "tls-key", "fail", "none.key");
    let both = [std::fs::read(&cert).unwrap(), std::fs::read(two.place.path("data/tls/ca.pem")).unwrap()].concat();
    // Both authorities have the same name, so their order cannot be told apart; two unlike ones can.
    seen(&with(Path::new(&place.file("both.pem", &both)), &key), "tls-pair", "ok", "belongs");
    let self_made = server(&place, &["--tls-self-made"], &[]);
    seen(&self_made, "tls", "ok", "first start makes");
    std::fs::write(one.place.path("data/tls/ca.pem"), "gone").unwrap();
    let data = one.place.path("data");
    let ran = place.run(
        &["doctor", "--data", data.to_str().unwrap(), "--listen", "127.0.0.1:0", "--tls-self-made", "-o", "json"],
        &[],
        b"",
    );
    assert!(seen(&ran, "tls", "fail", "own CA").contains("makes a new CA"));
}

#[test]
fn a_servers_database_is_looked_at() {
    let place = stopped();
    let check = |statement: &str, back: &str, name: &str, verdict: &str, words: &str, next: &str| {
        database(&place, statement);
        let said = seen(&server(&place, &[], &[]), name, verdict, words);
        assert!(said.contains(next), "{said}");
        database(&place, back);
        seen(&server(&place, &[], &[]), "database", "ok", "whole");
    };
    let key = "UPDATE secret SET value = replace(value, 'x', '') WHERE name = 'capability'";
    check(
        "UPDATE secret SET value = value || 'x' WHERE name = 'capability'",
        key,
        "capability-key",
        "fail",
        "32 bytes",
        "delete the row",
    );
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', 1, x'00', 0)";
    check(newer, "DELETE FROM _sqlx_migrations WHERE version = 9999", "database", "fail", "9999", "newer slipway");
    check(
        "UPDATE _sqlx_migrations SET success = 0 WHERE version = 2",
        "UPDATE _sqlx_migrations SET success = 1 WHERE version = 2",
        "database",
        "fail",
        "change 2 of the database broke off",
        "backup",
    );
    check(
        "UPDATE account SET disabled = 1 WHERE role = 'admin'",
        "UPDATE account SET disabled = 0 WHERE role = 'admin'",
        "admin",
        "warn",
        "no admin",
        "slipway login URL --setup",
    );
    let day = 86_400_000;
    let ahead = format!("UPDATE journal SET at = at + {day}");
    check(&ahead, &format!("UPDATE journal SET at = at - {day}"), "clock", "fail", "set back", "timedatectl");

    let blobs = place.path("data/blobs");
    std::fs::rename(&blobs, place.path("away")).unwrap();
    assert!(seen(&server(&place, &[], &[]), "blobs", "fail", "is not there").contains("slipway check"));
    std::fs::rename(place.path("away"), &blobs).unwrap();
    let pack = files(&blobs).into_iter().max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    let bytes = std::fs::read(&pack).unwrap();
    std::fs::write(&pack, &bytes[..bytes.len() / 2]).unwrap();
    assert!(seen(&server(&place, &[], &[]), "blobs", "fail", "another length").contains("slipway check"));
    std::fs::write(&pack, &bytes).unwrap();
    mode(&blobs, 0o755);
    assert!(seen(&server(&place, &[], &[]), "blobs", "warn", "755").contains("chmod 700"));
    mode(&blobs, 0o700);

    // A disk that swapped some pages for others.
    let path = place.path("data/slipway.sqlite");
    let whole = std::fs::read(&path).unwrap();
    let mut hurt = whole.clone();
    for page in hurt.chunks_mut(4096).skip(2).step_by(3) {
        page.fill(0xa5);
    }
    std::fs::write(&path, &hurt).unwrap();
    assert!(seen(&server(&place, &[], &[]), "database", "fail", "").contains("backup"));
    std::fs::write(&path, b"not a database at all, but long enough to be read as one".repeat(100)).unwrap();
    seen(&server(&place, &[], &[]), "database", "fail", "");
    std::fs::write(&path, &whole).unwrap();
    server(&place, &[], &[]).expect(0);
    let foreign = place.path("foreign.sqlite");
    std::fs::write(&foreign, b"").unwrap();
    let address = format!("sqlite:{}", foreign.display());
    seen(&server(&place, &["--database", &address], &[]), "database", "ok", "empty");
    execute(&address, &["CREATE TABLE theirs (a TEXT)".to_owned()]);
    seen(&server(&place, &["--database", &address], &[]), "database", "fail", "another program");
    seen(&server(&place, &["--database", "mysql://x"], &[]), "database", "fail", "mysql");
}

#[test]
fn a_postgresql_that_forgets_is_found() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let place = Place::new();
    let away = server(&place, &[], &[("SLIPWAY_DATABASE", &format!("postgres://me:s3cret@{nobody}/x"))]);
    assert!(seen(&away, "database", "fail", &nobody.to_string()).contains("pg_isready"));
    assert!(!away.text().contains("s3cret"), "{}", away.text());
    let Some(postgres) = postgres() else {
        println!("ignored: doctor on PostgreSQL (needs SLIPWAY_TEST_POSTGRES)");
        return;
    };
    let url = postgres_new(&postgres);
    let env = [("SLIPWAY_DATABASE", url.as_str())];
    seen(&server(&place, &[], &env), "database", "ok", "empty");
    let name = url.rsplit_once('/').unwrap().1;
    let mut command = place.command(&["serve", "--data", "data", "--listen", "127.0.0.1:0", "--admin-token-file", "t"]);
    let mut child = command.env("SLIPWAY_DATABASE", &url).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().contains("ready on")));
    let beside = server(&place, &[], &env);
    seen(&beside, "database", "ok", "whole");
    seen(&beside, "postgresql", "ok", "synchronous_commit is on");
    seen(&beside, "admin", "ok", "1 admin");
    // The tests' own PostgreSQL may forget all at a power cut, and that is what a doctor is for.
    assert!(seen(&beside, "postgresql", "fail", "fsync is off").contains("fsync = on"));
    execute(&postgres, &[format!("ALTER DATABASE {name} SET synchronous_commit = off")]);
    seen(&server(&place, &[], &env), "postgresql", "fail", "synchronous_commit is off");
    execute(&postgres, &[format!("ALTER DATABASE {name} SET default_transaction_read_only = on")]);
    seen(&server(&place, &[], &env), "postgresql", "fail", "takes no writes");
    house::signal_send(child.id(), "TERM");
    child.wait().unwrap();
    postgres_drop(&postgres, &url);
}

#[test]
fn a_bucket_is_tried() {
    let place = Place::new();
    let mut s3 = S3::start(&place.path("bucket"));
    let blobs = s3.blobs();
    let env = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let objects = s3.objects();
    seen(&server(&place, &["--blobs", &blobs], &env), "blobs", "ok", "written, read and deleted");
    assert_eq!(s3.objects(), objects, "the probe is gone");
    let next =
        seen(&server(&place, &["--blobs", &blobs], &[env[0], ("AWS_SECRET_ACCESS_KEY", "wrong")]), "blobs", "fail", "");
    assert!(next.contains("keys"), "{next}");
    seen(&server(&place, &["--blobs", "s3://"], &env), "blobs", "fail", "names no bucket");
    s3.go_away();
    let next = seen(&server(&place, &["--blobs", &blobs], &env), "blobs", "fail", "");
    assert!(next.contains("endpoint"), "{next}");
}

/// A full disk and one that is only memory, for real.
#[test]
#[ignore = "needs root"]
fn root_a_full_disk_is_found() {
    let place = Place::new();
    let data = place.path("data");
    std::fs::create_dir(&data).unwrap();
    kit::tool_run("mount", &["-t", "tmpfs", "-o", "size=64k,mode=700", "none", data.to_str().unwrap()]);
    let ran = std::panic::catch_unwind(|| {
        std::fs::write(data.join("full"), vec![1; 1 << 20]).unwrap_err();
        server(&place, &[], &[])
    });
    kit::tool_run("umount", &[data.to_str().unwrap()]);
    let ran = ran.unwrap();
    seen(&ran, "space", "fail", "507");
    seen(&ran, "disk", "warn", "in memory");
    assert!(seen(&ran, "flush", "fail", "writing a file").contains("slipway prune"));
}
