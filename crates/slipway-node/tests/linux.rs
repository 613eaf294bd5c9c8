//! The drivers against the kernel of this machine, in a mount namespace of the test's own.
#![allow(clippy::unwrap_used, reason = "a test")]

use slipway_api::node::{Attach, Holder, Mount};
use slipway_lab::census::{CensusGuard, Scope};
use slipway_node::{Draft, Linux, Node, NodeConfig, Phase, Refusal, Type};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// Runs the rest of a test in a mount namespace of its own: true there.
fn inside(test: &str) -> bool {
    if std::env::var_os("SLIPWAY_TEST_INSIDE").is_some() {
        return true;
    }
    let done = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", test])
        .env("SLIPWAY_TEST_INSIDE", "1")
        .status()
        .unwrap();
    assert!(done.success());
    false
}

fn tool(program: &str, args: &[&str]) {
    let said = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(said.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&said.stderr));
}

struct Lab {
    node: Arc<Node<Linux>>,
    linux: Linux,
    census: Option<CensusGuard>,
    top: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        let (node, linux) = Self::open(top.path());
        let [run, mounts] = ["run", "run/mounts"].map(|dir| top.path().join(dir));
        let census = Some(CensusGuard::new(Scope::below(top.path()).files_in(&run).files_in(&mounts)));
        Self { node, linux, census, top }
    }

    fn open(top: &Path) -> (Arc<Node<Linux>>, Linux) {
        let (run, state) = (top.join("run"), top.join("state"));
        let linux = Linux::open(&run, &state).unwrap();
        (Node::open(linux.clone(), NodeConfig::default(), &run, &state, "this boot").unwrap(), linux)
    }

    /// The service dies without a word, and another one begins.
    fn restart(&mut self) {
        (self.node, self.linux) = Self::open(self.top.path());
    }

    fn at(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    /// A file system image with a file `hello` in it.
    fn image(&self, kind: &str) -> String {
        let (tree, image) = (self.at("tree"), self.at(&format!("{kind}.img")));
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(tree.join("hello"), kind).unwrap();
        let (tree, to) = (tree.display().to_string(), image.display().to_string());
        match kind {
            "squashfs" => tool("mksquashfs", &[&tree, &to, "-quiet", "-noappend"]),
            "erofs" => tool("mkfs.erofs", &[&to, &tree]),
            "ext4" => {
                fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
                tool("mke2fs", &["-q", "-t", "ext4", "-d", &tree, &to]);
            }
            "btrfs" => {
                fs::File::create(&image).unwrap().set_len(128 << 20).unwrap();
                tool("mkfs.btrfs", &["-q", "--rootdir", &tree, &to]);
            }
            _ => {
                fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
                tool("mkfs.xfs", &["-q", &to]);
            }
        }
        to
    }

    fn mount(&self, json: &str) -> Result<u64, Refusal> {
        self.node.create(Draft::mount(serde_json::from_str::<Mount>(json).unwrap())?, 0)
    }

    fn attach(&self, json: &str) -> Result<u64, Refusal> {
        self.node.create(Draft::attach(serde_json::from_str::<Attach>(json).unwrap())?, 0)
    }

    fn place(&self, id: u64) -> PathBuf {
        self.node.read(|table| table.get(id).unwrap().proof.clone().unwrap().mountpoint.into())
    }

    fn device(&self, id: u64) -> String {
        self.node.read(|table| table.get(id).unwrap().proof.clone().unwrap().device)
    }

    /// Nothing of ours is left, and nobody else's is missing.
    fn census(&self) {
        self.census.iter().for_each(CensusGuard::check);
        assert_eq!(self.node.read(|table| table.iter().count()), 0);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.census.take());
        // The directory stays as long as it is a mount, and that as long as the journal is open in it.
        let _ = Command::new("umount").arg("--lazy").arg(self.at("run")).status();
    }
}

