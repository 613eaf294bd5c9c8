//! Good VMDK, VHD, VHDX and VDI images, made by qemu-img and by hand: all are read, and as qemu-img reads them.

#![allow(clippy::unwrap_used)]

mod kit;
mod made;

use kit::{good, path, qemu_raw, raw_image, run};
use made::vhdx::{LOG, MIB as MIB_LEN, TABLE, Write, log_entry, log_write};
use slipway_chunk::{Fill, SparseRead};
use slipway_format::{DiskReading, Format};
use std::path::Path;

const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;

/// Noise, with a hole of `hole` bytes in the middle.
fn raw_with_hole(size: u64, hole: u64) -> Vec<u8> {
    let mut raw = raw_image(size, size ^ hole);
    let from = ((size - hole.min(size)) / 2) as usize;
    raw[from..from + hole.min(size) as usize].fill(0);
    raw
}

fn qemu_name(format: Format) -> &'static str {
    if format == Format::Vhd { "vpc" } else { format.name() }
}

/// Images of these sizes made by `qemu-img convert` with these options.
fn check(format: Format, options: &str, sizes: &[u64]) {
    for size in sizes {
        let name = format!("{} {options} {size}", format.name());
        let dir = tempfile::tempdir().unwrap();
        let (raw, image) = (dir.path().join("raw"), dir.path().join("image"));
        let bytes = raw_with_hole(*size, size / 2);
        std::fs::write(&raw, &bytes).unwrap();
        let args = ["convert", "-f", "raw", "-O", qemu_name(format), "-o", options, path(&raw), path(&image)];
        run("qemu-img", &args);
        let wanted = qemu_raw(&image, qemu_name(format));
        assert!(wanted[..bytes.len()] == bytes[..], "{name}: the oracle is wrong");
        good(&name, &image, format, &wanted);
    }
}

/// An image made by hand that qemu-img reads too.
fn check_made(name: &str, format: Format, image: Vec<u8>, raw: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("image");
    std::fs::write(&at, image).unwrap();
    assert!(qemu_raw(&at, qemu_name(format)) == raw, "{name}: the oracle reads something else");
    good(name, &at, format, raw);
}

/// An image made by hand that qemu-img does not read, or reads differently.
fn check_ours(name: &str, format: Format, image: Vec<u8>, raw: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("image");
    std::fs::write(&at, image).unwrap();
    good(name, &at, format, raw);
}

#[test]
fn vmdk_by_qemu() {
    // Grains are 64 KiB, tables 32 MiB.
    let sizes = [512, 64 * KIB - 512, 64 * KIB, 64 * KIB + 512, 3 * MIB, 33 * MIB + 512];
    check(Format::Vmdk, "subformat=monolithicSparse", &sizes);
    check(Format::Vmdk, "subformat=streamOptimized", &sizes);
    check(Format::Vmdk, "subformat=monolithicSparse,zeroed_grain=on", &[3 * MIB]);
    check(Format::Vmdk, "subformat=monolithicSparse,compat6=on", &[3 * MIB]);
    check(Format::Vmdk, "subformat=monolithicSparse,adapter_type=lsilogic,toolsversion=7", &[3 * MIB]);
}

#[test]
fn vmdk_zeroed_grains() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    run("qemu-img", &["create", "-q", "-f", "vmdk", "-o", "zeroed_grain=on", path(&image), "1M"]);
    let changes = ["-c", "write -P 7 0 1M", "-c", "write -z 128k 192k", "-c", "write -P 9 192k 512"];
    run("qemu-io", &[&["-f", "vmdk"], &changes[..], &[path(&image)]].concat());
    let wanted = qemu_raw(&image, "vmdk");
    assert!(wanted[128 << 10..192 << 10].iter().all(|byte| *byte == 0) && wanted[192 << 10] == 9);
    good("zeroed grains", &image, Format::Vmdk, &wanted);
}

