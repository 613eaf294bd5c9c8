//! Compressed streams, good and hostile. Every corpus is made here.
#![allow(clippy::unwrap_used)]

use std::io::{self, Cursor, Read, Write};

use proptest::prelude::{ProptestConfig, any, proptest};
use slipway_format::{StreamError, WRAP_HEAD_LEN, Wrap, unwrap, wrap_detect};

const WRAPS: [Wrap; 3] = [Wrap::Gzip, Wrap::Xz, Wrap::Zstd];

fn wrapped(wrap: Wrap, bytes: &[u8]) -> Vec<u8> {
    match wrap {
        Wrap::None => bytes.to_vec(),
        Wrap::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Wrap::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Wrap::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.include_checksum(true).unwrap();
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
    }
}

fn unwrapped(wrap: Wrap, bytes: Vec<u8>, cap: u64) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    unwrap(wrap, Box::new(Cursor::new(bytes)), cap).read_to_end(&mut out)?;
    Ok(out)
}

/// Bytes that compress a little.
fn sample(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * n / 7 % 251) as u8).collect()
}

#[derive(Debug, PartialEq)]
enum Refusal {
    Truncated,
    Corrupt,
    TooLarge,
}

fn refusal(result: io::Result<Vec<u8>>) -> Refusal {
    let error = result.expect_err("it must be refused");
    match error.get_ref().and_then(|inner| inner.downcast_ref::<StreamError>()) {
        Some(StreamError::Truncated(_)) => Refusal::Truncated,
        Some(StreamError::Corrupt { .. }) => Refusal::Corrupt,
        Some(StreamError::TooLarge { .. }) => Refusal::TooLarge,
        None => panic!("not a StreamError: {error:?}"),
    }
}

#[test]
fn detection_by_content() {
    fn check(head: &[u8], expected: Wrap) {
        assert_eq!(wrap_detect(head), expected, "{head:x?}");
    }
    for wrap in WRAPS {
        check(&wrapped(wrap, b"x")[..WRAP_HEAD_LEN], wrap);
        check(&wrapped(wrap, b"")[..WRAP_HEAD_LEN], wrap);
        check(&wrapped(wrap, b"x")[..3], Wrap::None);
    }
    check(&[], Wrap::None);
    check(&[0; 6], Wrap::None);
    check(&[0x1f, 0x8b, 7, 0], Wrap::None);
    check(&[0x1f, 0x8b, 8, 0x20], Wrap::None);
    check(&[0x50, 0x2a, 0x4d, 0x18], Wrap::Zstd);
    check(&[0x5f, 0x2a, 0x4d, 0x18], Wrap::Zstd);
    check(&[0x60, 0x2a, 0x4d, 0x18], Wrap::None);
    check(b"QFI\xfb\0\0", Wrap::None);
    check(&[0xfd, b'7', b'z', b'X', b'Z', 1], Wrap::None);
}

#[test]
fn round_trips_and_concatenation() {
    for wrap in WRAPS {
        for len in [0, 1, 511, 4096, 300_000] {
            let bytes = sample(len);
            assert_eq!(unwrapped(wrap, wrapped(wrap, &bytes), len as u64).unwrap(), bytes, "{wrap:?} {len}");
        }
        let mut twice = wrapped(wrap, &sample(100_000));
        twice.extend(wrapped(wrap, b""));
        twice.extend(wrapped(wrap, b"second"));
        let mut expected = sample(100_000);
        expected.extend(b"second");
        assert_eq!(unwrapped(wrap, twice, 1 << 20).unwrap(), expected, "{wrap:?}");
    }
    assert_eq!(unwrapped(Wrap::None, sample(100), 100).unwrap(), sample(100));
}

#[test]
fn zstd_skippable_frames() {
    let skippable = |magic: u8, len: u32| {
        let mut frame = vec![magic, 0x2a, 0x4d, 0x18];
        frame.extend(len.to_le_bytes());
        frame.extend(vec![0xaa; len as usize]);
        frame
    };
    let data = wrapped(Wrap::Zstd, b"data");
    let frames = [skippable(0x50, 0), data.clone(), skippable(0x5f, 1000), data.clone(), skippable(0x51, 3)];
    assert_eq!(unwrapped(Wrap::Zstd, frames.concat(), 100).unwrap(), b"datadata");
    assert_eq!(unwrapped(Wrap::Zstd, skippable(0x50, 9), 100).unwrap(), b"");
    let mut cut = data.clone();
    cut.extend(&skippable(0x50, 9)[..10]);
    assert_eq!(refusal(unwrapped(Wrap::Zstd, cut, 100)), Refusal::Truncated);
    // A frame that claims 4 GiB to skip costs nothing.
    let lie = [&data[..], &[0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]].concat();
    assert_eq!(refusal(unwrapped(Wrap::Zstd, lie, 100)), Refusal::Truncated);
}

#[test]
fn cut_off_anywhere() {
    for wrap in WRAPS {
        let whole = wrapped(wrap, &sample(5000));
        for len in (0..whole.len()).filter(|len| *len < 40 || whole.len() - len < 40 || len % 37 == 0) {
            let result = unwrapped(wrap, whole[..len].to_vec(), 1 << 20);
            // An empty input is what an empty list of members looks like to some decoders.
            match result {
                Ok(bytes) => assert!(len == 0 && bytes.is_empty(), "{wrap:?} cut at {len}"),
                error => assert_eq!(refusal(error), Refusal::Truncated, "{wrap:?} cut at {len}"),
            }
        }
    }
}

