//! What a scrub reads, finds and leaves alone; and a content read chunk by chunk past all caches.
#![allow(clippy::unwrap_used)]

mod lab;

use lab::{TILE, assert_clean, folder, image, push, read_back, space, store};
use slipway_store::{
    BlobKind, BlobRow, BlobState, FindingKind, Ledger, MemoryLedger, Piece, Prepared, Scrubbed, SpaceId, Store,
    StoreError,
};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn pass(store: &Store, ledger: &MemoryLedger) -> Scrubbed {
    let mut seen = Scrubbed::default();
    for row in ledger.blobs_in(&[BlobState::Live, BlobState::Doomed]).unwrap() {
        store.blob_scrub(&row, ledger, &mut |_| true, &mut seen).unwrap();
    }
    store.scrub_hits(&mut seen, ledger).unwrap();
    seen
}

/// Three images with parts in common, in two spaces.
fn three(store: &Arc<Store>, ledger: &MemoryLedger) -> Vec<(Prepared, SpaceId, Vec<u8>)> {
    let (one, two) = (space("u-1"), space("u-2"));
    [(&one, "a", [1, 2, 3, 4, 5, 6]), (&one, "b", [1, 2, 3, 7, 8, 9]), (&two, "c", [1, 2, 3, 20, 21, 0])]
        .into_iter()
        .map(|(home, upload, tiles)| {
            let bytes = image(&tiles);
            (push(store, ledger, home, upload, &bytes).0, home.clone(), bytes)
        })
        .collect()
}

fn path(folder: &Path, row: &BlobRow) -> PathBuf {
    folder.join("blobs").join(&row.key)
}

/// Roots that cannot be read in full now.
fn unreadable(store: &Arc<Store>, ledger: &MemoryLedger, all: &[(Prepared, SpaceId, Vec<u8>)]) -> BTreeSet<String> {
    let mut lost = BTreeSet::new();
    for (prepared, home, bytes) in all {
        match read_back(store, ledger, std::slice::from_ref(home), &prepared.root) {
            Ok(read) => assert!(read == *bytes, "a wrong byte was served"),
            Err(_) => drop(lost.insert(prepared.root.to_string())),
        }
    }
    lost
}

#[test]
fn one_pass_finds_every_flip_cut_and_loss_and_names_whom_it_hurts() {
    let folder = folder();
    let ledger = MemoryLedger::new();
    let all = three(&store(folder.path()), &ledger);
    let rows = ledger.rows();
    let whole = pass(&store(folder.path()), &ledger);
    assert_eq!((whole.findings().len(), whole.blobs()), (0, rows.len() as u64));
    assert_eq!(whole.bytes_read(), rows.iter().map(|row| row.len).sum::<u64>(), "every byte is read");
    for (n, row) in rows.iter().enumerate() {
        let file = path(folder.path(), row);
        let good = std::fs::read(&file).unwrap();
        for case in 0..9 {
            match case {
                8 => std::fs::remove_file(&file).unwrap(),
                7 => std::fs::write(&file, &good[..good.len() - 1]).unwrap(),
                6 => std::fs::write(&file, [&good[..], &[0]].concat()).unwrap(),
                _ => {
                    let mut bad = good.clone();
                    let at = (n * 7919 + case * good.len() / 6) % good.len();
                    bad[at] ^= 1 << case;
                    std::fs::write(&file, bad).unwrap();
                }
            }
            let store = store(folder.path());
            let seen = pass(&store, &ledger);
            let [finding] = seen.findings() else { panic!("{} case {case}: {:?}", row.key, seen.findings()) };
            let kind = if case == 8 { FindingKind::MissingBlob } else { FindingKind::DamagedBlob };
            assert_eq!((finding.blob, finding.kind), (Some(row.id), kind), "{} case {case}", row.key);
            let named: BTreeSet<String> = finding.hits.iter().map(|hit| hit.root.to_string()).collect();
            let lost = unreadable(&store, &ledger, &all);
            // A damaged header or footer of a pack hurts nobody who has the list of its frames already; the scrub is the stricter one.
            assert!(named.is_superset(&lost), "{} case {case}: {named:?} {lost:?}", row.key);
            assert!(hit_spaces(finding) <= BTreeSet::from([row.space.clone()]));
            std::fs::write(&file, &good).unwrap();
        }
    }
    let states: BTreeSet<BlobState> = ledger.rows().iter().map(|row| row.state).collect();
    assert_eq!(states, BTreeSet::from([BlobState::Live]), "a scrub changes nothing");
    assert_clean(&store(folder.path()), &ledger);
}

