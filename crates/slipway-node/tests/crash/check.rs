//! One crash: a session that dies, and what a new service makes of it.

use super::session::{config, groups};
use slipway_api::node::{Attach, Health, Mount};
use slipway_lab::census::{Census, Scope, Thing};
use slipway_node::{Host, Which};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long what goes a moment later may take.
const SETTLE: Duration = Duration::from_secs(5);

/// Images and a tree that sessions use; nothing writes to them but a mounted ext4, which each session gets a copy of.
pub(crate) struct Files {
    folder: tempfile::TempDir,
}

fn tool(program: &str, args: &[&str]) {
    let said = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(said.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&said.stderr));
}

impl Files {
    pub(crate) fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "run"] {
            fs::create_dir_all(at("root").join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", at("root/bin/busybox")).unwrap();
        for name in ["sh", "sleep"] {
            symlink("busybox", at("root/bin").join(name)).unwrap();
        }
        let text = |path: PathBuf| path.display().to_string();
        tool("mksquashfs", &[&text(at("root")), &text(at("image.squashfs")), "-quiet", "-noappend"]);
        fs::File::create(at("image.ext4")).unwrap().set_len(16 << 20).unwrap();
        tool("mke2fs", &["-q", "-t", "ext4", "-d", &text(at("root")), &text(at("image.ext4"))]);
        Self { folder }
    }

    /// A folder for one session. In memory where there is some: a crash of a process loses nothing there either, and nobody waits for a disk.
    fn session(&self) -> tempfile::TempDir {
        let memory = Path::new("/dev/shm");
        let mut made = tempfile::Builder::new();
        let top = made.prefix("slipway-crash.");
        let top = if memory.is_dir() { top.tempdir_in(memory) } else { top.tempdir() }.unwrap();
        let from = self.folder.path();
        for name in ["root", "image.squashfs"] {
            tool("cp", &["-a", &from.join(name).display().to_string(), &top.path().display().to_string()]);
        }
        tool(
            "cp",
            &["--sparse=always", &from.join("image.ext4").display().to_string(), &top.path().display().to_string()],
        );
        top
    }
}

/// What the session was told until it died.
#[derive(Debug, Default)]
struct Answers {
    /// Type and number of what is there, by what it was told, with a container's state if it was told.
    there: BTreeMap<(String, u64), Option<String>>,
    /// Requests under way: a thing that may be there or not.
    making: Option<String>,
    deleting: Option<(String, u64)>,
    setting: Option<u64>,
}

impl Answers {
    fn read(top: &Path) -> Self {
        let mut answers = Self::default();
        for line in fs::read_to_string(top.join("answers")).unwrap_or_default().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let id = |n: usize| words[n].parse::<u64>().unwrap();
            match words[0] {
                "make" => answers.making = Some(words[1].to_owned()),
                "delete" => answers.deleting = Some((words[1].to_owned(), id(2))),
                "set" => answers.setting = Some(id(1)),
                "made" => {
                    answers.there.insert((words[1].to_owned(), id(2)), None);
                    answers.making = None;
                }
                "deleted" => {
                    answers.there.remove(&(words[1].to_owned(), id(2)));
                    answers.deleting = None;
                }
                "is" => {
                    answers.there.insert(("container".into(), id(1)), Some(words[2].to_owned()));
                    answers.setting = None;
                }
                _ => (answers.making, answers.deleting, answers.setting) = (None, None, None),
            }
        }
        answers
    }
}

/// Runs a session that dies at a point, and looks at what is there then. Gives whether the point was passed.
pub(crate) fn crash(files: &Files, at: &str, twice: bool) -> bool {
    let top = files.session();
    let _unmounted = Unmounted(top.path());
    let victim = |word: &str, at: &str| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let child = child.arg(word).arg(top.path()).env("SLIPWAY_NODE_CRASH_AT", at);
        child.stderr(std::process::Stdio::null()).status().unwrap()
    };
    let status = victim("session", at);
    let died = status.signal() == Some(6);
    assert!(died || status.success(), "the session ended with {status}");
    let shims_die = at.starts_with("shim");
    let answers = Answers::read(top.path());
    if at.starts_with("nowhere") {
        let text = fs::read_to_string(top.path().join("answers")).unwrap();
        let refused: Vec<&str> = text.lines().filter(|line| line.starts_with("refused")).collect();
        assert_eq!(refused.len(), 1, "{text}");
    }
    if twice && died {
        // The next one dies at the same place, or comes through.
        victim("reopen", &format!("{}:1", at.split(':').next().unwrap_or_default()));
    }
    let host = Host::open(config(top.path())).unwrap();
    let settled = Instant::now();
    loop {
        // Whoever was killed in the middle is found gone a moment later.
        let wrong = differences(&host, top.path(), &answers, shims_die);
        if wrong.is_empty() {
            break;
        }
        if settled.elapsed() > SETTLE {
            let log = fs::read_to_string(top.path().join("answers")).unwrap_or_default();
            panic!("after a crash at {at}:\n  {}\nanswered until then:\n{log}", wrong.join("\n  "));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    delete_all(&host);
    drop(host);
    nothing_left(top.path(), at);
    died
}

/// Takes away what must go before the folder can, also when the test fails.
struct Unmounted<'a>(&'a Path);

