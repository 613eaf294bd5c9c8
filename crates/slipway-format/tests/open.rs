//! Images in streams and archives in each other: found by content, opened down to the disk, kept in a file without a name where they must be.

#![allow(clippy::unwrap_used)]

mod kit;
mod made;

use kit::{LIMITS, path, raw_image, read_all, run};
use slipway_chunk::Stream;
use slipway_format::{
    Bytes, DiskAhead, DiskError, FileAt, Format, Input, Looked, Said, Spool, StreamError, Wrap, image_look, image_open,
};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

fn packed(tool: &str, bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(tool).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, bytes) = (child.stdin.take().unwrap(), bytes.to_vec());
    let feeding = std::thread::spawn(move || input.write_all(&bytes).unwrap());
    let out = child.wait_with_output().unwrap().stdout;
    feeding.join().unwrap();
    out
}

fn made(dir: &Path, raw: &[u8], format: &str, options: &[&str]) -> Vec<u8> {
    let (plain, image) = (dir.join("plain"), dir.join("image"));
    std::fs::write(&plain, raw).unwrap();
    let args = [&["convert", "-f", "raw", "-O", format], options, &[path(&plain), path(&image)]].concat();
    run("qemu-img", &args);
    std::fs::read(&image).unwrap()
}

/// Both ways in: as a file, and as a stream. Gives the source format and the raw bytes of each.
fn opened(dir: &Path, bytes: &[u8], said: Said) -> Vec<io::Result<(String, Vec<u8>)>> {
    let file = dir.join("file");
    std::fs::write(&file, bytes).unwrap();
    let spools = dir.join("spools");
    std::fs::create_dir_all(&spools).unwrap();
    let inputs = [
        Input::At(Box::new(FileAt::new(File::open(&file).unwrap()).unwrap())),
        Input::Stream(Box::new(io::Cursor::new(bytes.to_vec()))),
    ];
    let results = inputs.map(|input| {
        let opened = image_open(input, said, &mut Spool::new(&spools, 64 << 20), &LIMITS)?;
        let name = opened.layers.name();
        match opened.bytes {
            Bytes::Disk(disk) => {
                let size = disk.size();
                Ok((name, read_all(DiskAhead::new(disk)?, size, 300_000)?))
            }
            Bytes::Stream(stream) => {
                let vhd = stream.was_vhd();
                let raw = read_all(Stream(stream), u64::MAX, 300_000)?;
                let name = if vhd.load(Ordering::Acquire) { name.replacen("raw", "vhd", 1) } else { name };
                Ok((name, raw))
            }
        }
    });
    assert_eq!(std::fs::read_dir(&spools).unwrap().count(), 0, "a temporary file was left behind");
    results.into()
}

fn check(dir: &Path, bytes: &[u8], said: Said, name: &str, raw: &[u8]) {
    for got in opened(dir, bytes, said) {
        let (found, bytes) = got.unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(found, name);
        assert!(bytes == raw, "{name}");
    }
}

fn refused(dir: &Path, bytes: &[u8], said: Said, words: &str) {
    for got in opened(dir, bytes, said) {
        let why = got.map(|(name, raw)| format!("{name} of {}", raw.len())).unwrap_err();
        assert!(why.to_string().contains(words), "{words}: {why}");
    }
}

#[test]
fn streams_around_images() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let raw = raw_image(1_500_000 / 512 * 512, 5);
    let qcow2 = made(dir, &raw, "qcow2", &["-c"]);
    check(dir, &raw, Said::Auto, "raw", &raw);
    check(dir, &qcow2, Said::Auto, "qcow2", &raw);
    check(dir, &qcow2, Said::Disk(Format::Qcow2), "qcow2", &raw);
    check(dir, &qcow2, Said::Disk(Format::Raw), "raw", &qcow2);
    for (tool, wrap) in [("gzip", Wrap::Gzip), ("xz", Wrap::Xz), ("zstd", Wrap::Zstd)] {
        check(dir, &packed(tool, &raw), Said::Auto, &format!("raw.{}", wrap.ending()), &raw);
        let around = packed(tool, &qcow2);
        let name = format!("qcow2.{}", wrap.ending());
        for said in [Said::Auto, Said::Wrapped(wrap), Said::Disk(Format::Qcow2)] {
            check(dir, &around, said, &name, &raw);
        }
        check(dir, &around, Said::Disk(Format::Raw), "raw", &around);
        check(dir, &packed("gzip", &around), Said::Auto, &format!("{name}.gz"), &raw);
    }
}

#[test]
fn archives_around_images() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let raw = raw_image(1_200_000 / 512 * 512, 9);
    for (format, qemu, options) in [
        (Format::Raw, "raw", &[][..]),
        (Format::Qcow2, "qcow2", &["-c"]),
        (Format::Vmdk, "vmdk", &["-o", "subformat=streamOptimized"]),
        (Format::Vhdx, "vhdx", &[]),
        (Format::Vdi, "vdi", &[]),
    ] {
        let image = made(dir, &raw, qemu, options);
        let name = format.name();
        // Some formats round a disk's size up.
        let wanted = if format == Format::Raw { raw.clone() } else { kit::qemu_raw(&dir.join("image"), qemu) };
        let stored = made::zip::archive(&[made::zip::stored("disk.img", &image)], false);
        let deflated = made::zip::archive(&[made::zip::deflated("disk.img", &image)], false);
        std::fs::write(dir.join("disk.img"), &image).unwrap();
        run("tar", &["-C", path(dir), "-cf", path(&dir.join("a.tar")), "disk.img"]);
        let tar = std::fs::read(dir.join("a.tar")).unwrap();
        check(dir, &stored, Said::Auto, &format!("{name}.zip"), &wanted);
        check(dir, &deflated, Said::Auto, &format!("{name}.zip"), &wanted);
        check(dir, &tar, Said::Auto, &format!("{name}.tar"), &wanted);
        check(dir, &packed("gzip", &tar), Said::Auto, &format!("{name}.tar.gz"), &wanted);
        check(
            dir,
            &packed("zstd", &deflated),
            Said::Archive(slipway_format::Archive::Zip),
            &format!("{name}.zip.zst"),
            &wanted,
        );
        let inner = packed("xz", &image);
        let inner = made::zip::archive(&[made::zip::deflated("disk.img.xz", &inner)], false);
        check(dir, &inner, Said::Auto, &format!("{name}.xz.zip"), &wanted);
        if format != Format::Raw {
            check(dir, &deflated, Said::Disk(format), &format!("{name}.zip"), &wanted);
        }
    }
}

