//! What the view shows: a folder for each image, a file for each version. Numbers of inodes follow the content: whatever is behind a name
//! changes its number, and no number is ever used again.

use slipway_api::{Image, ImageRef, Version};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use uuid::Uuid;

/// The inode of the top folder.
pub(crate) const TOP: u64 = 1;

/// A version as a file.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) ino: u64,
    pub(crate) image: Uuid,
    pub(crate) number: u64,
    /// The immutable bytes; another content under the same number is another file.
    pub(crate) content: Uuid,
    pub(crate) size: u64,
    pub(crate) data_bytes: u64,
    pub(crate) created: SystemTime,
    gone: AtomicBool,
}

impl File {
    /// Whether it was deleted or replaced, or may not be read any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// `N.img`.
    pub(crate) fn name(&self) -> String {
        format!("{}.img", self.number)
    }
}

/// An image as a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    pub(crate) ino: u64,
    pub(crate) id: Uuid,
    pub(crate) changed: SystemTime,
}

/// What the kernel has to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stale {
    /// A name in a folder.
    Name { folder: u64, name: String },
    /// What is kept of an inode: attributes, and the bytes of a file.
    Inode(u64),
}

/// All of it; asked by the kernel's threads, changed by the follower.
#[derive(Default)]
pub(crate) struct Catalogue(Mutex<State>);

#[derive(Default)]
struct State {
    images: BTreeMap<Uuid, Row>,
    folders: HashMap<u64, Uuid>,
    /// Also those that are gone, until the kernel forgets them.
    files: HashMap<u64, Arc<File>>,
    last_ino: u64,
    changed: Option<SystemTime>,
}

struct Row {
    ino: u64,
    reference: ImageRef,
    revision: u64,
    changed: SystemTime,
    /// Versions, and the image's revision that they belong to; fetched when somebody looks.
    listing: Option<(u64, BTreeMap<u64, Arc<File>>)>,
}

/// What somebody finds who looks for a version.
pub(crate) enum Found {
    File(Arc<File>),
    Nothing,
    /// The server must be asked for the versions of this image.
    Ask(ImageRef),
}

impl State {
    fn ino_next(&mut self) -> u64 {
        self.last_ino = self.last_ino.max(TOP) + 1;
        self.last_ino
    }

    fn file_end(&self, folder: u64, file: &File, stale: &mut Vec<Stale>) {
        file.gone.store(true, Ordering::Release);
        stale.push(Stale::Name { folder, name: file.name() });
        stale.push(Stale::Inode(file.ino));
    }

    fn image_end(&mut self, id: &Uuid, stale: &mut Vec<Stale>) {
        let Some(row) = self.images.remove(id) else { return };
        self.folders.remove(&row.ino);
        for file in row.listing.iter().flat_map(|(_, files)| files.values()) {
            self.file_end(row.ino, file, stale);
        }
        stale.push(Stale::Name { folder: TOP, name: id.to_string() });
        stale.push(Stale::Inode(row.ino));
    }
}

