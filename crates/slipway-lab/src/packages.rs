//! Debian packages unpacked into a folder, never installed: no script of theirs runs and no daemon of theirs starts on this machine.

use crate::LabError;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the packages come on top of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// This machine: only what it lacks is unpacked. For [`GuestSpec::layers`](crate::GuestSpec).
    Host,
    /// Nothing: all that they need is unpacked. For the root of a container or of a machine.
    Nothing,
}

/// The folders that are links into /usr on a system of today.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// Unpacks packages and what they need, and gives the folder. What was unpacked once is kept in the folder for build results, so
/// nothing may be changed in it: mount an overlay over it.
///
/// # Errors
/// When apt does not know or get a package.
pub fn packages_unpack(packages: &[&str], base: Base) -> Result<PathBuf, LabError> {
    let mut names = packages.to_vec();
    names.sort_unstable();
    let of = match base {
        Base::Host => "layer",
        Base::Nothing => "root",
    };
    let lab = lab_folder();
    let whole = lab.join(format!("{of}.{}", names.join("+")));
    fs::create_dir_all(&lab).map_err(LabError::io("making", lab.display().to_string()))?;
    // Tests of several programs may want the same at once; the lock ends with the file.
    let lock = lab.join("lock");
    let lock = File::create(&lock).map_err(LabError::io("making", lock.display().to_string()))?;
    flock(&lock, FlockOperation::LockExclusive)
        .map_err(|why| LabError::io("locking", "the lab's folder")(why.into()))?;
    if whole.exists() {
        return Ok(whole);
    }
    let part = tempfile::Builder::new()
        .prefix("part.")
        .tempdir_in(&lab)
        .map_err(LabError::io("making", "a folder for packages"))?;
    let debs = download(part.path(), &names, base)?;
    let tree = part.path().join("tree");
    tree_make(&tree).map_err(LabError::io("making", tree.display().to_string()))?;
    for deb in debs {
        unpack(&deb, &tree)?;
    }
    // Until it has this name nobody takes it for whole.
    fs::rename(&tree, &whole).map_err(LabError::io("renaming", tree.display().to_string()))?;
    Ok(whole)
}

/// `target/lab`, beside the programs that cargo makes.
fn lab_folder() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let target = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    target.map_or_else(std::env::temp_dir, Path::to_path_buf).join("lab")
}

/// Has apt download them without root and without a look at what others of it are doing.
fn download(folder: &Path, names: &[&str], base: Base) -> Result<Vec<PathBuf>, LabError> {
    let archives = folder.join("archives");
    fs::create_dir_all(archives.join("partial")).map_err(LabError::io("making", archives.display().to_string()))?;
    let mut command = Command::new("apt-get");
    command.args(["install", "-y", "-q", "--no-install-recommends", "--download-only", "-o", "Debug::NoLocking=1"]);
    command.args(["-o", &format!("Dir::Cache::archives={}", archives.display())]);
    // apt otherwise keeps a cache of its own, which it may only do as root.
    command.args(["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]);
    if base == Base::Nothing {
        let status = folder.join("status");
        File::create(&status).map_err(LabError::io("making", status.display().to_string()))?;
        command.args(["-o", &format!("Dir::State::status={}", status.display())]);
    }
    command.args(names);
    let what = format!("downloading the packages {}", names.join(" "));
    if succeed(&mut command, &what).is_err() {
        // What apt knows may be older than what there is. Only root may ask for news; else the second try says why it fails.
        let _ = Command::new("apt-get").args(["update", "-q"]).stdin(Stdio::null()).output();
        succeed(&mut command, &what)?;
    }
    let entries = fs::read_dir(&archives).map_err(LabError::io("reading", archives.display().to_string()))?;
    let mut debs: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    debs.retain(|path| path.extension().is_some_and(|end| end == "deb"));
    debs.sort();
    Ok(debs)
}

fn tree_make(tree: &Path) -> std::io::Result<()> {
    for name in MERGED {
        fs::create_dir_all(tree.join("usr").join(name))?;
        symlink(format!("usr/{name}"), tree.join(name))?;
    }
    Ok(())
}

/// As `dpkg -x` does, but through the links into /usr.
fn unpack(deb: &Path, tree: &Path) -> Result<(), LabError> {
    let what = || format!("unpacking {}", deb.display());
    let mut reading = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(LabError::io("starting", "dpkg-deb"))?;
    let mut tar = Command::new("tar");
    tar.args(["-x", "--keep-directory-symlink", "-C"]).arg(tree);
    if let Some(stdout) = reading.stdout.take() {
        tar.stdin(stdout);
    }
    let unpacked = succeed(&mut tar, &what());
    let read = reading.wait().map_err(LabError::io("waiting for", "dpkg-deb"))?;
    match read.success() {
        true => unpacked,
        false => Err(LabError::Refused { what: what(), said: format!("dpkg-deb: {read}") }),
    }
}

fn succeed(command: &mut Command, what: &str) -> Result<(), LabError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.output().map_err(LabError::io("starting", name))?;
    match out.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
            Err(LabError::Refused { what: what.to_owned(), said })
        }
    }
}
