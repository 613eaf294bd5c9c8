//! A Ceph cluster on this machine for guests: a monitor and a store in memory, in their private network, gone when it is dropped.
//! It speaks the first version of Ceph's protocol, which every kernel's client knows. Needs root.

use crate::processor::process_processor;
use crate::{GuestNet, LabError};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// The pool that is there from the start.
const POOL: &str = "rbd";
const PORT: u16 = 6789;
/// Where programs are, and which package has them.
const PROGRAMS: &[(&str, &str)] = &[
    ("/usr/bin/ceph-mon", "ceph-mon"),
    ("/usr/bin/ceph-osd", "ceph-osd"),
    ("/usr/bin/ceph", "ceph-common"),
    ("/usr/bin/rbd", "ceph-common"),
];
/// Who may do what in it.
const KEYS: &[(&str, &[&str])] = &[
    ("mon.", &["--cap", "mon", "allow *"]),
    ("client.admin", &["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"]),
    ("osd.0", &["--cap", "mon", "allow profile osd", "--cap", "osd", "allow *"]),
];

/// A cluster that runs, with a pool `rbd`.
#[derive(Debug)]
pub struct Ceph {
    servers: Vec<Child>,
    folder: TempDir,
    net: Arc<GuestNet>,
}

impl Ceph {
    /// Makes a cluster in a guest's network: about ten seconds.
    ///
    /// # Errors
    /// When a program is missing or does not do its part.
    pub fn start(net: &Arc<GuestNet>) -> Result<Self, LabError> {
        for (program, package) in PROGRAMS {
            if !Path::new(program).exists() {
                return Err(LabError::Missing { what: (*program).to_owned(), package });
            }
        }
        let folder = tempfile::Builder::new()
            .prefix("slipway-ceph.")
            .tempdir()
            .map_err(LabError::io("making", "a folder for Ceph"))?;
        let mut ceph = Self { servers: Vec::new(), folder, net: net.clone() };
        let (fsid, osd) = (uuid()?, uuid()?);
        let conf = conf(ceph.folder.path(), &fsid, net.host_address());
        std::fs::write(ceph.at("ceph.conf"), conf).map_err(LabError::io("writing", "ceph.conf"))?;
        let (keyring, monmap) = (ceph.at("keyring"), ceph.at("monmap"));
        for (n, (name, caps)) in KEYS.iter().enumerate() {
            let create = if n == 0 { &["--create-keyring"][..] } else { &[] };
            let words = [create, &[keyring.as_str(), "--gen-key", "-n", name], caps].concat();
            ceph.plain("ceph-authtool", &words)?;
        }
        let monitor = format!("[v1:{}]", ceph.monitor());
        ceph.plain("monmaptool", &["--create", "--addv", "a", &monitor, "--fsid", &fsid, &monmap])?;
        ceph.run("ceph-mon", &["--mkfs", "-i", "a", "--monmap", &monmap])?;
        ceph.spawn("ceph-mon", &["-f", "-i", "a"])?;
        ceph.run("ceph", &["osd", "new", &osd])?;
        ceph.run("ceph", &["auth", "import", "-i", &keyring])?;
        std::fs::create_dir(ceph.at("osd")).map_err(LabError::io("making", "a folder for the store"))?;
        ceph.run("ceph-osd", &["-i", "0", "--mkfs", "--osd-uuid", &osd])?;
        ceph.spawn("ceph-osd", &["-f", "-i", "0"])?;
        ceph.run("ceph", &["osd", "pool", "create", POOL, "8"])?;
        ceph.run("rbd", &["pool", "init", POOL])?;
        Ok(ceph)
    }

    /// The monitor's address with its port, as the guest sees it.
    pub fn monitor(&self) -> String {
        format!("{}:{PORT}", self.net.host_address())
    }

    /// Runs one of Ceph's programs as `client.admin` and gives what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String, LabError> {
        self.plain(program, &[&["-c", self.at("ceph.conf").as_str()], args].concat())
    }

    /// Makes a user with what he may do (`mon`, `profile rbd`, `osd`, `profile rbd`) and gives his key.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub fn user(&self, name: &str, caps: &[&str]) -> Result<String, LabError> {
        let name = format!("client.{name}");
        self.run("ceph", &[&["auth", "get-or-create-key", &name], caps].concat()).map(|key| key.trim().to_owned())
    }

    /// How long its servers have kept processors busy so far.
    pub fn processor(&self) -> Duration {
        self.servers.iter().map(|server| process_processor(server.id())).sum()
    }

    /// Takes its power away.
    pub fn stop(&mut self) {
        for mut server in self.servers.drain(..).rev() {
            // What it keeps is thrown away with its folder.
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn plain(&self, program: &str, args: &[&str]) -> Result<String, LabError> {
        let mut command = self.net.command(Path::new(program));
        let out = command.args(args).stdin(Stdio::null()).output().map_err(LabError::io("starting", program))?;
        match out.status.success() {
            true => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
            false => Err(LabError::Refused {
                what: format!("{program} {}", args.join(" ")),
                said: String::from_utf8_lossy(&out.stderr).trim().to_owned(),
            }),
        }
    }

    fn spawn(&mut self, program: &str, args: &[&str]) -> Result<(), LabError> {
        // Ends with the test, however that ends.
        let mut command: Command = self.net.command(Path::new("setpriv"));
        let server = command
            .args(["--pdeathsig", "KILL", program, "-c"])
            .arg(self.at("ceph.conf"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(LabError::io("starting", program))?;
        self.servers.push(server);
        Ok(())
    }
}

impl Drop for Ceph {
    fn drop(&mut self) {
        self.stop();
    }
}

fn conf(folder: &Path, fsid: &str, address: &str) -> String {
    let folder = folder.display();
    format!(
        "[global]\nfsid = {fsid}\nmon host = [v1:{address}:{PORT}]\npublic addr = {address}\nms bind msgr2 = false\nrun dir = {folder}\n\
         log file = {folder}/$name.log\nadmin socket = {folder}/$name.asok\npid file = {folder}/$name.pid\nkeyring = {folder}/keyring\n\
         mon data = {folder}/mon\nosd data = {folder}/osd\nosd pool default size = 1\nosd pool default min size = 1\n\
         mon allow pool size one = true\nosd crush chooseleaf type = 0\nosd pool default pg num = 8\n\
         osd pool default pg autoscale mode = off\nmon max pg per osd = 2000\nosd objectstore = memstore\n\
         memstore device bytes = 1073741824\nauth allow insecure global id reclaim = false\nrbd default features = 1\n"
    )
}

fn uuid() -> Result<String, LabError> {
    let path = "/proc/sys/kernel/random/uuid";
    Ok(std::fs::read_to_string(path).map_err(LabError::io("reading", path))?.trim().to_owned())
}
