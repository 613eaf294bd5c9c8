//! Files as sources: holes are seen, changes are noticed.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::{ProptestConfig, any, proptest};
use slipway_chunk::{BLOCK, Fill, SparseRead};
use slipway_disk::SparseFile;
use support::{MIB, noise, read, scratch};

/// Reads a source to its end: the bytes, and how many of them came as holes.
fn drained(source: &mut SparseFile, step: usize) -> std::io::Result<(Vec<u8>, u64)> {
    let mut bytes: Vec<u8> = Vec::new();
    let mut holes = 0;
    let mut buf = vec![0xff; step];
    loop {
        match source.fill(&mut buf)? {
            Fill::Data(len) => {
                assert!(len > 0);
                bytes.extend(&buf[..len]);
            }
            Fill::Hole(len) => {
                assert_eq!(bytes.len() % BLOCK, 0, "a hole begins at a block border");
                bytes.resize(bytes.len() + len as usize, 0);
                assert!(bytes.len().is_multiple_of(BLOCK) || bytes.len() as u64 == source.size());
                holes += len;
            }
            Fill::End => return Ok((bytes, holes)),
        }
    }
}

fn sparse(path: &Path, size: u64, data: &[(u64, usize)]) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (at, len) in data {
        file.write_all_at(&noise(5, *len), *at).unwrap();
    }
}

#[test]
fn holes_are_found() {
    fn check(size: u64, data: &[(u64, usize)], least_holes: u64) {
        let (_folder, path) = scratch();
        sparse(&path, size, data);
        for step in [4096, 100_000, 1 << 20] {
            let mut source = SparseFile::open(&path).unwrap();
            assert_eq!((source.size(), source.sector_size(), source.mounted_at()), (size, None, None));
            let (bytes, holes) = drained(&mut source, step).unwrap();
            assert!(bytes == read(&path), "{size} {data:?}");
            assert!(holes >= least_holes, "{size} {data:?}: {holes}");
            source.rewind();
            assert!(drained(&mut source, step).unwrap().0 == bytes);
        }
    }
    check(0, &[], 0);
    check(1, &[(0, 1)], 0);
    check(10_000, &[], 8192);
    check(8 * MIB as u64, &[], 8 * MIB as u64);
    check(8 * MIB as u64 + 100, &[(4 * MIB as u64, 4096)], 7 * MIB as u64);
    check(8 * MIB as u64 + 100, &[(0, 100), (3 * MIB as u64 + 5000, 70_000), (8 * MIB as u64, 100)], 7 * MIB as u64);
}

#[test]
fn a_terabyte_of_nothing() {
    let (_folder, path) = scratch();
    sparse(&path, 1 << 40, &[(1 << 39, 4096)]);
    let mut source = SparseFile::open(&path).unwrap();
    let mut buf = vec![0; 1 << 16];
    let mut data = 0;
    loop {
        match source.fill(&mut buf).unwrap() {
            Fill::Data(len) => data += len,
            Fill::Hole(_) => {}
            Fill::End => break,
        }
    }
    assert_eq!(data, 4096);
    let mut piece = vec![0; 4096];
    source.read_exact_at(1 << 39, &mut piece).unwrap();
    assert_eq!(piece, noise(5, 4096));
    assert_eq!(source.read_exact_at((1 << 40) - 1, &mut piece).unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn changes_are_noticed() {
    fn check(change: fn(&Path, &File)) {
        let (_folder, path) = scratch();
        fs::write(&path, noise(1, 3 * MIB)).unwrap();
        let writer = OpenOptions::new().write(true).open(&path).unwrap();
        let mut source = SparseFile::open(&path).unwrap();
        let mut buf = vec![0; MIB];
        assert!(matches!(source.fill(&mut buf).unwrap(), Fill::Data(_)));
        // Time stamps of files are as coarse as the kernel's tick.
        std::thread::sleep(Duration::from_millis(20));
        change(&path, &writer);
        let error = drained(&mut source, MIB).unwrap_err();
        assert!(error.to_string().ends_with("target.img changed while it was read"), "{error}");
        assert!(source.unchanged_check().is_err());
    }
    check(|_, file| file.write_all_at(b"x", 0).unwrap());
    check(|_, file| file.write_all_at(b"x", 5 << 20).unwrap());
    check(|_, file| file.set_len(2 << 20).unwrap());
    check(|_, file| file.set_len(100).unwrap());
    check(|_, file| file.set_len(4 << 20).unwrap());
    check(|path, _| fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap());
}

#[test]
fn what_is_no_source() {
    let (folder, path) = scratch();
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    for path in [Path::new("/dev/zero"), folder.path(), &pipe] {
        assert_eq!(SparseFile::open(path).err().unwrap().kind(), ErrorKind::InvalidInput, "{}", path.display());
    }
    assert_eq!(SparseFile::open(&path).err().unwrap().kind(), ErrorKind::NotFound);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_sparse_file(size in 1_u64..2_000_000, data in proptest::collection::vec((0_u64..2_000_000, 1_usize..50_000), 0..6), big in any::<bool>()) {
        let (_folder, path) = scratch();
        sparse(&path, size, &data);
        File::options().write(true).open(&path).unwrap().set_len(size).unwrap();
        let mut source = SparseFile::open(&path).unwrap();
        let (bytes, _) = drained(&mut source, if big { 300_000 } else { 4096 }).unwrap();
        assert!(bytes == read(&path));
    }
}
