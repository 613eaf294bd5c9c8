//! Regular files as targets.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use slipway_chunk::{ChunkId, verify};
use slipway_disk::{DiskError, Faults, Op, ReadBuffer, Shape, TargetError, TargetKind, TargetOptions, target_open};
use slipway_format::gpt::{backup_header_matches, parse_header};
use support::{MIB, differing, flash, gpt_put, image_put, noise, read, scratch, shape};

const CREATE: TargetOptions = TargetOptions { create: true, grow: false };
const PLAIN: TargetOptions = TargetOptions { create: false, grow: false };

#[test]
fn refusals_leave_everything_as_it_was() {
    fn check(path: &Path, shape: Shape, options: TargetOptions, expected: &str) {
        let error = target_open(path, &shape, &options, Faults::none()).err().expect("it must be refused").to_string();
        let seen = error.replace(&*path.parent().unwrap().to_string_lossy(), "DIR");
        assert_eq!(seen, expected);
    }
    let (folder, file) = scratch();
    fs::write(&file, noise(1, 1000)).unwrap();
    let at = |name: &str| folder.path().join(name);
    symlink("target.img", at("link")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    check(&file, shape(0), CREATE, "an image of 0 bytes in sectors of 512 cannot be written anywhere");
    let odd = Shape { size: 9, sector_size: 520 };
    check(&file, odd, CREATE, "an image of 9 bytes in sectors of 520 cannot be written anywhere");
    check(&at("absent"), shape(1), PLAIN, "DIR/absent does not exist");
    check(&at("no/such"), shape(1), CREATE, "creating DIR/such");
    check(&at("link"), shape(1), CREATE, "DIR/link is a symbolic link to target.img; name the file itself");
    check(&at("dangling"), shape(1), CREATE, "DIR/dangling is a symbolic link to nowhere; name the file itself");
    check(&at("pipe"), shape(1), CREATE, "DIR/pipe is a pipe, not a regular file or a block device");
    check(&at("socket"), shape(1), CREATE, "DIR/socket is a socket, not a regular file or a block device");
    check(&file, shape(1001), CREATE, "DIR/target.img has 1000 bytes, the image needs 1001");
    let directory = target_open(folder.path(), &shape(1), &CREATE, Faults::none()).err().unwrap();
    assert!(matches!(directory, TargetError::Kind { kind: "directory", .. }));
    let null = target_open(Path::new("/dev/null"), &shape(1), &CREATE, Faults::none()).err().unwrap();
    assert!(matches!(null, TargetError::Kind { kind: "character device", .. }));
    assert_eq!(read(&file), noise(1, 1000));
    assert!(!at("nowhere").exists() && !at("absent").exists());
    assert!(fs::symlink_metadata(at("pipe")).unwrap().file_type().is_fifo());
}

#[test]
fn two_flashes_to_one_file() {
    let (_folder, path) = scratch();
    let first = target_open(&path, &shape(4096), &CREATE, Faults::none()).unwrap();
    assert!(matches!(target_open(&path, &shape(4096), &CREATE, Faults::none()), Err(TargetError::Locked(_))));
    drop(first);
    assert!(!path.exists(), "a file that was created is removed again");
    assert!(target_open(&path, &shape(4096), &CREATE, Faults::none()).is_ok());
}

#[test]
fn round_trips_of_every_size() {
    fn check(size: usize, tail: usize, old: Option<u8>) {
        let (_folder, path) = scratch();
        let mut before = vec![0; size + tail];
        if let Some(seed) = old {
            before = noise(seed, size + tail);
            fs::write(&path, &before).unwrap();
        }
        let mut image = noise(9, size);
        for hole in (0..size).step_by(320 << 10).map(|at| at..(at + (96 << 10)).min(size)) {
            image[hole].fill(0);
        }
        let sealed = flash(&path, &image, &shape(size as u64), Faults::none()).unwrap();
        let after = read(&path);
        assert!(after[..size] == image[..], "{size}+{tail} {old:?}");
        if old.is_some() {
            assert!(after[size..] == before[size..], "the tail of {size}+{tail}");
        }
        assert_eq!(sealed.written + sealed.zeroed, differing(&image, &before), "{size}+{tail} {old:?}");
        // Again: nothing differs, nothing is written.
        let faults = Faults::nth(u64::MAX, slipway_disk::Fault::Error);
        let again = flash(&path, &image, &shape(size as u64), faults.clone()).unwrap();
        assert_eq!((again.changed, again.written, again.zeroed, again.flushes), (false, 0, 0, 0));
        assert!(faults.log().iter().all(|op| *op == Op::Read), "{:?}", faults.log());
    }
    for size in [1, 511, 512, 4095, 4096, 4097, MIB - 1, MIB, MIB + 1, MIB + 512, MIB + 8192, 3 * MIB, 3 * MIB + 513] {
        check(size, 0, None);
        check(size, 0, Some(1));
        check(size, 10_000, Some(2));
    }
}

#[test]
fn only_differing_blocks_are_written() {
    let (_folder, path) = scratch();
    let old = noise(1, 4 * MIB);
    fs::write(&path, &old).unwrap();
    let mut image = old.clone();
    image[2 * MIB] ^= 1;
    image[2 * MIB + 4096] ^= 1;
    image[3 * MIB + 100] ^= 1;
    let sealed = flash(&path, &image, &shape(image.len() as u64), Faults::none()).unwrap();
    assert_eq!((sealed.written, sealed.zeroed, sealed.changed), (3 * 4096, 0, true));
    assert_eq!(read(&path), image);
}

#[test]
fn a_new_file_is_sparse_and_holes_are_punched() {
    let (_folder, path) = scratch();
    let blocks = |path: &Path| fs::metadata(path).unwrap().blocks() * 512;
    let mut image = vec![0; 64 * MIB];
    image[32 * MIB..33 * MIB].copy_from_slice(&noise(3, MIB));
    flash(&path, &image, &shape(image.len() as u64), Faults::none()).unwrap();
    assert!(blocks(&path) <= 2 * MIB as u64, "{}", blocks(&path));
    // The same image without its data: the space comes back.
    let empty = vec![0; 64 * MIB];
    let sealed = flash(&path, &empty, &shape(empty.len() as u64), Faults::none()).unwrap();
    assert_eq!((sealed.written, sealed.zeroed), (0, MIB as u64));
    assert_eq!(read(&path), empty);
    assert!(blocks(&path) < MIB as u64, "{}", blocks(&path));
}

#[test]
fn a_sparse_terabyte_costs_nothing() {
    let (_folder, path) = scratch();
    let size = 1 << 40;
    let faults = Faults::nth(u64::MAX, slipway_disk::Fault::Error);
    let mut writing = target_open(&path, &shape(size), &CREATE, faults.clone()).unwrap().writing().unwrap();
    let chunk = noise(4, 8192);
    let chunk = verify(&chunk, &ChunkId::of(&chunk)).unwrap().bytes().to_vec();
    let verified = verify(&chunk, &ChunkId::of(&chunk)).unwrap();
    assert_eq!(writing.chunk_write(size / 2, &verified).unwrap(), 8192);
    assert_eq!(writing.zero(0, size / 2).unwrap(), 0);
    assert_eq!(writing.zero(size / 2 + 8192, size / 2 - 8192).unwrap(), 0);
    assert!(writing.touched(size / 2, 1) && !writing.touched(0, size / 2));
    assert_eq!(writing.seal().unwrap().written, 8192);
    assert!(faults.log().len() < 50, "{} operations", faults.log().len());
    assert_eq!(fs::metadata(&path).unwrap().len(), size);
}

#[test]
fn dropped_targets() {
    let (_folder, path) = scratch();
    let image = noise(5, 2 * MIB);
    let open = |options| target_open(&path, &shape(image.len() as u64), &options, Faults::none());
    // Created and not sealed: gone, also when it was written to.
    let target = open(CREATE).unwrap();
    assert!(target.facts().fresh && target.facts().kind == TargetKind::File);
    let mut writing = target.writing().unwrap();
    let bytes = &image[MIB..MIB + 4096];
    writing.chunk_write(MIB as u64, &verify(bytes, &ChunkId::of(bytes)).unwrap()).unwrap();
    drop(writing);
    assert!(!path.exists());
    // Replaced meanwhile: the other file is not ours to remove.
    let target = open(CREATE).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"somebody else's").unwrap();
    drop(target);
    assert_eq!(read(&path), b"somebody else's");
    // Grown and not written to: as it was. Grown and sealed: the image.
    let grow = TargetOptions { create: false, grow: true };
    drop(open(grow).unwrap().writing().unwrap());
    assert_eq!(read(&path), b"somebody else's");
    image_put(open(grow).unwrap().writing().unwrap(), &image).unwrap();
    assert_eq!(read(&path), image);
    // Existing and not sealed after a write: it stays, and cannot boot.
    let mut writing = open(PLAIN).unwrap().writing().unwrap();
    let bytes = noise(6, 4096);
    writing.chunk_write(MIB as u64, &verify(&bytes, &ChunkId::of(&bytes)).unwrap()).unwrap();
    drop(writing);
    let after = read(&path);
    assert!(after[..MIB].iter().all(|byte| *byte == 0));
    assert_eq!(after.len(), image.len());
}

