//! Scopes: what a token may do, read from `VERB` or `VERB:PATTERN` and compared with each other.
//!
//! A scope never gives what its user's role does not: the policy asks for role, scope and object together.

use slipway_api::{AccountName, Scope, Slug};

/// Scopes of one token at most.
pub const SCOPES_MAX: usize = 64;

/// The first part of a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Everything that the user may do.
    All,
    /// Read images, versions and their bytes.
    ImageRead,
    /// Make and change images and versions. Covers reading the same images, because a push compares with what is there.
    ImageWrite,
    /// Put images and versions into the trash and take them out again.
    ImageDelete,
    /// Change who may read an image.
    ImageShare,
    /// Users, passwords and tokens.
    People,
    /// Prune, check, journal and metrics.
    Store,
}

impl Verb {
    /// Every verb, for documentation and tests.
    pub const ALL: [Self; 7] =
        [Self::All, Self::ImageRead, Self::ImageWrite, Self::ImageDelete, Self::ImageShare, Self::People, Self::Store];

    /// The text of it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "*",
            Self::ImageRead => "image:read",
            Self::ImageWrite => "image:write",
            Self::ImageDelete => "image:delete",
            Self::ImageShare => "image:share",
            Self::People => "people",
            Self::Store => "store",
        }
    }

    fn takes_pattern(self) -> bool {
        match self {
            Self::ImageRead | Self::ImageWrite | Self::ImageDelete | Self::ImageShare => true,
            Self::All | Self::People | Self::Store => false,
        }
    }

    /// Whether who has this verb also has the other.
    fn covers(self, other: Self) -> bool {
        self == other || self == Self::All || (self == Self::ImageWrite && other == Self::ImageRead)
    }
}

/// Which images a scope is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Pattern {
    Any,
    Exact(String),
    Prefix(String),
}

impl Pattern {
    fn matches(&self, reference: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(text) => text == reference,
            Self::Prefix(text) => reference.starts_with(text.as_str()),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (_, Self::Any) => false,
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Exact(_), Self::Prefix(_)) => false,
            (Self::Prefix(a), Self::Exact(b) | Self::Prefix(b)) => b.starts_with(a.as_str()),
        }
    }
}

/// Why a scope cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// The verb is none of ours.
    #[error(
        "scope '{0}' is unknown; known are *, image:read, image:write, image:delete, image:share, people and store"
    )]
    Verb(String),
    /// A pattern where none is possible.
    #[error("scope '{0}' takes no pattern")]
    NoPattern(String),
    /// The pattern is not of the documented shape.
    #[error("scope '{0}': a pattern is owner/name, owner/start*, owner/* or *")]
    Pattern(String),
    /// None at all, which could do nothing.
    #[error("a token needs at least one scope")]
    None,
    /// More than a token may have.
    #[error("a token has at most {SCOPES_MAX} scopes")]
    TooMany,
}

/// One scope, read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Grant {
    verb: Verb,
    pattern: Pattern,
}

impl Grant {
    /// `me` is what stands for `me/` in a pattern: the name of the token's owner.
    fn parse(text: &str, me: &str) -> Result<Self, ScopeError> {
        let shown = || text.chars().take(100).flat_map(char::escape_default).collect::<String>();
        let with_pattern = |verb: Verb| text.strip_prefix(verb.as_str())?.strip_prefix(':').map(|p| (verb, p));
        if let Some(verb) = Verb::ALL.into_iter().find(|v| v.as_str() == text) {
            return Ok(Self { verb, pattern: Pattern::Any });
        }
        let (verb, pattern) = Verb::ALL.into_iter().find_map(with_pattern).ok_or_else(|| ScopeError::Verb(shown()))?;
        if !verb.takes_pattern() {
            return Err(ScopeError::NoPattern(shown()));
        }
        if pattern == "*" {
            return Ok(Self { verb, pattern: Pattern::Any });
        }
        let bad = || ScopeError::Pattern(shown());
        let (owner, name) = pattern.split_once('/').ok_or_else(bad)?;
        let owner = if owner == "me" { me } else { owner };
        owner.parse::<AccountName>().map_err(|_| bad())?;
        let pattern = match name.strip_suffix('*') {
            Some("") => Pattern::Prefix(format!("{owner}/")),
            Some(start) => {
                // Any beginning of a name is fine: with one more letter it must be a name, which also admits "latest*".
                format!("{start}x").parse::<Slug>().map_err(|_| bad())?;
                Pattern::Prefix(format!("{owner}/{start}"))
            }
            None => {
                name.parse::<Slug>().map_err(|_| bad())?;
                Pattern::Exact(format!("{owner}/{name}"))
            }
        };
        Ok(Self { verb, pattern })
    }

