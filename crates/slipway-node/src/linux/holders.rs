//! Who keeps a device or a mount busy. A look at what changes meanwhile: what cannot be read is left out.

use super::mountinfo;
use slipway_api::node::Holder;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Enough to know what to do; more is noise.
const HOLDERS_MAX: usize = 32;

/// Who has a block device mounted, open, or below another device.
pub(super) fn device_holders(device: &Path) -> Vec<Holder> {
    let Ok(facts) = fs::metadata(device) else { return Vec::new() };
    let (major, minor) = (rustix::fs::major(facts.rdev()), rustix::fs::minor(facts.rdev()));
    let number = format!("{major}:{minor}");
    let mut holders = Vec::new();
    if let Ok(above) = fs::read_dir(format!("/sys/dev/block/{number}/holders")) {
        let names = above.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        holders.extend(names.map(|name| Holder::Device { name }));
    }
    holders.extend(mounts_of(&number));
    let opened = |path: &Path| fs::metadata(path).is_ok_and(|open| open.rdev() == facts.rdev() && open.rdev() != 0);
    holders.extend(processes(opened));
    holders.truncate(HOLDERS_MAX);
    holders
}

/// Who has a disk or one of its partitions mounted, open, or below another device.
pub(super) fn disk_holders(disk: &Path) -> Vec<Holder> {
    let mut holders = device_holders(disk);
    let name = disk.file_name().unwrap_or_default();
    let parts = fs::read_dir(Path::new("/sys/block").join(name)).into_iter().flatten().flatten();
    for part in parts.filter(|entry| entry.path().join("partition").exists()) {
        holders.extend(device_holders(&disk.with_file_name(part.file_name())));
    }
    holders.truncate(HOLDERS_MAX);
    holders
}

/// Who is in a mount, has something of it open, or has mounted something below it.
pub(super) fn mount_holders(at: &Path) -> Vec<Holder> {
    let mut holders = Vec::new();
    let mounts = mountinfo::mounts().unwrap_or_default();
    let below = mounts.iter().filter(|mount| mount.path != at && mount.path.starts_with(at));
    holders.extend(below.map(|mount| Holder::Mount { path: mount.path.display().to_string(), pid: None }));
    holders.extend(processes(|path| fs::read_link(path).is_ok_and(|to| to.starts_with(at))));
    holders.truncate(HOLDERS_MAX);
    holders
}

fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Mounts of a device in every mount namespace, each namespace looked at once.
fn mounts_of(number: &str) -> Vec<Holder> {
    let own = fs::read_link("/proc/thread-self/ns/mnt").ok();
    let mut seen: BTreeSet<PathBuf> = BTreeSet::new();
    let mut holders = Vec::new();
    for pid in pids() {
        let Ok(namespace) = fs::read_link(format!("/proc/{pid}/ns/mnt")) else { continue };
        if !seen.insert(namespace.clone()) {
            continue;
        }
        let Ok(text) = fs::read(format!("/proc/{pid}/mountinfo")) else { continue };
        let mounted = mountinfo::parse(&text).into_iter().filter(|mount| mount.device == number);
        let pid = (Some(namespace) != own).then_some(pid);
        holders.extend(mounted.map(|mount| Holder::Mount { path: mount.path.display().to_string(), pid }));
    }
    holders
}

/// Processes with a descriptor, directory or root that fits.
fn processes(fits: impl Fn(&Path) -> bool) -> Vec<Holder> {
    let mut holders = Vec::new();
    for pid in pids() {
        let top = PathBuf::from(format!("/proc/{pid}"));
        let open = fs::read_dir(top.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut places = open.chain(["cwd", "root", "exe"].map(|name| top.join(name)));
        if places.any(|place| fits(&place)) {
            let command = fs::read(top.join("cmdline")).unwrap_or_default();
            let words = command.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ");
            let command = words.trim().chars().take(120).collect();
            holders.push(Holder::Process { pid, command });
        }
        if holders.len() >= HOLDERS_MAX {
            break;
        }
    }
    holders
}
