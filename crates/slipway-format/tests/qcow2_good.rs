//! Good qcow2 images of every option, made by qemu-img and by hand: all are read, and as qemu-img reads them.

#![allow(clippy::unwrap_used)]

mod kit;

use kit::{good, path, qemu_raw, raw_image, run};
use slipway_format::Format;
use std::path::Path;

/// An image of `size` bytes made by `qemu-img convert` with these options, then changed by the commands of qemu-io.
fn check(name: &str, size: u64, options: &str, packed: bool, changes: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("raw"), dir.path().join("image.qcow2"));
    let bytes = raw_image(size, size ^ options.len() as u64);
    std::fs::write(&raw, &bytes).unwrap();
    let mut args = vec!["convert", "-f", "raw", "-O", "qcow2"];
    if packed {
        args.push("-c");
    }
    if !options.is_empty() {
        args.extend(["-o", options]);
    }
    args.extend([path(&raw), path(&image)]);
    run("qemu-img", &args);
    for change in changes {
        change_make(&image, change);
    }
    let wanted = qemu_raw(&image, "qcow2");
    if changes.is_empty() {
        assert!(wanted[..bytes.len()] == bytes[..], "{name}: the oracle is wrong");
    }
    good(name, &image, Format::Qcow2, &wanted);
}

fn change_make(image: &Path, change: &str) {
    match change.strip_prefix("img ") {
        Some(command) => {
            let mut args: Vec<&str> = command.split(' ').collect();
            args.push(path(image));
            run("qemu-img", &args);
        }
        None => {
            run("qemu-io", &["-f", "qcow2", "-d", "unmap", "-c", change, path(image)]);
        }
    }
}

const MIB: u64 = 1 << 20;

#[test]
fn versions_and_cluster_sizes() {
    check("default", 5 * MIB, "", false, &[]);
    check("version 2", 5 * MIB, "compat=0.10", false, &[]);
    for bits in [9, 10, 12, 13, 15, 17, 21] {
        let options = format!("cluster_size={}", 1 << bits);
        check(&options, 5 * MIB + 512, &options, false, &[]);
    }
    check("version 2 of small clusters", 3 * MIB, "compat=0.10,cluster_size=512", false, &[]);
    check("refcounts of a bit", 3 * MIB, "refcount_bits=1", false, &[]);
    check("refcounts of 64 bits", 3 * MIB, "refcount_bits=64,cluster_size=4096", false, &[]);
    check("lazy refcounts", 3 * MIB, "lazy_refcounts=on", false, &["write -P 7 1M 300k"]);
}

#[test]
fn sizes_at_the_borders() {
    for size in [1, 511, 512, 513, 4096, 4608, 65_535, 65_536, 65_537, 66_048, 1_000_000, 2 * MIB - 512, 2 * MIB + 512]
    {
        check(&format!("{size} bytes"), size, "", false, &[]);
        check(&format!("{size} packed bytes"), size, "compression_type=zstd", true, &[]);
    }
}

#[test]
fn packed() {
    check("zlib", 9 * MIB + 512, "", true, &[]);
    check("zlib of version 2", 9 * MIB, "compat=0.10", true, &[]);
    check("zstd", 9 * MIB + 512, "compression_type=zstd", true, &[]);
    for bits in [9, 12, 14, 18, 21] {
        for kind in ["zlib", "zstd"] {
            let options = format!("compression_type={kind},cluster_size={}", 1 << bits);
            check(&options, 5 * MIB + 1024, &options, true, &[]);
        }
    }
    check("written over", 5 * MIB, "compression_type=zstd", true, &["write -P 9 100k 300k", "write -z 2M 1M"]);
}

#[test]
fn extended_entries() {
    check("extended", 5 * MIB, "extended_l2=on", false, &[]);
    let changes =
        ["write -P 3 130k 3k", "write -z 256k 10k", "write -P 5 1100k 2k", "discard 2M 640k", "write -z 3M 200k"];
    check("extended, changed", 5 * MIB, "extended_l2=on", false, &changes);
    check("extended of 16k", 5 * MIB, "extended_l2=on,cluster_size=16k", false, &changes);
    check("extended of 2M", 9 * MIB + 512, "extended_l2=on,cluster_size=2M", false, &changes);
    check("extended, zlib", 5 * MIB, "extended_l2=on", true, &changes);
    check("extended, zstd", 5 * MIB, "extended_l2=on,compression_type=zstd,cluster_size=128k", true, &changes);
}

#[test]
fn zeros_snapshots_and_space_kept() {
    check("zeros", 5 * MIB, "", false, &["write -z 1M 1M", "write -z -u 3M 100k", "discard 4M 512k"]);
    let metadata = "preallocation=metadata";
    check("room for tables", 5 * MIB, metadata, false, &["write -P 1 0 1k"]);
    check("room for tables, extended", 5 * MIB, "preallocation=metadata,extended_l2=on", false, &["write -P 1 5k 1k"]);
    check("room for all", 5 * MIB, "preallocation=full", false, &[]);
    let snapshots = ["img snapshot -c one", "write -P 4 1M 2M", "img snapshot -c two", "write -z 2M 1M"];
    check("snapshots", 5 * MIB, "", false, &snapshots);
    check("snapshots, packed", 5 * MIB, "", true, &snapshots);
    check("snapshots, extended", 5 * MIB, "extended_l2=on", false, &snapshots);
    check("grown", 5 * MIB, "", false, &["truncate 700M", "write -P 6 650M 1M"]);
    check("grown in small clusters", 3 * MIB, "cluster_size=512", false, &["truncate 9M", "write -P 6 8M 1M"]);
}
