//! `slipway node` against the real service, which runs in a mount namespace of its own.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub)]
#[path = "node/examples.rs"]
mod examples;
#[allow(unreachable_pub)]
mod house;
#[allow(unreachable_pub)]
#[path = "node/place.rs"]
mod place;
#[allow(unreachable_pub)]
#[path = "node/terminal.rs"]
mod terminal;

use house::Place;
use place::{Node, image};
use std::io::{BufRead, Read, Write};
use std::os::unix::fs::PermissionsExt;

/// No service, or one that does not let us in: said at once, with what to do.
#[test]
fn a_service_that_is_not_there_is_named() {
    let place = Place::new();
    let socket = place.path("none.sock");
    let socket = format!("unix:{}", socket.display());
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let dead = place.path("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let dead = format!("unix:{}", dead.display());
    for (address, code, words) in [
        (socket.as_str(), 9, "no such file"),
        (&dead, 9, "refused"),
        (&nobody, 9, "refused"),
        ("unix:relative", 2, "absolute path"),
        ("http://n17.lab:1", 2, "in the clear"),
        ("https://a:b@n17.lab:1", 2, "password"),
        ("n17", 3, "no context 'n17'"),
    ] {
        let ran = place.run(&["node", "--node", address, "ps"], &[], b"").expect(code);
        assert!(ran.err.to_lowercase().contains(words) && ran.err.contains("next: "), "{address}: {}", ran.err);
        let ran = place.run(&["node", "ps"], &[("SLIPWAY_NODE", address)], b"").expect(code);
        assert!(ran.err.to_lowercase().contains(words), "{address}: {}", ran.err);
    }
}

#[test]
#[ignore = "needs root"]
fn root_a_socket_for_others_is_refused_clearly() {
    let node = Node::start();
    let socket = node.socket();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(node.place.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // The program itself may lie where others may not look.
    let copied = node.place.path("slipway");
    std::fs::copy(house::PROGRAM, &copied).unwrap();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copied).args(["node", "ps"]);
    command.env_clear().env("SLIPWAY_NODE", format!("unix:{}", socket.display())).env("HOME", "/nonexistent");
    let ran = house::run(command, b"").expect(4);
    assert!(ran.err.contains("permission denied") || ran.err.contains("Permission denied"), "{}", ran.err);
    assert!(ran.err.contains("sudo slipway node"), "{}", ran.err);
}

/// Certificates in a folder: a CA, and for each name a certificate of it and its key.
fn certificates(place: &Place, ca: &str, names: &[&str]) {
    let openssl = |line: &str| {
        let words = line.split(' ').filter(|word| !word.is_empty());
        let ran = std::process::Command::new("openssl").args(words).current_dir(place.dir.path()).output().unwrap();
        assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {key} -keyout {ca}.key -out {ca}.pem -subj /CN={ca} -days 2"));
    place.file("names", b"subjectAltName=DNS:localhost\n");
    for name in names {
        openssl(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        let signed = format!("-CA {ca}.pem -CAkey {ca}.key -CAcreateserial -extfile names -days 2");
        openssl(&format!("x509 -req -in {name}.csr {signed} -out {name}.pem"));
    }
}

#[test]
#[ignore = "needs root"]
fn root_a_certificate_opens_a_node_elsewhere() {
    let place = Place::new();
    certificates(&place, "ca", &["server", "person"]);
    certificates(&place, "other-ca", &["stranger"]);
    let both = [std::fs::read(place.path("person.pem")).unwrap(), std::fs::read(place.path("person.key")).unwrap()];
    place.file("both.pem", &both.concat());
    let policy = place.file("policy.toml", b"certificate_role = \"read\"\n");
    let at = |name: &str| place.path(name).to_str().unwrap().to_owned();
    let (cert, key, ca) = (at("server.pem"), at("server.key"), at("ca.pem"));
    let tls = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca, "--policy", &policy];
    let node = Node::start_with(place, &[&tls[..], &["--listen", "127.0.0.1:0"]].concat());
    let address = node.address.clone().unwrap().replace("127.0.0.1", "localhost");
    let ask = |who: &[&str], words: &[&str]| {
        let words = [&["node", "--node", &address, "--ca", "ca.pem"], who, words].concat();
        node.place.run(&words, &[], b"")
    };
    let person = ["--cert", "person.pem", "--key", "person.key"];
    assert_eq!(ask(&person, &["ls", "-o", "json"]).expect(0).json(), serde_json::json!([]));
    ask(&["--cert", "both.pem"], &["ps"]).expect(0);
    let env = [
        ("SLIPWAY_NODE", address.as_str()),
        ("SLIPWAY_NODE_CA", "ca.pem"),
        ("SLIPWAY_NODE_CERT", "person.pem"),
        ("SLIPWAY_NODE_KEY", "person.key"),
    ];
    node.place.run(&["node", "events"], &env, b"").expect(0);
    // It may look, and no more; and nobody else may come in at all.
    let ran = ask(&person, &["mount", "bind", "/", "--ro"]).expect(4);
    assert!(ran.err.contains("certificate sha256:") && ran.err.contains("next: "), "{}", ran.err);
    for who in [&[][..], &["--cert", "stranger.pem", "--key", "stranger.key"]] {
        let ran = ask(who, &["ps"]);
        assert!(ran.code != 0 && ran.err.contains("next: "), "{who:?}: {} {}", ran.code, ran.err);
    }
    let ran = ask(&["--cert", "person.pem", "--key", "stranger.key"], &["ps"]);
    assert!(ran.code == 2 && ran.err.contains("do not belong together"), "{}", ran.err);
}

#[test]
#[ignore = "needs root"]
fn root_events_are_followed_over_a_restart() {
    use std::io::BufRead;
    let mut node = Node::start();
    let tree = place::folder(&node.place, "tree").to_str().unwrap().to_owned();
    let bound = |node: &Node| {
        let id = node.run(&["mount", "bind", &tree, "--ro"]).expect(0).text().trim().to_owned();
        node.run(&["rm", &id]).expect(0);
        id
    };
    let before = bound(&node);
    let seen: Vec<serde_json::Value> = node
        .run(&["events", "-o", "jsonl"])
        .expect(0)
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let made = seen.iter().find(|event| event["what"] == "mount.created").unwrap()["id"].to_string();
    let mut command = node.command(&["events", "-f", "--since", &made, "-o", "jsonl"]);
    let mut child = command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let (tell, heard) = std::sync::mpsc::channel::<serde_json::Value>();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = tell.send(serde_json::from_str(&line).unwrap());
        }
    });
    let next = || heard.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    // What came after the number; what happens; and, when the service is another one, that and what happens there.
    let mut last = made.parse::<u64>().unwrap();
    let mut follow = |what: &str, object: &str| {
        let event = loop {
            let event = next();
            if event["what"] != "gap" {
                break event;
            }
        };
        assert_eq!((event["what"].as_str(), event["object"].to_string().as_str()), (Some(what), object), "{event}");
        let id = event["id"].as_u64().unwrap();
        assert!(id > last, "{id} {last}");
        last = id;
    };
    follow("mount.removed", &before);
    let second = bound(&node);
    follow("mount.created", &second);
    follow("mount.removed", &second);
    node.restart();
    let third = bound(&node);
    follow("mount.created", &third);
    follow("mount.removed", &third);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
