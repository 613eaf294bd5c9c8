use super::each;
use slipway_chunk::Digest;
use slipway_store::{BlobId, BlobKind, BlobRow, BlobState, Ledger, LedgerError, MemoryLedger, NewBlob, SpaceId};
use std::collections::BTreeMap;

/// Small numbers from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// State, rev, length, digest, whether doomed, space and name.
type Row = (BlobState, i64, u64, Option<Digest>, bool, SpaceId, String);
type Facts = BTreeMap<BlobId, Row>;

/// What both must agree on; times are the ledgers' own.
fn facts(rows: Vec<BlobRow>) -> Facts {
    rows.into_iter()
        .map(|row| (row.id, (row.state, row.rev, row.len, row.digest, row.doomed_at.is_some(), row.space, row.name)))
        .collect()
}

fn said<T: std::fmt::Debug>(answer: Result<T, LedgerError>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(LedgerError::Gone(id)) => format!("gone {id}"),
        Err(error) => panic!("{error}"),
    }
}

fn compare(sql: &dyn Ledger, memory: &dyn Ledger, seed: u64) {
    let mut dice = Dice(seed);
    let spaces: Vec<SpaceId> = ["u-1", "s-2", "public"].iter().map(|text| SpaceId::new(text).unwrap()).collect();
    let mut ids: Vec<BlobId> = vec![BlobId::random()];
    for step in 0..150 {
        let id = ids[dice.roll(ids.len() as u64) as usize];
        let (name, digest) = (format!("{:064x}", dice.roll(4)), Digest::of(&step.to_string().into_bytes()));
        let ask = |ledger: &dyn Ledger, act: u64, fresh: BlobId, pick: usize| match act {
            0 | 1 => {
                let kind = BlobKind::ALL[pick];
                let key = format!("{}/{fresh}", kind.as_str());
                let new =
                    NewBlob { id: fresh, space: spaces[pick].clone(), kind, name: name.clone(), key, upload: None };
                said(ledger.blob_stage(&new))
            }
            2 | 3 => said(ledger.blob_live(&id, 100 + step, 90, &digest)),
            4 => said(ledger.blob_forget(&id)),
            5 => said(ledger.blob_doom(&id, pick as i64 / 2)),
            6 => said(ledger.blob_revive(&id)),
            7 => said(ledger.blob_gone(&id)),
            8 => said(ledger.blob_quarantine(&id)),
            9 => said(ledger.blob_restore(&id)),
            _ => {
                let found = ledger.blob_find(&spaces[..=pick], BlobKind::ALL[pick], &name);
                said(found.map(|row| row.map(|row| row.state)))
            }
        };
        let (act, fresh, pick) = (dice.roll(11), BlobId::random(), dice.roll(3) as usize);
        assert_eq!(ask(sql, act, fresh, pick), ask(memory, act, fresh, pick), "seed {seed}, step {step}, act {act}");
        if act < 2 {
            ids.push(fresh);
        }
    }
    let all = |ledger: &dyn Ledger| facts(ledger.blobs_in(&BlobState::ALL).unwrap());
    let (ours, theirs) = (all(sql), all(memory));
    assert!(ours.len() > 10);
    // The counters are each ledger's own; only their order counts, and that nothing is missed.
    let order = |rows: &Facts| {
        let mut order: Vec<_> = rows.iter().map(|(id, row)| (row.1, *id)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, id)| id).collect::<Vec<_>>()
    };
    assert_eq!(order(&ours), order(&theirs));
    for (id, row) in &ours {
        let other = &theirs[id];
        assert_eq!(
            (row.0, row.2, row.3, row.4, &row.5, &row.6),
            (other.0, other.2, other.3, other.4, &other.5, &other.6)
        );
    }
    let revs: Vec<i64> = sql.packs_since(0, 1000).unwrap().iter().map(|row| row.rev).collect();
    assert!(revs.is_sorted() && !revs.is_empty());
    let later = sql.packs_since(revs[revs.len() / 2], 1000).unwrap();
    assert_eq!(later.len(), revs.len() - revs.len() / 2 - 1);
    let first: Vec<i64> = sql.packs_since(0, 2).unwrap().iter().map(|row| row.rev).collect();
    assert_eq!(first, revs[..2]);
    for states in [&BlobState::ALL[..], &[BlobState::Live]] {
        let (mut after, mut paged) = (None, Vec::new());
        loop {
            let page: Vec<_> = sql.blobs_page(states, after.as_ref(), 3).unwrap().iter().map(|row| row.id).collect();
            let theirs = memory.blobs_page(states, after.as_ref(), 3).unwrap();
            assert_eq!(page, theirs.iter().map(|row| row.id).collect::<Vec<_>>());
            let Some(last) = page.last() else { break };
            after = Some(*last);
            paged.extend(page);
        }
        let all: Vec<_> = ours.iter().filter(|(_, row)| states.contains(&row.0)).map(|(id, _)| *id).collect();
        assert_eq!(paged, all);
    }
}

/// The rows in SQL do what the rows in memory do, on which the store's own tests stand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rows_in_sql_do_what_the_rows_in_memory_do() {
    each(async |bench| {
        let ledger = bench.core.ledger();
        tokio::task::spawn_blocking(move || compare(&ledger, &MemoryLedger::new(), 7)).await.unwrap();
    })
    .await;
}
