//! A private PostgreSQL in a folder of its own, gone when it is dropped.

use crate::run::{is_root, run};
use anyhow::{Context, Result};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// A running server; `url` is what the tests get as SLIPWAY_TEST_POSTGRES.
pub(crate) struct Postgres {
    server: Child,
    pub(crate) url: String,
    _folder: TempDir,
}

/// PostgreSQL refuses to run as root, so root runs it as the user that its package made.
fn program(name: &str) -> Command {
    let path = format!("{PROGRAMS}/{name}");
    if !is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(path);
    command
}

impl Postgres {
    /// Makes a cluster that need not survive a power cut (the tests of that use their own) and starts it on loopback.
    pub(crate) fn start() -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("slipway-pg-").tempdir().context("making a folder for PostgreSQL")?;
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(folder.path()))?;
        }
        let cluster = folder.path().join("cluster");
        run(program("initdb")
            .current_dir(folder.path())
            .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8", "-D"])
            .arg(&cluster)
            .stdout(Stdio::null()))?;
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).context("finding a free port")?.port();
        let server = program("postgres")
            .current_dir(folder.path())
            .arg("-D")
            .arg(&cluster)
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=300"])
            .args([
                "-c",
                &format!("port={port}"),
                "-c",
                &format!("unix_socket_directories={}", folder.path().display()),
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting postgres")?;
        let started = Self { server, url: format!("postgres://postgres@127.0.0.1:{port}/postgres"), _folder: folder };
        started.ready_wait(port)?;
        Ok(started)
    }

    fn ready_wait(&self, port: u16) -> Result<()> {
        let begun = Instant::now();
        loop {
            let asked = program("pg_isready").args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]).status();
            if asked.context("starting pg_isready")?.success() {
                return Ok(());
            }
            anyhow::ensure!(begun.elapsed() < Duration::from_secs(60), "PostgreSQL was not ready within 60 s");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT is PostgreSQL's immediate shutdown; the cluster is thrown away with its folder.
        if let Some(pid) = rustix::process::Pid::from_raw(self.server.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        }
        let _ = self.server.wait();
    }
}
