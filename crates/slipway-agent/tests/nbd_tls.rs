//! Network block devices over TLS, from a real server (nbdkit) to a guest's kernel.
#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::guest::{SOCKET, ask};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use slipway_lab::{Base, Guest, GuestSpec, Job, Root, packages_unpack};
use std::fs;
use std::path::Path;
use std::time::Duration;

const STATE: &str = "/var/lib/slipway-node";
const RUN: &str = "/run/slipway/node";
/// A way for a guest to wait.
const WAIT: &str =
    "wait() { for i in $(seq 300); do eval \"$1\" && return 0; sleep 0.1; done; echo \"not in time: $1\"; return 1; }";

/// A CA with a certificate of each kind: `ca.pem`, `server.pem` and `node.pem` with their keys, in a folder.
fn authority(folder: &Path) {
    fs::create_dir(folder).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "disks");
    let key = KeyPair::generate().unwrap();
    fs::write(folder.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let ends = [
        ("server", vec!["disks.example".to_owned(), "127.0.0.1".to_owned()], ExtendedKeyUsagePurpose::ServerAuth),
        ("node", vec!["node.example".to_owned()], ExtendedKeyUsagePurpose::ClientAuth),
    ];
    for (name, names, purpose) in ends {
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        fs::write(folder.join(format!("{name}.pem")), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// Starts the service and waits until it answers.
fn serve(guest: &Guest) -> Job<'_> {
    let agent = env!("CARGO_BIN_EXE_slipway-agent");
    let service = guest.begin(&format!("exec {agent} serve")).unwrap();
    guest.ok(&format!("{WAIT}; wait 'curl -s --unix-socket {SOCKET} http://node/imageapi/v1/attach'"));
    service
}

/// Starts nbdkit and waits until it listens.
fn nbdkit<'a>(guest: &'a Guest, port: u16, words: &str) -> Job<'a> {
    let job = guest.begin(&format!("exec nbdkit -f -p {port} {words}")).unwrap();
    guest.ok(&format!("{WAIT}; wait 'bash -c \"exec 3<>/dev/tcp/127.0.0.1/{port}\" 2>/dev/null'"));
    job
}

/// No object, no device, no process, no file.
#[track_caller]
fn nothing_left(guest: &Guest) {
    assert_eq!(ask(guest, "GET", "/attach", None), (200, json!([])));
    guest.ok(&format!(
        "{WAIT}; wait '! pgrep -f \"[s]lipway-agent.* export|[/]proc/self/exe export\"'; ls {RUN}/exports {RUN}/nbd /sys/block/nbd*/pid 2>&1 | grep '^[0-9/]' | grep -v ':$' && exit 1; true"
    ));
}

fn attach(port: u16, tls: Value) -> Value {
    json!({"kind": "nbd", "nbd": {"host": "127.0.0.1", "port": port, "dead_timeout": 60, "tls": tls}})
}

#[test]
#[ignore = "needs root"]
fn root_nbd_over_tls() {
    slipway_lab::once_more(root_nbd_over_tls_once);
}

