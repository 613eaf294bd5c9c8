//! Disks inside zip, tar and OVA, good and hostile.

#![allow(clippy::unwrap_used)]

mod kit;
mod made;

use kit::{Dice, path, raw_image, run};
use made::tar;
use made::zip::{self, File, deflated, stored};
use sha2::{Digest, Sha256};
use slipway_format::{Archive, Detected, DiskError, FileAt, Found, Inner, disk_find, format_detect};
use std::io::{self, Read};

/// All bytes of what was found, read in parts of any length.
fn read(found: Found) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match found.bytes {
        Inner::Placed(placed) => {
            assert_eq!(placed.len(), found.size);
            bytes.resize(found.size as usize, 0);
            let (mut at, mut dice) = (0, Dice(found.size));
            while at < bytes.len() {
                let len = (1 + dice.below(100_000) as usize).min(bytes.len() - at);
                placed.read_exact_at(&mut bytes[at..at + len], at as u64)?;
                at += len;
            }
            assert!(placed.read_exact_at(&mut [0], found.size).is_err());
        }
        Inner::Packed(mut packed) => {
            packed.read_to_end(&mut bytes)?;
            assert_eq!(bytes.len() as u64, found.size);
            assert_eq!(packed.read(&mut [0]).unwrap(), 0);
        }
    }
    Ok(bytes)
}

fn found(archive: Archive, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    let found = disk_find(archive, Box::new(bytes)).map_err(|why| why.to_string())?;
    read(found).map_err(|why| why.to_string())
}

fn check(name: &str, archive: Archive, bytes: Vec<u8>, disk: &[u8]) {
    assert_eq!(format_detect(&bytes).unwrap(), Detected::Archive(archive), "{name}");
    match found(archive, bytes) {
        Ok(bytes) => assert!(bytes == disk, "{name}: another file was found"),
        Err(why) => panic!("{name}: {why}"),
    }
}

fn hostile(name: &str, archive: Archive, bytes: Vec<u8>, words: &str) {
    match found(archive, bytes) {
        Ok(bytes) => panic!("{name} was read as {} bytes", bytes.len()),
        Err(why) => assert!(why.contains(words), "{name} was refused with: {why}"),
    }
}

#[test]
fn zip_by_zip() {
    let dir = tempfile::tempdir().unwrap();
    let disk = raw_image(3 << 20, 1);
    std::fs::create_dir(dir.path().join("box")).unwrap();
    std::fs::write(dir.path().join("box/disk.img"), &disk).unwrap();
    std::fs::write(dir.path().join("box/README.txt"), "read me").unwrap();
    for (name, options) in [
        ("deflated", &["-r"][..]),
        ("stored", &["-r", "-0"]),
        ("best", &["-r", "-9"]),
        ("zip64", &["-r", "-fz"]),
        ("without folders", &["-j", "-r"]),
        ("streamed, sizes behind the data", &["-r", "-fd"]),
    ] {
        let archive = dir.path().join(format!("{name}.zip"));
        let command = format!("cd {} && zip -q {} '{}' box", path(dir.path()), options.join(" "), path(&archive));
        run("sh", &["-c", &command]);
        check(name, Archive::Zip, std::fs::read(&archive).unwrap(), &disk);
    }
    let archive = dir.path().join("piped.zip");
    let command = format!("cd {} && zip -q -r - box | cat > '{}'", path(dir.path()), path(&archive));
    run("sh", &["-c", &command]);
    check("piped", Archive::Zip, std::fs::read(&archive).unwrap(), &disk);
}

