//! The main job on a real image: push, change, push, see what it cost, flash over the older version, verify.

pub(crate) mod image;
pub(crate) mod server;

use crate::run::{cargo, is_root, read, run, top};
use crate::tools;
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Deserialize;
use server::Server;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Build, start a server, push two versions of an image, flash one over the other, verify.
#[derive(Args)]
pub(crate) struct DemoArgs {
    /// A raw disk image to use instead of one made here; it is only read
    image: Option<PathBuf>,
    /// Leave the server running and the folder in place at the end
    #[arg(long)]
    keep: bool,
}

/// `cargo xtask demo`.
pub(crate) fn demo_run(args: &DemoArgs) -> Result<()> {
    tools::tools_need(tools::DEMO_TOOLS)?;
    println!("Building (the first time takes some minutes)");
    run(cargo().args(["build", "--release", "--locked", "--package", "slipway-cli", "--package", "slipway-agent"]))?;
    let folder = tempfile::Builder::new().prefix("slipway-demo-").tempdir().context("making a folder")?;
    let begun = Instant::now();
    let stage = Stage::new(folder.path(), &top().join("target/release/slipway"))?;
    stage.play(args.image.as_deref())?;
    println!("\nAll of it took {:.1} s.", begun.elapsed().as_secs_f32());
    stage.farewell();
    if args.keep {
        let left = folder.keep();
        println!(
            "The server (process {}) goes on; stop it with kill, then remove {}.",
            stage.server.leave(),
            left.display()
        );
    } else if std::io::stdin().is_terminal() {
        println!("\nThe server runs until you press Enter; then {} is removed.", folder.path().display());
        let _ = std::io::stdin().read(&mut [0]);
    } else {
        println!("\n(The server stops now; `cargo xtask demo --keep` leaves it running.)");
    }
    Ok(())
}

/// The same with the programs that the tests have built, as a test of the whole.
pub(crate) fn demo_try() -> Result<()> {
    // Exactly what the tests were built with: another choice of packages would compile the libraries again.
    run(cargo().args(["test", "--workspace", "--locked", "--no-run", "--quiet"]))?;
    let folder = tempfile::Builder::new().prefix("slipway-demo-").tempdir().context("making a folder")?;
    Stage::new(folder.path(), &top().join("target/debug/slipway"))?.play(None)
}

struct Stage {
    folder: PathBuf,
    program: PathBuf,
    server: Server,
}

#[derive(Deserialize)]
struct Shown {
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Version {
    number: u64,
    size: u64,
    data_bytes: u64,
    stored_bytes: u64,
    new_bytes: u64,
}

fn mb(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

impl Stage {
    fn new(folder: &Path, program: &Path) -> Result<Self> {
        let server = Server::start(program, &folder.join("data"), &folder.join("admin.token"))?;
        println!("A server runs at {} with its data in {}", server.url, folder.join("data").display());
        Ok(Self { folder: folder.to_owned(), program: program.to_owned(), server })
    }

    /// Runs a slipway command as a person would, showing the line, what it says and how long it took.
    fn slipway(&self, words: &[&str]) -> Result<()> {
        println!("\n$ slipway {}", words.join(" "));
        let begun = Instant::now();
        run(self.server.client(&self.program).args(words))?;
        println!("  ({:.1} s)", begun.elapsed().as_secs_f32());
        Ok(())
    }

    fn play(&self, given: Option<&Path>) -> Result<()> {
        let (first, second) = (self.folder.join("v0.raw"), self.folder.join("v1.raw"));
        match given {
            Some(image) => image::copy(image, &first)?,
            None => image::make(&self.folder.join("tree"), &first, &image::DEMO)?,
        }
        let [first, second] = [&first, &second].map(|p| p.to_str().expect("our own path is UTF-8"));
        self.slipway(&["push", first, "me/os", "-m", "as installed"])?;
        image::change(Path::new(first), Path::new(second))?;
        self.slipway(&["push", second, "me/os", "-m", "some files changed"])?;
        self.costs()?;
        let target = Target::new(&self.folder.join("target.raw"), Path::new(first))?;
        let path = target.path.to_str().expect("our own path is UTF-8");
        self.slipway(&["flash", "me/os:0", path, "--yes"])?;
        self.slipway(&["flash", "me/os:1", path, "--yes"])?;
        self.slipway(&["verify", "me/os:1", path])?;
        let same = image::prefix_equal(Path::new(second), &target.path)?;
        ensure!(same, "{path} does not hold what was pushed as me/os:1");
        println!("\n{path} holds version 1, byte for byte (compared with the file that was pushed).");
        Ok(())
    }

    fn costs(&self) -> Result<()> {
        let text = read(self.server.client(&self.program).args(["image", "show", "me/os", "-o", "json"]))?;
        let mut shown: Shown = serde_json::from_str(&text).context("reading what `slipway image show` says")?;
        shown.versions.sort_by_key(|v| v.number);
        println!("\nversion      image       data     stored   new bytes     shared");
        for v in &shown.versions {
            let shared = v.stored_bytes.saturating_sub(v.new_bytes);
            let [size, data, stored, new, shared] = [v.size, v.data_bytes, v.stored_bytes, v.new_bytes, shared].map(mb);
            println!("{:>7} {size:>10} {data:>10} {stored:>10} {new:>11} {shared:>10}", v.number);
        }
        ensure!(shown.versions.len() == 2, "two pushes made {} versions", shown.versions.len());
        ensure!(shown.versions[1].new_bytes < shown.versions[0].new_bytes / 2, "the second version shares too little");
        Ok(())
    }

    fn farewell(&self) {
        println!("\nTo go on by hand:");
        println!("  export SLIPWAY_URL={} SLIPWAY_TOKEN=$(cat {})", self.server.url, self.server.token_file.display());
        println!("  alias slipway={}", self.program.display());
        let folder = self.folder.display();
        println!(
            "  slipway image show me/os\n  slipway pull me/os:1 -o out.raw\n  slipway flash me/os:0 {folder}/target.raw --yes"
        );
        println!("  slipway verify me/os:0 {folder}/target.raw\n  slipway check");
    }
}

/// What is flashed: a loop device where we may have one, else a file.
struct Target {
    path: PathBuf,
    looped: bool,
}

impl Target {
    fn new(file: &Path, like: &Path) -> Result<Self> {
        let size = std::fs::metadata(like).with_context(|| format!("looking at {}", like.display()))?.len();
        if !is_root() || tools::find("losetup").is_none() {
            println!("\nThe target is a file: {} (a loop device needs root)", file.display());
            return Ok(Self { path: file.to_owned(), looped: false });
        }
        std::fs::File::create(file).and_then(|f| f.set_len(size)).context("making the target's file")?;
        match read(tools::command("losetup").args(["--find", "--show"]).arg(file)) {
            Ok(device) => {
                println!("\nThe target is a block device: {}", device.trim());
                Ok(Self { path: device.trim().into(), looped: true })
            }
            Err(why) => {
                println!("\nThe target is a file: {} ({why})", file.display());
                Ok(Self { path: file.to_owned(), looped: false })
            }
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.looped {
            let _ = tools::command("losetup").arg("-d").arg(&self.path).status();
        }
    }
}
