//! What a case works with: a service, files that it can use, and ways to say what was expected.

use super::http::{Answer, Client};
use serde_json::{Value, json};
use std::fmt::Display;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What a case comes to: nothing, or what was expected and what came instead.
pub(super) type Outcome = Result<(), String>;

/// How long what happens by itself may take.
pub(super) const SOON: Duration = Duration::from_secs(10);

/// Files for the cases, in a folder that the service sees under the same name.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) top: PathBuf,
}

/// What busybox is asked to be in the tree of the cases.
const APPLETS: &[&str] = &[
    "sh", "sleep", "cat", "ls", "id", "mount", "true", "false", "grep", "hostname", "dd", "stat", "touch", "env",
    "kill", "head", "wc",
];

impl Files {
    /// Makes them, unless an earlier run has left them there.
    ///
    /// # Errors
    /// When a tool is missing or the folder cannot be written.
    pub(super) fn make(top: &Path) -> Result<Self, String> {
        fs::create_dir_all(top).map_err(|why| format!("{}: {why}", top.display()))?;
        let top = top.canonicalize().map_err(|why| format!("{}: {why}", top.display()))?;
        let files = Self { top };
        files.trees().map_err(|why| format!("making files in {}: {why}", files.top.display()))?;
        let (rootfs, squashfs, ext4) = (files.at("rootfs"), files.at("rootfs.squashfs"), files.at("rootfs.ext4"));
        if !Path::new(&squashfs).exists() {
            tool("mksquashfs", &[&rootfs, &squashfs, "-quiet", "-noappend", "-no-xattrs"])?;
        }
        if !Path::new(&ext4).exists() {
            let made = fs::File::create(&ext4).and_then(|file| file.set_len(32 << 20));
            made.map_err(|why| format!("{ext4}: {why}"))?;
            tool("mke2fs", &["-q", "-t", "ext4", "-d", &rootfs, &ext4])?;
        }
        Ok(files)
    }

    fn trees(&self) -> std::io::Result<()> {
        let rootfs = self.top.join("rootfs");
        if rootfs.join("bin/busybox").exists() {
            return Ok(());
        }
        for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "run"] {
            fs::create_dir_all(rootfs.join(dir))?;
        }
        fs::set_permissions(&rootfs, fs::Permissions::from_mode(0o755))?;
        fs::copy("/bin/busybox", rootfs.join("bin/busybox"))?;
        for name in APPLETS {
            symlink("busybox", rootfs.join("bin").join(name))?;
        }
        fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n")?;
        fs::write(rootfs.join("etc/data"), "not a program\n")?;
        fs::write(rootfs.join("etc/layer"), "rootfs\n")?;
        let upper = self.top.join("upper");
        fs::create_dir_all(upper.join("etc"))?;
        fs::write(upper.join("etc/layer"), "upper\n")?;
        let jail = self.top.join("jail");
        fs::create_dir_all(jail.join("dir"))?;
        fs::File::create(jail.join("disk"))?.set_len(1 << 20)?;
        symlink("/etc/passwd", jail.join("link"))?;
        symlink("../../../../../../../../etc", jail.join("up"))?;
        symlink("loop-b", jail.join("loop-a"))?;
        symlink("loop-a", jail.join("loop-b"))?;
        // A disk with one partition of 512 KiB behind the first MiB.
        let mut sector = [0_u8; 512];
        sector[446..462].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 4, 0, 0]);
        sector[510..].copy_from_slice(&[0x55, 0xAA]);
        fs::write(self.top.join("partitions"), sector)?;
        fs::File::options().write(true).open(self.top.join("partitions"))?.set_len(2 << 20)
    }

    /// The path of one of them.
    pub(super) fn at(&self, name: &str) -> String {
        self.top.join(name).display().to_string()
    }
}

fn tool(program: &str, args: &[&str]) -> Result<(), String> {
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    let said = Command::new(program).args(args).env("PATH", path).output();
    match said {
        Ok(said) if said.status.success() => Ok(()),
        Ok(said) => Err(format!("{program}: {}", String::from_utf8_lossy(&said.stderr).trim())),
        Err(why) => Err(format!("{program}: {why}; cargo xtask test installs what is missing")),
    }
}

/// A service, and what a case may need.
#[derive(Clone, Debug)]
pub(super) struct Bench {
    pub(super) client: Client,
    pub(super) files: Files,
}

