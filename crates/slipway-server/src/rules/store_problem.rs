//! What the store says, in the words of the API.

use crate::db::TxError;
use slipway_api::{Code, Problem};
use slipway_store::{LedgerError, StoreError};
use std::io;

/// The problem document for a refusal of the store. `act` names what was done to what: `committing jan/os`.
pub fn store_problem(act: &str, error: StoreError) -> Problem {
    if error.is_no_space() {
        return Problem::new(Code::NoSpace, format!("{act}: no space left on the server"))
            .hint("delete what is not needed, or ask an admin to prune");
    }
    let title = format!("{act}: {error}");
    if error.is_flush_failed() {
        tracing::error!(error = title, "store");
        return Problem::new(
            Code::Unavailable,
            format!("{act}: a flush to the server's disk went wrong, so nothing more is kept"),
        )
        .hint("ask the server's admin to check the disk");
    }
    if error.is_away() {
        tracing::error!(error = title, "store");
        return Problem::new(Code::Unavailable, format!("{act}: the storage does not answer"))
            .hint("try again when it is back; the server's log has the reason");
    }
    match error {
        StoreError::Poisoned => Problem::new(Code::Unavailable, title).hint("the server must be started again"),
        StoreError::Source(source) | StoreError::Frames(source) => source_problem(act, source),
        StoreError::Format { .. } => Problem::new(Code::BadImage, title),
        StoreError::ChunksMissing { .. } => {
            Problem::new(Code::ChunksMissing, title).hint("ask `missing` again and send them")
        }
        StoreError::SegmentsMissing { .. } => Problem::new(Code::SegmentsMissing, title).hint("send them"),
        StoreError::ChunksGone => Problem::new(Code::ChunksGone, title).hint("send them again"),
        StoreError::NotFound { .. } | StoreError::Damaged { .. } | StoreError::ChunkUnreadable { .. } => {
            Problem::new(Code::Damaged, title).hint("`slipway check` names everything that is hurt")
        }
        StoreError::TooLarge { .. } => Problem::new(Code::TooLarge, title),
        StoreError::PastEnd { .. } => Problem::new(Code::RangeNotSatisfiable, title),
        StoreError::Stopped => Problem::new(Code::Unavailable, title),
        StoreError::Away => Problem::new(Code::Unavailable, title).hint("mount it, then start the scrub again"),
        StoreError::PlanStale => Problem::new(Code::Conflict, title).hint("prune again"),
        StoreError::Busy => Problem::new(Code::Conflict, title).hint("wait for the other one to end"),
        StoreError::Ledger(LedgerError::Gone(_)) => Problem::new(Code::ChunksGone, title).hint("send them again"),
        // The rows of the store are the database's, which has its own reasons, such as a full disk.
        StoreError::Ledger(LedgerError::Rows(why)) => match why.downcast::<TxError>() {
            Ok(why) => {
                let mut problem = Problem::from(*why);
                problem.title = format!("{act}: {}", problem.title);
                problem
            }
            Err(_) => unexplained(act, &title),
        },
        StoreError::Blob(_) => unexplained(act, &title),
    }
}

fn unexplained(act: &str, title: &str) -> Problem {
    tracing::error!(error = title, "store");
    Problem::new(Code::Internal, format!("{act}: the storage did not do what it was asked"))
        .hint("the server's log has the reason")
}

/// An error while reading what somebody sends. A reader that knows better hands a [`Problem`] through as the error's inside.
fn source_problem(act: &str, source: io::Error) -> Problem {
    if source.get_ref().is_some_and(|inner| inner.is::<Problem>()) {
        if let Some(Ok(problem)) = source.into_inner().map(|inner| inner.downcast::<Problem>()) {
            return *problem;
        }
        return Problem::new(Code::Internal, format!("{act}: the source went away"));
    }
    match source.raw_os_error() {
        Some(_) => {
            tracing::error!(error = %source, act, "reading a source");
            Problem::new(Code::Internal, format!("{act}: {source}"))
        }
        None => Problem::new(Code::BadImage, format!("{act}: {source}")),
    }
}

#[cfg(test)]
mod tests {
    use super::store_problem;
    use slipway_api::{Code, Problem};
    use slipway_store::StoreError;
    use std::io;

    #[test]
    fn every_refusal_has_its_code() {
        fn check(error: StoreError, code: Code) {
            let problem = store_problem("committing jan/os", error);
            assert_eq!(problem.code, code, "{problem:?}");
        }
        check(StoreError::Poisoned, Code::Unavailable);
        check(StoreError::ChunksGone, Code::ChunksGone);
        check(StoreError::Busy, Code::Conflict);
        check(StoreError::Source(io::Error::new(io::ErrorKind::UnexpectedEof, "the body ended early")), Code::BadImage);
        check(StoreError::Source(io::Error::from_raw_os_error(5)), Code::Internal);
        check(StoreError::Source(io::Error::from_raw_os_error(28)), Code::NoSpace);
        let known = Problem::new(Code::DigestMismatch, "the body has another digest");
        check(StoreError::Source(io::Error::other(known)), Code::DigestMismatch);
        let rows = crate::db::TxError::from(Problem::new(Code::Conflict, "the database has its reason"));
        check(StoreError::Ledger(slipway_store::LedgerError::rows(rows)), Code::Conflict);
        check(StoreError::Ledger(slipway_store::LedgerError::rows("something else")), Code::Internal);
        check(StoreError::PastEnd { offset: 1, len: 1, size: 1 }, Code::RangeNotSatisfiable);
        check(StoreError::TooLarge { what: "body", len: 2, max: 1 }, Code::TooLarge);
    }
}
