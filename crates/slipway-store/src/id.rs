//! Names of spaces and blobs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use slipway_chunk::PackId;

/// A text that is no id of the kind it was parsed as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("space id {0:?} is not 1 to 64 of a-z, 0-9 and -")]
    Space(String),
    #[error("blob id {0:?} is not 32 lower-case hex digits")]
    Blob(String),
}

/// A set of readers, 1 to 64 of `[a-z0-9-]`. It is part of a blob's key, so its alphabet keeps
/// folders and dots out.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpaceId(String);

impl SpaceId {
    /// Checks the alphabet and the length.
    pub fn new(text: &str) -> Result<SpaceId, IdError> {
        let good = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if good { Ok(SpaceId(text.to_owned())) } else { Err(IdError::Space(text.to_owned())) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SpaceId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<SpaceId, IdError> {
        SpaceId::new(text)
    }
}

impl TryFrom<String> for SpaceId {
    type Error = IdError;
    fn try_from(text: String) -> Result<SpaceId, IdError> {
        SpaceId::new(&text)
    }
}

impl From<SpaceId> for String {
    fn from(space: SpaceId) -> String {
        space.0
    }
}

impl fmt::Display for SpaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SpaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A blob's id: 128 random bits, never used again. A pack's `PackId` has the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlobId([u8; 16]);

impl BlobId {
    pub const fn from_bytes(bytes: [u8; 16]) -> BlobId {
        BlobId(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// A fresh one.
    pub fn random() -> BlobId {
        BlobId(rand::random())
    }

    /// The same bytes as a pack's id.
    pub fn pack(&self) -> PackId {
        PackId::from_bytes(self.0)
    }
}

impl From<PackId> for BlobId {
    fn from(pack: PackId) -> BlobId {
        BlobId(*pack.as_bytes())
    }
}

impl FromStr for BlobId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<BlobId, IdError> {
        let bad = || IdError::Blob(text.to_owned());
        let digits = text.as_bytes();
        if digits.len() != 32 {
            return Err(bad());
        }
        let mut bytes = [0u8; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let high = hex_digit(pair[0]).ok_or_else(bad)?;
            let low = hex_digit(pair[1]).ok_or_else(bad)?;
            *byte = high << 4 | low;
        }
        Ok(BlobId(bytes))
    }
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl TryFrom<String> for BlobId {
    type Error = IdError;
    fn try_from(text: String) -> Result<BlobId, IdError> {
        text.parse()
    }
}

impl From<BlobId> for String {
    fn from(id: BlobId) -> String {
        id.to_string()
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::{BlobId, SpaceId};

    #[test]
    fn spaces_keep_folders_and_dots_out() {
        fn check(text: &str, good: bool) {
            assert_eq!(SpaceId::new(text).is_ok(), good, "{text:?}");
        }
        check("u-1", true);
        check(&"a".repeat(64), true);
        check(&"a".repeat(65), false);
        check("", false);
        check("..", false);
        check("a/b", false);
        check("A", false);
        check("a\n", false);
    }

    #[test]
    fn blob_ids_come_back_from_their_text() {
        let id = BlobId::random();
        assert_eq!(id.to_string().parse::<BlobId>().unwrap(), id);
        assert_eq!(BlobId::from(id.pack()), id);
        for bad in ["", "0", &"g".repeat(32), &"A".repeat(32), &"0".repeat(33)] {
            assert!(bad.parse::<BlobId>().is_err(), "{bad:?}");
        }
    }
}
