//! A store with some history, made once and copied for each crash: versions that stay, one that prune will delete, one that it
//! will write anew, one to damage.

use super::database::{postgres_copy, postgres_new, time_pass};
use super::folder_copy;
use super::image::{image_changed, image_dense, image_fresh};
use super::oracle::Oracle;
use super::server::{Place, Server};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const MIB: usize = 1 << 20;
/// Longer than the time in the trash.
const TRASH_HOURS: u64 = 8 * 24;
/// Longer than the grace of a doomed blob.
const GRACE_HOURS: u64 = 2 * 24;

/// A stopped server's place, and what is known of its content.
pub struct Base {
    pub place: Place,
    pub oracle: Oracle,
    /// The files of the packs of `me/victim`, relative to the data folder.
    pub victims: Vec<PathBuf>,
    /// The PostgreSQL in which its database lies.
    postgres: Option<String>,
}

impl Base {
    /// Makes the history. The next prune finds work of every kind.
    pub fn new(folder: &Path, postgres: Option<String>) -> Self {
        let mut place = Place::new(folder);
        place.database = postgres.as_deref().map(postgres_new);
        let oracle = Oracle::default();
        let server = Server::start(&place);
        let client = server.admin();
        let keep = image_fresh(1, 3 * MIB);
        oracle.push(&client, folder, "me/keep", keep.clone());
        oracle.push(&client, folder, "me/keep", image_changed(&keep, 2));
        oracle.push(&client, folder, "me/gone", image_dense(3, 2 * MIB));
        client.ok(&["image", "rm", "me/gone"]);
        oracle.give_up("me/gone", 0);
        // The trash is over: its pack is doomed. Then the grace is over too: the next prune deletes it.
        let place = pruned_after(server.kill(), TRASH_HOURS);
        time_pass(&place, GRACE_HOURS);
        let server = Server::start(&place);
        let client = server.admin();
        let mostly = image_dense(4, 4 * MIB);
        let mut part = image_dense(5, 2 * MIB);
        part[..MIB].copy_from_slice(&mostly[..MIB]);
        oracle.push(&client, folder, "me/mostly", mostly);
        oracle.push(&client, folder, "me/mostly", part);
        client.ok(&["image", "rm", "me/mostly:0"]);
        oracle.give_up("me/mostly", 0);
        let before = packs(&place);
        oracle.push(&client, folder, "me/victim", image_dense(6, MIB));
        let victims = packs(&place).difference(&before).cloned().collect();
        let place = server.kill();
        time_pass(&place, TRASH_HOURS);
        Self { place, oracle, victims, postgres }
    }

    /// A copy that a server can run on, beside the base, with an oracle of its own.
    pub fn copy(&self, folder: &Path) -> (Place, Oracle) {
        folder_copy(&self.place.folder, folder);
        let mut place = Place { folder: folder.to_owned(), port: 0, ..self.place.clone() };
        if let (Some(server), Some(url)) = (&self.postgres, &self.place.database) {
            place.database = Some(postgres_copy(server, url));
        }
        (place, self.oracle.copy())
    }
}

/// Lets hours pass while the server is down, then prunes.
pub fn pruned_after(place: Place, hours: u64) -> Place {
    time_pass(&place, hours);
    let server = Server::start(&place);
    server.admin().ok(&["prune", "-o", "json"]);
    server.kill()
}

/// The files of all packs, relative to the data folder.
pub fn packs(place: &Place) -> BTreeSet<PathBuf> {
    fn walk(folder: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => walk(&path, found),
                path => {
                    found.insert(path);
                }
            }
        }
    }
    let mut found = BTreeSet::new();
    let data = place.data();
    walk(&data, &mut found);
    found
        .into_iter()
        .map(|path| path.strip_prefix(&data).expect("it was found there").to_owned())
        .filter(|path| path.components().any(|part| part.as_os_str() == "pack" || part.as_os_str() == "packs"))
        .collect()
}
