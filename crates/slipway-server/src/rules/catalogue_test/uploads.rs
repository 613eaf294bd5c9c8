use super::commit::stored;
use super::{
    Bench, bytes_of, count, each, image_add, image_ref, meddle, number, pull, push, refused, upload_new, work,
};
use crate::core::Caller;
use crate::db::{Db, DbUrl, SqlFaults, sql};
use crate::rules::image::{image_trash, sharing_change};
use crate::rules::upload::{
    CommitAnswer, Cut, FillChecks, upload_commit, upload_commit_chunks, upload_commit_stream, upload_create,
    upload_end, upload_fill, upload_get, upload_offset_set, upload_target,
};
use crate::rules::version::version_get;
use slipway_api::{Code, Problem, SharingChange, UploadFormat, UploadNew, UploadState, VersionPick};
use slipway_chunk::Digest;
use slipway_format::{Format, Said};
use std::io::{self, Cursor, Read};
use std::time::Duration;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_are_begun_or_refused() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "jan/os").await;
        image_add(core, &bench.jan, "jan/old").await;
        image_trash(core, &bench.jan, &image_ref("jan/old"), None).await.unwrap();
        let new = |image| upload_new(image, UploadFormat::Raw);
        for (who, new, code) in [
            (&bench.jan, new("me/os"), None),
            (&bench.admin, new("jan/os"), None),
            (&bench.eva, new("jan/os"), Some(Code::NotFound)),
            (&Caller::nobody(), new("jan/os"), Some(Code::Unauthenticated)),
            (&bench.jan, new("jan/none"), Some(Code::NotFound)),
            (&bench.jan, new("jan/old"), Some(Code::Conflict)),
            (&bench.jan, new("os"), Some(Code::InvalidName)),
            (&bench.jan, UploadNew { size: Some(0), ..new("jan/os") }, Some(Code::BadImage)),
            (&bench.jan, UploadNew { size: Some(1 << 60), ..new("jan/os") }, Some(Code::TooLarge)),
            (&bench.jan, UploadNew { sector_size: Some(520), ..new("jan/os") }, Some(Code::InvalidRequest)),
            (&bench.jan, UploadNew { parent: Some(3), ..new("jan/os") }, Some(Code::NotFound)),
            (&bench.jan, UploadNew { message: "a\u{202e}".into(), ..new("jan/os") }, Some(Code::InvalidRequest)),
        ] {
            let shown = format!("{new:?}");
            let got = upload_create(core, who, new).await;
            assert_eq!(got.as_ref().err().map(|problem| problem.code), code, "{shown}: {got:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_lives_by_its_lease_and_ends_for_good() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "jan/os").await;
        let upload = upload_create(core, &bench.jan, upload_new("jan/os", UploadFormat::Raw)).await.unwrap();
        refused(upload_get(core, &bench.eva, &upload.id).await, Code::NotFound);
        refused(upload_get(core, &bench.jan, &Uuid::new_v4()).await, Code::NotFound);
        assert_eq!(upload_offset_set(core, &bench.jan, &upload.id, 0, 10).await.unwrap().offset, 10);
        let problem = refused(upload_offset_set(core, &bench.jan, &upload.id, 0, 20).await, Code::OffsetMismatch);
        assert_eq!(problem.offset, Some(10));
        // Use renews the lease.
        meddle(core, sql("UPDATE upload SET lease_until = lease_until - 80000000")).await;
        let short = upload_get(core, &bench.jan, &upload.id).await.unwrap().lease_until;
        let target = upload_target(core, &bench.jan, &upload.id).await.unwrap();
        assert_eq!((target.received, target.lookup.len()), (10, 2));
        assert!(upload_get(core, &bench.jan, &upload.id).await.unwrap().lease_until > short);
        // Without use it ends, and its spool file goes.
        std::fs::create_dir_all(core.spool_dir()).unwrap();
        std::fs::write(&target.spool, b"0123456789").unwrap();
        std::fs::write(core.spool_dir().join("notes.txt"), b"not an upload's").unwrap();
        work(core).await;
        assert!(target.spool.exists());
        meddle(core, sql("UPDATE upload SET lease_until = lease_until - 100000000")).await;
        work(core).await;
        assert!(!target.spool.exists() && core.spool_dir().join("notes.txt").exists());
        assert_eq!(upload_get(core, &bench.jan, &upload.id).await.unwrap().state, UploadState::Ended);
        refused(upload_target(core, &bench.jan, &upload.id).await, Code::Gone);
        refused(upload_offset_set(core, &bench.jan, &upload.id, 10, 20).await, Code::Gone);
        refused(upload_commit_stream(core, &bench.jan, &upload.id, Duration::ZERO).await.map(|_| ()), Code::Gone);
        let other = upload_create(core, &bench.jan, upload_new("jan/os", UploadFormat::Chunks)).await.unwrap();
        upload_end(core, &bench.jan, &other.id).await.unwrap();
        upload_end(core, &bench.jan, &other.id).await.unwrap();
        refused(upload_commit_chunks(core, &bench.jan, &other.id, vec![1]).await, Code::Gone);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_cannot_hold_is_refused_and_can_be_asked_again() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "jan/os").await;
        // Pruned between sending and committing.
        let (upload, prepared) = stored(&bench, &bench.jan, "jan/os", bytes_of(1, 4)).await;
        meddle(core, sql("UPDATE blob SET state = 'doomed' WHERE kind = 'pack'")).await;
        refused(upload_commit(core, &bench.jan, &upload, &prepared).await, Code::ChunksGone);
        meddle(core, sql("UPDATE blob SET state = 'live'")).await;
        assert_eq!(upload_commit(core, &bench.jan, &upload, &prepared).await.unwrap().version.number, 0);
        // The readers changed meanwhile.
        let (upload, prepared) = stored(&bench, &bench.jan, "jan/os", bytes_of(2, 4)).await;
        let share = SharingChange { add: vec!["eva".parse().unwrap()], ..SharingChange::default() };
        sharing_change(core, &bench.jan, &image_ref("jan/os"), share, None).await.unwrap();
        work(core).await;
        refused(upload_commit(core, &bench.jan, &upload, &prepared).await, Code::SpaceChanged);
        // No manifest at all.
        let upload = upload_create(core, &bench.jan, upload_new("jan/os", UploadFormat::Chunks)).await.unwrap();
        refused(upload_commit_chunks(core, &bench.jan, &upload.id, b"no manifest".to_vec()).await, Code::BadImage);
        assert_eq!(upload_get(core, &bench.jan, &upload.id).await.unwrap().state, UploadState::Open);
        refused(
            upload_commit_stream(core, &bench.jan, &upload.id, Duration::ZERO).await.map(|_| ()),
            Code::InvalidRequest,
        );
    })
    .await;
}

