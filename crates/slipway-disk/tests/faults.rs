//! Every operation of a flash fails once, in every way. Afterwards the target is as it was, or cannot boot, or is whole.
#![allow(clippy::unwrap_used)]

mod support;

use std::error::Error;
use std::fs;
use std::sync::OnceLock;

use proptest::prelude::{ProptestConfig, any, proptest};
use slipway_chunk::is_zero;
use slipway_disk::{DiskError, Fault, Faults, Op, Sealed};
use support::{FlashError, MIB, flash, gpt_put, noise, read, scratch_fast, shape};

const FAULTS: [Fault; 4] = [Fault::Error, Fault::ShortWrite, Fault::NoSpace, Fault::Gone];

/// A target with an older version in it (its own backup header at the end, beyond the image), and the new image:
/// data changed, a hole where data was, an odd size.
fn sample() -> &'static (Vec<u8>, Vec<u8>) {
    static SAMPLE: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    SAMPLE.get_or_init(sample_make)
}

fn sample_make() -> (Vec<u8>, Vec<u8>) {
    let mut old = noise(1, 3 * MIB);
    gpt_put(&mut old, 512);
    let mut image = noise(1, 2 * MIB + 700);
    gpt_put(&mut image, 512);
    image[MIB + 65536..MIB + 3 * 65536].fill(0);
    image[MIB + 4 * 65536..MIB + 5 * 65536].copy_from_slice(&noise(7, 65536));
    image[2 * MIB + 690] ^= 0x10;
    (old, image)
}

#[derive(Debug, PartialEq)]
enum After {
    Old,
    CannotBoot,
    New,
}

fn judge(found: &[u8], old: &[u8], image: &[u8]) -> After {
    if found == old {
        return After::Old;
    }
    let size = image.len();
    let end = old.len();
    // The tail is never touched, but for the old backup header in its last sector.
    assert!(found[size..end - 512] == old[size..end - 512], "the tail changed");
    if found[..size] == *image {
        assert_eq!(found[end - 512..], [0; 512], "an old backup header beside a new table");
        return After::New;
    }
    assert!(is_zero(&found[..8192]), "a mixture that has a boot sector");
    After::CannotBoot
}

fn check(op: Option<Op>, n: u64, fault: Fault) -> Option<(Result<Sealed, FlashError>, After)> {
    let (folder, path) = scratch_fast();
    let (old, image) = sample();
    fs::write(&path, old).unwrap();
    let faults = match op {
        Some(op) => Faults::nth_of(op, n, fault),
        None => Faults::nth(n, fault),
    };
    let result = flash(&path, image, &shape(image.len() as u64), faults.clone());
    let found = read(&path);
    let after = judge(&found, old, image);
    let log = faults.log();
    match &result {
        Ok(_) => assert_eq!(after, After::New),
        Err(_) => {
            let first = log.iter().position(|op| matches!(op, Op::Write | Op::Punch));
            let wrote = first.is_some_and(|first| first + 1 < log.len());
            if !wrote && fault != Fault::ShortWrite {
                assert_eq!(after, After::Old, "{op:?} {n} {fault:?}");
            }
            // A write that stops half-way may be one that zeroes the rest of the first MiB; when it is not begun, all else is still old.
            if after == After::CannotBoot && matches!(fault, Fault::Error | Fault::NoSpace) {
                assert!(is_zero(&found[..MIB]) || found[8192..] == old[8192..], "{op:?} {n} {fault:?}");
            }
        }
    }
    // The same flash again, without faults, makes it whole from whatever was left.
    flash(&path, image, &shape(image.len() as u64), Faults::none()).unwrap();
    assert_eq!(judge(&read(&path), old, image), After::New, "{op:?} {n} {fault:?}");
    drop(folder);
    (faults.seen() > n).then_some((result, after))
}

#[test]
fn every_operation_fails() {
    for fault in FAULTS {
        let mut outcomes = [0_u32; 3];
        for n in 0.. {
            let Some((result, after)) = check(None, n, fault) else { break };
            // Only failed punches and reads may have a way round, and there is none here.
            assert!(result.is_err(), "operation {n} failed with {fault:?} and nobody noticed");
            outcomes[after as usize] += 1;
        }
        assert!(outcomes[0] > 5 && outcomes[1] > 20, "{fault:?} {outcomes:?}");
    }
}

#[test]
fn what_is_not_supported_has_another_way() {
    let mut ways_round = 0;
    for n in 0.. {
        let Some((result, _)) = check(None, n, Fault::Unsupported) else { break };
        ways_round += u32::from(result.is_ok());
    }
    assert!(ways_round > 10, "{ways_round}");
    // A target that cannot punch gets zeros written.
    let (result, after) = check(Some(Op::Punch), 0, Fault::Unsupported).expect("there is a hole to punch");
    assert_eq!((result.unwrap().zeroed, after), (131_072, After::New));
}

#[test]
fn each_kind_fails() {
    for op in [Op::Read, Op::Write, Op::Fsync, Op::Punch] {
        let mut seen = 0;
        while check(Some(op), seen, Fault::Error).is_some() {
            seen += 1;
        }
        assert!(seen > 0, "{op:?} does not happen at all");
    }
}

#[test]
fn a_flush_error_is_named_and_final() {
    for n in 0.. {
        let Some((result, _)) = check(Some(Op::Fsync), n, Fault::Error) else {
            assert!(n >= 5, "first bytes, guards, data, guards, first bytes: {n}");
            break;
        };
        let error = result.unwrap_err();
        assert!(matches!(error, FlashError::Disk(DiskError::Flush { .. })), "{error}");
        assert!(error.to_string().starts_with("flushing /"), "{error}");
        assert!(error.source().unwrap().to_string().contains("Input/output error"));
    }
}