impl Catalogue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the whole list of images; gives what the kernel has to forget, and which images' versions it knew that are another list now.
    pub(crate) fn images_set(&self, images: &[Image]) -> (Vec<Stale>, Vec<ImageRef>) {
        let mut state = self.state();
        let (mut stale, mut ask) = (Vec::new(), Vec::new());
        let listed: BTreeMap<Uuid, &Image> = images.iter().map(|image| (image.id, image)).collect();
        let gone: Vec<Uuid> = state.images.keys().filter(|id| !listed.contains_key(id)).copied().collect();
        let mut changed = !gone.is_empty();
        gone.iter().for_each(|id| state.image_end(id, &mut stale));
        for (id, image) in listed {
            let Some(reference) = image_reference(image) else { continue };
            if let Some(row) = state.images.get_mut(&id) {
                row.reference = reference;
                if row.revision != image.revision {
                    (row.revision, row.changed) = (image.revision, image.updated_at.into());
                    stale.push(Stale::Inode(row.ino));
                }
                if row.listing.as_ref().is_some_and(|(revision, _)| *revision != image.revision) {
                    ask.push(row.reference.clone());
                }
                continue;
            }
            changed = true;
            let ino = state.ino_next();
            state.folders.insert(ino, id);
            let row = Row { ino, reference, revision: image.revision, changed: image.updated_at.into(), listing: None };
            state.images.insert(id, row);
        }
        if changed {
            state.changed = Some(SystemTime::now());
            stale.push(Stale::Inode(TOP));
        }
        (stale, ask)
    }

    /// Takes the versions of one image, as they were at its revision.
    pub(crate) fn versions_set(&self, image: &Image, versions: &[Version]) -> Vec<Stale> {
        let mut state = self.state();
        let mut stale = Vec::new();
        // An image that is new here comes with the next list.
        let Some(row) = state.images.get(&image.id) else { return stale };
        let folder = row.ino;
        let known = row.listing.as_ref();
        if known.is_some_and(|(revision, _)| *revision > image.revision) {
            return stale;
        }
        let mut old: BTreeMap<u64, Arc<File>> = known.map(|(_, files)| files.clone()).unwrap_or_default();
        let mut files = BTreeMap::new();
        for version in versions.iter().filter(|version| version.trashed_at.is_none()) {
            let same = old.remove(&version.number).filter(|file| file.content == version.content);
            let file = same.unwrap_or_else(|| {
                let ino = state.ino_next();
                // Whatever was behind the name before, also nothing, is not there any more.
                stale.push(Stale::Name { folder, name: format!("{}.img", version.number) });
                Arc::new(File {
                    ino,
                    image: image.id,
                    number: version.number,
                    content: version.content,
                    size: version.size,
                    data_bytes: version.data_bytes,
                    created: version.created_at.into(),
                    gone: AtomicBool::new(false),
                })
            });
            state.files.insert(file.ino, file.clone());
            files.insert(version.number, file);
        }
        let kept: Vec<u64> = files.values().map(|file| file.ino).collect();
        if let Some(row) = state.images.get_mut(&image.id) {
            let before = row.listing.replace((image.revision, files));
            for file in before.iter().flat_map(|(_, files)| files.values()).filter(|file| !kept.contains(&file.ino)) {
                state.file_end(folder, file, &mut stale);
            }
        }
        stale.push(Stale::Inode(folder));
        stale
    }

    /// Nothing may be seen any more.
    pub(crate) fn clear(&self) -> Vec<Stale> {
        self.images_set(&[]).0
    }

    /// When an image last came or went.
    pub(crate) fn changed(&self) -> SystemTime {
        self.state().changed.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Images, and files whose folders were looked into.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let state = self.state();
        (state.images.len() as u64, state.files.values().filter(|file| !file.is_gone()).count() as u64)
    }

    /// The folders of the top one, in order.
    pub(crate) fn folders(&self) -> Vec<Folder> {
        self.state().images.iter().map(|(id, row)| Folder { ino: row.ino, id: *id, changed: row.changed }).collect()
    }

    /// The folder of an image.
    pub(crate) fn folder_named(&self, id: &Uuid) -> Option<Folder> {
        self.state().images.get(id).map(|row| Folder { ino: row.ino, id: *id, changed: row.changed })
    }

    /// The folder with this inode.
    pub(crate) fn folder(&self, ino: u64) -> Option<Folder> {
        let state = self.state();
        let id = state.folders.get(&ino)?;
        state.images.get(id).map(|row| Folder { ino, id: *id, changed: row.changed })
    }

    /// The file with this inode, gone or not.
    pub(crate) fn file(&self, ino: u64) -> Option<Arc<File>> {
        self.state().files.get(&ino).cloned()
    }

    /// The file of a version.
    pub(crate) fn file_named(&self, folder: u64, number: u64) -> Found {
        let state = self.state();
        let row = state.folders.get(&folder).and_then(|id| state.images.get(id));
        match row.map(|row| (&row.reference, &row.listing, row.revision)) {
            None => Found::Nothing,
            Some((_, Some((revision, files)), wanted)) if *revision >= wanted => {
                files.get(&number).map_or(Found::Nothing, |file| Found::File(file.clone()))
            }
            Some((reference, _, _)) => Found::Ask(reference.clone()),
        }
    }

    /// The files of a folder in order; an error is the image whose versions must be asked for.
    pub(crate) fn files(&self, folder: u64) -> Result<Vec<Arc<File>>, Option<ImageRef>> {
        let state = self.state();
        let row = state.folders.get(&folder).and_then(|id| state.images.get(id)).ok_or(None)?;
        match &row.listing {
            Some((revision, files)) if *revision >= row.revision => Ok(files.values().cloned().collect()),
            _ => Err(Some(row.reference.clone())),
        }
    }

    /// The name by which the server knows a file's image now.
    pub(crate) fn reference(&self, file: &File) -> Option<ImageRef> {
        self.state().images.get(&file.image).map(|row| row.reference.clone())
    }

    /// The kernel holds nothing of this inode any more.
    pub(crate) fn forget(&self, ino: u64) {
        let mut state = self.state();
        if state.files.get(&ino).is_some_and(|file| file.is_gone()) {
            state.files.remove(&ino);
        }
    }
}

