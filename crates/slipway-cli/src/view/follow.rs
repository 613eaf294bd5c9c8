//! Keeps the catalogue as the server has it: told of every change, and by looking now and then where it is not told.

use super::catalogue::{Catalogue, Stale};
use super::readers::Readers;
use crate::failure::chain;
use fuser::{INodeNo, Notifier};
use slipway_api::{ApiError, Client, Code, Image, ImageRef, PageQuery};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Images in one question.
const PAGE: u32 = 500;
/// Looks by itself even while it is told of changes.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Looks by itself while the server tells nothing.
const LOOK_OFTEN: Duration = Duration::from_secs(1);
/// After the server has said no.
const PAUSE_REFUSED: Duration = Duration::from_secs(5);

pub(crate) struct Follower {
    client: Client,
    catalogue: Arc<Catalogue>,
    readers: Arc<Readers>,
    kernel: OnceLock<Notifier>,
    wake: Notify,
    /// Whether the server tells of changes, and what went wrong last, so that it is said once.
    state: Mutex<(bool, String)>,
}

impl Follower {
    pub(crate) fn new(client: Client, catalogue: Arc<Catalogue>, readers: Arc<Readers>) -> Arc<Self> {
        let (kernel, wake, state) = (OnceLock::new(), Notify::new(), Mutex::default());
        Arc::new(Self { client, catalogue, readers, kernel, wake, state })
    }

    /// From now on the kernel is told what to forget.
    pub(crate) fn kernel_set(&self, kernel: Notifier) {
        // A view is mounted once.
        let _ = self.kernel.set(kernel);
    }

    /// Follows for as long as it is polled.
    pub(crate) async fn run(self: Arc<Self>) {
        tokio::join!(self.listen(), self.look());
    }

    async fn listen(&self) {
        let mut last = None;
        loop {
            let told = || {
                self.told_set(true);
                self.wake.notify_one();
            };
            let ended = self.client.images_follow(&mut last, told).await;
            self.told_set(false);
            // Whatever ended it, the list says what became of the images.
            self.wake.notify_one();
            let pause = match ended {
                Err(ApiError::Problem(_) | ApiError::Protocol { .. } | ApiError::Config(_)) => PAUSE_REFUSED,
                Ok(()) | Err(ApiError::Transport { .. }) => LOOK_OFTEN / 2,
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn look(self: &Arc<Self>) {
        loop {
            let told = self.state.lock().unwrap_or_else(PoisonError::into_inner).0;
            // A wish that comes while nobody waits for it is kept.
            let _ = tokio::time::timeout(if told { LOOK_EVERY } else { LOOK_OFTEN }, self.wake.notified()).await;
            if let Err(why) = self.refresh().await {
                self.complain(&why);
            }
        }
    }

    /// Lists the images and, where somebody looked into a folder, its versions.
    ///
    /// # Errors
    /// When the server cannot be asked. Where it said that the token is not good any more, nothing is shown from then on.
    pub(crate) async fn refresh(self: &Arc<Self>) -> Result<(), ApiError> {
        let images = match self.images_list().await {
            Ok(images) => images,
            Err(why) if matches!(why.code(), Some(Code::Unauthenticated | Code::Forbidden)) => {
                self.forget(self.catalogue.clear()).await;
                return Err(why);
            }
            Err(why) => return Err(why),
        };
        let (stale, ask) = self.catalogue.images_set(&images);
        self.forget(stale).await;
        for reference in ask {
            self.folder_refresh(&reference).await?;
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1.clear();
        Ok(())
    }

    /// Asks for the versions of an image.
    pub(crate) async fn folder_refresh(&self, reference: &ImageRef) -> Result<(), ApiError> {
        match self.client.image_whole(reference, false).await {
            Ok(image) => {
                let versions = image.versions.clone().unwrap_or_default();
                // A look for a name holds its folder in the kernel until it is answered, and to forget a name needs the same hold: so who
                // is asked in the middle of a look must not wait for it.
                drop(self.forget_begin(self.catalogue.versions_set(&image, &versions)));
                Ok(())
            }
            // Gone, or under another name: the list says which.
            Err(why) if why.code() == Some(Code::NotFound) => {
                self.wake.notify_one();
                Ok(())
            }
            Err(why) => Err(why),
        }
    }

    async fn images_list(&self) -> Result<Vec<Image>, ApiError> {
        let mut page = PageQuery { limit: Some(PAGE), ..PageQuery::default() };
        let mut images = Vec::new();
        loop {
            let got = self.client.image_list(&page).await?;
            images.extend(got.items);
            match got.next {
                Some(next) => page.cursor = Some(next),
                None => return Ok(images),
            }
        }
    }

    /// Makes the kernel forget, and waits for it for a moment: the next look does not wait for a kernel that waits for a read.
    async fn forget(&self, stale: Vec<Stale>) {
        if let Some(telling) = self.forget_begin(stale) {
            let _ = tokio::time::timeout(Duration::from_secs(5), telling).await;
        }
    }

    /// Ends the readers of what is stale and begins to make the kernel forget it. That may wait for reads that are under way, so not on a
    /// thread of the runtime, nor on one of the kernel's.
    fn forget_begin(&self, stale: Vec<Stale>) -> Option<tokio::task::JoinHandle<()>> {
        for one in &stale {
            if let Stale::Inode(ino) = one
                && let Some(file) = self.catalogue.file(*ino)
            {
                self.readers.end(&file.content);
            }
        }
        let kernel = self.kernel.get().cloned().filter(|_| !stale.is_empty())?;
        Some(tokio::task::spawn_blocking(move || {
            for one in stale {
                let told = match &one {
                    Stale::Name { folder, name } => kernel.inval_entry(INodeNo(*folder), name.as_ref()),
                    Stale::Inode(ino) => kernel.inval_inode(INodeNo(*ino), 0, 0),
                };
                if let Err(why) = told {
                    tracing::debug!(?one, %why, "making the kernel forget");
                }
            }
        }))
    }

    fn told_set(&self, told: bool) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = told;
    }

    /// Says once why the server cannot be followed.
    fn complain(&self, why: &ApiError) {
        let text = chain(why);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.1 != text {
            tracing::warn!("following {}: {text}", self.client.server());
            state.1 = text;
        }
    }
}
