//! When somebody asks this program to stop.

use tokio::signal::unix::{SignalKind, signal};

/// Ends at the first SIGTERM or Ctrl-C.
pub(crate) async fn stop_asked() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => (),
                _ = tokio::signal::ctrl_c() => (),
            }
        }
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