#[test]
fn zip_by_hand() {
    let disk = raw_image(300_000, 2);
    let readme = || stored("README.md", b"hello");
    let zip = |files: &[File]| zip::archive(files, false);
    check("stored", Archive::Zip, zip(&[stored("disk.img", &disk)]), &disk);
    check("deflated", Archive::Zip, zip(&[deflated("disk.img", &disk)]), &disk);
    check("zip64", Archive::Zip, zip::archive(&[File { large: true, ..deflated("disk.img", &disk) }], true), &disk);
    check("the only file needs no name", Archive::Zip, zip(&[deflated("box", &disk)]), &disk);
    check(
        "beside others",
        Archive::Zip,
        zip(&[readme(), deflated("a/b/DISK.VMDK", &disk), stored("a/sum", b"x")]),
        &disk,
    );
    check("compressed inside", Archive::Zip, zip(&[readme(), stored("disk.raw.zst", &disk)]), &disk);
    let mac = [deflated("disk", &disk), stored("__MACOSX/._disk.img", b"x"), stored(".DS_Store", b"y")];
    check("made on a Mac", Archive::Zip, zip(&mac), &disk);
    let folder = File { mode: 0o040_755, ..stored("box/", b"") };
    check("in a folder", Archive::Zip, zip(&[folder, deflated("box/disk.img", &disk)]), &disk);
    check(
        "an empty disk of a gigabyte's ratio",
        Archive::Zip,
        zip(&[deflated("disk.img", &vec![0; 3 << 20])]),
        &vec![0; 3 << 20],
    );
    let mut commented = zip(&[stored("disk.img", &disk)]);
    let len = commented.len();
    commented[len - 2..].copy_from_slice(&[5, 0]);
    commented.extend(b"hello");
    check("with a comment", Archive::Zip, commented, &disk);
    let other = File { extra: vec![0x55, 0x54, 1, 0, 9, 0], ..stored("disk.img", &disk) };
    check("with other fields and padding", Archive::Zip, zip(&[other]), &disk);
}

fn patch(mut bytes: Vec<u8>, from_end: usize, part: &[u8]) -> Vec<u8> {
    let at = bytes.len() - from_end;
    bytes[at..at + part.len()].copy_from_slice(part);
    bytes
}

/// Files whose list says something that is not so.
#[test]
fn zip_files_that_lie() {
    let disk = raw_image(100_000, 3);
    let good = || deflated("disk.img", &disk);
    let row = |name: &str, file: File, words: &str| hostile(name, Archive::Zip, zip::archive(&[file], false), words);
    row("encrypted", File { flags: 1, ..good() }, "encrypted; unpack it with its password first");
    row("strongly encrypted", File { flags: 0x41, ..good() }, "encrypted");
    row("a hidden list", File { flags: 0x2000, ..good() }, "encrypted");
    for method in [1, 9, 12, 14, 93, 95, 99] {
        row("another method", File { method, ..good() }, &format!("compressed by method {method}"));
    }
    row("a wrong checksum", File { crc: 1, ..good() }, "the checksum of 'disk.img' does not fit");
    row(
        "a wrong checksum, stored",
        File { crc: 1, ..stored("disk.img", &disk) },
        "the checksum of 'disk.img' does not fit",
    );
    row("longer than said", File { size: 99_999, ..good() }, "unpacks to more than the size that is said");
    row("shorter than said", File { size: 100_001, ..good() }, "ends 1 bytes before the size");
    row("stored in two sizes", File { size: 1, ..stored("disk.img", &disk) }, "has two sizes");
    row("noise", File { packed: vec![0xff; 5000], packed_size: 5000, ..good() }, "cannot be unpacked");
    let mut longer = good();
    longer.packed.extend([0; 9]);
    longer.packed_size += 9;
    row("bytes behind the stream", longer, "bytes behind the end of its stream");
    let mut cut = good();
    cut.packed.truncate(cut.packed.len() / 2);
    cut.packed_size = cut.packed.len() as u64;
    row("a stream that is cut off", cut, "cannot be unpacked");
    row("longer than the archive", File { packed_size: 1 << 30, ..good() }, "past the list of files");
    row(
        "a ratio that deflate has not",
        File { size: 1 << 31, ..deflated("disk.img", &[0; 9]) },
        "no deflate stream does",
    );
    let zeros = vec![0; 10 << 20];
    let bomb = File { size: 2 << 30, ..deflated("disk.img", &zeros) };
    let bomb = File {
        packed: [&bomb.packed[..], &vec![0; 3 << 20]].concat(),
        packed_size: bomb.packed_size + (3 << 20),
        ..bomb
    };
    row("a bomb", bomb, "more than 200 times its size");
    row(
        "another name in its own header",
        File { local_name: Some(b"disk.raw".to_vec()), ..good() },
        "differ about 'disk.img'",
    );
    row("a place past the end", File { at: Some(1 << 30), ..good() }, "past the end of the file");
    row("a place in the data", File { at: Some(50), ..good() }, "differ about 'disk.img'");
    row("a link", File { mode: 0o120_777, ..good() }, "a link or a device");
    for mode in [0o020_600, 0o060_600, 0o010_600, 0o140_600] {
        row("a device", File { mode, ..good() }, "a link or a device");
    }
    row(
        "an extra field that is cut off",
        File { extra: vec![9, 9, 200, 0, 1], ..good() },
        "extra fields of 'disk.img'",
    );
    let twice = vec![1, 0, 0, 0, 1, 0, 0, 0];
    row("two zip64 fields", File { extra: twice, ..good() }, "given twice");
    row(
        "a zip64 size that is missing",
        File { size: 0xffff_ffff, extra: vec![1, 0, 0, 0], ..good() },
        "zip64 size of 'disk.img' is missing",
    );
    for (name, words) in [
        (&b"/etc/passwd"[..], "is an absolute path"),
        (b"../../root/.ssh/authorized_keys", "climbs out"),
        (b"C:\\disk.img", "is an absolute path"),
        (b"..\\disk.img", "climbs out"),
        (b"disk.img\0.txt", "has a NUL byte"),
        (b"disk\n.img", "has control characters"),
        (b"disk\x1b[31m.img", "has control characters"),
        ("disk\u{202e}gmi.exe".as_bytes(), "turn or hide"),
        (b"", "is empty"),
    ] {
        row("a name", File { name: name.to_vec(), ..good() }, words);
    }
}

