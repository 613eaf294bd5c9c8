//! Loop devices as disks that are flashed.

use super::dataset::{data_extents, sparse_copy};
use crate::run::read;
use crate::tools::command;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

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
        // As a disk is: nothing of it is kept in this machine's memory, beside what a program's own cached writes and reads keep.
        let said = read(command("losetup").args(["--direct-io=on", "--find", "--show"]).arg(file))?;
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

    /// Whether it begins with exactly the bytes of the image, read past the page cache of the device. Where neither the image nor the
    /// disk's file holds anything both are zero, and nothing is read.
    pub(super) fn check(&self, image: &Path) -> Result<()> {
        read(command("blockdev").arg("--flushbufs").arg(&self.at))?;
        let size = std::fs::metadata(image).context("looking at an image")?.len();
        let (wanted, device) =
            (File::open(image).context("opening an image")?, File::open(&self.at).context("opening a disk")?);
        let mut extents = data_extents(image)?;
        extents.extend(data_extents(&self.file)?);
        extents.sort_unstable();
        let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        let mut done = 0;
        for (begin, end) in extents {
            let (mut at, end) = (done.max(begin), end.min(size));
            while at < end {
                let len = (end - at).min(left.len() as u64) as usize;
                wanted.read_exact_at(&mut left[..len], at).context("reading an image")?;
                device.read_exact_at(&mut right[..len], at).context("reading a disk")?;
                ensure!(left[..len] == right[..len], "the disk does not hold the image: they differ after byte {at}");
                at += len as u64;
            }
            done = done.max(end);
        }
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = command("losetup").arg("-d").arg(&self.at).status();
        let _ = std::fs::remove_file(&self.file);
    }
}
