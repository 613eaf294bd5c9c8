//! Real images: an ext4 file system made of this machine's own files, and a changed copy of it.

use crate::run::{read, run};
use crate::tools::command;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// How large an image is, and how many bytes of this machine's files go into it.
pub(crate) struct Scale {
    pub(crate) image: u64,
    pub(crate) tree: u64,
}

/// Seconds to make, and enough to show something.
pub(crate) const DEMO: Scale = Scale { image: 1 << 30, tree: 240 << 20 };

/// Copies regular files of `from` in name order until `left` is used up.
pub(crate) fn tree_fill(from: &Path, to: &Path, left: &mut u64) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    let Ok(folder) = fs::read_dir(from) else { return Ok(()) };
    let mut entries: Vec<_> = folder.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let Ok(facts) = entry.metadata() else { continue };
        if *left == 0 {
            return Ok(());
        }
        let target = to.join(entry.file_name());
        if facts.is_dir() {
            tree_fill(&entry.path(), &target, left)?;
        } else if facts.is_file() && facts.len() <= 16 << 20 && fs::copy(entry.path(), &target).is_ok() {
            *left = left.saturating_sub(facts.len().max(4096));
        }
    }
    Ok(())
}

/// Makes an ext4 image with some of this machine's files. Needs no root and no mount.
pub(crate) fn make(tree: &Path, image: &Path, scale: &Scale) -> Result<()> {
    let mut left = scale.tree;
    for folder in ["/usr/bin", "/usr/share/doc", "/usr/lib/x86_64-linux-gnu", "/usr/share"] {
        let share = left.min(scale.tree / 3);
        let mut unused = share;
        tree_fill(Path::new(folder), &tree.join(folder.trim_start_matches('/')), &mut unused)?;
        left -= share - unused;
    }
    File::create(image).and_then(|f| f.set_len(scale.image)).with_context(|| format!("making {}", image.display()))?;
    run(command("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-L", "slipway-demo", "-E", "root_owner=0:0", "-d"])
        .arg(tree)
        .arg(image))?;
    fs::remove_dir_all(tree).with_context(|| format!("removing {}", tree.display()))?;
    println!(
        "Made {}: an ext4 image of {} MiB with {} MiB of this machine's files",
        image.display(),
        scale.image >> 20,
        (scale.tree - left) >> 20
    );
    Ok(())
}

/// A sparse copy.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").args(["--sparse=always", "--"]).arg(from).arg(to))
}

fn is_ext4(image: &Path) -> Result<bool> {
    let mut magic = [0; 2];
    let file = File::open(image).with_context(|| format!("opening {}", image.display()))?;
    Ok(file.read_exact_at(&mut magic, 1080).is_ok() && magic == [0x53, 0xef])
}

/// Makes `to` a copy of `from` in which some files (or, where it is no ext4, some bytes) are changed.
pub(crate) fn change(from: &Path, to: &Path) -> Result<()> {
    copy(from, to)?;
    if !is_ext4(to)? {
        let mut file = File::options().write(true).open(to).with_context(|| format!("opening {}", to.display()))?;
        let middle = file.seek(SeekFrom::End(0))? / 2;
        file.seek(SeekFrom::Start(middle))?;
        file.write_all(&b"changed by the demo\n".repeat(4096)).with_context(|| format!("changing {}", to.display()))?;
        println!("\nChanged 80 KiB in the middle of a copy of the image");
        return Ok(());
    }
    let folder = to.parent().expect("the image lies in our folder");
    let (note, noise) = (folder.join("note"), folder.join("noise"));
    fs::write(&note, "This file came with version 1.\n".repeat(10_000)).context("writing a file for the image")?;
    let mut random = Vec::new();
    File::open("/dev/urandom")
        .and_then(|f| f.take(6 << 20).read_to_end(&mut random))
        .context("reading random bytes")?;
    fs::write(&noise, random).context("writing a file for the image")?;
    for request in [format!("write {} note.txt", note.display()), format!("write {} noise.bin", noise.display())] {
        read(command("debugfs").args(["-w", "-R", &request]).arg(to))?;
    }
    let listed = read(command("debugfs").args(["-R", "ls /"]).arg(to))?;
    ensure!(listed.contains("note.txt") && listed.contains("noise.bin"), "debugfs did not add the files: {listed}");
    println!("\nAdded two files (0.3 MB of text, 6.3 MB of noise) to a copy of the image");
    Ok(())
}

/// Whether the target begins with exactly the bytes of the image.
pub(crate) fn prefix_equal(image: &Path, target: &Path) -> Result<bool> {
    let open = |path: &Path| File::open(path).with_context(|| format!("opening {}", path.display()));
    let (mut image, mut target) = (open(image)?, open(target)?);
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = image.read(&mut a).context("reading the image")?;
        if count == 0 {
            return Ok(true);
        }
        target.read_exact(&mut b[..count]).context("reading the target")?;
        if a[..count] != b[..count] {
            return Ok(false);
        }
    }
}