#[test]
fn guarded_ranges_read_as_they_will_be() {
    let (_folder, path) = scratch();
    let old = noise(1, 3 * MIB);
    fs::write(&path, &old).unwrap();
    let mut writing = target_open(&path, &shape(old.len() as u64), &PLAIN, Faults::none()).unwrap().writing().unwrap();
    let new = noise(2, 8192);
    let verified = verify(&new, &ChunkId::of(&new)).unwrap();
    assert!(writing.is_unchanged());
    assert_eq!(writing.chunk_write(4096, &verified).unwrap(), 8192);
    assert_eq!(read(&path), old, "a guarded range is held back");
    assert!(!writing.is_unchanged());
    writing.chunk_write(2 * MIB as u64, &verified).unwrap();
    let disk = read(&path);
    assert!(disk[..MIB].iter().all(|byte| *byte == 0) && disk[3 * MIB - 4096..].iter().all(|byte| *byte == 0));
    let mut expected = old.clone();
    expected[4096..4096 + 8192].copy_from_slice(&new);
    expected[2 * MIB..2 * MIB + 8192].copy_from_slice(&new);
    assert!(writing.read(0, old.len()).unwrap() == &expected[..]);
    assert!(writing.read(4000, 1000).unwrap() == &expected[4000..5000]);
    assert_eq!(writing.hole_at(0).unwrap(), None, "held ranges are no holes");
    writing.seal().unwrap();
    assert!(read(&path) == expected);
}