#[ignore = "needs root"]
fn root_attach_and_mount_are_put_together() {
    let node = Node::start();
    let image = image(&node.place, "root.sqfs");
    let attach = node.run(&["attach", "loopback", &image, "--ro"]).expect(0);
    let attach = attach.text().trim().to_owned();
    assert!(attach.parse::<u64>().is_ok(), "{attach}");
    let mount = node.run(&["mount", "attach", &attach, "--fs-type", "squashfs"]).expect(0).text().trim().to_owned();
    let shown = node.run(&["inspect", &mount]).expect(0).text();
    assert!(shown.contains("squashfs of /dev/loop") && shown.contains(&image), "{shown}");
    let table = node.run(&["ls"]).expect(0).text();
    assert!(table.contains("loopback") && table.contains("/dev/loop") && table.lines().count() == 3, "{table}");

    // What something stands on stays, and it is said what that is.
    let ran = node.run(&["rm", &attach]).expect(5);
    assert!(ran.err.contains(&format!("kept by mount {mount}")), "{}", ran.err);
    assert!(ran.err.contains(&format!("slipway node rm {mount}")), "{}", ran.err);
    node.run(&["rm", &mount, &attach]).expect(0);
    assert_eq!(node.run(&["ls", "-o", "json"]).expect(0).json(), serde_json::json!([]));

    // In one go, with the file system seen by itself, relative to here.
    let mut command = node.command(&["mount", "attach", "root.sqfs"]);
    command.current_dir(node.place.dir.path());
    let mount = house::run(command, b"").expect(0).text().trim().to_owned();
    node.run(&["rm", &mount]).expect(0);
    node.gone_wait();

    let folder = node.place.path("folder");
    std::fs::create_dir(&folder).unwrap();
    let bind = node.run(&["mount", "bind", folder.to_str().unwrap(), "--ro", "-o", "json"]).expect(0).json();
    let over = node.run(&["mount", "overlay", &bind["id"].to_string(), "--size", "1M", "-o", "json"]).expect(0).json();
    assert_eq!(over["overlay"]["lower"][0]["id"], bind["id"]);
    node.run(&["rm", &over["id"].to_string(), &bind["id"].to_string()]).expect(0);

    for (words, code, said) in [
        (&["attach", "loopback", "/no/such/file"][..], 2, "/no/such/file"),
        (&["attach", "local", folder.to_str().unwrap()], 2, "folder"),
        (&["mount", "attach", "/no/such/file"], 3, "/no/such/file"),
        (&["mount", "attach", "99", "--fs-type", "ext4"], 3, "99"),
        (&["mount", "attach", folder.to_str().unwrap()], 2, "mount bind"),
        (&["mount", "nfs", "s1.lab"], 2, "s1.lab:/exports"),
        (&["mount", "attach", &image, "--fs-type", "nosuchfs"], 2, "nosuchfs"),
        (&["rm", "77"], 3, "number 77"),
        (&["rm", "web"], 3, "container web"),
        (&["inspect", "web"], 3, "container web"),
    ] {
        let ran = node.run(words).expect(code);
        assert!(ran.err.contains(said) && ran.err.contains("next: "), "{words:?}: {}", ran.err);
        assert!(!ran.err.contains("os error"), "{words:?}: {}", ran.err);
    }
    assert_eq!(node.run(&["ls", "-o", "json"]).expect(0).json(), serde_json::json!([]));
}