impl Drop for Unmounted<'_> {
    fn drop(&mut self) {
        // Of a check that failed: whoever still runs, and the devices that nobody deletes any more.
        for thing in Census::take(&scope(self.0)).things() {
            let pid = thing.name.split(',').next().and_then(|pid| pid.parse::<i32>().ok());
            if thing.kind == "process"
                && let Some(pid) = pid
            {
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
            }
        }
        let _ = Command::new("umount").args(["--recursive", "--lazy"]).arg(self.0.join("run")).status();
        for thing in Census::take(&scope(self.0)).things().filter(|thing| thing.kind == "loop device") {
            let _ = Command::new("losetup").args(["--detach", &format!("/dev/{}", thing.name)]).status();
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join("slipway").join(groups(self.0)));
        }
    }
}

fn scope(top: &Path) -> Scope {
    let run = top.join("run");
    let scope = Scope::below(top).named(&format!("/slipway/{}/", groups(top)));
    ["mounts", "overlays", "containers"].iter().fold(scope, |scope, part| scope.files_in(&run.join(part)))
}

/// Everything of which model, kernel and answers do not say the same.
fn differences(host: &Arc<Host>, top: &Path, answers: &Answers, shims_die: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let (attaches, mounts, containers) = (host.attaches(), host.mounts(), host.containers());
    let attach_ids: BTreeMap<u64, &Attach> = attaches.iter().map(|one| (one.id, one)).collect();
    let mount_ids: BTreeMap<u64, &Mount> = mounts.iter().map(|one| (one.id, one)).collect();
    let container_ids: BTreeSet<u64> = containers.iter().map(|one| one.id).collect();
    // What was answered is there.
    for ((kind, id), state) in &answers.there {
        let deleting = answers.deleting.as_ref() == Some(&(kind.clone(), *id));
        let is_there = match kind.as_str() {
            "attach" => attach_ids.contains_key(id),
            "mount" => mount_ids.contains_key(id),
            _ => container_ids.contains(id),
        };
        if !is_there && !deleting {
            wrong.push(format!("{kind} {id} was answered and is not there"));
        }
        if let (Ok(container), Some(state)) = (host.container(&Which::Id(*id)), state)
            && ["running", "paused"].contains(&state.as_str())
            && container.state.as_str() != state
            && !deleting
            && !shims_die
            && answers.setting != Some(*id)
        {
            wrong.push(format!("container {id} was {state} and is {}", container.state.as_str()));
        }
    }
    // All that is there is well.
    let not_ready =
        attaches.iter().map(|one| (one.id, one.health)).chain(mounts.iter().map(|one| (one.id, one.health)));
    wrong.extend(
        not_ready.filter(|(_, health)| *health != Health::Ready).map(|(id, health)| format!("{id} is {health:?}")),
    );
    // What nobody was told of is not there, unless its answer was on the way.
    let told: BTreeSet<u64> = answers.there.keys().map(|(_, id)| *id).collect();
    let roots = attaches.iter().map(|one| ("attach", one.id, one.refs));
    let roots = roots.chain(mounts.iter().map(|one| ("mount", one.id, one.refs)));
    let roots = roots.chain(containers.iter().map(|one| ("container", one.id, one.refs)));
    let inner = inner_ids(&mounts, &containers);
    let untold: Vec<_> = roots.filter(|(_, id, _)| !told.contains(id) && !inner.contains(id)).collect();
    if untold.len() > usize::from(answers.making.is_some()) {
        wrong.push(format!("nobody was told of {untold:?}"));
    }
    wrong.extend(
        untold
            .iter()
            .filter(|(kind, _, _)| answers.making.as_deref() != Some(*kind))
            .map(|one| format!("nobody asked for {one:?}")),
    );
    // What the kernel has, somebody knows.
    for thing in Census::take(&scope(top)).things() {
        if !is_known(thing, top, &attach_ids, &mount_ids, &container_ids) {
            wrong.push(format!("nobody knows of {thing}"));
        }
    }
    for attach in &attaches {
        let name = attach.device_file.trim_start_matches("/dev/");
        let file = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).unwrap_or_default();
        if !file.contains(&top.display().to_string()) {
            wrong.push(format!("attach {} has no device, {name} is of '{}'", attach.id, file.trim()));
        }
    }
    let mounted = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    for mount in &mounts {
        let count = mounted.lines().filter(|line| line.split(' ').nth(4) == Some(&mount.mountpoint)).count();
        if count != 1 {
            wrong.push(format!("mount {} is mounted {count} times", mount.id));
        }
    }
    wrong
}

