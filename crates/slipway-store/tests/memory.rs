//! An ingest with two workers stays within its memory. Alone in its process, so that the peak is its own.
#![allow(clippy::unwrap_used)]

mod lab;

use lab::{folder, quiet, space, spec};
use slipway_chunk::{Fill, SparseRead};
use slipway_store::{Blobs, Faults, MemoryLedger, Store, StoreConfig};

/// Half noise, half text-like repetition, made as it is read.
struct Made {
    left: usize,
    state: u64,
}

impl SparseRead for Made {
    fn fill(&mut self, buf: &mut [u8]) -> std::io::Result<Fill> {
        if self.left == 0 {
            return Ok(Fill::End);
        }
        let n = buf.len().min(self.left);
        for pair in buf[..n].chunks_mut(16) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            let word = self.state.to_le_bytes();
            for (byte, from) in pair.iter_mut().zip(word.iter().chain(b"abcdefgh")) {
                *byte = *from;
            }
        }
        self.left -= n;
        Ok(Fill::Data(n))
    }
}

fn status_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn ingest_stays_below_96_mb() {
    let folder = folder();
    let blobs = Blobs::local(&folder.path().join("blobs"), Faults::none()).unwrap();
    let store = Store::open(blobs, StoreConfig::default(), Faults::none()).unwrap();
    let ledger = MemoryLedger::new();
    let mut source = Made { left: 300 << 20, state: 88_172_645_463_325_252 };
    let prepared = store.ingest(&spec(&space("u-1"), "a"), &mut source, &ledger, &mut quiet()).unwrap();
    assert_eq!(prepared.size, 300 << 20);
    // Files in a folder in memory count as the kernel's, not as ours.
    let peak = status_kib("VmHWM");
    assert!(peak * 1024 < 96_000_000, "peak {peak} KiB");
}
