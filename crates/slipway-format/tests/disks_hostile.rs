//! Hostile VMDK, VHD, VHDX and VDI images: every field lied about, every other file named. All are refused, with the right reason.

#![allow(clippy::unwrap_used)]

mod kit;
mod made;

use kit::{hostile, raw_image};
use made::{be32, be64, le32, le64, put, vdi, vhd, vhdx, vmdk};
use slipway_format::Format;

const MIB: usize = 1 << 20;

/// What is done to a good image, and words of the reason.
type Row<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>), &'a str);

fn check(format: Format, good: &[u8], rows: &[Row]) {
    for (name, change, words) in rows {
        let mut image = good.to_vec();
        change(&mut image);
        assert!(image != good, "{name} changes nothing");
        hostile(&format!("{}: {name}", format.title()), image, format, words);
    }
}

/// Noise with holes, of which no block is all zeros in the first 3 MiB.
fn raw() -> Vec<u8> {
    let mut raw = raw_image(4 << 20, 5);
    raw[3 * MIB..].fill(0);
    raw
}

fn text_put(image: &mut Vec<u8>, change: impl Fn(String) -> String) {
    let sectors = 4 * MIB / 512;
    let kind = if image[77] == 1 { "streamOptimized" } else { "monolithicSparse" };
    image[vmdk::TEXT_AT..vmdk::TEXT_AT + 4096].fill(0);
    put(image, vmdk::TEXT_AT, change(vmdk::text(kind, sectors)).as_bytes());
}

#[test]
fn vmdk_headers() {
    let at = vmdk::places(4 * MIB);
    check(
        Format::Vmdk,
        &vmdk::sparse(&raw()),
        &[
            ("magic", &|b| b[0] = b'X', "no VMDK signature"),
            ("a COWD extent", &|b| put(b, 0, b"COWD"), "extent of an ESX disk"),
            ("version 0", &|b| le32(b, 4, 0), "version 0"),
            ("version 4", &|b| le32(b, 4, 4), "version 4"),
            ("unknown flag", &|b| le32(b, 8, 0x13), "unknown flags (0x10)"),
            ("unknown high flag", &|b| le32(b, 8, 0x8000_0003), "unknown flags (0x80000000)"),
            ("newlines changed by FTP", &|b| put(b, 73, b"\n \n\n"), "transferred as text"),
            ("no capacity", &|b| le64(b, 12, 0), "sectors"),
            ("2⁶³ sectors", &|b| le64(b, 12, 1 << 63), "capacity"),
            ("2⁵⁵ sectors", &|b| le64(b, 12, 1 << 55), "capacity"),
            ("a size that the text does not say", &|b| le64(b, 12, 8191), "its text says that the extent has"),
            ("grains of no sectors", &|b| le64(b, 20, 0), "grains have 0 sectors"),
            ("grains of 3 sectors", &|b| le64(b, 20, 3), "grains have 3 sectors"),
            ("grains of 4 GiB", &|b| le64(b, 20, 1 << 23), "grains have 8388608 sectors"),
            ("grains of 2⁶³ sectors", &|b| le64(b, 20, 1 << 63), "grains have 9223372036854775808 sectors"),
            ("tables of no entries", &|b| le32(b, 44, 0), "grain tables have 0 entries"),
            ("tables of 2³² entries", &|b| le32(b, 44, u32::MAX), "grain tables have 4294967295 entries"),
            ("compressed by nothing", &|b| le32(b, 8, 0x3_0003), "by method 0"),
            ("compressed by method 7", &|b| put(b, 77, &[7, 0]), "by method 7"),
            ("compressed without saying so", &|b| put(b, 77, &[1, 0]), "not compressed, by method 1"),
            ("markers without compression", &|b| le32(b, 8, 0x2_0003), "markers without"),
            ("directory in the header", &|b| le64(b, 56, 0), "begin at byte 0"),
            ("directory past the end", &|b| le64(b, 56, 1 << 40), "past the end of the file"),
            ("directory at 2⁶² sectors", &|b| le64(b, 56, 1 << 62), "place of the grain directory"),
            ("redundant directory past the end", &|b| le64(b, 48, 1 << 40), "past the end of the file"),
            ("directory said to be at the end", &|b| le64(b, 56, u64::MAX), "no footer"),
            ("table past the end", &|b| le32(b, at.directory, u32::MAX), "past the end of the file"),
            ("directories differ", &|b| le32(b, at.redundant_directory, 0), "directories differ in table 0"),
            ("tables differ", &|b| le32(b, at.redundant_table + 8, 0), "directories differ in table 0"),
            (
                "redundant table past the end",
                &|b| le32(b, at.redundant_directory, u32::MAX),
                "past the end of the file",
            ),
            (
                "a grain past the end",
                &|b| both(b, 0, u32::MAX),
                "grain 0 (65536 bytes at byte 2199023255040) lies past the end",
            ),
            ("a grain in the header", &|b| both(b, 1, 1), "grain 1 is said to lie at byte 512, inside the headers"),
            ("a grain over the tables", &|b| both(b, 2, (at.table / 512) as u32), "inside the headers"),
            ("two grains in one place", &|b| both(b, 3, (at.grains / 512) as u32), "where another grain lies"),
            ("two grains that overlap", &|b| both(b, 1, (at.grains / 512) as u32 + 1), "where another grain lies"),
            (
                "all grains in one place",
                &|b| (0..64).for_each(|n| both(b, n, (at.grains / 512) as u32)),
                "where another grain",
            ),
            ("cut off", &|b| b.truncate(b.len() - 4096), "past the end of the file"),
            ("cut in the tables", &|b| b.truncate(at.table + 100), "past the end of the file"),
            ("cut in the text", &|b| b.truncate(4096), "the text that describes it"),
            ("cut in the header", &|b| b.truncate(300), "the header (512 bytes at byte 0)"),
            ("empty", &|b| b.clear(), "the magic"),
        ],
    );
}

