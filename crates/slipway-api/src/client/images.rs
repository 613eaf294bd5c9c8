use super::{ApiError, Client};
use crate::{
    Channel, ChannelName, ChannelSet, Committed, Image, ImageChange, ImageNew, ImageQuery, ImageRef, Page, PageQuery,
    Rollback, Sharing, SharingChange,
};
use reqwest::Method;

impl super::request::Ask {
    pub(super) fn page(self, page: &PageQuery) -> Self {
        let ask = self
            .query_some("limit", page.limit)
            .query_some("cursor", page.cursor.as_ref())
            .query_some("owner", page.owner.as_ref())
            .query_some("q", page.q.as_ref());
        match page.trash {
            true => ask.query("trash", true),
            false => ask,
        }
    }
}

impl Client {
    /// The images that the caller may read.
    pub async fn image_list(&self, page: &PageQuery) -> Result<Page<Image>, ApiError> {
        self.fetch_json(self.ask(Method::GET, "listing images", &["images"]).page(page)).await
    }

    /// Makes an image without versions.
    pub async fn image_create(&self, new: &ImageNew) -> Result<Image, ApiError> {
        let act = format!("making image {}", new.reference);
        self.fetch_json(self.ask(Method::POST, act, &["images"]).json(new).keyed()).await
    }

    /// One image with its newest versions, 100 at most.
    pub async fn image_get(&self, image: &ImageRef) -> Result<Image, ApiError> {
        self.image_page(image, &ImageQuery::default()).await
    }

    /// One image with a page of its versions.
    pub async fn image_page(&self, image: &ImageRef, query: &ImageQuery) -> Result<Image, ApiError> {
        let ask = self
            .image_ask(Method::GET, "reading", image, &[])
            .query_some("limit", query.limit)
            .query_some("cursor", query.cursor.as_ref());
        self.fetch_json(if query.trash { ask.query("trash", true) } else { ask }).await
    }

    /// One image with all its versions, however many, asked for page by page; with `trash` also those in the trash.
    pub async fn image_whole(&self, image: &ImageRef, trash: bool) -> Result<Image, ApiError> {
        let mut query = ImageQuery { limit: Some(1000), trash, ..ImageQuery::default() };
        let mut whole = self.image_page(image, &query).await?;
        while let Some(next) = whole.versions_next.take() {
            query.cursor = Some(next);
            let more = self.image_page(image, &query).await?;
            whole.versions.get_or_insert_default().extend(more.versions.unwrap_or_default());
            whole.versions_next = more.versions_next;
        }
        Ok(whole)
    }

    /// Changes what is given; with `if_match` only if the image has that revision.
    pub async fn image_change(
        &self,
        image: &ImageRef,
        change: &ImageChange,
        if_match: Option<u64>,
    ) -> Result<Image, ApiError> {
        let ask = self.image_ask(Method::PATCH, "changing", image, &[]).json(change).if_match(if_match);
        self.fetch_json(ask).await
    }

    /// Puts an image and its versions in the trash.
    pub async fn image_trash(&self, image: &ImageRef) -> Result<(), ApiError> {
        self.fetch_nothing(self.image_ask(Method::DELETE, "deleting", image, &[])).await
    }

    /// Ends an image and its versions at once; nothing brings them back.
    pub async fn image_end(&self, image: &ImageRef) -> Result<(), ApiError> {
        self.fetch_nothing(self.image_ask(Method::DELETE, "ending", image, &[]).query("now", true)).await
    }

    /// Takes an image out of the trash.
    pub async fn image_restore(&self, image: &ImageRef) -> Result<Image, ApiError> {
        self.fetch_json(self.image_ask(Method::POST, "restoring", image, &["restore"]).keyed()).await
    }

    /// Makes a new version with an old one's content.
    pub async fn image_rollback(&self, image: &ImageRef, wish: &Rollback) -> Result<Committed, ApiError> {
        self.fetch_json(self.image_ask(Method::POST, "rolling back", image, &["rollback"]).json(wish).keyed()).await
    }

    /// Changes who may read an image; [`Sharing::task`] names the task to wait for when content must move first.
    pub async fn sharing_change(&self, image: &ImageRef, change: &SharingChange) -> Result<Image, ApiError> {
        self.fetch_json(self.image_ask(Method::PUT, "sharing", image, &["sharing"]).json(change)).await
    }

    /// Who may read an image.
    pub async fn sharing_get(&self, image: &ImageRef) -> Result<Sharing, ApiError> {
        Ok(self.image_get(image).await?.sharing)
    }

    /// Where a channel points.
    pub async fn channel_get(&self, image: &ImageRef, name: &ChannelName) -> Result<Channel, ApiError> {
        self.fetch_json(self.image_ask(Method::GET, "reading a channel of", image, &["channels", name.as_str()])).await
    }

    /// Points a channel at a version.
    pub async fn channel_set(&self, image: &ImageRef, name: &ChannelName, version: u64) -> Result<Channel, ApiError> {
        let ask = self.image_ask(Method::PUT, "setting a channel of", image, &["channels", name.as_str()]);
        self.fetch_json(ask.json(&ChannelSet { version })).await
    }

    /// Takes a channel away.
    pub async fn channel_delete(&self, image: &ImageRef, name: &ChannelName) -> Result<(), ApiError> {
        let ask = self.image_ask(Method::DELETE, "deleting a channel of", image, &["channels", name.as_str()]);
        self.fetch_nothing(ask).await
    }

    pub(super) fn image_ask(&self, method: Method, act: &str, image: &ImageRef, rest: &[&str]) -> super::request::Ask {
        let mut path = vec!["images", &image.owner, image.slug.as_str()];
        path.extend(rest);
        self.ask(method, format!("{act} {image}"), &path)
    }
}
