//! Loop devices as disks that are flashed.

use super::dataset::sparse_copy;
use crate::run::read;
use crate::tools::command;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop device over a file of its own; both go when it is dropped.
pub(super) struct Device {
    file: PathBuf,
    at: PathBuf,
}

impl Device {
    /// An empty disk: every block reads as zeros, and none has room in the file yet.
    pub(super) fn empty(file: &Path, size: u64) -> Result<Self> {
        File::create(file).and_then(|made| made.set_len(size)).context("making a file for a disk")?;
        Self::over(file)
    }

    /// A disk that holds an image.
    pub(super) fn holding(file: &Path, image: &Path) -> Result<Self> {
        sparse_copy(image, file)?;
        File::open(file).and_then(|made| made.sync_all()).context("flushing a disk's file")?;
        Self::over(file)
    }

    fn over(file: &Path) -> Result<Self> {
        let said = read(command("losetup").args(["--find", "--show"]).arg(file))?;
        Ok(Self { file: file.to_owned(), at: PathBuf::from(said.trim()) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.at
    }

    /// MB that the kernel has sent to it so far, zeroed ranges included.
    pub(super) fn written_mb(&self) -> Result<f64> {
        let name = self.at.file_name().context("a device has a name")?;
        let path = Path::new("/sys/block").join(name).join("stat");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        // Field 7: sectors of 512 bytes that were written (Documentation/block/stat.rst).
        let sectors = text.split_whitespace().nth(6).and_then(|number| number.parse::<f64>().ok());
        Ok(sectors.with_context(|| format!("{} says {text:?}", path.display()))? * 512.0 / 1e6)
    }

    /// Whether it begins with exactly the bytes of the image, read past the page cache of the device.
    pub(super) fn check(&self, image: &Path) -> Result<()> {
        read(command("blockdev").arg("--flushbufs").arg(&self.at))?;
        let size = std::fs::metadata(image).context("looking at an image")?.len();
        let same = Command::new("cmp").args(["-n", &size.to_string()]).arg(image).arg(&self.at).output();
        let same = same.context("starting cmp")?;
        ensure!(
            same.status.success(),
            "the disk does not hold the image: {}",
            String::from_utf8_lossy(&same.stdout).trim()
        );
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = command("losetup").arg("-d").arg(&self.at).status();
        let _ = std::fs::remove_file(&self.file);
    }
}
