//! The client of a node's service: a method per route, over a unix socket, HTTP or HTTPS.
//!
//! Nothing is asked twice by itself: what a node does to its kernel is not undone by asking again. Tokens and secrets of
//! definitions never reach a `Debug` text or an error.

mod address;
mod error;
mod exec;
mod stream;

pub use address::NodeAddress;
pub use error::{NodeError, Unreached};
pub use exec::{ExecFrame, ExecReader, ExecWriter};
pub use stream::{NodeEvents, NodeOutput};

use super::{Attach, Container, ContainerState, Mount, NodeProblem, ObjectId};
use crate::{CLIENT_HEADER, VERSION};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// Under which path everything is.
const BASE: &str = "imageapi/v1";
/// The longest answer that is read; a node has some thousand objects at most.
const ANSWER_MAX: usize = 64 << 20;
/// The longest refusal that is read.
const PROBLEM_MAX: usize = 1 << 20;
const CONNECT: Duration = Duration::from_secs(10);
/// A question is answered out of memory.
const ASK: Duration = Duration::from_secs(60);
/// Logins to far servers and downloads take their time; the service itself gives up long before this.
const ACT: Duration = Duration::from_secs(1800);

/// Where a node's service is and how to speak with it.
#[derive(Clone)]
pub struct NodeConfig {
    /// Where it listens.
    pub address: NodeAddress,
    /// The secret that is sent as `Authorization: Bearer`.
    pub token: Option<String>,
    /// Certificates in PEM that alone are trusted; the system's roots if not given.
    pub ca_pem: Option<Vec<u8>>,
    /// Our own certificate and its key in PEM, one after the other, for a service that asks for one.
    pub identity_pem: Option<Vec<u8>>,
}

impl NodeConfig {
    /// Without token and certificates.
    pub fn new(address: NodeAddress) -> Self {
        Self { address, token: None, ca_pem: None, identity_pem: None }
    }
}

impl std::fmt::Debug for NodeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeConfig")
            .field("address", &self.address)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("own_ca", &self.ca_pem.is_some())
            .field("identity", &self.identity_pem.is_some())
            .finish()
    }
}

/// Which container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerKey {
    /// By its number.
    Id(ObjectId),
    /// By its name.
    Name(String),
}

impl ContainerKey {
    fn pair(&self) -> (&'static str, String) {
        match self {
            Self::Id(id) => ("id", id.to_string()),
            Self::Name(name) => ("name", name.clone()),
        }
    }
}

impl std::fmt::Display for ContainerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A connection to one node; cheap to clone.
#[derive(Clone)]
pub struct NodeClient {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    address: NodeAddress,
    base: Url,
    token: Option<HeaderValue>,
}

impl std::fmt::Debug for NodeClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeClient").field("address", &self.inner.address).finish_non_exhaustive()
    }
}

impl NodeClient {
    /// Prepares a client; nothing is sent yet.
    ///
    /// # Errors
    /// [`NodeError::Config`] when the token is not made of visible ASCII characters, or certificates cannot be read.
    pub fn new(config: &NodeConfig) -> Result<Self, NodeError> {
        let base = match &config.address {
            // The host is only said in a header; the socket decides who answers.
            NodeAddress::Unix(_) => "http://node",
            NodeAddress::Url(url) => url,
        };
        let base = Url::parse(base).map_err(|_| NodeError::Config(format!("'{base}' is no URL")))?;
        let token = config.token.as_deref().map(bearer).transpose()?;
        // One provider for the whole program; that another call installed it first is fine.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = http_build(config)?;
        Ok(Self { inner: Arc::new(Inner { http, address: config.address.clone(), base, token }) })
    }

    /// Where the service listens.
    pub fn address(&self) -> &NodeAddress {
        &self.inner.address
    }

    /// All attachments.
    pub async fn attach_list(&self) -> Result<Vec<Attach>, NodeError> {
        self.fetch("listing attachments", self.ask("attach", &[])).await
    }

    /// One attachment.
    pub async fn attach_get(&self, id: ObjectId) -> Result<Attach, NodeError> {
        let act = format!("looking at attachment {id}");
        let found = self.fetch(&act, self.ask("attach", &[("id", id.to_string())])).await?;
        only(&act, found)
    }

    /// Makes an attachment.
    pub async fn attach_create(&self, attach: &Attach) -> Result<Attach, NodeError> {
        self.create("attaching", "attach", attach).await
    }

