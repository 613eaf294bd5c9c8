//! The examples of the node service that need a server or systemd, run as they are shipped and by the line in their own comment: `slipway node`
//! and the service in a guest, with the servers beside them. What needs neither is in `node/examples.rs`.
#![allow(clippy::unwrap_used, reason = "a test")]

#[allow(unreachable_pub)]
mod house;
#[allow(unreachable_pub)]
#[path = "node_examples/images.rs"]
mod images;
#[allow(unreachable_pub)]
#[path = "node_examples/lab.rs"]
mod lab;

use images::Images;
use lab::{Lab, Running, spec};
use slipway_lab::{Ceph, GuestNet, ISCSI_TARGET_MODULES, iscsi_target_of};
use std::sync::Arc;

/// The root is the server's own: what one container writes the next one finds.
fn writes_through(running: &Running<'_>) {
    if running.systemd {
        assert_eq!(running.exec("cat /var/kept /var/booted; rm /var/kept"), "by the plain init\nbooted\n");
    } else {
        running.exec("cat /etc/mark; [ ! -e /var/booted ]; echo by the plain init > /var/kept");
    }
}

/// The root is shared and stays as it is: what one container writes the next one does not find.
fn writes_in_memory(running: &Running<'_>) {
    let booted = if running.systemd { "booted\n" } else { "" };
    assert_eq!(
        running.exec(
            "[ ! -e /changed ]; stat -f -c %T /; cat /var/booted 2>/dev/null || true; echo x > /changed; rm /etc/mark"
        ),
        format!("overlayfs\n{booted}")
    );
    // As much as the file says.
    assert_eq!(running.exec("df --output=size -B1 / | tail -n 1").trim(), "1073741824");
}

#[test]
#[ignore = "needs root"]
fn root_examples_on_nfs_and_without_a_server() {
    slipway_lab::once_more(root_examples_on_nfs_and_without_a_server_once);
}

/// The kernel's own server of version 4, whose root is /srv/nfs.
const NFS: &str = r#"
cd /srv/made; cp --sparse=always debian.ext4 /run/n17.ext4
mkdir -p /srv/nfs /srv/images /var/lib/nfs/rpc_pipefs /var/lib/nfs/v4recovery /var/lib/nfs/sm
mount -t tmpfs exports /srv/nfs
cd /srv/nfs; mkdir -p exports/images exports/roots/n17 exports/roots/debian
cp /srv/made/debian.sqfs exports/images/; ln -s /srv/made/debian.sqfs /srv/images/debian.sqfs
mount -t ext4 -o loop /run/n17.ext4 exports/roots/n17
mount -t squashfs -o loop,ro /srv/made/debian.sqfs exports/roots/debian
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
mount -t nfsd nfsd /proc/fs/nfsd
options=no_root_squash,insecure,no_subtree_check
echo "/srv/nfs *(ro,fsid=0,$options)
/srv/nfs/exports/images *(ro,fsid=1,$options)
/srv/nfs/exports/roots/debian *(ro,fsid=2,$options)
/srv/nfs/exports/roots/n17 *(rw,fsid=3,$options)" > /etc/exports
exportfs -ra
rpc.mountd --no-nfs-version 3
rpc.nfsd -N 3 --nfs-version 4 4
"#;

fn root_examples_on_nfs_and_without_a_server_once() {
    let (images, net) = (Images::get(), Arc::new(GuestNet::new().unwrap()));
    let modules = &["nfsd", "nfsv4", "ext4", "squashfs", "loop"];
    let spec = spec(&images, &net, &["nfs-kernel-server", "nfs-common"], modules).with_setup(NFS);
    let lab = Lab::start(&spec, &net, Vec::new());
    lab.examples("nfs", &["nfs"], writes_through);
    lab.examples("nfs-overlay", &["nfs", "overlay"], writes_in_memory);
    lab.examples("nfs-loopback-overlay", &["nfs", "loopback", "attach", "overlay"], writes_in_memory);
    lab.examples("loopback-overlay", &["loopback", "attach", "overlay"], writes_in_memory);
}

#[test]
#[ignore = "needs root"]
fn root_examples_on_iscsi() {
    slipway_lab::once_more(root_examples_on_iscsi_once);
}

fn root_examples_on_iscsi_once() {
    let (images, net) = (Images::get(), Arc::new(GuestNet::new().unwrap()));
    let mut spec = spec(&images, &net, &["open-iscsi"], ISCSI_TARGET_MODULES);
    spec = spec.with_setup("cd /srv/made; for f in *; do cp --sparse=always $f /run/$f; done");
    for (name, file) in [("n17", "debian.ext4"), ("debian", "debian.sqfs"), ("images", "images.ext4")] {
        let target = iscsi_target_of(&format!("iqn.2026-01.lab:{name}"), &[(0, &format!("/run/{file}"))]);
        spec = spec.with_setup(&target);
    }
    let lab = Lab::start(&spec, &net, Vec::new());
    lab.examples("iscsi-ext4", &["iscsi", "attach"], writes_through);
    lab.examples("iscsi-squashfs-overlay", &["iscsi", "attach", "overlay"], writes_in_memory);
    let deep = &["iscsi", "attach", "loopback", "attach", "bind", "overlay"];
    lab.examples("deep-chain", deep, writes_in_memory);
}

#[test]
#[ignore = "needs root"]
fn root_examples_on_rbd() {
    slipway_lab::once_more(root_examples_on_rbd_once);
}

fn root_examples_on_rbd_once() {
    let (images, net) = (Images::get(), Arc::new(GuestNet::new().unwrap()));
    let ceph = Ceph::start(&net).unwrap();
    for (program, args) in [
        ("ceph", &["osd", "pool", "create", "images", "8"][..]),
        ("rbd", &["pool", "init", "images"]),
        ("rbd", &["import", &images.path("debian.ext4"), "images/n17"]),
        ("rbd", &["import", &images.path("debian.sqfs"), "images/debian"]),
        ("rbd", &["snap", "create", "images/debian@golden"]),
    ] {
        ceph.run(program, args).unwrap();
    }
    let keys = tempfile::tempdir().unwrap();
    for (name, profile) in [("n17", "profile rbd pool=images"), ("reader", "profile rbd-read-only pool=images")] {
        let key = ceph.user(name, &["mon", "profile rbd", "osd", profile]).unwrap();
        std::fs::write(keys.path().join(format!("{name}.key")), format!("{key}\n")).unwrap();
    }
    // The cluster is where the guest's network is, and the keys are not this machine's.
    let instead = vec![("10.0.0.5", net.host_address().to_owned()), ("/etc/ceph", keys.path().display().to_string())];
    let lab = Lab::start(&spec(&images, &net, &[], &[]), &net, instead);
    lab.examples("rbd-ext4", &["rbd", "attach"], writes_through);
    lab.examples("rbd-squashfs-overlay", &["rbd", "attach", "overlay"], writes_in_memory);
}
