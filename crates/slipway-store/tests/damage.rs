//! Flipped bits are found and never served; hostile frames are refused.
#![allow(clippy::unwrap_used)]

mod lab;

use std::io::Cursor;

use lab::{assert_clean, check, folder, image, ingest, noise, push, quiet, read_back, space, store};
use slipway_chunk::{
    ChunkId, ChunkerParams, Codec, EncodedFrame, FrameBuilder, FrameHeader, ImageBuilder, Manifest, Segment,
};
use slipway_store::{
    BlobKind, BlobState, CheckSpec, FindingKind, Ledger, MemoryLedger, PrepareSpec, ReceiveSpec, Store, StoreConfig,
    StoreError,
};

#[test]
fn every_flipped_bit_is_found_and_none_is_served() {
    let folder = folder();
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    let bytes = image(&[1, 2, 0, 3, 4, 5, 6, 7, 8, 9]);
    let (prepared, _) = push(&store(folder.path()), &ledger, &home, "a", &bytes);
    for row in ledger.rows() {
        let path = folder.path().join("blobs").join(&row.key);
        let good = std::fs::read(&path).unwrap();
        let places = 40.min(good.len());
        for n in 0..places {
            let mut bad = good.clone();
            let at = n * good.len() / places;
            bad[at] ^= 1 << (n % 8);
            std::fs::write(&path, &bad).unwrap();
            let store = store(folder.path());
            if let Ok(read) = read_back(&store, &ledger, std::slice::from_ref(&home), &prepared.root) {
                assert!(read == bytes, "{} byte {at}: a wrong byte was served", row.key);
            }
            let report = check(&store, &ledger);
            let found = report.findings.iter().any(|finding| finding.blob == Some(row.id));
            assert!(found, "{} byte {at}: {:?}", row.key, report.findings);
        }
        for cut in [0, 1, good.len() - 1] {
            std::fs::write(&path, &good[..cut]).unwrap();
            let store = store(folder.path());
            if let Ok(read) = read_back(&store, &ledger, std::slice::from_ref(&home), &prepared.root) {
                assert!(read == bytes);
            }
            assert!(!check(&store, &ledger).is_clean(), "{} cut to {cut}", row.key);
        }
        std::fs::remove_file(&path).unwrap();
        let report = check(&store(folder.path()), &ledger);
        assert!(report.findings.iter().any(|finding| finding.kind == FindingKind::MissingBlob));
        std::fs::write(&path, &good).unwrap();
        assert_clean(&store(folder.path()), &ledger);
    }
}

fn repair(store: &Store, ledger: &MemoryLedger) -> slipway_store::CheckReport {
    store.check(&CheckSpec { read_data: true, repair: true }, ledger, &mut quiet()).unwrap()
}

#[test]
fn repair_saves_the_good_frames_and_deletes_nothing() {
    let bytes = noise(7, 2 << 20);
    // A byte of a frame, of the footer, of the trailer, of the header.
    let spots: [&dyn Fn(usize) -> usize; 4] = [&|len| len / 2, &|len| len - 200, &|len| len - 40, &|_| 2];
    for (case, spot) in spots.iter().enumerate() {
        let folder = folder();
        let ledger = MemoryLedger::new();
        let home = space("u-1");
        let mut config = lab::config();
        config.pack_len = 64 << 20;
        let open = || {
            let blobs = slipway_store::Blobs::local(&folder.path().join("blobs"), Default::default()).unwrap();
            Store::open(blobs, config.clone(), Default::default()).unwrap()
        };
        let (prepared, _) = push(&open(), &ledger, &home, "a", &bytes);
        let pack = ledger.rows().into_iter().find(|row| row.kind == BlobKind::Pack).unwrap();
        let path = folder.path().join("blobs").join(&pack.key);
        let mut bad = std::fs::read(&path).unwrap();
        let at = spot(bad.len());
        bad[at] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();

        let store = open();
        let report = repair(&store, &ledger);
        let finding = report.findings.iter().find(|finding| finding.blob == Some(pack.id)).unwrap();
        assert!(finding.repaired.as_ref().unwrap().contains("good frames saved"), "{finding}");
        let aside = folder.path().join("blobs/quarantine").join(&pack.key);
        assert_eq!(std::fs::read(aside).unwrap(), bad, "nothing is deleted");
        let lost = report.findings.iter().any(|finding| finding.kind == FindingKind::BrokenContent);
        assert_eq!(lost, case == 0, "case {case}: {:#?}", report.findings);
        let read = read_back(&open(), &ledger, std::slice::from_ref(&home), &prepared.root);
        assert_eq!(read.is_ok(), !lost);
        // Sending the image again brings the lost chunks back, and only those.
        let (again, _) = push(&open(), &ledger, &home, "b", &bytes);
        assert_eq!(again.root, prepared.root);
        assert!(again.new_bytes < 600 << 10, "{}", again.new_bytes);
        assert!(read_back(&open(), &ledger, std::slice::from_ref(&home), &prepared.root).unwrap() == bytes);
        assert_clean(&open(), &ledger);
    }
}

