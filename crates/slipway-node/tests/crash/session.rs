//! What the service does until it dies: one of everything that needs no server. Each answer is written down before the next request.

use serde_json::{Value, json};
use slipway_api::node::ContainerState;
use slipway_node::{Host, HostConfig, NodeConfig, Which};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How to run a host in a folder.
pub(crate) fn config(top: &Path) -> HostConfig {
    HostConfig {
        run_dir: top.join("run"),
        state_dir: top.join("state"),
        shim: vec![std::env::current_exe().unwrap().display().to_string(), "shim".into()],
        exec: Vec::new(),
        export: Vec::new(),
        node: groups(top),
        log_max: 64 << 10,
        boot_id: "this boot".into(),
        node_config: NodeConfig::default(),
    }
}

/// The name of the service's control groups.
pub(crate) fn groups(top: &Path) -> String {
    top.file_name().unwrap().to_string_lossy().trim_start_matches('.').to_owned()
}

/// A service that begins, perhaps dies of it, and ends.
pub(crate) fn reopen(top: &Path) -> ExitCode {
    drop(Host::open(config(top)).unwrap());
    ExitCode::SUCCESS
}

struct Session<'a> {
    host: Arc<Host>,
    top: &'a Path,
    answers: File,
}

impl Session<'_> {
    fn write(&mut self, line: &str) {
        writeln!(self.answers, "{line}").unwrap();
    }

    fn make(&mut self, kind: &str, body: Value) -> u64 {
        self.write(&format!("make {kind}"));
        let made = match kind {
            "attach" => self.host.attach_create(serde_json::from_value(body).unwrap()).map(|made| made.id),
            "mount" => self.host.mount_create(serde_json::from_value(body).unwrap()).map(|made| made.id),
            _ => self.host.container_create(serde_json::from_value(body).unwrap(), true).map(|made| made.id),
        };
        match made {
            Ok(id) => {
                self.write(&format!("made {kind} {id}"));
                id
            }
            Err(refusal) => {
                self.write(&format!("refused {refusal:?}"));
                0
            }
        }
    }

    fn delete(&mut self, kind: &str, id: u64, force: bool) {
        self.write(&format!("delete {kind} {id}"));
        let gone = match kind {
            "attach" => self.host.attach_delete(id, force).map(drop),
            "mount" => self.host.mount_delete(id, force).map(drop),
            _ => self.host.container_delete(&Which::Id(id), force).map(drop),
        };
        match gone {
            Ok(()) => self.write(&format!("deleted {kind} {id}")),
            Err(refusal) => self.write(&format!("refused {refusal:?}")),
        }
    }

    fn set(&mut self, id: u64, state: ContainerState) {
        self.write(&format!("set {id}"));
        match self.host.container_set(&Which::Id(id), state) {
            Ok(container) => self.write(&format!("is {id} {}", container.state.as_str())),
            Err(refusal) => self.write(&format!("refused {refusal:?}")),
        }
    }

    fn ended(&self, id: u64) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10)
            && self.host.container(&Which::Id(id)).is_ok_and(|it| it.pid.is_some())
        {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn at(&self, name: &str) -> String {
        self.top.join(name).display().to_string()
    }

    fn bind(&self, name: &str) -> Value {
        json!({"kind": "bind", "bind": {"path": self.at(name), "base": "root", "ro": true}})
    }

    fn image(&self) -> Value {
        let attach = json!({"kind": "loopback", "loopback": {"path": self.at("image.squashfs"), "base": "root"}});
        json!({"kind": "attach", "attach": {"fs_type": "squashfs", "attach": attach}})
    }
}

pub(crate) fn run(top: &Path) -> ExitCode {
    let answers = OpenOptions::new().create(true).append(true).open(top.join("answers")).unwrap();
    let host = Host::open(config(top)).unwrap();
    let mut s = Session { host, top, answers };
    let attach =
        s.make("attach", json!({"kind": "loopback", "loopback": {"path": s.at("image.ext4"), "base": "root"}}));
    let ext4 = json!({"kind": "attach", "attach": {"fs_type": "ext4", "attach": {"id": attach}}});
    let ext4 = s.make("mount", ext4);
    let inner = json!({"kind": "bind", "bind": {"path": "/etc", "base": "mount", "mount": {"id": ext4}, "ro": true}});
    let inner = s.make("mount", inner);
    let file = s.make("mount", s.bind("image.ext4"));
    let sized = json!({"kind": "overlay", "overlay": {"lower": [s.image(), s.bind("root")], "size": 1 << 20}});
    let sized = s.make("mount", sized);
    let kept = s.make("mount", json!({"kind": "overlay", "overlay": {"lower": [s.bind("root")], "persist": "kept"}}));
    // One that is refused half-way.
    s.make("mount", json!({"kind": "overlay", "overlay": {"lower": [s.image(), s.bind("nothing")]}}));
    let limits = json!({"pids": 100});
    let first = json!({"mount": {"id": sized}, "command": "/bin/sleep 1000", "name": "first", "resources": limits, "stop_timeout": 0});
    let first = s.make("container", first);
    s.set(first, ContainerState::Running);
    s.set(first, ContainerState::Paused);
    s.set(first, ContainerState::Running);
    let layered = json!({"kind": "overlay", "overlay": {"lower": [s.image()]}});
    let second = json!({"mount": layered, "command": "/bin/sleep 1000", "state": "running", "stop_timeout": 0});
    let second = s.make("container", second);
    let third =
        s.make("container", json!({"mount": {"id": kept}, "command": "/bin/sh -c 'exit 7'", "state": "running"}));
    s.ended(third);
    s.make("container", json!({"mount": {"id": kept}, "command": "/bin/nothing", "state": "running"}));
    s.set(first, ContainerState::Exited);
    s.ended(first);
    s.delete("container", first, false);
    s.delete("container", second, true);
    s.delete("container", third, false);
    s.delete("mount", sized, false);
    s.delete("mount", file, false);
    s.delete("mount", inner, false);
    s.delete("mount", ext4, false);
    s.delete("attach", attach, false);
    ExitCode::SUCCESS
}
