//! Bytes from an address of somebody else, who is not a server of ours and is believed in nothing: limits on redirects and on silence.

use bytes::Bytes;
use reqwest::{Client, Response, StatusCode, Url};
use std::time::Duration;

/// How often an address may point to another.
const REDIRECTS_MAX: usize = 5;
/// The longest address.
const ADDRESS_MAX: usize = 4096;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Why nothing, or not all, was fetched. No text has the address' query, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// It is no address that is fetched from.
    #[error("{0}")]
    Address(String),
    /// Nobody knows the host.
    #[error("the host {host} is not known: {reason}")]
    Host {
        /// Its name.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// The server has nothing there, or says no.
    #[error("the server answers {status}")]
    Answer {
        /// The HTTP status.
        status: u16,
    },
    /// The network or the server failed.
    #[error("{0}")]
    Broken(String),
}

/// A download under way.
#[derive(Debug)]
pub struct Fetch {
    response: Response,
    idle: Duration,
}

/// Checks an address without asking anybody.
///
/// # Errors
/// [`FetchError::Address`] when it is neither `http` nor `https`, or has a user, a password or a fragment.
pub fn fetch_address(address: &str) -> Result<(), FetchError> {
    address_parse(address).map(drop)
}

fn address_parse(address: &str) -> Result<Url, FetchError> {
    let refuse = |why: &str| Err(FetchError::Address(format!("the address {why}")));
    if address.len() > ADDRESS_MAX {
        return refuse("is longer than 4096 bytes");
    }
    match Url::parse(address) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() => {
            refuse("must begin with http:// or https://")
        }
        Ok(url) if !url.username().is_empty() || url.password().is_some() => refuse("has a user or password in it"),
        Ok(url) if url.fragment().is_some() => refuse("has a fragment (#…)"),
        Ok(url) => Ok(url),
        Err(_) => refuse("is no URL; write http://HOST/PATH or https://HOST/PATH"),
    }
}

impl Fetch {
    /// Asks for what is at an address; `idle` is the longest silence, before the answer and within it. Proxies of the environment are not
    /// used. Redirects are followed five times, on the same host alone, and never from `https` to `http`.
    ///
    /// # Errors
    /// When it is no address, the host is not known or does not answer, or the answer is not 200.
    pub async fn begin(address: &str, idle: Duration) -> Result<Self, FetchError> {
        let url = address_parse(address)?;
        let client = client(&url)?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let asked = tokio::time::timeout(CONNECT_LIMIT + idle, client.get(url).send()).await;
        let response = match asked {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(failed(&error, &host)),
            Err(_) => return Err(silent(idle)),
        };
        match response.status() {
            StatusCode::OK => Ok(Self { response, idle }),
            status => Err(FetchError::Answer { status: status.as_u16() }),
        }
    }

    /// How many bytes the server says that there are.
    pub fn length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// The next bytes, or none at the end. An end before the announced length is an error.
    ///
    /// # Errors
    /// When the server is silent for too long, or hangs up.
    pub async fn part_next(&mut self) -> Result<Option<Bytes>, FetchError> {
        match tokio::time::timeout(self.idle, self.response.chunk()).await {
            Ok(Ok(part)) => Ok(part),
            Ok(Err(error)) => Err(failed(&error, "")),
            Err(_) => Err(silent(self.idle)),
        }
    }
}

fn silent(idle: Duration) -> FetchError {
    FetchError::Broken(format!("the server was silent for {idle:?}"))
}

/// What is behind the outer texts, which have the address.
fn failed(error: &reqwest::Error, host: &str) -> FetchError {
    let mut cause = std::error::Error::source(error);
    let mut unknown = false;
    let mut reason = String::from("the connection broke");
    while let Some(inner) = cause {
        reason = inner.to_string();
        unknown |= reason.contains("dns error");
        cause = inner.source();
    }
    match (unknown, error.is_timeout()) {
        (true, _) => FetchError::Host { host: host.to_owned(), reason },
        (false, true) => FetchError::Broken(format!("no connection within {CONNECT_LIMIT:?}")),
        (false, false) => FetchError::Broken(reason),
    }
}

fn client(url: &Url) -> Result<Client, FetchError> {
    // One provider for the whole program; that another call installed it first is fine.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let redirect = reqwest::redirect::Policy::custom(|attempt| {
        let to = attempt.url();
        let downgrade = to.scheme() != "https" && attempt.previous().iter().any(|from| from.scheme() == "https");
        let with_password = !to.username().is_empty() || to.password().is_some();
        if attempt.previous().len() > REDIRECTS_MAX {
            return attempt.error("it redirects more than five times");
        }
        // Who may be asked was decided of the host that the request names.
        if attempt.previous().first().and_then(Url::host_str) != to.host_str() {
            return attempt.error("it redirects to another host; name the address that it redirects to");
        }
        match (downgrade, with_password) {
            (true, _) => attempt.error("it redirects from https to http"),
            (false, true) => attempt.error("it redirects to an address with a user or password"),
            (false, false) => attempt.follow(),
        }
    });
    let builder = || {
        Client::builder()
            .user_agent(concat!("slipway/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_LIMIT)
            .no_proxy()
            .referer(false)
    };
    let broken = |error: reqwest::Error| FetchError::Broken(format!("preparing to ask: {error}"));
    match builder().redirect(redirect).build() {
        Ok(client) => Ok(client),
        // An initramfs has no certificates at all, and plain http needs none.
        Err(_) if url.scheme() == "http" => {
            builder().tls_certs_only([]).redirect(reqwest::redirect::Policy::none()).build().map_err(broken)
        }
        Err(error) => Err(broken(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::fetch_address;

    #[test]
    fn addresses_are_looked_at_first() {
        for (address, why) in [
            ("http://host/path?signature=x", ""),
            ("https://[::1]:8443/", ""),
            ("ftp://host/", "http://"),
            ("file:///etc/passwd", "http://"),
            ("http://me:secret@host/", "password"),
            ("http://host/#x", "fragment"),
            ("host/path", "no URL"),
            ("", "no URL"),
        ] {
            let said = fetch_address(address).map_err(|error| error.to_string());
            match why {
                "" => assert_eq!(said, Ok(())),
                why => {
                    let said = said.unwrap_err();
                    assert!(said.contains(why) && !said.contains("secret"), "{address}: {said}");
                }
            }
        }
    }
}