/// Sets a grain in both tables.
fn both(bytes: &mut Vec<u8>, grain: usize, sector: u32) {
    let at = vmdk::places(4 * MIB);
    le32(bytes, at.table + grain * 4, sector);
    le32(bytes, at.redundant_table + grain * 4, sector);
}

#[test]
fn vmdk_texts() {
    fn row(name: &str, from: &str, to: &str, words: &str) {
        let mut image = vmdk::sparse(&raw());
        text_put(&mut image, |text| {
            assert!(text.contains(from), "{from} is not in the text");
            text.replace(from, to)
        });
        hostile(&format!("VMDK: {name}"), image, Format::Vmdk, words);
    }
    let kind = "monolithicSparse";
    for other in ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "vmfs", "vmfsSparse", "vmfsRaw"] {
        row(other, kind, other, &format!("createType is '{other}', a disk that lies in other files"));
    }
    for other in ["fullDevice", "partitionedDevice", "custom", "seSparse", "MONOLITHICSPARSE", ""] {
        row(other, kind, other, &format!("createType is '{other}'"));
    }
    row("a stream that is none", kind, "streamOptimized", "not compressed");
    row("no createType", "createType", "createtipe", "does not say createType");
    row("two createTypes", "version=1", "version=1\ncreateType=\"monolithicFlat\"", "'createType' twice");
    row("a parent", "parentCID=ffffffff", "parentCID=0badcafe", "snapshot of a parent image (parentCID '0badcafe')");
    row("two parents", "version=1", "version=1\nparentCID=ffffffff", "'parentCID' twice");
    row("no parent said", "parentCID", "perentCID", "does not say parentCID");
    row(
        "a parent's name",
        "version=1",
        "version=1\nparentFileNameHint=\"/etc/passwd\"",
        "names another file ('parentFileNameHint'",
    );
    row(
        "changes in another file",
        "#DDB",
        "changeTrackPath=\"disk-ctk.vmdk\"",
        "names another file ('changeTrackPath'",
    );
    row("a sidecar", "#DDB", "ddb.sidecars = \"f_1.vmfd;\"", "names another file ('ddb.sidecars'");
    row(
        "a native parent",
        "#DDB",
        "ddb.nativeParentHint = \"base.vmdk\"",
        "names another file ('ddb.nativeParentHint'",
    );
    row("a native snapshot", "version=1", "version=1\nisNativeSnapshot=\"yes\"", "native snapshot");
    row("encrypted", "version=1", "version=1\nencryption.keySafe = \"vmware:key/list\"", "it is encrypted");
    row("text version 9", "version=1", "version=9", "text has version '9'");
    row("no text version", "version=1", "#", "does not say version");
    row("no signature", "# Disk DescriptorFile", "# Disk", "does not begin with");
    row("a line of something", "version=1", "version=1\nhello", "no setting: 'hello'");
    row("no extent", "RW 8192", "#RW 8192", "names 0 extents");
    row("two extents", "RW 8192", "RW 8192 SPARSE \"a.vmdk\"\nRW 8192", "names 2 extents");
    row(
        "a flat extent (CVE-2022-47951)",
        "SPARSE \"disk.vmdk\"",
        "FLAT \"/etc/passwd\" 0",
        "its extent is 'FLAT', whose bytes are in another file ('/etc/passwd')",
    );
    row("a VMFS extent", "SPARSE", "VMFS", "its extent is 'VMFS'");
    row("a zero extent", "SPARSE \"disk.vmdk\"", "ZERO", "cannot be understood");
    row("an absolute name", "\"disk.vmdk\"", "\"/dev/sda\"", "names another file by a path");
    row("a climbing name", "\"disk.vmdk\"", "\"../disk.vmdk\"", "names another file by a path");
    row("a Windows path", "\"disk.vmdk\"", "\"c:\\\\disk.vmdk\"", "names another file by a path");
    row("an offset", "\"disk.vmdk\"", "\"disk.vmdk\" 128", "begins inside another file");
    row("no access", "RW 8192", "NOACCESS 8192", "NOACCESS");
    row("another size", "RW 8192", "RW 8193", "'8193' sectors, its header says 8192");
    row("no size", "RW 8192", "RW many", "'many' sectors");
    check(
        Format::Vmdk,
        &vmdk::sparse(&raw()),
        &[
            ("no text (one extent of several)", &|b| le64(b, 28, 0), "one extent of a disk in several files"),
            ("no text length", &|b| le64(b, 36, 0), "one extent of a disk in several files"),
            ("a text of 1 GiB", &|b| le64(b, 36, 1 << 21), "1073741824 bytes, more than 262144"),
            ("a text past the end", &|b| le64(b, 28, 1 << 30), "past the end of the file"),
            ("a text of 2⁶⁴ bytes", &|b| le64(b, 36, 1 << 55), "length of the text"),
        ],
    );
    let alone = vmdk::text("monolithicFlat", 8192).replace("SPARSE \"disk.vmdk\"", "FLAT \"disk-flat.vmdk\" 0");
    hostile(
        "a text alone",
        alone.into_bytes(),
        Format::Vmdk,
        "only the text of a disk ('monolithicFlat') and names another file",
    );
    // A terminal is not steered by what is quoted.
    let mut image = vmdk::sparse(&raw());
    text_put(&mut image, |text| text.replace(kind, "\u{1b}[2J\u{202e}evil"));
    hostile("escapes in the text", image, Format::Vmdk, "createType is '?[2J?evil'");
}

