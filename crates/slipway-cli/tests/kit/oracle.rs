//! What was acknowledged, remembered outside of the server: the truth that it is held against.

use super::client::{Client, Running, Said};
use super::text;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// A version that a push said was kept.
#[derive(Clone)]
pub struct Ack {
    pub image: String,
    pub number: u64,
    pub root: String,
    pub bytes: Arc<Vec<u8>>,
}

#[derive(Default)]
struct Book {
    acks: BTreeMap<(String, u64), Ack>,
    given_up: BTreeSet<(String, u64)>,
}

/// The acknowledged versions.
#[derive(Clone, Default)]
pub struct Oracle(Arc<Mutex<Book>>);

/// What was found when everything was read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Read {
    /// Acknowledged versions that came back byte for byte.
    pub acknowledged: usize,
    /// Versions that are listed; all of them were read in full.
    pub listed: usize,
}

impl Oracle {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Writes down what a push said, if it ended with success.
    pub fn record(&self, image: &str, bytes: &Arc<Vec<u8>>, said: &Said) -> Option<Ack> {
        if said.code != Some(0) {
            return None;
        }
        let (number, root) = pushed(&said.json());
        let ack = Ack { image: image.to_owned(), number, root, bytes: bytes.clone() };
        let before = self.book().acks.insert((full(image), number), ack.clone());
        if let Some(before) = before {
            assert_eq!(before.root, ack.root, "{image}:{number} was acknowledged twice with different bytes");
        }
        Some(ack)
    }

    /// Remembers something else than what was said.
    pub fn replace(&self, ack: &Ack) {
        self.book().acks.insert((full(&ack.image), ack.number), ack.clone());
    }

    /// Deleting it was asked for: it may be gone from now on.
    pub fn give_up(&self, image: &str, number: u64) {
        self.book().given_up.insert((full(image), number));
    }

    /// The same knowledge, for a copy of the server that goes its own way.
    pub fn copy(&self) -> Self {
        let book = self.book();
        Self(Arc::new(Mutex::new(Book { acks: book.acks.clone(), given_up: book.given_up.clone() })))
    }

    /// Every version that must be there.
    pub fn standing(&self) -> Vec<Ack> {
        let book = self.book();
        let gone = |ack: &Ack| book.given_up.contains(&(full(&ack.image), ack.number));
        book.acks.values().filter(|ack| !gone(ack)).cloned().collect()
    }

    /// Pushes bytes and writes down the answer; the push must succeed.
    #[track_caller]
    pub fn push(&self, client: &Client, folder: &Path, image: &str, bytes: Vec<u8>) -> Ack {
        let bytes = Arc::new(bytes);
        let said = push_begin(client, folder, image, &bytes).finish();
        said.expect(0);
        self.record(image, &bytes, &said).expect("it ended with success")
    }

    /// Reads every version that is listed, in full. Each standing acknowledged one must be among them and be what was pushed.
    #[track_caller]
    pub fn everything_reads(&self, client: &Client, folder: &Path) -> Read {
        let mut read = Read::default();
        let mut unseen: BTreeMap<_, _> =
            self.standing().into_iter().map(|ack| ((full(&ack.image), ack.number), ack)).collect();
        for (image, version) in versions_listed(client) {
            let number = version["number"].as_u64().expect("a version has a number");
            let pulled = pull(client, folder, &image, number);
            assert_eq!(pulled.len() as u64, version["size"].as_u64().unwrap_or(0), "the size of {image}:{number}");
            if let Some(digest) = version["digest"].as_str() {
                assert_eq!(blake3::hash(&pulled).to_hex().as_str(), digest, "the digest of {image}:{number}");
            }
            read.listed += 1;
            let key = (image.clone(), number);
            unseen.remove(&key);
            if let Some(ack) = self.book().acks.get(&key) {
                assert!(pulled == *ack.bytes, "{image}:{number} is not what was pushed");
                assert_eq!(version["root"].as_str(), Some(ack.root.as_str()), "the root of {image}:{number}");
                read.acknowledged += 1;
            }
        }
        let lost: Vec<_> = unseen.keys().map(|(image, number)| format!("{image}:{number}")).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {}", lost.join(", "));
        read
    }
}

/// The reference as the server lists it: all tests that keep an oracle act as the admin.
fn full(image: &str) -> String {
    image.strip_prefix("me/").map_or_else(|| image.to_owned(), |slug| format!("admin/{slug}"))
}

/// Begins a push of bytes from a file of its own.
pub fn push_begin(client: &Client, folder: &Path, image: &str, bytes: &[u8]) -> Running {
    let file = file_of(folder, bytes);
    client.begin(&["push", text(&file), image, "-m", "a test", "-o", "json"])
}

/// A file with these bytes, named by them.
pub fn file_of(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join(format!("{}.raw", &blake3::hash(bytes).to_hex()[..16]));
    if !path.exists() {
        let part = folder.join(format!("{}.part", super::image::Chance::new(path.as_os_str().len() as u64).next()));
        let part = part.with_extension(format!("{:?}", std::thread::current().id()));
        super::image::image_write(&part, bytes);
        std::fs::rename(&part, &path).unwrap();
    }
    path
}

/// The number and root in what `push -o json` prints.
pub fn pushed(answer: &Value) -> (u64, String) {
    let version = &answer["version"];
    let number = version["number"].as_u64().unwrap_or_else(|| panic!("no number in {answer}"));
    let root = version["root"].as_str().unwrap_or_else(|| panic!("no root in {answer}"));
    (number, root.to_owned())
}

/// Every version that a client can see, with the image's reference.
pub fn versions_listed(client: &Client) -> Vec<(String, Value)> {
    let images = client.json(&["image", "ls"]);
    let images = images.as_array().cloned().or_else(|| images["items"].as_array().cloned()).expect("a list of images");
    let mut found = Vec::new();
    for image in images {
        let name = image["ref"].as_str().expect("an image has a reference").to_owned();
        let shown = client.json(&["image", "show", &name]);
        for version in shown["versions"].as_array().expect("an image has versions") {
            found.push((name.clone(), version.clone()));
        }
    }
    found
}

/// The bytes of a version; it must be readable.
#[track_caller]
pub fn pull(client: &Client, folder: &Path, image: &str, number: u64) -> Vec<u8> {
    let out = folder.join(format!("pulled.{:?}.raw", std::thread::current().id()));
    let _ = std::fs::remove_file(&out);
    client.ok(&["pull", &format!("{image}:{number}"), "-o", text(&out)]);
    let bytes = std::fs::read(&out).unwrap();
    std::fs::remove_file(&out).unwrap();
    bytes
}

/// Checks the store, which must be clean.
#[track_caller]
pub fn check_clean(client: &Client) -> Value {
    let said = client.run(&["check", "-o", "json"]);
    said.expect(0);
    let result = said.json();
    assert_eq!(result["clean"], Value::Bool(true), "{result}");
    assert_eq!(result["findings"].as_array().map(Vec::len), Some(0), "{result}");
    result
}