    fn text(&self) -> String {
        match &self.pattern {
            Pattern::Any => self.verb.as_str().to_owned(),
            Pattern::Exact(text) => format!("{}:{text}", self.verb.as_str()),
            Pattern::Prefix(text) => format!("{}:{text}*", self.verb.as_str()),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        self.verb.covers(other.verb) && (self.verb == Verb::All || self.pattern.covers(&other.pattern))
    }
}

/// What a token may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(Vec<Grant>);

impl Scopes {
    /// Everything that the user may do.
    pub fn all() -> Self {
        Self(vec![Grant { verb: Verb::All, pattern: Pattern::Any }])
    }

    /// Nothing.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Reads scopes as a person writes them. `me/` in a pattern becomes the given account, so that the token's meaning is fixed.
    pub fn parse(scopes: &[Scope], me: &str) -> Result<Self, ScopeError> {
        match scopes.len() {
            0 => return Err(ScopeError::None),
            n if n > SCOPES_MAX => return Err(ScopeError::TooMany),
            _ => {}
        }
        let mut grants = Vec::with_capacity(scopes.len());
        for scope in scopes {
            let grant = Grant::parse(&scope.0, me)?;
            if !grants.contains(&grant) {
                grants.push(grant);
            }
        }
        Ok(Self(grants))
    }

    /// Reads what [`Scopes::to_stored`] wrote. A scope of a later version that is not known here gives nothing.
    pub fn from_stored(text: &str) -> Self {
        Self(text.split_ascii_whitespace().filter_map(|scope| Grant::parse(scope, "").ok()).collect())
    }

    /// The scopes in one column: separated by spaces.
    pub fn to_stored(&self) -> String {
        self.0.iter().map(Grant::text).collect::<Vec<_>>().join(" ")
    }

    /// The scopes on the wire.
    pub fn to_wire(&self) -> Vec<Scope> {
        self.0.iter().map(|grant| Scope(grant.text())).collect()
    }

    /// Whether every one of `other` lies within one of these.
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|wanted| self.0.iter().any(|held| held.covers(wanted)))
    }

    /// The first of `other` that lies within none of these.
    pub fn first_uncovered(&self, other: &Self) -> Option<String> {
        other.0.iter().find(|wanted| !self.0.iter().any(|held| held.covers(wanted))).map(Grant::text)
    }

    /// Whether this gives `verb` for the image `owner/name`.
    pub fn allows_image(&self, verb: Verb, reference: &str) -> bool {
        self.0.iter().any(|held| held.verb.covers(verb) && held.pattern.matches(reference))
    }

    /// Whether this gives `verb` for anything at all.
    pub fn allows(&self, verb: Verb) -> bool {
        self.0.iter().any(|held| held.verb.covers(verb))
    }
}

#[cfg(test)]
mod tests {
    use super::{Grant, SCOPES_MAX, Scopes, Verb};
    use proptest::prelude::{Just, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};
    use slipway_api::Scope;

    fn scopes(texts: &[&str]) -> Scopes {
        Scopes::parse(&texts.iter().map(|t| Scope((*t).to_owned())).collect::<Vec<_>>(), "jan").unwrap()
    }

    #[test]
    fn scopes_are_read_or_refused() {
        for (text, read) in [
            ("*", Some("*")),
            ("image:read", Some("image:read")),
            ("image:read:*", Some("image:read")),
            ("image:write:jan/*", Some("image:write:jan/*")),
            ("image:write:me/*", Some("image:write:jan/*")),
            ("image:delete:me/os", Some("image:delete:jan/os")),
            ("image:share:system/deb-*", Some("image:share:system/deb-*")),
            ("image:read:jan/latest*", Some("image:read:jan/latest*")),
            ("people", Some("people")),
            ("store", Some("store")),
            ("", None),
            ("image", None),
            ("image:", None),
            ("image:all", None),
            ("image:read:", None),
            ("image:readx", None),
            ("image:read:jan", None),
            ("image:read:jan*", None),
            ("image:read:*/os", None),
            ("image:read:jan/o*s", None),
            ("image:read:jan/**", None),
            ("image:read:jan/../x", None),
            ("image:read:jan/os:1", None),
            ("image:read:Jan/os", None),
            ("image:read:jan/a b", None),
            ("image:read:jan/a\n", None),
            ("people:jan", None),
            ("store:*", None),
            ("*:*", None),
            (" *", None),
        ] {
            let got = Grant::parse(text, "jan").map(|grant| grant.text());
            assert_eq!(got.as_deref().ok(), read, "{text:?}: {got:?}");
        }
        assert!(Scopes::parse(&[], "jan").is_err());
        assert!(Scopes::parse(&vec![Scope("*".into()); SCOPES_MAX + 1], "jan").is_err());
        assert_eq!(Scopes::from_stored("image:read of:the:future people").to_stored(), "image:read people");
        assert_eq!(Scopes::none().to_stored(), "");
    }

