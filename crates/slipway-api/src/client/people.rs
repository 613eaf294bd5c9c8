use super::{ApiError, Client};
use crate::{
    Login, Me, Page, PageQuery, PasswordChange, Session, Setup, Token, TokenMade, TokenNew, User, UserChange, UserNew,
};
use reqwest::Method;
use uuid::Uuid;

impl Client {
    /// Signs in with name and password.
    pub async fn login(&self, login: &Login) -> Result<Session, ApiError> {
        self.fetch_json(self.ask(Method::POST, "signing in", &["login"]).json(login)).await
    }

    /// Redeems a new server's one-time code.
    pub async fn setup(&self, setup: &Setup) -> Result<Session, ApiError> {
        self.fetch_json(self.ask(Method::POST, "setting the server up", &["setup"]).json(setup)).await
    }

    /// Who the caller is.
    pub async fn me(&self) -> Result<Me, ApiError> {
        self.fetch_json(self.ask(Method::GET, "asking who I am", &["me"])).await
    }

    /// All users; for moderators.
    pub async fn user_list(&self, page: &PageQuery) -> Result<Page<User>, ApiError> {
        self.fetch_json(self.ask(Method::GET, "listing users", &["users"]).page(page)).await
    }

    /// Makes a user; for admins.
    pub async fn user_create(&self, new: &UserNew) -> Result<User, ApiError> {
        let act = format!("making user {}", new.name);
        self.fetch_json(self.ask(Method::POST, act, &["users"]).json(new).keyed()).await
    }

    /// One user.
    pub async fn user_get(&self, name: &str) -> Result<User, ApiError> {
        self.fetch_json(self.ask(Method::GET, format!("reading user {name}"), &["users", name])).await
    }

    /// Changes what is given; with `if_match` only if the user has that revision.
    pub async fn user_change(&self, name: &str, change: &UserChange, if_match: Option<u64>) -> Result<User, ApiError> {
        let ask = self.ask(Method::PATCH, format!("changing user {name}"), &["users", name]);
        self.fetch_json(ask.json(change).if_match(if_match)).await
    }

    /// Deletes a user who owns no image.
    pub async fn user_delete(&self, name: &str) -> Result<(), ApiError> {
        self.fetch_nothing(self.ask(Method::DELETE, format!("deleting user {name}"), &["users", name])).await
    }

    /// Sets a password.
    pub async fn user_password(&self, name: &str, change: &PasswordChange) -> Result<(), ApiError> {
        let act = format!("setting the password of {name}");
        // A second try after a lost answer would offer the old password that is no longer right.
        self.fetch_nothing(self.ask(Method::PUT, act, &["users", name, "password"]).json(change).once()).await
    }

    /// The caller's tokens; an admin may name another owner in the query.
    pub async fn token_list(&self, page: &PageQuery) -> Result<Page<Token>, ApiError> {
        self.fetch_json(self.ask(Method::GET, "listing tokens", &["tokens"]).page(page)).await
    }

    /// Makes a token; its secret is shown once, so a lost answer is not asked for again.
    pub async fn token_make(&self, new: &TokenNew) -> Result<TokenMade, ApiError> {
        let act = format!("making token {}", new.name);
        self.fetch_json(self.ask(Method::POST, act, &["tokens"]).json(new)).await
    }

    /// Ends a token.
    pub async fn token_revoke(&self, id: Uuid) -> Result<(), ApiError> {
        let text = id.to_string();
        self.fetch_nothing(self.ask(Method::DELETE, format!("revoking token {id}"), &["tokens", &text])).await
    }
}
