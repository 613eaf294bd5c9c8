//! What a power cut takes: every write to a guest's disk is recorded together with the flushes between them, and disks are made of it as they would be had the
//! power gone at this moment or that, without what the disk's own cache still held.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::image::{Chance, image_changed, image_dense, image_fresh, image_write};
use kit::loops::{Loop, Mount};
use kit::oracle::{Ack, Oracle, check_clean, pushed};
use kit::server::{Place, Server};
use kit::text;
use kit::writes::{Unflushed, Writes};
use slipway_lab::{Base, Guest, GuestSpec, Root, Share, packages_unpack};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const MIB: usize = 1 << 20;

/// A guest that sees a folder and has a disk of so many bytes whose writes are recorded.
fn guest_new(folder: &Path, disk: usize, log: usize) -> Guest {
    let mut spec = GuestSpec::new(Root::Host).with_modules(&["dm-log-writes", "loop", "ext4"]);
    spec.memory_mib = 2048;
    spec.layers.push(packages_unpack(&["dmsetup"], Base::Host).unwrap());
    spec.shares.push(Share { host: folder.into(), guest: "/srv/images".into(), writable: false });
    let guest = Guest::boot(&spec).unwrap();
    let program = env!("CARGO_BIN_EXE_slipway");
    guest.ok(&format!(
        "ip link set lo up
mkdir -p /run/s /run/disks; ln -s {program} /run/slipway
mount -t tmpfs -o size=90% disks /run/disks
cat > /run/env <<'END'
export SLIPWAY_URL=http://127.0.0.1:7080 SLIPWAY_MIN_FREE_BYTES=1048576 SLIPWAY_MIN_FREE_PERCENT=0 DM_DISABLE_UDEV=1 HOME=/run/home
[ ! -f /run/s/admin.token ] || export SLIPWAY_TOKEN=$(cat /run/s/admin.token)
END
truncate -s {disk} /run/disks/disk; truncate -s {log} /run/disks/log
losetup /dev/loop0 /run/disks/disk; losetup /dev/loop1 /run/disks/log
. /run/env; echo '0 {sectors} log-writes /dev/loop0 /dev/loop1' | dmsetup create disk",
        sectors = disk / 512
    ));
    guest
}

const SERVE: &str = ". /run/env
/run/slipway serve --data /run/s/data --listen 127.0.0.1:7080 --admin-token-file /run/s/admin.token >/run/log 2>&1 &
n=0; until wget -q -O /dev/null http://127.0.0.1:7080/readyz; do n=$((n+1)); [ $n -lt 100 ] || { cat /run/log; exit 1; }; sleep 0.3; done
";

/// Ends the recording and gives it.
fn log_take(guest: &Guest) -> Writes {
    guest.ok(
        ". /run/env; dmsetup remove --retry disk; losetup -d /dev/loop1; cp --sparse=always /run/disks/log /lab/log",
    );
    Writes::read(&guest.folder().join("log"))
}

/// A place for bytes of the network and of decoded frames while a flash is on: four connections and the queue behind them.
const IN_FLIGHT: u64 = 16 << 20;

#[test]
#[ignore = "needs root"]
fn root_a_flash_goes_on_after_a_power_cut_with_what_was_flushed() {
    slipway_lab::once_more(root_a_flash_goes_on_after_a_power_cut_with_what_was_flushed_once);
}

fn root_a_flash_goes_on_after_a_power_cut_with_what_was_flushed_once() {
    const LEN: usize = 192 * MIB;
    let folder = tempfile::tempdir().unwrap();
    let image = image_dense(31, LEN);
    let source = folder.path().join("image");
    image_write(&source, &image);
    let guest = guest_new(folder.path(), LEN, LEN + 64 * MIB);
    guest.ok(SERVE);
    let flash = ". /run/env; /run/slipway push /srv/images/image me/os -q && /run/slipway flash me/os:0 /dev/mapper/disk --yes -o json";
    let said = guest.begin(flash).unwrap().finish(Duration::from_secs(240)).unwrap();
    assert_eq!(said.code, 0, "{}", said.stderr);
    let writes = log_take(&guest);
    drop(guest);

    // The same bytes from a server here; the disks after the cuts are files.
    let server = Server::start(&Place::new(&folder.path().join("server")));
    let client = server.admin();
    client.ok(&["push", text(&source), "me/os"]);
    let disk = folder.path().join("disk");
    let mut chance = Chance::new(kit::seed("power_cut"));
    let flushes: Vec<usize> =
        (0..writes.all.len()).filter(|n| writes.all[*n].flushes && writes.written_before(*n) > 0).collect();
    assert!(flushes.len() >= 3, "{LEN} bytes were flushed {} times", flushes.len());
    // Just before a flush there is most to lose.
    let mut cuts = vec![flushes[0], flushes[flushes.len() / 2]];
    cuts.extend((0..if kit::all() { 12 } else { 3 }).map(|_| 1 + chance.below(writes.all.len())));
    for (number, cut) in cuts.into_iter().enumerate() {
        let unflushed = [Unflushed::Lost, Unflushed::SomeOfThem][number % 2];
        File::create(&disk).unwrap().set_len(LEN as u64).unwrap();
        writes.replay(&disk, cut, unflushed, &mut chance);
        let before = writes.written_before(cut);
        let what = format!("cut before write {cut} of {}, {before} bytes written, {unflushed:?}", writes.all.len());
        let left = std::fs::read(&disk).unwrap();
        assert!(left[..8192].iter().all(|byte| *byte == 0) || left == image, "half a system: {what}");
        let again = client.json(&["flash", "me/os:0", text(&disk), "--yes"]);
        assert!(std::fs::read(&disk).unwrap() == image, "the flash after it gave other bytes: {what}");
        let fetched = again["fetched_bytes"].as_u64().unwrap();
        let twice = (fetched + before).saturating_sub(LEN as u64);
        println!("{what}: {fetched} bytes fetched, {twice} of them again");
        assert!(twice <= (64 << 20) + IN_FLIGHT, "{twice} bytes were fetched again: {what}");
    }
}

