//! When somebody asks this program to stop.

use tokio::signal::unix::{SignalKind, signal};

/// Ends at the first SIGTERM or Ctrl-C after this call, also one that comes before the first look.
pub(crate) fn stop_asked() -> impl Future<Output = ()> {
    let signals = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    async move {
        let [terminate, interrupt] = signals.map(|taken| async {
            match taken {
                Ok(mut signals) => drop(signals.recv().await),
                // Untaken, it ends the program by itself.
                Err(_) => std::future::pending().await,
            }
        });
        tokio::select! {
            () = terminate => (),
            () = interrupt => (),
        }
    }
}