#[test]
fn vmdk_streams() {
    let first = vmdk::STREAM_GRAINS;
    let grain = |b: &mut Vec<u8>, packed: Vec<u8>| {
        put(b, first, &packed);
    };
    let from_end = |b: &Vec<u8>, sectors: usize| b.len() - sectors * 512;
    check(
        Format::Vmdk,
        &vmdk::stream(&raw()),
        &[
            ("cut off", &|b| b.truncate(b.len() - 512), "no footer in its last 1536 bytes"),
            ("something behind it", &|b| b.extend([1; 512]), "no footer"),
            (
                "another mark at the end",
                &|b| {
                    let at = from_end(b, 1);
                    le32(b, at + 12, 3)
                },
                "no footer",
            ),
            (
                "a footer without its mark",
                &|b| {
                    let at = from_end(b, 3);
                    le32(b, at + 12, 2)
                },
                "no footer",
            ),
            (
                "a footer that says footer",
                &|b| {
                    let at = from_end(b, 2);
                    le64(b, at + 56, u64::MAX)
                },
                "footer says that the grain directory is in the footer",
            ),
            (
                "a footer of another size",
                &|b| {
                    let at = from_end(b, 2);
                    le64(b, at + 12, 1 << 30)
                },
                "two different disks",
            ),
            (
                "a footer of other grains",
                &|b| {
                    let at = from_end(b, 2);
                    le64(b, at + 20, 256)
                },
                "two different disks",
            ),
            (
                "a footer of another version",
                &|b| {
                    let at = from_end(b, 2);
                    le32(b, at + 4, 2)
                },
                "two different disks",
            ),
            (
                "a directory past the end",
                &|b| {
                    let at = from_end(b, 2);
                    le64(b, at + 56, 1 << 40)
                },
                "past the end of the file",
            ),
            (
                "a grain of another place",
                &|b| le64(b, first, 128),
                "is that of sector 128, but grain 0 begins at sector 0",
            ),
            ("a grain of no bytes", &|b| le32(b, first + 8, 0), "0 compressed bytes"),
            ("a grain of 4 GiB", &|b| le32(b, first + 8, u32::MAX), "4294967295 compressed bytes"),
            ("a grain that is noise", &|b| put(b, first + 12, &[0xff; 64]), "grain 0 at byte 65536 cannot be unpacked"),
            ("a grain that is cut off", &|b| le32(b, first + 8, 20), "cut off"),
            (
                "a grain that is short",
                &|b| grain(b, vmdk::packed_grain(0, &[7; 100])),
                "unpacks to 100 bytes, not 65536",
            ),
            (
                "a grain that is a bomb",
                &|b| grain(b, vmdk::packed_grain(0, &vec![7; 4 << 20])),
                "unpacks to more than 65536 bytes",
            ),
            (
                "a bad checksum",
                &|b| {
                    let mut p = vmdk::packed_grain(0, &vec![7; vmdk::GRAIN]);
                    let len = u32::from_le_bytes(p[8..12].try_into().unwrap());
                    p[11 + len as usize] ^= 1;
                    grain(b, p)
                },
                "cannot be unpacked",
            ),
            (
                "not a stream by its text",
                &|b| text_put(b, |text| text.replace("streamOptimized", "monolithicSparse")),
                "its grains are compressed",
            ),
        ],
    );
}