struct CutOff(usize);

impl Read for CutOff {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the body ended early"));
        }
        let len = buf.len().min(self.0);
        buf[..len].fill(7);
        self.0 -= len;
        Ok(len)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_body_makes_nothing() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "jan/os").await;
        let new = || upload_new("jan/os", UploadFormat::Raw);
        let bytes = bytes_of(1, 8);
        let gzip = |bytes: &[u8]| {
            let mut child = std::process::Command::new("gzip")
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            let input = bytes.to_vec();
            let feeder = std::thread::spawn(move || io::Write::write_all(&mut stdin, &input).unwrap());
            let packed = child.wait_with_output().unwrap().stdout;
            feeder.join().unwrap();
            packed
        };
        let packed = gzip(&bytes);
        let right = Digest::of(&bytes);
        let wrong = Digest::of(b"something else");
        let source = |bytes: &[u8]| -> Box<dyn Read + Send> { Box::new(Cursor::new(bytes.to_vec())) };
        let none = FillChecks::default;
        for (name, source, new, checks, code) in [
            ("empty", source(b""), new(), none(), Some(Code::BadImage)),
            ("cut off", Box::new(CutOff(100_000)) as Box<dyn Read + Send>, new(), none(), Some(Code::BadImage)),
            ("truncated gzip", source(&packed[..packed.len() / 2]), new(), none(), Some(Code::BadImage)),
            ("other size", source(&bytes), UploadNew { size: Some(4096), ..new() }, none(), Some(Code::BadImage)),
            (
                "other claim",
                source(&bytes),
                UploadNew { digest: Some(wrong), ..new() },
                none(),
                Some(Code::DigestMismatch),
            ),
            (
                "other digest",
                source(&bytes),
                new(),
                FillChecks { digest: Some(wrong), ..FillChecks::default() },
                Some(Code::DigestMismatch),
            ),
            ("gzip", source(&packed), new(), FillChecks { digest: Some(right), ..FillChecks::default() }, None),
        ] {
            let got = upload_fill(core, &bench.jan, new, Said::Auto, source, checks, Cut::default()).await;
            assert_eq!(got.as_ref().err().map(|problem| problem.code), code, "{name}: {got:?}");
        }
        let shown = version_get(core, &bench.jan, &image_ref("jan/os"), &VersionPick::Latest).await.unwrap();
        assert_eq!((shown.number, shown.source_format.as_str(), shown.digest), (0, "raw.gz", Some(right)));
        assert_eq!(pull(core, &bench.jan, "jan/os", number(0)).await.unwrap(), bytes);
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM upload WHERE state IN ('open', 'committing')").await, 0);
    })
    .await;
}

