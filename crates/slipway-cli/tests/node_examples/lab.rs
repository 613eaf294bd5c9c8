//! A guest as a node, with the service at its usual place, and `slipway node` on this machine.

use super::house::{PROGRAM, Ran, run};
use super::images::Images;
use serde_json::{Value, json};
use slipway_lab::{Base, Guest, GuestNet, GuestSpec, Root, Share, packages_unpack};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(60);
/// Where the guest hands connections on to the service's socket.
const PORT: u16 = 8450;

/// What every node here has.
const SETUP: &str = r#"
mount -t cgroup2 none /sys/fs/cgroup; echo "+memory +pids +cpu +io" > /sys/fs/cgroup/cgroup.subtree_control
echo "127.0.0.1 s1.lab" >> /etc/hosts
"#;

pub struct Lab {
    guest: Guest,
    folder: tempfile::TempDir,
    /// Words of command lines and what stands for them here.
    instead: Vec<(&'static str, String)>,
    /// What the guest's kernel has when nothing runs.
    before: String,
}

/// An example whose container runs.
pub struct Running<'a> {
    lab: &'a Lab,
    name: &'a str,
    pub systemd: bool,
}

/// A program that cargo has built beside the one under test.
fn built(name: &str) -> PathBuf {
    let program = Path::new(PROGRAM).with_file_name(name);
    assert!(program.exists(), "'cargo build -p slipway-agent -p slipway-lab' makes what this test needs");
    program
}

/// A guest that sees the images at /srv/made and has these packages.
pub fn spec(images: &Images, net: &Arc<GuestNet>, packages: &[&str], modules: &[&str]) -> GuestSpec {
    let mut spec = GuestSpec::new(Root::Host).with_modules(modules).with_net(net).with_setup(SETUP);
    spec.memory_mib = 1536;
    spec.shares.push(Share { host: images.folder(), guest: "/srv/made".into(), writable: false });
    spec.layers.push(packages_unpack(&[&["socat"], packages].concat(), Base::Host).unwrap());
    spec
}

