//! Loop devices as targets. They need root, so they run only when asked for: `cargo test -- --ignored`.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use slipway_chunk::{Fill, SparseRead, is_zero};
use slipway_disk::{
    Fault, Faults, Op, Shape, SparseFile, TargetError, TargetKind, TargetOptions, target_open, target_open_to_read,
};
use support::{MIB, differing, flash, gpt_put, noise, read, scratch};

const PLAIN: TargetOptions = TargetOptions { create: false, grow: false };

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A loop device over a file of its own, detached at the end.
struct Loop {
    folder: tempfile::TempDir,
    backing: PathBuf,
    device: PathBuf,
}

impl Loop {
    fn over(content: &[u8], options: &[&str]) -> Loop {
        let (folder, backing) = scratch();
        fs::write(&backing, content).unwrap();
        let backing_text = backing.to_string_lossy().into_owned();
        let mut args = vec!["--find", "--show"];
        args.extend(options);
        args.push(&backing_text);
        let device = PathBuf::from(run("losetup", &args));
        Loop { folder, backing, device }
    }

    fn content(&self) -> Vec<u8> {
        let mut bytes = vec![0; fs::metadata(&self.backing).unwrap().len() as usize];
        SparseFile::open(&self.device).unwrap().read_exact_at(0, &mut bytes).unwrap();
        bytes
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

/// Detaches at once, or when the last other program that looks at the device closes it: that is waited for.
fn detach(device: &Path) {
    run("losetup", &["--detach", &device.to_string_lossy()]);
    let backing = Path::new("/sys/class/block").join(device.file_name().unwrap()).join("loop/backing_file");
    for _ in 0..200 {
        if !backing.exists() {
            return;
        }
        sleep(Duration::from_millis(10));
    }
    panic!("{} stays attached", device.display());
}

/// A mount, undone at the end.
struct Mounted(PathBuf);

impl Mounted {
    fn of(device: &Path, at: PathBuf) -> Mounted {
        fs::create_dir_all(&at).unwrap();
        run("mount", &[&device.to_string_lossy(), &at.to_string_lossy()]);
        Mounted(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn refused(path: &Path, size: usize, sector_size: u32) -> TargetError {
    let shape = Shape { size: size as u64, sector_size };
    target_open(path, &shape, &PLAIN, Faults::none()).err().expect("it must be refused")
}

#[test]
#[ignore = "needs root"]
fn root_round_trips_over_each_other() {
    fn check(sector: usize, size: usize, tail: usize) {
        let mut old = noise(1, (size + tail).next_multiple_of(4096));
        gpt_put(&mut old, sector);
        let mut image = old[..size].to_vec();
        if size.is_multiple_of(sector) && size > MIB {
            gpt_put(&mut image, sector);
        }
        if size > 3 * MIB {
            image[2 * MIB..2 * MIB + 300_000].fill(0);
            image[size - 10_000..size - 5_000].copy_from_slice(&noise(3, 5_000));
        }
        let device = Loop::over(&old, &["--sector-size", &sector.to_string()]);
        let shape = Shape { size: size as u64, sector_size: sector as u32 };
        let target = target_open(&device.device, &shape, &PLAIN, Faults::none()).unwrap();
        let facts = target.facts().clone();
        assert_eq!((facts.kind, facts.size, facts.sector_size), (TargetKind::Device, old.len() as u64, sector as u32));
        assert!(facts.direct && !facts.fresh, "{facts:?}");
        assert_eq!(
            facts.old_backup_gpt,
            old.len() - sector >= size || !size.is_multiple_of(sector),
            "{sector} {size} {tail}"
        );
        drop(target);
        let faults = Faults::nth(u64::MAX, Fault::Error);
        let sealed = flash(&device.device, &image, &shape, faults.clone()).unwrap();
        let after = device.content();
        assert!(after[..size] == image[..], "{sector} {size} {tail}");
        assert_eq!(sealed.written + sealed.zeroed, differing(&image, &old[..size]), "{sector} {size} {tail}");
        assert!(!sealed.changed || !faults.log().contains(&Op::Punch) || sealed.zeroed > 0);
        if facts.old_backup_gpt && sealed.changed {
            let end = old.len() - sector;
            let ours = size.max(end);
            assert!(is_zero(&after[ours..]), "the old backup header");
            assert!(after[size..end.max(size)] == old[size..end.max(size)], "the tail");
        } else {
            assert!(after[size..] == old[size..], "the tail");
        }
        assert_eq!(sealed.reread, None, "{sector} {size}");
        assert!(!flash(&device.device, &image, &shape, Faults::none()).unwrap().changed);
        assert!(read(&device.backing).len() == old.len());
    }
    for sector in [512, 4096] {
        check(sector, 4 * MIB, 0);
        check(sector, 4 * MIB, MIB);
        check(sector, 4 * MIB + 8192, 4096);
        check(sector, 4 * MIB + 700, 9000);
        check(sector, 4 * MIB + 4095, 0);
        check(sector, 8192, MIB);
    }
    check(512, 4 * MIB + 512, 512);
}

#[test]
#[ignore = "needs root"]
fn root_every_operation_fails_on_a_device() {
    let mut old = noise(1, 3 * MIB);
    gpt_put(&mut old, 512);
    let mut image = old[..2 * MIB].to_vec();
    gpt_put(&mut image, 512);
    image[MIB + 4096..MIB + 8192].fill(0);
    image[MIB + 200_000..MIB + 260_000].copy_from_slice(&noise(4, 60_000));
    let device = Loop::over(&old, &[]);
    let shape = Shape { size: image.len() as u64, sector_size: 512 };
    for fault in [Fault::Error, Fault::ShortWrite, Fault::Gone] {
        for n in 0.. {
            let faults = Faults::nth(n, fault);
            let result = flash(&device.device, &image, &shape, faults.clone());
            let found = device.content();
            if faults.seen() <= n {
                assert!(result.is_ok() && n > 20, "{n}");
                break;
            }
            assert!(result.is_err(), "operation {n} {fault:?}");
            // Gone after the last write: the image is whole, only nobody could confirm it.
            let whole = found[..2 * MIB] == image[..] && is_zero(&found[3 * MIB - 512..]);
            let bare = is_zero(&found[..8192]);
            assert!(found == old || whole || bare, "operation {n} {fault:?}: a mixture that has a boot sector");
            let tail = 2 * MIB..3 * MIB - 512;
            assert!(found[tail.clone()] == old[tail], "operation {n} {fault:?}: the tail");
            // Back to the old version, tail and its header included.
            flash(&device.device, &old, &Shape { size: old.len() as u64, ..shape }, Faults::none()).unwrap();
            assert!(device.content() == old);
        }
        flash(&device.device, &old, &Shape { size: old.len() as u64, ..shape }, Faults::none()).unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn root_what_does_not_fit() {
    let device = Loop::over(&noise(1, 2 * MIB), &[]);
    assert!(
        matches!(refused(&device.device, 2 * MIB + 1, 512), TargetError::TooSmall { size, .. } if size == 2 * MIB as u64)
    );
    assert!(matches!(refused(&device.device, MIB, 4096), TargetError::SectorSize { target: 512, image: 4096, .. }));
    let large = Loop::over(&noise(1, 2 * MIB), &["--sector-size", "4096"]);
    assert!(matches!(refused(&large.device, MIB, 512), TargetError::SectorSize { target: 4096, image: 512, .. }));
    let fixed = Loop::over(&noise(1, 2 * MIB), &["--read-only"]);
    assert!(matches!(refused(&fixed.device, MIB, 512), TargetError::ReadOnly(_)));
    // The file behind a loop device, and a device under another loop device.
    assert!(matches!(refused(&device.backing, MIB, 512), TargetError::Held { .. }));
    let upper = PathBuf::from(run("losetup", &["--find", "--show", &device.device.to_string_lossy()]));
    let error = refused(&device.device, MIB, 512);
    detach(&upper);
    assert!(matches!(error, TargetError::Held { .. }), "{error}");
    // A second flash to the same device.
    let first = target_open(&device.device, &Shape { size: 4096, sector_size: 512 }, &PLAIN, Faults::none()).unwrap();
    assert!(matches!(refused(&device.device, MIB, 512), TargetError::Busy(_)));
    drop(first);
    // A detached loop device is there, and empty.
    let name = device.device.clone();
    drop(device);
    let error = refused(&name, MIB, 512);
    assert!(matches!(error, TargetError::NoMedium(_) | TargetError::Missing(_)), "{error}");
}

#[test]
#[ignore = "needs root"]
fn root_mounted_targets() {
    let device = Loop::over(&vec![0; 32 * MIB], &[]);
    run("mkfs.ext4", &["-q", &device.device.to_string_lossy()]);
    let mounted = Mounted::of(&device.device, device.folder.path().join("mount point"));
    let before = device.content();
    match refused(&device.device, MIB, 512) {
        TargetError::Mounted { at, device: name, .. } => {
            assert_eq!(Path::new(&at), mounted.0);
            assert!(device.device.ends_with(name));
        }
        other => panic!("{other}"),
    }
    assert!(device.content() == before);
    let source = SparseFile::open(&device.device).unwrap();
    assert_eq!(source.mounted_at().map(Path::new), Some(&*mounted.0));
    drop(mounted);
    assert!(target_open(&device.device, &Shape { size: 4096, sector_size: 512 }, &PLAIN, Faults::none()).is_ok());
    assert_eq!(SparseFile::open(&device.device).unwrap().mounted_at(), None);
}

#[test]
#[ignore = "needs root"]
fn root_a_file_behind_a_mounted_loop_device() {
    let device = Loop::over(&vec![0; 32 * MIB], &[]);
    let seen = |path: &Path| SparseFile::open(path).unwrap().mounted_at().map(PathBuf::from);
    run("mkfs.ext4", &["-q", &device.device.to_string_lossy()]);
    assert_eq!(seen(&device.backing), None, "a loop device that nothing is mounted from changes nothing");
    let at = device.folder.path().join("mount");
    let mounted = Mounted::of(&device.device, at.clone());
    let other = device.folder.path().join("other");
    fs::write(&other, [1]).unwrap();
    let link = device.folder.path().join("link");
    symlink(&device.backing, &link).unwrap();
    assert_eq!([seen(&device.backing), seen(&link), seen(&other)], [Some(at.clone()), Some(at.clone()), None]);
    let shape = Shape { size: MIB as u64, sector_size: 512 };
    let reader = target_open_to_read(&device.backing, &shape, Faults::none()).unwrap();
    assert_eq!(reader.mounted_at().map(Path::new), Some(&*at));
    run("mount", &["-o", "remount,ro", &at.to_string_lossy()]);
    assert_eq!(seen(&device.backing), None, "a file system that may not write");
    drop(mounted);
    assert_eq!(seen(&device.backing), None);
}

#[test]
#[ignore = "needs root"]
fn root_devices_that_are_only_read() {
    let bytes = noise(1, 2 * MIB);
    let shape = Shape { size: bytes.len() as u64, sector_size: 512 };
    let locked = Loop::over(&bytes, &["--read-only"]);
    assert!(matches!(refused(&locked.device, bytes.len(), 512), TargetError::ReadOnly(_)));
    let link = locked.folder.path().join("by-id");
    symlink(&locked.device, &link).unwrap();
    let mut reader = target_open_to_read(&link, &shape, Faults::none()).unwrap();
    let facts = reader.facts();
    assert_eq!((facts.kind, facts.direct, &facts.path), (TargetKind::Device, true, &locked.device));
    assert!(reader.read(0, bytes.len()).unwrap() == bytes && reader.mounted_at().is_none());
    drop(reader);

    let device = Loop::over(&vec![0; 32 * MIB], &[]);
    run("mkfs.ext4", &["-q", &device.device.to_string_lossy()]);
    let mounted = Mounted::of(&device.device, device.folder.path().join("mount"));
    let mut reader = target_open_to_read(&device.device, &shape, Faults::none()).unwrap();
    assert_eq!(reader.mounted_at().map(Path::new), Some(&*mounted.0));
    assert_eq!(reader.read(1080, 2).unwrap(), [0x53, 0xef], "the magic number of ext4");
    drop(reader);
    let other = Shape { sector_size: 4096, ..shape };
    let error = target_open_to_read(&device.device, &other, Faults::none()).err().unwrap();
    assert!(matches!(error, TargetError::SectorSize { target: 512, image: 4096, .. }), "{error}");
}

#[test]
#[ignore = "needs root"]
fn root_a_mounted_partition_and_a_new_table() {
    let device = Loop::over(&vec![0; 40 * MIB], &["--partscan"]);
    let name = device.device.to_string_lossy().into_owned();
    run("sgdisk", &["--new=1:2048:+16M", "--new=2:0:0", &name]);
    let part = PathBuf::from(format!("{name}p1"));
    // A kernel built without GPT support learns partitions from partx only.
    let kernel_reads_gpt = part.exists();
    if !kernel_reads_gpt {
        run("partx", &["--update", &name]);
    }
    assert!(part.exists(), "the kernel shows partitions of a loop device");
    run("mkfs.ext4", &["-q", &part.to_string_lossy()]);
    let mounted = Mounted::of(&part, device.folder.path().join("mount"));
    for path in [&device.device, &part] {
        let error = refused(path, MIB, 512);
        assert!(matches!(error, TargetError::Mounted { .. }), "{error}");
    }
    // A partition beside the mounted one is free.
    let other = PathBuf::from(format!("{name}p2"));
    assert!(target_open(&other, &Shape { size: 4096, sector_size: 512 }, &PLAIN, Faults::none()).is_ok());
    drop(mounted);
    // A whole image with one partition: afterwards the kernel shows that one only.
    let image_file = device.folder.path().join("image");
    fs::write(&image_file, vec![0; 40 * MIB]).unwrap();
    run("sgdisk", &["--new=7:4096:+8M", &image_file.to_string_lossy()]);
    let image = read(&image_file);
    let shape = Shape { size: image.len() as u64, sector_size: 512 };
    let sealed = flash(&device.device, &image, &shape, Faults::none()).unwrap();
    assert_eq!(sealed.reread, None);
    assert!(device.content() == image);
    let folder = Path::new("/sys/class/block").join(device.device.file_name().unwrap());
    let shown = |n: u32| folder.join(format!("{}p{n}", device.device.file_name().unwrap().to_string_lossy())).exists();
    assert_eq!([shown(1), shown(2), shown(7)], [false, false, kernel_reads_gpt]);
}

#[test]
#[ignore = "needs root"]
fn root_links_lead_to_devices_only() {
    let device = Loop::over(&noise(1, 2 * MIB), &[]);
    let link = device.folder.path().join("by-id");
    symlink(&device.device, &link).unwrap();
    let target = target_open(&link, &Shape { size: MIB as u64, sector_size: 512 }, &PLAIN, Faults::none()).unwrap();
    assert_eq!(target.facts().path, device.device);
}

#[test]
#[ignore = "needs root"]
fn root_the_systems_own_disk() {
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = info.lines().rfind(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    let source = PathBuf::from(root.split(" - ").nth(1).unwrap().split(' ').nth(1).unwrap());
    if !source.exists() {
        println!("the root file system is not on a block device here");
        return;
    }
    let error = refused(&source, 1, 512);
    assert!(matches!(&error, TargetError::System { at, .. } if at == "/"), "{error}");
}

#[test]
#[ignore = "needs root"]
fn root_devices_as_sources() {
    fn read(source: &mut SparseFile, step: usize, until: usize) -> Vec<u8> {
        let (mut got, mut buf) = (Vec::new(), vec![0; step]);
        while got.len() < until {
            match source.fill(&mut buf).unwrap() {
                Fill::Data(len) => got.extend(&buf[..len]),
                Fill::Hole(len) => panic!("a device has no holes, and here is one of {len} bytes"),
                Fill::End => break,
            }
        }
        got
    }
    // Longer than what is read ahead, and no multiple of it.
    let bytes = noise(1, 9 * MIB + 4096);
    let device = Loop::over(&bytes, &["--sector-size", "4096"]);
    let mut source = SparseFile::open(&device.device).unwrap();
    assert_eq!((source.size(), source.sector_size()), (bytes.len() as u64, Some(4096)));
    for step in [300_000, 1 << 20, 1 << 24] {
        assert!(read(&mut source, step, usize::MAX) == bytes, "{step}");
        assert!(matches!(source.fill(&mut [0; 4096]).unwrap(), Fill::End));
        source.rewind();
        let some = read(&mut source, step, 3 * MIB);
        assert!(some == bytes[..some.len()]);
        source.rewind();
    }
    // What was written through the page cache is seen past it.
    let cached = noise(2, 8192);
    fs::File::options().write(true).open(&device.device).unwrap().write_all_at(&cached, 5 << 20).unwrap();
    let got = read(&mut source, 1 << 20, usize::MAX);
    assert!(got[5 << 20..(5 << 20) + 8192] == cached && got[..5 << 20] == bytes[..5 << 20]);
    // By another name of it.
    let folder = tempfile::tempdir().unwrap();
    symlink(&device.device, folder.path().join("disk")).unwrap();
    let mut source = SparseFile::open(&folder.path().join("disk")).unwrap();
    assert!(read(&mut source, 1 << 20, usize::MAX) == got);
    // And when that name has gone since.
    source.rewind();
    fs::remove_file(folder.path().join("disk")).unwrap();
    assert!(read(&mut source, 1 << 20, usize::MAX) == got);
}

#[test]
#[ignore = "needs root"]
fn root_swap_space() {
    let device = Loop::over(&vec![0; 4 * MIB], &[]);
    run("mkswap", &[&device.device.to_string_lossy()]);
    if !Command::new("swapon").arg(&device.device).status().unwrap().success() {
        println!("this kernel has no swap");
        return;
    }
    let error = refused(&device.device, MIB, 512);
    run("swapoff", &[&device.device.to_string_lossy()]);
    assert!(matches!(error, TargetError::Swap { .. }), "{error}");
    let shape = Shape { size: MIB as u64, sector_size: 512 };
    assert!(matches!(flash(&device.device, &noise(1, MIB), &shape, Faults::none()), Ok(sealed) if sealed.changed));
}
