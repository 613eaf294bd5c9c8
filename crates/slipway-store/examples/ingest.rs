//! Ingests files into one new store, one after the other, and prints a line of JSON for each: seconds of wall and processor, peak memory
//! in MB, and bytes. For measuring; `cargo xtask bench ingest` runs it.
//!
//! Usage: `ingest FOLDER WORKERS DIGEST_ZEROS_MAX FILE...`

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use slipway_chunk::ChunkerParams;
use slipway_disk::SparseFile;
use slipway_store::{Blobs, Faults, IngestSpec, MemoryLedger, SpaceId, Store, StoreConfig};

/// Seconds of processor that this process has taken, user and system.
fn processor() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 = rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<f64>().ok()).sum();
    Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
}

/// The most memory since the last call, in MB of 10^6 bytes.
fn peak_take() -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("no VmHWM")?;
    let kib: f64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
    std::fs::write("/proc/self/clear_refs", "5")?;
    Ok(kib * 1024.0 / 1e6)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, workers, zeros, files @ ..] = &args[..] else {
        return Err("ingest FOLDER WORKERS DIGEST_ZEROS_MAX FILE...".into());
    };
    let config = StoreConfig { workers: workers.parse()?, digest_zeros_max: zeros.parse()?, ..StoreConfig::default() };
    let store = Store::open(Blobs::local(Path::new(folder), Faults::none())?, config, Faults::none())?;
    let ledger = MemoryLedger::new();
    let space = SpaceId::new("u-1")?;
    for (number, file) in files.iter().enumerate() {
        let upload = format!("bench-{number}");
        ledger.upload_open(&upload);
        let spec = IngestSpec {
            space: space.clone(),
            lookup: vec![space.clone()],
            sector_size: 512,
            params: ChunkerParams::default(),
            upload: upload.clone(),
        };
        peak_take()?;
        let (begun, before) = (Instant::now(), processor()?);
        let prepared = store.ingest(&spec, &mut SparseFile::open(Path::new(file))?, &ledger, &mut |_| ())?;
        let (wall, cpu) = (begun.elapsed().as_secs_f64(), processor()? - before);
        ledger.content_commit(&prepared, std::slice::from_ref(&space))?;
        ledger.upload_close(&upload);
        println!(
            "{{\"wall\":{wall},\"cpu\":{cpu},\"peak_mb\":{},\"size\":{},\"data\":{},\"stored\":{},\"new\":{}}}",
            peak_take()?,
            prepared.size,
            prepared.data_bytes,
            prepared.stored_bytes,
            prepared.new_bytes
        );
    }
    Ok(())
}
