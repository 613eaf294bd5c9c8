//! What every request has at hand.

use super::keys::KeysBusy;
use super::metrics::Metrics;
use super::peer::Peer;
use super::settings::Settings;
use slipway_node::access::{Caller, Policy, TokenFile};
use slipway_node::{Host, Refusal};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Those who follow events or logs at one time; each keeps a thread.
const FOLLOWERS_MAX: usize = 64;

/// Commands in containers at one time; each keeps a thread or two.
const EXECS_MAX: usize = 64;

/// The service.
pub(crate) struct Site {
    pub(crate) host: Arc<Host>,
    pub(crate) keys: KeysBusy,
    pub(crate) metrics: Metrics,
    pub(crate) stop: CancellationToken,
    /// What goes on after its request was answered, and ends with the stop.
    pub(crate) works: TaskTracker,
    /// How long a body may take to come.
    pub(crate) patience: Duration,
    tokens: TokenFile,
    policy: RwLock<Arc<Policy>>,
    policy_file: Option<PathBuf>,
    followers: Arc<Semaphore>,
    execs: Arc<Semaphore>,
}

impl Site {
    pub(crate) fn new(host: Arc<Host>, policy: Policy, settings: &Settings) -> Self {
        let policy = RwLock::new(Arc::new(policy));
        let (keys, followers) = (KeysBusy::default(), Arc::new(Semaphore::new(FOLLOWERS_MAX)));
        Self {
            host,
            keys,
            metrics: Metrics::default(),
            stop: CancellationToken::new(),
            works: TaskTracker::new(),
            execs: Arc::new(Semaphore::new(EXECS_MAX)),
            patience: settings.patience,
            tokens: TokenFile::new(&settings.state_dir),
            policy,
            policy_file: settings.policy.clone(),
            followers,
        }
    }

    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A place among those who follow events or logs.
    pub(crate) fn follower_seat(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.followers.clone().try_acquire_owned().map_err(|_| {
            Refusal::new(503, format!("{FOLLOWERS_MAX} clients follow events or logs already"))
                .hint("end one of them, or ask again later")
        })
    }

    /// A place among the commands that run in containers.
    pub(crate) fn exec_seat(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.execs.clone().try_acquire_owned().map_err(|_| {
            Refusal::new(503, format!("{EXECS_MAX} commands run in containers already"))
                .hint("end one of them, or ask again later")
        })
    }

    /// Reads the policy again; one that cannot be used changes nothing.
    pub(crate) fn policy_reload(&self) {
        let Some(path) = &self.policy_file else { return };
        match Policy::read(path) {
            Ok(policy) => {
                *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
                tracing::info!(path = %path.display(), "read the policy again");
            }
            Err(error) => tracing::error!(%error, "the policy so far stays"),
        }
    }

    /// Who asks. A token decides if one is shown; else the certificate, or the process at the other end of the socket.
    pub(crate) fn caller(&self, peer: &Peer, token: Option<&str>) -> Result<Caller, Refusal> {
        if let Some(token) = token {
            let found = self.tokens.caller(token, now_ms()).map_err(|error| {
                tracing::error!(%error, "reading the tokens");
                Refusal::new(500, "the tokens of this node cannot be read").hint("the service's log says why")
            })?;
            return found.ok_or_else(|| {
                Refusal::new(401, "this token is not known here, or it has expired")
                    .hint("ask the administrator of this node for a new one")
            });
        }
        let policy = self.policy();
        match peer {
            Peer::Unix { uid, gid, .. } => match policy.peer_role(*uid, *gid) {
                Some(role) => Ok(Caller { name: format!("uid {uid}"), role, is_local_root: *uid == 0 }),
                None => Err(Refusal::new(403, format!("uid {uid} may not use this service"))
                    .hint("ask as root, or let the node's policy file give that user a role")),
            },
            Peer::Tcp { certificate: Some(der), .. } => {
                let print = fingerprint(der);
                match policy.certificate_role(&print) {
                    Some(role) => Ok(Caller { name: format!("certificate {print}"), role, is_local_root: false }),
                    None => Err(Refusal::new(403, format!("the certificate {print} may not use this service")).hint(
                        "let the node's policy file give it a role, in 'certificates' or with 'certificate_role'",
                    )),
                }
            }
            Peer::Tcp { certificate: None, .. } => Err(Refusal::new(401, "this needs a token or a client certificate")
                .hint("send 'Authorization: Bearer TOKEN'")),
        }
    }
}

/// `sha256:HEX` of a certificate.
fn fingerprint(der: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(der).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
