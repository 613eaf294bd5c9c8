//! One image to several guests at once, by each of the ways that a node has.

use crate::image::Image;
use crate::inside::serve_lines;
use crate::{Tried, program, said};
use serde_json::{Value, json};
use slipway_lab::{Base, Ceph, Guest, GuestNet, GuestSpec, Root, Share, packages_unpack};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const IQN: &str = "iqn.2026-01.test.slipway:image";
const MEMORY_MIB: u32 = 256;
/// Also when a guest is slow on a machine that does other things.
const LONG: Duration = Duration::from_secs(60);

/// NFS and iSCSI by the kernel's own servers, from memory.
const SERVER: &str = r#"
mkdir -p /run/export; mount -t tmpfs -o size=90% export /run/export
cp -a /srv/image/tree /srv/image/image.squashfs /run/export
mkdir -p /var/lib/nfs/rpc_pipefs /var/lib/nfs/v4recovery /var/lib/nfs/sm
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
mount -t nfsd nfsd /proc/fs/nfsd
echo "/run/export *(ro,no_root_squash,fsid=0,insecure,no_subtree_check)" > /etc/exports
exportfs -ra
rpc.mountd --no-nfs-version 3
rpc.nfsd -N 3 --nfs-version 4 8
mount -t configfs none /sys/kernel/config
T=/sys/kernel/config/target/core/fileio_0/image; G=/sys/kernel/config/target/iscsi/@IQN@/tpgt_1
mkdir -p $T $G/lun/lun_0 $G/np/@HOST@:3260
size=$(($(stat -c %s /run/export/image.squashfs) / 512 * 512))
echo "fd_dev_name=/run/export/image.squashfs,fd_dev_size=$size" > $T/control
echo 1 > $T/enable
ln -s $T $G/lun/lun_0/image
echo 0 > $G/attrib/authentication; echo 1 > $G/attrib/generate_node_acls
echo 1 > $G/enable
"#;

/// Clients, the server that they share, and the cluster.
struct Lab {
    clients: Vec<Guest>,
    server: Guest,
    ceph: Ceph,
    key: String,
    net: Arc<GuestNet>,
}

/// How the image comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Nfs,
    NfsLoop,
    Iscsi,
    Rbd,
}

const WAYS: [(Way, &str); 4] = [
    (Way::Nfs, "NFS, overlay"),
    (Way::NfsLoop, "NFS, loop, squashfs, overlay"),
    (Way::Iscsi, "iSCSI, squashfs, overlay"),
    (Way::Rbd, "RBD, squashfs, overlay"),
];

/// For each way and each number of guests: a row for each round.
pub(crate) fn run(agent: &str, folder: &Path, rounds: usize, counts: &[usize]) -> Tried<Value> {
    let image = Image::make(folder)?;
    let most = counts.iter().copied().max().unwrap_or(0);
    let most = u8::try_from(most).map_err(|_| "too many guests")?;
    let mut rows = Vec::new();
    let mut lab = Lab::new(agent, folder, &image, most)?;
    let mut patience = 2;
    for (way, name) in WAYS {
        loop {
            match lab.way(way, rounds, counts) {
                Ok(found) => {
                    rows.extend(found.into_iter().map(|mut row| {
                        row["way"] = json!(name);
                        row
                    }));
                    break;
                }
                // Now and then user-mode Linux stands still.
                Err(why) if patience > 0 => {
                    eprintln!("{name}: {why}; once more, in new guests");
                    patience -= 1;
                    drop(lab);
                    lab = Lab::new(agent, folder, &image, most)?;
                }
                Err(why) => return Err(format!("{name}: {why}")),
            }
        }
    }
    Ok(json!({"image": image.shape, "memory_mib": MEMORY_MIB, "rows": rows}))
}

impl Lab {
    fn new(agent: &str, folder: &Path, image: &Image, clients: u8) -> Tried<Self> {
        let text = |why: slipway_lab::LabError| why.to_string();
        let net = Arc::new(GuestNet::with_seats(clients + 1).map_err(text)?);
        let ceph = Ceph::start(&net).map_err(text)?;
        let file = image.squashfs.display().to_string();
        ceph.run("rbd", &["import", &file, "rbd/image"]).map_err(text)?;
        ceph.run("rbd", &["snap", "create", "rbd/image@one"]).map_err(text)?;
        let key = ceph.user("node", &["mon", "profile rbd", "osd", "profile rbd-read-only"]).map_err(text)?;
        let server = SERVER.replace("@IQN@", IQN).replace("@HOST@", &net.guest_address(0));
        let mut spec = GuestSpec::new(Root::Host).with_seat(&net, 0).with_setup(&server);
        spec = spec.with_modules(&["nfsd", "nfsv4", "target_core_file", "iscsi_target_mod", "md5"]);
        spec.memory_mib = 640;
        spec.layers.push(packages_unpack(&["nfs-kernel-server", "nfs-common"], Base::Host).map_err(text)?);
        spec.shares.push(Share { host: folder.to_owned(), guest: "/srv/image".into(), writable: false });
        let server = Guest::boot(&spec).map_err(text)?;
        let initiator = packages_unpack(&["open-iscsi"], Base::Host).map_err(text)?;
        let boot = |seat| {
            let mut spec = GuestSpec::new(Root::Host).with_seat(&net, seat);
            spec =
                spec.with_modules(&["loop", "squashfs", "nfsv4", "iscsi_tcp", "sd_mod", "rbd", "aes_generic", "cbc"]);
            spec.memory_mib = MEMORY_MIB;
            spec.layers.push(initiator.clone());
            // In a shell of its own, which ends when the service answers.
            spec = spec.with_setup(&format!("mount -t cgroup2 none /sys/fs/cgroup\n(\n{})", serve_lines(agent)));
            Guest::boot(&spec).map_err(text)
        };
        let clients = (1..=clients).map(boot).collect::<Tried<Vec<_>>>()?;
        Ok(Self { clients, server, ceph, key, net })
    }