/// Archives that lie as a whole.
#[test]
fn zip_archives_that_lie() {
    let disk = raw_image(50_000, 4);
    let row = |name: &str, bytes: Vec<u8>, words: &str| hostile(name, Archive::Zip, bytes, words);
    let zip = |files: &[File]| zip::archive(files, false);
    let one = || zip(&[deflated("disk.img", &disk)]);
    row("empty", zip(&[]), "there is no file in it");
    row("folders only", zip(&[stored("a/", b"")]), "there is no file in it");
    row("no bytes", Vec::new(), "no end record");
    row("two disks", zip(&[stored("a.img", &disk), stored("b.vmdk", &disk)]), "2 disk images in it: 'a.img', 'b.vmdk'");
    row("no disk", zip(&[stored("a.txt", b"a"), stored("b.txt", b"b")]), "called like a disk image: 'a.txt', 'b.txt'");
    row("one name twice", zip(&[stored("a.img", &disk), stored("a.img", b"other")]), "two files of the name 'a.img'");
    row(
        "one name twice in two cases",
        zip(&[stored("a.img", &disk), stored("A.IMG", b"other")]),
        "two files of the name 'A.IMG'",
    );
    let many: Vec<_> = (0..5000).map(|n| stored(&format!("{n}.img"), b"")).collect();
    row("5000 files", zip(&many), "more than 4096 files");
    row("a list of 100 MiB", patch(one(), 10, &[0, 0, 0x40, 6]), "its list of files is said to be 104857600 bytes");
    row("cut off", one()[..300].to_vec(), "no end record");
    row("something behind it", [one(), vec![0; 4]].concat(), "no end record");
    row("something before it", [b"#!/bin/sh\n".to_vec(), one()].concat(), "its list of files is said to be");
    row("another archive before it", [one(), one()].concat(), "its list of files is said to be");
    row(
        "something between",
        {
            let mut b = one();
            let at = b.len() - 22;
            b.splice(at..at, [0; 9]);
            b
        },
        "must end at byte",
    );
    row("one of several", patch(one(), 18, &[1, 0]), "archive in several files");
    row("another number of files", patch(one(), 14, &[2, 0, 2, 0]), "says 2 files, but its list has 1");
    row("two numbers of files", patch(one(), 14, &[2, 0]), "two different numbers");
    row("a list elsewhere", patch(one(), 6, &[1, 0, 0, 0]), "its list of files is said to be");
    row(
        "a list of something",
        {
            let mut b = one();
            let at = b.len() - 22 - 54;
            b[at] = 0;
            b
        },
        "holds something else",
    );
    // Two end records, the second in the comment of the first.
    let mut two = one();
    let end = two[two.len() - 22..].to_vec();
    let len = two.len();
    two[len - 2..].copy_from_slice(&22_u16.to_le_bytes());
    two.extend(end);
    row("two end records", two, "two end records");
    // An overlapping bomb: many names for the same bytes (D. Fifield, A better zip bomb).
    let kernel = deflated("0.txt", &vec![0; 1 << 20]);
    let many: Vec<_> =
        (0..50).map(|n| File { at: Some(0), name: b"0.txt".to_vec(), ..kernel.clone() }.renamed(n)).collect();
    row("files that are one", zip(&many), "differ about");
    let inside = zip(&[deflated("a.img", &disk)]);
    let quoted = File { at: Some(0), ..deflated("a.img", &disk) };
    let outer = [stored("outer.txt", &inside[..inside.len() - 80])];
    let list_at = 30 + 9;
    let both = [outer[0].clone(), File { at: Some(list_at), packed: Vec::new(), ..quoted }];
    row("a file inside another", zip(&both), "two files in it overlap");
    let large = || zip::archive(&[File { large: true, ..deflated("disk.img", &disk) }], true);
    row("zip64 of another place", patch(large(), 22 + 20 + 8, &[1]), "must end at byte");
    row("zip64 of 2⁶⁴ files", patch(large(), 22 + 20 + 24, &[0xff; 8]), "differ");
    row(
        "zip64 of a list of 2⁶³ bytes",
        patch(large(), 22 + 20 + 16, &[0xff; 8]),
        "its list of files is said to be 18446744073709551615",
    );
    row("zip64 and zip differ", patch(large(), 6, &[7, 0, 0, 0]), "its end record and its zip64 end record differ");
    row("zip64 end record elsewhere", patch(large(), 22 + 12, &[0; 8]), "no zip64 end record at byte 0");
    row("zip64 end record past the end", patch(large(), 22 + 12, &[0x7f; 8]), "zip64 end record is said to be at byte");
    row("zip64 of several", patch(large(), 22 + 4, &[9]), "archive in several files");
    row("zip64 record of another length", patch(large(), 22 + 20 + 52, &[45]), "no zip64 end record");
}

