//! Push against a server in memory, and pull what was pushed.

#![allow(clippy::unwrap_used)]

#[path = "origin/images.rs"]
mod images;
#[allow(dead_code)]
mod origin;

use images::{changed, image};
use origin::{Origin, image_ref};
use slipway_api::{ImageNew, Outcome, VersionRef};
use slipway_chunk::{Digest, Stream};
use slipway_transfer::{
    Control, FlashOptions, PushOptions, Pushed, RemoteContent, Source, TransferError, pull_file, pull_stream, push,
};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};

fn options() -> PushOptions {
    PushOptions::new(image_ref())
}

fn bytes_source(bytes: &[u8]) -> Source {
    let bytes = Arc::new(bytes.to_vec());
    let size = bytes.len() as u64;
    Source::again("memory", Some(size), move || Ok(Box::new(Stream(std::io::Cursor::new(Shared(bytes.clone()))))))
}

#[derive(Clone)]
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

async fn push_bytes(origin: &Origin, bytes: &[u8]) -> Result<Pushed, TransferError> {
    push(&origin.client(), bytes_source(bytes), &options(), &Control::quiet()).await
}

async fn content(origin: &Origin, reference: &str) -> RemoteContent {
    let reference: VersionRef = reference.parse().unwrap();
    RemoteContent::open(&origin.client(), &reference).await.unwrap()
}

