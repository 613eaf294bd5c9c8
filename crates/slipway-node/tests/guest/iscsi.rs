//! iSCSI: a target (LIO) and the driver in one guest.

use crate::node::Node;
use serde_json::{Value, json};
use slipway_lab::{Base, Guest, GuestSpec, ISCSI_TARGET_MODULES, Root, iscsi_target, packages_unpack};
use std::time::Duration;

pub(crate) const TESTS: &[(&str, crate::Test)] = &[
    ("root_iscsi_units_of_a_target_share_a_session", root_iscsi_units_of_a_target_share_a_session),
    ("root_iscsi_says_what_is_wrong_and_leaves_nothing", root_iscsi_says_what_is_wrong_and_leaves_nothing),
    ("root_iscsi_with_chap_both_ways", root_iscsi_with_chap_both_ways),
    ("root_iscsi_after_a_crash_at_every_point", root_iscsi_after_a_crash_at_every_point),
    ("root_iscsi_lost_connections_come_back_or_end", root_iscsi_lost_connections_come_back_or_end),
];

const IQN: &str = "iqn.2026-01.test.slipway:disk";
const NODE: &str = "iqn.2026-01.test.slipway:node";

fn node() -> Node {
    let mut spec = GuestSpec::new(Root::Host).with_modules(ISCSI_TARGET_MODULES).with_setup(&iscsi_target(IQN));
    spec = spec.with_setup("find /etc/iscsi /var/lib/iscsi 2>/dev/null | sort > /run/before || true");
    spec.layers.push(packages_unpack(&["open-iscsi"], Base::Host).unwrap());
    Node { guest: Guest::boot(&spec).unwrap() }
}

fn attach(more: &Value) -> Value {
    let mut block = json!({"initiator": NODE, "target": IQN, "host": "127.0.0.1"});
    block.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"kind": "iscsi", "iscsi": block})
}

fn sessions(node: &Node) -> usize {
    node.guest.ok("ls /sys/class/iscsi_session | wc -l").trim().parse().unwrap()
}

