//! tar archives and OVAs, with every field in reach.

/// A header of the ustar kind.
pub(crate) fn header(name: &[u8], kind: u8, size: u64) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name);
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    sum(&mut header);
    header
}

/// Makes the checksum fit.
pub(crate) fn sum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header[..512].iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A header and what follows it.
pub(crate) fn entry(name: &[u8], kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut entry = header(name, kind, bytes.len() as u64);
    entry.extend_from_slice(bytes);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

pub(crate) fn file(name: &str, bytes: &[u8]) -> Vec<u8> {
    entry(name.as_bytes(), b'0', bytes)
}

/// An extended header with these records.
pub(crate) fn pax(kind: u8, records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let body = key.len() + value.len() + 3;
        // The length counts its own digits.
        let len = (body + 1..).find(|len| body + len.to_string().len() == *len).unwrap();
        bytes.extend(format!("{len} {key}=").into_bytes());
        bytes.extend_from_slice(value);
        bytes.push(b'\n');
    }
    entry(b"pax", kind, &bytes)
}

/// The archive of these entries, with its end mark.
pub(crate) fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// An OVF that says that the disk is this file.
pub(crate) fn ovf(href: &str, size: usize) -> String {
    format!(
        "<?xml version=\"1.0\"?>\n<Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\">\n\
         <References><File ovf:id=\"file1\" ovf:href=\"{href}\" ovf:size=\"{size}\"/></References>\n\
         <DiskSection><Info>disks</Info><Disk ovf:diskId=\"vmdisk1\" ovf:fileRef=\"file1\" ovf:capacity=\"8\"/></DiskSection>\n</Envelope>\n"
    )
}