#[test]
fn vhd_fields() {
    let (table, first) = (vhd::TABLE_AT, 2048);
    let block_sectors = ((vhd::BLOCK + 512) / 512) as u32;
    check(
        Format::Vhd,
        &vhd::dynamic(&raw(), 0),
        &[
            ("footer cut off", &|b| b.truncate(b.len() - 512), "no footer in its last 512 bytes"),
            ("footer half cut off", &|b| b.truncate(b.len() - 256), "no footer"),
            ("something behind it", &|b| b.extend([0; 512]), "no footer"),
            ("too short for a footer", &|b| b.truncate(100), "past the end of the file"),
            ("no copy in front", &|b| b[0] = 0, "copy of the footer at byte 0 is missing"),
            (
                "a bad checksum",
                &|b| {
                    let at = b.len() - 400;
                    b[at] ^= 1
                },
                "checksum of the footer at the end does not fit",
            ),
            ("a bad checksum in front", &|b| b[200] ^= 1, "checksum of the footer's copy at byte 0 does not fit"),
            (
                "two footers of two sizes",
                &|b| {
                    be64(b, 48, 512);
                    vhd::sum(b, 0, 512, 64)
                },
                "two different disks",
            ),
            ("unknown features", &|b| vhd::footers_change(b, 8, &[0, 0, 1, 2]), "unknown features (0x102)"),
            ("version 2", &|b| vhd::footers_change(b, 12, &[0, 2]), "version 0x20000"),
            ("a differencing disk", &|b| vhd::footers_change(b, 63, &[4]), "differencing disk and names its parent"),
            ("type 1", &|b| vhd::footers_change(b, 63, &[1]), "disk type 1"),
            ("type 2³¹", &|b| vhd::footers_change(b, 60, &[0x80]), "disk type 2147483651"),
            ("dynamic called fixed", &|b| vhd::footers_change(b, 48, &[0, 0, 1]), "more than"),
            (
                "fixed over the end",
                &|b| {
                    vhd::footers_change(b, 63, &[2]);
                    vhd::footers_change(b, 53, &[0xff])
                },
                "the disk before the footer",
            ),
            ("no bytes", &|b| vhd::footers_change(b, 48, &[0; 8]), "0 bytes"),
            ("2⁶⁴ bytes", &|b| vhd::footers_change(b, 48, &[0xff; 8]), "more than"),
            ("more than its table", &|b| vhd::footers_change(b, 53, &[0xff]), "too few for a disk"),
            ("header past the end", &|b| vhd::footers_change(b, 16, &[0x7f; 8]), "the dynamic disk's header"),
            ("header at 2⁶⁴", &|b| vhd::footers_change(b, 16, &[0xff; 8]), "the dynamic disk's header"),
            (
                "header in the data",
                &|b| vhd::footers_change(b, 16, &8192_u64.to_be_bytes()),
                "no dynamic disk header at byte 8192",
            ),
            ("header's checksum", &|b| b[vhd::HEADER_AT + 1000] ^= 1, "checksum of the dynamic disk's header"),
            ("header version", &|b| vhd::header_change(b, 24, &[1]), "dynamic header has version 0x1010000"),
            ("a parent's id", &|b| vhd::header_change(b, 40, &[1]), "names a parent file"),
            ("a parent's name", &|b| vhd::header_change(b, 64, b"\0/\0e\0t\0c"), "names a parent file"),
            ("blocks of no bytes", &|b| vhd::header_change(b, 32, &[0; 4]), "blocks have 0 bytes"),
            ("blocks of 3 MiB", &|b| vhd::header_change(b, 32, &[0, 0x30, 0, 0]), "blocks have 3145728 bytes"),
            ("blocks of 2 GiB", &|b| vhd::header_change(b, 32, &[0x80, 0, 0, 0]), "blocks have 2147483648 bytes"),
            ("too few entries", &|b| vhd::header_change(b, 28, &7_u32.to_be_bytes()), "has 7 entries, too few"),
            ("2³² entries", &|b| vhd::header_change(b, 28, &[0xff; 4]), "the block allocation table"),
            (
                "table past the end",
                &|b| vhd::header_change(b, 16, &(1_u64 << 40).to_be_bytes()),
                "past the end of the file",
            ),
            (
                "table at 2⁶⁴",
                &|b| vhd::header_change(b, 16, &0xffff_ffff_ffff_fe00_u64.to_be_bytes()),
                "past the end of the file",
            ),
            (
                "table inside a sector",
                &|b| vhd::header_change(b, 16, &1537_u64.to_be_bytes()),
                "said to begin at byte 1537",
            ),
            (
                "a block past the end",
                &|b| be32(b, table, 1 << 30),
                "block 0 (524800 bytes at byte 549755813888) lies past the end",
            ),
            ("a block over the footer's copy", &|b| be32(b, table, 0), "over the footer's copy"),
            ("a block over the header", &|b| be32(b, table + 4, 2), "over the dynamic disk's header"),
            ("a block over the table", &|b| be32(b, table + 8, 3), "over the block allocation table"),
            (
                "a block over the footer",
                &|b| {
                    let at = b.len() / 512;
                    be32(b, table + 4, at as u32 - 1025)
                },
                "over the footer",
            ),
            ("two blocks in one place", &|b| be32(b, table + 4, first / 512), "where another block lies"),
            ("two blocks that overlap", &|b| be32(b, table + 4, first / 512 + 1), "where another block lies"),
            (
                "all blocks in one place",
                &|b| (0..8).for_each(|n| be32(b, table + n * 4, first / 512 + block_sectors)),
                "where another block lies",
            ),
        ],
    );
    let fixed = vhd::fixed(&raw(), b"win ", (1, 1, 1));
    check(
        Format::Vhd,
        &fixed,
        &[
            ("fixed and cut in front", &|b| drop(b.drain(..512)), "the disk before the footer"),
            (
                "fixed with a bad checksum",
                &|b| {
                    let at = b.len() - 10;
                    b[at] = 1
                },
                "checksum of the footer at the end",
            ),
        ],
    );
    let mut footer_only = vhd::footer(4096, 2, b"vpc ", (0, 16, 63));
    hostile("a geometry of no cylinders", footer_only.clone(), Format::Vhd, "0 bytes");
    footer_only = vhd::footer(u64::MAX, 2, b"vpc ", (65_535, 16, 255));
    hostile("the largest geometry and a size that lies", footer_only, Format::Vhd, "more than");
}

