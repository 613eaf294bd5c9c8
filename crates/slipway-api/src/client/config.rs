use super::ApiError;
use reqwest::Url;
use std::time::Duration;

/// Where the server is and how to speak with it.
#[derive(Clone)]
pub struct ClientConfig {
    /// `http://HOST:PORT` or `https://…`, possibly with a path below which the server lies.
    pub url: String,
    /// The secret that is sent as `Authorization: Bearer`.
    pub token: Option<String>,
    /// Certificates in PEM that alone are trusted; the system's roots if not given.
    pub ca_pem: Option<Vec<u8>>,
    /// The longest wait for a connection.
    pub connect_timeout: Duration,
    /// The longest wait for an answer or for the next bytes of one.
    pub idle_timeout: Duration,
    /// How often a call that may be made again is made at most.
    pub attempts: u32,
}

impl ClientConfig {
    /// The usual waits: 10 s for a connection, 60 s for an answer, 6 attempts over about 8 s.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token: None,
            ca_pem: None,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            attempts: 6,
        }
    }

    pub(super) fn base(&self) -> Result<Url, ApiError> {
        let refuse = |why: &str| Err(ApiError::Config(format!("the server's address {why}")));
        let Ok(url) = Url::parse(&self.url) else {
            return refuse("is no URL; write http://HOST:PORT or https://HOST");
        };
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return refuse("must begin with http:// or https://");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("has a user or password in it; a token belongs in SLIPWAY_TOKEN");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return refuse("has a query or fragment");
        }
        Ok(url)
    }
}

impl std::fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientConfig")
            .field("url", &self.url)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("own_ca", &self.ca_pem.is_some())
            .field("connect_timeout", &self.connect_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .field("attempts", &self.attempts)
            .finish()
    }
}