#[test]
fn vmdk_by_hand() {
    for size in [512, 64 * KIB, 5 * MIB + 512, 32 * MIB, 65 * MIB] {
        let raw = raw_with_hole(size, size / 4 * 3);
        check_made(&format!("sparse {size}"), Format::Vmdk, made::vmdk::sparse(&raw), &raw);
        check_made(&format!("stream {size}"), Format::Vmdk, made::vmdk::stream(&raw), &raw);
    }
    let raw = raw_with_hole(MIB, MIB / 2);
    // The last grain may end where the disk ends, packed or not.
    let (mut image, short) = (made::vmdk::sparse(&raw[..MIB as usize - 512]), &raw[..MIB as usize - 512]);
    image.truncate(image.len() - 512);
    check_ours("cut last grain", Format::Vmdk, image, short);
    // Lines may end as on Windows, and settings may have spaces.
    let mut image = made::vmdk::sparse(&raw);
    let text = made::vmdk::text("monolithicSparse", raw.len() / 512).replace('\n', "\r\n").replace('=', " = ");
    made::put(&mut image, made::vmdk::TEXT_AT, text.as_bytes());
    check_ours("another style", Format::Vmdk, image, &raw);
}

#[test]
fn vhd_by_qemu() {
    // Blocks are 2 MiB; without force_size the disk is rounded up to a geometry.
    let sizes = [512, 2 * MIB - 512, 2 * MIB, 2 * MIB + 512, 9 * MIB];
    for options in ["subformat=dynamic", "subformat=fixed"] {
        check(Format::Vhd, options, &sizes[1..]);
        check(Format::Vhd, &format!("{options},force_size=on"), &sizes);
    }
}

#[test]
fn vhd_by_hand() {
    let raw = raw_with_hole(3 * MIB + 512, MIB);
    check_made("dynamic", Format::Vhd, made::vhd::dynamic(&raw, 0), &raw);
    // A sector that was never written is zeros, whatever lies there; qemu-img reads what lies there.
    check_ours("stale sectors", Format::Vhd, made::vhd::dynamic(&raw, 0xee), &raw);
}

#[test]
fn vhd_sizes_go_by_the_maker() {
    // The geometry says 60 × 16 × 63 sectors, the size says more.
    let (geometry, by_geometry) = ((60_u16, 16_u8, 63_u8), 60 * 16 * 63 * 512);
    let raw = raw_image(30 * MIB, 1);
    for creator in [b"vpc ", b"qemu"] {
        check_made("by geometry", Format::Vhd, made::vhd::fixed(&raw, creator, geometry), &raw[..by_geometry]);
    }
    check_made("the largest geometry", Format::Vhd, made::vhd::fixed(&raw, b"vpc ", (65_535, 16, 255)), &raw);
    // Older versions of qemu-img went by the geometry of makers that they did not know, so it is no oracle for those.
    for creator in [b"vbox", b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS", b"wa\0\0", b"abcd"] {
        let image = made::vhd::fixed(&raw, creator, geometry);
        match creator {
            b"vbox" | b"wa\0\0" | b"abcd" => check_ours("by size", Format::Vhd, image, &raw),
            _ => check_made("by size", Format::Vhd, image, &raw),
        }
    }
}

#[test]
fn vhdx_by_qemu() {
    for (block, sizes) in [
        ("1M", &[512, MIB - 512, MIB, MIB + 512, 9 * MIB][..]),
        ("2M", &[5 * MIB]),
        ("32M", &[33 * MIB]),
        ("256M", &[3 * MIB]),
    ] {
        check(Format::Vhdx, &format!("subformat=dynamic,block_size={block}"), sizes);
    }
    check(Format::Vhdx, "subformat=fixed,block_size=1M", &[3 * MIB + 512]);
    check(Format::Vhdx, "subformat=dynamic,block_state_zero=on,log_size=3M", &[9 * MIB]);
}

#[test]
fn vhdx_by_hand() {
    let raw = raw_with_hole(11 * MIB, 7 * MIB);
    check_made("1 MiB blocks", Format::Vhdx, made::vhdx::dynamic(&raw, 1 << 20, 512), &raw);
    check_made("2 MiB blocks", Format::Vhdx, made::vhdx::dynamic(&raw, 2 << 20, 512), &raw);
    check_ours("4096-byte sectors", Format::Vhdx, made::vhdx::dynamic(&raw, 1 << 20, 4096), &raw);
}

/// After so many blocks as share a sector bitmap the table has a gap: with blocks of 256 MiB after 4 GiB.
#[test]
fn vhdx_tables_have_gaps() {
    const AT: u64 = 4 << 30;
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    run("qemu-img", &["create", "-q", "-f", "vhdx", "-o", "block_size=256M", path(&image), "5G"]);
    run("qemu-io", &["-f", "vhdx", "-c", "write -q -P 7 4G 4k", path(&image)]);
    let mut reading = DiskReading::new(kit::open(&image, Format::Vhdx).unwrap());
    let (mut buf, mut at) = (vec![0; 4096], 0);
    while let Fill::Hole(len) = reading.fill(&mut buf).unwrap() {
        at += len;
    }
    assert_eq!((at, buf), (AT, vec![7; 4096]));
}