    /// All rounds of one way.
    fn way(&self, way: Way, rounds: usize, counts: &[usize]) -> Tried<Vec<Value>> {
        let container = self.container(way);
        // The first time is not counted: each guest reads the programs from this machine, and the servers' caches become warm.
        self.round(way, &container, self.clients.len())?;
        let each = counts.iter().flat_map(|count| std::iter::repeat_n(*count, rounds));
        each.map(|count| self.round(way, &container, count)).collect()
    }

    fn container(&self, way: Way) -> Value {
        let server = self.net.guest_address(0);
        let nfs = |path: &str| json!({"kind": "nfs", "nfs": {"host": server, "path": path, "ro": true}});
        let squashfs = |attach: Value| json!({"kind": "attach", "attach": {"fs_type": "squashfs", "attach": attach}});
        let lower = match way {
            Way::Nfs => nfs("/tree"),
            Way::NfsLoop => squashfs(json!({"kind": "loopback", "loopback": {
                "path": "image.squashfs", "base": "mount", "ro": true, "mount": nfs("/"),
            }})),
            Way::Iscsi => squashfs(json!({"kind": "iscsi", "iscsi": {
                "initiator": format!("{IQN}-node-@SEAT@"), "target": IQN, "host": server, "ro": true,
            }})),
            Way::Rbd => squashfs(json!({"kind": "rbd", "rbd": {
                "monitors": [self.ceph.monitor()], "pool": "rbd", "image": "image", "snapshot": "one",
                "options": {"name": "node", "secret": self.key, "ro": true},
            }})),
        };
        let root = json!({"kind": "overlay", "overlay": {"lower": [lower]}});
        json!({"name": "one", "command": "/bin/busybox sh /first.sh", "state": "running", "mount": root})
    }

    /// The container in so many guests at the same time, from the requests until the last init has ended; then all of it goes.
    fn round(&self, way: Way, container: &Value, count: usize) -> Tried<Value> {
        let before = self.look(way, count)?;
        let begin = format!("{} inside begin <<'BODY'\n{container}\nBODY\n", program()?);
        let times = self.all(count, &begin)?;
        let after = self.look(way, count)?;
        self.all(count, &format!("exec {} inside end", program()?))?;
        let seconds = |pick: fn(&Look) -> Duration| (pick(&after) - pick(&before)).as_secs_f64();
        let list = |name: &str| times.iter().map(|one| one[name].clone()).collect::<Vec<_>>();
        Ok(json!({
            "guests": count, "bytes": after.bytes - before.bytes, "server_cpu": seconds(|look| look.server),
            "guests_cpu": seconds(|look| look.guests), "running": list("running"), "ended": list("ended"),
        }))
    }

    /// Runs lines in so many guests at once, each with its own number in them.
    fn all(&self, count: usize, script: &str) -> Tried<Vec<Value>> {
        let text = |why: slipway_lab::LabError| why.to_string();
        let jobs = self.clients[..count].iter().zip(1..);
        let jobs = jobs.map(|(guest, seat)| guest.begin(&script.replace("@SEAT@", &seat.to_string())).map_err(text));
        let jobs = jobs.collect::<Tried<Vec<_>>>()?;
        jobs.into_iter().map(|job| said(&job.finish(LONG).map_err(text)?)).collect()
    }

    fn look(&self, way: Way, count: usize) -> Tried<Look> {
        let mut bytes = 0;
        for seat in (1..).take(count) {
            let wire = self.net.wire(seat).map_err(|why| why.to_string())?;
            bytes += wire.to_guest + wire.from_guest;
        }
        let server = if way == Way::Rbd { self.ceph.processor() } else { self.server.processor() };
        Ok(Look { bytes, server, guests: self.clients[..count].iter().map(Guest::processor).sum() })
    }
}

/// What has been used so far.
struct Look {
    bytes: u64,
    server: Duration,
    guests: Duration,
}
