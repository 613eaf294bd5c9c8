use super::request::JSON_MAX;
use super::{ApiError, Client};
use jiff::Timestamp;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, DATE, ETAG, HeaderName};

/// What a server shows to everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSeen {
    /// Its version; `None` when what answers is no Slipway server.
    pub version: Option<String>,
    /// What its clock says, to the second.
    pub date: Option<Timestamp>,
}

/// Bytes of an answer of two lines at most.
const READY_MAX: usize = 4 << 10;

impl Client {
    /// Looks at a server without a token.
    pub async fn server_seen(&self) -> Result<ServerSeen, ApiError> {
        let ask = self.ask_url(Method::HEAD, "looking at the server", self.base_join("openapi.json")?, true, false);
        let (_, headers, _) = self.fetch(ask, JSON_MAX).await?;
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let json = text(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
        // The description of the API is tagged with the version that it describes.
        let tag = text(ETAG).filter(|_| json).map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_owned());
        let date = text(DATE).and_then(|date| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok());
        Ok(ServerSeen { version: tag.filter(|tag| !tag.is_empty()), date })
    }

    /// Asks whether the server's database and blobs answer it. Gives what it has to say besides, such as that it takes no uploads.
    pub async fn server_ready(&self) -> Result<Option<String>, ApiError> {
        let ask =
            self.ask_url(Method::GET, "asking whether the server is ready", self.base_join("readyz")?, true, false);
        let (_, _, body) = self.fetch(ask.once(), READY_MAX).await?;
        let text = String::from_utf8_lossy(&body);
        Ok(text.lines().nth(1).map(str::to_owned))
    }
}
