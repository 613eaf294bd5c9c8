//! Reading foreign formats, from memory: streams, virtual disks, archives with a disk, archives of files. Bytes are those that come out.
//! `cargo bench -p slipway-format`.

#![allow(clippy::unwrap_used)]

#[path = "../tests/made/mod.rs"]
mod made;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use made::{tar, vdi, vhd, vhdx, vmdk, zip};
use slipway_chunk::Fill;
use slipway_format::{
    Archive, Disk, Format, Inner, Limits, Qcow2Writer, TreeFormat, TreeReader, Wrap, disk_find, disk_open, unwrap,
};
use std::io::{Cursor, Read, Write};

const SIZE: usize = 8 << 20;
const LIMITS: Limits = Limits { size_max: 1 << 40 };

fn main() {
    divan::main();
}

/// Half noise, half text, as in an image of a system; a quarter of it are holes of 64 KiB.
fn disk() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SIZE + 64);
    let mut state = 88_172_645_463_325_252_u64;
    while bytes.len() < SIZE {
        for _ in 0..4 {
            // Xorshift (Marsaglia, 2003).
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend(state.to_le_bytes());
        }
        bytes.extend(b"a line as many files have it, over");
    }
    bytes.truncate(SIZE);
    bytes.chunks_mut(64 << 10).step_by(4).for_each(|hole| hole.fill(0));
    bytes
}

#[divan::bench(args = [Wrap::Gzip, Wrap::Xz, Wrap::Zstd], sample_count = 20)]
fn stream(bencher: Bencher<'_, '_>, wrap: Wrap) {
    let raw = disk();
    let packed = match wrap {
        Wrap::None => raw.clone(),
        Wrap::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&raw).unwrap();
            encoder.finish().unwrap()
        }
        Wrap::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
            encoder.write_all(&raw).unwrap();
            encoder.finish().unwrap()
        }
        Wrap::Zstd => zstd::stream::encode_all(&raw[..], 3).unwrap(),
    };
    let mut buffer = vec![0; 256 << 10];
    bencher.counter(BytesCount::new(SIZE)).with_inputs(|| packed.clone()).bench_local_values(|packed| {
        let mut stream = unwrap(wrap, Box::new(Cursor::new(packed)), u64::MAX);
        while stream.read(&mut buffer).unwrap() > 0 {
            black_box(&buffer);
        }
    });
}

fn qcow2_packed(raw: &[u8]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = Qcow2Writer::new(file.reopen().unwrap(), raw.len() as u64);
    for part in raw.chunks(64 << 10) {
        match slipway_chunk::is_zero(part) {
            true => writer.hole(part.len() as u64).unwrap(),
            false => writer.data(part).unwrap(),
        }
    }
    writer.finish().unwrap();
    std::fs::read(file.path()).unwrap()
}

/// Every byte of it, in parts as an ingest asks for them; gives how many there were.
fn disk_read(mut disk: impl Disk, buffer: &mut [u8]) -> u64 {
    let mut at = 0;
    while at < disk.size() {
        at += match disk.fill_at(at, buffer).unwrap() {
            Fill::Data(len) => len as u64,
            Fill::Hole(len) => len,
            Fill::End => panic!("a disk ends at its size"),
        };
    }
    at
}

type Make = fn(&[u8]) -> Vec<u8>;

#[divan::bench(args = [Format::Raw, Format::Qcow2, Format::Vmdk, Format::Vhd, Format::Vhdx, Format::Vdi], sample_count = 20)]
fn container(bencher: Bencher<'_, '_>, format: Format) {
    let make: Make = match format {
        Format::Raw => |raw| raw.to_vec(),
        Format::Qcow2 => qcow2_packed,
        Format::Vmdk => vmdk::stream,
        Format::Vhd => |raw| vhd::dynamic(raw, 0),
        Format::Vhdx => |raw| vhdx::dynamic(raw, 1 << 20, 512),
        Format::Vdi => vdi::dynamic,
    };
    let image = make(&disk());
    let mut buffer = vec![0; 1 << 20];
    bencher.counter(BytesCount::new(SIZE)).with_inputs(|| image.clone()).bench_local_values(|image| {
        let disk = disk_open(format, Box::new(image), &LIMITS).unwrap();
        assert_eq!(disk_read(disk, &mut buffer), SIZE as u64);
    });
}

fn archived(bencher: Bencher<'_, '_>, archive: Archive, bytes: &[u8]) {
    let mut buffer = vec![0; 256 << 10];
    bencher.counter(BytesCount::new(SIZE)).with_inputs(|| bytes.to_vec()).bench_local_values(|bytes| match disk_find(
        archive,
        Box::new(bytes),
    )
    .unwrap()
    .bytes
    {
        Inner::Placed(placed) => {
            for at in (0..placed.len()).step_by(buffer.len()) {
                placed.read_exact_at(&mut buffer, at).unwrap();
                black_box(&buffer);
            }
        }
        Inner::Packed(mut packed) => {
            while packed.read(&mut buffer).unwrap() > 0 {
                black_box(&buffer);
            }
        }
    });
}

#[divan::bench(sample_count = 20)]
fn disk_in_tar(bencher: Bencher<'_, '_>) {
    archived(bencher, Archive::Tar, &tar::archive(&[tar::file("disk.img", &disk())]));
}

#[divan::bench(sample_count = 20)]
fn disk_in_zip(bencher: Bencher<'_, '_>) {
    archived(bencher, Archive::Zip, &zip::archive(&[zip::deflated("disk.img", &disk())], false));
}

/// A tree of files, as large as they mostly are.
#[divan::bench(sample_count = 20)]
fn files_in_tar(bencher: Bencher<'_, '_>) {
    let files: Vec<Vec<u8>> =
        disk().chunks(16 << 10).enumerate().map(|(n, bytes)| tar::file(&format!("usr/lib/{n}"), bytes)).collect();
    let archive = tar::archive(&files);
    let mut buffer = vec![0; 64 << 10];
    bencher.counter(BytesCount::new(SIZE)).bench_local(|| {
        let mut tree = TreeReader::new(TreeFormat::Tar, &archive[..]);
        while let Some(entry) = tree.entry_next().unwrap() {
            black_box(&entry);
            while tree.read(&mut buffer).unwrap() > 0 {
                black_box(&buffer);
            }
        }
    });
}
