//! Hostile qcow2 images, made by hand: each is refused, and for its own reason. The shapes of known attacks are among them.

#![allow(clippy::unwrap_used)]

mod kit;
mod made;

use kit::{Dice, LIMITS, good, hostile, raw_image, read_all};
use made::qcow2::{CLUSTER, DATA, L1, L2, LEN, Made, PACKED, REFCOUNTS, SIZE};
use slipway_format::{DiskReading, Format, disk_open};

fn check(name: &str, words: &str, change: impl Fn(&mut Made) -> &mut Made) {
    let mut made = Made::new();
    change(&mut made);
    hostile(name, made.0, Format::Qcow2, words);
}

fn check_extended(name: &str, words: &str, change: impl Fn(&mut Made) -> &mut Made) {
    let mut made = Made::extended();
    change(&mut made);
    hostile(name, made.0, Format::Qcow2, words);
}

#[test]
fn what_the_others_are_made_of_is_good() {
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str, made: &Made, parts: &[(u64, u8)]| {
        let image = dir.path().join("image");
        std::fs::write(&image, &made.0).unwrap();
        let mut raw = vec![0; SIZE as usize];
        let mut at = 0;
        for (len, byte) in parts {
            raw[at..at + *len as usize].fill(*byte);
            at += *len as usize;
        }
        assert!(kit::qemu_raw(&image, "qcow2") == raw, "{name}: the oracle sees something else");
        good(name, &image, Format::Qcow2, &raw);
    };
    check("by hand", &Made::new(), &[(4096, 7), (4096, 9)]);
    check("extended by hand", &Made::extended(), &[(4096, 7)]);
    let mut made = Made::new();
    // Stale refcounts, unknown compatible and autoclear features, an unknown extension, and a claim of snapshots do not matter.
    made.u64(72, 1).u64(80, u64::MAX).u64(88, 1 << 63).u32(104, 0x1234_5678).u32(108, 16).u32(60, 1).u64(64, L2 as u64);
    made.u32(60, 0);
    check("with what may be ignored", &made, &[(4096, 7), (4096, 9)]);
    made = Made::new();
    made.u32(4, 2).u64(L2 + 16, 0).bytes(72, &[0; 32]);
    check("version 2 by hand", &made, &[(4096, 7), (4096, 9)]);
}

#[test]
fn other_files_and_secrets() {
    check("backing file", "backing file", |i| i.u64(8, 112).u32(16, 11).bytes(112, b"/etc/passwd"));
    check("backing file at an odd place", "backing file", |i| i.u64(8, u64::MAX).u32(16, 1023));
    check("backing file in json", "backing file", |i| {
        i.u64(8, 200).u32(16, 51).bytes(200, b"json:{\"driver\":\"file\",\"filename\":\"/etc/shadow\"} ....")
    });
    check("data file", "external data file", |i| {
        i.u64(72, 1 << 2).u32(104, 0x4441_5441).u32(108, 11).bytes(112, b"/etc/passwd")
    });
    check("data file without a name", "external data file", |i| i.u64(72, 1 << 2));
    check("a name of a data file", "external data file", |i| {
        i.u32(104, 0x4441_5441).u32(108, 11).bytes(112, b"/etc/passwd")
    });
    check("raw data file", "external data file", |i| i.u64(72, 1 << 2).u64(88, 1 << 1));
    check("AES", "encrypted", |i| i.u32(32, 1));
    check("LUKS", "encrypted", |i| i.u32(32, 2));
    check("a LUKS header", "encrypted", |i| i.u32(104, 0x0537_be77).u32(108, 16).u64(112, 0).u64(120, 512));
}