#[test]
#[ignore = "needs root"]
fn root_a_power_cut_in_the_middle_of_pushes_loses_no_version() {
    slipway_lab::once_more(root_a_power_cut_in_the_middle_of_pushes_loses_no_version_once);
}

fn root_a_power_cut_in_the_middle_of_pushes_loses_no_version_once() {
    const DISK: usize = 160 * MIB;
    const VERSIONS: usize = 6;
    let folder = tempfile::tempdir().unwrap();
    let mut images = Vec::new();
    for (number, name) in ["a", "b"].into_iter().enumerate() {
        let mut bytes = image_fresh(number as u64 + 41, 3 * MIB);
        for version in 0..VERSIONS {
            image_write(&folder.path().join(format!("{name}.{version}")), &bytes);
            images.push((name, version, Arc::new(bytes.clone())));
            bytes = image_changed(&bytes, version as u64 + 1);
        }
    }
    let guest = guest_new(folder.path(), DISK, 3 * DISK);
    guest.ok(". /run/env; mke2fs -q -t ext4 -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 /dev/mapper/disk; mount -t ext4 /dev/mapper/disk /run/s");
    // A push that was answered is marked in the log; whatever is cut after the mark must keep it.
    guest.ok(&format!(
        "{SERVE}. /run/env
some() {{ for n in $(seq 0 {last}); do /run/slipway push /srv/images/$1.$n me/$1 -o json >/lab/$1.$n.json && dmsetup message disk 0 mark $1.$n || exit 1; done; }}
some a & one=$!; some b & two=$!; wait $one && wait $two && sync && pkill -9 -f 'slipway serve'
n=0; until umount /run/s; do n=$((n+1)); [ $n -lt 50 ] || exit 1; sleep 0.1; done",
        last = VERSIONS - 1
    ));
    let writes = log_take(&guest);
    let acks: Vec<Ack> = images
        .iter()
        .map(|(name, version, bytes)| {
            let said = std::fs::read_to_string(guest.folder().join(format!("{name}.{version}.json"))).unwrap();
            let (number, root) = pushed(&serde_json::from_str(&said).unwrap());
            Ack { image: format!("me/{name}"), number, root, bytes: bytes.clone() }
        })
        .collect();
    drop(guest);

    let marks: Vec<usize> =
        (0..writes.all.len()).filter(|n| writes.all[*n].mark.as_ref().is_some_and(|mark| mark.contains('.'))).collect();
    assert_eq!(marks.len(), 2 * VERSIONS, "not every push is in the log");
    let mut chance = Chance::new(kit::seed("power_cut_pushes"));
    let disk = folder.path().join("disk");
    // Right after an answer, when least has been flushed since, and at random.
    let mut cuts = vec![marks[0] + 1, marks[VERSIONS] + 1];
    let span = writes.all.len() - marks[0];
    cuts.extend((0..if kit::all() { 20 } else { 3 }).map(|_| marks[0] + 1 + chance.below(span - 1)));
    for (number, cut) in cuts.into_iter().enumerate() {
        let unflushed = [Unflushed::Lost, Unflushed::SomeOfThem][number % 2];
        File::create(&disk).unwrap().set_len(DISK as u64).unwrap();
        writes.replay(&disk, cut, unflushed, &mut chance);
        let oracle = Oracle::default();
        for mark in marks.iter().filter(|mark| **mark < cut) {
            let mark = writes.all[*mark].mark.as_deref().unwrap();
            let place = images.iter().position(|(name, version, _)| format!("{name}.{version}") == mark).unwrap();
            oracle.replace(&acks[place]);
        }
        let device = Loop::of(&disk, 512);
        let mount = Mount::new(&["-t", "ext4", text(&device.device)], &folder.path().join("mounted"));
        let server = Server::start(&Place::new(&mount.at));
        let client = server.admin();
        check_clean(&client);
        let read = oracle.everything_reads(&client, folder.path());
        println!(
            "cut before write {cut} of {}, {unflushed:?}: {} answered, {read:?}",
            writes.all.len(),
            oracle.standing().len()
        );
        let (_, status) = server.stop();
        assert!(status.success(), "the server ended with {status}");
        drop((mount, device));
    }
}