impl Bench {
    pub(super) fn get(&self, path: &str) -> Result<Answer, String> {
        self.client.ask("GET", path, None)
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Answer, String> {
        self.client.ask("POST", path, Some(body))
    }

    pub(super) fn patch(&self, path: &str) -> Result<Answer, String> {
        self.client.ask("PATCH", path, None)
    }

    pub(super) fn delete(&self, path: &str) -> Result<Answer, String> {
        self.client.ask("DELETE", path, None)
    }

    /// Makes an object, and gives it.
    pub(super) fn made(&self, path: &str, body: &Value) -> Result<Value, String> {
        let made = self.post(path, body)?.is(201)?;
        holds(made["id"].as_u64().is_some_and(|id| id > 0), || format!("POST {path}: an id from 1, got {made}"))?;
        Ok(made)
    }

    /// The only object of an id.
    pub(super) fn one(&self, path: &str, id: u64) -> Result<Value, String> {
        let list = self.get(&format!("{path}?id={id}"))?.is(200)?;
        match list.as_array().map(Vec::as_slice) {
            Some([one]) => Ok(one.clone()),
            _ => Err(format!("GET {path}?id={id}: expected an array of one, got {list}")),
        }
    }

    /// All objects of a type.
    pub(super) fn all(&self, path: &str) -> Result<Vec<Value>, String> {
        let list = self.get(path)?.is(200)?;
        list.as_array().cloned().ok_or_else(|| format!("GET {path}: expected an array, got {list}"))
    }

    pub(super) fn is_gone(&self, path: &str, id: u64) -> Result<bool, String> {
        Ok(self.get(&format!("{path}?id={id}"))?.status == 404)
    }

    /// Waits until a container is in a state.
    pub(super) fn state_reached(&self, id: u64, wanted: &str) -> Result<Value, String> {
        let mut last = Value::Null;
        let found = until(SOON, || {
            last = self.one("/container", id)?;
            Ok(last["state"] == wanted)
        })?;
        holds(found, || format!("container {id} {wanted} within {SOON:?}, got {last}"))?;
        Ok(last)
    }

    /// Runs a shell line in a container on a tree to its end; gives the container and what it printed.
    pub(super) fn sh(&self, mount: Value, line: &str) -> Result<(Value, String), String> {
        let body = json!({"mount": mount, "command": format!("/bin/sh -c '{line}'"), "state": "running"});
        let id = id(&self.made("/container", &body)?);
        let mut last = Value::Null;
        let ended = until(SOON, || {
            last = self.one("/container", id)?;
            Ok(last["state"] == "exited" || last["state"] == "dead")
        })?;
        holds(ended, || format!("'{line}' ended within {SOON:?}, got {last}"))?;
        let log = self.log(&last)?;
        self.delete(&format!("/container?id={id}"))?.is(200)?;
        let own = format!(" container({id}): ");
        let said: Vec<&str> = log.lines().filter(|line| !line.contains(&own)).collect();
        Ok((last, said.join("\n")))
    }

    /// The log of a container.
    pub(super) fn log(&self, container: &Value) -> Result<String, String> {
        let path = container["logfile"].as_str().unwrap_or_default();
        fs::read_to_string(path).map_err(|why| format!("logfile '{path}': {why}"))
    }

    /// A description of the tree of the cases as a bind.
    pub(super) fn tree(&self) -> Value {
        self.bind("rootfs")
    }

    pub(super) fn bind(&self, name: &str) -> Value {
        json!({"kind": "bind", "bind": {"path": self.files.at(name), "base": "root"}})
    }

    pub(super) fn looped(&self, name: &str) -> Value {
        json!({"kind": "loopback", "loopback": {"path": self.files.at(name), "base": "root"}})
    }

    /// A read-only image, its file system, and a layer for changes.
    pub(super) fn layered(&self) -> Value {
        let image =
            json!({"kind": "attach", "attach": {"fs_type": "squashfs", "attach": self.looped("rootfs.squashfs")}});
        json!({"kind": "overlay", "overlay": {"lower": [image]}})
    }

    /// Takes away what a case has left: containers, then mounts and attachments, the youngest first.
    pub(super) fn sweep(&self, before: &[u64]) -> Outcome {
        for container in self.all("/container")? {
            let id = id(&container);
            if !before.contains(&id) {
                self.delete(&format!("/container?id={id}&force=true"))?;
            }
        }
        let mut left = Vec::new();
        let swept = until(SOON, || {
            left.clear();
            for path in ["/container", "/mount", "/attach"] {
                let mut ids: Vec<u64> = self.all(path)?.iter().map(id).filter(|id| !before.contains(id)).collect();
                ids.sort_unstable();
                for id in ids.into_iter().rev() {
                    left.push(format!("{path}?id={id}"));
                }
            }
            for object in &left {
                self.delete(object)?;
            }
            Ok(left.is_empty())
        })?;
        holds(swept, || format!("everything can be deleted in the end, left: {left:?}"))
    }

    /// The numbers of all objects.
    pub(super) fn ids(&self) -> Result<Vec<u64>, String> {
        let mut ids = Vec::new();
        for path in ["/container", "/mount", "/attach"] {
            ids.extend(self.all(path)?.iter().map(id));
        }
        Ok(ids)
    }
}

/// The number of an object.
pub(super) fn id(object: &Value) -> u64 {
    object["id"].as_u64().unwrap_or_default()
}

/// Says what was expected if it does not hold.
pub(super) fn holds(holds: bool, expected: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(format!("expected {}", expected())) }
}

/// Compares.
pub(super) fn same<T: PartialEq<U> + Display, U: Display>(what: &str, got: T, wanted: U) -> Outcome {
    if got == wanted { Ok(()) } else { Err(format!("{what}: expected {wanted}, got {got}")) }
}

/// Tries until it is so, or the time is over.
pub(super) fn until(limit: Duration, mut is_so: impl FnMut() -> Result<bool, String>) -> Result<bool, String> {
    let begun = Instant::now();
    loop {
        if is_so()? {
            return Ok(true);
        }
        if begun.elapsed() > limit {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