#[test]
fn headers() {
    check("version 1", "version 1", |i| i.u32(4, 1));
    check("version 4", "version 4", |i| i.u32(4, 4));
    check("cut in the header", "cut off", |i| i.cut(71));
    check("cut in the header of version 3", "cut off", |i| i.cut(103));
    check("four bytes", "cut off", |i| i.cut(4));
    check("unknown feature", "feature 5", |i| i.u64(72, 1 << 5));
    check("unknown high feature", "feature 63", |i| i.u64(72, 1 << 63));
    check("corrupt", "marked as corrupt", |i| i.u64(72, 1 << 1));
    check("unknown compression", "compression 9", |i| i.u64(72, 1 << 3).u32(100, 112).bytes(104, &[9]));
    check("hidden compression", "contradicts itself", |i| i.u32(100, 112).bytes(104, &[1]));
    check("missing compression", "contradicts itself", |i| i.u64(72, 1 << 3));
    check("clusters of a byte", "2^0", |i| i.u32(20, 0));
    check("clusters of 256", "2^8", |i| i.u32(20, 8));
    check("clusters of 4 MiB", "2^22", |i| i.u32(20, 22));
    check("clusters of 2^64", "2^64", |i| i.u32(20, 64));
    check("clusters of 2^32-1", "2^4294967295", |i| i.u32(20, u32::MAX));
    check("parts smaller than a sector", "too small", |i| i.u64(72, 1 << 4));
    check("short header", "header of 72 bytes", |i| i.u32(100, 72));
    check("long header", "header of 4097 bytes", |i| i.u32(100, 4097));
    check("endless header", "bytes is impossible", |i| i.u32(100, u32::MAX));
    check("refcounts of 128 bits", "2^7", |i| i.u32(96, 7));
    check("endless extension", "reaches past the first cluster", |i| i.u32(104, 1).u32(108, u32::MAX));
    check("long extension", "reaches past the first cluster", |i| i.u32(104, 1).u32(108, 4096));
    check("a million snapshots", "internal snapshots", |i| i.u32(60, 1_000_000));
    check("snapshots past the end", "internal snapshots", |i| i.u32(60, 1).u64(64, 1 << 40));
}

#[test]
fn sizes() {
    check("nothing", "0 bytes", |i| i.u64(24, 0));
    check("2^63", "more than", |i| i.u64(24, 1 << 63));
    check("2^64-1", "more than", |i| i.u64(24, u64::MAX));
    check("over the cap", "more than", |i| i.u64(24, LIMITS.size_max + 512));
    check("half a sector", "end with a sector", |i| i.u64(24, SIZE - 1));
    check("larger than its first level", "entries where", |i| i.u64(24, SIZE + 4096));
    check("a terabyte in small clusters", "entries where", |i| i.u64(24, 1 << 40).u32(36, 1000));
    check("a first level of gigabytes", "at most", |i| i.u32(36, u32::MAX));
    check("no first level", "entries where", |i| i.u32(36, 0));
}

#[test]
fn tables() {
    check("first level past the end", "past the end", |i| i.u64(40, LEN as u64));
    check("first level far away", "past the end", |i| i.u64(40, 1 << 62));
    check("first level at the end of numbers", "past the end", |i| i.u64(40, u64::MAX << 12));
    check("first level inside a cluster", "begins inside a cluster", |i| i.u64(40, 4104));
    check("first level on the header", "lies on the header", |i| i.u64(40, 0));
    check("refcounts past the end", "past the end", |i| i.u64(48, 1 << 40));
    check("no refcounts", "refcount table of 0", |i| i.u32(56, 0));
    check("refcounts without end", "refcount table of", |i| i.u32(56, u32::MAX));
    check("refcounts on the first level", "overlap", |i| i.u64(48, L1 as u64));
    check("unknown bits in the first level", "unknown bits", |i| i.u64(L1, L2 as u64 | 1));
    check("high bits in the first level", "unknown bits", |i| i.u64(L1, L2 as u64 | 1 << 60));
    check("second level past the end", "past the end", |i| i.u64(L1, LEN as u64));
    check("second level cut off", "past the end", |i| i.u64(L1, L2 as u64).cut(L2 + 512));
    check("second level inside a cluster", "inside a cluster", |i| i.u64(L1, L2 as u64 + 512));
    check("second level is the first", "overlap", |i| i.u64(L1, L1 as u64));
    check("second level is the refcounts", "overlap", |i| i.u64(L1, REFCOUNTS as u64));
    check("one second level for two", "have one table", |i| i.u64(L1 + 8, L2 as u64));
}

