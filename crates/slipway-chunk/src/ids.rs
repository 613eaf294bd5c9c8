use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A text that is not the lower-case hex form of an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: want {digits} lower-case hex digits")]
pub struct IdError {
    what: &'static str,
    digits: usize,
}

/// Only lower case is accepted: one id has one spelling, so that texts can be compared.
fn hex_decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = [0; 2 * $len];
                for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
                    pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
                    pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
                }
                f.pad(str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                hex_decode(text).map(Self).ok_or(IdError { what: $what, digits: 2 * $len })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

macro_rules! digest_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        id!($(#[$doc])* $name, 32, $what);

        impl $name {
            /// The BLAKE3 of `bytes`.
            pub fn of(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }
        }
    };
}

digest_id!(
    /// Names a chunk: the BLAKE3 of its raw bytes.
    ChunkId,
    "chunk id"
);
digest_id!(
    /// Names a segment: the BLAKE3 of its encoding.
    SegmentId,
    "segment id"
);
digest_id!(
    /// Names a content: the BLAKE3 of its manifest's encoding. Equal roots mean equal bytes, not the reverse.
    Root,
    "root"
);
digest_id!(
    /// The BLAKE3 of some bytes, for a whole raw image what `b3sum` prints.
    Digest,
    "digest"
);
id!(
    /// Names a pack: 16 random bytes, never used again.
    PackId,
    16,
    "pack id"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms() {
        fn check(text: &str, good: bool) {
            assert_eq!(text.parse::<PackId>().is_ok(), good, "{text:?}");
        }
        check("000102030405060708090a0b0c0d0e0f", true);
        check("000102030405060708090A0b0c0d0e0f", false);
        check("000102030405060708090a0b0c0d0e0", false);
        check("000102030405060708090a0b0c0d0e0f0", false);
        check("000102030405060708090a0b0c0d0e0g", false);
        check("000102030405060708090a0b0c0d0eé", false);
        check("", false);
    }

    #[test]
    fn text_and_json_give_back_the_id() {
        let id = ChunkId::of(b"abc");
        let text = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
        assert_eq!(id.to_string(), text);
        assert_eq!(format!("{id:?}"), text);
        assert_eq!(text.parse(), Ok(id));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<ChunkId>(&json).unwrap(), id);
        assert!(serde_json::from_str::<ChunkId>("\"64\"").is_err());
        let error = "zz".parse::<Root>().unwrap_err();
        assert_eq!(error.to_string(), "root: want 64 lower-case hex digits");
    }
}