#[test]
fn places_are_read_ahead_while_others_are_written() {
    let (_folder, path) = scratch();
    let old = noise(1, 4 * MIB);
    fs::write(&path, &old).unwrap();
    let mut writing = target_open(&path, &shape(old.len() as u64), &PLAIN, Faults::none()).unwrap().writing().unwrap();
    // Odd ones, one of them twice; the first three touch what is guarded.
    let odd = 2 * MIB as u64 + 7;
    let places = [(0, 5000), (1000, 1), (MIB as u64 - 10, 4096), (odd, 100), (3 * MIB as u64, 40_000), (odd, 100)];
    let mut ahead = writing.read_ahead(places.to_vec()).unwrap();
    let new = noise(2, 8192);
    let verified = verify(&new, &ChunkId::of(&new)).unwrap();
    for (n, &(at, len)) in places.iter().enumerate() {
        writing.chunk_write((3 * MIB / 2 + n * 8192) as u64, &verified).unwrap();
        let was = &old[at as usize..at as usize + len as usize];
        assert!(writing.next_read(&mut ahead, at).unwrap() == was, "{len} bytes at {at}");
    }
    let end = writing.next_read(&mut ahead, 0).unwrap_err();
    assert!(matches!(end, DiskError::Io { source, .. } if source.kind() == std::io::ErrorKind::UnexpectedEof));

    let outside = 5 * MIB as u64;
    let mut ahead = writing.read_ahead(vec![(0, 10), (outside, 10), (20, 10)]).unwrap();
    assert!(writing.next_read(&mut ahead, 0).unwrap() == &old[..10]);
    let why = writing.next_read(&mut ahead, outside).unwrap_err();
    assert!(matches!(why, DiskError::OutOfRange { at, .. } if at == outside));
    assert!(writing.next_read(&mut ahead, 20).is_err(), "nothing comes after a failure");
}