#[test]
#[ignore = "needs root"]
fn root_an_image_runs_in_the_foreground() {
    let node = Node::start();
    let image = image(&node.place, "root.sqfs");
    let ran = node
        .run(&["run", "--rm", &image, "/bin/sh", "-c", "echo hello; echo x > /written; cat /written; exit 7"])
        .expect(7);
    assert_eq!(ran.text(), "hello\nx\n");
    assert_eq!(ran.err, "");
    node.empty_wait();
    // No end of line is added, a variable and a directory are there, and so are options behind the command.
    let words =
        ["run", "--rm", "--env", "A=b c", "--cwd", "/bin", &image, "/bin/sh", "-c", "printf \"$A $PWD $0\"", "--rm"];
    assert_eq!(node.run(&words).expect(0).text().trim_end(), "b c /bin --rm");
    // A directory is a root too, and is not changed.
    let folder = place::folder(&node.place, "tree");
    let words = ["run", "--rm", folder.to_str().unwrap(), "/bin/sh", "-c", "echo x > /written; cat /written"];
    assert_eq!(node.run(&words).expect(0).text(), "x\n");
    assert!(!folder.join("written").exists());
    // Without --rm it stays, with its log and how it ended.
    node.run(&["run", "--name", "once", &image, "/bin/sh", "-c", "echo kept; exit 3"]).expect(3);
    let seen = node.run(&["inspect", "once", "-o", "json"]).expect(0).json();
    assert_eq!((seen["state"].as_str(), seen["exit"]["code"].as_i64()), (Some("dead"), Some(3)));
    assert!(node.run(&["logs", "once"]).expect(0).text().contains("kept\n"));
    node.run(&["run", "--name", "once", &image, "/bin/true"]).expect(5);
    node.run(&["rm", "once"]).expect(0);
    node.empty_wait();

    for (words, code, said) in [
        (&["run", &image, "/bin/none"][..], 1, "/bin/none"),
        (&["run", &image, "sh"], 2, "/bin/sh"),
        (&["run", &image], 2, "what to run is missing"),
        (&["run", "none.sqfs", "/bin/sh"], 3, "none.sqfs"),
        (&["run", "999", "/bin/sh"], 3, "999"),
        (&["run", "--name", ".x", &image, "/bin/true"], 2, "name"),
        (&["run", "--restart", "always", &image, "/bin/true"], 2, "--detach"),
        (&["run", "--memory", "lots", &image, "/bin/true"], 2, "512M"),
        (&["run", "-o", "json", &image, "/bin/true"], 2, "add -d"),
    ] {
        let ran = node.run(words).expect(code);
        assert!(ran.err.contains(said), "{words:?}: {}", ran.err);
        assert!(ran.err.contains("next: ") || ran.err.contains("try '--help'"), "{words:?}: {}", ran.err);
    }
    node.empty_wait();
}

