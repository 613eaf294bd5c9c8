//! What the kernel lists of devices, mounts, groups and keys.

use super::mark::loop_name;
use super::{Scope, Thing};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// How many folders deep files and groups are looked for.
const DEPTH: usize = 12;

pub(super) fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The names in a folder; none if there is no such folder.
pub(super) fn names(folder: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The processes that there are.
pub(super) fn pids() -> Vec<u32> {
    names("/proc").iter().filter_map(|name| name.parse().ok()).collect()
}

/// Mounts in every mount namespace that a process is in. Gives the mount points of our own namespace.
pub(super) fn mounts(scope: &Scope, things: &mut BTreeSet<Thing>) -> BTreeSet<PathBuf> {
    let own = fs::read_link("/proc/thread-self/ns/mnt").unwrap_or_default();
    let mut lists: BTreeMap<PathBuf, String> = BTreeMap::new();
    let read = |pid: &str| Some((fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()?, format!("/proc/{pid}/mountinfo")));
    for (namespace, list) in
        std::iter::once("thread-self".to_owned()).chain(pids().iter().map(u32::to_string)).filter_map(|pid| read(&pid))
    {
        if !lists.contains_key(&namespace)
            && let Ok(text) = fs::read(list)
        {
            lists.insert(namespace, String::from_utf8_lossy(&text).into_owned());
        }
    }
    let mut here = BTreeSet::new();
    for (namespace, list) in lists {
        let mut stacked: BTreeMap<&str, usize> = BTreeMap::new();
        for line in list.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let Some(dash) = words.iter().position(|word| *word == "-") else { continue };
            let (Some(root), Some(at), Some(kind), Some(source)) =
                (words.get(3), words.get(4), words.get(dash + 1), words.get(dash + 2))
            else {
                continue;
            };
            if namespace == own {
                here.insert(PathBuf::from(at.replace("\\040", " ")));
            }
            if scope.has(&[root, at, source]) {
                let layer = stacked.entry(at).or_default();
                *layer += 1;
                let layer = if *layer > 1 { format!(" (number {layer} there)") } else { String::new() };
                let name = format!("{at}{layer}");
                let on = format!("{kind} of {source} {root} in {}", namespace.display());
                things.insert(Thing { kind: "mount", name, on });
            }
        }
    }
    here
}

/// Loop devices in use: their file, and the name that they were given.
pub(super) fn loops(scope: &Scope, things: &mut BTreeSet<Thing>) {
    for name in names("/sys/block").into_iter().filter(|name| name.starts_with("loop")) {
        let file = text(format!("/sys/block/{name}/loop/backing_file"));
        if file.is_empty() || !scope.has(&[&file]) {
            continue;
        }
        let device = Path::new("/dev").join(&name);
        let mark = loop_name(&device).unwrap_or_default();
        things.insert(Thing { kind: "loop device", name, on: format!("{file}, named '{mark}'") });
    }
}

/// Devices that stand on a network, and network namespaces.
pub(super) fn networks(scope: &Scope, things: &mut BTreeSet<Thing>) {
    let mut add = |kind: &'static str, name: String, on: String| {
        if scope.has(&[&name, &on]) {
            things.insert(Thing { kind, name, on });
        }
    };
    for name in names("/sys/bus/rbd/devices") {
        let of = |file: &str| text(format!("/sys/bus/rbd/devices/{name}/{file}"));
        // Never `config_info`: it may have a secret in it.
        let on = format!("{}/{}@{}", of("pool"), of("name"), of("current_snap"));
        add("rbd device", name, on);
    }
    for name in names("/sys/class/iscsi_session") {
        let on = text(format!("/sys/class/iscsi_session/{name}/targetname"));
        add("iSCSI session", name, on);
    }
    for name in names("/sys/class/scsi_disk") {
        let of = |file: &str| text(format!("/sys/class/scsi_disk/{name}/device/{file}"));
        add("SCSI disk", name.clone(), format!("{} {}", of("vendor"), of("model")));
    }
    for name in names("/sys/block").into_iter().filter(|name| name.starts_with("nbd")) {
        let pid = text(format!("/sys/block/{name}/pid"));
        if !pid.is_empty() {
            add("nbd device", name.clone(), text(format!("/sys/block/{name}/backend")));
        }
    }
    for name in names("/run/netns") {
        add("network namespace", name, "named".to_owned());
    }
    // One without a name is there as long as a process in it; those are only of interest where nobody else works.
    if scope.words.is_empty() {
        let links = pids().into_iter().filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok());
        for link in links.collect::<BTreeSet<_>>() {
            add("network namespace", link.display().to_string(), "of a process".to_owned());
        }
    }
}

/// Control groups of containers, in each hierarchy: `slipway/SERVICE/NUMBER` and below.
pub(super) fn groups(scope: &Scope, things: &mut BTreeSet<Thing>) {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = std::iter::once(top.to_owned()).chain(names(top).into_iter().map(|name| top.join(name)));
    for hierarchy in hierarchies {
        for service in names(hierarchy.join("slipway")) {
            let service = hierarchy.join("slipway").join(service);
            let mut next: Vec<(PathBuf, usize)> = folders(&service).into_iter().map(|path| (path, 0)).collect();
            while let Some((path, depth)) = next.pop() {
                if depth < DEPTH {
                    next.extend(folders(&path).into_iter().map(|path| (path, depth + 1)));
                }
                let name = path.display().to_string();
                if scope.has(&[&name]) {
                    let on = text(path.join("cgroup.procs")).replace('\n', " ");
                    things.insert(Thing { kind: "control group", name, on: format!("processes {on}") });
                }
            }
        }
    }
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Keys that are no rings, by their descriptions; see proc-keys(5). What a key is, is never read.
pub(super) fn keys(scope: &Scope, things: &mut BTreeSet<Thing>) {
    for line in text("/proc/keys").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some(serial), Some(kind), Some(description)) = (words.first(), words.get(7), words.get(8)) else {
            continue;
        };
        if *kind != "keyring" && scope.has(&[description]) {
            things.insert(Thing { kind: "key", name: (*serial).to_owned(), on: format!("{kind} {description}") });
        }
    }
}

/// Files and folders, without those in something that is mounted.
pub(super) fn files(scope: &Scope, mounts: &BTreeSet<PathBuf>, things: &mut BTreeSet<Thing>) {
    for top in &scope.folders {
        let mut next: Vec<(PathBuf, usize)> = vec![(top.clone(), 0)];
        while let Some((folder, depth)) = next.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_folder && depth < DEPTH && !mounts.contains(&path) {
                    next.push((path.clone(), depth + 1));
                }
                let kind = if is_folder { "folder" } else { "file" };
                things.insert(Thing { kind, name: path.display().to_string(), on: top.display().to_string() });
            }
        }
    }
}