/// What was written without reading the zeros first is the same, to the byte and to the count; so is what is read into memory that
/// was used before.
#[test]
fn what_is_known_need_not_be_read_before() {
    let zeros = vec![0; 3 * MIB];
    let mut image = noise(3, 3 * MIB);
    for at in [5 * 4096, MIB + 4096, 2 * MIB + 3 * 4096] {
        image[at..at + 4096].fill(0);
    }
    // In the second half of the old bytes every other block is the image's.
    let mut old = noise(4, 3 * MIB);
    for at in (3 * MIB / 2..3 * MIB).step_by(2 * 4096) {
        old[at..at + 4096].copy_from_slice(&image[at..at + 4096]);
    }
    let put = |old: &[u8], known: bool| {
        let (_folder, path) = scratch();
        fs::write(&path, old).unwrap();
        let faults = Faults::nth(u64::MAX, slipway_disk::Fault::Error);
        let target = target_open(&path, &shape(image.len() as u64), &PLAIN, faults.clone()).unwrap();
        let mut writing = target.writing().unwrap();
        let (mut written, mut buffer) = (0, ReadBuffer::new());
        let reads = || faults.log().into_iter().filter(|op| *op == slipway_disk::Op::Read).count();
        let before = reads();
        for (n, bytes) in image.chunks(32 << 10).enumerate() {
            let (at, chunk) = ((n * (32 << 10)) as u64, verify(bytes, &ChunkId::of(bytes)).unwrap());
            let there = &old[at as usize..][..bytes.len()];
            let prints: Vec<_> = slipway_disk::prints(at, there).collect();
            written += match (known, there == &zeros[..there.len()]) {
                (true, true) => writing.chunk_write_on_zeros(at, &chunk),
                (true, false) => writing.chunk_write_on_prints(at, &chunk, &prints),
                (false, _) => writing.chunk_write(at, &chunk),
            }
            .unwrap();
        }
        let reads = reads() - before;
        writing.flush().unwrap();
        for (at, len) in [(0, image.len()), (4000, 1000), (MIB + 1, MIB), (image.len() - 7, 7)] {
            writing.read_into(at as u64, len, &mut buffer).unwrap();
            assert!(buffer.bytes() == &image[at..at + len], "{len} at {at}");
        }
        let sealed = writing.seal().unwrap();
        assert!(read(&path) == image);
        (written, sealed.written, reads)
    };
    let differing = [image.len() - 3 * 4096, image.len() * 3 / 4];
    for (old, differing) in [&zeros, &old].into_iter().zip(differing) {
        let (compared, known) = (put(old, false), put(old, true));
        assert_eq!(compared.0, differing as u64);
        assert_eq!((compared.0, compared.1), (known.0, known.1));
        // The guarded ranges are looked at before the first write, and nothing else.
        assert!(known.2 <= 3 && compared.2 > 10, "{compared:?} {known:?}");
    }
    // A chunk that ends within a block. Prints that are too few, or of something else, say that everything differs.
    let bytes = &image[..32_100];
    let (_folder, path) = scratch();
    fs::write(&path, &image).unwrap();
    let mut writing =
        target_open(&path, &shape(image.len() as u64), &PLAIN, Faults::none()).unwrap().writing().unwrap();
    let chunk = verify(bytes, &ChunkId::of(bytes)).unwrap();
    let prints: Vec<_> = slipway_disk::prints(0, bytes).collect();
    let mut put = |prints: &[slipway_disk::Print]| writing.chunk_write_on_prints(0, &chunk, prints).unwrap();
    assert_eq!((put(&prints), put(&prints[..3]), put(&prints[1..])), (0, 32_100 - 3 * 4096, 32_100));
}

