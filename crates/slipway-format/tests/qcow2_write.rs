//! Written qcow2 images: `qemu-img check` finds nothing, `qemu-img compare` no difference, and our own reader agrees.

#![allow(clippy::unwrap_used)]

mod kit;

use kit::{good, path, raw_image, run};
use slipway_chunk::is_zero;
use slipway_format::{Format, Qcow2Marks, Qcow2Part, Qcow2Writer};
use std::fs::File;
use std::path::Path;

const BLOCK: usize = 4096;

/// The stretches of an image: whether each is data.
fn stretches(raw: &[u8]) -> Vec<(bool, u64)> {
    let mut all: Vec<(bool, u64)> = Vec::new();
    for block in raw.chunks(BLOCK) {
        let data = !is_zero(block);
        match all.last_mut() {
            Some((was, len)) if *was == data => *len += block.len() as u64,
            _ => all.push((data, block.len() as u64)),
        }
    }
    all
}

fn packed_write(image: &Path, raw: &[u8]) {
    let mut writer = Qcow2Writer::new(File::create(image).unwrap(), raw.len() as u64);
    let mut at = 0;
    for (data, len) in stretches(raw) {
        match data {
            true => raw[at..at + len as usize].chunks(100_000).for_each(|part| writer.data(part).unwrap()),
            false => writer.hole(len).unwrap(),
        }
        at += len as usize;
    }
    writer.finish().unwrap();
}

/// The file of a layout, put together of parts of at most `max` bytes from `from` on.
fn laid_out(raw: &[u8], max: u64, from: u64) -> Vec<u8> {
    let mut marks = Qcow2Marks::new(raw.len() as u64);
    let mut at = 0;
    for (data, len) in stretches(raw) {
        if data {
            marks.data(at, len);
        }
        at += len;
    }
    let layout = marks.layout();
    let mut file = Vec::new();
    while from + (file.len() as u64) < layout.len() {
        match layout.part_at(from + file.len() as u64, max) {
            Qcow2Part::Tables(bytes) => {
                assert!((1..=max).contains(&(bytes.len() as u64)));
                file.extend(bytes);
            }
            Qcow2Part::Raw { from, len, zeros } => {
                assert!((1..=max).contains(&(len + zeros)));
                file.extend_from_slice(&raw[from as usize..(from + len) as usize]);
                file.resize(file.len() + zeros as usize, 0);
            }
        }
    }
    file
}

fn check(name: &str, raw: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let (plain, image) = (dir.path().join("raw"), dir.path().join("image"));
    std::fs::write(&plain, raw).unwrap();
    let mut whole = raw.to_vec();
    whole.resize(raw.len().next_multiple_of(512), 0);
    let judge = |kind: &str| {
        run("qemu-img", &["check", "-f", "qcow2", path(&image)]);
        run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", path(&plain), path(&image)]);
        if whole.len() < 100 << 20 {
            good(&format!("{name}, {kind}"), &image, Format::Qcow2, &whole);
        }
    };
    packed_write(&image, raw);
    judge("packed");
    let info = run("qemu-img", &["info", "-f", "qcow2", path(&image)]);
    assert!(info.contains("compression type: zstd"), "{info}");
    let file = laid_out(raw, u64::MAX, 0);
    for (max, from) in [(1 << 20, 0), (10_007, 0), (4096, file.len() as u64 / 3), (1, file.len() as u64 - 700)] {
        assert!(laid_out(raw, max, from) == file[from as usize..], "{name} in parts of {max} from {from}");
    }
    std::fs::write(&image, file).unwrap();
    judge("laid out");
}

#[test]
fn written_images_are_what_they_should_be() {
    for size in [1, 511, 512, 4096, 65_535, 65_536, 65_537, 1_000_000, 5 << 20, (9 << 20) + 1] {
        check(&format!("{size} bytes"), &raw_image(size, size));
    }
    check("zeros", &[0; 300_000]);
    let mut sparse = vec![0; 530 << 20];
    sparse[0] = 1;
    sparse[70_000..80_000].fill(2);
    // The last cluster of one table of second level and the first of the next.
    sparse[(512 << 20) - 3..(512 << 20) + 3].fill(3);
    sparse[(530 << 20) - 1] = 4;
    check("sparse over two tables", &sparse);
    // Packed clusters so small that thousands share one of the file.
    check("many of one byte", &[0x55; 64 << 20]);
    let noise: Vec<u8> = (0..(3_u64 << 20) / 8)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17).to_be_bytes())
        .collect();
    check("what cannot be packed", &noise);
}

#[test]
fn huge_sparse_disks_are_small() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    // The last cluster is filled up behind the disk's end.
    for (size, filled) in [(1_u64 << 40, 0), ((1 << 40) + 512, (128 << 10) - 512), (32 << 40, 0), (64 << 40, 0)] {
        let mut writer = Qcow2Writer::new(File::create(&image).unwrap(), size);
        writer.hole(size - 4096).unwrap();
        writer.data(&[1; 4096]).unwrap();
        writer.finish().unwrap();
        run("qemu-img", &["check", "-f", "qcow2", path(&image)]);
        assert!(image.metadata().unwrap().len() < 64 << 20, "{size}");
        let mut marks = Qcow2Marks::new(size);
        marks.data(size - 4096, 4096);
        let layout = marks.layout();
        assert!(layout.len() < 64 << 20, "{size}: {}", layout.len());
        let last = layout.part_at(layout.len() - filled - 1, 1);
        assert_eq!(last, Qcow2Part::Raw { from: size - 1, len: 1, zeros: 0 });
    }
}

#[test]
fn a_disk_of_another_length_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = || File::create(dir.path().join("image")).unwrap();
    let mut short = Qcow2Writer::new(file(), 10_000);
    short.data(&[1; 9_999]).unwrap();
    assert!(short.finish().unwrap_err().to_string().contains("only 9999 of 10000"));
    let mut long = Qcow2Writer::new(file(), 10_000);
    long.data(&[1; 5000]).unwrap();
    assert!(long.hole(5001).is_err());
    // What was not finished has no header.
    assert!(std::fs::read(dir.path().join("image")).unwrap().iter().all(|byte| *byte == 0));
}