#[test]
fn vhdx_fields() {
    let region = |b: &mut Vec<u8>, n: usize, at: usize, part: &[u8]| {
        vhdx::REGIONS.iter().for_each(|table| put(b, table + 16 + n * 32 + at, part));
        vhdx::seal(b);
    };
    let header = |b: &mut Vec<u8>, at: usize, part: &[u8]| {
        vhdx::HEADERS.iter().for_each(|header| put(b, header + at, part));
        vhdx::seal(b);
    };
    let entry = |n: usize| vhdx::METADATA + 32 + n * 32;
    let items = vhdx::ITEMS;
    check(
        Format::Vhdx,
        &vhdx::dynamic(&raw(), 1 << 20, 512),
        &[
            ("signature", &|b| b[0] = 0, "no VHDX signature"),
            (
                "both headers torn",
                &|b| vhdx::HEADERS.iter().for_each(|at| b[at + 100] ^= 1),
                "neither of its two headers",
            ),
            (
                "headers of one number that differ",
                &|b| {
                    le64(b, vhdx::HEADERS[0] + 8, 8);
                    le64(b, vhdx::HEADERS[0] + 72, 4 << 20);
                    vhdx::seal(b)
                },
                "same sequence number and differ",
            ),
            ("header version 2", &|b| header(b, 66, &[2]), "version 2 and log version 0"),
            ("log version 1", &|b| header(b, 64, &[1]), "version 1 and log version 1"),
            (
                "both region tables torn",
                &|b| vhdx::REGIONS.iter().for_each(|at| b[at + 100] ^= 1),
                "neither of its two region tables",
            ),
            (
                "region tables that differ",
                &|b| {
                    le32(b, vhdx::REGIONS[1] + 16 + 24, 2 << 20);
                    vhdx::seal(b)
                },
                "two region tables differ",
            ),
            (
                "2³² regions",
                &|b| {
                    vhdx::REGIONS.iter().for_each(|at| le32(b, at + 8, u32::MAX));
                    vhdx::seal(b)
                },
                "4294967295 entries, more than 2047",
            ),
            (
                "no regions",
                &|b| {
                    vhdx::REGIONS.iter().for_each(|at| le32(b, at + 8, 0));
                    vhdx::seal(b)
                },
                "no block allocation table",
            ),
            (
                "one region",
                &|b| {
                    vhdx::REGIONS.iter().for_each(|at| le32(b, at + 8, 1));
                    vhdx::seal(b)
                },
                "has no metadata",
            ),
            ("an unknown region", &|b| region(b, 0, 0, &[0xee]), "requires the unknown region 2dc277ee"),
            (
                "a region twice",
                &|b| {
                    let first = b[vhdx::REGIONS[0] + 16..][..16].to_vec();
                    region(b, 1, 0, &first)
                },
                "is listed twice",
            ),
            ("a region in the headers", &|b| region(b, 0, 16, &0_u64.to_le_bytes()), "bytes at byte 0"),
            ("a region inside a MiB", &|b| region(b, 0, 16, &4096_u64.to_le_bytes()), "bytes at byte 4096"),
            ("a region of no bytes", &|b| region(b, 1, 24, &[0; 4]), "is said to be 0 bytes"),
            ("a region past the end", &|b| region(b, 0, 16, &(1_u64 << 40).to_le_bytes()), "past the end of the file"),
            (
                "a region at 2⁶⁴",
                &|b| region(b, 0, 16, &0xffff_ffff_fff0_0000_u64.to_le_bytes()),
                "past the end of the file",
            ),
            (
                "regions over each other",
                &|b| region(b, 0, 16, &(vhdx::METADATA as u64).to_le_bytes()),
                "lies over another",
            ),
            ("no metadata table", &|b| b[vhdx::METADATA] = 0, "no metadata table"),
            ("65535 metadata items", &|b| put(b, vhdx::METADATA + 10, &[0xff, 0xff]), "65535 entries, more than 2047"),
            ("no metadata items", &|b| put(b, vhdx::METADATA + 10, &[0, 0]), "does not say its block length"),
            ("one item missing", &|b| put(b, vhdx::METADATA + 10, &[4, 0]), "does not say its physical sector size"),
            (
                "an unknown item",
                &|b| {
                    b[entry(2)] = 0xee;
                    le32(b, entry(2) + 24, 4)
                },
                "requires the unknown metadata item",
            ),
            (
                "an item twice",
                &|b| {
                    let first = b[entry(0)..][..16].to_vec();
                    put(b, entry(1), &first)
                },
                "is listed twice",
            ),
            ("an item in the table", &|b| le32(b, entry(1) + 16, 32), "bytes at byte 32"),
            ("an item past the region", &|b| le32(b, entry(1) + 16, u32::MAX), "bytes at byte 4294967295"),
            ("an item of 2³² bytes", &|b| le32(b, entry(1) + 20, u32::MAX), "4294967295 bytes"),
            ("a parent's name", &|b| put(b, entry(2), &vhdx::PARENT_LOCATOR.to_bytes_le()), "names a parent's file"),
            ("a differencing disk", &|b| le32(b, items + 4, 2), "differencing disk"),
            ("unknown parameters", &|b| le32(b, items + 4, 4), "unknown flags (0x4)"),
            ("blocks of no bytes", &|b| le32(b, items, 0), "blocks are said to have 0 bytes"),
            ("blocks of 3 MiB", &|b| le32(b, items, 3 << 20), "blocks are said to have 3145728 bytes"),
            ("blocks of 512 MiB", &|b| le32(b, items, 512 << 20), "blocks are said to have 536870912 bytes"),
            ("no bytes", &|b| le64(b, items + 64, 0), "0 bytes"),
            ("2⁶⁴ bytes", &|b| le64(b, items + 64, u64::MAX - 511), "more than"),
            ("half a sector", &|b| le64(b, items + 64, 4 * MIB as u64 - 256), "no number of sectors"),
            ("more than its table", &|b| le64(b, items + 64, 1 << 38), "room for 131072 entries"),
            ("sectors of 1024 bytes", &|b| le32(b, items + 192, 1024), "logical sectors are said to have 1024 bytes"),
            ("physical sectors of no bytes", &|b| le32(b, items + 256, 0), "physical sectors are said to have 0 bytes"),
            (
                "a block past the end",
                &|b| le64(b, vhdx::TABLE, 1 << 40 | 6),
                "block 0 (1048576 bytes at byte 1099511627776) lies past",
            ),
            ("a block at 2⁶⁴", &|b| le64(b, vhdx::TABLE, !0xfffff | 6), "past the end of the file"),
            ("a block over the headers", &|b| le64(b, vhdx::TABLE, 6), "over headers or tables"),
            (
                "a block over the metadata",
                &|b| le64(b, vhdx::TABLE, vhdx::METADATA as u64 | 6),
                "over headers or tables",
            ),
            ("a block over the table", &|b| le64(b, vhdx::TABLE, vhdx::TABLE as u64 | 6), "over headers or tables"),
            (
                "two blocks in one place",
                &|b| le64(b, vhdx::TABLE + 8, vhdx::DATA as u64 | 6),
                "where another block lies",
            ),
            ("partially present", &|b| le64(b, vhdx::TABLE, vhdx::DATA as u64 | 7), "partially present"),
            ("state 4", &|b| le64(b, vhdx::TABLE, vhdx::DATA as u64 | 4), "unknown state 4"),
            ("state 5", &|b| le64(b, vhdx::TABLE, vhdx::DATA as u64 | 5), "unknown state 5"),
            ("cut off", &|b| b.truncate(b.len() - 4096), "past the end of the file"),
            ("cut in the headers", &|b| b.truncate(100_000), "past the end of the file"),
            ("only a signature", &|b| b.truncate(8), "past the end of the file"),
        ],
    );
}