#[test]
#[ignore = "needs root"]
fn root_a_container_lives_on_its_own() {
    let node = Node::start();
    let image = image(&node.place, "root.sqfs");
    let line = "trap 'echo bye; exit 0' TERM; echo up; i=0; while :; do echo tick $i; i=$((i+1)); sleep 1 & wait; done";
    let name = node.run(&["run", "-d", "--name", "web", &image, "/bin/sh", "-c", line]).expect(0);
    assert_eq!(name.text(), "web\n");
    let table = node.run(&["ps"]).expect(0).text();
    assert!(table.contains("web") && table.contains("running") && table.contains("root.sqfs"), "{table}");

    // A follower sees what comes, and ends with the container.
    let follower = node.command(&["logs", "-f", "--tail", "1", "web"]);
    let follower = std::thread::spawn(move || house::run(follower, b""));
    let ran = node.run(&["exec", "web", "/bin/sh", "-c", "echo out; echo err >&2; exit 9"]).expect(9);
    assert_eq!((ran.text().as_str(), ran.err.as_str()), ("out\n", "err\n"));
    let ran = node.run_with(&["exec", "-i", "web", "/bin/cat"], b"handed on\n").expect(0);
    assert_eq!(ran.text(), "handed on\n");
    let many = house::noise(1, 3 << 20);
    let ran = node.run_with(&["exec", "-i", "web", "/bin/cat"], &many).expect(0);
    assert!(ran.out == many, "{} bytes came back", ran.out.len());
    // Without -i the command's input is at its end.
    assert_eq!(node.run_with(&["exec", "web", "/bin/cat"], b"not for it").expect(0).text(), "");
    let words = ["exec", "--env", "A=1", "--cwd", "/bin", "web", "/bin/sh", "-c", "echo $A $PWD; kill -9 $$"];
    assert_eq!(node.run(&words).expect(137).text(), "1 /bin\n");
    for (words, code, said) in [
        (&["exec", "web", "/bin/none"][..], None, "/bin/none"),
        (&["exec", "wbe", "/bin/sh"], Some(3), "did you mean 'web'"),
        (&["exec", "-it", "web", "/bin/sh"], Some(2), "leave out -t"),
        (&["rm", "web"], Some(5), "slipway node stop web"),
    ] {
        let ran = node.run(words);
        assert!(ran.code != 0 && code.is_none_or(|code| ran.code == code), "{words:?}: {} {}", ran.code, ran.err);
        assert!(ran.err.contains(said) && ran.err.contains("next: "), "{words:?}: {}", ran.err);
    }

    node.run(&["pause", "web"]).expect(0);
    assert!(node.run(&["ps"]).expect(0).text().contains("paused"));
    node.run(&["start", "web"]).expect(0);
    node.run(&["stop", "web"]).expect(0);
    let said = follower.join().unwrap().expect(0).text();
    assert!(said.contains("tick ") && said.contains("bye\n") && !said.contains("up\n"), "{said}");
    assert_eq!(node.run(&["ps", "-o", "json"]).expect(0).json(), serde_json::json!([]));
    assert!(node.run(&["ps"]).expect(0).err.contains("ps -a"));
    let ran = node.run(&["exec", "web", "/bin/sh"]);
    assert!(ran.code != 0 && ran.err.contains("next: "), "{}", ran.err);
    node.run(&["start", "web"]).expect(0);
    for words in [
        &["ps", "-o", "json"][..],
        &["ps", "-a", "-o", "json"],
        &["ls", "-o", "json"],
        &["inspect", "web", "-o", "json"],
    ] {
        assert!(!node.run(words).expect(0).json().is_null(), "{words:?}");
    }
    node.run(&["rm", "-f", "web"]).expect(0);
    // One that does not hear is killed after the time that is said, not after its own.
    node.run(&["run", "-d", "--name", "deaf", "--stop-time", "1h", &image, "/bin/sleep", "1000"]).expect(0);
    let begun = std::time::Instant::now();
    assert!(node.run(&["stop", "--time", "1s", "deaf"]).expect(0).err.contains("signal 9"));
    assert!(begun.elapsed() < std::time::Duration::from_secs(15), "{:?}", begun.elapsed());
    node.run(&["rm", "deaf"]).expect(0);
    node.empty_wait();

    let events = node.run(&["events", "-o", "jsonl"]).expect(0).text();
    let events: Vec<serde_json::Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<u64> = events.iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert!(!ids.is_empty() && ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    assert!(events.iter().any(|event| event["name"] == "web"), "{events:?}");
    let later = ids[ids.len() / 2];
    let rest = node.run(&["events", "--since", &later.to_string(), "-o", "json"]).expect(0).json();
    assert_eq!(rest.as_array().unwrap().len(), ids.iter().filter(|id| **id > later).count());
}

#[test]
#[ignore = "needs root"]
fn root_ctrl_c_stops_what_is_watched() {
    let node = Node::start();
    let image = image(&node.place, "root.sqfs");
    let line = "trap 'echo bye; exit 4' TERM; echo up; while :; do sleep 1 & wait; done";
    let mut command = node.command(&["run", "--rm", "--name", "seen", &image, "/bin/sh", "-c", line]);
    command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    node.wait(|| node.run(&["logs", "seen"]).text().contains("up\n"));
    house::signal_send(child.id(), "INT");
    let ended = child.wait_with_output().unwrap();
    let out = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_eq!(
        (ended.status.code(), out.as_str()),
        (Some(4), "up\nbye\n"),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    node.empty_wait();
}

#[test]
#[ignore = "needs root"]
fn root_a_file_is_applied() {
    let node = Node::start();
    let image = image(&node.place, "root.sqfs");
    let file = node.place.path("web.yaml");
    let file = file.to_str().unwrap();
    let definition = "kind: bind\nbind: {path: /etc, ro: true}\n---\nname: web\nstate: running\ncommand: /bin/sleep ${time}\nmount:\n  kind: overlay\n  overlay:\n    size: 1048576\n    lower:\n    - kind: attach\n      attach:\n        fs_type: squashfs\n        attach: {kind: loopback, loopback: {path: '${image}', ro: true}}\n";
    std::fs::write(file, definition).unwrap();
    let set = format!("image={image}");
    let apply = |more: &[&str]| {
        let words = [&["apply", "-f", file, "--set", &set, "-o", "json"], more].concat();
        node.run(&words)
    };
    let results = |ran: house::Ran| -> Vec<String> {
        let rows = ran.expect(0).json();
        rows.as_array().unwrap().iter().map(|row| row["result"].as_str().unwrap().to_owned()).collect()
    };
    let ran = apply(&[]).expect(2);
    assert!(ran.err.contains("${time} is not set") && ran.err.contains("--set time="), "{}", ran.err);
    assert_eq!(results(apply(&["--set", "time=1000", "--dry-run"])), ["created", "created"]);
    node.empty_wait();
    assert_eq!(results(apply(&["--set", "time=1000", "--wait"])), ["created", "created"]);
    let first = node.run(&["inspect", "web", "-o", "json"]).expect(0).json();
    assert_eq!(results(apply(&["--set", "time=1000"])), ["unchanged", "unchanged"]);
    let table = node.run(&["apply", "-f", file, "--set", &set, "--set", "time=1000"]).expect(0).text();
    assert!(table.contains("unchanged"), "{table}");
    assert_eq!(node.run(&["inspect", "web", "-o", "json"]).expect(0).json()["pid"], first["pid"]);

    // Another definition is refused with what differs, and taken with --replace.
    let ran = apply(&["--set", "time=2000"]).expect(5);
    assert!(ran.err.contains("command is '/bin/sleep 1000' there, '/bin/sleep 2000' in the file"), "{}", ran.err);
    assert!(ran.err.contains("--replace"), "{}", ran.err);
    assert_eq!(results(apply(&["--set", "time=2000", "--replace"])), ["unchanged", "replaced"]);
    let second = node.run(&["inspect", "web", "-o", "json"]).expect(0).json();
    assert_eq!((second["command"].as_str(), second["state"].as_str()), (Some("/bin/sleep 2000"), Some("running")));

    // A replacement that does not start puts the old one back.
    std::fs::write(file, definition.replace("/bin/sleep", "/bin/none")).unwrap();
    let ran = apply(&["--set", "time=2000", "--replace"]).expect(1);
    assert!(ran.err.contains("/bin/none") && ran.err.contains("as it was before"), "{}", ran.err);
    let third = node.run(&["inspect", "web", "-o", "json"]).expect(0).json();
    assert_eq!((third["command"].as_str(), third["state"].as_str()), (Some("/bin/sleep 2000"), Some("running")));

    // What does not run is started.
    std::fs::write(file, definition).unwrap();
    node.run(&["stop", "web"]).expect(0);
    assert_eq!(results(apply(&["--set", "time=2000"])), ["unchanged", "started"]);
    node.run(&["rm", "-f", "web"]).expect(0);
    let left = node.run(&["ls", "-o", "json"]).expect(0).json();
    node.run(&["rm", &left[0]["id"].to_string()]).expect(0);
    node.empty_wait();

    // Failing half-way leaves nothing.
    std::fs::write(file, format!("{definition}---\nkind: loopback\nloopback: {{path: /no/such/file}}\n")).unwrap();
    let ran = apply(&["--set", "time=1"]).expect(2);
    assert!(ran.err.contains("/no/such/file") && ran.err.contains("as it was before"), "{}", ran.err);
    node.empty_wait();
    std::fs::write(file, definition.replace("fs_type", "fs_typ")).unwrap();
    let ran = apply(&["--set", "time=1"]).expect(2);
    assert!(ran.err.contains("fs_typ"), "{}", ran.err);
    let ran = node.run_with(
        &["apply", "-f", "-", "--wait"],
        b"name: x\nstate: running\ncommand: /bin/false\nmount: {kind: bind, bind: {path: /}}\n",
    );
    assert!(ran.code == 1 && ran.err.contains("slipway node logs x"), "{} {}", ran.code, ran.err);
    node.run(&["rm", "x"]).expect(0);
    node.empty_wait();
}

/// A server that takes a connection and says nothing holds a step; when the command is asked to end meanwhile, it takes back what it has made.
#[test]
#[ignore = "needs root"]
fn root_an_apply_that_is_interrupted_leaves_nothing() {
    let node = Node::start();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let text = format!(
        "kind: bind\nbind: {{path: /etc, ro: true}}\n---\nkind: nfs\nnfs: {{host: 127.0.0.1, path: /x, options: [port={port}]}}\n"
    );
    let file = node.place.file("two.yaml", text.as_bytes());
    for (signal, left) in [("INT", 0), ("TERM", 0), ("KILL", 1)] {
        let mut command = node.command(&["apply", "-f", &file]);
        let mut child =
            command.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let (held, _) = silent.accept().unwrap();
        house::signal_send(child.id(), signal);
        let mut said = String::new();
        let mut lines = std::io::BufReader::new(child.stderr.take().unwrap());
        if left == 0 {
            lines.read_line(&mut said).unwrap();
            assert!(said.contains("Ending after this step"), "{signal}: {said}");
        }
        drop(held);
        lines.read_to_string(&mut said).unwrap();
        assert!(!child.wait().unwrap().success(), "{signal}: {said}");
        assert!(left > 0 || said.contains("everything is as it was before"), "{signal}: {said}");
        node.wait(|| node.run(&["ls", "-o", "json"]).expect(0).json().as_array().unwrap().len() == left);
    }
    // What the killed one has made is found by the next.
    std::fs::write(&file, "kind: bind\nbind: {path: /etc, ro: true}\n").unwrap();
    let rows = node.run(&["apply", "-f", &file, "-o", "json"]).expect(0).json();
    assert_eq!(rows[0]["result"], "unchanged", "{rows}");
    node.run(&["rm", &rows[0]["id"].to_string()]).expect(0);
    node.empty_wait();
}

/// What a download may take is asked for by options, and told by their names.
#[test]
#[ignore = "needs root"]
fn root_limits_of_a_download_reach_the_node() {
    let node = Node::start();
    let folder = node.place.path("packed");
    std::fs::create_dir(&folder).unwrap();
    for name in ["one", "two"] {
        std::fs::write(folder.join(name), name).unwrap();
    }
    let packed = std::process::Command::new("tar").arg("-cC").arg(&folder).args(["one", "two"]).output().unwrap();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = |listener: &std::net::TcpListener| format!("http://{}/x.tar", listener.local_addr().unwrap());
    let (good, bad) = (at(&server), at(&silent));
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = std::io::BufReader::new(stream.try_clone().unwrap()).lines();
            while asked.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", packed.stdout.len()).unwrap();
            stream.write_all(&packed.stdout).unwrap();
        }
    });
    let made = node.run(&["mount", "uri", &good, "--entries-limit", "2", "--timeout", "1m"]).expect(0);
    node.run(&["rm", made.text().trim()]).expect(0);
    let ran = node.run(&["mount", "uri", &good, "--entries-limit", "1"]).expect(2);
    assert!(ran.err.contains("uri.entries_limit"), "{}", ran.err);
    let ran = node.run(&["mount", "uri", &bad, "--timeout", "1s"]).expect(1);
    assert!(ran.err.contains("uri.timeout"), "{}", ran.err);
    drop(silent);
    // Who did not answer is named.
    let ran = node.run(&["mount", "uri", &bad]).expect(1);
    assert!(ran.err.contains(&bad["http://".len()..bad.len() - "/x.tar".len()]), "{}", ran.err);
    node.gone_wait();
}