#[test]
fn clusters() {
    check("past the end", "past the end", |i| i.u64(L2, LEN as u64));
    check("far past the end", "past the end", |i| i.u64(L2, 1 << 55));
    check("cut off", "past the end", |i| i.u64(L2, 7 * CLUSTER as u64).cut(LEN - 1));
    check("inside a cluster", "inside a cluster", |i| i.u64(L2, DATA as u64 + 512));
    check("unknown bits", "unknown bits", |i| i.u64(L2, DATA as u64 | 1 << 61));
    check("unknown low bits", "unknown bits", |i| i.u64(L2, DATA as u64 | 2));
    check("a zero cluster in version 2", "unknown bits", |i| i.u32(4, 2).u64(L2, 1));
    check("data in its own table", "lies in a table", |i| i.u64(L2, L2 as u64));
    check("data in the first level", "lies in a table", |i| i.u64(L2, L1 as u64));
    check("two in one place", "lie in one place", |i| i.u64(L2 + 24, DATA as u64));
    check("packed past the end", "past the end", |i| i.u64(L2 + 8, 1 << 62 | LEN as u64));
    check("packed far past the end", "past the end", |i| i.u64(L2 + 8, 1 << 62 | 1 << 50));
    check("packed and too long", "past the end", |i| i.u64(L2 + 8, 1 << 62 | 15 << 58 | (LEN - 512) as u64));
    check("packed in the header", "lies in a table", |i| i.u64(L2 + 8, 1 << 62 | 512));
    check("packed in a table", "lies in a table", |i| i.u64(L2 + 8, (1 << 62) | (L2 as u64 + 16)));
    check("packed and copied", "past the end", |i| i.u64(L2 + 8, 3 << 62 | PACKED as u64));
    check("packed noise", "cannot be unpacked", |i| i.bytes(PACKED, &[0xff; 40]));
    check("packed nothing", "cannot be unpacked", |i| i.bytes(PACKED, &[3, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    check("zlib taken for zstd", "cannot be unpacked", |i| i.u64(72, 1 << 3).u32(100, 112).bytes(104, &[1]));
    check_extended("parts there and zero", "contradicts itself", |i| i.u64((3 << 16) + 8, 1 << 32 | 1));
    check_extended("parts of nothing", "contradicts itself", |i| i.u64(3 << 16, 0));
    check_extended("parts past the end", "past the end", |i| i.u64((3 << 16) + 8, 1 << 31).cut((5 << 16) - 1));
    check_extended("packed in parts", "packed and in parts", |i| i.u64(3 << 16, 1 << 62 | 4 << 16));
    check_extended("zero bit beside parts", "unknown bits", |i| i.u64(3 << 16, 4 << 16 | 1));
}

/// Every truncation of a good image is refused or reads as before: never as something else.
#[test]
fn cut_anywhere() {
    let whole = Made::new().0;
    let mut raw = vec![0; SIZE as usize];
    raw[..4096].fill(7);
    raw[4096..8192].fill(9);
    for len in (0..whole.len()).step_by(509) {
        if let Ok(disk) = disk_open(Format::Qcow2, Box::new(whole[..len].to_vec()), &LIMITS)
            && let Ok(got) = read_all(DiskReading::new(disk), SIZE, 1 << 20)
        {
            assert!(len > PACKED && got == raw, "{len}");
        }
    }
}

/// Valid images, damaged at random places: no panic, no endless work, nothing longer than the header says.
#[test]
fn damaged_at_random() {
    let seed = std::env::var("SLIPWAY_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_260_711);
    eprintln!("SLIPWAY_TEST_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("raw"), dir.path().join("image"));
    std::fs::write(&raw, raw_image(1 << 20, seed)).unwrap();
    let mut bases = vec![Made::new().0, Made::extended().0];
    for options in ["cluster_size=512", "compression_type=zstd,cluster_size=4096", "extended_l2=on,cluster_size=16k"] {
        kit::run("qemu-img", &["convert", "-c", "-O", "qcow2", "-o", options, kit::path(&raw), kit::path(&image)]);
        bases.push(std::fs::read(&image).unwrap());
    }
    let mut dice = Dice(seed);
    let (mut read, mut refused) = (0, 0);
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_secs(3) {
        let mut bytes = bases[dice.below(bases.len() as u64) as usize].clone();
        for _ in 0..1 + dice.below(4) {
            // The header and the tables are where it hurts.
            let reach = [112, 8 * CLUSTER as u64, bytes.len() as u64][dice.below(3) as usize].min(bytes.len() as u64);
            let at = dice.below(reach) as usize;
            bytes[at] = [0, 0xff, bytes[at] ^ 1 << dice.below(8), dice.next() as u8][dice.below(4) as usize];
        }
        let limits = slipway_format::Limits { size_max: 64 << 20 };
        let Ok(disk) = disk_open(Format::Qcow2, Box::new(bytes), &limits) else {
            refused += 1;
            continue;
        };
        let size = disk.size();
        match read_all(DiskReading::new(disk), size, 1 << 20) {
            Ok(_) => read += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(read > 0 && refused > 0, "{read} were read, {refused} refused");
}
