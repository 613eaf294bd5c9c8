//! A private Ceph of one monitor, one store in memory and one S3 gateway, in a folder of its own, gone when it is dropped.

use crate::run::run;
use crate::tools::command;
use anyhow::{Context, Result, ensure};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const BUCKET: &str = "slipway";
const KEY: &str = "lab";
const SECRET: &str = "lab-secret";
const PATIENCE: Duration = Duration::from_secs(120);

/// Running servers; `s3` is what the tests get as SLIPWAY_TEST_S3.
pub(crate) struct Ceph {
    servers: Vec<Child>,
    pub(crate) s3: String,
    folder: TempDir,
}

fn ports<const N: usize>() -> Result<[u16; N]> {
    // All are held until all are known, so that no two are the same.
    let held = (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<Vec<_>>>();
    let held = held.context("finding free ports")?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr().context("finding free ports")?.port();
    }
    Ok(ports)
}

fn conf(folder: &Path, fsid: &str, mon: &str, gateway: u16) -> String {
    let folder = folder.display();
    format!(
        "[global]\nfsid = {fsid}\nmon host = {mon}\npublic addr = 127.0.0.1\nrun dir = {folder}\nlog file = {folder}/$name.log\n\
         admin socket = {folder}/$name.asok\npid file = {folder}/$name.pid\nkeyring = {folder}/keyring\nmon data = {folder}/mon\n\
         osd data = {folder}/osd\nosd pool default size = 1\nosd pool default min size = 1\nmon allow pool size one = true\n\
         osd crush chooseleaf type = 0\nosd pool default pg num = 8\nosd pool default pg autoscale mode = off\n\
         mon max pg per osd = 2000\nosd objectstore = memstore\nmemstore device bytes = 1073741824\n\
         auth allow insecure global id reclaim = false\n\
         [client.rgw]\nrgw frontends = beast endpoint=127.0.0.1:{gateway}\nrgw thread pool size = 32\n"
    )
}

/// Who may do what in it.
const KEYS: &[(&str, &[&str])] = &[
    ("mon.", &["--cap", "mon", "allow *"]),
    ("client.admin", &["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"]),
    ("client.rgw", &["--cap", "mon", "allow rw", "--cap", "osd", "allow rwx"]),
    ("osd.0", &["--cap", "mon", "allow profile osd", "--cap", "osd", "allow *"]),
];

impl Ceph {
    /// Makes a cluster that forgets all when it stops, and a bucket in it.
    pub(crate) fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("slipway-ceph-").tempdir().context("making a folder for Ceph")?;
        let [mon_v2, mon_v1, gateway] = ports()?;
        let mon = format!("[v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}]");
        let (fsid, osd) = (uuid()?, uuid()?);
        let top = folder.path().to_owned();
        let at = |name: &str| top.join(name);
        std::fs::write(at("ceph.conf"), conf(folder.path(), &fsid, &mon, gateway)).context("writing ceph.conf")?;
        for (n, (name, caps)) in KEYS.iter().enumerate() {
            let mut keys = quiet("ceph-authtool");
            if n == 0 {
                keys.arg("--create-keyring");
            }
            run(keys.arg(at("keyring")).args(["--gen-key", "-n", name]).args(*caps))?;
        }
        run(quiet("monmaptool").args(["--create", "--addv", "a", &mon, "--fsid", &fsid]).arg(at("monmap")))?;
        let s3 = format!("http://127.0.0.1:{gateway} {BUCKET} {KEY} {SECRET}");
        let mut ceph = Self { servers: Vec::new(), s3, folder };
        run(ceph.command("ceph-mon").args(["--mkfs", "-i", "a", "--monmap"]).arg(at("monmap")))?;
        ceph.spawn("ceph-mon", &["-f", "-i", "a"])?;
        run(ceph.command("ceph").args(["osd", "new", &osd]))?;
        run(ceph.command("ceph").args(["auth", "import", "-i"]).arg(at("keyring")))?;
        std::fs::create_dir(at("osd")).context("making a folder for the store")?;
        run(ceph.command("ceph-osd").args(["-i", "0", "--mkfs", "--osd-uuid", &osd]))?;
        ceph.spawn("ceph-osd", &["-f", "-i", "0"])?;
        ceph.spawn("radosgw", &["-f", "-n", "client.rgw"])?;
        ceph.gateway_wait(gateway)?;
        let user = ["-n", "client.rgw", "user", "create", "--uid=lab", "--display-name=lab"];
        let keys = [format!("--access-key={KEY}"), format!("--secret={SECRET}")];
        run(ceph.command("radosgw-admin").args(user).args(keys))?;
        let host = format!("127.0.0.1:{gateway}");
        run(quiet("s3cmd")
            .args(["--no-ssl", "--config=/dev/null"])
            .arg(format!("--access_key={KEY}"))
            .arg(format!("--secret_key={SECRET}"))
            .args([format!("--host={host}"), format!("--host-bucket={host}")])
            .args(["mb", &format!("s3://{BUCKET}")]))?;
        Ok(ceph)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = quiet(program);
        command.arg("-c").arg(self.folder.path().join("ceph.conf"));
        command
    }

    fn spawn(&mut self, program: &str, args: &[&str]) -> Result<()> {
        let server = self.command(program).args(args).spawn().with_context(|| format!("starting {program}"))?;
        self.servers.push(server);
        Ok(())
    }

    fn gateway_wait(&self, port: u16) -> Result<()> {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(begun.elapsed() < PATIENCE, "the S3 gateway of Ceph was not ready within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}

impl Drop for Ceph {
    fn drop(&mut self) {
        for server in self.servers.iter_mut().rev() {
            // What it keeps is thrown away with its folder.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Its words are of use only to who starts it by hand.
fn quiet(program: &str) -> Command {
    let mut command = command(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn uuid() -> Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("making a random id")?;
    Ok(text.trim().to_owned())
}