fn hit_spaces(finding: &slipway_store::Finding) -> BTreeSet<SpaceId> {
    finding.hits.iter().flat_map(|hit| hit.spaces.clone()).collect()
}

#[test]
fn a_second_copy_keeps_everybody_whole() {
    let folder = folder();
    let ledger = MemoryLedger::new();
    let store = store(folder.path());
    let (one, two) = (space("u-1"), space("u-2"));
    let bytes = image(&[1, 2, 3]);
    let (prepared, _) = push(&store, &ledger, &one, "a", &bytes);
    push(&store, &ledger, &two, "b", &bytes);
    // One reader may read both spaces, the other only the first.
    ledger.content_commit(&prepared, &[one.clone(), two.clone()]).unwrap();
    let pack = ledger.rows().into_iter().find(|row| row.kind == BlobKind::Pack && row.space == one).unwrap();
    let file = path(folder.path(), &pack);
    let mut bad = std::fs::read(&file).unwrap();
    bad[TILE / 2] ^= 1;
    std::fs::write(&file, bad).unwrap();
    let seen = pass(&store, &ledger);
    let [finding] = seen.findings() else { panic!("{:?}", seen.findings()) };
    assert_eq!(hit_spaces(finding), BTreeSet::from([one.clone()]), "only who has no second copy");
    let report = store.blobs_verify(&[(one.clone(), BlobKind::Pack, pack.name.clone())], &ledger).unwrap();
    assert!(report.findings[0].repaired.is_some(), "{report:?}");
    assert!(read_back(&store, &ledger, &[one.clone(), two], &prepared.root).unwrap() == bytes);
    assert!(read_back(&store, &ledger, &[one], &prepared.root).is_err());
    let left = store.contents_verify(&ledger).unwrap();
    assert_eq!((left.findings.len(), left.contents), (1, 3), "{left:?}");
}

#[test]
fn a_look_stops_within_a_blob_and_then_counts_for_nothing() {
    let folder = folder();
    let ledger = MemoryLedger::new();
    let store = store(folder.path());
    push(&store, &ledger, &space("u-1"), "a", &image(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]));
    let pack = ledger.rows().into_iter().find(|row| row.kind == BlobKind::Pack).unwrap();
    let (mut seen, mut told, mut calls) = (Scrubbed::default(), 0, 0);
    let mut pace = |bytes: u64| {
        (told, calls) = (told + bytes, calls + 1);
        calls < 2
    };
    let error = store.blob_scrub(&pack, &ledger, &mut pace, &mut seen).unwrap_err();
    assert!(matches!(error, StoreError::Stopped) && told < pack.len, "{error}");
    assert_eq!((seen.blobs(), seen.findings().len()), (0, 0));
}

#[test]
fn a_folder_that_is_away_is_no_loss() {
    let folder = folder();
    let ledger = MemoryLedger::new();
    push(&store(folder.path()), &ledger, &space("u-1"), "a", &image(&[1, 2]));
    let store = store(folder.path());
    let rows = ledger.rows();
    store.blobs_there(&rows).unwrap();
    store.blobs_there(&[]).unwrap();
    std::fs::remove_file(path(folder.path(), &rows[0])).unwrap();
    store.blobs_there(&rows).unwrap();
    std::fs::rename(folder.path().join("blobs"), folder.path().join("away")).unwrap();
    assert!(matches!(store.blobs_there(&rows), Err(StoreError::Away)));
}