#[test]
fn a_bad_copy_is_passed_over_and_reported() {
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    let (one, two) = (space("u-1"), space("u-2"));
    let bytes = image(&[1, 2, 3]);
    let (a, _) = push(&store, &ledger, &one, "a", &bytes);
    push(&store, &ledger, &two, "b", &bytes);
    let pack = ledger.rows().into_iter().find(|row| row.kind == BlobKind::Pack && row.space == one).unwrap();
    let path = folder.path().join("blobs").join(&pack.key);
    let mut bad = std::fs::read(&path).unwrap();
    bad[5000] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    assert!(read_back(&store, &ledger, std::slice::from_ref(&one), &a.root).is_err());
    assert!(read_back(&store, &ledger, &[one, two], &a.root).unwrap() == bytes);
    let findings = store.findings();
    assert!(findings.iter().any(|finding| finding.blob == Some(pack.id)), "{findings:?}");
    assert!(store.findings().is_empty());
}

#[test]
fn packs_that_were_only_away_come_back() {
    let folder = folder();
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    let bytes = image(&[1, 2, 3, 4]);
    let (prepared, _) = push(&store(folder.path()), &ledger, &home, "a", &bytes);
    let (packs, away) = (folder.path().join("blobs/packs"), folder.path().join("away"));
    let states = |wanted| ledger.rows().iter().filter(|row| row.kind == BlobKind::Pack && row.state == wanted).count();
    let count = states(BlobState::Live);
    assert!(count > 0);
    std::fs::rename(&packs, &away).unwrap();
    let report = repair(&store(folder.path()), &ledger);
    assert_eq!((report.is_clean(), states(BlobState::Quarantined)), (false, count));
    // Still away: nothing comes back by itself.
    repair(&store(folder.path()), &ledger);
    assert_eq!(states(BlobState::Quarantined), count);
    let _ = std::fs::remove_dir_all(&packs);
    std::fs::rename(&away, &packs).unwrap();
    // One of them was damaged meanwhile; it must not come back.
    let row = ledger.rows().into_iter().find(|row| row.kind == BlobKind::Pack).unwrap();
    let path = folder.path().join("blobs").join(&row.key);
    let good = std::fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    let store = store(folder.path());
    let report = repair(&store, &ledger);
    assert_eq!((states(BlobState::Live), states(BlobState::Quarantined)), (count - 1, 1), "{:#?}", report.findings);
    assert_eq!(std::fs::read(folder.path().join("blobs/quarantine").join(&row.key)).unwrap(), bad);
    std::fs::write(&path, &good).unwrap();
    repair(&store, &ledger);
    assert_eq!(states(BlobState::Live), count);
    assert!(read_back(&store, &ledger, std::slice::from_ref(&home), &prepared.root).unwrap() == bytes);
    assert_clean(&store, &ledger);
}