/// Objects that others stand on.
fn inner_ids(mounts: &[Mount], containers: &[slipway_api::node::Container]) -> BTreeSet<u64> {
    let mut inner = BTreeSet::new();
    let mut next: Vec<&Mount> = containers.iter().filter_map(|one| one.mount.as_ref()).collect();
    inner.extend(next.iter().map(|one| one.id));
    next.extend(mounts);
    while let Some(mount) = next.pop() {
        let bind = mount.bind.as_ref().and_then(|bind| bind.mount.as_deref());
        let lowers = mount.overlay.iter().flat_map(|overlay| &overlay.lower);
        for below in bind.into_iter().chain(lowers) {
            inner.insert(below.id);
            next.push(below);
        }
        inner.extend(mount.attach.as_ref().map(|block| block.attach.id));
    }
    inner
}

fn is_known(
    thing: &Thing,
    top: &Path,
    attaches: &BTreeMap<u64, &Attach>,
    mounts: &BTreeMap<u64, &Mount>,
    containers: &BTreeSet<u64>,
) -> bool {
    let run = top.join("run").display().to_string();
    // `…/run/PART/NAME…`
    let part_of = |text: &str, part: &str| -> Option<String> {
        let rest = text.split(&format!("{run}/{part}/")).nth(1)?;
        Some(rest.split(['/', ' ', ':']).next().unwrap_or_default().to_owned())
    };
    let is_mount = |name: &str| {
        name.rsplit_once('-').and_then(|(_, id)| id.parse().ok()).is_some_and(|id: u64| mounts.contains_key(&id))
    };
    let number = |name: &str| name.parse::<u64>().ok();
    match thing.kind {
        "loop device" => attaches.values().any(|attach| attach.device_file == format!("/dev/{}", thing.name)),
        // Mounts that containers have made of these are their own, in their own namespaces; they go with their processes.
        "mount" | "file" | "folder" => {
            if thing.name == run {
                return true;
            }
            let known = part_of(&thing.name, "mounts").map(|name| is_mount(&name));
            let known = known.or_else(|| {
                part_of(&thing.name, "overlays").and_then(|name| number(&name)).map(|id| mounts.contains_key(&id))
            });
            let known = known.or_else(|| {
                part_of(&thing.name, "containers").and_then(|name| number(&name)).map(|id| containers.contains(&id))
            });
            known.unwrap_or(thing.kind == "mount" && !thing.name.starts_with(&run))
        }
        "control group" => {
            let rest = thing.name.split(&format!("/slipway/{}/", groups(top))).nth(1);
            let name = rest.and_then(|rest| rest.split('/').next());
            // A container's own, or that of its shim.
            let id = name.and_then(|name| number(name.trim_end_matches(".shim")));
            id.is_some_and(|id| containers.contains(&id))
        }
        "process" => {
            let shim = part_of(&thing.on, "containers").and_then(|name| number(&name));
            let init = thing.on.split(&format!("/slipway/{}/", groups(top))).nth(1);
            let init = init.and_then(|rest| number(rest.split('/').next()?.trim()));
            shim.or(init).is_some_and(|id| containers.contains(&id))
        }
        _ => false,
    }
}

fn delete_all(host: &Arc<Host>) {
    let begun = Instant::now();
    loop {
        // What was never answered may be on its way out already: then it is gone in a moment.
        for container in host.containers() {
            let _ = host.container_delete(&Which::Id(container.id), true);
        }
        // A mount can be deleted when nothing stands on it any more; what it stood on may go with it.
        for mount in host.mounts().into_iter().rev() {
            let _ = host.mount_delete(mount.id, false);
        }
        for attach in host.attaches() {
            let _ = host.attach_delete(attach.id, false);
        }
        let left = (host.containers(), host.mounts(), host.attaches());
        if left.0.is_empty() && left.1.is_empty() && left.2.is_empty() {
            return;
        }
        assert!(begun.elapsed() < SETTLE, "what is left cannot be deleted: {left:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn nothing_left(top: &Path, at: &str) {
    let run = top.join("run").display().to_string();
    let begun = Instant::now();
    loop {
        let census = Census::take(&scope(top));
        let left: Vec<String> = census.things().filter(|thing| thing.name != run).map(Thing::to_string).collect();
        if left.is_empty() {
            break;
        }
        assert!(begun.elapsed() < SETTLE, "after a crash at {at} and deleting everything:\n  {}", left.join("\n  "));
        std::thread::sleep(Duration::from_millis(20));
    }
    // What is written to be renamed is renamed or written again, never left beside it.
    for dir in ["run", "state"] {
        let parts = fs::read_dir(top.join(dir)).unwrap().flatten().map(|entry| entry.file_name());
        let parts: Vec<_> =
            parts.filter(|name| [".new", ".part"].iter().any(|end| name.to_string_lossy().ends_with(end))).collect();
        assert!(parts.is_empty(), "after a crash at {at}: {parts:?} in {dir}");
    }
}