#[test]
fn vhdx_logs() {
    use vhdx::{LOG, Write, log_entry, log_write};
    let good = vhdx::dynamic(&raw(), 1 << 20, 512);
    let len = good.len() as u64;
    let write = || Write::Bytes(vhdx::TABLE as u64, vec![0; 4096]);
    let header = |b: &mut Vec<u8>, at: usize, part: &[u8]| {
        vhdx::HEADERS.iter().for_each(|header| put(b, header + at, part));
        vhdx::seal(b);
    };
    // An entry with a checksum that fits after the change.
    let entry = |b: &mut Vec<u8>, change: &dyn Fn(&mut Vec<u8>)| {
        let mut entry = log_entry(9, 0, len, &[write()]);
        change(&mut entry);
        let entry_len = entry.len();
        vhdx::sum(&mut entry, 0, entry_len);
        log_write(b, 0, &[entry]);
    };
    check(
        Format::Vhdx,
        &good,
        &[
            ("an empty log", &|b| log_write(b, 0, &[]), "its log has no valid entries"),
            (
                "a torn entry",
                &|b| {
                    entry(b, &|_| {});
                    b[LOG + 5000] ^= 1
                },
                "its log has no valid entries",
            ),
            ("another log's entry", &|b| entry(b, &|e| e[32] ^= 1), "its log has no valid entries"),
            ("sequence number 0", &|b| entry(b, &|e| le64(e, 16, 0)), "its log has no valid entries"),
            ("a tail elsewhere", &|b| entry(b, &|e| le32(e, 12, 8192)), "its log has no valid entries"),
            ("a tail past the log", &|b| entry(b, &|e| le32(e, 12, u32::MAX - 4095)), "its log has no valid entries"),
            ("an entry of 2³² bytes", &|b| entry(b, &|e| le32(e, 8, u32::MAX)), "its log has no valid entries"),
            ("an entry of no bytes", &|b| entry(b, &|e| le32(e, 8, 0)), "its log has no valid entries"),
            ("2³² descriptors", &|b| entry(b, &|e| le32(e, 24, u32::MAX)), "its log has no valid entries"),
            (
                "more descriptors than data",
                &|b| {
                    entry(b, &|e| {
                        le32(e, 24, 2);
                        let first = e[64..96].to_vec();
                        put(e, 96, &first)
                    })
                },
                "fewer data sectors than descriptors",
            ),
            ("an unknown descriptor", &|b| entry(b, &|e| put(e, 64, b"what")), "unknown descriptor"),
            ("a descriptor of another entry", &|b| entry(b, &|e| le64(e, 64 + 24, 8)), "does not belong to it"),
            ("a descriptor inside a sector", &|b| entry(b, &|e| le64(e, 64 + 16, 77)), "for byte 77"),
            ("a descriptor at 2⁶⁴", &|b| entry(b, &|e| le64(e, 64 + 16, !4095)), "does not belong to it"),
            (
                "a data sector of another entry",
                &|b| entry(b, &|e| le32(e, 4096 + 4, 1)),
                "data sector that does not belong to it",
            ),
            (
                "2⁶⁴ zeros",
                &|b| log_write(b, 0, &[log_entry(9, 0, len, &[Write::Zeros(0, !4095)])]),
                "zeroes 18446744073709547520 bytes",
            ),
            (
                "a file that lost its end",
                &|b| log_write(b, 0, &[log_entry(9, 0, len + 4096, &[write()])]),
                "its log was written when the file had",
            ),
            (
                "a file of 2⁶³ bytes",
                &|b| entry(b, &|e| le64(e, 56, 1 << 63)),
                "its log says that the file has 9223372036854775808",
            ),
            (
                "a log in the headers",
                &|b| {
                    log_write(b, 0, &[]);
                    header(b, 72, &0_u64.to_le_bytes())
                },
                "its log is said to be 1048576 bytes at byte 0",
            ),
            (
                "a log past the end",
                &|b| {
                    log_write(b, 0, &[]);
                    header(b, 72, &(1_u64 << 40).to_le_bytes())
                },
                "past the end of the file",
            ),
            (
                "a log of 2³² bytes",
                &|b| {
                    log_write(b, 0, &[]);
                    header(b, 68, &[0, 0, 0xf0, 0xff])
                },
                "past the end of the file",
            ),
            (
                "a log of 9 MiB",
                &|b| {
                    b.resize(10 << 20, 0);
                    log_write(b, 0, &[]);
                    header(b, 68, &[0, 0, 0x90, 0])
                },
                "larger than the 8388608 that are replayed",
            ),
            (
                "a table that the log takes away",
                &|b| log_write(b, 0, &[log_entry(9, 0, len, &[Write::Zeros(vhdx::METADATA as u64, 4096)])]),
                "no metadata table",
            ),
        ],
    );
    // Entries that lie in each other would have the whole ring summed for each of its sectors.
    let mut image = good;
    log_write(&mut image, 0, &[]);
    for sector in (LOG..LOG + MIB).step_by(4096) {
        let mut head = log_entry(9, 0, len, &[])[..64].to_vec();
        le32(&mut head, 8, MIB as u32);
        put(&mut image, sector, &head);
    }
    hostile("VHDX: entries in entries", image, Format::Vhdx, "its log has no valid entries");
}

