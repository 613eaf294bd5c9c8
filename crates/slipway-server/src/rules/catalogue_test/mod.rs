//! Tests of images, versions, uploads, tasks and workers, on SQLite and, if `SLIPWAY_TEST_POSTGRES` names a server, on a fresh PostgreSQL
//! database each.

mod commit;
mod ending;
mod images;
mod ledger;
mod pruning;
mod quota;
mod replaced;
mod retention;
mod rollback;
mod scrub;
mod sharing;
mod tasks;
mod uploads;
mod versions;

use crate::core::{Caller, CallerUser, Core, CoreConfig};
use crate::db::{Db, DbUrl, End, Sql, SqlFaults, sql};
use crate::rules::image::image_create;
use crate::rules::test_database::postgres_fresh;
use crate::rules::upload::{Cut, FillChecks, upload_fill};
use crate::rules::user::user_create;
use crate::rules::version::version_content;
use crate::scope::Scopes;
use crate::workers::{Stop, workers};
use slipway_api::{
    Code, Committed, Image, ImageNew, ImageRef, Problem, Role, UploadFormat, UploadNew, UserNew, VersionPick,
};
use slipway_store::{Blobs, Faults, Store, StoreConfig};
use std::io::{Cursor, Read};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use uuid::Uuid;

/// Changes the configuration of a bench before anything runs on it.
fn configured(bench: &mut Bench, change: impl FnOnce(&mut CoreConfig)) {
    let core = Arc::get_mut(&mut bench.core).expect("nothing else has the core yet");
    change(&mut core.config);
}

/// A core of its own, three users, and the folder it lives in.
pub(crate) struct Bench {
    core: Arc<Core>,
    faults: SqlFaults,
    folder: TempDir,
    jan: Caller,
    eva: Caller,
    admin: Caller,
}

async fn bench(url: Option<String>) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let url = match url {
        Some(url) => DbUrl::Postgres(url),
        None => DbUrl::Sqlite(folder.path().join("slipway.db")),
    };
    let faults = SqlFaults::armable();
    let db = Db::open(&url, faults.clone()).await.unwrap();
    let blobs = Blobs::local(&folder.path().join("blobs"), Faults::none()).unwrap();
    let store =
        Store::open(blobs, StoreConfig { pack_len: 1 << 20, ..StoreConfig::default() }, Faults::none()).unwrap();
    let mut config = CoreConfig::new(folder.path());
    config.doom_grace = Duration::ZERO;
    config.quota.stored_bytes = Some(64 << 20);
    let core = Core::new(db, store, config);
    let jan = user_add(&core, "jan", Role::User).await;
    let eva = user_add(&core, "eva", Role::User).await;
    let admin = user_add(&core, "root", Role::Admin).await;
    Bench { core, faults, folder, jan, eva, admin }
}

async fn user_add(core: &Core, name: &str, role: Role) -> Caller {
    let new = UserNew {
        name: name.parse().unwrap(),
        full_name: String::new(),
        email: None,
        role: Some(role),
        password: None,
    };
    user_create(core, &Caller::server(), new).await.unwrap();
    let mut tx = core.db.read().await.unwrap();
    let id = crate::rules::owner::owner_find(&mut tx, name).await.unwrap().unwrap().id;
    Caller::user(CallerUser { id, name: name.to_owned(), role }, Some(Uuid::new_v4()), Scopes::all())
}

/// Runs a test on each database.
async fn each(test: impl AsyncFn(Bench)) {
    test(bench(None).await).await;
    if let Some(url) = postgres_fresh("catalogue").await {
        let bench = bench(Some(url)).await;
        let db = bench.core.db.clone();
        test(bench).await;
        db.close().await;
    }
}

fn image_ref(text: &str) -> ImageRef {
    text.parse().unwrap()
}

fn number(number: u64) -> VersionPick {
    VersionPick::Number(number)
}

fn image_new(reference: &str) -> ImageNew {
    ImageNew { reference: reference.to_owned(), ..ImageNew::default() }
}

fn upload_new(image: &str, format: UploadFormat) -> UploadNew {
    UploadNew {
        image: image.to_owned(),
        format,
        parent: None,
        size: None,
        sector_size: None,
        message: String::new(),
        new: false,
        source_format: None,
        digest: None,
    }
}

async fn image_add(core: &Core, who: &Caller, reference: &str) -> Image {
    image_create(core, who, image_new(reference)).await.unwrap()
}

/// `blocks` blocks of 4 KiB that no other seed has, hard to compress.
fn bytes_of(seed: u64, blocks: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(blocks * 4096);
    while out.len() < blocks * 4096 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out
}

async fn push_new(core: &Arc<Core>, who: &Caller, new: UploadNew, bytes: Vec<u8>) -> Result<Committed, Problem> {
    upload_fill(
        core,
        who,
        new,
        slipway_format::Said::Auto,
        Box::new(Cursor::new(bytes)),
        FillChecks::default(),
        Cut::default(),
    )
    .await
}

async fn push(core: &Arc<Core>, who: &Caller, image: &str, bytes: Vec<u8>) -> Committed {
    push_new(core, who, upload_new(image, UploadFormat::Raw), bytes).await.unwrap()
}

/// Reads a version back as the caller may.
async fn pull(core: &Arc<Core>, who: &Caller, image: &str, pick: VersionPick) -> Result<Vec<u8>, Problem> {
    let content = version_content(core, who, &image_ref(image), &pick).await?;
    let (store, ledger) = (core.store.clone(), core.ledger());
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        let mut reader = store.content_open(&content.spaces, &content.version.root, &ledger).unwrap();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    });
    Ok(read.await.unwrap())
}

#[track_caller]
fn refused<T>(result: Result<T, Problem>, code: Code) -> Problem {
    match result {
        Ok(_) => panic!("was done, {code:?} was expected"),
        Err(problem) => {
            assert_eq!(problem.code, code, "{problem:?}");
            problem
        }
    }
}

async fn count(core: &Core, text: &'static str) -> i64 {
    core.db.read().await.unwrap().row_must(sql(text)).await.unwrap().int("n").unwrap()
}

/// Changes rows behind the rules' back.
async fn meddle(core: &Core, statement: Sql) {
    let mut tx = core.db.begin(&Caller::server()).await.unwrap();
    tx.run(statement).await.unwrap();
    let mut attempt = 0;
    assert!(matches!(tx.end(Ok(()), &mut attempt).await, End::Done(Ok(()))));
}

/// Lets eight days pass for the trash.
async fn trash_age(core: &Core) {
    meddle(core, sql("UPDATE version SET trashed_at = trashed_at - 691200000")).await;
    meddle(core, sql("UPDATE image SET trashed_at = trashed_at - 691200000")).await;
}

/// Runs all workers until none has anything to do.
async fn work(core: &Arc<Core>) {
    let stop = Stop::never();
    loop {
        let mut more = false;
        for worker in workers() {
            more |= worker.pass(core, &stop).await.unwrap();
        }
        if !more {
            return;
        }
    }
}

async fn verbs(core: &Core) -> Vec<String> {
    let mut tx = core.db.read().await.unwrap();
    let rows = tx.rows(sql("SELECT verb FROM journal ORDER BY number")).await.unwrap();
    rows.iter().map(|row| row.text("verb").unwrap()).collect()
}

/// One pass of each worker, whose future must be fit for any thread.
async fn work_once(core: &Arc<Core>) {
    let stop = Stop::never();
    for worker in workers() {
        worker.pass(core, &stop).await.unwrap();
    }
}
