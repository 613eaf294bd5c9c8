//! The one HTTP client: a method per route, named like the rule behind it.
//!
//! Calls that may be made twice without another effect are made again with growing pauses when the server
//! cannot be reached, answers 502, 503 or 504, or asks to slow down. Tokens and capabilities never reach a `Debug`
//! text or an error.

mod blobs;
mod care;
mod config;
mod error;
mod follow;
mod images;
mod people;
mod request;
mod seen;
mod store;
mod uploads;
mod versions;

pub use blobs::BlobRange;
pub use config::ClientConfig;
pub use error::ApiError;
pub use seen::ServerSeen;
pub use uploads::{CommitAnswer, ContentPut};
pub use versions::ContentStream;

use error::transport;
use reqwest::Url;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// A connection to one server; cheap to clone, safe to share.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
    idle: Duration,
    attempts: u32,
    /// Whether the server has ever answered: a wrong address is reported sooner than a server that restarts.
    reached: AtomicBool,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("server", &self.inner.base.as_str()).finish_non_exhaustive()
    }
}

impl Client {
    /// Prepares a client; nothing is sent yet.
    ///
    /// # Errors
    /// [`ApiError::Config`] when the address is no `http` or `https` URL, the token is not made of visible ASCII
    /// characters, or the certificates cannot be read.
    pub fn new(config: &ClientConfig) -> Result<Self, ApiError> {
        let base = config.base()?;
        if let Some(token) = &config.token
            && (token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(ApiError::Config("the token is empty or has characters that no token has".into()));
        }
        // One provider for the whole program; that another call installed it first is fine.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = http_build(config, &base)?;
        Ok(Self {
            inner: Arc::new(Inner {
                http,
                base,
                token: config.token.clone(),
                idle: config.idle_timeout,
                attempts: config.attempts.max(1),
                reached: AtomicBool::new(false),
            }),
        })
    }

    /// The server's address as given, without a final slash.
    pub fn server(&self) -> &str {
        self.inner.base.as_str().trim_end_matches('/')
    }
}

fn http_build(config: &ClientConfig, base: &Url) -> Result<reqwest::Client, ApiError> {
    let builder = || {
        reqwest::Client::builder()
            .user_agent(concat!("slipway/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(config.connect_timeout)
            .tcp_nodelay(true)
            .http2_adaptive_window(true)
            // A redirect would carry the token to wherever a proxy points.
            .redirect(reqwest::redirect::Policy::none())
    };
    if let Some(pem) = &config.ca_pem {
        let certs = reqwest::Certificate::from_pem_bundle(pem)
            .ok()
            .filter(|certs| !certs.is_empty())
            .ok_or_else(|| ApiError::Config("the CA file holds no PEM certificate".into()))?;
        let built = builder().tls_certs_only(certs).build();
        return built.map_err(|why| ApiError::Config(format!("using the CA certificates: {}", transport(&why))));
    }
    match builder().build() {
        Ok(http) => Ok(http),
        // An initramfs has no certificates at all, and plain http needs none.
        Err(_) if base.scheme() == "http" => builder()
            .tls_certs_only([])
            .build()
            .map_err(|why| ApiError::Config(format!("preparing the client: {}", transport(&why)))),
        Err(why) => Err(ApiError::Config(format!(
            "this system has no usable root certificates ({}); name the server's CA certificate",
            transport(&why)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::{Client, ClientConfig};

    #[test]
    fn addresses_are_taken_or_refused() {
        for (url, fine) in [
            ("http://127.0.0.1:7070", true),
            ("http://127.0.0.1:7070/", true),
            ("http://host/under/here", true),
            ("ftp://host", false),
            ("host:80", false),
            ("", false),
            ("http://user:secret@host", false),
            ("http://host/?q=1", false),
        ] {
            assert_eq!(Client::new(&ClientConfig::new(url)).is_ok(), fine, "{url:?}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut config = ClientConfig::new("http://host");
        config.token = Some("slp_secret".into());
        let client = Client::new(&config).unwrap();
        assert!(!format!("{config:?} {client:?}").contains("secret"));
        config.token = Some("two\nlines".into());
        let why = Client::new(&config).unwrap_err().to_string();
        assert!(!why.contains("two"), "{why}");
        config.token = None;
        config.ca_pem = Some(b"no certificate".to_vec());
        assert!(Client::new(&config).is_err());
    }
}