/// Nothing of ours is left: no session, no unit, no link, no record, no password.
#[track_caller]
fn clean(node: &Node) {
    node.guest.ok(r#"[ -z "$(ls /sys/class/iscsi_session 2>/dev/null)" ] || { ls /sys/class/iscsi_session; exit 1; }
[ -z "$(ls /sys/class/scsi_device)" ] || { ls /sys/class/scsi_device; exit 2; }
[ -z "$(ls /run/slipway/iscsi)" ] || { ls -l /run/slipway/iscsi; exit 3; }
find /etc/iscsi /var/lib/iscsi 2>/dev/null | sort | diff /run/before - || exit 4
! grep -e iscsi /proc/self/mountinfo | grep -v configfs || exit 5"#);
}

fn root_iscsi_units_of_a_target_share_a_session() {
    let node = node();
    let first = node.make(1, &attach(&json!({})));
    assert_eq!(node.guest.ok(&format!("blockdev --getsz {first}")).trim(), "32768");
    assert_eq!(sessions(&node), 1);
    let disk = first.trim_start_matches("/dev/");
    let shown = node.guest.ok(&format!(
        "cat /sys/block/{disk}/device/queue_depth /sys/block/{disk}/queue/scheduler /sys/block/{disk}/queue/rotational"
    ));
    assert!(shown.starts_with("16\n") && shown.contains("[mq-deadline]") && shown.ends_with("\n0\n"), "{shown}");
    // The record asked for what the contract says, and the kernel has it.
    assert_eq!(node.guest.ok("cat /sys/class/iscsi_session/session*/recovery_tmo").trim(), "30");
    assert_eq!(node.guest.ok("cat /sys/class/iscsi_session/session*/initiatorname").trim(), NODE);
    // Only the unit that was asked for came.
    assert_eq!(node.guest.ok("ls /sys/class/scsi_device | wc -l").trim(), "1");
    node.guest.ok(&format!("mkdir -p /mnt/a /mnt/b; mount -t ext4 {first} /mnt/a; echo hello > /mnt/a/file; sync"));

    let second = node.make(2, &attach(&json!({"lun": 1, "queue_depth": 4, "scheduler": "none"})));
    assert_eq!(sessions(&node), 1, "both units use one session");
    node.guest.ok(&format!("mount -t ext4 {second} /mnt/b; echo world > /mnt/b/file"));
    let shown =
        node.guest.ok(&format!("cat /sys/block/{0}/device/queue_depth /sys/block/{0}/queue/scheduler", &second[5..]));
    assert!(shown.starts_with("4\n") && shown.contains("[none]"), "{shown}");
    assert_eq!(node.found(), [(1, first.clone()), (2, second.clone())]);

    // The same unit once more would be written by two.
    let refused = node.refused(&json!({"make": attach(&json!({})), "id": 3}));
    assert_eq!((refused.status, &refused.holders), (409, &json!([{"kind": "object", "object": "attach", "id": 1}])));
    // Mounted, it stays as it is.
    let refused = node.refused(&json!({"undo": "iscsi", "id": 1}));
    assert!(refused.status == 409 && refused.holders.to_string().contains("/mnt/a"), "{refused:?}");
    assert_eq!(node.guest.ok("cat /mnt/a/file"), "hello\n");
    node.guest.ok("umount /mnt/a");
    // Open is as busy as mounted.
    let open = node.guest.begin(&format!("exec sleep 600 < {first}")).unwrap();
    let refused = node.refused(&json!({"undo": "iscsi", "id": 1}));
    assert!(refused.status == 409 && refused.holders.to_string().contains("sleep 600"), "{refused:?}");
    node.guest.ok("pkill -f 'sleep 600'");
    open.finish(Duration::from_secs(10)).unwrap();

    node.undo(1, "iscsi");
    assert_eq!((sessions(&node), node.found()), (1, vec![(2, second)]), "the other's session stays");
    assert_eq!(node.guest.ok("cat /mnt/b/file"), "world\n");
    // A number whose disk is another one by now is looked at afresh.
    node.guest.ok("truncate -s 32M /run/disk9; mke2fs -q -F -t ext4 /run/disk9");
    let again = node.make(4, &attach(&json!({"ro": true})));
    node.guest.ok(&format!("mount -t ext4 -o ro {again} /mnt/a; grep -q hello /mnt/a/file"));
    assert_ne!(node.guest.run(&format!("dd if=/dev/zero of={again} bs=4096 count=1 oflag=direct")).unwrap().code, 0);
    // Read-only, it may be had twice, and stays until both are gone.
    assert_eq!(node.make(5, &attach(&json!({"ro": true}))), again);
    node.undo(4, "iscsi");
    node.guest.ok("grep -q hello /mnt/a/file; umount /mnt/a /mnt/b");
    node.undo(5, "iscsi");
    node.undo(2, "iscsi");
    node.undo(2, "iscsi");
    assert_eq!(node.found(), []);
    clean(&node);
    // A session whose links were lost with the run directory is ended when nobody uses it any more.
    let device = node.make(6, &attach(&json!({})));
    node.guest.ok(&format!("mount -t ext4 {device} /mnt/a; rm /run/slipway/iscsi/6"));
    let service = node.begin(&json!({"found": true, "stay": 60}));
    node.guest.ok("sleep 2; grep -q hello /mnt/a/file; umount /mnt/a");
    node.guest
        .ok("for i in $(seq 200); do [ -z \"$(ls /sys/class/iscsi_session)\" ] && exit 0; sleep 0.1; done; exit 1");
    node.guest.ok("pkill -f 'guest.* call'");
    service.finish(Duration::from_secs(10)).unwrap();
    clean(&node);
}

fn root_iscsi_says_what_is_wrong_and_leaves_nothing() {
    let node = node();
    // Somebody else's session with the same target, and his record.
    node.guest.ok(&format!(
        r#"modprobe iscsi_tcp; echo "InitiatorName={NODE}.other" > /etc/iscsi/initiatorname.iscsi
iscsid; for i in $(seq 50); do iscsiadm -m node -T {IQN} -p 127.0.0.1:3260 -o new && break; sleep 0.1; done
iscsiadm -m node -T {IQN} -p 127.0.0.1:3260 -o update -n node.session.scan -v manual
iscsiadm -m node -T {IQN} -p 127.0.0.1:3260 --login
find /etc/iscsi -type f -exec sha256sum {{}} + | sort > /run/theirs"#
    ));
    for (more, status, step, words) in [
        (json!({"lun": 77}), 500, "scan", "no unit 77"),
        (json!({"target": "iqn.2026-01.test.slipway:none"}), 500, "login", "did not accept a login"),
        (json!({"port": 3333}), 500, "connect", "127.0.0.1:3333"),
        (json!({"host": "no-such-host.invalid"}), 400, "resolve", "no-such-host.invalid"),
        (json!({"initiator": "somebody"}), 400, "check", "iscsi.initiator"),
        (json!({"lun": 20000}), 400, "check", "iscsi.lun"),
        (json!({"scheduler": "no-such"}), 400, "scheduler", "mq-deadline"),
    ] {
        let refused = node.refused(&json!({"make": attach(&more), "id": 1}));
        assert!(
            refused.status == status && refused.step == step && refused.text.contains(words),
            "{more}: {refused:?}"
        );
        assert!(refused.took < Duration::from_secs(25), "{more}: {refused:?}");
        assert_eq!((sessions(&node), node.found()), (1, vec![]), "{more}");
    }
    assert_eq!(node.refused(&json!({"make": attach(&json!({"port": 3333})), "id": 1})).errno, "ECONNREFUSED");
    // Ours comes and goes beside the other one.
    let device = node.make(2, &attach(&json!({})));
    assert_eq!((sessions(&node), node.found()), (2, vec![(2, device)]));
    node.undo(2, "iscsi");
    assert_eq!(
        node.guest.ok("cat /sys/class/iscsi_session/session*/ifacename /sys/class/iscsi_session/session*/state"),
        "default\nLOGGED_IN\n"
    );
    node.guest.ok("find /etc/iscsi -type f -exec sha256sum {} + | sort | diff /run/theirs -");
    node.guest.ok(&format!("iscsiadm -m node -T {IQN} -p 127.0.0.1:3260 --logout; iscsiadm -m node -o delete; rm /etc/iscsi/initiatorname.iscsi; rm -rf /etc/iscsi/nodes /etc/iscsi/ifaces"));
    node.guest.ok("find /etc/iscsi | sort > /run/before");
    clean(&node);
    // Without the package it is said what to install.
    node.guest.ok("mv /sbin/iscsiadm /sbin/iscsiadm.away");
    let refused = node.refused(&json!({"make": attach(&json!({})), "id": 3}));
    assert!(refused.text.contains("package open-iscsi"), "{refused:?}");
    clean(&node);
}

fn root_iscsi_with_chap_both_ways() {
    let node = node();
    node.guest.ok(&format!(
        r#"cd /sys/kernel/config/target/iscsi/{IQN}/tpgt_1
echo 1 > attrib/authentication; echo CHAP > param/AuthMethod
printf someone > auth/userid; printf 'a-long #secret=1' > auth/password
printf target > auth/userid_mutual; printf 'their-own-secret' > auth/password_mutual"#
    ));
    let good = json!({"username": "someone", "password": "a-long #secret=1"});
    for (user, password) in [("someone", "wrong-wrong-wrong"), ("somebody", "a-long #secret=1"), ("", "")] {
        let wrong = attach(&json!({"username": user, "password": password}));
        let refused = node.refused(&json!({"make": wrong, "id": 1}));
        assert!(refused.status == 500 && refused.step == "login" && !refused.text.contains("secret"), "{refused:?}");
        assert!(refused.text.contains("CHAP") || refused.text.contains("login"), "{refused:?}");
        clean(&node);
    }
    // What a process can see of others while the login is under way holds no password.
    let watch = node
        .guest
        .begin("while [ ! -e /run/stop ]; do cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' >> /run/argv; done")
        .unwrap();
    node.make(2, &attach(&good));
    node.guest.ok("touch /run/stop");
    watch.finish(Duration::from_secs(20)).unwrap();
    node.guest.ok("grep -q iscsiadm /run/argv && ! grep -q 'a-long' /run/argv");
    // Nor does any file.
    node.guest.ok("! grep -r -q -e 'a-long #secret' /etc/iscsi /run/slipway /run/lock");
    // Who shares the session must know its password.
    let refused = node.refused(
        &json!({"make": attach(&json!({"username": "someone", "password": "guessed-guessed", "lun": 1})), "id": 3}),
    );
    assert!(refused.text.contains("another password"), "{refused:?}");
    let mut second = good.clone();
    second["lun"] = 1.into();
    node.make(4, &attach(&second));
    assert_eq!(sessions(&node), 1);
    node.undo(2, "iscsi");
    node.undo(4, "iscsi");
    clean(&node);
    // The target proves itself too, or is not believed.
    let mut both = good.clone();
    both["username_in"] = "target".into();
    both["password_in"] = "not-their-secret".into();
    let refused = node.refused(&json!({"make": attach(&both), "id": 5}));
    assert_eq!(refused.step, "login", "{refused:?}");
    clean(&node);
    both["password_in"] = "their-own-secret".into();
    node.make(6, &attach(&both));
    node.undo(6, "iscsi");
    clean(&node);
}

fn root_iscsi_after_a_crash_at_every_point() {
    let node = node();
    assert_eq!(node.crashes("iscsi.", &attach(&json!({})), "iscsi", || clean(&node)), 7);
}

fn root_iscsi_lost_connections_come_back_or_end() {
    let node = node();
    let group = format!("/sys/kernel/config/target/iscsi/{IQN}/tpgt_1");
    let device = node.make(1, &attach(&json!({"dead_timeout": 15})));
    node.guest.ok(&format!("mkdir -p /mnt/a; mount -t ext4 {device} /mnt/a; echo before > /mnt/a/file; sync"));
    // The target drops its sessions and admits none for a while: what is written meanwhile waits.
    node.guest.ok(&format!("echo 0 > {group}/enable"));
    node.guest.ok("for i in $(seq 100); do grep -q FAILED /sys/class/iscsi_session/session*/state && exit 0; sleep 0.1; done; exit 1");
    let writing = node.guest.begin("echo after > /mnt/a/file; sync -f /mnt/a/file").unwrap();
    node.guest.ok(&format!("sleep 1; echo 1 > {group}/enable"));
    assert_eq!(writing.finish(Duration::from_secs(30)).unwrap().code, 0);
    node.guest.ok("umount /mnt/a");
    assert_eq!(node.guest.ok("cat /sys/class/iscsi_session/session*/state"), "LOGGED_IN\n");
    // The daemon is gone: a service that runs starts another one, which takes the session over.
    let service = node.begin(&json!({"found": true, "stay": 60}));
    node.guest.ok("sleep 1; pkill -9 -x iscsid; sleep 0.3; ! grep ISCSIADM_ABSTRACT_NAMESPACE /proc/net/unix");
    node.guest.ok(
        "for i in $(seq 100); do grep -q ISCSIADM_ABSTRACT_NAMESPACE /proc/net/unix && exit 0; sleep 0.1; done; exit 1",
    );
    assert_eq!(node.found(), [(1, device.clone())]);
    let second = node.make(2, &attach(&json!({"dead_timeout": 15, "lun": 1})));
    node.guest.ok(&format!("echo 0 > {group}/enable; sleep 2; echo 1 > {group}/enable"));
    node.guest.ok(&format!("timeout 30 dd if={second} of=/dev/null bs=4096 count=1 iflag=direct"));
    node.undo(2, "iscsi");
    node.guest.ok("for i in $(seq 100); do grep -q -x 15 /sys/class/iscsi_session/session*/recovery_tmo && exit 0; sleep 0.1; done; exit 1");
    node.guest.ok("pkill -f 'guest.* call'");
    service.finish(Duration::from_secs(10)).unwrap();

    // The server is gone for good: reads fail in their time, and the session can be removed without it.
    node.guest.ok(&format!("echo 0 > {group}/enable; sleep 1"));
    let read = node.guest.begin(&format!("dd if={device} of=/dev/null bs=4096 count=1 iflag=direct")).unwrap();
    assert_ne!(read.finish(Duration::from_secs(40)).unwrap().code, 0);
    let begun = std::time::Instant::now();
    node.undo(1, "iscsi");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    clean(&node);

    // A server that takes connections and says nothing.
    let silent = node.guest.begin("exec busybox nc -ll -p 3262 -e sleep 600").unwrap();
    node.guest.ok("for i in $(seq 100); do grep -q :0CBE /proc/net/tcp* && exit 0; sleep 0.1; done; exit 1");
    let refused = node.refused(&json!({"make": attach(&json!({"port": 3262})), "id": 3}));
    assert!(refused.errno == "ETIMEDOUT" && refused.took < Duration::from_secs(25), "{refused:?}");
    clean(&node);
    node.guest.ok("pkill -f 'nc -ll'");
    silent.finish(Duration::from_secs(10)).unwrap();
    // One that no way leads to.
    let refused = node.refused(&json!({"make": attach(&json!({"host": "10.9.9.9"})), "id": 4, "patience": 3}));
    assert!(refused.step == "connect" && refused.errno == "ENETUNREACH", "{refused:?}");
    clean(&node);
}