#[test]
fn one_pack_is_verified_alone() {
    let folder = folder();
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    push(&store(folder.path()), &ledger, &home, "a", &image(&[1, 2]));
    push(&store(folder.path()), &ledger, &home, "b", &image(&[7, 8]));
    let rows: Vec<_> = ledger.rows().into_iter().filter(|row| row.kind == BlobKind::Pack).collect();
    assert!(rows.len() >= 2);
    let (hurt, whole) = (&rows[0], &rows[1]);
    let path = folder.path().join("blobs").join(&hurt.key);
    let mut bad = std::fs::read(&path).unwrap();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    let store = store(folder.path());
    let verify = |space: &slipway_store::SpaceId, row: &slipway_store::BlobRow| {
        store.blobs_verify(&[(space.clone(), BlobKind::Pack, row.name.clone())], &ledger).unwrap()
    };
    let state = |id| ledger.rows().into_iter().find(|row| row.id == id).unwrap().state;
    assert_eq!(verify(&space("u-2"), hurt).blobs, 0, "another space's pack is none");
    let fine = verify(&home, whole);
    assert_eq!((fine.is_clean(), fine.blobs, fine.bytes_read), (true, 1, whole.len));
    let found = verify(&home, hurt);
    assert_eq!((found.findings.len(), found.bytes_read), (2, hurt.len), "{found:?}");
    let hits = &found.findings[0].hits;
    assert!(hits.len() == 1 && found.findings[1].hits == *hits, "the content that lacks it: {found:?}");
    assert_eq!((state(hurt.id), state(whole.id)), (BlobState::Quarantined, BlobState::Live));
    assert_eq!(verify(&home, hurt).blobs, 0, "it is put aside already");
    // One that is not there may be away with all others: that is for a check of everything.
    std::fs::remove_file(folder.path().join("blobs").join(&whole.key)).unwrap();
    let found = verify(&home, whole).findings;
    let missing = found.iter().filter(|finding| finding.kind == FindingKind::MissingBlob).count();
    assert_eq!((missing, found.len(), state(whole.id)), (1, 3, BlobState::Live), "and both contents lack something");
}

#[test]
fn strange_blobs_are_put_aside() {
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    push(&store, &ledger, &space("u-1"), "a", &image(&[1]));
    std::fs::write(folder.path().join("blobs/packs/u-1/stranger"), b"?").unwrap();
    let report = check(&store, &ledger);
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].kind, FindingKind::UnknownBlob);
    assert_eq!(repair(&store, &ledger).findings[0].repaired.as_deref(), Some("quarantined"));
    assert!(folder.path().join("blobs/quarantine/packs/u-1/stranger").exists());
    assert_clean(&store, &ledger);
}

fn frame(seeds: &[u64]) -> EncodedFrame {
    let mut builder = FrameBuilder::new();
    for &seed in seeds {
        let chunk = noise(seed, 8192);
        builder.push(ChunkId::of(&chunk), &chunk);
    }
    builder.take().encode(3)
}

#[test]
fn hostile_frames_are_refused_and_leave_nothing() {
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    let to = ReceiveSpec { space: space("u-1"), upload: "up".to_owned() };
    let good = frame(&[1, 2]).bytes;
    let refused = |bytes: &[u8], why: &str| {
        // Behind a good frame too: nothing of the request is kept.
        for prefix in [&[][..], &good[..]] {
            let body = [prefix, bytes].concat();
            let error = store.frames_receive(&to, &mut Cursor::new(body), &ledger).unwrap_err();
            assert!(matches!(error, StoreError::Format { .. }), "{why}: {error}");
            assert!(error.to_string().contains(why), "{why}: {error}");
            assert!(ledger.rows().is_empty(), "{why}");
        }
    };
    let header = |change: &dyn Fn(&mut FrameHeader)| {
        let payload = noise(1, 100);
        let mut header = FrameHeader {
            codec: Codec::Plain,
            key_id: 0,
            base: vec![],
            raw_len: 100,
            payload_len: 100,
            lens: vec![100],
        };
        change(&mut header);
        [header.encode(), payload].concat()
    };
    refused(b"x", "magic");
    refused(b"SLFR", "ends too early");
    refused(&good[..good.len() - 1], "ends too early");
    refused(&good[..25], "ends too early");
    refused(&header(&|h| h.base = vec![ChunkId::of(b"base")]), "base");
    refused(&header(&|h| h.key_id = 9), "key id");
    refused(&header(&|h| h.raw_len = 1 << 30), "limit");
    refused(&header(&|h| h.payload_len = u32::MAX), "limit");
    refused(&header(&|h| h.lens = vec![1; 300]), "limit");
    refused(&header(&|h| h.lens = vec![99]), "");
    refused(&header(&|h| h.lens = vec![100, 0]), "");
    refused(&header(&|h| h.codec = Codec::Zstd), "compressed payload");
    let mut codec = good.clone();
    codec[5] = 77;
    refused(&codec, "codec");
    // A payload that says 100 bytes and grows to a quarter of a mega.
    let mut large = FrameBuilder::new();
    let zeros = vec![7u8; 200 << 10];
    large.push(ChunkId::of(&zeros), &zeros);
    let large = large.take().encode(3).bytes;
    let (_, head) = FrameHeader::decode(&large).unwrap().unwrap();
    let payload = &large[head..];
    let mut lying = FrameHeader {
        codec: Codec::Zstd,
        key_id: 0,
        base: vec![],
        raw_len: 100,
        payload_len: payload.len() as u32,
        lens: vec![100],
    }
    .encode();
    lying.extend_from_slice(payload);
    refused(&lying, "decompress");

    let few = StoreConfig { receive_max: good.len() as u64, ..lab::config() };
    let blobs = slipway_store::Blobs::local(&folder.path().join("blobs"), Default::default()).unwrap();
    let narrow = Store::open(blobs, few, Default::default()).unwrap();
    let twice = [good.clone(), good.clone()].concat();
    let error = narrow.frames_receive(&to, &mut Cursor::new(twice), &ledger).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    assert!(ledger.rows().is_empty());

    let none = store.frames_receive(&to, &mut Cursor::new(vec![]), &ledger).unwrap();
    assert_eq!((none.frames, ledger.rows().len()), (0, 0));
}