impl Lab {
    pub fn start(spec: &GuestSpec, net: &GuestNet, instead: Vec<(&'static str, String)>) -> Self {
        let guest = Guest::boot(spec).unwrap();
        let agent = built("slipway-agent").display().to_string();
        guest.begin(&format!("exec {agent} serve 2>/run/agent.log")).unwrap();
        guest.ok("for i in $(seq 600); do grep -q 'ready on' /run/agent.log && exit; sleep 0.1; done; exit 1");
        guest
            .begin(&format!("exec socat TCP-LISTEN:{PORT},fork,reuseaddr UNIX-CONNECT:/run/slipway/node.sock"))
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        net.reach(0, PORT, &folder.path().join("node.sock")).unwrap();
        let mut lab = Self { guest, folder, instead, before: String::new() };
        lab.wait("the service answers", || lab.node(&["ls"]).code == 0);
        lab.before = lab.census();
        lab
    }

    /// Every device, mount, group, key and process of ours in the guest.
    fn census(&self) -> String {
        self.guest.ok(&built("census").display().to_string())
    }

    fn command(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(words).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        command.env("SLIPWAY_NODE", format!("unix:{}", self.folder.path().join("node.sock").display()));
        let programs = Path::new(PROGRAM).parent().unwrap().display();
        command.env("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap()));
        command
    }

    pub fn node(&self, words: &[&str]) -> Ran {
        run(self.command(PROGRAM, &[&["node"], words].concat()), b"")
    }

    #[track_caller]
    fn wait(&self, what: &str, mut until: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !until() {
            // In words that `once_more` knows: this kind of guest stands still now and then.
            assert!(begun.elapsed() < LONG, "the guest took more than {LONG:?} until {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Both examples of a structure, which stands on these kinds.
    pub fn examples(&self, structure: &str, kinds: &[&str], look: fn(&Running<'_>)) {
        for init in ["init", "systemd"] {
            let running = Running { lab: self, name: structure, systemd: init == "systemd" };
            self.example(&format!("{structure}-{init}"), &running, kinds, look);
        }
    }

    /// Runs an example by the line in its own comment, looks at it, and takes it away.
    fn example(&self, file: &str, running: &Running<'_>, kinds: &[&str], look: fn(&Running<'_>)) {
        let begun = Instant::now();
        let applied = running.apply(file, "--wait -o json").expect(0).json();
        assert_eq!(applied[0]["result"], "created", "{applied}");
        let up = begun.elapsed();
        let shown = self.node(&["ps"]).expect(0).text();
        assert!(shown.contains(running.name) && shown.contains("running"), "{shown}");
        // What it stands on, from below.
        let objects = self.node(&["ls", "-o", "json"]).expect(0).json();
        let found: Vec<_> = objects.as_array().unwrap().iter().map(|object| object["kind"].as_str().unwrap()).collect();
        assert_eq!(found, kinds, "{file}: {objects}");
        running.looks_well();
        look(running);
        assert_eq!(running.apply(file, "-o json").expect(0).json()[0]["result"], "unchanged");
        let looked = begun.elapsed();
        running.remove();
        self.wait(&format!("nothing of {file} is left"), || self.census() == self.before);
        println!("{file}: up in {up:?}, looked at after {looked:?}, gone after {:?}", begun.elapsed());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = self.guest.run("tail -n 40 /run/agent.log; dmesg | tail -n 20; census").map(|out| out.stdout);
            eprintln!("--- the service\n{}\n--- before\n{}", said.unwrap_or_default(), self.before);
        }
    }
}

impl Running<'_> {
    /// The line of the file's comment, with more words at its end.
    fn apply(&self, file: &str, more: &str) -> Ran {
        let path = format!("examples/node/{file}.yaml");
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut line = documented(&std::fs::read_to_string(top.join(&path)).unwrap());
        assert!(line.contains(&path), "{line}");
        for (word, value) in &self.lab.instead {
            line = line.replace(word, value);
        }
        run(self.lab.command("sh", &["-c", &format!("{line} {more}")]), b"")
    }

    /// Runs a line of the shell in the container.
    #[track_caller]
    pub fn exec(&self, line: &str) -> String {
        self.lab.node(&["exec", self.name, "/bin/sh", "-ec", line]).expect(0).text()
    }

    fn looks_well(&self) {
        let log = self.lab.node(&["logs", self.name]).expect(0).text();
        if self.systemd {
            assert!(log.contains("container ready"), "{log}");
            let said = self.exec(
                "cat /proc/1/comm; systemctl is-active multi-user.target; systemctl is-system-running --wait || systemctl list-units --failed",
            );
            assert_eq!(said, "systemd\nactive\nrunning\n", "{log}");
        } else {
            assert!(log.lines().any(|line| line == "ready"), "{log}");
            assert_eq!(self.exec("cat /proc/1/comm"), "sh\n");
        }
    }

    /// Ends it as a person does; its init ends well.
    fn remove(&self) {
        let node = |words: &[&str]| self.lab.node(words).expect(0);
        node(&["stop", self.name]);
        let seen = node(&["inspect", self.name, "-o", "json"]).json();
        let how = (&seen["state"], &seen["exit"]["code"]);
        assert_eq!(how, (&json!("exited"), &json!(0)), "{}\n{}", seen["exit"], node(&["logs", self.name]).text());
        node(&["rm", self.name]);
        self.lab.wait("the node is empty", || node(&["ls", "-o", "json"]).json() == Value::Array(Vec::new()));
    }
}

/// The command line in an example's comment.
fn documented(text: &str) -> String {
    let mut line = String::new();
    let comment = text.lines().map_while(|line| line.strip_prefix('#'));
    for more in comment.skip_while(|line| !line.contains("slipway node")) {
        line.push_str(more.trim_start().trim_end_matches('\\'));
        if !more.ends_with('\\') {
            break;
        }
    }
    line
}
