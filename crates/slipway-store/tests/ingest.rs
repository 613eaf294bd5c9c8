//! Images in and out, what is shared, and what is counted.
#![allow(clippy::unwrap_used)]

mod lab;

use std::collections::BTreeSet;
use std::io::Read;

use lab::{TILE, assert_clean, folder, image, ingest, noise, push, quiet, read_back, s3_lab, space, spec, store};
use slipway_chunk::{BLOCK, Digest, Fill, SEGMENT_LEN, SparseRead};
use slipway_store::{
    BlobKind, BlobState, Faults, Ledger, MemoryLedger, PrepareSpec, Prepared, SpaceId, Store, StoreConfig, StoreError,
};

/// Distinct frames that the layouts of all segments name, and their stored bytes.
fn frames_by_layout(store: &Store, ledger: &MemoryLedger, spaces: &[SpaceId], prepared: &Prepared) -> u64 {
    let manifest = store.manifest_read(spaces, &prepared.root, ledger).unwrap();
    let mut frames = BTreeSet::new();
    for id in &manifest.segments {
        let segment = store.segment_read(spaces, id, ledger).unwrap();
        let layout = store.layout(spaces, &segment, &|space, pack, len| format!("/{space}/{pack}/{len}")).unwrap();
        layout.check().unwrap();
        for frame in &layout.frames {
            frames.insert((layout.packs[frame.pack as usize].id, frame.offset, frame.len));
        }
    }
    frames.iter().map(|(_, _, len)| u64::from(*len)).sum()
}

fn pack_bytes(ledger: &MemoryLedger, upload: &str) -> u64 {
    let ours = |row: &slipway_store::BlobRow| row.kind == BlobKind::Pack && row.upload.as_deref() == Some(upload);
    ledger.rows().iter().filter(|row| ours(row)).map(|row| row.frames_len).sum()
}

#[test]
fn sizes_and_shapes_come_back() {
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    let check = |bytes: &[u8]| {
        let (prepared, _) = push(&store, &ledger, &home, "up", bytes);
        assert_eq!(prepared.size, bytes.len() as u64);
        assert_eq!(prepared.digest, Some(Digest::of(bytes)));
        let zero = |block: &&[u8]| block.iter().any(|&byte| byte != 0);
        let blocks = bytes.chunks(BLOCK).filter(zero).count();
        assert_eq!(prepared.data_bytes, (blocks * BLOCK) as u64);
        let spaces = std::slice::from_ref(&home);
        assert!(read_back(&store, &ledger, spaces, &prepared.root).unwrap() == bytes);
        assert_eq!(prepared.stored_bytes, frames_by_layout(&store, &ledger, spaces, &prepared));
    };
    check(b"x");
    check(&[0]);
    check(&[0; 4096]);
    check(&noise(1, 4095));
    check(&noise(1, 4097));
    check(&image(&[1, 2, 0, 0, 3, 1, 1]));
    check(&[image(&[0, 4]), vec![0; 100]].concat());
    check(&noise(9, 3 << 20));
    check(&vec![0; 1 << 20]);
    assert_clean(&store, &ledger);
    assert!(matches!(ingest(&store, &ledger, &home, "up", b""), Err(StoreError::Format { .. })));
}

#[test]
fn stored_and_new_bytes_are_what_they_are_defined_as() {
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    let spaces = [home.clone()];
    let first = image(&(1..=20).collect::<Vec<_>>());
    let (a, _) = push(&store, &ledger, &home, "a", &first);
    assert_eq!(a.new_bytes, pack_bytes(&ledger, "a"));
    assert_eq!(a.stored_bytes, a.new_bytes);

    // The same again stores nothing: no pack, no segment, no manifest.
    let rows = ledger.rows().len();
    let (again, _) = push(&store, &ledger, &home, "b", &first);
    assert_eq!((again.root, again.new_bytes, again.stored_bytes), (a.root, 0, a.stored_bytes));
    assert_eq!(ledger.rows().len(), rows);

    // One tile of each frame of the first is still used: its frames count whole.
    let mut second = image(&(1..=20).collect::<Vec<_>>());
    second[5 * TILE..9 * TILE].copy_from_slice(&noise(77, 4 * TILE));
    let (c, _) = push(&store, &ledger, &home, "c", &second);
    assert_eq!(c.new_bytes, pack_bytes(&ledger, "c"));
    assert!(c.new_bytes > 4 * TILE as u64 && c.new_bytes < 10 * TILE as u64, "{}", c.new_bytes);
    assert_eq!(c.stored_bytes, frames_by_layout(&store, &ledger, &spaces, &c));
    assert!(c.stored_bytes > c.new_bytes);

    // What an image repeats in itself is stored once.
    let (d, _) = push(&store, &ledger, &home, "d", &image(&[30; 40]));
    assert!(d.stored_bytes < 4 * TILE as u64, "{}", d.stored_bytes);
    assert_clean(&store, &ledger);
}

