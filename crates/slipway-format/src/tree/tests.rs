use super::{TreeEntry, TreeError, TreeFormat, TreeReader, TreeWhat, tree_detect};
use std::io::Read;
use std::path::Path;
use std::process::Command;

/// All entries with their content.
fn read(format: TreeFormat, bytes: &[u8]) -> Result<Vec<(TreeEntry, Vec<u8>)>, TreeError> {
    let mut reader = TreeReader::new(format, bytes);
    let mut found = Vec::new();
    while let Some(entry) = reader.entry_next()? {
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        found.push((entry, content));
    }
    Ok(found)
}

fn shell(folder: &Path, line: &str) -> Vec<u8> {
    let out = Command::new("sh").args(["-ec", line]).current_dir(folder).output().unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn tree() -> tempfile::TempDir {
    let top = tempfile::tempdir().unwrap();
    let long = "long".repeat(40);
    let make = format!(
        "umask 022; mkdir -p sub/{long}; printf hello > sub/a; ln sub/a sub/b; ln -s ../sub/a sub/{long}/link; mkfifo pipe; chmod 4755 sub/a; touch -d @1000000000 sub/a; head -c 5000 /dev/zero > zeros"
    );
    shell(top.path(), &make);
    top
}

#[test]
fn what_real_programs_pack_is_read() {
    let top = tree();
    for (format, line) in [
        (TreeFormat::Tar, "tar --format=gnu -cf - --sort=name ."),
        (TreeFormat::Tar, "tar --format=pax -cf - --sort=name ."),
        (TreeFormat::Cpio, "find . | sort | cpio -o -H newc --quiet"),
        (TreeFormat::Cpio, "find . | sort | cpio -o -H crc --quiet"),
    ] {
        let bytes = shell(top.path(), line);
        assert_eq!(tree_detect(&bytes), Some(format), "{line}");
        let found = read(format, &bytes).unwrap();
        let get = |end: &str| found.iter().find(|(entry, _)| entry.path.ends_with(end.as_bytes())).unwrap();
        let (file, content) = get("sub/a");
        assert_eq!((&file.what, file.mode, file.modified), (&TreeWhat::File, 0o4755, 1_000_000_000), "{line}");
        let (other, more) = get("sub/b");
        assert_eq!(other.what, TreeWhat::Link(file.path.clone()), "{line}");
        // Either name may have the content.
        assert_eq!([content.as_slice(), more].concat(), b"hello", "{line}");
        assert_eq!(get("/link").0.what, TreeWhat::Symlink(b"../sub/a".to_vec()));
        assert_eq!(get("pipe").0.what, TreeWhat::Pipe);
        assert_eq!(get("zeros").1, vec![0; 5000]);
        assert_eq!(found.len(), 8, "{line}");
        // Cut anywhere it is not whole, and nothing panics.
        let end = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
        for len in (0..end).step_by(97) {
            assert!(read(format, &bytes[..len]).is_err(), "{line} {len}");
        }
    }
}

#[test]
fn archives_that_follow_each_other_are_one() {
    let top = tree();
    let line = "echo zeros | cpio -o -H newc --quiet; head -c 512 /dev/zero; echo pipe | cpio -o -H newc --quiet";
    let bytes = shell(top.path(), line);
    let found = read(TreeFormat::Cpio, &bytes).unwrap();
    assert_eq!(found.iter().map(|(entry, _)| entry.path.as_slice()).collect::<Vec<_>>(), [&b"zeros"[..], b"pipe"]);
    let text = read(TreeFormat::Cpio, &[bytes, b"\x1f\x8b\x08\0".to_vec()].concat()).unwrap_err().to_string();
    assert!(text.contains("behind its end mark"), "{text}");
}

#[test]
fn damage_is_seen() {
    let top = tree();
    let mut tar = shell(top.path(), "tar --format=gnu -cf - zeros");
    tar[3] ^= 1;
    assert!(read(TreeFormat::Tar, &tar).unwrap_err().to_string().contains("checksum"));
    let mut cpio = shell(top.path(), "echo sub/a | cpio -o -H crc --quiet");
    let at = cpio.windows(5).position(|part| part == b"hello").unwrap();
    cpio[at] ^= 1;
    assert!(read(TreeFormat::Cpio, &cpio).unwrap_err().to_string().contains("checksum of sub/a"));
    assert_eq!(tree_detect(&[0; 512]), None);
    assert_eq!(tree_detect(b"0707"), None);
}

#[test]
fn attributes_come_with_their_file() {
    let top = tree();
    // Written by hand: not every file system takes them.
    let record = "30 SCHILY.xattr.user.word=hello\n";
    let len = record.len();
    let record = record.replacen("30", &len.to_string(), 1);
    let mut tar = shell(top.path(), "tar --format=ustar -cf - zeros");
    let mut extended = tar[..512].to_vec();
    extended[124..136].copy_from_slice(format!("{len:011o}\0").as_bytes());
    extended[156] = b'x';
    extended[148..156].copy_from_slice(b"        ");
    let sum: u64 = extended.iter().map(|byte| u64::from(*byte)).sum();
    extended[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    extended.extend_from_slice(record.as_bytes());
    extended.resize(1024, 0);
    extended.append(&mut tar);
    let found = read(TreeFormat::Tar, &extended).unwrap();
    assert_eq!(found[0].0.attributes, [("user.word".to_owned(), b"hello".to_vec())]);
}
