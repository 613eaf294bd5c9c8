use super::request::JSON_MAX;
use super::{ApiError, Client};
use crate::{
    CheckRequest, FindingQuery, JournalEntry, KnownFinding, Page, PageQuery, PruneRequest, ScrubStatus, ServerFacts,
    Task,
};
use reqwest::Method;
use uuid::Uuid;

impl Client {
    /// What the server says of itself; needs no token.
    pub async fn server_facts(&self) -> Result<ServerFacts, ApiError> {
        self.fetch_json(self.ask(Method::GET, "asking the server for its version", &[])).await
    }

    /// Whether the server takes work.
    pub async fn ready(&self) -> Result<(), ApiError> {
        self.fetch_nothing(self.plain("asking whether the server is ready", "readyz")?.once()).await
    }

    /// Numbers for Prometheus.
    pub async fn metrics(&self) -> Result<String, ApiError> {
        self.text("reading the metrics", "metrics").await
    }

    /// The server's OpenAPI document.
    pub async fn openapi(&self) -> Result<String, ApiError> {
        self.text("reading the API description", "openapi.json").await
    }

    /// Asks for a prune, or for the plan of one.
    pub async fn prune(&self, request: &PruneRequest) -> Result<Task, ApiError> {
        self.fetch_json(self.ask(Method::POST, "asking for a prune", &["prune"]).json(request).keyed()).await
    }

    /// Asks for a check of what is stored.
    pub async fn check(&self, request: &CheckRequest) -> Result<Task, ApiError> {
        self.fetch_json(self.ask(Method::POST, "asking for a check", &["check"]).json(request).keyed()).await
    }

    /// What is known to be wrong with what is stored, as far as it concerns the caller; newest first.
    pub async fn finding_list(&self, query: &FindingQuery) -> Result<Page<KnownFinding>, ApiError> {
        let ask = self.ask(Method::GET, "listing findings", &["findings"]);
        let ask = ask.query_some("limit", query.limit).query_some("cursor", query.cursor.as_deref());
        self.fetch_json(ask.query_some("all", query.all.then_some(true))).await
    }

    /// Where the scrub stands.
    pub async fn scrub_get(&self) -> Result<ScrubStatus, ApiError> {
        self.fetch_json(self.ask(Method::GET, "asking for the scrub", &["scrub"])).await
    }

    /// Begins a pass of the scrub, or lets a paused one go on.
    pub async fn scrub_start(&self) -> Result<ScrubStatus, ApiError> {
        self.fetch_json(self.ask(Method::POST, "starting the scrub", &["scrub", "start"]).repeatable()).await
    }

    /// Pauses the scrub; where it is stays known.
    pub async fn scrub_pause(&self) -> Result<ScrubStatus, ApiError> {
        self.fetch_json(self.ask(Method::POST, "pausing the scrub", &["scrub", "pause"]).repeatable()).await
    }

    /// Changes after number `after`, oldest first.
    pub async fn journal_list(&self, after: u64, limit: Option<u32>) -> Result<Page<JournalEntry>, ApiError> {
        let ask = self.ask(Method::GET, "reading the journal", &["journal"]).query("after", after);
        self.fetch_json(ask.query_some("limit", limit)).await
    }

    /// Tasks that the caller may see, newest first.
    pub async fn task_list(&self, page: &PageQuery) -> Result<Page<Task>, ApiError> {
        self.fetch_json(self.ask(Method::GET, "listing tasks", &["tasks"]).page(page)).await
    }

    /// One task.
    pub async fn task_get(&self, id: Uuid) -> Result<Task, ApiError> {
        let text = id.to_string();
        self.fetch_json(self.ask(Method::GET, format!("reading task {id}"), &["tasks", &text])).await
    }

    /// Asks a task to stop.
    pub async fn task_cancel(&self, id: Uuid) -> Result<Task, ApiError> {
        let text = id.to_string();
        let ask = self.ask(Method::POST, format!("cancelling task {id}"), &["tasks", &text, "cancel"]);
        self.fetch_json(ask.repeatable()).await
    }

    fn plain(&self, act: &str, path: &str) -> Result<super::request::Ask, ApiError> {
        Ok(self.ask_url(Method::GET, act, self.base_join(path)?, true, true))
    }

    async fn text(&self, act: &str, path: &str) -> Result<String, ApiError> {
        let (_, _, body) = self.fetch(self.plain(act, path)?, JSON_MAX).await?;
        String::from_utf8(body.into()).map_err(|_| ApiError::protocol(act, "the answer is no text"))
    }
}