#[test]
fn a_pushed_content_is_whole_or_refused() {
    let folder = folder();
    let store = store(folder.path());
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    let to = ReceiveSpec { space: home.clone(), upload: "up".to_owned() };
    let prepare = PrepareSpec { space: home.clone(), lookup: vec![], upload: "up".to_owned() };
    let params = ChunkerParams::default();
    let chunks: Vec<Vec<u8>> = (1..=4).map(|seed| noise(seed, 8192)).collect();
    let mut image = ImageBuilder::new(params, 512);
    image.hole(4096);
    for chunk in &chunks {
        image.chunk(ChunkId::of(chunk), 8192);
    }
    let (segment, manifest) = image.finish().unwrap();
    let segment = segment.unwrap();
    let go = || store.content_prepare(&prepare, &manifest.encode(), &ledger);

    assert!(matches!(go(), Err(StoreError::SegmentsMissing { count: 1, .. })));
    let wrong = ChunkId::of(b"other");
    let other = slipway_chunk::SegmentId::from_bytes(*wrong.as_bytes());
    assert!(store.segment_receive(&to, &other, &segment.encode(), &ledger).is_err());
    assert!(store.segment_receive(&to, &segment.id(), b"rubbish", &ledger).is_err());
    let blob = store.segment_receive(&to, &segment.id(), &segment.encode(), &ledger).unwrap();
    assert_eq!(store.segment_receive(&to, &segment.id(), &segment.encode(), &ledger).unwrap(), blob);
    assert_eq!(
        store.segments_missing(std::slice::from_ref(&home), &[segment.id(), other], &ledger).unwrap(),
        [false, true]
    );
    assert!(matches!(go(), Err(StoreError::ChunksMissing { count: 4, .. })));

    // Frames with other bytes than the client's list says are taken for what they are.
    let two = [frame(&[1, 99]).bytes, frame(&[2]).bytes].concat();
    let received = store.frames_receive(&to, &mut Cursor::new(two.clone()), &ledger).unwrap();
    assert_eq!((received.frames, received.chunks, received.frames_len), (2, 3, two.len() as u64));
    match go() {
        Err(StoreError::ChunksMissing { count, first }) => {
            assert_eq!((count, first), (2, ChunkId::of(&chunks[2])));
        }
        other => panic!("{other:?}"),
    }
    let ids: Vec<_> = chunks.iter().map(|chunk| ChunkId::of(chunk)).collect();
    let missing = store.chunks_missing(std::slice::from_ref(&home), &ids).unwrap();
    assert_eq!(missing, [false, false, true, true]);
    store.frames_receive(&to, &mut Cursor::new(frame(&[3, 4]).bytes), &ledger).unwrap();
    let prepared = go().unwrap();
    assert_eq!(prepared.root, manifest.root());
    assert_eq!(prepared.data_bytes, 4 * 8192);
    assert_eq!(prepared.new_bytes, prepared.stored_bytes);
    assert_eq!(prepared.stored_bytes, (two.len() + frame(&[3, 4]).bytes.len()) as u64);
    assert_eq!(prepared.blobs.len(), 4);
    // The same commit again gives the same.
    assert_eq!(go().unwrap(), prepared);
    ledger.content_commit(&prepared, std::slice::from_ref(&home)).unwrap();
    let want = [vec![0; 4096], chunks.concat()].concat();
    assert!(read_back(&store, &ledger, std::slice::from_ref(&home), &prepared.root).unwrap() == want);
    // What is stored as frames and what is ingested are the same chunks.
    assert!(ingest(&store, &ledger, &home, "x", &want).is_ok());

    let lying = Manifest { size: manifest.size + 4096, ..manifest.clone() };
    assert!(matches!(store.content_prepare(&prepare, &lying.encode(), &ledger), Err(StoreError::Format { .. })));
    let mut long = Segment::decode(&segment.encode()).unwrap().extents().to_vec();
    long.push(slipway_chunk::Extent::Chunk { id: ChunkId::of(&chunks[0]), len: 4096 });
    let long = Segment::new(long).unwrap();
    store.segment_receive(&to, &long.id(), &long.encode(), &ledger).unwrap();
    let lying = Manifest { size: long.len(), segments: vec![long.id()], ..manifest };
    let error = store.content_prepare(&prepare, &lying.encode(), &ledger).unwrap_err();
    assert!(matches!(error, StoreError::ChunksMissing { count: 1, .. }), "a chunk of another length: {error}");
    assert!(ledger.blobs_in(&[BlobState::Staged]).unwrap().is_empty());
    assert_clean(&store, &ledger);
}

