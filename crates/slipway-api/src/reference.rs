//! References as people type them: `owner/name[:N|:channel][@root]`.

use crate::name::{ChannelName, NameError, Slug};
use slipway_chunk::Root;
use std::fmt;
use std::str::FromStr;

/// `owner/name`. The owner may be `me`, which the server reads as the caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageRef {
    /// The owner's account name, or `me`.
    pub owner: String,
    /// The image's name.
    pub slug: Slug,
}

/// Which version of an image is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum VersionPick {
    /// The newest one.
    Latest,
    /// By number.
    Number(u64),
    /// By channel.
    Channel(ChannelName),
}

/// `owner/name[:N|:channel][@root]`; the root, if given, must be the version's root.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VersionRef {
    /// The image.
    pub image: ImageRef,
    /// The version; the newest if none was named.
    pub pick: VersionPick,
    /// The root that the version must have.
    pub root: Option<Root>,
}

/// Why a reference cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// No `/` between owner and name, or more than one.
    #[error("reference '{0}' is not of the form owner/name[:version]; for your own images write me/{0}")]
    Shape(String),
    /// A part is not allowed.
    #[error("reference '{text}': {source}")]
    Name {
        /// The whole reference.
        text: String,
        /// Which part and why.
        source: NameError,
    },
    /// The text after `@` is no root.
    #[error("reference '{0}': a root is 64 hexadecimal digits")]
    Root(String),
    /// A version where only an image can be meant.
    #[error("reference '{0}' names a version; an image is expected here")]
    VersionNotExpected(String),
}

fn owner_check(text: &str, owner: &str) -> Result<(), ReferenceError> {
    if owner == "me" {
        return Ok(());
    }
    owner
        .parse::<crate::AccountName>()
        .map(drop)
        .map_err(|source| ReferenceError::Name { text: printable(text), source })
}

/// A reference is echoed in errors, so control and bidirectional characters are shown escaped.
fn printable(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_default).collect()
}

impl FromStr for ImageRef {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (owner, slug) = text.split_once('/').ok_or_else(|| ReferenceError::Shape(printable(text)))?;
        if slug.contains(':') || slug.contains('@') {
            return Err(ReferenceError::VersionNotExpected(printable(text)));
        }
        owner_check(text, owner)?;
        let slug = slug.parse().map_err(|source| ReferenceError::Name { text: printable(text), source })?;
        Ok(Self { owner: owner.to_owned(), slug })
    }
}

impl FromStr for VersionPick {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        match text.parse::<u64>() {
            Ok(number) if text.bytes().all(|b| b.is_ascii_digit()) && number <= i64::MAX as u64 => {
                Ok(Self::Number(number))
            }
            _ => text.parse().map(Self::Channel),
        }
    }
}

impl FromStr for VersionRef {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (rest, root) = match text.split_once('@') {
            None => (text, None),
            Some((rest, root)) => (rest, Some(root.parse().map_err(|_| ReferenceError::Root(printable(text)))?)),
        };
        let (image, pick) = match rest.split_once(':') {
            None => (rest, VersionPick::Latest),
            Some((image, pick)) => {
                (image, pick.parse().map_err(|source| ReferenceError::Name { text: printable(text), source })?)
            }
        };
        Ok(Self { image: image.parse()?, pick, root })
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.slug)
    }
}

impl fmt::Display for VersionPick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Channel(name) => write!(f, "{name}"),
        }
    }
}

impl fmt::Display for VersionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.image)?;
        if self.pick != VersionPick::Latest {
            write!(f, ":{}", self.pick)?;
        }
        match &self.root {
            Some(root) => write!(f, "@{root}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ImageRef, VersionRef};

    #[test]
    fn references_are_read_and_printed_back() {
        let root = "ab".repeat(32);
        for (text, fine) in [
            ("me/os", true),
            ("jan/os:0", true),
            ("jan/os:stable", true),
            (&format!("jan/os:3@{root}")[..], true),
            (&format!("jan/os@{root}")[..], true),
            ("os", false),
            ("jan/", false),
            ("/os", false),
            ("jan/os/x", false),
            ("jan/../x", false),
            ("jan/os:", false),
            ("jan/os:1x", false),
            ("jan/os:-1", false),
            ("jan/os@abc", false),
            ("jan/o\u{202e}s", false),
        ] {
            match text.parse::<VersionRef>() {
                Ok(read) => {
                    assert!(fine, "{text:?} was accepted");
                    assert_eq!(read.to_string(), text);
                }
                Err(why) => assert!(!fine, "{text:?}: {why}"),
            }
        }
        assert!("jan/os:1".parse::<ImageRef>().is_err());
        let shown = "me/a\u{202e}b\n".parse::<VersionRef>().unwrap_err().to_string();
        assert!(shown.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{shown:?}");
    }
}