fn root_nbd_over_tls_once() {
    // Seen in the guest, which has a /tmp of its own.
    let top = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (ours, other) = (top.path().join("ours"), top.path().join("other"));
    authority(&ours);
    authority(&other);
    let mut spec = GuestSpec::new(Root::Host).with_modules(&["ext4"]);
    spec.layers.push(packages_unpack(&["nbdkit"], Base::Host).unwrap());
    let guest = Guest::boot(&spec).unwrap();
    let (ours, other) = (ours.display(), other.display());
    guest.ok(&format!(
        "mkdir -p /srv/tls {STATE}/credentials; chmod 700 {STATE} {STATE}/credentials; cd {STATE}/credentials
         cp {ours}/ca.pem {ours}/node.pem {ours}/node.key .; cp {other}/ca.pem other-ca.pem; cp {other}/node.pem other.pem; cp {other}/node.key other.key
         chmod 600 *; cp {ours}/node.key open.key; chmod 644 open.key
         cd /srv/tls; cp {ours}/ca.pem ca-cert.pem; cp {ours}/server.pem server-cert.pem; cp {ours}/server.key server-key.pem
         truncate -s 16M /srv/disk; mke2fs -q -t ext4 /srv/disk"
    ));
    let service = serve(&guest);
    let strict = "--tls=require --tls-certificates=/srv/tls --tls-verify-peer file /srv/disk";
    let server = nbdkit(&guest, 10809, strict);
    let plain = nbdkit(&guest, 10810, "memory 1M");
    refusals(&guest);

    let tls = json!({"ca_ref": "ca.pem", "cert_ref": "node.pem", "key_ref": "node.key"});
    let wanted = json!({"kind": "attach", "attach": {"fs_type": "ext4", "attach": attach(10809, tls)}});
    let (status, mount) = ask(&guest, "POST", "/mount", Some(&wanted));
    assert_eq!(status, 201, "{mount}");
    let at = mount["mountpoint"].as_str().unwrap();
    let (device, id) = (mount["attach"]["attach"]["device_file"].as_str().unwrap(), &mount["attach"]["attach"]["id"]);
    guest.ok(&format!("head -c 5000000 /dev/urandom > /srv/big; cp /srv/big {at}/big; sync; echo 3 > /proc/sys/vm/drop_caches; cmp /srv/big {at}/big"));
    // The key is where it was put, and nowhere else; the process has it neither in its words nor its environment.
    guest.ok(&format!(
        "sed -n 2p {STATE}/credentials/node.key > /srv/pattern
         if grep -rqF -f /srv/pattern {RUN} {STATE} --exclude-dir=mounts --exclude-dir=credentials; then exit 1; fi
         if cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | grep -aqF -f /srv/pattern; then exit 2; fi"
    ));

    // What can go away comes back, and a read that waits for it is answered: the process, the server, and both while no service runs.
    let read = |block: u32| format!("dd if={device} of=/dev/null bs=4096 count=1 iflag=direct skip={block} 2>&1");
    let process = format!("kill -9 $(grep -o '\"pid\":[0-9]*' {RUN}/exports/{id}/status.json | cut -d: -f2)");
    guest.ok(&format!("{process}; {}", read(100)));
    guest.ok("pkill -9 nbdkit");
    server.finish(Duration::from_secs(20)).unwrap();
    plain.finish(Duration::from_secs(20)).unwrap();
    let seen = format!("curl -s --unix-socket {SOCKET} 'http://node/imageapi/v1/attach?id={id}'");
    guest.ok(&format!("{WAIT}; wait \"{seen} | grep -q degraded\""));
    let server = nbdkit(&guest, 10809, strict);
    guest.ok(&read(200));
    guest.ok("pkill -9 -f 'slipway-agent serve'");
    service.finish(Duration::from_secs(20)).unwrap();
    guest.ok(&format!("{}; {process}", read(300)));
    let service = serve(&guest);
    guest.ok(&read(400));
    guest.ok(&format!("cmp /srv/big {at}/big"));

    let (status, gone) = ask(&guest, "DELETE", &format!("/mount?id={}", mount["id"]), None);
    assert_eq!(status, 200, "{gone}");
    guest.ok(&format!("{WAIT}; wait '! ls {RUN}/exports/{id} 2>/dev/null'"));
    nothing_left(&guest);
    guest.ok("e2fsck -fn /srv/disk >&2; debugfs -R 'dump big /srv/got' /srv/disk 2>/dev/null; cmp /srv/big /srv/got");
    guest.ok("pkill -9 nbdkit; pkill -9 -f 'slipway-agent serve'");
    server.finish(Duration::from_secs(20)).unwrap();
    service.finish(Duration::from_secs(20)).unwrap();
}

/// What is wrong is said, and nothing is left of it.
fn refusals(guest: &Guest) {
    let own = json!({"ca_ref": "ca.pem", "cert_ref": "node.pem", "key_ref": "node.key"});
    let with = |field: &str, value: &str| {
        let mut tls = own.clone();
        tls[field] = json!(value);
        tls
    };
    for (port, tls, status, step, words) in [
        (10809, json!({"ca_ref": "other-ca.pem"}), 400, "nbd_tls", "not of the CA in nbd.tls.ca_ref 'other-ca.pem'"),
        (10809, with("name", "files.example"), 400, "nbd_tls", "not for 'files.example'"),
        (10809, json!({"ca_ref": "ca.pem"}), 400, "nbd_tls", "nbd.tls.cert_ref"),
        (
            10809,
            json!({"ca_ref": "ca.pem", "cert_ref": "other.pem", "key_ref": "other.key"}),
            400,
            "nbd_tls",
            "does not take this node's certificate",
        ),
        (10809, with("key_ref", "other.key"), 400, "nbd_tls", "nbd.tls.key_ref 'other.key'"),
        (10809, with("ca_ref", "node.key"), 400, "nbd_tls", "no certificate in it"),
        (10809, with("key_ref", "open.key"), 400, "credentials", "chmod 600"),
        (10809, with("key_ref", "../node.key"), 400, "credentials", "nbd.tls.key_ref"),
        (10809, with("ca_ref", "none"), 400, "credentials", "is not there"),
        (10809, with("key_ref", ""), 400, "nbd", "go together"),
        (10810, own.clone(), 400, "nbd_negotiate", "has no TLS"),
        (9, own.clone(), 500, "nbd_connect", "Connection refused"),
    ] {
        let (said, problem) = ask(guest, "POST", "/attach", Some(&attach(port, tls.clone())));
        let text = problem["error"]["text"].as_str().unwrap_or_default();
        let fits = said == status && problem["error"]["step"] == step && text.contains(words);
        assert!(fits, "{tls}: {said} {problem}");
        nothing_left(guest);
    }
    let (said, problem) = ask(guest, "POST", "/attach", Some(&attach(10809, json!({}))));
    assert_eq!((said, &problem["code"]), (422, &json!(602)), "{problem}");
    let mut clear = attach(10809, json!(null));
    clear["nbd"].as_object_mut().unwrap().remove("tls");
    let (said, problem) = ask(guest, "POST", "/attach", Some(&clear));
    assert!(said == 400 && problem["error"]["text"].as_str().unwrap().contains("only with TLS"), "{problem}");
    nothing_left(guest);
}