#[test]
fn blobs_that_are_all_away_are_not_given_up() {
    let folder = folder();
    let ledger = MemoryLedger::new();
    let home = space("u-1");
    let bytes = image(&[1, 2, 3]);
    let (prepared, _) = push(&store(folder.path()), &ledger, &home, "a", &bytes);
    let (blobs, aside) = (folder.path().join("blobs"), folder.path().join("unmounted"));
    std::fs::rename(&blobs, &aside).unwrap();
    let report = repair(&store(folder.path()), &ledger);
    assert!(report.findings.iter().any(|finding| finding.kind == FindingKind::MissingBlob));
    assert!(report.findings.iter().all(|finding| finding.repaired.is_none()), "{:?}", report.findings);
    std::fs::remove_dir_all(&blobs).unwrap();
    std::fs::rename(&aside, &blobs).unwrap();
    let store = store(folder.path());
    assert_clean(&store, &ledger);
    assert!(read_back(&store, &ledger, std::slice::from_ref(&home), &prepared.root).unwrap() == bytes);
}

#[test]
fn a_pack_of_tiny_chunks_is_finished_early() {
    let folder = folder();
    let (store, ledger) = (store(folder.path()), MemoryLedger::new());
    let home = space("u-1");
    let (mut frames, mut ids) = (Vec::new(), Vec::new());
    for frame in 0..250u32 {
        let mut builder = FrameBuilder::new();
        for chunk in 0..250u32 {
            let bytes = (frame * 250 + chunk).to_le_bytes();
            ids.push(ChunkId::of(&bytes));
            builder.push(ChunkId::of(&bytes), &bytes);
        }
        frames.extend(builder.take().encode(1).bytes);
    }
    let spec = ReceiveSpec { space: home.clone(), upload: "a".to_owned() };
    let received = store.frames_receive(&spec, &mut Cursor::new(frames), &ledger).unwrap();
    assert_eq!(received.chunks, 62_500);
    let packs: Vec<_> = ledger.rows().into_iter().filter(|row| row.kind == BlobKind::Pack).collect();
    assert_eq!(packs.len(), 2, "the footer of one would be too long");
    assert_eq!(packs.iter().map(|row| row.frames_len).sum::<u64>(), received.frames_len);
    assert!(packs.iter().all(|row| row.len - row.frames_len < 3 << 20), "{packs:?}");
    let missing = store.chunks_missing(std::slice::from_ref(&home), &ids).unwrap();
    assert!(missing.iter().all(|missing| !missing));
}