#[test]
fn vdi_fields() {
    let map = vdi::MAP;
    check(
        Format::Vdi,
        &vdi::dynamic(&raw()),
        &[
            ("signature", &|b| b[0x40] = 0, "no VDI signature"),
            ("version 1.2", &|b| le32(b, 0x44, 0x1_0002), "version is 1.2"),
            ("version 0.1", &|b| le32(b, 0x44, 1), "version is 0.1"),
            ("a header of 8 bytes", &|b| le32(b, 0x48, 8), "it has 8 bytes, less than 384"),
            ("an undo image", &|b| le32(b, 0x4c, 3), "only the differences to a parent"),
            ("a differencing image", &|b| le32(b, 0x4c, 4), "only the differences to a parent"),
            ("type 9", &|b| le32(b, 0x4c, 9), "image type is 9"),
            ("a link", &|b| b[0x1a8] = 1, "links to another image"),
            ("a parent", &|b| b[0x1c7] = 1, "has a parent image"),
            ("map in the header", &|b| le32(b, 0x154, 0), "block map is said to begin at byte 0"),
            ("map inside a sector", &|b| le32(b, 0x154, 513), "block map is said to begin at byte 513"),
            ("map past the end", &|b| le32(b, 0x154, 0xffff_fe00), "past the end of the file"),
            (
                "data in the map",
                &|b| {
                    le32(b, 0x154, 1024);
                    b.resize(5 << 20, 0)
                },
                "inside the block map",
            ),
            ("data in the header", &|b| le32(b, 0x158, 0), "data is said to begin at byte 0"),
            ("data past the end", &|b| le32(b, 0x158, 0xffff_fe00), "past the end of the file"),
            ("sectors of 4096 bytes", &|b| le32(b, 0x168, 4096), "sectors have 4096 bytes"),
            ("blocks of no bytes", &|b| le32(b, 0x178, 0), "blocks have 0 bytes"),
            ("blocks of 2 MiB", &|b| le32(b, 0x178, 2 << 20), "blocks have 2097152 bytes"),
            ("blocks of 1000 bytes", &|b| le32(b, 0x178, 1000), "blocks have 1000 bytes"),
            ("extra bytes", &|b| le32(b, 0x17c, 512), "512 extra bytes"),
            ("no bytes", &|b| le64(b, 0x170, 0), "0 bytes"),
            ("2⁶⁴ bytes", &|b| le64(b, 0x170, u64::MAX), "18446744073709551615 bytes"),
            ("2⁶³ bytes", &|b| le64(b, 0x170, 1 << 63), "more than"),
            ("more than its map", &|b| le64(b, 0x170, 4 * MIB as u64 + 1), "too few for a disk"),
            ("2³² blocks", &|b| le32(b, 0x180, u32::MAX), "the block map"),
            (
                "a block past the end",
                &|b| le32(b, map, 99),
                "block 0 (1048576 bytes at byte 103810048) lies past the end",
            ),
            ("block 2³²", &|b| le32(b, map, 0xffff_fffd), "past the end of the file"),
            ("two blocks in one place", &|b| le32(b, map, 1), "where another block lies"),
            ("cut off", &|b| b.truncate(b.len() - 1), "past the end of the file"),
            ("cut in the map", &|b| b.truncate(map + 8), "past the end of the file"),
            ("cut in the header", &|b| b.truncate(100), "the header (512 bytes at byte 0)"),
        ],
    );
}
