//! A server of its own on a free port of loopback.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) struct Server {
    process: std::cell::RefCell<Option<Child>>,
    pub(crate) url: String,
    pub(crate) token_file: PathBuf,
}

impl Server {
    /// Starts it and waits for the line that says where it listens.
    pub(crate) fn start(program: &Path, data: &Path, token_file: &Path) -> Result<Self> {
        Self::start_with(program, data, token_file, &[])
    }

    /// The same with more options of `serve`.
    pub(crate) fn start_with(program: &Path, data: &Path, token_file: &Path, more: &[&str]) -> Result<Self> {
        // A file and not a pipe, so that the server can outlive us.
        let log = data.with_extension("log");
        let file = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let mut process = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .arg("--admin-token-file")
            .arg(token_file)
            .args(more)
            // What it makes goes when it ends, however full the disk is.
            .env("SLIPWAY_MIN_FREE_BYTES", "67108864")
            .env("SLIPWAY_MIN_FREE_PERCENT", "0")
            .stderr(file)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {} serve", program.display()))?;
        let begun = Instant::now();
        loop {
            let said = std::fs::read_to_string(&log).with_context(|| format!("reading {}", log.display()))?;
            if let Some(url) =
                said.split_once("ready on ").and_then(|(_, rest)| rest.split_once('\n')).map(|(url, _)| url)
            {
                let url = url.trim().to_owned();
                return Ok(Self { process: Some(process).into(), url, token_file: token_file.to_owned() });
            }
            let ended = process.try_wait().context("looking at the server")?;
            if ended.is_some() || begun.elapsed() > Duration::from_secs(30) {
                let _ = process.kill();
                bail!("the server was not ready:\n{said}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A command of the client that talks to this server.
    pub(crate) fn client(&self, program: &Path) -> Command {
        let token = std::fs::read_to_string(&self.token_file).unwrap_or_default();
        let mut command = Command::new(program);
        command.env("SLIPWAY_URL", &self.url).env("SLIPWAY_TOKEN", token.trim());
        command
    }

    /// Its process id, while it is ours.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.borrow().as_ref().map(Child::id)
    }

    /// Lets it run on when we end; gives its process id.
    pub(crate) fn leave(&self) -> u32 {
        self.process.borrow_mut().take().map_or(0, |process| process.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut process) = self.process.borrow_mut().take() else { return };
        if let Some(pid) = rustix::process::Pid::from_raw(process.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = process.wait();
    }
}