/// `me` is never in an answer, so this names it for every token.
fn image_reference(image: &Image) -> Option<ImageRef> {
    format!("{}/{}", image.owner, image.slug).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Catalogue, Found, Stale, TOP};
    use serde_json::json;
    use slipway_api::{Image, Version};
    use uuid::Uuid;

    const TIME: &str = "2026-01-01T00:00:00Z";

    fn image(n: u128, slug: &str, revision: u64) -> Image {
        serde_json::from_value(json!({
            "id": Uuid::from_u128(n), "owner": "jan", "slug": slug, "ref": format!("jan/{slug}"), "title": slug,
            "type": "base", "file_system": null, "compression": "zstd", "target_location": null, "associated": [],
            "description": "", "labels": {}, "sharing": {}, "protected": false, "latest": null, "version_count": 0,
            "new_bytes": 0, "created_at": TIME, "updated_at": TIME, "revision": revision,
        }))
        .unwrap()
    }

    fn version(number: u64, content: u128) -> Version {
        serde_json::from_value(json!({
            "number": number, "content": Uuid::from_u128(content), "root": "0".repeat(64), "digest": null,
            "sha256": null, "size": 1 << 20, "sector_size": 512, "source_format": "raw", "data_bytes": 4096,
            "stored_bytes": 0, "new_bytes": 0, "parent": null, "message": "", "created_at": TIME,
            "created_by": "jan", "protected": false,
        }))
        .unwrap()
    }

    fn name(folder: u64, name: &str) -> Stale {
        Stale::Name { folder, name: name.into() }
    }

    #[test]
    fn what_goes_or_is_replaced_is_forgotten_and_never_becomes_something_else() {
        let all = Catalogue::default();
        let (stale, ask) = all.images_set(&[image(1, "a", 1), image(2, "b", 1)]);
        assert_eq!((stale, ask), (vec![Stale::Inode(TOP)], vec![]));
        let folder = all.folder_named(&Uuid::from_u128(1)).unwrap().ino;
        assert!(matches!(all.file_named(folder, 0), Found::Ask(reference) if reference.to_string() == "jan/a"));
        all.versions_set(&image(1, "a", 1), &[version(0, 10), version(1, 11)]);
        let Found::File(zero) = all.file_named(folder, 0) else { panic!() };
        let Found::File(one) = all.file_named(folder, 1) else { panic!() };
        assert!(matches!(all.file_named(folder, 2), Found::Nothing));

        // A new version, and another content under an old number.
        let (_, ask) = all.images_set(&[image(1, "a", 2), image(2, "b", 1)]);
        assert_eq!(ask.len(), 1);
        assert!(matches!(all.file_named(folder, 0), Found::Ask(_)), "what may be stale is not shown");
        let stale = all.versions_set(&image(1, "a", 2), &[version(0, 10), version(1, 99), version(2, 12)]);
        assert!(stale.contains(&Stale::Inode(one.ino)) && stale.contains(&name(folder, "1.img")));
        assert!(!stale.contains(&Stale::Inode(zero.ino)));
        assert!(one.is_gone() && !zero.is_gone());
        let Found::File(again) = all.file_named(folder, 1) else { panic!() };
        assert!(again.ino != one.ino && again.content == Uuid::from_u128(99));
        assert_eq!(all.files(folder).unwrap().len(), 3);

        // Late news of an older revision changes nothing.
        assert_eq!(all.versions_set(&image(1, "a", 1), &[]), []);
        assert_eq!(all.files(folder).unwrap().len(), 3);

        // Another name is no other folder.
        all.images_set(&[image(1, "renamed", 3), image(2, "b", 1)]);
        assert_eq!(all.reference(&zero).unwrap().to_string(), "jan/renamed");
        assert_eq!(all.folder_named(&Uuid::from_u128(1)).unwrap().ino, folder);

        // Gone with all its files; those that are open still answer that they are.
        let (stale, _) = all.images_set(&[image(2, "b", 1)]);
        assert!(stale.contains(&name(TOP, &Uuid::from_u128(1).to_string())) && stale.contains(&Stale::Inode(zero.ino)));
        assert!(zero.is_gone() && all.folder(folder).is_none() && all.file(zero.ino).is_some());
        assert!(matches!(all.file_named(folder, 0), Found::Nothing));
        all.forget(zero.ino);
        assert!(all.file(zero.ino).is_none());
        assert!(!all.clear().is_empty() && all.folders().is_empty());
    }
}