/// Bytes without end, as fast as they are wanted after the first were.
struct Endless {
    gate: Option<std::sync::mpsc::Receiver<()>>,
    left: Option<usize>,
    at: u64,
}

impl Read for Endless {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if let Some(gate) = self.gate.take() {
            let _ = gate.recv();
        }
        let len = self.left.map_or(buf.len(), |left| left.min(buf.len()));
        self.left = self.left.map(|left| left - len);
        self.at += 1;
        buf[..len].fill((self.at % 251) as u8 + 1);
        Ok(len)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_upload_is_held_and_an_ended_one_is_cut() {
    each(async |bench| {
        let mut config = bench.core.config.clone();
        config.upload_lease = Duration::from_millis(800);
        let core = crate::core::Core::new(bench.core.db.clone(), bench.core.store.clone(), config);
        image_add(&core, &bench.jan, "jan/os").await;
        let fill = |gate, left, cut: &Cut| {
            let (core, who, cut) = (core.clone(), bench.jan.clone(), cut.clone());
            let source = Box::new(Endless { gate, left, at: 0 });
            let new = upload_new("jan/os", UploadFormat::Raw);
            tokio::spawn(async move {
                upload_fill(&core, &who, new, Said::Disk(Format::Raw), source, FillChecks::default(), cut).await
            })
        };
        let began = async || {
            while count(&core, "SELECT COUNT(*) AS n FROM upload WHERE state = 'committing'").await == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // Slower than its lease, and all the while looked at by who ends what is over.
        let (open, gate) = std::sync::mpsc::channel();
        let slow = fill(Some(gate), Some(1 << 20), &Cut::default());
        began().await;
        meddle(&core, sql("UPDATE upload SET commit_until = 1")).await;
        for _ in 0..12 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            crate::workers::expire::expire(&core).await.unwrap();
        }
        open.send(()).unwrap();
        assert_eq!(slow.await.unwrap().unwrap().version.number, 0);
        // One that never ends by itself, and its upload is ended.
        let ended = fill(None, None, &Cut::default());
        began().await;
        meddle(&core, sql("UPDATE upload SET state = 'ended' WHERE state = 'committing'")).await;
        let wait = Duration::from_secs(20);
        refused(tokio::time::timeout(wait, ended).await.unwrap().unwrap(), Code::Gone);
        // One whose client hangs up.
        let cut = Cut::default();
        let left = fill(None, None, &cut);
        began().await;
        cut.cut(Problem::new(Code::InvalidRequest, "reading the request body: it was cut off"));
        refused(tokio::time::timeout(wait, left).await.unwrap().unwrap(), Code::InvalidRequest);
        assert_eq!(count(&core, "SELECT COUNT(*) AS n FROM upload WHERE state IN ('open', 'committing')").await, 0);
    })
    .await;
}

async fn spooled(bench: &Bench, format: UploadFormat, bytes: &[u8]) -> Uuid {
    let upload = upload_create(&bench.core, &bench.jan, upload_new("jan/os", format)).await.unwrap();
    std::fs::create_dir_all(bench.core.spool_dir()).unwrap();
    // More than was answered as durable lies in the file; it does not count.
    std::fs::write(bench.core.spool_path(&upload.id), [bytes, b"left over"].concat()).unwrap();
    upload_offset_set(&bench.core, &bench.jan, &upload.id, 0, bytes.len() as u64).await.unwrap();
    upload.id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spooled_upload_is_cut_by_a_task() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "jan/os").await;
        let bytes = bytes_of(1, 40);
        let upload = spooled(&bench, UploadFormat::Raw, &bytes).await;
        let CommitAnswer::Running(task) =
            upload_commit_stream(core, &bench.jan, &upload, Duration::ZERO).await.unwrap()
        else {
            panic!("nobody has worked yet");
        };
        assert_eq!(upload_get(core, &bench.jan, &upload).await.unwrap().state, UploadState::Committing);
        refused(upload_offset_set(core, &bench.jan, &upload, 0, 1).await, Code::Conflict);
        let begun = crate::rules::upload::upload_commit_begin(core, &bench.jan, &upload).await.unwrap();
        assert!(matches!(begun, crate::rules::upload::CommitBegin::Busy(_)), "a task has it: {begun:?}");
        // The server dies in the middle: the task is begun again.
        crate::rules::task::task_claim(core, task.kind).await.unwrap().unwrap();
        assert!(crate::rules::task::task_claim(core, task.kind).await.unwrap().is_none());
        meddle(core, sql("UPDATE task SET lease_until = lease_until - 100000")).await;
        work(core).await;
        for _ in 0..2 {
            let CommitAnswer::Committed(done) =
                upload_commit_stream(core, &bench.jan, &upload, Duration::ZERO).await.unwrap()
            else {
                panic!("the workers have run");
            };
            assert_eq!((done.version.number, done.version.created_by.as_str()), (0, "jan"));
        }
        assert_eq!(pull(core, &bench.jan, "jan/os", number(0)).await.unwrap(), bytes);
        assert!(!core.spool_path(&upload).exists());
        // What is no gzip stream fails and leaves the upload open.
        let upload = spooled(&bench, UploadFormat::Gzip, &bytes).await;
        assert!(matches!(
            upload_commit_stream(core, &bench.jan, &upload, Duration::ZERO).await,
            Ok(CommitAnswer::Running(_))
        ));
        work(core).await;
        assert_eq!(upload_get(core, &bench.jan, &upload).await.unwrap().state, UploadState::Open);
        let failed = crate::rules::task::task_list(core, &bench.jan, &slipway_api::PageQuery::default()).await.unwrap();
        let failed = failed.items.iter().find(|task| task.error.is_some()).unwrap();
        assert_eq!(failed.error.as_ref().unwrap().code, Code::BadImage);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_after_a_crash_puts_right_what_was_left() {
    each(async |bench| {
        let core = &bench.core;
        image_add(core, &bench.jan, "jan/os").await;
        let (upload, prepared) = stored(&bench, &bench.jan, "jan/os", bytes_of(1, 4)).await;
        crate::rules::upload::upload_commit_begin(core, &bench.jan, &upload).await.unwrap();
        core.recover().await.unwrap();
        let state = upload_get(core, &bench.jan, &upload).await.unwrap().state;
        let sqlite = core.db.dialect() == crate::db::Dialect::Sqlite;
        assert_eq!(state, if sqlite { UploadState::Open } else { UploadState::Committing });
        assert_eq!(upload_commit(core, &bench.jan, &upload, &prepared).await.unwrap().version.number, 0);
        push(core, &bench.jan, "jan/os", bytes_of(2, 4)).await;
        if sqlite {
            let url = DbUrl::Sqlite(bench.folder.path().join("slipway.db"));
            let Err(error) = Db::open(&url, SqlFaults::none()).await else { panic!("a second server was let in") };
            assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        }
    })
    .await;
}
