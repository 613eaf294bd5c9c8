//! The same in a guest, whose control groups are of version 2, and where nobody else works: so the whole machine is looked at afterwards.

use super::{ALL, HERE, INSIDE, POINTS};
use slipway_lab::{Guest, GuestSpec, Root, once_more};
use std::time::Duration;

/// What version 2 does in another way than version 1, and what it does with devices and mounts in one example each.
const SOME: &str = "nowhere,cgroup.,runtime.start,runtime.spawn.after,runtime.signal.before,shim.fork.after,shim.ended,\
                    loops.configure.after,overlay.mount.after,mountpoint.unmount.after";
/// What is in a guest that nobody has begun anything in.
const SEEN: &str = "cat /proc/self/mountinfo; losetup -l; find /sys/fs/cgroup -type d; ls /dev/shm; ps -e -o args= | grep '[s]lipway-crash' || true";

pub(crate) fn some() {
    once_more(|| crashes(&format!("{POINTS}={SOME}"), Duration::from_secs(240)));
}

pub(crate) fn all() {
    once_more(|| crashes(&format!("{ALL}=1"), Duration::from_secs(3600)));
}

fn crashes(which: &str, limit: Duration) {
    let modules = ["loop", "squashfs", "ext4", "overlay"];
    let guest = Guest::boot(&GuestSpec::new(Root::Host).with_modules(&modules)).unwrap();
    guest.ok("mount -t cgroup2 none /sys/fs/cgroup");
    let before = guest.ok(SEEN);
    let program = std::env::current_exe().unwrap();
    let script = format!("{INSIDE}=1 {which} exec {} --ignored {HERE}", program.display());
    let said = guest.begin(&script).unwrap().finish(limit).unwrap();
    assert!(said.code == 0 && said.stdout.contains(&format!("{HERE} ... ok")), "{}\n{}", said.stdout, said.stderr);
    print!("in a guest: {}", said.stdout.lines().filter(|line| line.contains("crashes, ")).collect::<String>());
    println!();
    assert_eq!(guest.ok(SEEN), before, "the guest is as it was");
}