    /// Takes an attachment away.
    pub async fn attach_delete(&self, id: ObjectId, force: bool) -> Result<Attach, NodeError> {
        let query = [("id", id.to_string()), ("force", force.to_string())];
        let act = format!("removing attachment {id}");
        self.fetch(&act, self.request(Method::DELETE, "attach", &query).timeout(ACT)).await
    }

    /// All mounts.
    pub async fn mount_list(&self) -> Result<Vec<Mount>, NodeError> {
        self.fetch("listing mounts", self.ask("mount", &[])).await
    }

    /// One mount.
    pub async fn mount_get(&self, id: ObjectId) -> Result<Mount, NodeError> {
        let act = format!("looking at mount {id}");
        let found = self.fetch(&act, self.ask("mount", &[("id", id.to_string())])).await?;
        only(&act, found)
    }

    /// Makes a mount.
    pub async fn mount_create(&self, mount: &Mount) -> Result<Mount, NodeError> {
        self.create("mounting", "mount", mount).await
    }

    /// Takes a mount away.
    pub async fn mount_delete(&self, id: ObjectId, force: bool) -> Result<Mount, NodeError> {
        let query = [("id", id.to_string()), ("force", force.to_string())];
        let act = format!("removing mount {id}");
        self.fetch(&act, self.request(Method::DELETE, "mount", &query).timeout(ACT)).await
    }

    /// All containers.
    pub async fn container_list(&self) -> Result<Vec<Container>, NodeError> {
        self.fetch("listing containers", self.ask("container", &[])).await
    }

    /// One container.
    pub async fn container_get(&self, key: &ContainerKey) -> Result<Container, NodeError> {
        let act = format!("looking at container {key}");
        let found = self.fetch(&act, self.ask("container", &[key.pair()])).await?;
        only(&act, found)
    }

    /// Makes a container, and starts it if its state says so. One that did not start is made all the same, and is dead.
    pub async fn container_create(&self, container: &Container) -> Result<Container, NodeError> {
        self.create("making the container", "container", container).await
    }

    /// Starts, pauses or stops a container.
    pub async fn container_state(&self, key: &ContainerKey, state: ContainerState) -> Result<Container, NodeError> {
        let verb = match state {
            ContainerState::Running => "starting",
            ContainerState::Paused => "pausing",
            _ => "stopping",
        };
        let query = [key.pair(), ("state", state.as_str().to_owned())];
        let act = format!("{verb} container {key}");
        self.fetch(&act, self.request(Method::PATCH, "container", &query).timeout(ACT)).await
    }

    /// Asks a container to end; after `time` seconds, or its own stop time, it is killed. The answer may come before it has ended.
    pub async fn container_stop(&self, key: &ContainerKey, time: Option<u64>) -> Result<Container, NodeError> {
        let mut query = vec![key.pair(), ("state", ContainerState::Exited.as_str().to_owned())];
        query.extend(time.map(|seconds| ("stop_timeout", seconds.to_string())));
        let act = format!("stopping container {key}");
        self.fetch(&act, self.request(Method::PATCH, "container", &query).timeout(ACT)).await
    }

    /// Takes a container away, and what only it stood on.
    pub async fn container_delete(&self, key: &ContainerKey, force: bool) -> Result<Container, NodeError> {
        let query = [key.pair(), ("force", force.to_string())];
        let act = format!("removing container {key}");
        self.fetch(&act, self.request(Method::DELETE, "container", &query).timeout(ACT)).await
    }

    async fn create<T: Serialize + DeserializeOwned>(&self, act: &str, path: &str, body: &T) -> Result<T, NodeError> {
        self.fetch(act, self.request(Method::POST, path, &[]).timeout(ACT).json(body)).await
    }

    fn ask(&self, path: &str, query: &[(&str, String)]) -> RequestBuilder {
        self.request(Method::GET, path, query).timeout(ASK)
    }

