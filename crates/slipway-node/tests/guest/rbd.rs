//! RBD: a Ceph cluster on this machine, and the kernel's client in a guest.

use crate::node::Node;
use serde_json::{Value, json};
use slipway_lab::{Ceph, Guest, GuestNet, GuestSpec, Root};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const TESTS: &[(&str, crate::Test)] = &[("root_rbd_images_of_a_cluster", root_rbd_images_of_a_cluster)];

struct Lab {
    // First: the guest goes before what it talks to.
    node: Node,
    ceph: Ceph,
    key: String,
    _net: Arc<GuestNet>,
}

impl Lab {
    /// An image `disk` of 64 MiB and a squashfs in `image`, with the snapshot `one`.
    fn new() -> Self {
        let net = Arc::new(GuestNet::new().unwrap());
        let ceph = Ceph::start(&net).unwrap();
        let top = tempfile::tempdir().unwrap();
        let (tree, file) = (top.path().join("tree"), top.path().join("image"));
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("file"), "from the snapshot\n").unwrap();
        let made = Command::new("mksquashfs").args([&tree, &file]).args(["-quiet", "-no-progress"]).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        for args in [
            &["create", "--size", "64M", "rbd/disk"][..],
            &["import", file.to_str().unwrap(), "rbd/image"],
            &["snap", "create", "rbd/image@one"],
            &["namespace", "create", "rbd/site"],
            &["create", "--size", "16M", "--image-feature", "layering,exclusive-lock", "rbd/site/disk"],
            &["create", "--size", "16M", "--image-feature", "layering,exclusive-lock,journaling", "rbd/strange"],
        ] {
            ceph.run("rbd", args).unwrap();
        }
        let key = ceph.user("lab", &["mon", "profile rbd", "osd", "profile rbd"]).unwrap();
        // No module is loaded: the driver asks for its own.
        let spec = GuestSpec::new(Root::Host).with_net(&net);
        Self { node: Node { guest: Guest::boot(&spec).unwrap() }, ceph, key, _net: net }
    }

    fn attach(&self, more: &Value, options: &Value) -> Value {
        let mut block = json!({"monitors": [self.ceph.monitor()], "pool": "rbd", "image": "disk"});
        block.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        block["options"] = json!({"name": "lab", "secret": self.key});
        block["options"].as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        json!({"kind": "rbd", "rbd": block})
    }

    /// No map, no key, no client of a cluster is left.
    #[track_caller]
    fn clean(&self) {
        self.node.guest.ok("[ -z \"$(ls /sys/bus/rbd/devices 2>/dev/null)\" ]; ! ls /dev/rbd[0-9]* 2>/dev/null; ! grep ceph /proc/keys");
        assert_eq!(self.node.found(), []);
    }
}

fn root_rbd_images_of_a_cluster() {
    let mut lab = Lab::new();
    images_are_written_and_kept(&lab);
    snapshots_are_shared(&lab);
    options_reach_the_kernel(&lab);
    what_is_wrong_is_said(&lab);
    let passed = lab.node.crashes("rbd.", &lab.attach(&json!({}), &json!({})), "rbd", || lab.clean());
    assert_eq!(passed, 4);
    a_cluster_that_is_gone_keeps_nobody(&mut lab);
}

fn images_are_written_and_kept(lab: &Lab) {
    let (node, guest) = (&lab.node, &lab.node.guest);
    let disk = node.make(1, &lab.attach(&json!({}), &json!({})));
    guest.ok(&format!(
        "mke2fs -q -t ext4 {disk}; mkdir -p /mnt/a; mount -t ext4 {disk} /mnt/a; echo kept > /mnt/a/file; sync"
    ));
    // The mark is there, the secret is not.
    let shown = guest.ok("cat /sys/bus/rbd/devices/*/config_info");
    assert!(shown.contains("key=slipway-") && shown.contains("mount_timeout=25"), "{shown}");
    assert!(!shown.contains(&lab.key) && !shown.contains("secret"), "{shown}");
    guest.ok("! grep ceph /proc/keys");
    assert_eq!(node.found(), [(1, disk.clone())]);
    // One that writes is alone.
    for options in [json!({}), json!({"ro": true}), json!({"noshare": true})] {
        let refused = node.refused(&json!({"make": lab.attach(&json!({}), &options), "id": 2}));
        assert_eq!(
            (refused.status, &refused.holders),
            (409, &json!([{"kind": "object", "object": "attach", "id": 1}])),
            "{refused:?}"
        );
        assert_eq!(node.found(), [(1, disk.clone())]);
    }
    let refused = node.refused(&json!({"undo": "rbd", "id": 1}));
    assert_eq!((refused.status, refused.errno.as_str()), (409, "EBUSY"));
    assert!(refused.holders.to_string().contains("/mnt/a"), "{refused:?}");
    assert_eq!(guest.ok("cat /mnt/a/file; umount /mnt/a"), "kept\n");
    node.undo(1, "rbd");
    node.undo(1, "rbd");
    lab.clean();
    let disk = node.make(3, &lab.attach(&json!({"snapshot": "-"}), &json!({"ro": true})));
    assert_eq!(
        guest.ok(&format!("mount -t ext4 -o ro,noload {disk} /mnt/a; cat /mnt/a/file; umount /mnt/a")),
        "kept\n"
    );
    node.undo(3, "rbd");
    lab.clean();
}

