//! Names: accounts, image slugs and channels, each a type that only its check makes.

use serde::{Deserialize, Serialize};

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("{what} is empty")]
    Empty { what: &'static str },
    /// Longer than allowed.
    #[error("{what} has {len} characters; at most {max} are allowed")]
    TooLong { what: &'static str, len: usize, max: usize },
    /// A character outside the allowed set.
    #[error(
        "{what} has the character {found:?} at place {place}; allowed are a-z, 0-9, '.', '_' and '-', the first a letter or digit"
    )]
    BadCharacter { what: &'static str, found: char, place: usize },
    /// A word with a meaning of its own.
    #[error("{what} '{word}' is reserved")]
    Reserved { what: &'static str, word: String },
    /// A channel that looks like a version number.
    #[error("{what} begins with a digit, which would look like a version number")]
    LeadingDigit { what: &'static str },
}

fn slug_check(what: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    for (place, found) in text.chars().enumerate() {
        let fine =
            found.is_ascii_lowercase() || found.is_ascii_digit() || (place > 0 && matches!(found, '.' | '_' | '-'));
        if !fine {
            return Err(NameError::BadCharacter { what, found, place: place + 1 });
        }
    }
    if text.len() > 63 {
        return Err(NameError::TooLong { what, len: text.len(), max: 63 });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String, pattern = "^[a-z0-9][a-z0-9._-]{0,62}$")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                slug_check($what, text)?;
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

fn reserved(what: &'static str, text: &str, words: &[&str]) -> Result<(), NameError> {
    match words.contains(&text) {
        true => Err(NameError::Reserved { what, word: text.to_owned() }),
        false => Ok(()),
    }
}

name!(
    /// What owns things: a user, a group, or the built-in `system`. `me` is an alias of the caller and never an account.
    AccountName, "account name", |text| reserved("account name", text, &["me", "latest"])
);
name!(
    /// An image's name within its owner: unique per account, trash included.
    Slug, "image name", |text| reserved("image name", text, &["me", "system", "latest"])
);
name!(
    /// A movable name for a version; never starts with a digit; `latest` always means the newest version.
    ChannelName, "channel name", |text| {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(NameError::LeadingDigit { what: "channel name" });
        }
        reserved("channel name", text, &["latest"])
    }
);

#[cfg(test)]
mod tests {
    use super::{AccountName, ChannelName, Slug};

    #[test]
    fn names_are_allowed_or_refused() {
        for (text, account, slug, channel) in [
            ("jan", true, true, true),
            ("a.b_c-9", true, true, true),
            ("9p", true, true, false),
            ("system", true, false, true),
            ("me", false, false, true),
            ("latest", false, false, false),
            ("", false, false, false),
            (".hidden", false, false, false),
            ("..", false, false, false),
            ("-x", false, false, false),
            ("Jan", false, false, false),
            ("a/b", false, false, false),
            ("a\u{202e}b", false, false, false),
            ("a\nb", false, false, false),
            ("é", false, false, false),
        ] {
            assert_eq!(text.parse::<AccountName>().is_ok(), account, "account {text:?}");
            assert_eq!(text.parse::<Slug>().is_ok(), slug, "slug {text:?}");
            assert_eq!(text.parse::<ChannelName>().is_ok(), channel, "channel {text:?}");
        }
        assert!("a".repeat(63).parse::<Slug>().is_ok());
        assert!("a".repeat(64).parse::<Slug>().is_err());
    }
}