    fn request(&self, method: Method, path: &str, query: &[(&str, String)]) -> RequestBuilder {
        let mut url = self.inner.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(BASE.split('/')).extend(path.split('/'));
        }
        for (name, value) in query {
            url.query_pairs_mut().append_pair(name, value);
        }
        let mut request = self.inner.http.request(method, url).header(CLIENT_HEADER, VERSION);
        if let Some(token) = &self.inner.token {
            request = request.header(AUTHORIZATION, token.clone());
        }
        request
    }

    /// Makes a call whose answer comes whole.
    async fn fetch<T: DeserializeOwned>(&self, act: &str, request: RequestBuilder) -> Result<T, NodeError> {
        let response = self.open(act, request).await?;
        let body = self.body(act, response, ANSWER_MAX).await?;
        serde_json::from_slice(&body)
            .map_err(|why| NodeError::protocol(act, format!("the answer of {} cannot be read: {why}", self.address())))
    }

    /// Makes a call and gives the answer, if it is a success, with its body still to be read.
    async fn open(&self, act: &str, request: RequestBuilder) -> Result<Response, NodeError> {
        let response = request.send().await.map_err(|why| self.unreached(act, &why))?;
        let status = response.status();
        if status.is_success() || status == reqwest::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let body = self.body(act, response, PROBLEM_MAX).await.unwrap_or_default();
        let problem = serde_json::from_slice(&body).unwrap_or_else(|_| NodeProblem {
            code: status.as_u16(),
            message: format!("{} answered {status}", self.address()),
            error: None,
            holders: Vec::new(),
            hint: None,
        });
        Err(NodeError::Refused { act: act.to_owned(), status: status.as_u16(), problem: Box::new(problem) })
    }

    async fn body(&self, act: &str, mut response: Response, max: usize) -> Result<Vec<u8>, NodeError> {
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|why| self.unreached(act, &why))? {
            if body.len() + part.len() > max {
                return Err(NodeError::protocol(act, format!("the answer has more than {max} bytes")));
            }
            body.extend_from_slice(&part);
        }
        Ok(body)
    }

    fn unreached(&self, act: &str, why: &reqwest::Error) -> NodeError {
        NodeError::transport(act, &self.address().to_string(), why)
    }
}

/// The one object of an answer that is a list.
fn only<T>(act: &str, mut found: Vec<T>) -> Result<T, NodeError> {
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(NodeError::protocol(act, "the answer is not one object")),
    }
}

fn bearer(token: &str) -> Result<HeaderValue, NodeError> {
    let wrong = || NodeError::Config("the node's token is empty or has characters that no token has".into());
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong());
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok(value)
}

fn http_build(config: &NodeConfig) -> Result<reqwest::Client, NodeError> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("slipway/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        // A command in a container takes its connection over, which only HTTP/1.1 can.
        .http1_only()
        // Names of nodes are those of machines next door; a proxy would see tokens.
        .no_proxy()
        // A redirect would carry the token to wherever it points.
        .redirect(reqwest::redirect::Policy::none());
    if let Some(pem) = &config.identity_pem {
        let identity = reqwest::Identity::from_pem(pem).map_err(|_| {
            NodeError::Config("the client certificate or its key is not PEM, or they do not belong together".into())
        })?;
        builder = builder.identity(identity);
    }
    match (&config.address, &config.ca_pem) {
        (NodeAddress::Unix(path), _) => builder = builder.unix_socket(path.clone()).tls_certs_only([]),
        (NodeAddress::Url(_), Some(pem)) => {
            let certs = reqwest::Certificate::from_pem_bundle(pem)
                .ok()
                .filter(|certs| !certs.is_empty())
                .ok_or_else(|| NodeError::Config("the CA file holds no PEM certificate".into()))?;
            builder = builder.tls_certs_only(certs);
        }
        // Plain http needs no certificates, and an initramfs has none.
        (NodeAddress::Url(url), None) if url.starts_with("http://") => builder = builder.tls_certs_only([]),
        (NodeAddress::Url(_), None) => {}
    }
    builder.build().map_err(|why| {
        let mut cause: &dyn std::error::Error = &why;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        // What rustls says of a key that is another certificate's.
        if cause.to_string().contains("KeyMismatch") {
            return NodeError::Config("the client certificate and its key do not belong together".into());
        }
        NodeError::Config(format!("preparing the client of the node: {cause}"))
    })
}

#[cfg(test)]
mod tests {
    use super::{NodeAddress, NodeClient, NodeConfig};

    #[test]
    fn secrets_are_not_shown_and_bad_ones_are_refused() {
        let mut config = NodeConfig::new(NodeAddress::usual());
        config.token = Some("swn_secret".into());
        config.identity_pem = Some(b"secret".to_vec());
        assert!(!format!("{config:?}").contains("secret"));
        assert!(NodeClient::new(&config).unwrap_err().to_string().contains("certificate"));
        config.identity_pem = None;
        assert!(!format!("{:?}", NodeClient::new(&config).unwrap()).contains("secret"));
        config.token = Some("two\nlines".into());
        assert!(!NodeClient::new(&config).unwrap_err().to_string().contains("two"));
    }
}
