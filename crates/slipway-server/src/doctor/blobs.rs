//! The blobs: whether one can be written, read and deleted, and whether those that the rows name are there.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use slipway_store::{BlobError, Blobs, Faults};

use super::Probe;
use crate::config::ServeOptions;
use crate::db::inspect::Facts;
use crate::serve::s3_read;

/// A bucket that does not answer by then does not help a server either.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) async fn blobs_examine(options: &ServeOptions, facts: Option<&Facts>) -> Vec<Probe> {
    let Some(opened) = open(options, facts) else { return Vec::new() };
    let (blobs, place) = match opened {
        Ok(opened) => opened,
        Err(probe) => return vec![probe],
    };
    let facts = facts.cloned();
    let looking = tokio::task::spawn_blocking(move || examine(&blobs, &place, facts.as_ref()));
    match tokio::time::timeout(LIMIT, looking).await {
        Ok(Ok(report)) => report,
        Ok(Err(why)) => vec![Probe::fail("blobs", format!("looking at the blobs: {why}"), "please report this")],
        Err(_) => vec![Probe::fail(
            "blobs",
            format!("the blobs did not answer within {} s", LIMIT.as_secs()),
            "check the endpoint of --blobs and the network, for example with 'curl -v ENDPOINT'",
        )],
    }
}

type Opened = Result<(Blobs, String), Probe>;

fn open(options: &ServeOptions, facts: Option<&Facts>) -> Option<Opened> {
    if let Some(address) = &options.blobs {
        let shown = address.split('?').next().unwrap_or(address).to_owned();
        let settings =
            "write it like s3://BUCKET/PREFIX?endpoint=URL, keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
        return Some(match s3_read(address) {
            Err(why) => Err(Probe::fail("blobs", format!("{why:#}"), settings)),
            Ok(config) => match Blobs::s3(config, tokio::runtime::Handle::current(), Faults::default()) {
                Err(why) => Err(Probe::fail("blobs", why.to_string(), settings)),
                Ok(blobs) => Ok((blobs, shown)),
            },
        });
    }
    let folder = options.data.join("blobs");
    let known = facts.map_or(0, |facts| facts.blobs);
    match std::fs::metadata(&folder) {
        Err(_) if known > 0 => Some(Err(Probe::fail(
            "blobs",
            format!("the database names {known} blobs, but the folder {} is not there", folder.display()),
            "restore it, or mount its disk; 'slipway check' then says what is whole",
        ))),
        // Before the first start there is nothing to look at, and doctor makes no folders.
        Err(_) => None,
        Ok(meta) if meta.mode() & 0o077 != 0 => Some(Err(Probe::warn(
            "blobs",
            format!(
                "{} is open to others (mode {:o}): it holds everybody's images",
                folder.display(),
                meta.mode() & 0o777
            ),
            format!("'chmod 700 {}'; the next start does so too", folder.display()),
        ))),
        Ok(_) => Some(match Blobs::local(&folder, Faults::default()) {
            Ok(blobs) => Ok((blobs, folder.display().to_string())),
            Err(why) => {
                Err(Probe::fail("blobs", why.to_string(), format!("'ls -ld {}' shows its owner", folder.display())))
            }
        }),
    }
}

fn examine(blobs: &Blobs, place: &str, facts: Option<&Facts>) -> Vec<Probe> {
    let mut report = vec![round(blobs, place)];
    if report[0].verdict != super::Verdict::Ok {
        return report;
    }
    let Some(facts) = facts else { return report };
    report.push(sample(blobs, facts));
    report.extend(multiparts(blobs, facts));
    report
}

/// Writes a small blob, reads it back and deletes it again.
fn round(blobs: &Blobs, place: &str) -> Probe {
    let key = format!("doctor-{}", uuid::Uuid::new_v4());
    let bytes = b"written by slipway doctor; safe to delete";
    let rights = match blobs.is_remote() {
        true => "check bucket, endpoint and keys; the keys must be allowed to put, get, list and delete objects",
        false => "look at 'dmesg' and at the owner of the folder with 'ls -ld'",
    };
    let tried = (|| -> Result<bool, BlobError> {
        blobs.put(&key, bytes)?;
        Ok(blobs.read(&key, 0..bytes.len() as u64)? == bytes)
    })();
    // It is removed whatever became of it.
    let removed = blobs.delete(&key);
    match (tried, removed) {
        (Err(why), _) => Probe::fail("blobs", format!("trying {place}: {}", why), rights),
        (Ok(false), _) => Probe::fail(
            "blobs",
            format!("{place} does not give back what was written to it"),
            "use another storage; do not store images in this one",
        ),
        (Ok(true), Err(why)) => {
            Probe::fail("blobs", format!("deleting from {place}, so that nothing can ever be freed: {}", why), rights)
        }
        (Ok(true), Ok(())) => Probe::ok("blobs", format!("written, read and deleted in {place}")),
    }
}

/// Some blobs, taken by chance: whether each is there with its length.
fn sample(blobs: &Blobs, facts: &Facts) -> Probe {
    let bad: Vec<&str> = facts
        .sample
        .iter()
        .filter(|(key, len)| !blobs.len(key).is_ok_and(|found| found == *len))
        .map(|(key, _)| key.as_str())
        .collect();
    match bad.first() {
        None => Probe::ok("blobs", format!("{} of {} blobs looked at, all there", facts.sample.len(), facts.blobs)),
        // A prune may have taken one since the rows were read; then the next look finds none missing.
        Some(first) => Probe::fail(
            "blobs",
            format!(
                "of {} blobs looked at {} are missing or have another length, first {first}",
                facts.sample.len(),
                bad.len()
            ),
            "'slipway check' says which versions are hurt; restore the blobs, or mount the right disk or bucket",
        ),
    }
}

/// Notes of multipart uploads that belong to nothing: their parts cost space and are seen in no listing.
fn multiparts(blobs: &Blobs, facts: &Facts) -> Option<Probe> {
    if !blobs.is_remote() {
        return None;
    }
    let staged: HashSet<&str> = facts.staged.iter().map(String::as_str).collect();
    let (mut running, mut left) = (0u64, 0u64);
    let listed = blobs.list("multipart", &mut |blob| match blob.key.strip_prefix("multipart/") {
        Some(key) if staged.contains(key) => running += 1,
        Some(_) | None => left += 1,
    });
    Some(match (listed, left) {
        (Err(why), _) => Probe::fail("multipart", why.to_string(), "the keys must be allowed to list the bucket"),
        (Ok(()), 0) => Probe::ok("multipart", format!("{running} running, nothing left over")),
        (Ok(()), left) => Probe::warn(
            "multipart",
            format!("{left} multipart uploads belong to no blob that is being written"),
            "a rule of the bucket that aborts incomplete multipart uploads after 2 days removes them",
        ),
    })
}