#[test]
fn a_content_is_verified_past_the_caches_and_every_bad_place_is_named() {
    let folder = folder();
    let ledger = MemoryLedger::new();
    let store = store(folder.path());
    let home = space("u-1");
    let bytes = image(&[1, 2, 0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 0]);
    let (prepared, _) = push(&store, &ledger, &home, "a", &bytes);
    let spaces = std::slice::from_ref(&home);
    let verify = || {
        let (mut at, mut bad, mut read) = (0usize, Vec::new(), 0);
        let whole = store
            .content_verify(spaces, &prepared.root, &ledger, &mut |piece| {
                match piece {
                    Piece::Hole(len) => {
                        assert!(bytes[at..at + len as usize].iter().all(|byte| *byte == 0));
                        at += len as usize;
                    }
                    Piece::Data(data) => {
                        assert!(bytes[at..at + data.len()] == *data);
                        (at, read) = (at + data.len(), read + data.len());
                    }
                    Piece::Bad(len, why) => {
                        assert!(!why.is_empty());
                        bad.push((at, len as usize));
                        at += len as usize;
                    }
                }
                true
            })
            .unwrap();
        assert!(whole && at == bytes.len());
        (bad, read)
    };
    let (bad, read) = verify();
    assert_eq!((bad, read), (vec![], 19 * TILE));
    // All of it is in the caches now, and on disk one frame is not what it was.
    assert!(read_back(&store, &ledger, spaces, &prepared.root).unwrap() == bytes);
    let pack = ledger.rows().into_iter().find(|row| row.kind == BlobKind::Pack).unwrap();
    let file = path(folder.path(), &pack);
    let good = std::fs::read(&file).unwrap();
    let mut hurt = good.clone();
    hurt[good.len() / 3] ^= 4;
    std::fs::write(&file, hurt).unwrap();
    let (bad, read) = verify();
    let lost: usize = bad.iter().map(|(_, len)| len).sum();
    assert!(!bad.is_empty() && read + lost == 19 * TILE && lost < 512 << 10, "{bad:?}");
    std::fs::write(&file, good).unwrap();
    // A segment that is lost: all of its region.
    let segment = ledger.rows().into_iter().find(|row| row.kind == BlobKind::Segment).unwrap();
    std::fs::remove_file(path(folder.path(), &segment)).unwrap();
    assert_eq!(verify(), (vec![(0, bytes.len())], 0));
    let mut calls = 0;
    let all = store.content_verify(spaces, &prepared.root, &ledger, &mut |_| {
        calls += 1;
        false
    });
    assert_eq!((all.unwrap(), calls), (false, 1), "it stops when it is told to");
}

#[test]
fn two_contents_are_compared_by_their_segments() {
    let folder = folder();
    let ledger = MemoryLedger::new();
    let store = store(folder.path());
    let home = space("u-1");
    let spaces = std::slice::from_ref(&home);
    let one = image(&[1, 2, 3, 0, 0, 4, 5, 6]);
    let two = image(&[1, 2, 9, 8, 0, 0, 5, 6, 3]);
    let (a, _) = push(&store, &ledger, &home, "a", &one);
    let (b, _) = push(&store, &ledger, &home, "b", &two);
    let diff = |from: &Prepared, to: &Prepared, at, limit| {
        store.contents_diff((spaces, &from.root), (spaces, &to.root), (at, limit), &ledger, &|| false).unwrap()
    };
    let same = diff(&a, &a, 0, 10);
    let nothing = slipway_store::DiffBytes { moved: Some(0), fetch: Some(0), ..Default::default() };
    assert_eq!((same.ranges.len(), same.next, same.bytes), (0, None, Some(nothing)));
    let all = diff(&a, &b, 0, 1000);
    // The ranges cover exactly what differs, or a little more; never less.
    let mut covered = vec![false; two.len()];
    for range in &all.ranges {
        covered[range.offset as usize..][..range.len as usize].fill(true);
    }
    for at in 0..two.len() {
        let differs = one.get(at) != Some(&two[at]);
        assert!(covered[at] || !differs, "byte {at}");
    }
    assert!(!covered[..TILE].iter().any(|covered| *covered), "what is the same is left alone");
    let sums = all.bytes.unwrap();
    assert_eq!((sums.added, sums.cut_off, sums.to_hole, sums.from_hole), (TILE as u64, 0, TILE as u64, TILE as u64));
    assert!(sums.moved.unwrap() > 0 && sums.fetch.unwrap() > 0 && sums.moved.unwrap() < sums.chunks, "{sums:?}");
    // Page by page it is the same list.
    let (mut pages, mut at) = (Vec::new(), Some(0));
    while let Some(from) = at {
        let page = diff(&a, &b, from, 1);
        assert!(page.ranges.len() <= 1 && page.bytes.is_some() == (from == 0));
        pages.extend(page.ranges);
        at = page.next;
    }
    assert_eq!(pages, all.ranges);
    let back = diff(&b, &a, 0, 1000).bytes.unwrap();
    assert_eq!((back.added, back.cut_off), (0, TILE as u64));
    let stopped = store.contents_diff((spaces, &a.root), (spaces, &b.root), (0, 1), &ledger, &|| true);
    assert!(matches!(stopped, Err(StoreError::Stopped)));
}
