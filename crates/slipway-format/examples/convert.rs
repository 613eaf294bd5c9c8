//! `convert FORMAT IMAGE RAW`: writes the disk of an image as a sparse raw file. Only for measuring the readers.

use slipway_chunk::{Fill, SparseRead, is_zero};
use slipway_format::{DiskAhead, FileAt, Format, Limits, disk_open};
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;

const BLOCK: usize = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [format, image, raw] = &args[..] else { return Err("convert FORMAT IMAGE RAW".into()) };
    let format = Format::ALL.into_iter().find(|known| known.name() == format).ok_or("an unknown format")?;
    let disk = disk_open(format, Box::new(FileAt::new(File::open(image)?)?), &Limits { size_max: u64::MAX })?;
    let size = disk.size();
    let mut source = DiskAhead::new(disk)?;
    let out = File::create(raw)?;
    let (mut buf, mut at) = (vec![0; 4 << 20], 0);
    loop {
        match source.fill(&mut buf)? {
            Fill::End => break,
            Fill::Hole(len) => at += len,
            Fill::Data(len) => {
                sparse_write(&out, &buf[..len], at)?;
                at += len as u64;
            }
        }
    }
    out.set_len(size)?;
    Ok(())
}

/// Writes all but blocks of zeros, neighbours in one go.
fn sparse_write(out: &File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    let mut from = None;
    for (index, block) in bytes.chunks(BLOCK).enumerate() {
        match (is_zero(block), from) {
            (true, Some(begun)) => {
                out.write_all_at(&bytes[begun..index * BLOCK], at + begun as u64)?;
                from = None;
            }
            (false, None) => from = Some(index * BLOCK),
            _ => {}
        }
    }
    match from {
        Some(begun) => out.write_all_at(&bytes[begun..], at + begun as u64),
        None => Ok(()),
    }
}