#[test]
fn a_fixed_vhd_is_one_by_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let raw = raw_image(1 << 20, 6);
    let vhd = made(dir, &raw, "vpc", &["-o", "subformat=fixed,force_size=on"]);
    assert_eq!(vhd.len(), raw.len() + 512);
    // A stream is read as it comes and loses its footer at the end.
    let stream = |bytes: &[u8], said| opened(dir, bytes, said).pop().unwrap();
    assert!(stream(&vhd, Said::Auto).unwrap() == ("vhd".into(), raw.clone()));
    assert!(stream(&packed("gzip", &vhd), Said::Auto).unwrap() == ("vhd.gz".into(), raw.clone()));
    check(dir, &vhd, Said::Disk(Format::Raw), "raw", &vhd);
    // One that describes a smaller disk cannot be cut off any more.
    let longer = [&[1; 512][..], &vhd].concat();
    let why = stream(&longer, Said::Auto).unwrap_err();
    assert!(why.to_string().contains("describes another disk"), "{why}");
    // A footer whose checksum does not fit is bytes.
    let mut bytes = vhd.clone();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    check(dir, &bytes, Said::Auto, "raw", &bytes);
}

#[test]
fn what_is_wrong_is_said_of_the_right_layer() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let raw = raw_image(600_000 / 512 * 512, 7);
    let qcow2 = made(dir, &raw, "qcow2", &[]);
    let mut backed = qcow2.clone();
    backed[8..20].copy_from_slice(&[0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 11]);
    backed[256..267].copy_from_slice(b"/etc/passwd");
    refused(dir, &backed, Said::Auto, "backing file");
    refused(dir, &packed("xz", &backed), Said::Auto, "backing file");
    refused(dir, &backed, Said::Disk(Format::Qcow2), "backing file");
    refused(dir, &raw, Said::Disk(Format::Qcow2), "no qcow2 image");
    refused(dir, &raw, Said::Wrapped(Wrap::Xz), "no xz stream");
    refused(dir, &packed("gzip", &raw), Said::Wrapped(Wrap::Xz), "no xz stream");
    refused(dir, &[], Said::Auto, "it is empty");
    refused(dir, &packed("gzip", &[]), Said::Auto, "it is empty");
    refused(dir, &packed("gzip", b"QED\0 and more"), Said::Auto, "QED");
    let cut = packed("gzip", &qcow2);
    refused(dir, &cut[..cut.len() / 2], Said::Auto, "cut off");
    let nested = (0..6).fold(raw.clone(), |inner, _| packed("gzip", &inner));
    refused(dir, &nested, Said::Auto, "lie in each other");
    let mut zip_behind = raw.clone();
    let at = zip_behind.len() as u32;
    let mut record = b"PK\x05\x06".to_vec();
    record.resize(22, 0);
    record[16..20].copy_from_slice(&at.to_le_bytes());
    zip_behind.extend(record);
    refused(dir, &zip_behind, Said::Auto, "two formats at once");
    check(dir, &zip_behind, Said::Disk(Format::Raw), "raw", &zip_behind);
}

#[test]
fn what_does_not_fit_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let bomb = packed("gzip", &[b"QFI\xfb\0\0\0\x03".repeat(8), vec![7; 80 << 20]].concat());
    assert!(bomb.len() < 1 << 20);
    let why = opened(dir.path(), &bomb, Said::Auto).pop().unwrap().unwrap_err();
    assert!(why.to_string().contains("more than 67108864 bytes"), "{why}");
    let limits = slipway_format::Limits { size_max: 1 << 20 };
    let input = Input::Stream(Box::new(io::Cursor::new(bomb)));
    let why = image_open(input, Said::Auto, &mut Spool::new(dir.path(), 1 << 30), &limits).map(|_| ()).unwrap_err();
    assert!(why.get_ref().is_some_and(|inner| inner.is::<StreamError>()), "{why}");
}

#[test]
fn a_look_keeps_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let raw = raw_image(100_000 / 512 * 512, 8);
    let qcow2 = packed("zstd", &made(dir.path(), &raw, "qcow2", &[]));
    let look = |bytes: Vec<u8>| image_look(Input::Stream(Box::new(io::Cursor::new(bytes))), Said::Auto, &LIMITS);
    let Looked::Held(held) = look(qcow2).unwrap() else { panic!("it was opened without being kept") };
    assert_eq!(held.said(), "zstd stream, in it qcow2 image");
    let opened = held.open(&mut Spool::new(dir.path(), 1 << 20), &LIMITS).unwrap();
    assert_eq!(opened.layers.said(), "zstd stream, in it qcow2 image");
    assert!(matches!(look(packed("xz", &raw)).unwrap(), Looked::Opened(opened) if opened.layers.name() == "raw.xz"));
    let why = look(b"Rar!\x1a\x07 and more".to_vec()).map(|_| ()).unwrap_err();
    assert!(why.get_ref().is_some_and(|inner| inner.is::<DiskError>()), "{why}");
}
