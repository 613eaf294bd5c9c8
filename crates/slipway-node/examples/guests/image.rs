//! The image that several guests get: a Debian root with systemd, and what its first process reads.

use crate::{Tried, wrong};
use serde_json::{Value, json};
use slipway_lab::{Base, packages_unpack};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGES: &[&str] =
    &["systemd", "dbus", "base-files", "base-passwd", "bash", "dash", "coreutils", "util-linux", "mount"];
/// One file of so many is read.
const EACH: usize = 8;
/// Larger ones are not.
const LARGE: u64 = 2 << 20;
/// Reads the files of the list and ends with 0 if they are what they were when the image was made.
const FIRST_ACT: &str = r#"set -o pipefail
sum=$(/bin/busybox xargs /bin/busybox cat < /first.files | /bin/busybox md5sum)
[ "$sum" = "$(/bin/busybox cat /first.sum)" ]
"#;

pub(crate) struct Image {
    pub(crate) squashfs: PathBuf,
    pub(crate) shape: Value,
}

impl Image {
    /// Makes `tree` and `image.squashfs` in the folder, whose path goes to the shell.
    pub(crate) fn make(folder: &Path) -> Tried<Self> {
        let packages = packages_unpack(PACKAGES, Base::Nothing).map_err(|why| why.to_string())?;
        let (tree, squashfs) = (folder.join("tree"), folder.join("image.squashfs"));
        succeed(Command::new("cp").arg("-a").arg(packages).arg(&tree))?;
        fs::copy("/bin/busybox", tree.join("usr/bin/busybox")).map_err(wrong("copying busybox"))?;
        let mut all = Vec::new();
        files_find(&tree.join("usr"), &mut all).map_err(wrong("looking at the image"))?;
        all.sort();
        let all_bytes: u64 = all.iter().map(|(_, len)| len).sum();
        let chosen: Vec<_> = all.iter().filter(|(_, len)| *len <= LARGE).step_by(EACH).collect();
        let inside = |path: &Path| format!("/{}\n", path.strip_prefix(&tree).unwrap_or(path).display());
        let list: String = chosen.iter().map(|(path, _)| inside(path)).collect();
        fs::write(tree.join("first.files"), list).map_err(wrong("writing the list"))?;
        fs::write(tree.join("first.sh"), FIRST_ACT).map_err(wrong("writing the first act"))?;
        let sum = format!("cd '{}' && sed 's,^/,,' first.files | xargs cat | md5sum > first.sum", tree.display());
        succeed(Command::new("/bin/sh").args(["-c", &sum]))?;
        succeed(Command::new("mksquashfs").arg(&tree).arg(&squashfs).args(["-quiet", "-no-progress"]))?;
        let len = fs::metadata(&squashfs).map_err(wrong("looking at the image"))?.len();
        let shape = json!({
            "files": all.len(), "bytes": all_bytes, "image_bytes": len,
            "read_files": chosen.len(), "read_bytes": chosen.iter().map(|(_, len)| len).sum::<u64>(),
        });
        Ok(Self { squashfs, shape })
    }
}

/// Plain files whose names are plain words, with their sizes.
fn files_find(folder: &Path, found: &mut Vec<(PathBuf, u64)>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let facts = entry.metadata()?;
        let name = entry.file_name();
        let is_plain = name.to_str().is_some_and(|name| !name.contains(['\'', '"', '\\', ' ', '\n']));
        match facts.file_type() {
            kind if kind.is_dir() => files_find(&entry.path(), found)?,
            kind if kind.is_file() && is_plain && facts.permissions().mode() & 0o400 != 0 => {
                found.push((entry.path(), facts.len()));
            }
            _ => {}
        }
    }
    Ok(())
}

pub(crate) fn succeed(command: &mut Command) -> Tried<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.output().map_err(wrong(&name))?;
    match out.status.success() {
        true => Ok(()),
        false => Err(format!("{name}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr).trim())),
    }
}
