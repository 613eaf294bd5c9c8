//! What the measures work with: our programs, a server of its own, and images.

use crate::demo::image::{self, Scale};
use crate::demo::server::Server;
use crate::run::{read, run, top};
use anyhow::{Context, Result, ensure};
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder that goes away, and what is in it. Everything is made when it is first asked for.
pub(super) struct Stage {
    folder: tempfile::TempDir,
    quick: bool,
    data: Option<PathBuf>,
    images: OnceCell<(PathBuf, PathBuf)>,
    server: OnceCell<Server>,
    pushed: OnceCell<()>,
}

impl Stage {
    pub(super) fn new(quick: bool, data: Option<&Path>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("slipway-bench-").tempdir().context("making a folder")?;
        Ok(Self {
            folder,
            quick,
            data: data.map(Path::to_owned),
            images: OnceCell::new(),
            server: OnceCell::new(),
            pushed: OnceCell::new(),
        })
    }

    /// For a measure's own files; it should remove large ones.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How often each side runs.
    pub(super) fn runs(&self) -> usize {
        if self.quick { 3 } else { 5 }
    }

    /// The release build of `slipway`.
    pub(super) fn program(&self) -> PathBuf {
        top().join("target/release/slipway")
    }

    /// Two raw images, the second the first with some changes.
    pub(super) fn images(&self) -> Result<&(PathBuf, PathBuf)> {
        if let Some(images) = self.images.get() {
            return Ok(images);
        }
        let made = match &self.data {
            Some(data) => (data.join("v1.img"), data.join("v2.img")),
            None => {
                let (first, second) = (self.folder().join("v1.img"), self.folder().join("v2.img"));
                let scale = match self.quick {
                    true => Scale { image: 512 << 20, tree: 120 << 20 },
                    false => Scale { image: 4 << 30, tree: 1 << 30 },
                };
                image::make(&self.folder().join("tree"), &first, &scale)?;
                image::change(&first, &second)?;
                (first, second)
            }
        };
        for path in [&made.0, &made.1] {
            ensure!(path.is_file(), "{} is not there", path.display());
        }
        Ok(self.images.get_or_init(|| made))
    }

    /// A server with a store of its own.
    pub(super) fn server(&self) -> Result<&Server> {
        if let Some(server) = self.server.get() {
            return Ok(server);
        }
        let server = Server::start(&self.program(), &self.folder().join("data"), &self.folder().join("admin.token"))?;
        Ok(self.server.get_or_init(|| server))
    }

    /// A command of ours that talks to the server.
    pub(super) fn slipway(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.server()?.client(&self.program());
        command.args(words);
        Ok(command)
    }

    /// Sees to it that `me/os:0` and `me/os:1` are the two images.
    pub(super) fn pushed(&self) -> Result<()> {
        if self.pushed.get().is_none() {
            let (first, second) = self.images()?;
            for path in [first, second] {
                let path = path.to_str().context("a path that is not UTF-8")?;
                read(&mut self.slipway(&["push", path, "me/os", "-q"])?)?;
            }
            self.pushed.get_or_init(|| ());
        }
        Ok(())
    }

    /// Everything written so far is on the disk, so that it does not fall on what is measured.
    pub(super) fn settle(&self) -> Result<()> {
        run(&mut Command::new("sync"))
    }
}