    #[test]
    fn a_scope_covers_what_lies_within_it() {
        for (held, wanted, fine) in [
            (&["*"][..], &["*", "people", "image:share:jan/os"][..], true),
            (&["image:read"], &["image:read:jan/os"], true),
            (&["image:read:jan/*"], &["image:read:jan/os", "image:read:jan/o*", "image:read:jan/*"], true),
            (&["image:read:jan/*"], &["image:read:jane/os"], false),
            (&["image:read:jan/*"], &["image:read"], false),
            (&["image:read:jan/os"], &["image:read:jan/os*"], false),
            (&["image:read:jan/os*"], &["image:read:jan/os"], true),
            (&["image:read:jan/os*"], &["image:read:jan/o*"], false),
            (&["image:write:jan/*"], &["image:read:jan/os"], true),
            (&["image:read:jan/*"], &["image:write:jan/os"], false),
            (&["image:delete"], &["image:read"], false),
            (&["people"], &["*"], false),
            (&["people", "store", "image:write", "image:delete", "image:share"], &["*"], false),
            (&["people", "image:read:jan/a"], &["image:read:jan/a", "people"], true),
            (&["people", "image:read:jan/a"], &["image:read:jan/b", "people"], false),
        ] {
            assert_eq!(scopes(held).covers(&scopes(wanted)), fine, "{held:?} over {wanted:?}");
            assert_eq!(scopes(held).first_uncovered(&scopes(wanted)).is_none(), fine);
        }
    }

    #[test]
    fn a_scope_allows_images_by_name() {
        for (held, verb, reference, fine) in [
            ("*", Verb::ImageShare, "jan/os", true),
            ("image:read:jan/*", Verb::ImageRead, "jan/os", true),
            ("image:read:jan/*", Verb::ImageRead, "jane/os", false),
            ("image:read:jan/*", Verb::ImageWrite, "jan/os", false),
            ("image:write:jan/os", Verb::ImageRead, "jan/os", true),
            ("image:write:jan/os", Verb::ImageRead, "jan/os2", false),
            ("people", Verb::ImageRead, "jan/os", false),
        ] {
            assert_eq!(scopes(&[held]).allows_image(verb, reference), fine, "{held} {verb:?} {reference}");
        }
        assert!(scopes(&["image:write:jan/os"]).allows(Verb::ImageRead));
        assert!(!scopes(&["image:write:jan/os"]).allows(Verb::People));
        assert!(!Scopes::none().allows(Verb::ImageRead));
    }

    fn any_scope() -> impl Strategy<Value = String> {
        let verb = prop_oneof![
            Just("image:read"),
            Just("image:write"),
            Just("image:delete"),
            Just("image:share"),
            Just("people"),
            Just("store"),
            Just("*")
        ];
        let pattern = prop_oneof![
            Just(String::new()),
            Just(":*".to_owned()),
            "[ab]/[ab]{1,2}".prop_map(|p| format!(":{p}")),
            "[ab]/[ab]{0,2}".prop_map(|p| format!(":{p}*"))
        ];
        (verb, pattern).prop_map(|(verb, pattern)| match verb.starts_with("image") {
            true => format!("{verb}{pattern}"),
            false => verb.to_owned(),
        })
    }

    proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

        /// What a covered scope allows, the covering one allows too: a made token can never do more than its maker.
        #[test]
        fn covering_is_never_wider(held in any_scope(), wanted in any_scope(), reference in "[ab]/[ab]{1,3}") {
            let (held, wanted) = (scopes(&[&held]), scopes(&[&wanted]));
            if held.covers(&wanted) {
                for verb in Verb::ALL {
                    prop_assert!(!wanted.allows_image(verb, &reference) || held.allows_image(verb, &reference));
                    prop_assert!(!wanted.allows(verb) || held.allows(verb));
                }
            }
            prop_assert!(held.covers(&held));
            prop_assert_eq!(Scopes::from_stored(&held.to_stored()), held);
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = Grant::parse(&text, "jan");
        }
    }

    use proptest::prelude::any;
}
