//! Places where a test has the process die: before and after each change of the kernel and of our files, so that what a start finds
//! afterwards is what a crash can leave.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

const VARIABLE: &str = "SLIPWAY_NODE_CRASH_AT";

/// Every crash point, by file. Those that begin with `shim` are passed by a container's shim, which inherits the variable; the others by the
/// service. Those that begin with `nbd`, `exports`, `nfs` or `uri` are passed only for objects of these kinds.
pub const CRASH_POINTS: &[&str] = &[
    "journal.intend.before",
    "journal.intend.run",
    "journal.intend.state",
    "journal.intend.after",
    "journal.note.before",
    "journal.note.after",
    "journal.forget.before",
    "journal.forget.run",
    "journal.forget.after",
    "journal.anew.before",
    "journal.anew.written",
    "journal.anew.after",
    "linux.folder.before",
    "linux.folder.after",
    "linux.private.before",
    "linux.private.bound",
    "linux.private.after",
    "loops.configure.before",
    "loops.configure.after",
    "loops.clear.before",
    "loops.clear.after",
    "filesystem.create.before",
    "filesystem.create.after",
    "filesystem.mount.after",
    "bind.clone.after",
    "bind.read_only.after",
    "mountpoint.prepare.before",
    "mountpoint.prepare.after",
    "mountpoint.put.before",
    "mountpoint.put.after",
    "mountpoint.unmount.before",
    "mountpoint.unmount.after",
    "mountpoint.remove.before",
    "mountpoint.remove.after",
    "overlay.tmpfs.before",
    "overlay.tmpfs.after",
    "overlay.upper.before",
    "overlay.upper.after",
    "overlay.mount.before",
    "overlay.mount.after",
    "overlay.tmpfs_unmount.before",
    "overlay.tmpfs_unmount.after",
    "overlay.dirs_remove.before",
    "overlay.dirs_remove.after",
    "iscsi.link.after",
    "iscsi.login.after",
    "iscsi.scan.after",
    "iscsi.remove.before",
    "iscsi.remove.after",
    "iscsi.logout.after",
    "iscsi.unlink.after",
    "rbd.map.before",
    "rbd.map.after",
    "rbd.unmap.before",
    "rbd.unmap.after",
    "nbd.record.after",
    "nbd.connect.before",
    "nbd.connect.after",
    "nbd.disconnect.before",
    "nbd.disconnect.after",
    "nbd.forget.after",
    "exports.folder.after",
    "exports.stop.before",
    "exports.stop.ended",
    "exports.stop.after",
    "exports.spawn.before",
    "exports.spawn.after",
    "exports.status.after",
    "exports.ready.after",
    "nfs.asked",
    "nfs.mounted",
    "nfs.undo.before",
    "nfs.undo.after",
    "uri.asked",
    "uri.tree.unpacked",
    "uri.tree.checked",
    "uri.image.checked",
    "uri.image.device.after",
    "uri.image.mounted",
    "uri.undo.after",
    "cgroup.make.before",
    "cgroup.make.after",
    "cgroup.limits.after",
    "cgroup.kill.before",
    "cgroup.kill.after",
    "cgroup.freeze.before",
    "cgroup.freeze.after",
    "cgroup.remove.before",
    "cgroup.shim_remove.after",
    "cgroup.remove.after",
    "runtime.dir.before",
    "runtime.dir.after",
    "runtime.begin.after",
    "runtime.spec.after",
    "runtime.spawn.before",
    "runtime.spawn.after",
    "runtime.start.after",
    "runtime.signal.before",
    "runtime.signal.after",
    "runtime.remove.before",
    "runtime.remove.after",
    "files.write.before",
    "files.write.written",
    "files.write.after",
    "record.put.before",
    "record.put.written",
    "record.put.after",
    "record.forget.before",
    "record.forget.after",
    "shim.begin",
    "shim.log.after",
    "shim.group.after",
    "shim.fork.before",
    "shim.fork.after",
    "shim.exec.after",
    "shim.status.before",
    "shim.status.after",
    "shim.started",
    "shim.ended",
    "shim.exit.before",
    "shim.exit.after",
];

const UNKNOWN: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;
static CRASH: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Aborts the process when the environment says `SLIPWAY_NODE_CRASH_AT=name` (first pass) or `SLIPWAY_NODE_CRASH_AT=name:n` (the n-th,
/// counted from 1). Otherwise one relaxed load.
pub fn crash_point(name: &'static str) {
    if CRASH.load(Ordering::Relaxed) != OFF {
        crash_point_slow(name);
    }
}

#[cold]
fn crash_point_slow(name: &'static str) {
    static PLAN: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSES: OnceLock<Mutex<HashMap<&'static str, u64>>> = OnceLock::new();
    let plan = PLAN.get_or_init(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let (name, n) = match text.split_once(':') {
            Some((name, n)) => (name, n.parse().ok()?),
            None => (text.as_str(), 1),
        };
        Some((name.to_owned(), n))
    });
    let Some((wanted, n)) = plan else {
        CRASH.store(OFF, Ordering::Relaxed);
        return;
    };
    CRASH.store(ON, Ordering::Relaxed);
    debug_assert!(CRASH_POINTS.contains(&name), "{name} is not in CRASH_POINTS");
    if wanted != name {
        return;
    }
    let passes = PASSES.get_or_init(Default::default);
    let mut passes = passes.lock().unwrap_or_else(PoisonError::into_inner);
    let passed = passes.entry(name).or_default();
    *passed += 1;
    if *passed == *n {
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::CRASH_POINTS;
    use std::path::Path;

    fn points_of(dir: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                points_of(&path, found);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let calls = text.split("crash_point(\"").skip(1).filter_map(|rest| rest.split('"').next());
            found.extend(calls.filter(|_| !path.ends_with("crash.rs")).map(str::to_owned));
        }
    }

    #[test]
    fn the_list_has_every_point_of_the_source_and_no_other() {
        let mut found = Vec::new();
        points_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        found.sort();
        found.dedup();
        let mut listed = CRASH_POINTS.to_vec();
        listed.sort_unstable();
        assert_eq!(found, listed);
    }
}
