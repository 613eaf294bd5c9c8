//! `Repr-Digest` and `Content-Digest` (RFC 9530): what a client says of the bytes it sends, and what we say of ours.

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256, Sha512};
use slipway_api::{Code, Problem};

/// The header's name.
pub(crate) const REPR_DIGEST: &str = "repr-digest";
/// Of a whole body, which every body here is, it says the same as the other.
const CONTENT_DIGEST: &str = "content-digest";

/// Hashes bytes as they pass and compares at the end. Without a header it does nothing.
#[derive(Default)]
pub(crate) struct ReprCheck {
    sha256: Option<Sha256>,
    sha512: Option<Sha512>,
    said: Vec<Said>,
}

/// One digest that a header names.
struct Said {
    header: &'static str,
    bytes: Vec<u8>,
    long: bool,
}

impl ReprCheck {
    /// What the request's headers ask to be checked.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut check = Self::default();
        for header in [REPR_DIGEST, CONTENT_DIGEST] {
            let bad = |why: &str| {
                Problem::new(Code::InvalidRequest, format!("reading the header {header}: {why}")).field(header)
            };
            for value in headers.get_all(header) {
                let text = value.to_str().map_err(|_| bad("it is not text"))?;
                for member in text.split(',') {
                    let (name, rest) =
                        member.trim().split_once('=').ok_or_else(|| bad("it is not of the form NAME=:BASE64:"))?;
                    let coded = rest.strip_prefix(':').and_then(|rest| rest.strip_suffix(':'));
                    let coded = coded.ok_or_else(|| bad("the digest is not between colons"))?;
                    let bytes = STANDARD.decode(coded).map_err(|_| bad("the digest is not base64"))?;
                    let long = match name.trim() {
                        "sha-256" => false,
                        "sha-512" => true,
                        other => {
                            // A digest that is silently not checked would be a promise that is not kept.
                            let other = super::json::printable(other);
                            return Err(bad(&format!("'{other}' is unknown; known are sha-256 and sha-512")));
                        }
                    };
                    if bytes.len() != if long { 64 } else { 32 } {
                        return Err(bad("the digest has the wrong length"));
                    }
                    if long {
                        check.sha512.get_or_insert_default();
                    } else {
                        check.sha256.get_or_insert_default();
                    }
                    check.said.push(Said { header, bytes, long });
                }
            }
        }
        Ok(check)
    }

    /// Whether there is anything to check.
    pub(crate) fn is_asked(&self) -> bool {
        !self.said.is_empty()
    }

    /// Passes bytes by.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        if let Some(hash) = &mut self.sha256 {
            hash.update(bytes);
        }
        if let Some(hash) = &mut self.sha512 {
            hash.update(bytes);
        }
    }

    /// Compares what passed with what was said.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        let short = self.sha256.map(|hash| hash.finalize().to_vec());
        let long = self.sha512.map(|hash| hash.finalize().to_vec());
        for said in self.said {
            let found = if said.long { &long } else { &short };
            if found.as_ref() != Some(&said.bytes) {
                let title = format!("the body does not have the digest that the header {} names", said.header);
                return Err(Problem::new(Code::DigestMismatch, title)
                    .field(said.header)
                    .hint("send it again; nothing of it was taken"));
            }
        }
        Ok(())
    }
}

/// The header for bytes with this SHA-256 in hex; none if it is no such hex.
pub(crate) fn repr_sha256(hex: &str) -> Option<String> {
    let digits = hex.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes = digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>()?;
    Some(format!("sha-256=:{}:", STANDARD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::{HeaderMap, ReprCheck, repr_sha256};

    #[test]
    fn digests_are_checked_or_refused() {
        let abc = "sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:";
        let wrong = "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:";
        let abc512 =
            "sha-512=:3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw==:";
        for (header, status) in [
            (abc, 0),
            (abc512, 0),
            (&format!("{abc}, {abc512}")[..], 0),
            (wrong, 422),
            (&format!("{abc512}, {wrong}")[..], 422),
            ("sha-256=abc", 400),
            ("sha-256=:abc:", 400),
            ("sha-256=:YWJj:", 400),
            ("md5=:YWJj:", 400),
            ("", 400),
        ] {
            let headers = HeaderMap::from_iter([("repr-digest".parse().unwrap(), header.parse().unwrap())]);
            let got = ReprCheck::from_headers(&headers).and_then(|mut check| {
                check.update(b"a");
                check.update(b"bc");
                check.finish()
            });
            assert_eq!(got.map_or_else(|p| p.status, |()| 0), status, "{header}");
        }
        assert!(ReprCheck::default().finish().is_ok());
        // Both headers count, each by its own name.
        let both = [("repr-digest", abc), ("content-digest", wrong)];
        let both = both.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let mut check = ReprCheck::from_headers(&HeaderMap::from_iter(both)).unwrap();
        check.update(b"abc");
        let problem = check.finish().unwrap_err();
        assert_eq!((problem.status, problem.field.as_deref()), (422, Some("content-digest")));
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(repr_sha256(hex).unwrap(), abc);
        assert_eq!(repr_sha256("zz"), None);
    }
}
