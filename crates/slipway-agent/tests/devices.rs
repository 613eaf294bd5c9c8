//! The service in a guest, asked over its socket for devices that come from a server.
#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::guest::{SOCKET, ask};
use serde_json::json;
use slipway_lab::{
    Base, Ceph, Guest, GuestNet, GuestSpec, ISCSI_TARGET_MODULES, Job, Root, iscsi_target, packages_unpack,
};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const STATE: &str = "/var/lib/slipway-node";

/// Starts the service and waits until it answers.
fn serve(guest: &Guest) -> Job<'_> {
    let agent = env!("CARGO_BIN_EXE_slipway-agent");
    let service = guest.begin(&format!("exec {agent} serve")).unwrap();
    guest.ok(&format!(
        "for i in $(seq 200); do curl -s --unix-socket {SOCKET} http://node/imageapi/v1/attach && exit 0; sleep 0.1; done; exit 1"
    ));
    service
}

/// Ends it as a crash does.
fn kill(guest: &Guest, service: Job<'_>) {
    guest.ok("pkill -9 -f 'slipway-agent serve'");
    service.finish(Duration::from_secs(20)).unwrap();
}

/// Nothing that the service wrote, or says, holds a secret.
#[track_caller]
fn secret_kept(guest: &Guest, secret: &str) {
    guest.ok(&format!("! grep -r -q -F -e '{secret}' {STATE} /run/slipway --exclude-dir=mounts"));
    for path in ["/attach", "/mount"] {
        let (_, list) = ask(guest, "GET", path, None);
        assert!(!list.to_string().contains(secret), "{list}");
    }
}

#[test]
#[ignore = "needs root"]
fn root_iscsi_over_the_api() {
    slipway_lab::once_more(root_iscsi_over_the_api_once);
}

fn root_iscsi_over_the_api_once() {
    const IQN: &str = "iqn.2026-01.test.slipway:disk";
    let mut spec = GuestSpec::new(Root::Host).with_modules(ISCSI_TARGET_MODULES).with_setup(&iscsi_target(IQN));
    spec.layers.push(packages_unpack(&["open-iscsi"], Base::Host).unwrap());
    let guest = Guest::boot(&spec).unwrap();
    guest.ok(&format!(
        "cd /sys/kernel/config/target/iscsi/{IQN}/tpgt_1; echo 1 > attrib/authentication; echo CHAP > param/AuthMethod; printf node > auth/userid; printf not-to-be-seen > auth/password"
    ));
    let service = serve(&guest);
    let unit = |lun: u64| {
        json!({"kind": "iscsi", "iscsi": {
            "initiator": "iqn.2026-01.test.slipway:node", "target": IQN, "host": "127.0.0.1", "lun": lun,
            "username": "node", "password": "not-to-be-seen",
        }})
    };
    let wanted = json!({"kind": "attach", "attach": {"fs_type": "ext4", "attach": unit(0)}});
    let (status, mount) = ask(&guest, "POST", "/mount", Some(&wanted));
    assert_eq!(status, 201, "{mount}");
    let at = mount["mountpoint"].as_str().unwrap();
    let attach = &mount["attach"]["attach"];
    assert_eq!(attach["iscsi"]["password"], "***");
    let device = attach["device_file"].as_str().unwrap();
    guest.ok(&format!("echo kept > {at}/file; sync; grep -q '^{device} ' /proc/mounts"));
    secret_kept(&guest, "not-to-be-seen");

    let (id, mount_id) = (attach["id"].as_u64().unwrap(), mount["id"].as_u64().unwrap());
    let (status, busy) = ask(&guest, "DELETE", &format!("/attach?id={id}&force=true"), None);
    assert!(status == 409 && busy["holders"].to_string().contains(at), "{busy}");
    for (block, status, step) in [
        (unit(77), 500, "scan"),
        (
            json!({"kind": "iscsi", "iscsi": {"initiator": "iqn.x:a", "target": IQN, "host": "nobody.invalid"}}),
            400,
            "resolve",
        ),
        (json!({"kind": "iscsi", "iscsi": {"initiator": "iqn.x:a", "target": "b", "host": "127.0.0.1"}}), 400, "check"),
    ] {
        let (said, problem) = ask(&guest, "POST", "/attach", Some(&block));
        assert_eq!((said, &problem["error"]["step"]), (status, &json!(step)), "{problem}");
    }

    // The service dies; the next one finds what is there, and removes it in its order.
    kill(&guest, service);
    let service = serve(&guest);
    let (_, list) = ask(&guest, "GET", "/attach?kind=iscsi", None);
    assert_eq!((list.as_array().unwrap().len(), &list[0]["device_file"]), (1, &json!(device)), "{list}");
    assert!(list[0].get("health").is_none(), "{list}");
    assert_eq!(guest.ok(&format!("cat {at}/file")), "kept\n");
    let (status, gone) = ask(&guest, "DELETE", &format!("/mount?id={mount_id}"), None);
    assert_eq!(status, 200, "{gone}");
    guest.ok("for i in $(seq 100); do [ -z \"$(ls /sys/class/iscsi_session /sys/class/scsi_device | grep -v -e : -e '^$')\" ] && exit 0; sleep 0.1; done; exit 1");
    assert_eq!(ask(&guest, "GET", "/attach", None), (200, json!([])));
    guest.ok(
        "[ -z \"$(ls /sys/class/scsi_device; find /run/slipway -name '[0-9]*')\" ] || { find /run/slipway; exit 1; }",
    );
    kill(&guest, service);
}

