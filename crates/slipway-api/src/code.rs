//! Stable error codes, the HTTP status each has, and the exit code it becomes on the command line.

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $status:literal, $exit:literal;)*) => {
        /// A stable name for a kind of failure: the `code` of a problem document.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Code {
            $($(#[$doc])* $variant,)*
            /// A code that this client is too old to know.
            #[serde(other)]
            Unknown,
        }

        impl Code {
            /// Every code, for documentation and tests.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The name on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text,)* Code::Unknown => "unknown" }
            }

            /// The HTTP status that a server answers with.
            pub fn status(self) -> u16 {
                match self { $(Code::$variant => $status,)* Code::Unknown => 500 }
            }

            /// The exit code of the command line, as listed in `docs/exit-codes.md`.
            pub fn exit_code(self) -> u8 {
                match self { $(Code::$variant => $exit,)* Code::Unknown => 1 }
            }
        }
    };
}

codes! {
    /// The request is not of the documented shape; `field` says where.
    InvalidRequest = "invalid_request", 400, 2;
    /// A name, slug, channel or reference is not allowed.
    InvalidName = "invalid_name", 400, 2;
    /// No token, or one that is unknown, expired or revoked.
    Unauthenticated = "unauthenticated", 401, 4;
    /// The token or role does not allow this.
    Forbidden = "forbidden", 403, 4;
    /// Not there, or not yours to see.
    NotFound = "not_found", 404, 3;
    /// The path exists but not with this method.
    MethodNotAllowed = "method_not_allowed", 405, 2;
    /// The request's body stopped coming, or came too slowly.
    TimedOut = "timed_out", 408, 8;
    /// The name is taken.
    NameTaken = "name_taken", 409, 5;
    /// Another change came first, or the state does not allow this.
    Conflict = "conflict", 409, 5;
    /// Protected or pinned by something that must keep it.
    Pinned = "pinned", 409, 5;
    /// Chunks that the manifest names are not in the store; ask `missing` again and send them.
    ChunksMissing = "chunks_missing", 409, 5;
    /// Segments that the manifest names are not in the store; send them.
    SegmentsMissing = "segments_missing", 409, 5;
    /// Chunks were pruned between sending and committing; send them again.
    ChunksGone = "chunks_gone", 409, 5;
    /// The readers of the image changed while this upload ran; start it again.
    SpaceChanged = "space_changed", 409, 5;
    /// `Upload-Offset` is not where the upload stands; `offset` in the problem says where.
    OffsetMismatch = "offset_mismatch", 409, 5;
    /// The upload or the layout's address has ended.
    Gone = "gone", 410, 3;
    /// `If-Match` or `If-None-Match` does not hold.
    PreconditionFailed = "precondition_failed", 412, 5;
    /// The body or the image is larger than allowed.
    TooLarge = "too_large", 413, 6;
    /// The content type or encoding is not supported.
    UnsupportedMedia = "unsupported_media", 415, 2;
    /// The range lies outside the content.
    RangeNotSatisfiable = "range_not_satisfiable", 416, 2;
    /// The bytes do not have the digest that was named.
    DigestMismatch = "digest_mismatch", 422, 7;
    /// The body is not the image, frame, segment or manifest it should be.
    BadImage = "bad_image", 422, 7;
    /// The same `Idempotency-Key` was used with another body.
    IdempotencyMismatch = "idempotency_mismatch", 422, 2;
    /// The client is older than this server accepts.
    ClientTooOld = "client_too_old", 426, 1;
    /// Too many attempts; wait as `Retry-After` says.
    SlowDown = "slow_down", 429, 8;
    /// A fault in the server; the request id finds it in the log.
    Internal = "internal", 500, 1;
    /// The stored bytes are damaged; the server refuses to send them.
    Damaged = "damaged", 500, 7;
    /// This server does not do that yet; the title says what is missing.
    NotImplemented = "not_implemented", 501, 1;
    /// The server is stopping, or its storage no longer takes writes.
    Unavailable = "unavailable", 503, 8;
    /// No space is left on the server, or what is left is kept for deleting.
    NoSpace = "no_space", 507, 6;
    /// The account's quota is used up, or what was announced does not fit into it.
    QuotaExceeded = "quota_exceeded", 507, 6;
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn names_on_the_wire_are_the_serde_names() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{}\"", code.as_str()));
        }
        assert_eq!(serde_json::from_str::<Code>("\"of_the_future\"").unwrap(), Code::Unknown);
    }
}
