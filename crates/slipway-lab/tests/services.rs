//! What a guest is for: servers and clients of this kind run in it for real. Each test is also the recipe.

#![allow(clippy::unwrap_used, reason = "a test")]

use slipway_lab::{Base, Guest, GuestSpec, Root, Share, packages_unpack};

/// A guest with these packages and modules.
fn guest(packages: &[&str], modules: &[&str]) -> Guest {
    let mut spec = GuestSpec::new(Root::Host).with_modules(modules);
    if !packages.is_empty() {
        spec.layers.push(packages_unpack(packages, Base::Host).unwrap());
    }
    Guest::boot(&spec).unwrap()
}

/// A target (LIO) and an initiator (open-iscsi) in one guest, with CHAP.
#[test]
#[ignore = "needs root"]
fn root_iscsi_from_the_guests_own_target() {
    slipway_lab::once_more(root_iscsi_from_the_guests_own_target_once);
}

fn root_iscsi_from_the_guests_own_target_once() {
    let guest = guest(&["open-iscsi"], &["iscsi_tcp", "sd_mod", "target_core_file", "iscsi_target_mod", "ext4", "md5"]);
    guest.ok(r#"
mount -t configfs none /sys/kernel/config
T=/sys/kernel/config/target; IQN=iqn.2026-01.test.slipway:disk
truncate -s 16M /run/disk; mke2fs -q -F -t ext4 -L lab /run/disk
mkdir -p $T/core/fileio_0/disk
echo "fd_dev_name=/run/disk,fd_dev_size=16777216" > $T/core/fileio_0/disk/control
echo 1 > $T/core/fileio_0/disk/enable
mkdir -p $T/iscsi/$IQN/tpgt_1/lun/lun_0 $T/iscsi/$IQN/tpgt_1/np/127.0.0.1:3260
ln -s $T/core/fileio_0/disk $T/iscsi/$IQN/tpgt_1/lun/lun_0/disk
cd $T/iscsi/$IQN/tpgt_1
echo 1 > attrib/authentication; echo 1 > attrib/generate_node_acls; echo 0 > attrib/demo_mode_write_protect
echo CHAP > param/AuthMethod
printf someone > auth/userid; printf a-long-secret > auth/password   # a line feed would belong to them
echo 1 > enable
mkdir -p /etc/iscsi /run/lock/iscsi /var/lib/iscsi
echo "InitiatorName=iqn.2026-01.test.slipway:guest" > /etc/iscsi/initiatorname.iscsi
: > /etc/iscsi/iscsid.conf
iscsid -f >/run/iscsid.log 2>&1 & sleep 0.5
iscsiadm -m node -T $IQN -p 127.0.0.1:3260 -o new"#);
    let node = "iscsiadm -m node -T iqn.2026-01.test.slipway:disk -p 127.0.0.1:3260";
    guest.ok(&format!("{node} -o update -n node.session.auth.authmethod -v CHAP; {node} -o update -n node.session.auth.username -v someone"));
    guest.ok(&format!("{node} -o update -n node.session.auth.password -v wrong; ! {node} --login"));
    guest.ok(&format!("{node} -o update -n node.session.auth.password -v a-long-secret; {node} --login"));
    guest.ok("for i in $(seq 50); do [ -b /dev/sda ] && break; sleep 0.1; done; mkdir -p /mnt/d; mount -t ext4 /dev/sda /mnt/d");
    guest.ok("echo over iscsi > /mnt/d/file; sync; umount /mnt/d; mount -t ext4 -o ro /dev/sda /mnt/d");
    assert_eq!(guest.ok("cat /mnt/d/file"), "over iscsi\n");
    guest.ok(&format!("umount /mnt/d; {node} --logout; [ ! -e /sys/class/iscsi_session/session* ]"));
}

/// The kernel's own server, version 4.2. A folder of this machine cannot be exported, one in memory can.
#[test]
#[ignore = "needs root"]
fn root_nfs_from_the_guests_own_server() {
    slipway_lab::once_more(root_nfs_from_the_guests_own_server_once);
}

fn root_nfs_from_the_guests_own_server_once() {
    let guest = guest(&["nfs-kernel-server", "nfs-common"], &["nfsd", "nfsv4"]);
    guest.ok(r#"
mkdir -p /run/export /mnt/n /var/lib/nfs/rpc_pipefs /var/lib/nfs/v4recovery /var/lib/nfs/sm
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
echo "from the server" > /run/export/file
mount -t nfsd nfsd /proc/fs/nfsd
echo "/run/export 127.0.0.1(rw,no_root_squash,fsid=0,insecure,no_subtree_check)" > /etc/exports
exportfs -ra
rpc.mountd --no-nfs-version 3
rpc.nfsd -N 3 --nfs-version 4 2
mount -t nfs -o vers=4.2,addr=127.0.0.1,clientaddr=127.0.0.1 127.0.0.1:/ /mnt/n"#);
    assert_eq!(guest.ok("cat /mnt/n/file; echo back > /mnt/n/other; cat /run/export/other"), "from the server\nback\n");
    assert!(guest.ok("grep /mnt/n /proc/mounts").contains("nfs4"));
    // The server stops: what was mounted softly fails, and does not hang.
    guest.ok("umount /mnt/n; mount -t nfs -o vers=4.2,soft,timeo=5,retrans=1,addr=127.0.0.1,clientaddr=127.0.0.1 127.0.0.1:/ /mnt/n; ls /mnt/n; rpc.nfsd 0");
    assert_ne!(guest.run("echo 3 > /proc/sys/vm/drop_caches; timeout 60 cat /mnt/n/file").unwrap().code, 0);
    guest.ok("umount -f -l /mnt/n");
}

/// A disk that fails when it is told to.
#[test]
#[ignore = "needs root"]
fn root_a_disk_that_fails_by_dm_flakey() {
    slipway_lab::once_more(root_a_disk_that_fails_by_dm_flakey_once);
}

fn root_a_disk_that_fails_by_dm_flakey_once() {
    let guest = guest(&["dmsetup"], &["dm-flakey", "loop", "ext4"]);
    guest.ok(r#"
export DM_DISABLE_UDEV=1
truncate -s 16M /run/disk; losetup /dev/loop0 /run/disk
echo "0 32768 flakey /dev/loop0 0 60 0" | dmsetup create flaky
mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 /dev/mapper/flaky; mkdir -p /mnt/f; mount -t ext4 /dev/mapper/flaky /mnt/f; echo fine > /mnt/f/a; sync"#);
    // Down for a minute: every read and write is an error; then up again.
    let table = |rest: &str| {
        format!(
            "export DM_DISABLE_UDEV=1; dmsetup suspend --nolockfs flaky && echo '0 32768 flakey /dev/loop0 0 {rest}' | dmsetup load flaky && dmsetup resume flaky"
        )
    };
    guest.ok(&table("0 60"));
    let read = "dd if=/dev/mapper/flaky of=/dev/null bs=4096 count=1 iflag=direct";
    let failed = guest.run(read).unwrap();
    assert!(failed.code != 0 && failed.stderr.contains("Input/output error"), "{failed:?}");
    guest.ok(&table("60 0"));
    guest.ok(read);
    assert_eq!(guest.ok("cat /mnt/f/a"), "fine\n");
    guest.ok("export DM_DISABLE_UDEV=1; umount /mnt/f; dmsetup remove flaky; losetup -d /dev/loop0");
}

/// systemd as the first process of a container on cgroup v2, from packages that nothing was installed of; limits are kept.
#[test]
#[ignore = "needs root"]
fn root_systemd_in_a_container_on_cgroup_v2() {
    slipway_lab::once_more(root_systemd_in_a_container_on_cgroup_v2_once);
}

fn root_systemd_in_a_container_on_cgroup_v2_once() {
    let root = packages_unpack(
        &["systemd", "dbus", "base-files", "base-passwd", "bash", "dash", "coreutils", "util-linux", "mount"],
        Base::Nothing,
    )
    .unwrap();
    let mut spec = GuestSpec::new(Root::Host);
    spec.shares.push(Share { host: root, guest: "/srv/root".into(), writable: false });
    let guest = Guest::boot(&spec).unwrap();
    guest.ok("mount -t cgroup2 none /sys/fs/cgroup");
    let controllers = guest.ok("cat /sys/fs/cgroup/cgroup.controllers");
    for wanted in ["cpu", "io", "memory", "pids"] {
        assert!(controllers.split_whitespace().any(|name| name == wanted), "{controllers}");
    }
    guest.ok(r#"
echo "+memory +pids +cpu" > /sys/fs/cgroup/cgroup.subtree_control
mkdir -p /run/c/up /run/c/work /run/c/root
mount -t tmpfs t /run/c; mkdir -p /run/c/up /run/c/work /run/c/root
mount -t overlay -o lowerdir=/srv/root,upperdir=/run/c/up,workdir=/run/c/work c /run/c/root
cd /run/c/root
cp usr/share/base-passwd/passwd.master etc/passwd; cp usr/share/base-passwd/group.master etc/group
echo 'messagebus:x:100:100::/nonexistent:/usr/sbin/nologin' >> etc/passwd; echo 'messagebus:x:100:' >> etc/group
echo 0123456789abcdef0123456789abcdef > etc/machine-id; : > etc/fstab
cat > etc/systemd/system/lab.service <<'UNIT'
[Service]
Type=simple
ExecStart=/bin/sh -c 'cat /proc/1/comm > /lab-ran; systemctl is-system-running --wait >> /lab-ran; systemctl start --no-block poweroff.target'
UNIT
mkdir -p etc/systemd/system/multi-user.target.wants
ln -s ../lab.service etc/systemd/system/multi-user.target.wants/lab.service
ln -sf /lib/systemd/system/multi-user.target etc/systemd/system/default.target
cat > /run/start.sh <<'START'
set -e
cd /run/c/root
mount --bind /run/c/root /run/c/root; cd /run/c/root
mount -t proc proc proc; mount -t sysfs -o ro sysfs sys; mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 dev dev; mkdir dev/pts dev/shm; mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
for node in null zero full random urandom tty; do touch dev/$node; mount --bind /dev/$node dev/$node; done
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=755 run run
mkdir -p .old; pivot_root . .old; cd /; umount -l /.old
exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=console --log-level=info
START
mkdir /sys/fs/cgroup/ct; echo 100M > /sys/fs/cgroup/ct/memory.max; echo 200 > /sys/fs/cgroup/ct/pids.max"#);
    let ran = guest
        .run("sh -c 'echo 0 > /sys/fs/cgroup/ct/cgroup.procs; exec unshare --fork --pid --mount --uts --ipc --cgroup --propagation private sh /run/start.sh' 2>&1; cat /run/c/up/lab-ran; cat /sys/fs/cgroup/ct/memory.peak /sys/fs/cgroup/ct/memory.current 2>/dev/null")
        .unwrap();
    assert!(ran.stdout.contains("systemd\nrunning\n"), "{}\n{}", ran.stdout, ran.stderr);
    // What is left of it: nothing but the limits that were set.
    assert_eq!(guest.ok("cat /sys/fs/cgroup/ct/cgroup.procs; cat /sys/fs/cgroup/ct/pids.max"), "200\n");
    // A limit bites: more memory than the group may have.
    guest.ok("mkdir /sys/fs/cgroup/small; echo 8M > /sys/fs/cgroup/small/memory.max; echo 0 > /sys/fs/cgroup/small/memory.swap.max 2>/dev/null || true");
    let eaten =
        guest.run("echo 0 > /sys/fs/cgroup/small/cgroup.procs; head -c 60M /dev/zero | tail >/dev/null").unwrap();
    assert_eq!(eaten.code, 137);
    assert!(guest.ok("grep oom_kill /sys/fs/cgroup/small/memory.events").contains("oom_kill 1"));
}