fn on_loop(image: &str, kind: &str) -> String {
    let attach = format!(r#"{{"kind":"loopback","loopback":{{"path":"{image}","base":"root"}}}}"#);
    format!(r#"{{"kind":"attach","attach":{{"fs_type":"{kind}","attach":{attach}}}}}"#)
}

#[test]
#[ignore = "needs root"]
fn root_file_systems_on_loop_devices() {
    if !inside("root_file_systems_on_loop_devices") {
        return;
    }
    let lab = Lab::new();
    for kind in ["ext4", "squashfs", "erofs", "btrfs", "xfs"] {
        let image = lab.image(kind);
        let id = lab.mount(&on_loop(&image, kind)).unwrap();
        if kind != "xfs" {
            assert_eq!(fs::read_to_string(lab.place(id).join("hello")).unwrap(), kind);
        }
        let writes = fs::write(lab.place(id).join("more"), "more").is_ok();
        assert_eq!(writes, !["squashfs", "erofs"].contains(&kind), "{kind}");
        lab.node.delete(id, Type::Mount, false).unwrap();
        lab.census();
    }
    // What the file system says is passed on, and nothing is left of it.
    let image = lab.image("ext4");
    let refusal = lab.mount(&on_loop(&image, "squashfs")).unwrap_err();
    assert_eq!(refusal.status, 500);
    let error = refusal.problem.error.unwrap();
    assert_eq!((error.step.as_str(), error.errno.as_deref()), ("mount", Some("EINVAL")));
    assert_eq!(lab.mount(&on_loop(&image, "nonsense")).unwrap_err().status, 400);
    lab.census();
}

#[test]
#[ignore = "needs root"]
fn root_overlays_binds_and_what_they_stand_on() {
    if !inside("root_overlays_binds_and_what_they_stand_on") {
        return;
    }
    let lab = Lab::new();
    let image = lab.image("squashfs");
    // An image in a tree: the deep chain.
    let outer = lab.at("outer");
    fs::create_dir(&outer).unwrap();
    fs::copy(&image, outer.join("inner.img")).unwrap();
    let bind = format!(r#"{{"kind":"bind","bind":{{"path":"{}","base":"root","ro":true}}}}"#, outer.display());
    let attach = format!(r#"{{"kind":"loopback","loopback":{{"path":"/inner.img","base":"mount","mount":{bind}}}}}"#);
    let lower = format!(r#"{{"kind":"attach","attach":{{"fs_type":"squashfs","attach":{attach}}}}}"#);
    for extra in ["", r#","size":1048576"#, r#","persist":"mine""#, r#","ro":true"#] {
        let json = format!(r#"{{"kind":"overlay","overlay":{{"lower":[{lower}]{extra}}}}}"#);
        let id = lab.mount(&json).unwrap();
        let at = lab.place(id);
        assert_eq!(fs::read_to_string(at.join("hello")).unwrap(), "squashfs");
        let wrote = fs::write(at.join("etc/new"), vec![7; 900_000]);
        assert_eq!(wrote.is_ok(), !extra.contains("ro"), "{extra}");
        if extra.contains("size") {
            assert!(fs::write(at.join("etc/more"), vec![7; 900_000]).is_err(), "there is room for one MiB only");
        }
        assert!(fs::write(lab.place(id - 3).join("x"), "x").is_err(), "a ro bind is ro");
        lab.node.delete(id, Type::Mount, false).unwrap();
        lab.census();
    }
    // What was kept is there again, under its name only.
    let again = |name: &str| {
        let json = format!(r#"{{"kind":"overlay","overlay":{{"lower":[{lower}],"persist":"{name}"}}}}"#);
        let id = lab.mount(&json).unwrap();
        let there = lab.place(id).join("etc/new").exists();
        lab.node.delete(id, Type::Mount, false).unwrap();
        there
    };
    assert!(again("mine") && !again("other"));
    for bad in ["../x", ".x", "a/b"] {
        let json = format!(r#"{{"kind":"overlay","overlay":{{"lower":[{lower}],"persist":"{bad}"}}}}"#);
        assert_eq!(lab.mount(&json).unwrap_err().status, 400, "{bad}");
    }
    lab.census();
}

#[test]
#[ignore = "needs root"]
fn root_no_path_leaves_its_mount() {
    if !inside("root_no_path_leaves_its_mount") {
        return;
    }
    let lab = Lab::new();
    let tree = lab.at("jail");
    fs::create_dir_all(tree.join("dir")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", tree.join("link")).unwrap();
    std::os::unix::fs::symlink("../../../../../../etc", tree.join("up")).unwrap();
    let jail =
        lab.mount(&format!(r#"{{"kind":"bind","bind":{{"path":"{}","base":"root"}}}}"#, tree.display())).unwrap();
    for path in
        ["/link", "/../etc/passwd", "/up/passwd", "../../../../../../../etc/passwd", "/proc/self/root/etc/passwd"]
    {
        let json =
            format!(r#"{{"kind":"loopback","loopback":{{"path":"{path}","base":"mount","mount":{{"id":{jail}}}}}}}"#);
        assert_eq!(lab.attach(&json).unwrap_err().status, 400, "{path}");
        let json = format!(r#"{{"kind":"bind","bind":{{"path":"{path}","base":"mount","mount":{{"id":{jail}}}}}}}"#);
        assert_eq!(lab.mount(&json).unwrap_err().status, 400, "{path}");
    }
    for (path, status) in [("/nowhere", 400), ("/dir", 400)] {
        let json =
            format!(r#"{{"kind":"loopback","loopback":{{"path":"{path}","base":"mount","mount":{{"id":{jail}}}}}}}"#);
        assert_eq!(lab.attach(&json).unwrap_err().status, status, "{path}");
    }
    lab.node.delete(jail, Type::Mount, false).unwrap();
    lab.census();
}

#[test]
#[ignore = "needs root"]
fn root_what_is_busy_stays_and_says_by_whom() {
    if !inside("root_what_is_busy_stays_and_says_by_whom") {
        return;
    }
    let lab = Lab::new();
    let image = lab.image("ext4");
    let id = lab.mount(&on_loop(&image, "ext4")).unwrap();
    let open = fs::File::open(lab.place(id).join("hello")).unwrap();
    let refusal = lab.node.delete(id, Type::Mount, true).unwrap_err();
    assert_eq!((refusal.status, refusal.problem.message.as_str()), (409, "object is busy"));
    let me = |holder: &Holder| matches!(holder, Holder::Process { pid, .. } if *pid == std::process::id());
    assert!(refusal.problem.holders.iter().any(me), "{:?}", refusal.problem.holders);
    assert!(lab.place(id).join("hello").exists());
    drop(open);
    // A device that somebody else has mounted is not taken, and not marked to go later either.
    let elsewhere = lab.at("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    lab.node.delete(id, Type::Mount, false).unwrap();
    let device =
        lab.attach(&format!(r#"{{"kind":"loopback","loopback":{{"path":"{image}","base":"root"}}}}"#)).unwrap();
    let (name, at) = (lab.device(device), elsewhere.display().to_string());
    tool("mount", &["-o", "ro", &name, &at]);
    let refusal = lab.node.delete(device, Type::Attach, true).unwrap_err();
    assert_eq!(refusal.status, 409);
    let mounted = |holder: &Holder| matches!(holder, Holder::Mount { path, .. } if *path == at);
    assert!(refusal.problem.holders.iter().any(mounted), "{:?}", refusal.problem.holders);
    tool("umount", &[&at]);
    // The same with a descriptor that claims nothing.
    let open = fs::File::open(&name).unwrap();
    assert_eq!(lab.node.delete(device, Type::Attach, false).unwrap_err().status, 409);
    drop(open);
    assert!(fs::read(format!("/sys/block/{}/loop/backing_file", name.trim_start_matches("/dev/"))).is_ok());
    lab.node.delete(device, Type::Attach, false).unwrap();
    lab.census();
}

#[test]
#[ignore = "needs root"]
fn root_many_at_once_and_a_restart() {
    if !inside("root_many_at_once_and_a_restart") {
        return;
    }
    let mut lab = Lab::new();
    let image = lab.image("squashfs");
    let attach = format!(r#"{{"kind":"loopback","loopback":{{"path":"{image}","base":"root","ro":true}}}}"#);
    let ids: Vec<u64> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..50).map(|_| scope.spawn(|| lab.attach(&attach).unwrap())).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let mut devices: Vec<String> = ids.iter().map(|id| lab.device(*id)).collect();
    devices.sort();
    devices.dedup();
    assert_eq!(devices.len(), 50);
    let top =
        lab.mount(&format!(r#"{{"kind":"overlay","overlay":{{"lower":[{}]}}}}"#, on_loop(&image, "squashfs"))).unwrap();
    // One is taken away from outside: that is said, and nothing else suffers.
    tool("losetup", &["-d", &lab.device(ids[0])]);
    lab.restart();
    lab.node.read(|table| {
        for entry in table.iter() {
            assert_eq!(matches!(entry.phase, Phase::Lost(_)), entry.id == ids[0], "{entry:?}");
        }
    });
    assert_eq!(fs::read_to_string(lab.place(top).join("hello")).unwrap(), "squashfs");
    lab.node.delete(top, Type::Mount, false).unwrap();
    for id in ids {
        lab.node.delete(id, Type::Attach, false).unwrap();
    }
    lab.census();
}