#[test]
fn after_a_flush_error_nothing_more_is_written() {
    let (_folder, path) = scratch_fast();
    let (old, image) = sample();
    fs::write(&path, old).unwrap();
    let shape = shape(image.len() as u64);
    let target =
        slipway_disk::target_open(&path, &shape, &Default::default(), Faults::nth_of(Op::Fsync, 2, Fault::Error));
    let mut writing = target.unwrap().writing().unwrap();
    let chunk = |at: usize| &image[at..at + 65536];
    let put = |writing: &mut slipway_disk::Writing, at: usize| {
        let bytes = chunk(at);
        writing.chunk_write(at as u64, &slipway_chunk::verify(bytes, &slipway_chunk::ChunkId::of(bytes)).unwrap())
    };
    put(&mut writing, MIB + 4 * 65536).unwrap();
    assert!(matches!(writing.flush(), Err(DiskError::Flush { .. })));
    let before = read(&path);
    assert!(matches!(writing.zero(MIB as u64 + 65536, 65536), Err(DiskError::Poisoned(_))));
    assert!(matches!(writing.flush(), Err(DiskError::Poisoned(_))));
    assert!(matches!(writing.seal(), Err(DiskError::Poisoned(_))));
    assert_eq!(read(&path), before);
}

#[test]
fn a_created_file_is_not_left_behind() {
    let (_, image) = sample();
    for n in 0.. {
        let (_folder, path) = scratch_fast();
        let faults = Faults::nth(n, Fault::NoSpace);
        if flash(&path, image, &shape(image.len() as u64), faults).is_ok() {
            assert!(n > 10);
            assert!(read(&path) == *image);
            break;
        }
        assert!(!path.exists(), "after operation {n}");
    }
}

#[test]
fn the_order_of_a_flash() {
    let (_folder, path) = scratch_fast();
    let (old, image) = sample();
    fs::write(&path, old).unwrap();
    let faults = Faults::nth(u64::MAX, Fault::Error);
    let sealed = flash(&path, image, &shape(image.len() as u64), faults.clone()).unwrap();
    let changes: Vec<Op> = faults.log().into_iter().filter(|op| *op != Op::Read).collect();
    assert_eq!(changes[..2], [Op::Write, Op::Fsync], "the first bytes go first");
    let flush = 2 + changes[2..].iter().position(|op| *op == Op::Fsync).unwrap();
    // The rest of the first MiB, the image's end (its whole sectors and its odd tail), the old backup header.
    assert!(changes[2..flush].iter().all(|op| *op == Op::Write) && flush >= 5, "{changes:?}");
    assert_eq!(changes[changes.len() - 2..], [Op::Write, Op::Fsync], "the first bytes go last");
    assert_eq!(sealed.flushes, 5);
}

/// A power cut takes any of the writes that no flush has followed. So at each flush what it is to keep may only be such that any part of
/// it will do: no first bytes before all else is there.
#[test]
fn the_first_bytes_go_before_what_they_need() {
    let (old, image) = sample();
    let found_at = |faults: Faults| {
        let (_folder, path) = scratch_fast();
        fs::write(&path, old).unwrap();
        let done = flash(&path, image, &shape(image.len() as u64), faults).is_ok();
        (done, read(&path))
    };
    let counting = Faults::nth(u64::MAX, Fault::Error);
    found_at(counting.clone());
    let log = counting.log();
    let flushes: Vec<u64> = (0..log.len()).filter(|n| log[*n] == Op::Fsync).map(|n| n as u64).collect();
    assert_eq!(flushes.len(), 5);
    for (n, at) in flushes.into_iter().enumerate() {
        let (done, found) = found_at(Faults::nth(at, Fault::Gone));
        let rest_is = |what: &[u8]| found[8192..MIB] == what[8192..MIB];
        let expected = match n {
            0 => is_zero(&found[..8192]) && found[8192..] == old[8192..],
            1 => is_zero(&found[..MIB]) && found[MIB..2 * MIB] == old[MIB..2 * MIB],
            2 => is_zero(&found[..MIB]) && found[MIB..2 * MIB] == image[MIB..2 * MIB],
            3 => is_zero(&found[..8192]) && rest_is(image),
            _ => found[..image.len()] == *image,
        };
        assert!(!done && expected, "what was written before flush {n}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_change_any_fault(
        edits in proptest::collection::vec((0_usize..2 * MIB, 1_usize..20_000, any::<bool>()), 0..6),
        n in 0_u64..150,
        which in 0_usize..4,
    ) {
        let (_folder, path) = scratch_fast();
        let old = &sample().0[..2 * MIB + 4096];
        fs::write(&path, old).unwrap();
        let mut image = old[..2 * MIB].to_vec();
        for (at, len, hole) in edits {
            let end = (at + len).min(image.len());
            if hole { image[at..end].fill(0) } else { image[at..end].iter_mut().for_each(|byte| *byte ^= 0x55) }
        }
        let faults = Faults::nth(n, FAULTS[which]);
        let result = flash(&path, &image, &shape(image.len() as u64), faults);
        let found = read(&path);
        assert!(found[2 * MIB..] == old[2 * MIB..]);
        let new = found[..2 * MIB] == image[..];
        assert!(new || (result.is_err() && (found == old || is_zero(&found[..8192]))));
    }
}