impl File {
    fn renamed(mut self, n: usize) -> File {
        self.name = format!("{n}.txt").into_bytes();
        self
    }
}

#[test]
fn tar_by_tar() {
    let dir = tempfile::tempdir().unwrap();
    let disk = raw_image(1_000_003, 5);
    // More than a header's own 100 bytes, but to be split at a '/'.
    let long = format!("{0}/{0}", "x".repeat(80));
    std::fs::create_dir_all(dir.path().join("box").join(&long)).unwrap();
    std::fs::write(dir.path().join("box").join(&long).join("disk.img"), &disk).unwrap();
    std::fs::write(dir.path().join("box/README"), "read me").unwrap();
    for format in ["ustar", "gnu", "posix", "oldgnu"] {
        let archive = dir.path().join(format!("{format}.tar"));
        run("tar", &["-C", path(dir.path()), "--format", format, "-cf", path(&archive), "box"]);
        check(format, Archive::Tar, std::fs::read(&archive).unwrap(), &disk);
    }
    let archive = dir.path().join("dot.tar");
    run("tar", &["-C", path(dir.path()), "-cf", path(&archive), "./box"]);
    let file = Box::new(FileAt::new(std::fs::File::open(&archive).unwrap()).unwrap());
    assert!(read(disk_find(Archive::Tar, file).unwrap()).unwrap() == disk);
    // What GNU tar stores sparse, another reader would read as something else.
    let sparse = std::fs::File::create(dir.path().join("box/sparse.img")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", 5 << 20).unwrap();
    for format in ["gnu", "posix"] {
        let archive = dir.path().join("sparse.tar");
        run("tar", &["-C", path(dir.path()), "--format", format, "-S", "-cf", path(&archive), "box/sparse.img"]);
        hostile(format, Archive::Tar, std::fs::read(&archive).unwrap(), "stored sparse");
    }
}

fn manifest(files: &[(&str, &[u8])]) -> String {
    let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    files.iter().map(|(name, bytes)| format!("SHA256({name})= {}\n", hex(bytes))).collect()
}

#[test]
fn ova() {
    let disk = raw_image(200_000, 6);
    let text = tar::ovf("disk.vmdk", disk.len());
    let (ovf, vmdk) = (tar::file("box.ovf", text.as_bytes()), tar::file("disk.vmdk", &disk));
    let other = tar::file("cd.iso", b"a CD");
    let sums = manifest(&[("box.ovf", text.as_bytes()), ("disk.vmdk", &disk), ("cd.iso", b"a CD")]);
    let ova = |entries: &[&Vec<u8>]| tar::archive(&entries.iter().map(|entry| (*entry).clone()).collect::<Vec<_>>());
    check("plain", Archive::Tar, ova(&[&ovf, &vmdk]), &disk);
    check("with a manifest", Archive::Tar, ova(&[&ovf, &tar::file("box.mf", sums.as_bytes()), &vmdk, &other]), &disk);
    check("a manifest behind", Archive::Tar, ova(&[&ovf, &other, &vmdk, &tar::file("box.mf", sums.as_bytes())]), &disk);
    let row = |name: &str, entries: &[&Vec<u8>], words: &str| hostile(name, Archive::Tar, ova(entries), words);
    let sums = |from: &str, to: &str| tar::file("box.mf", sums.replace(from, to).as_bytes());
    let mut changed = disk.clone();
    changed[77_777] ^= 1;
    row(
        "another disk",
        &[&ovf, &sums("", ""), &tar::file("disk.vmdk", &changed)],
        "SHA256 digest of 'disk.vmdk' is not the one",
    );
    row(
        "another OVF",
        &[&tar::file("box.ovf", format!("{text} ").as_bytes()), &sums("", ""), &vmdk],
        "digest of 'box.ovf' is not the one",
    );
    row("a manifest without the disk", &[&ovf, &sums("(disk.vmdk)", "(x.vmdk)"), &vmdk], "does not list 'disk.vmdk'");
    row("a manifest of a weak digest", &[&ovf, &sums("SHA256(d", "MD5(d"), &vmdk], "uses the digest 'MD5'");
    row("a manifest of nothing", &[&ovf, &tar::file("box.mf", b"hello"), &vmdk], "cannot be read");
    row("a manifest in no text", &[&ovf, &tar::file("box.mf", b"\xff\xfe"), &vmdk], "is not UTF-8");
    row("two manifests", &[&ovf, &sums("", ""), &tar::file("b.mf", b""), &vmdk], "more than one manifest");
    row("two OVFs", &[&ovf, &tar::file("b.ovf", text.as_bytes()), &vmdk], "more than one OVF");
    row("an OVF of 2 MiB", &[&tar::file("box.ovf", &vec![b' '; 2 << 20]), &vmdk], "more than 1048576");
    row("the disk is not there", &[&ovf, &other], "the file 'disk.vmdk', which is not in it");
    row(
        "another size",
        &[&tar::file("box.ovf", tar::ovf("disk.vmdk", 1).as_bytes()), &vmdk],
        "has 1 bytes, but it has 200000",
    );
    for href in ["/etc/passwd", "../disk.vmdk", "file:///etc/passwd", "http://localhost/disk.vmdk", "a/disk.vmdk"] {
        row(href, &[&tar::file("box.ovf", tar::ovf(href, 1).as_bytes()), &vmdk], "names another file by a path");
    }
    let evil = text.replace("<Envelope", "<!DOCTYPE x [<!ENTITY e SYSTEM \"file:///etc/passwd\">]><Envelope");
    row("an external entity", &[&tar::file("box.ovf", evil.as_bytes()), &vmdk], "declares a document type");
}

#[test]
fn tar_hostile() {
    let disk = raw_image(10_000, 7);
    let file = || tar::file("disk.img", &disk);
    let row = |name: &str, entries: &[Vec<u8>], words: &str| hostile(name, Archive::Tar, tar::archive(entries), words);
    let raw = |name: &str, bytes: Vec<u8>, words: &str| hostile(name, Archive::Tar, bytes, words);
    row("empty", &[], "there is no file in it");
    row("two disks", &[file(), tar::file("b.qcow2", b"x")], "2 disk images in it: 'disk.img', 'b.qcow2'");
    row("no disk", &[tar::file("a", b""), tar::file("b", b"")], "called like a disk image");
    row("one name twice", &[file(), file()], "two files of the name 'disk.img'");
    row("one name twice, with a dot", &[file(), tar::file("./disk.img", b"")], "two files of the name");
    row("a link", &[tar::entry(b"disk.img", b'2', b"")], "a link, not a file");
    row("a hard link", &[tar::entry(b"disk.img", b'1', b"")], "a link, not a file");
    for kind in [b'3', b'4', b'6'] {
        row("a device", &[tar::entry(b"disk.img", kind, b"")], "a device, not a file");
    }
    row("a sparse file", &[tar::entry(b"disk.img", b'S', &disk)], "stored sparse");
    row("sparse by pax", &[tar::pax(b'x', &[("GNU.sparse.major", b"1")]), file()], "stored sparse");
    row(
        "sparse of a size that lies",
        &[tar::pax(b'x', &[("GNU.sparse.realsize", b"999999999999")]), file()],
        "stored sparse",
    );
    row("an unknown type", &[tar::entry(b"disk.img", b'V', b"")], "unknown type 'V'");
    for (name, words) in [
        (&b"/etc/passwd"[..], "is an absolute path"),
        (b"a/../../disk.img", "climbs out"),
        (b"disk\r.img", "has control characters"),
        ("disk\u{202e}gmi".as_bytes(), "turn or hide"),
        (b"", "is empty"),
    ] {
        row("a name", &[tar::entry(name, b'0', &disk)], words);
    }
    row("a NUL in a pax name", &[tar::pax(b'x', &[("path", b"disk.img\0.txt")]), file()], "NUL");
    row("a long name that climbs", &[tar::entry(b"././@LongLink", b'L', b"../../x\0"), file()], "climbs out");
    row("a name for all", &[tar::pax(b'g', &[("path", b"disk.img")]), file()], "one name or size to all files");
    row("a size by pax past the end", &[tar::pax(b'x', &[("size", b"99999999")]), file()], "past the end of the file");
    row(
        "a size by pax of 2⁶⁴",
        &[tar::pax(b'x', &[("size", b"18446744073709551615")]), file()],
        "cannot be understood",
    );
    row("a size by pax that is none", &[tar::pax(b'x', &[("size", b"-1")]), file()], "cannot be understood");
    row("a pax record past its end", &[tar::entry(b"pax", b'x', b"999 path=x\n"), file()], "cannot be understood");
    row("a pax record of no length", &[tar::entry(b"pax", b'x', b"0 \n"), file()], "cannot be understood");
    row("a pax record of nothing", &[tar::entry(b"pax", b'x', b"hello"), file()], "cannot be understood");
    row("a pax header of 1 MiB", &[tar::entry(b"pax", b'x', &vec![b'1'; 1 << 20]), file()], "more than 65536");
    let many: Vec<_> = (0..4200).map(|n| tar::file(&format!("{n}"), b"")).collect();
    row("4200 files", &many, "more than 4096 files");
    let many: Vec<_> = (0..17_000).map(|_| tar::pax(b'x', &[])).collect();
    row("17000 headers", &many, "more than 16384 headers");
    let mut header = tar::header(b"disk.img", b'0', 10);
    header[0] = b'D';
    row("a bad checksum", &[header.clone(), vec![0; 512]], "checksum of the file header at byte 0");
    header[124..136].copy_from_slice(b"99999999999\0");
    tar::sum(&mut header);
    row("a size that is no number", &[header.clone()], "is no number");
    header[124..136].copy_from_slice(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    tar::sum(&mut header);
    row("a size of 2⁸⁸", &[header.clone()], "is no number");
    header[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    tar::sum(&mut header);
    row("a size of 2⁶³", &[header.clone()], "past the end of the file");
    raw("cut in the data", file()[..4000].to_vec(), "past the end of the file");
    raw("no end mark", file(), "without an end mark");
    raw("half an end mark", [file(), vec![0; 512]].concat(), "half of its end mark");
    raw("something behind it", [tar::archive(&[file()]), file()].concat(), "bytes behind its end mark");
    raw("padding of 2 MiB", [tar::archive(&[file()]), vec![0; 2 << 20]].concat(), "bytes behind its end mark");
}

/// A name is shown, and what it could do to a terminal is not.
#[test]
fn names_in_errors_are_harmless() {
    let bytes = zip::archive(&[stored("a\u{1b}]0;owned\u{7}", b"x")], false);
    let Err(DiskError::Refused { reason, .. }) = disk_find(Archive::Zip, Box::new(bytes)) else {
        panic!("it was read")
    };
    assert!(reason.contains("'a?]0;owned?'") && !reason.contains('\u{1b}'), "{reason}");
}