#[test]
fn a_retry_counts_what_its_first_try_wrote() {
    struct Breaks(usize, Vec<u8>);
    impl SparseRead for Breaks {
        fn fill(&mut self, buf: &mut [u8]) -> std::io::Result<Fill> {
            let n = buf.len().min(self.1.len() - self.0);
            if n == 0 {
                return Err(std::io::Error::other("cable pulled"));
            }
            buf[..n].copy_from_slice(&self.1[self.0..self.0 + n]);
            self.0 += n;
            Ok(Fill::Data(n))
        }
    }
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    let bytes = noise(5, 9 << 20);
    let broken = store.ingest(&spec(&home, "up"), &mut Breaks(0, bytes.clone()), &ledger, &mut quiet());
    assert!(matches!(broken, Err(StoreError::Source(_))), "{broken:?}");
    let kept = pack_bytes(&ledger, "up");
    assert!(kept > 1 << 20, "finished packs stay for the retry");
    let (prepared, _) = push(&store, &ledger, &home, "up", &bytes);
    assert_eq!(prepared.new_bytes, prepared.stored_bytes);
    let all = pack_bytes(&ledger, "up");
    // The first try ended in the middle of a frame, so one frame may be cut differently.
    assert!(prepared.new_bytes <= all && all < prepared.new_bytes + (1 << 20));
    assert!(ledger.blobs_in(&[BlobState::Staged]).unwrap().is_empty());
    assert_clean(&store, &ledger);
}

#[test]
fn spaces_see_nothing_of_each_other() {
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    let (mine, yours) = (space("mine"), space("yours"));
    let bytes = image(&[1, 2, 3, 4]);
    let (a, _) = push(&store, &ledger, &mine, "a", &bytes);
    let (b, _) = push(&store, &ledger, &yours, "b", &bytes);
    assert_eq!(a.root, b.root);
    assert_eq!(b.new_bytes, a.new_bytes);
    assert!(a.blobs.iter().all(|id| !b.blobs.contains(id)));
    let manifest = store.manifest_read(std::slice::from_ref(&mine), &a.root, &ledger).unwrap();
    let segment = store.segment_read(std::slice::from_ref(&mine), &manifest.segments[0], &ledger).unwrap();
    let stranger = [space("stranger")];
    assert!(store.segment_read(&stranger, &manifest.segments[0], &ledger).is_err());
    assert!(store.content_open(&stranger, &a.root, &ledger).is_err());
    let ids: Vec<_> = segment.chunks().map(|(_, id, _)| id).collect();
    assert!(store.chunks_missing(&stranger, &ids).unwrap().iter().all(|missing| *missing));
    assert!(store.chunks_missing(std::slice::from_ref(&mine), &ids).unwrap().iter().all(|missing| !missing));
    let layout = store.layout(std::slice::from_ref(&mine), &segment, &|space, _, _| space.to_string()).unwrap();
    assert!(layout.packs.iter().all(|pack| pack.address == "mine"));
    let pack = layout.packs[0].id;
    assert!(store.pack_len(&mine, &pack).is_some());
    assert!(store.pack_len(&yours, &pack).is_none());
    assert!(store.pack_reader(&yours, &pack, 0..1).is_err());
    // With the other space among the readers' own, its chunks are used.
    let mut with = spec(&space("third"), "c");
    with.lookup = vec![mine.clone()];
    let c = store.ingest(&with, &mut slipway_chunk::Stream(bytes.as_slice()), &ledger, &mut quiet()).unwrap();
    assert_eq!(c.new_bytes, 0);
    assert_eq!(c.blobs.len(), a.blobs.len());
}

#[test]
fn a_copy_stands_alone() {
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    let (private, shared) = (space("private"), space("shared"));
    let bytes = image(&[1, 2, 0, 3, 4, 5, 6, 7, 8, 9, 10]);
    let (a, content) = push(&store, &ledger, &private, "a", &bytes);
    let to = PrepareSpec { space: shared.clone(), lookup: vec![], upload: "copy".to_owned() };
    let b = store.content_copy(std::slice::from_ref(&private), &a.root, &to, &ledger, &mut quiet()).unwrap();
    assert_eq!((b.root, b.data_bytes), (a.root, a.data_bytes));
    assert_eq!(b.new_bytes, b.stored_bytes);
    ledger.content_commit(&b, std::slice::from_ref(&shared)).unwrap();
    ledger.content_remove(content);
    lab::prune_all(&store, &ledger);
    assert!(read_back(&store, &ledger, &[private], &a.root).is_err());
    assert!(read_back(&store, &ledger, &[shared], &a.root).unwrap() == bytes);
    assert_clean(&store, &ledger);
}

