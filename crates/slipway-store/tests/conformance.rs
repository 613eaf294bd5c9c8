//! One suite for every blob backend.
#![allow(clippy::unwrap_used)]

mod lab;

use std::io::{Read, Write};
use std::ops::Range;

use lab::{folder, noise, s3_config_given, s3_lab};
use slipway_store::{BlobError, Blobs, FaultMode, Faults, OpKind};

fn keys(blobs: &Blobs, prefix: &str) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    blobs.list(prefix, &mut |blob| found.push((blob.key, blob.len))).unwrap();
    found.sort();
    found
}

fn missing<T: std::fmt::Debug>(result: Result<T, BlobError>) {
    assert!(matches!(result, Err(BlobError::Missing(_))), "{result:?}");
}

/// A whole range: what is in memory at once, the rest as it comes.
fn read_ready(blobs: &Blobs, key: &str, range: Range<u64>) -> Vec<u8> {
    let (mut all, mut buf) = (Vec::new(), vec![0; 128 << 10]);
    let mut reader = blobs.reader_now(key, range.clone()).unwrap_or_else(|| blobs.reader(key, range.clone()).unwrap());
    loop {
        let read = match reader.read_now(&mut buf).unwrap() {
            Some(read) => read,
            None => reader.read(&mut buf).unwrap(),
        };
        all.extend_from_slice(&buf[..read]);
        if read == 0 {
            return all;
        }
    }
}

fn conforms(blobs: &Blobs) {
    // Nothing is there at first, and asking says so.
    assert!(keys(blobs, "packs").is_empty());
    missing(blobs.len("packs/a/1"));
    missing(blobs.read("packs/a/1", 0..1));
    missing(blobs.reader("packs/a/1", 0..1).map(|_| ()));
    assert!(blobs.reader_now("packs/a/1", 0..1).is_none());
    blobs.delete("packs/a/1").unwrap();

    // Sizes around nothing and around the parts of a multipart.
    for (n, len) in [0usize, 1, 4096, (8 << 20) - 1, 8 << 20, (8 << 20) + 1, 20 << 20].into_iter().enumerate() {
        let key = format!("packs/a/{n}");
        let bytes = noise(n as u64 + 1, len);
        let mut writer = blobs.create(&key).unwrap();
        for part in bytes.chunks(1_000_003) {
            writer.write_all(part).unwrap();
        }
        // A blob is not there before it is finished.
        missing(blobs.len(&key));
        writer.finish().unwrap();
        assert_eq!(blobs.len(&key).unwrap(), len as u64);
        assert_eq!(blobs.read(&key, 0..len as u64).unwrap(), bytes);
        let mut streamed = Vec::new();
        blobs.reader(&key, 0..len as u64).unwrap().read_to_end(&mut streamed).unwrap();
        assert_eq!(streamed, bytes);
        if len > 100 {
            assert_eq!(blobs.read(&key, 17..91).unwrap(), bytes[17..91]);
            let mut tail = Vec::new();
            blobs.reader(&key, len as u64 - 9..len as u64).unwrap().read_to_end(&mut tail).unwrap();
            assert_eq!(tail, bytes[len - 9..]);
        }
        assert!(blobs.read(&key, 5..5).unwrap().is_empty());
        assert!(read_ready(blobs, &key, 0..len as u64) == bytes, "{len}");
        assert!(blobs.reader_now(&key, 0..len as u64 + 1).is_none(), "past the end of {len}");
        assert!(blobs.read(&key, 0..len as u64 + 1).is_err(), "past the end of {len}");
    }
    assert_eq!(keys(blobs, "packs").len(), 7);
    assert_eq!(keys(blobs, "packs/a").len(), 7);
    assert!(keys(blobs, "segments").is_empty());

    // What is dropped unfinished leaves nothing, small or large.
    for len in [10, 20 << 20] {
        let mut writer = blobs.create("packs/b/dropped").unwrap();
        writer.write_all(&noise(1, len)).unwrap();
        drop(writer);
        missing(blobs.len("packs/b/dropped"));
        assert!(keys(blobs, "packs/b").is_empty());
    }
    // A writer that was killed is cleared away by the delete of its key, and can be begun again.
    let mut killed = blobs.create("packs/b/killed").unwrap();
    killed.write_all(&noise(1, 20 << 20)).unwrap();
    std::mem::forget(killed);
    blobs.delete("packs/b/killed").unwrap();
    assert!(keys(blobs, "multipart").is_empty());
    blobs.put("packs/b/killed", b"again").unwrap();
    assert_eq!(blobs.read("packs/b/killed", 0..5).unwrap(), b"again");

    blobs.quarantine("packs/a/2").unwrap();
    missing(blobs.len("packs/a/2"));
    assert_eq!(keys(blobs, "quarantine"), [("quarantine/packs/a/2".to_owned(), 4096)]);
    missing(blobs.quarantine("packs/a/2"));
    blobs.delete("packs/a/3").unwrap();
    missing(blobs.len("packs/a/3"));
    assert_eq!(keys(blobs, "packs").len(), 6);

    for bad in ["", "../x", "packs/../../x", "/etc/passwd", "packs/.hidden", "a\0b"] {
        assert!(matches!(blobs.create(bad), Err(BlobError::BadKey(_))), "{bad:?}");
        assert!(matches!(blobs.read(bad, 0..1), Err(BlobError::BadKey(_))), "{bad:?}");
        assert!(matches!(blobs.delete(bad), Err(BlobError::BadKey(_))), "{bad:?}");
    }
}

