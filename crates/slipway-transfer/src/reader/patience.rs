//! Waiting for the server: through a restart of it, but not for ever.

use super::RemoteReader;
use crate::TransferError;
use slipway_api::ApiError;
use std::time::{Duration, Instant};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(300);
/// What a call gets at least, after a long silence.
const LEAST: Duration = Duration::from_secs(1);

impl RemoteReader {
    /// For threads that may wait; see [`patiently`](Self::patiently).
    pub(super) fn wait_patiently<T, F>(&self, call: impl Fn() -> F) -> Result<T, TransferError>
    where
        F: Future<Output = Result<T, TransferError>>,
    {
        self.0.runtime.block_on(self.patiently(call))
    }

    /// Makes a call again while the server is away, until it has been away for as long as the reader's patience lasts. Then every call
    /// is made once, and only briefly.
    pub(super) async fn patiently<T, F>(&self, call: impl Fn() -> F) -> Result<T, TransferError>
    where
        F: Future<Output = Result<T, TransferError>>,
    {
        let (outage, patience) = (self.0.cache.outage(), self.0.options.patience);
        loop {
            let (began, limit) = (Instant::now(), patience.saturating_sub(outage.so_far()).max(LEAST));
            let tried = tokio::select! {
                biased;
                () = self.0.options.cancel.cancelled() => return Err(TransferError::Cancelled),
                tried = tokio::time::timeout(limit, call()) => tried,
            };
            let why = match tried {
                Ok(Err(why)) if is_away(&why) => why,
                Ok(answer) => {
                    outage.over();
                    return answer;
                }
                Err(_) => silent(limit),
            };
            if outage.lasts(began) >= patience {
                return Err(why);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn silent(limit: Duration) -> TransferError {
    let reason = format!("no answer from the server in {} s", limit.as_secs());
    ApiError::Transport { act: "reading an image".into(), reason }.into()
}

fn is_away(why: &TransferError) -> bool {
    match why {
        TransferError::Api(ApiError::Transport { .. }) => true,
        TransferError::Api(ApiError::Problem(problem)) => matches!(problem.status, 429 | 502..=504),
        _ => false,
    }
}
