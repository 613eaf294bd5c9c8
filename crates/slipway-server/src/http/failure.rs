//! Work on blocking threads, and what becomes of its failures.

use slipway_api::{Code, Problem};

/// The work of a blocking thread that panicked or was cancelled.
pub(crate) fn joined<T>(act: &str, result: Result<T, tokio::task::JoinError>) -> Result<T, Problem> {
    result.map_err(|error| {
        let what = if error.is_panic() { "it panicked" } else { "it was cancelled" };
        Problem::new(Code::Internal, format!("{act}: {what}"))
    })
}

/// Runs blocking work and names it if it panics.
pub(crate) async fn blocking<T: Send + 'static>(
    act: &str,
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    joined(act, tokio::task::spawn_blocking(work).await)?
}