#[test]
fn any_range_reads_and_holes_are_known() {
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    let bytes = image(&[1, 0, 2, 3, 0, 0, 4]);
    let (prepared, _) = push(&store, &ledger, &home, "a", &bytes);
    let mut reader = store.content_open(&[home], &prepared.root, &ledger).unwrap();
    for (at, len) in [(0, 1), (1, 4096), (TILE - 5, 10), (TILE, TILE), (3 * TILE + 7, 3 * TILE), (7 * TILE - 1, 1)] {
        let mut buf = vec![1; len];
        reader.read_at(at as u64, &mut buf).unwrap();
        assert!(buf == bytes[at..at + len], "{at}+{len}");
    }
    let size = bytes.len() as u64;
    assert!(matches!(reader.read_at(size, &mut [0]), Err(StoreError::PastEnd { .. })));
    assert!(matches!(reader.read_at(u64::MAX, &mut [0]), Err(StoreError::PastEnd { .. })));
    let hole = reader.extents_from(TILE as u64 + 5).unwrap().unwrap();
    assert_eq!((hole.hole, hole.len), (true, TILE as u64 - 5));
    let data = reader.extents_from(2 * TILE as u64).unwrap().unwrap();
    assert_eq!((data.hole, data.len), (false, 2 * TILE as u64));
    assert_eq!(reader.extents_from(size).unwrap(), None);
    reader.seek_to(5 * TILE as u64);
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert!(rest == bytes[5 * TILE..]);
}

#[test]
fn a_sparse_tera_byte_costs_its_data() {
    struct Sparse(u32);
    impl SparseRead for Sparse {
        fn fill(&mut self, buf: &mut [u8]) -> std::io::Result<Fill> {
            self.0 += 1;
            Ok(match self.0 {
                1 => Fill::Hole(1 << 39),
                2 => {
                    buf[..4096].copy_from_slice(&noise(1, 4096));
                    Fill::Data(4096)
                }
                3 => Fill::Hole((1 << 39) - 4096),
                _ => Fill::End,
            })
        }
    }
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    let prepared = store.ingest(&spec(&home, "a"), &mut Sparse(0), &ledger, &mut quiet()).unwrap();
    assert_eq!((prepared.size, prepared.data_bytes, prepared.digest), (1 << 40, 4096, None));
    assert!(prepared.stored_bytes < 5000);
    assert!(ledger.rows().len() < 6);
    ledger.content_commit(&prepared, std::slice::from_ref(&home)).unwrap();
    let mut reader = store.content_open(&[home], &prepared.root, &ledger).unwrap();
    let hole = reader.extents_from(SEGMENT_LEN).unwrap().unwrap();
    assert_eq!((hole.hole, hole.len), (true, (1 << 39) - SEGMENT_LEN));
    let mut block = vec![0; 4096];
    reader.read_at(1 << 39, &mut block).unwrap();
    assert_eq!(block, noise(1, 4096));
    assert_clean(&store, &ledger);
}

#[test]
fn s3_keeps_images_too() {
    let lab = s3_lab();
    let cache = folder();
    let config = StoreConfig { index_cache: Some(cache.path().join("index")), pack_len: 9 << 20, ..lab::config() };
    let open = || Store::open(lab.blobs(Faults::none()), config.clone(), Faults::none()).unwrap();
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    let bytes = [noise(1, 20 << 20), image(&[0, 1, 2])].concat();
    let (prepared, content) = push(&open(), &ledger, &home, "a", &bytes);
    // A store that has just been opened finds its footers in the cache folder.
    assert!(std::fs::read_dir(cache.path().join("index")).unwrap().count() >= 2);
    let again = open();
    assert!(read_back(&again, &ledger, std::slice::from_ref(&home), &prepared.root).unwrap() == bytes);
    assert_eq!(push(&again, &ledger, &home, "b", &bytes).0.new_bytes, 0);
    assert_clean(&again, &ledger);
    // A cache file that was tampered with is not believed.
    for entry in std::fs::read_dir(cache.path().join("index")).unwrap() {
        let path = entry.unwrap().path();
        let mut content = std::fs::read(&path).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        std::fs::write(&path, content).unwrap();
    }
    let third = open();
    assert!(read_back(&third, &ledger, std::slice::from_ref(&home), &prepared.root).unwrap() == bytes);
    ledger.content_remove(content);
    ledger.content_remove(content + 1);
    lab::prune_all(&third, &ledger);
    let mut left = 0;
    for prefix in ["packs", "segments", "manifests", "multipart"] {
        lab.blobs(Faults::none()).list(prefix, &mut |_| left += 1).unwrap();
    }
    assert_eq!(left, 0);
}