#[test]
#[ignore = "needs root"]
fn root_rbd_over_the_api() {
    slipway_lab::once_more(root_rbd_over_the_api_once);
}

fn root_rbd_over_the_api_once() {
    let net = Arc::new(GuestNet::new().unwrap());
    let ceph = Ceph::start(&net).unwrap();
    let top = tempfile::tempdir().unwrap();
    let (tree, file) = (top.path().join("tree"), top.path().join("image"));
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("file"), "in the image\n").unwrap();
    let made = Command::new("mksquashfs").args([&tree, &file]).args(["-quiet", "-no-progress"]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    ceph.run("rbd", &["import", file.to_str().unwrap(), "rbd/image"]).unwrap();
    ceph.run("rbd", &["snap", "create", "rbd/image@one"]).unwrap();
    let key = ceph.user("node", &["mon", "profile rbd", "osd", "profile rbd-read-only"]).unwrap();
    let guest = Guest::boot(&GuestSpec::new(Root::Host).with_net(&net)).unwrap();
    let service = serve(&guest);
    let image = |name: &str| {
        json!({"kind": "rbd", "rbd": {
            "monitors": [ceph.monitor()], "pool": "rbd", "image": name, "snapshot": "one",
            "options": {"name": "node", "secret": key, "ro": true},
        }})
    };
    // What nodes do most: an image of the cluster, a file system in it, and a place for changes above it.
    let lower = json!({"kind": "attach", "attach": {"fs_type": "squashfs", "attach": image("image")}});
    let wanted = json!({"kind": "overlay", "overlay": {"lower": [lower]}});
    let mut mounts = Vec::new();
    for n in 0..2 {
        let (status, mount) = ask(&guest, "POST", "/mount", Some(&wanted));
        assert_eq!(status, 201, "{mount}");
        let attach = &mount["overlay"]["lower"][0]["attach"]["attach"];
        assert_eq!(attach["rbd"]["options"]["secret"], "***", "{mount}");
        assert_eq!(attach["device_file"], format!("/dev/rbd{n}"), "{mount}");
        let at = mount["mountpoint"].as_str().unwrap().to_owned();
        assert_eq!(guest.ok(&format!("echo {n} > {at}/own; cat {at}/file {at}/own")), format!("in the image\n{n}\n"));
        mounts.push((mount["id"].as_u64().unwrap(), at));
    }
    secret_kept(&guest, &key);
    let (status, problem) = ask(&guest, "POST", "/attach", Some(&image("none")));
    assert_eq!((status, &problem["error"]["errno"]), (500, &json!("ENOENT")), "{problem}");

    kill(&guest, service);
    let service = serve(&guest);
    let (_, list) = ask(&guest, "GET", "/attach?kind=rbd", None);
    let mut devices: Vec<_> = list.as_array().unwrap().iter().map(|one| one["device_file"].to_string()).collect();
    devices.sort();
    assert_eq!(devices, ["\"/dev/rbd0\"", "\"/dev/rbd1\""], "{list}");
    for (id, at) in mounts {
        assert_eq!(guest.ok(&format!("cat {at}/file")), "in the image\n");
        let (status, gone) = ask(&guest, "DELETE", &format!("/mount?id={id}"), None);
        assert_eq!(status, 200, "{gone}");
    }
    guest.ok("for i in $(seq 100); do [ -z \"$(ls /sys/bus/rbd/devices)\" ] && exit 0; sleep 0.1; done; exit 1");
    assert_eq!(ask(&guest, "GET", "/attach", None), (200, json!([])));
    guest.ok("! grep ceph /proc/keys");
    kill(&guest, service);
}
