//! What helps with a kind of failure when nothing more precise was said: in terms of the API, for whoever has no command line.

use crate::Code;

impl Code {
    /// The next step; every problem document has one, the server's own or this.
    pub fn hint(self) -> &'static str {
        match self {
            Self::InvalidRequest | Self::InvalidName | Self::MethodNotAllowed => {
                "compare the request with the API's description at /docs"
            }
            Self::Unauthenticated => "send a token as 'Authorization: Bearer TOKEN'; POST /api/v1/login makes one",
            Self::Forbidden => "GET /api/v1/me shows what the token may do; ask the owner or an admin for the right",
            Self::NotFound => "check the path; GET /api/v1/images lists what you may read",
            Self::TimedOut => "send the request again, on a connection that does not stall",
            Self::NameTaken => "choose another name; one in the trash is still taken",
            Self::Conflict => "read the resource again and decide anew",
            Self::Pinned => "take off the protection, channel or lease that keeps it",
            Self::ChunksMissing | Self::SegmentsMissing | Self::ChunksGone => {
                "ask 'missing' again, send what it names, then commit again"
            }
            Self::SpaceChanged | Self::Gone => "begin it again",
            Self::OffsetMismatch => "go on at the offset that the answer names",
            Self::PreconditionFailed => "read the resource again and send its new ETag as If-Match",
            Self::TooLarge => "send less, or ask the server's admin to raise the limit",
            Self::UnsupportedMedia => "send one of the types that /docs lists for this path",
            Self::RangeNotSatisfiable => "ask for a range within the length that Content-Range names",
            Self::DigestMismatch | Self::BadImage => "check the bytes at their source and send them again",
            Self::IdempotencyMismatch => "use a new Idempotency-Key for a new request",
            Self::ClientTooOld => "install the slipway that belongs to this server",
            Self::SlowDown => "wait as Retry-After says, then send it again",
            Self::Internal => "look for the request id in the server's log",
            Self::Damaged => "an admin should run a check; other versions may still be whole",
            Self::NotImplemented => "the title says what is missing; a newer server may have it",
            Self::Unavailable => "send it again when the server is back",
            Self::NoSpace => "delete what is not needed and prune, or ask the server's admin for more",
            Self::QuotaExceeded => {
                "GET /api/v1/users/me/quota shows what counts; delete some, or ask an admin for more"
            }
            Self::Unknown => "client and server may be of different versions",
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Code;

    #[test]
    fn every_code_has_a_short_next_step() {
        for code in Code::ALL.iter().chain([&Code::Unknown]) {
            let hint = code.hint();
            assert!((10..120).contains(&hint.len()) && !hint.ends_with('.'), "{code:?}: {hint}");
        }
    }
}
