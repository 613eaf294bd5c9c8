//! Directories of the guest's own NFS server.

use crate::Test;
use crate::driver::drive;
use serde_json::{Value, json};
use slipway_lab::{Base, Guest, GuestSpec, Root, packages_unpack};
use slipway_node::CRASH_POINTS;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("root_nfs_versions_and_options", root_nfs_versions_and_options),
    ("root_nfs_what_is_wrong_is_said_at_once", root_nfs_what_is_wrong_is_said_at_once),
    ("root_nfs_servers_that_go", root_nfs_servers_that_go),
    ("root_nfs_after_a_crash_at_every_point", root_nfs_after_a_crash_at_every_point),
];

const DEADLINE: Duration = Duration::from_secs(20);

/// Both versions of the kernel's own server, with what version 3 needs beside it.
fn guest() -> Guest {
    let mut spec = GuestSpec::new(Root::Host).with_modules(&["nfsd", "nfsv3", "nfsv4"]);
    spec.layers.push(packages_unpack(&["nfs-kernel-server", "nfs-common", "rpcbind"], Base::Host).unwrap());
    let guest = Guest::boot(&spec).unwrap();
    guest.ok(r#"
grep -q ^_rpc: /etc/passwd || echo '_rpc:x:199:65534::/run/rpcbind:/usr/sbin/nologin' >> /etc/passwd
mkdir -p /run/rpcbind /run/export/sub /var/lib/nfs/rpc_pipefs /var/lib/nfs/v4recovery /var/lib/nfs/sm
chmod 777 /run/rpcbind
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
echo "from the server" > /run/export/file
echo "one nfs" > /run/export/sub/deep
mount -t nfsd nfsd /proc/fs/nfsd
echo "/run/export *(rw,no_root_squash,fsid=0,insecure,no_subtree_check)" > /etc/exports
rpcbind -w
exportfs -ra
rpc.mountd
rpc.nfsd 4
echo "127.0.0.1 server.test" >> /etc/hosts"#);
    guest
}

fn mount(host: &str, path: &str, more: &str) -> String {
    format!(r#"mount {{"kind":"nfs","nfs":{{"host":"{host}","path":"{path}"{more}}}}}"#)
}

fn sh(line: &str) -> String {
    format!("sh {line}")
}

const AT: &str = "/run/slipway/mounts";

/// Nothing of ours is left in the guest's kernel, nor in the table.
fn census(guest: &Guest) {
    let mounts = guest.ok("grep -c /run/slipway/mounts/ /proc/self/mountinfo || true; ls /run/slipway/mounts");
    assert_eq!(mounts, "0\n");
    let answers = drive(guest, DEADLINE, &["list".into()]);
    assert_eq!(answers[0]["objects"], json!([]));
}

fn error(answer: &Value) -> (u64, &str, &str, &str) {
    let said = &answer["problem"]["error"];
    let text = |name: &str| said[name].as_str().unwrap_or_default();
    (answer["status"].as_u64().unwrap_or_default(), text("step"), text("errno"), text("text"))
}

fn root_nfs_versions_and_options() {
    let guest = guest();
    for (more, fs, word) in [
        ("", "nfs4", "vers=4.2"),
        (r#","version":"4.1""#, "nfs4", "vers=4.1"),
        (r#","version":"4.0","options":["soft,timeo=70"]"#, "nfs4", "timeo=70"),
        (r#","version":"3","options":["noatime"]"#, "nfs", "vers=3"),
        (r#","options":["noexec","nosuid,_netdev","actimeo=0"]"#, "nfs4", "clientaddr=127.0.0.1"),
    ] {
        // The root of version 4 is the export itself here.
        let path = if fs == "nfs" { "/run/export" } else { "/" };
        let at = format!("{AT}/nfs-*");
        let answers = drive(
            &guest,
            DEADLINE,
            &[
                mount("server.test", path, more),
                sh(&format!(
                    "cat {at}/file; cat {at}/sub/deep; echo back > $(echo {at})/new; cat /run/export/new; rm {at}/new"
                )),
                sh(&format!("grep {AT} /proc/self/mountinfo")),
                "found".into(),
            ],
        );
        let id = answers[0]["id"].as_u64().unwrap_or_else(|| panic!("{more}: {}", answers[0]));
        assert_eq!(answers[1]["stdout"], "from the server\none nfs\nback\n", "{more}: {}", answers[1]);
        let line = answers[2]["stdout"].as_str().unwrap();
        assert!(line.contains(&format!(" - {fs} server.test:{path} ")) && line.contains(word), "{line}");
        assert_eq!(line.contains("noexec"), more.contains("noexec"), "{line}");
        assert_eq!(answers[3]["found"][0]["id"], id);
        // The service is another one now, and knows it.
        let answers = drive(&guest, DEADLINE, &["list".into(), format!("delete {id}")]);
        let nfs = &answers[0]["objects"][0]["what"]["mount"]["nfs"];
        assert_eq!((nfs["host"].as_str(), nfs["path"].as_str()), (Some("server.test"), Some(path)));
        assert!(!nfs.to_string().contains("addr="), "what was asked for is kept as it was: {nfs}");
        assert_eq!(answers[1]["deleted"], id, "{}", answers[1]);
        census(&guest);
    }
    // Read-only for one, writable for the other, of the same export at the same time.
    let answers = drive(
        &guest,
        DEADLINE,
        &[
            mount("127.0.0.1", "/", r#","ro":true"#),
            mount("127.0.0.1", "/", ""),
            mount("::1", "/sub", ""),
            sh(&format!(
                "cd {AT}; set -- *; touch $1/no 2>&1; touch $2/yes && rm $2/yes && cat $3/deep && echo done; pwd; ls -d *"
            )),
            sh(&format!("cd {AT}/nfs-* 2>/dev/null; mount -o remount,rw $PWD 2>/dev/null; true")),
        ],
    );
    let said = answers[3]["stdout"].as_str().unwrap();
    assert!(said.contains("Read-only file system") && said.contains("one nfs\ndone\n"), "{said} {answers:?}");
    let ids: Vec<String> = answers[..3].iter().map(|answer| format!("delete {}", answer["id"])).collect();
    assert!(drive(&guest, DEADLINE, &ids).iter().all(|answer| answer["deleted"].is_number()));
    census(&guest);
}

fn root_nfs_what_is_wrong_is_said_at_once() {
    let guest = guest();
    let program = std::env::current_exe().unwrap().display().to_string();
    guest.ok(&format!("{program} mute 7777 >/dev/null 2>&1 & {program} silent 7778 >/dev/null 2>&1 & sleep 0.3"));
    let rows: &[(String, (u64, &str, &str), &str)] = &[
        (mount("nothing.invalid", "/", ""), (400, "resolve", ""), "nfs.host 'nothing.invalid'"),
        (mount("a b", "/", ""), (400, "resolve", ""), "nfs.host"),
        (mount("127.0.0.1", "file", ""), (400, "nfs", ""), "nfs.path"),
        (mount("127.0.0.1", "/", r#","version":"5""#), (400, "nfs", ""), "nfs.version"),
        (mount("127.0.0.1", "/", r#","options":["addr=127.0.0.2"]"#), (400, "nfs", ""), "nfs.host"),
        (mount("127.0.0.1", "/", r#","options":["nonsense=1"]"#), (400, "fsconfig", "EINVAL"), "nonsense"),
        (mount("127.0.0.1", "/nowhere", ""), (500, "mount", "ENOENT"), "127.0.0.1:/nowhere"),
        (mount("127.0.0.1", "/nowhere", r#","version":"3""#), (500, "mount", ""), "127.0.0.1:/nowhere"),
        (mount("127.0.0.1", "/", r#","options":["port=9"]"#), (500, "connect", "ECONNREFUSED"), "127.0.0.1:9"),
        (mount("127.0.0.1", "/", r#","options":["port=7778"]"#), (500, "rpc", "ETIMEDOUT"), "127.0.0.1:7778"),
        (mount("10.1.2.3", "/", ""), (500, "connect", "ENETUNREACH"), "10.1.2.3"),
    ];
    let lines: Vec<String> = rows.iter().map(|(line, ..)| line.clone()).collect();
    let answers = drive(&guest, DEADLINE, &lines);
    for ((line, expected, names), answer) in rows.iter().zip(&answers) {
        let (status, step, errno, text) = error(answer);
        assert_eq!((status, step), (expected.0, expected.1), "{line}: {answer}");
        assert!(expected.2.is_empty() || errno == expected.2, "{line}: {answer}");
        assert!(text.contains(names), "{line}: {text}");
        assert!(answer["ms"].as_u64().unwrap() < 12_000, "{line}: {answer}");
    }
    census(&guest);
    // One that says that it is there, and then nothing: the deadline holds, and the object is pending. When the server speaks after all,
    // and the kernel has mounted it, that is undone.
    let answers = drive(
        &guest,
        Duration::from_secs(2),
        &[
            mount("127.0.0.1", "/", r#","options":["port=7777"]"#),
            "list".into(),
            sh("touch /run/unmute"),
            "sleep 15000".into(),
            "list".into(),
        ],
    );
    let (status, _, errno, text) = error(&answers[0]);
    assert_eq!((status, errno), (500, "ETIMEDOUT"), "{text}");
    assert!((2000..6000).contains(&answers[0]["ms"].as_u64().unwrap()), "{}", answers[0]);
    assert!(answers[1]["objects"][0]["phase"]["pending"].is_object(), "{}", answers[1]);
    assert_eq!(answers[4]["objects"], json!([]), "{}", answers[4]);
    census(&guest);
}

fn root_nfs_servers_that_go() {
    let guest = guest();
    // Without users: what was mounted hard goes although nobody answers, and at once.
    let answers = drive(
        &guest,
        DEADLINE,
        &[
            mount("127.0.0.1", "/", ""),
            sh(&format!("cat {AT}/*/file; rpc.nfsd 0")),
            mount("127.0.0.1", "/", ""),
            "list".into(),
        ],
    );
    let id = answers[0]["id"].as_u64().unwrap();
    assert_eq!(error(&answers[2]).2, "ECONNREFUSED", "{}", answers[2]);
    assert_eq!(answers[3]["objects"].as_array().unwrap().len(), 1);
    let answers = drive(&guest, DEADLINE, &[format!("delete {id}")]);
    assert_eq!(answers[0]["deleted"], id, "{}", answers[0]);
    assert!(answers[0]["ms"].as_u64().unwrap() < 10_000, "{}", answers[0]);
    census(&guest);
    // With users: it stays as it is, they are named, and go on when the server is there again.
    guest.ok("rpc.nfsd 4");
    let answers = drive(&guest, DEADLINE, &[mount("127.0.0.1", "/", "")]);
    let id = answers[0]["id"].as_u64().unwrap();
    let script = format!("exec 3< {AT}/nfs-{id}/file; rpc.nfsd 0; sleep 15; rpc.nfsd 4; cat <&3");
    let user = guest.begin(&script).unwrap();
    guest.ok("sleep 2");
    let answers = drive(&guest, DEADLINE, &[format!("delete {id} force")]);
    assert_eq!(answers[0]["status"], 409, "{}", answers[0]);
    assert!(answers[0]["problem"]["holders"][0]["pid"].is_number(), "{}", answers[0]);
    assert_eq!(user.finish(Duration::from_secs(120)).unwrap().stdout, "from the server\n");
    let answers = drive(&guest, DEADLINE, &[format!("delete {id}")]);
    assert_eq!(answers[0]["deleted"], id, "{}", answers[0]);
    census(&guest);
}

fn root_nfs_after_a_crash_at_every_point() {
    let guest = guest();
    let program = std::env::current_exe().unwrap().display().to_string();
    let made = mount("127.0.0.1", "/", "");
    for point in CRASH_POINTS.iter().filter(|point| point.starts_with("nfs.")) {
        let line = match point.starts_with("nfs.undo") {
            true => format!("delete {}", drive(&guest, DEADLINE, std::slice::from_ref(&made))[0]["id"]),
            false => made.clone(),
        };
        let script = format!(
            "SLIPWAY_NODE_CRASH_AT={point} {program} driver /run/slipway /var/lib/slipway 20000 <<'END'\n{line}\nEND"
        );
        let died = guest.begin(&script).unwrap().finish(Duration::from_secs(90)).unwrap();
        assert_eq!(died.code, 134, "{point}: {died:?}");
        let answers = drive(&guest, DEADLINE, &["list".into()]);
        let left: Vec<String> =
            answers[0]["objects"].as_array().unwrap().iter().map(|object| format!("delete {}", object["id"])).collect();
        println!("{point}: {left:?} left");
        if !left.is_empty() {
            assert!(drive(&guest, DEADLINE, &left).iter().all(|answer| answer["deleted"].is_number()));
        }
        census(&guest);
    }
}

/// An RPC server that says that it is there, and answers nothing else, or not even that; until it is told to speak: then it passes all on to
/// the real one.
pub(crate) fn mute_server(port: u16, speaks: bool) -> ExitCode {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let mut silent = Vec::new();
    for stream in listener.incoming().flatten() {
        if !speaks {
            silent.push(stream);
        } else if Path::new(UNMUTE).exists() {
            pass_on(&stream).unwrap();
        } else {
            std::thread::spawn(move || mute_answer(stream));
        }
    }
    ExitCode::SUCCESS
}

const UNMUTE: &str = "/run/unmute";

fn pass_on(client: &TcpStream) -> std::io::Result<()> {
    let server = TcpStream::connect("127.0.0.1:2049")?;
    for (mut from, mut to) in [(client.try_clone()?, server.try_clone()?), (server, client.try_clone()?)] {
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    }
    Ok(())
}

fn mute_answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    loop {
        let mut mark = [0; 4];
        // A message is sent as a whole, so waiting for its beginning loses nothing.
        while stream.peek(&mut mark).is_err() {
            if Path::new(UNMUTE).exists() {
                return Ok(());
            }
        }
        stream.read_exact(&mut mark)?;
        let mut call = vec![0; (u32::from_be_bytes(mark) & 0x7fff_ffff) as usize];
        stream.read_exact(&mut call)?;
        if call[20..24] == [0; 4] {
            let mut answer = vec![0x80, 0, 0, 24];
            answer.extend_from_slice(&call[..4]);
            answer.extend([1_u32, 0, 0, 0, 0].iter().flat_map(|word| word.to_be_bytes()));
            stream.write_all(&answer)?;
        }
    }
}