fn snapshots_are_shared(lab: &Lab) {
    let (node, guest) = (&lab.node, &lab.node.guest);
    let image = lab.attach(&json!({"image": "image", "snapshot": "one"}), &json!({}));
    let first = node.make(10, &image);
    let second = node.make(11, &image);
    assert_ne!(first, second);
    guest.ok(&format!("mkdir -p /mnt/b /mnt/c; mount -t squashfs {first} /mnt/b; mount -t squashfs {second} /mnt/c"));
    assert_eq!(guest.ok("cat /mnt/b/file /mnt/c/file"), "from the snapshot\nfrom the snapshot\n");
    // The image itself is another thing than its snapshot, and may be read twice too.
    let whole = lab.attach(&json!({"image": "image"}), &json!({"ro": true}));
    node.make(12, &whole);
    node.make(13, &whole);
    assert_eq!(node.found().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [10, 11, 12, 13]);
    guest.ok("umount /mnt/b");
    node.undo(10, "rbd");
    assert_eq!(guest.ok("cat /mnt/c/file; umount /mnt/c"), "from the snapshot\n");
    for id in [11, 12, 13] {
        node.undo(id, "rbd");
    }
    lab.clean();
}

fn options_reach_the_kernel(lab: &Lab) {
    let (node, guest) = (&lab.node, &lab.node.guest);
    let fsid = lab.ceph.run("ceph", &["fsid"]).unwrap().trim().to_owned();
    let options = json!({
        "fsid": fsid, "noshare": true, "nocrc": true, "noceph_requires_signatures": true, "cephx_sign_messages": true,
        "tcp_nodelay": true, "mount_timeout": 9, "osdkeepalive": 7, "osd_idle_ttl": 70, "rw": true, "queue_depth": 32,
        "lock_on_read": true, "lock_timeout": 8, "notrim": true, "abort_on_full": true, "alloc_size": 131_072, "namespace": "site",
    });
    node.make(20, &lab.attach(&json!({}), &options));
    assert_eq!(guest.ok("cat /sys/bus/rbd/devices/*/pool_ns").trim(), "site");
    let shown = guest.ok("cat /sys/bus/rbd/devices/*/config_info");
    for word in ["noshare", "osdkeepalive=7", "queue_depth=32", "lock_timeout=8", "alloc_size=131072", "_pool_ns=site"]
    {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    node.undo(20, "rbd");
    // A user who may only read, and asks for no more.
    let reader = lab.ceph.user("reader", &["mon", "profile rbd", "osd", "profile rbd-read-only"]).unwrap();
    let user = json!({"name": "reader", "secret": reader, "ro": true});
    let disk = node.make(21, &lab.attach(&json!({"image": "image", "snapshot": "one"}), &user));
    guest.ok(&format!("mount -t squashfs {disk} /mnt/b; cat /mnt/b/file; umount /mnt/b"));
    node.undo(21, "rbd");
    // By force, what has it open loses it.
    let disk = node.make(22, &lab.attach(&json!({}), &json!({"force": true})));
    assert_eq!(node.found(), [(22, disk.clone())]);
    let open = guest.begin(&format!("exec sleep 600 < {disk}")).unwrap();
    guest.ok("for i in $(seq 50); do pgrep -f 'sleep 600' && exit 0; sleep 0.1; done; exit 1");
    node.undo(22, "rbd");
    assert_eq!(node.found(), []);
    guest.ok("pkill -f 'sleep 600'");
    open.finish(Duration::from_secs(10)).unwrap();
    lab.clean();
}

fn what_is_wrong_is_said(lab: &Lab) {
    let node = &lab.node;
    let other = lab.ceph.user("other", &["mon", "profile rbd", "osd", "profile rbd"]).unwrap();
    let nothing = json!({});
    for (more, options, status, words) in [
        (json!({"image": "none"}), nothing.clone(), 500, "rbd/none is not there"),
        (json!({"pool": "none"}), nothing.clone(), 500, "none/disk is not there"),
        (json!({"image": "image", "snapshot": "two"}), nothing.clone(), 500, "rbd/image@two is not there"),
        (nothing.clone(), json!({"namespace": "none"}), 500, "rbd/none/disk is not there"),
        (nothing.clone(), json!({"secret": other}), 500, "ceph auth get client.lab"),
        (nothing.clone(), json!({"name": "nobody"}), 500, "ceph auth get client.nobody"),
        (nothing.clone(), json!({"secret": "bm8ga2V5"}), 400, "rbd.options.secret"),
        (nothing.clone(), json!({"secret": "???"}), 400, "rbd.options.secret"),
        (json!({"image": "strange"}), nothing.clone(), 500, "rbd feature disable"),
        (json!({"monitors": ["no-such-host.invalid"]}), nothing.clone(), 400, "no-such-host.invalid"),
        (json!({"monitors": ["10.99.0.77"]}), json!({"mount_timeout": 3}), 500, "10.99.0.77"),
    ] {
        let refused = node.refused(&json!({"make": lab.attach(&more, &options), "id": 30}));
        assert!(refused.status == status && refused.text.contains(words), "{more} {options}: {refused:?}");
        assert!(!refused.text.contains(&other) && !refused.text.contains(&lab.key), "{refused:?}");
        assert!(refused.took < Duration::from_secs(15), "{refused:?}");
        lab.clean();
    }
    // The first monitor is away, the second one answers.
    let monitors = json!({"monitors": ["10.99.0.77", lab.ceph.monitor()]});
    node.make(31, &lab.attach(&monitors, &nothing));
    node.undo(31, "rbd");
    lab.clean();
}

fn a_cluster_that_is_gone_keeps_nobody(lab: &mut Lab) {
    lab.node.make(40, &lab.attach(&json!({}), &json!({"mount_timeout": 5})));
    lab.ceph.stop();
    let begun = std::time::Instant::now();
    lab.node.undo(40, "rbd");
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    let refused = lab.node.refused(&json!({"make": lab.attach(&json!({}), &json!({"mount_timeout": 5})), "id": 41}));
    assert!(refused.status == 500 && refused.took < Duration::from_secs(20), "{refused:?}");
    lab.clean();
}