#[test]
fn ranges_outside() {
    let (_folder, path) = scratch();
    fs::write(&path, noise(1, 3 * MIB)).unwrap();
    let mut target = target_open(&path, &shape(2 * MIB as u64), &PLAIN, Faults::none()).unwrap();
    assert_eq!((target.facts().tail_bytes, target.facts().size), (MIB as u64, 3 * MIB as u64));
    assert!(target.read(2 * MIB as u64, MIB).is_ok(), "the tail may be read");
    assert!(matches!(target.read(2 * MIB as u64, MIB + 1), Err(DiskError::OutOfRange { .. })));
    assert!(matches!(target.read(u64::MAX, 1), Err(DiskError::OutOfRange { .. })));
    let mut writing = target.writing().unwrap();
    let bytes = noise(2, 4096);
    let verified = verify(&bytes, &ChunkId::of(&bytes)).unwrap();
    for at in [2 * MIB as u64, 2 * MIB as u64 - 1, u64::MAX - 1] {
        assert!(matches!(writing.chunk_write(at, &verified), Err(DiskError::OutOfRange { .. })), "{at}");
        assert!(matches!(writing.zero(at, 4096), Err(DiskError::OutOfRange { .. })), "{at}");
    }
    drop(writing);
    assert_eq!(read(&path), noise(1, 3 * MIB));
}

#[test]
fn an_old_backup_header_goes_with_the_first_write() {
    let (_folder, path) = scratch();
    let mut old = noise(1, 4 * MIB);
    gpt_put(&mut old, 512);
    fs::write(&path, &old).unwrap();
    let mut image = noise(2, 2 * MIB);
    gpt_put(&mut image, 512);
    let target = target_open(&path, &shape(image.len() as u64), &PLAIN, Faults::none()).unwrap();
    assert!(target.facts().old_backup_gpt);
    image_put(target.writing().unwrap(), &image).unwrap();
    let after = read(&path);
    assert!(after[..2 * MIB] == image[..]);
    assert!(after[2 * MIB..4 * MIB - 512] == old[2 * MIB..4 * MIB - 512], "the tail but its last sector");
    assert_eq!(after[4 * MIB - 512..], [0; 512]);
    // Where the image reaches the end, the header there is its own, and stays.
    let target = target_open(&path, &shape(4 * MIB as u64), &PLAIN, Faults::none()).unwrap();
    assert!(!target.facts().old_backup_gpt);
    image_put(target.writing().unwrap(), &old).unwrap();
    assert!(read(&path) == old);
    assert!(!flash(&path, &old, &shape(old.len() as u64), Faults::none()).unwrap().changed);
}

#[test]
fn the_table_moves_to_the_end() {
    fn check(sector: usize, tail: usize, old_table: bool, expected: bool) {
        let (_folder, path) = scratch();
        let mut image = noise(2, 2 * MIB);
        gpt_put(&mut image, sector);
        let mut old = noise(1, image.len() + tail);
        if old_table {
            gpt_put(&mut old, sector);
        }
        fs::write(&path, &old).unwrap();
        let shape = Shape { size: image.len() as u64, sector_size: sector as u32 };
        let mut writing = target_open(&path, &shape, &PLAIN, Faults::none()).unwrap().writing().unwrap();
        for (at, chunk) in (0..).step_by(65536).zip(image.chunks(65536)) {
            writing.chunk_write(at, &verify(chunk, &ChunkId::of(chunk)).unwrap()).unwrap();
        }
        assert_eq!(writing.fix_gpt().unwrap(), expected, "{sector} {tail}");
        writing.seal().unwrap();
        let after = read(&path);
        let sectors = (after.len() / sector) as u64;
        let primary = parse_header(&after[sector..2 * sector]).unwrap();
        if expected {
            assert_eq!(primary.alternate_lba, sectors - 1);
            assert!(backup_header_matches(&after[after.len() - sector..], sectors - 1));
            assert!(after[2 * sector..MIB] == image[2 * sector..MIB], "the rest of the first MiB is the image's");
        } else {
            assert!(after[..image.len()] == image[..]);
        }
    }
    check(512, 0, false, false);
    check(512, MIB, false, true);
    check(512, MIB, true, true);
    check(512, 512, false, true);
    check(4096, MIB, false, true);
    check(4096, MIB, true, true);
    let (_folder, path) = scratch();
    fs::write(&path, noise(1, 3 * MIB)).unwrap();
    let target = target_open(&path, &shape(2 * MIB as u64), &PLAIN, Faults::none()).unwrap();
    let mut writing = target.writing().unwrap();
    assert!(!writing.fix_gpt().unwrap(), "there is no table");
    assert!(!writing.seal().unwrap().changed);
}