#[test]
fn trailing_bytes() {
    for wrap in WRAPS {
        for garbage in
            [&[0_u8][..], b"\n", b"garbage at the end", &[0x1f], &[0x1f, 0x8b, 8], &[0x28, 0xb5], &[0; 4096][..511]]
        {
            let mut bytes = wrapped(wrap, &sample(5000));
            bytes.extend(garbage);
            let refused = refusal(unwrapped(wrap, bytes, 1 << 20));
            assert!(matches!(refused, Refusal::Corrupt | Refusal::Truncated), "{wrap:?} {garbage:x?}");
        }
        for (other, whole) in WRAPS.iter().filter(|other| **other != wrap).map(|other| (other, wrapped(*other, b"x"))) {
            let bytes = [wrapped(wrap, b"y"), whole].concat();
            assert_eq!(refusal(unwrapped(wrap, bytes, 1 << 20)), Refusal::Corrupt, "{wrap:?} then {other:?}");
        }
    }
}

#[test]
fn a_flipped_bit_never_gives_other_bytes() {
    for wrap in WRAPS {
        let bytes = sample(3000);
        let whole = wrapped(wrap, &bytes);
        for bit in (0..whole.len() * 8).filter(|bit| *bit < 200 || bit % 11 == 0) {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // Some header bits (a time stamp, the operating system) mean nothing for the content.
            if let Ok(got) = unwrapped(wrap, bad, 1 << 20) {
                assert_eq!(got, bytes, "{wrap:?} bit {bit}");
            }
        }
    }
}

#[test]
fn the_cap_is_exact() {
    fn check(wrap: Wrap, len: usize, cap: u64, ok: bool) {
        let result = unwrapped(wrap, wrapped(wrap, &vec![0; len]), cap);
        if ok {
            assert_eq!(result.unwrap().len(), len, "{wrap:?} {len} {cap}");
        } else {
            assert_eq!(refusal(result), Refusal::TooLarge, "{wrap:?} {len} {cap}");
        }
    }
    for wrap in [Wrap::None, Wrap::Gzip, Wrap::Xz, Wrap::Zstd] {
        check(wrap, 100_000, 100_000, true);
        check(wrap, 100_000, 99_999, false);
        check(wrap, 100_000, u64::MAX, true);
        check(wrap, 0, 0, true);
        check(wrap, 1, 0, false);
    }
}

#[test]
fn a_bomb_stops_at_the_cap() {
    for wrap in WRAPS {
        let bomb = wrapped(wrap, &vec![0; 64 << 20]);
        assert!(bomb.len() < 1 << 20, "{wrap:?}");
        let mut reader = unwrap(wrap, Box::new(Cursor::new(bomb)), 1 << 20);
        let mut total = 0;
        let mut buf = vec![0; 64 << 10];
        let error = loop {
            match reader.read(&mut buf) {
                Ok(got) => total += got,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert!(total <= 1 << 20, "{wrap:?} {total}");
        assert!(reader.read(&mut buf).is_err(), "it stays refused");
    }
}

#[test]
fn windows_beyond_128_mib() {
    // A zstd frame of one raw block, with the window it says it needs.
    let zstd = |log: u8| [&[0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3, 5 << 3 | 1, 0, 0][..], b"hello"].concat();
    assert_eq!(unwrapped(Wrap::Zstd, zstd(27), 100).unwrap(), b"hello");
    assert_eq!(refusal(unwrapped(Wrap::Zstd, zstd(28), 100)), Refusal::Corrupt);
    assert_eq!(refusal(unwrapped(Wrap::Zstd, zstd(31), 100)), Refusal::Corrupt);
    // The dictionary size of an LZMA2 block is one byte of its header (xz 1.2, 5.3.1).
    let xz = |bits: u8| {
        let mut bytes = wrapped(Wrap::Xz, b"hello");
        assert_eq!(bytes[14..16], [0x21, 1], "the LZMA2 filter");
        let end = 12 + (usize::from(bytes[12]) + 1) * 4;
        bytes[16] = bits;
        let crc = crc32fast::hash(&bytes[12..end - 4]);
        bytes[end - 4..end].copy_from_slice(&crc.to_le_bytes());
        bytes
    };
    assert_eq!(unwrapped(Wrap::Xz, xz(30), 100).unwrap(), b"hello");
    assert_eq!(refusal(unwrapped(Wrap::Xz, xz(31), 100)), Refusal::Corrupt);
    assert_eq!(refusal(unwrapped(Wrap::Xz, xz(40), 100)), Refusal::Corrupt);
}

#[test]
fn errors_of_the_input_pass_unchanged() {
    struct Broken(Cursor<Vec<u8>>, io::ErrorKind);
    impl Read for Broken {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buf)? {
                0 => Err(io::Error::new(self.1, "the line is dead")),
                got => Ok(got),
            }
        }
    }
    for wrap in [Wrap::None, Wrap::Gzip, Wrap::Xz, Wrap::Zstd] {
        for kind in [io::ErrorKind::ConnectionReset, io::ErrorKind::UnexpectedEof, io::ErrorKind::InvalidData] {
            let half = wrapped(wrap, &sample(5000))[..100].to_vec();
            let mut out = Vec::new();
            let error =
                unwrap(wrap, Box::new(Broken(Cursor::new(half), kind)), 1 << 20).read_to_end(&mut out).unwrap_err();
            assert_eq!((error.kind(), error.to_string().as_str()), (kind, "the line is dead"), "{wrap:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn random_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..2000), which in 0_usize..3, keep in 0_usize..12) {
        let wrap = WRAPS[which];
        let mut stream = wrapped(wrap, b"something");
        stream.truncate(keep);
        stream.extend(bytes);
        let _ = unwrapped(wrap, stream, 1 << 20);
    }
}
