//! Power cuts and lying disks: a guest's disk that, from some moment of a flash on, keeps nothing, refuses everything, or says that it wrote
//! what it did not.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::image::{Chance, image_changed, image_dense};
use slipway_lab::{Base, Guest, GuestSpec, Root, Share, packages_unpack};
use std::time::Duration;

const LEN: usize = 24 << 20;

/// What the disk does from the moment of the cut on.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Says that it wrote, and does not: what a power cut leaves behind, and what a broken controller does.
    Lies,
    /// Refuses to write.
    ReadOnly,
    /// Refuses everything.
    Gone,
}

impl Cut {
    fn table(self, sectors: usize) -> String {
        let how = match self {
            Self::Lies => "0 600 1 drop_writes",
            Self::ReadOnly => "0 600 1 error_writes",
            Self::Gone => "0 600",
        };
        format!("0 {sectors} flakey /dev/loop0 0 {how}")
    }
}

struct Lab {
    guest: Guest,
    sectors: usize,
}

impl Lab {
    /// A server, two versions, and a disk whose power can be cut.
    fn new(folder: &std::path::Path) -> Self {
        let old = image_dense(21, LEN);
        std::fs::write(folder.join("new"), image_changed(&old, 22)).unwrap();
        std::fs::write(folder.join("old"), old).unwrap();
        let mut spec = GuestSpec::new(Root::Host).with_modules(&["dm-flakey", "loop"]);
        spec.memory_mib = 768;
        spec.layers.push(packages_unpack(&["dmsetup"], Base::Host).unwrap());
        spec.shares.push(Share { host: folder.into(), guest: "/srv/images".into(), writable: false });
        let guest = Guest::boot(&spec).unwrap();
        let program = env!("CARGO_BIN_EXE_slipway");
        guest.ok(&format!(
            "ip link set lo up
mkdir -p /run/s; ln -s {program} /run/slipway
cat > /run/env <<'END'
export SLIPWAY_URL=http://127.0.0.1:7080 SLIPWAY_MIN_FREE_BYTES=1048576 SLIPWAY_MIN_FREE_PERCENT=0 DM_DISABLE_UDEV=1 HOME=/run/home
[ ! -f /run/s/token ] || export SLIPWAY_TOKEN=$(cat /run/s/token)
END
. /run/env
/run/slipway serve --data /run/s/data --listen 127.0.0.1:7080 --admin-token-file /run/s/token >/run/s/log 2>&1 &
n=0; until wget -q -O /dev/null http://127.0.0.1:7080/readyz; do n=$((n+1)); [ $n -lt 100 ] || {{ cat /run/s/log; exit 1; }}; sleep 0.3; done
. /run/env
/run/slipway push /srv/images/old me/os
/run/slipway push /srv/images/new me/os
truncate -s {LEN} /run/disk; losetup /dev/loop0 /run/disk
echo '0 {sectors} linear /dev/loop0 0' | dmsetup create disk",
            sectors = LEN / 512
        ));
        Self { guest, sectors: LEN / 512 }
    }

    fn table(&self, table: &str) {
        self.guest.ok(&format!(
            "export DM_DISABLE_UDEV=1; echo '{table}' | dmsetup load disk; dmsetup suspend --nolockfs disk; dmsetup resume disk"
        ));
    }

    fn power_on(&self) {
        self.table(&format!("0 {} linear /dev/loop0 0", self.sectors));
        self.guest.ok("blockdev --flushbufs /dev/mapper/disk");
    }

    fn flash(&self) -> String {
        ". /run/env; /run/slipway flash me/os:1 /dev/mapper/disk --yes -o json".into()
    }

    /// What lies on the disk: `old`, `new`, `shut` (its first 8 KiB are zero), or a mixture.
    fn holds(&self) -> String {
        self.guest
            .ok("blockdev --flushbufs /dev/mapper/disk
if cmp -s /run/disk /srv/images/new; then echo new; elif cmp -s /run/disk /srv/images/old; then echo old
elif cmp -s -n 8192 /run/disk /dev/zero; then echo shut; else echo mixture; fi")
            .trim()
            .to_owned()
    }
}

#[test]
#[ignore = "needs root"]
fn root_a_flash_over_which_the_power_fails_is_never_half_a_system() {
    slipway_lab::once_more(root_a_flash_over_which_the_power_fails_is_never_half_a_system_once);
}

fn root_a_flash_over_which_the_power_fails_is_never_half_a_system_once() {
    let folder = tempfile::tempdir().unwrap();
    let lab = Lab::new(folder.path());
    let seed = kit::seed("power");
    let mut chance = Chance::new(seed);
    // How long a flash takes here when nothing happens.
    lab.guest.ok("cat /srv/images/old > /run/disk");
    let begun = std::time::Instant::now();
    lab.guest.ok(&lab.flash());
    let whole = begun.elapsed();
    assert_eq!(lab.holds(), "new");
    let mut seen = std::collections::BTreeMap::<String, u32>::new();
    for round in 0..if kit::all() { 120 } else { 9 } {
        let cut = [Cut::Lies, Cut::ReadOnly, Cut::Gone][round % 3];
        lab.guest.ok("cat /srv/images/old > /run/disk; blockdev --flushbufs /dev/mapper/disk");
        let flash = lab.guest.begin(&lab.flash()).unwrap();
        let after = Duration::from_millis(chance.below(whole.as_millis() as usize + 50) as u64);
        std::thread::sleep(after);
        lab.table(&cut.table(lab.sectors));
        // A power cut takes the program too; a broken disk does not.
        if chance.below(2) == 0 {
            lab.guest.run("pkill -9 -f 'slipway flash'").unwrap();
        }
        let ended = flash.finish(Duration::from_secs(100)).unwrap();
        lab.power_on();
        let holds = lab.holds();
        let what = format!("{cut:?} after {after:?} of {whole:?}: exit code {}, the disk holds: {holds}", ended.code);
        assert!(holds != "mixture", "{what}\n{}", ended.stderr);
        assert!(ended.code != 0 || holds == "new", "success was said: {what}");
        assert!(ended.code == 0 || !ended.stderr.is_empty() || ended.code > 128, "nothing was said: {what}");
        *seen.entry(format!("{cut:?} {} {holds}", if ended.code == 0 { "ok" } else { "failed" })).or_default() += 1;
        lab.guest.ok(&lab.flash());
        assert_eq!(lab.holds(), "new", "the flash after it: {what}");
    }
    println!("{seen:#?}");
    assert!(seen.keys().any(|key| key.contains("failed")), "no cut came in time: {seen:?}");
}