#[derive(Clone, Default)]
struct Out(Arc<Mutex<Vec<u8>>>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_is_pulled() {
    let origin = Origin::start().await;
    let folder = tempfile::tempdir().unwrap();
    for (version, (blocks, tail)) in [(3000, 0), (7001, 1234), (1, 0), (0, 77)].into_iter().enumerate() {
        let bytes = image(version as u64, blocks, tail);
        let path = folder.path().join("disk.raw");
        std::fs::write(&path, &bytes).unwrap();
        let mut options = options();
        options.digest = true;
        options.expect = Some(Digest::of(&bytes));
        let source = Source::path(&path).unwrap();
        let pushed = push(&origin.client(), source, &options, &Control::quiet()).await.unwrap();
        assert_eq!(pushed.committed.outcome, Outcome::Created);
        assert_eq!((pushed.size, pushed.digest, pushed.passes), (bytes.len() as u64, Some(Digest::of(&bytes)), 1));

        let content = content(&origin, &format!("me/os:{version}@{}", pushed.root)).await;
        let out = folder.path().join("out.raw");
        let pulled = pull_file(&content, &out, &FlashOptions::default(), &Control::quiet()).await.unwrap();
        assert!(std::fs::read(&out).unwrap() == bytes, "version {version} differs");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "a part was left behind");
        assert!(pulled.verified_bytes >= pushed.data_bytes && pulled.fetched_bytes > 0);
        // The guarded first MiB is written as a whole.
        let allocated = std::fs::metadata(&out).unwrap().blocks() * 512;
        assert!(
            allocated <= pushed.data_bytes + (1 << 20) + (64 << 10),
            "{allocated} of {} bytes of data",
            pushed.data_bytes
        );

        let out = Out::default();
        let streamed =
            pull_stream(&content, Box::new(out.clone()), "-", &FlashOptions::default(), &Control::quiet()).await;
        assert_eq!(streamed.unwrap().size, bytes.len() as u64);
        assert!(*out.0.lock().unwrap() == bytes, "the stream of version {version} differs");
    }
    assert_eq!(origin.kept().tokens_at_blobs, 0, "the token went to a blob's address");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_new_is_sent() {
    let origin = Origin::start().await;
    let first = image(1, 8000, 0);
    let one = push_bytes(&origin, &first).await.unwrap();
    assert_eq!(one.sent_bytes, origin.kept().frames_bytes);
    let same = push_bytes(&origin, &first).await.unwrap();
    assert_eq!(same.committed.outcome, Outcome::Unchanged);
    assert_eq!((same.sent_bytes, same.sent_chunks, same.root), (0, 0, one.root));
    assert_eq!(same.shared_bytes, same.data_bytes);

    let mut second = first.clone();
    second[4096 * 5000..4096 * 5004].fill(7);
    second.copy_within(0..4096 * 400, 4096 * 6000);
    let two = push_bytes(&origin, &second).await.unwrap();
    assert_eq!(two.committed.outcome, Outcome::Created);
    assert!(two.sent_bytes > 0 && two.sent_bytes < 400 << 10, "{} bytes were sent", two.sent_bytes);
    assert_eq!(origin.kept().versions.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_chunks_are_sent_again() {
    let origin = Origin::start().await;
    let bytes = image(3, 2000, 0);
    origin.kept().lose = 2;
    let pushed = push_bytes(&origin, &bytes).await.unwrap();
    assert_eq!(pushed.passes, 3);
    assert_eq!(origin.kept().versions.len(), 1);
    origin.kept().lose = 9;
    let mut other = bytes.clone();
    other[..4096].fill(9);
    let why = push_bytes(&origin, &other).await.unwrap_err();
    assert_eq!(why.exit_code(), 5, "{why}");

    origin.kept().lose = 1;
    other[..4096].fill(8);
    let once = Source::once("standard input", None, Box::new(Stream(std::io::Cursor::new(other))));
    let why = push(&origin.client(), once, &options(), &Control::quiet()).await.unwrap_err();
    assert!(why.to_string().contains("run it again") && why.to_string().contains("standard input"), "{why}");
    assert_eq!(origin.kept().versions.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_change_are_refused() {
    let origin = Origin::start().await;
    let bytes = image(4, 500, 0);
    let mut reads = 0;
    let source = Source::again("disk", Some(bytes.len() as u64), move || {
        reads += 1;
        let mut bytes = bytes.clone();
        bytes[0] = reads;
        Ok(Box::new(Stream(std::io::Cursor::new(bytes))))
    });
    origin.kept().lose = 1;
    let why = push(&origin.client(), source, &options(), &Control::quiet()).await.unwrap_err();
    assert!(matches!(why, TransferError::Changed { .. }), "{why}");
    let short = Source::once("disk", Some(10_000), Box::new(Stream(std::io::Cursor::new(vec![1; 9_000]))));
    let why = push(&origin.client(), short, &options(), &Control::quiet()).await.unwrap_err();
    assert!(matches!(why, TransferError::Changed { .. }), "{why}");
    let empty = Source::once("disk", None, Box::new(Stream(std::io::empty())));
    let why = push(&origin.client(), empty, &options(), &Control::quiet()).await.unwrap_err();
    assert_eq!(why.to_string(), "cutting disk");
    let mut wrong = options();
    wrong.expect = Some(Digest::of(b"something else"));
    let why = push(&origin.client(), bytes_source(&[1; 5000]), &wrong, &Control::quiet()).await.unwrap_err();
    assert_eq!(why.exit_code(), 7, "{why}");
    assert!(origin.kept().versions.is_empty(), "something was committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_made_and_busy_servers_asked_again() {
    let origin = Origin::start().await;
    origin.kept().image = false;
    let bytes = image(5, 100, 0);
    let why = push_bytes(&origin, &bytes).await.unwrap_err();
    assert_eq!(why.exit_code(), 3, "{why}");
    let mut create = options();
    create.create = Some(ImageNew { reference: "me/os".into(), ..ImageNew::default() });
    origin.kept().refuse_frames = 2;
    let pushed = push(&origin.client(), bytes_source(&bytes), &create, &Control::quiet()).await.unwrap();
    assert!(pushed.image_created && origin.kept().images_made == 1);
    assert_eq!(origin.kept().refuse_frames, 0);

    let control = Control::quiet();
    control.cancel.cancel();
    let why = push(&origin.client(), bytes_source(&bytes), &create, &control).await.unwrap_err();
    assert_eq!(why.exit_code(), 130);
    let gone = slipway_api::Client::new(&slipway_api::ClientConfig::new("http://127.0.0.1:9")).unwrap();
    let why = push(&gone, bytes_source(&bytes), &create, &Control::quiet()).await.unwrap_err();
    assert_eq!(why.exit_code(), 9);
    assert!(why.to_string().contains("127.0.0.1:9"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_fails_leaves_what_was_there() {
    let origin = Origin::start().await;
    push_bytes(&origin, &changed(2, &image(6, 1500, 0))).await.unwrap();
    let content = content(&origin, "me/os").await;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.raw");
    std::fs::write(&out, b"precious").unwrap();
    origin.kept().always = Some(origin::Fault::Flip);
    let why = pull_file(&content, &out, &FlashOptions::default(), &Control::quiet()).await.unwrap_err();
    assert!(matches!(why, TransferError::BadChunk { .. }), "{why}");
    assert!(!origin.kept().findings.is_empty());
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a part was left behind");
    let why = pull_file(&content, folder.path(), &FlashOptions::default(), &Control::quiet()).await.unwrap_err();
    assert!(matches!(why, TransferError::Io { .. }), "{why}");
}