#[test]
fn local() {
    let folder = folder();
    conforms(&Blobs::local(&folder.path().join("blobs"), Faults::none()).unwrap());
}

#[test]
fn s3() {
    let lab = s3_lab();
    conforms(&lab.blobs(Faults::none()));
}

/// The same against a server of another make, which `SLIPWAY_TEST_S3` names.
#[test]
#[ignore = "long"]
fn long_s3_of_another_make() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let blobs = Blobs::s3(s3_config_given(), runtime.handle().clone(), Faults::none()).unwrap();
    conforms(&blobs);
}

#[test]
fn no_temporary_file_stays_and_no_link_is_followed() {
    let folder = folder();
    let blobs = Blobs::local(folder.path(), Faults::none()).unwrap();
    blobs.put("packs/a/1", b"one").unwrap();
    let names: Vec<_> =
        std::fs::read_dir(folder.path().join("packs/a")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["1"]);
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("packs/a/2")).unwrap();
    assert!(blobs.read("packs/a/2", 0..1).is_err());
    assert!(blobs.len("packs/a/2").is_err());
    assert_eq!(keys(&blobs, "packs").len(), 1);
}

#[test]
fn what_is_in_memory_is_read_at_once() {
    let folder = folder();
    let blobs = Blobs::local(folder.path(), Faults::none()).unwrap();
    blobs.put("packs/a/1", &noise(1, 300_000)).unwrap();
    assert!(blobs.reader_now("packs/a/1", 0..9).is_none(), "nobody knows yet whether this file system can");
    let mut buf = vec![0; 300_000];
    let Some(read) = blobs.reader("packs/a/1", 0..300_000).unwrap().read_now(&mut buf).unwrap() else {
        return eprintln!("ignored: this file system reads nothing without waiting");
    };
    assert_eq!(buf[..read], noise(1, 300_000)[..read]);
    let mut reader = blobs.reader_now("packs/a/1", 9..11).unwrap();
    assert_eq!(reader.read_now(&mut buf).unwrap(), Some(2));
    assert_eq!(reader.read_now(&mut buf).unwrap(), Some(0));
    assert_eq!(buf[..2], noise(1, 300_000)[9..11]);
    // What was cut off meanwhile ends as an error, never as an end.
    let mut reader = blobs.reader_now("packs/a/1", 0..300_000).unwrap();
    std::fs::File::options().write(true).open(folder.path().join("packs/a/1")).unwrap().set_len(0).unwrap();
    assert!(reader.read_now(&mut buf).is_err());
    std::os::unix::fs::symlink("1", folder.path().join("packs/a/2")).unwrap();
    assert!(blobs.reader_now("packs/a/2", 0..1).is_none());
}

#[test]
fn a_failed_flush_poisons_for_ever() {
    let folder = folder();
    // 0 and 1 are the new folders, 2 the file, 3 the folder of its name.
    for n in 0..4 {
        let faults = Faults::fail_nth_of(OpKind::Fsync, n, FaultMode::Error);
        let blobs = Blobs::local(folder.path(), faults.clone()).unwrap();
        assert!(blobs.put(&format!("packs/a{n}/1"), b"one").is_err(), "{n}");
        assert!(faults.fired());
        assert!(blobs.is_poisoned());
        assert!(matches!(blobs.put("packs/a/2", b"two"), Err(BlobError::Poisoned)));
    }
}

#[test]
fn every_lost_answer_of_a_multipart_is_cleared_away() {
    let lab = s3_lab();
    let bytes = noise(3, 17 << 20);
    for mode in [FaultMode::Error, FaultMode::ShortWrite] {
        for n in 0.. {
            let faults = Faults::fail_nth(n, mode);
            let key = format!("packs/a/{mode:?}-{n}");
            let blobs = lab.blobs(faults.clone());
            let result = blobs.put(&key, &bytes);
            let clean = lab.blobs(Faults::none());
            if result.is_ok() {
                assert_eq!(clean.read(&key, 0..bytes.len() as u64).unwrap(), bytes);
            }
            clean.delete(&key).unwrap();
            assert!(keys(&clean, "packs").is_empty());
            assert!(keys(&clean, "multipart").is_empty());
            if !faults.fired() {
                assert!(result.is_ok());
                break;
            }
        }
    }
}
