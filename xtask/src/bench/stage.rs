//! What the measures work with: our programs, a server of its own, and images.

use super::dataset::DataSet;
use super::leftovers;
use super::sample::{Sample, so_far};
use crate::demo::server::Server;
use crate::run::{may_go_on, read, run, top};
use anyhow::{Context, Result};
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A folder that goes away, and what is in it. Everything is made when it is first asked for.
pub(super) struct Stage {
    /// Before the folder, so that it has ended when its files go.
    server: OnceCell<Server>,
    folder: tempfile::TempDir,
    pub(super) quick: bool,
    given: Option<PathBuf>,
    data: OnceCell<DataSet>,
    pushed: OnceCell<()>,
    all_pushed: OnceCell<()>,
}

impl Stage {
    pub(super) fn new(quick: bool, data: Option<&Path>) -> Result<Self> {
        std::fs::create_dir_all(cache()).context("making target/bench")?;
        // Beside the images, so that both are on the same file system, and never in memory.
        let folder = tempfile::Builder::new().prefix("run-").tempdir_in(cache()).context("making a folder")?;
        Ok(Self {
            folder,
            quick,
            given: data.map(Path::to_owned),
            data: OnceCell::new(),
            server: OnceCell::new(),
            pushed: OnceCell::new(),
            all_pushed: OnceCell::new(),
        })
    }

    /// For a measure's own files; it should remove large ones.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How often each side runs.
    pub(super) fn runs(&self) -> usize {
        if self.quick { 1 } else { 3 }
    }

    /// The release build of `slipway`.
    pub(super) fn program(&self) -> PathBuf {
        top().join("target/release/slipway")
    }

    /// The three images.
    pub(super) fn data(&self) -> Result<&DataSet> {
        if let Some(data) = self.data.get() {
            return Ok(data);
        }
        let data = match &self.given {
            Some(given) => DataSet::given(given)?,
            None => DataSet::made(&cache(), self.quick)?,
        };
        Ok(self.data.get_or_init(|| data))
    }

    /// Two raw images, the second the first with some changes.
    pub(super) fn images(&self) -> Result<(&Path, &Path)> {
        let data = self.data()?;
        Ok((&data.v1, &data.v2))
    }

    /// A server with a store of its own.
    pub(super) fn server(&self) -> Result<&Server> {
        if let Some(server) = self.server.get() {
            return Ok(server);
        }
        let server = Server::start(&self.program(), &self.folder().join("data"), &self.folder().join("admin.token"))?;
        Ok(self.server.get_or_init(|| server))
    }

    /// Another server, whose store is empty; its folder goes with it.
    pub(super) fn server_new(&self, name: &str) -> Result<OwnServer> {
        let (data, token) = (self.folder().join(name), self.folder().join(format!("{name}.token")));
        let server = Server::start(&self.program(), &data, &token)?;
        Ok(OwnServer { server: Some(server), data, token })
    }

    /// A command of ours that talks to the server.
    pub(super) fn slipway(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.server()?.client(&self.program());
        command.args(words);
        Ok(command)
    }

    /// Sees to it that `me/os:0` and `me/os:1` are the first two images.
    pub(super) fn pushed(&self) -> Result<()> {
        if self.pushed.get().is_none() {
            let data = self.data()?;
            for path in [&data.v1, &data.v2] {
                read(&mut self.slipway(&["push", text(path)?, "me/os", "-q"])?)?;
            }
            calm(self.server()?)?;
            self.pushed.get_or_init(|| ());
        }
        Ok(())
    }

    /// And `me/os:2` the third.
    pub(super) fn all_pushed(&self) -> Result<()> {
        self.pushed()?;
        if self.all_pushed.get().is_none() {
            read(&mut self.slipway(&["push", text(&self.data()?.v3)?, "me/os", "-q"])?)?;
            calm(self.server()?)?;
            self.all_pushed.get_or_init(|| ());
        }
        Ok(())
    }

    /// Everything written so far is on the disk, so that it does not fall on what is measured.
    pub(super) fn settle(&self) -> Result<()> {
        run(&mut Command::new("sync"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.server.take();
        for what in leftovers::sweep(self.folder.path()) {
            eprintln!("left behind, and taken away: {what}");
        }
    }
}

/// A server of one measure.
pub(super) struct OwnServer {
    server: Option<Server>,
    pub(super) data: PathBuf,
    token: PathBuf,
}

impl OwnServer {
    pub(super) fn get(&self) -> Result<&Server> {
        self.server.as_ref().context("the server has ended")
    }

    /// Starts it again on the same folder, with other options.
    pub(super) fn again(&mut self, program: &Path, more: &[&str]) -> Result<&Server> {
        self.server = None;
        self.server = Some(Server::start_with(program, &self.data, &self.token, more)?);
        self.get()
    }

    /// Ends it as a power cut would, as far as it can see.
    pub(super) fn kill(&mut self) -> Result<()> {
        let pid = self.get()?.pid().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        rustix::process::kill_process(pid.context("the server has ended")?, rustix::process::Signal::KILL)
            .context("killing the server")?;
        self.server = None;
        Ok(())
    }

    /// A command of ours that talks to it.
    pub(super) fn slipway(&self, stage: &Stage, words: &[&str]) -> Result<Command> {
        let mut command = self.get()?.client(&stage.program());
        command.args(words);
        Ok(command)
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.server = None;
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

/// Waits until a server has nothing more to do: after a push it still hashes the whole image. Says what it took up to then.
pub(super) fn calm(server: &Server) -> Result<Sample> {
    calm_within(server, Duration::from_secs(120))
}

/// The same for at most so long: then it is measured as it is.
pub(super) fn calm_within(server: &Server, limit: Duration) -> Result<Sample> {
    let pid = server.pid().context("the server has ended")?;
    let mut before = so_far(pid)?;
    let begun = Instant::now();
    loop {
        may_go_on()?;
        std::thread::sleep(Duration::from_secs(1));
        let now = so_far(pid)?;
        if now.cpu - before.cpu <= 0.02 || begun.elapsed() > limit {
            return Ok(now);
        }
        before = now;
    }
}

/// What is kept from one run to the next.
pub(super) fn cache() -> PathBuf {
    top().join("target/bench")
}

/// A path as an argument among texts.
pub(super) fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}
