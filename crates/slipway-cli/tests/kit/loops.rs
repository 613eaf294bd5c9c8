//! Loop devices: disks for those who are root.

use super::{text, tool, tool_run};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A file as a block device; detached when dropped.
pub struct Loop {
    pub device: PathBuf,
    pub file: PathBuf,
}

impl Loop {
    /// A new disk of this size with sectors of this size.
    pub fn new(file: &Path, size: u64, sector_size: u32) -> Self {
        File::create(file).unwrap().set_len(size).unwrap();
        Self::of(file, sector_size)
    }

    /// What the kernel calls it.
    pub fn name(&self) -> &str {
        text(&self.device).trim_start_matches("/dev/")
    }

    /// A file as a disk.
    pub fn of(file: &Path, sector_size: u32) -> Self {
        let sector_size = sector_size.to_string();
        let said = tool_run("losetup", &["--find", "--show", "--partscan", "-b", &sector_size, text(file)]);
        Self { device: said.trim().into(), file: file.to_owned() }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new(tool("losetup")).arg("-d").arg(&self.device).stderr(Stdio::null()).status();
    }
}

/// A mounted file system; unmounted when dropped.
pub struct Mount {
    pub at: PathBuf,
}

impl Mount {
    /// Mounts with these words before the folder, which is made.
    pub fn new(words: &[&str], at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let mut all = words.to_vec();
        all.push(text(at));
        tool_run("mount", &all);
        Self { at: at.to_owned() }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new(tool("umount")).arg("-l").arg(&self.at).stderr(Stdio::null()).status();
    }
}
