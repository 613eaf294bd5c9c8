use super::{ApiError, Client};
use crate::{ImageRef, Quota, QuotaChange, Retention, RetentionPlan, RetentionRun, RetentionSet, RetentionShown};
use reqwest::Method;

impl Client {
    /// The rules of retention for an image.
    pub async fn retention_get(&self, image: &ImageRef) -> Result<RetentionShown, ApiError> {
        self.fetch_json(self.image_ask(Method::GET, "reading the retention of", image, &["retention"])).await
    }

    /// Sets an image's own rules, or takes them off.
    pub async fn retention_set(&self, image: &ImageRef, set: &RetentionSet) -> Result<RetentionShown, ApiError> {
        let ask = self.image_ask(Method::PUT, "setting the retention of", image, &["retention"]);
        self.fetch_json(ask.json(set)).await
    }

    /// What the rules in force, or these, would put into the trash.
    pub async fn retention_preview(
        &self,
        image: &ImageRef,
        rules: Option<&Retention>,
    ) -> Result<RetentionPlan, ApiError> {
        let ask = self.image_ask(Method::GET, "previewing the retention of", image, &["retention", "preview"]);
        self.fetch_json(ask.query_some("rules", rules)).await
    }

    /// Puts what the rules in force, or these, do not keep into the trash.
    pub async fn retention_run(&self, image: &ImageRef, run: &RetentionRun) -> Result<RetentionPlan, ApiError> {
        let ask = self.image_ask(Method::POST, "applying the retention of", image, &["retention", "run"]);
        self.fetch_json(ask.json(run).repeatable()).await
    }

    /// The rules for an account's images that have none of their own.
    pub async fn account_retention_get(&self, name: &str) -> Result<RetentionShown, ApiError> {
        let act = format!("reading the retention of {name}");
        self.fetch_json(self.ask(Method::GET, act, &["users", name, "retention"])).await
    }

    /// Sets the rules for an account's images that have none of their own, or takes them off.
    pub async fn account_retention_set(&self, name: &str, set: &RetentionSet) -> Result<RetentionShown, ApiError> {
        let act = format!("setting the retention of {name}");
        self.fetch_json(self.ask(Method::PUT, act, &["users", name, "retention"]).json(set)).await
    }

    /// What an account keeps and may keep.
    pub async fn quota_get(&self, name: &str) -> Result<Quota, ApiError> {
        self.fetch_json(self.ask(Method::GET, format!("reading the quota of {name}"), &["users", name, "quota"])).await
    }

    /// Changes what an account may keep; for admins.
    pub async fn quota_change(&self, name: &str, change: &QuotaChange) -> Result<Quota, ApiError> {
        let ask = self.ask(Method::PATCH, format!("changing the quota of {name}"), &["users", name, "quota"]);
        self.fetch_json(ask.json(change)).await
    }
}