/// Without the log the image is wrong: its table says that nothing is there.
fn with_log(raw: &[u8], log_at: usize) -> Vec<u8> {
    let mut image = made::vhdx::dynamic(raw, 1 << 20, 512);
    let len = image.len() as u64;
    let table = image[TABLE..TABLE + 4096].to_vec();
    image[TABLE..TABLE + 4096].fill(0);
    let mut half = table.clone();
    half[16..].fill(0x55);
    let tail = log_at as u32;
    let entries = [
        log_entry(41, tail, len, &[Write::Bytes(TABLE as u64, half), Write::Zeros(TABLE as u64 + 4096, 8192)]),
        log_entry(42, tail, len, &[Write::Bytes(TABLE as u64, table)]),
    ];
    log_write(&mut image, log_at, &entries);
    image
}

fn replayed_by_qemu(image: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("image.vhdx");
    std::fs::write(&at, image).unwrap();
    run("qemu-img", &["check", "-q", "-f", "vhdx", "-r", "all", path(&at)]);
    qemu_raw(&at, "vhdx")
}

#[test]
fn vhdx_logs_are_replayed() {
    let raw = raw_with_hole(5 * MIB, 2 * MIB);
    for log_at in [0, 8192, MIB_LEN - 4096, MIB_LEN - 12_288] {
        let image = with_log(&raw, log_at);
        assert!(replayed_by_qemu(&image) == raw, "the oracle reads something else at {log_at}");
        check_ours(&format!("a log at {log_at}"), Format::Vhdx, image, &raw);
    }
    // Older entries before the tail, and a torn one after the newest, are not replayed.
    let mut image = with_log(&raw, 16_384);
    let len = image.len() as u64;
    let wrong = vec![0xaa; 4096];
    let old = log_entry(40, 0, len, &[Write::Bytes(TABLE as u64, wrong.clone())]);
    made::put(&mut image, LOG + 16_384 - old.len(), &old);
    let mut torn = log_entry(43, 16_384, len, &[Write::Bytes(TABLE as u64, wrong)]);
    torn[5000] ^= 1;
    made::put(&mut image, LOG + 16_384 + 2 * 8192, &torn);
    assert!(replayed_by_qemu(&image) == raw, "the oracle reads something else");
    check_ours("an old and a torn entry", Format::Vhdx, image, &raw);
}

#[test]
fn vdi_by_qemu() {
    let sizes = [512, MIB - 512, MIB, MIB + 512, 9 * MIB];
    check(Format::Vdi, "static=off", &sizes);
    check(Format::Vdi, "static=on", &sizes);
}

#[test]
fn vdi_by_hand() {
    for size in [512, 3 * MIB, 5 * MIB + 512] {
        let raw = raw_with_hole(size, size / 2);
        check_made(&format!("dynamic {size}"), Format::Vdi, made::vdi::dynamic(&raw), &raw);
    }
}

/// What other programs leave behind is read in the order of its blocks, not of its file.
#[test]
fn blocks_out_of_order() {
    fn check(format: Format, options: &str) {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        run("qemu-img", &["create", "-q", "-f", qemu_name(format), "-o", options, path(&image), "48M"]);
        let mut changes = vec!["-f".to_owned(), qemu_name(format).to_owned()];
        for (n, place) in [40, 3, 17, 2, 47, 0, 33].into_iter().enumerate() {
            changes.extend(["-c".to_owned(), format!("write -q -P {} {place}M 300k", n + 1)]);
        }
        changes.push(path(&image).to_owned());
        run("qemu-io", &changes.iter().map(String::as_str).collect::<Vec<_>>());
        good(
            &format!("{} out of order", format.name()),
            &image,
            format,
            &qemu_raw(Path::new(&image), qemu_name(format)),
        );
    }
    check(Format::Vmdk, "subformat=monolithicSparse");
    check(Format::Vhd, "subformat=dynamic,force_size=on");
    check(Format::Vhdx, "block_size=1M");
    check(Format::Vdi, "static=off");
}
