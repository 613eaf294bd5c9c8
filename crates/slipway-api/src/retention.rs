//! Which versions of an image are kept, and what the others would free.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// More than this many periods of one kind are a mistake: ten thousand hours are more than a year.
const COUNT_MAX: u32 = 10_000;

macro_rules! rules {
    ($($(#[$doc:meta])* $field:ident, $word:literal;)*) => {
        /// Rules of retention. Each keeps the newest version of each of so many periods that have one, counted back from the newest version; what
        /// one rule keeps is kept. Periods are those of the calendar in UTC; weeks begin on Monday. Without any rule everything is kept.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct Retention {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none", default)] pub $field: Option<u32>,)*
        }

        impl Retention {
            /// Each rule that is set: its word and how many.
            pub fn rules(&self) -> impl Iterator<Item = (&'static str, u32)> {
                [$(($word, self.$field),)*].into_iter().filter_map(|(word, count)| Some((word, count?)))
            }

            fn rule(&mut self, word: &str) -> Option<&mut Option<u32>> {
                match word {
                    $($word => Some(&mut self.$field),)*
                    _ => None,
                }
            }
        }

        /// The words that rules have in text.
        const WORDS: &[&str] = &[$($word,)*];
    };
}

rules! {
    /// The newest so many versions.
    keep_last, "last";
    /// The newest version of each of so many hours.
    keep_hourly, "hourly";
    /// The newest version of each of so many days.
    keep_daily, "daily";
    /// The newest version of each of so many weeks.
    keep_weekly, "weekly";
    /// The newest version of each of so many months.
    keep_monthly, "monthly";
    /// The newest version of each of so many years.
    keep_yearly, "yearly";
}

impl Retention {
    /// Whether everything is kept, because there is no rule.
    pub fn keeps_all(&self) -> bool {
        self.rules().next().is_none()
    }

    /// Refuses a count that is none.
    pub fn check(&self) -> Result<(), RetentionError> {
        for (word, count) in self.rules() {
            if count == 0 || count > COUNT_MAX {
                return Err(RetentionError::Count { word, count: count.to_string() });
            }
        }
        Ok(())
    }
}

/// Rules that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetentionError {
    /// No such rule.
    #[error("'{0}' is no rule of retention; rules are like last=3,daily=7,weekly=4,monthly=12")]
    Word(String),
    /// Not 1 to 10,000.
    #[error("keep {word} {count}: it must be 1 to {COUNT_MAX}")]
    Count {
        /// The rule.
        word: &'static str,
        /// What was said.
        count: String,
    },
    /// The same rule twice.
    #[error("keep {0} is given twice")]
    Twice(&'static str),
}

/// `last=3,daily=7`; `all` without any rule.
impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.keeps_all() {
            return f.write_str("all");
        }
        for (place, (word, count)) in self.rules().enumerate() {
            write!(f, "{}{word}={count}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl FromStr for Retention {
    type Err = RetentionError;

    fn from_str(text: &str) -> Result<Self, RetentionError> {
        let mut rules = Self::default();
        if text.trim() == "all" {
            return Ok(rules);
        }
        for part in text.split(',').map(str::trim) {
            let unknown = || RetentionError::Word(part.chars().take(40).collect());
            let (word, count) = part.split_once('=').ok_or_else(unknown)?;
            let word = WORDS.iter().find(|known| **known == word).ok_or_else(unknown)?;
            let bad = || RetentionError::Count { word, count: count.chars().take(20).collect() };
            if !count.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(bad());
            }
            let place = rules.rule(word).ok_or_else(unknown)?;
            if place.replace(count.parse().map_err(|_| bad())?).is_some() {
                return Err(RetentionError::Twice(word));
            }
        }
        rules.check()?;
        Ok(rules)
    }
}

/// Whose rules are in force for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetentionSource {
    /// The image's own.
    Image,
    /// The default of its owner.
    Account,
    /// The server's default.
    Server,
    /// Those that were given with the question.
    Given,
}

/// The rules for an image or an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RetentionShown {
    /// Its own rules, if it has any; rules without any count mean that everything is kept.
    pub own: Option<Retention>,
    /// The rules in force.
    pub rules: Retention,
    /// Whose they are.
    pub from: RetentionSource,
    /// How often the server applies them by itself, in seconds; `null`: only when asked.
    pub every_seconds: Option<u64>,
}

/// New rules for an image or an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetentionSet {
    /// The rules; `{}` keeps everything, `null` takes the default of the account or server.
    pub rules: Option<Retention>,
}

/// A wish to apply rules now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetentionRun {
    /// These rules, once; those in force if not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rules: Option<Retention>,
}

/// A version in the light of the rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RetentionVersion {
    /// Its number.
    pub number: u64,
    /// When it was committed.
    pub created_at: Timestamp,
    /// The raw image's size.
    pub size: u64,
    /// Why it stays: `newest`, a rule (`last`, `daily` …), `protected`, `channel NAME`, `upload ID`. Empty: it goes.
    pub keep: Vec<String>,
}

/// What rules do to an image's versions, or did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RetentionPlan {
    /// `owner/name`.
    pub image: String,
    /// The rules.
    pub rules: Retention,
    /// Whose they are.
    pub from: RetentionSource,
    /// The versions went into the trash; false: this is a preview.
    pub done: bool,
    /// Every version that is not in the trash, newest first.
    pub versions: Vec<RetentionVersion>,
    /// How many go.
    pub going: u64,
    /// Stored bytes that nothing refers to any more when these versions are gone for good: whole frames, segments and manifests. They come free
    /// when the time in the trash is over and a prune has run twice.
    pub bytes_freed: u64,
    /// `bytes_freed` was counted frame by frame. False: it is only the sum of what the versions added when they were committed, because the
    /// counting would have taken too long or something could not be read.
    pub bytes_exact: bool,
}

#[cfg(test)]
mod tests {
    use super::{Retention, RetentionError};
    use proptest::prelude::{Strategy, any, proptest};

    fn counts() -> impl Strategy<Value = Option<u32>> {
        any::<Option<u16>>().prop_map(|count| count.map(|count| u32::from(count) % 10_000 + 1))
    }

    proptest! {
        #[test]
        fn text_and_rules_are_one(a in counts(), b in counts(), c in counts(), d in counts(), e in counts(), f in counts()) {
            let rules = Retention {
                keep_last: a, keep_hourly: b, keep_daily: c, keep_weekly: d, keep_monthly: e, keep_yearly: f,
            };
            assert_eq!(rules.to_string().parse::<Retention>().unwrap(), rules);
            assert_eq!(serde_json::from_str::<Retention>(&serde_json::to_string(&rules).unwrap()).unwrap(), rules);
        }
    }

    #[test]
    fn what_is_no_rule_is_named() {
        for (text, why) in [
            ("", "'' is no rule"),
            ("fortnightly=2", "'fortnightly=2' is no rule"),
            ("last", "'last' is no rule"),
            ("last=0", "keep last 0: it must be 1 to 10000"),
            ("last=10001", "keep last 10001"),
            ("last=-1", "keep last -1"),
            ("last=99999999999", "keep last 99999999999"),
            ("last=1,last=2", "keep last is given twice"),
            ("daily=7,", "'' is no rule"),
        ] {
            let error = text.parse::<Retention>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert_eq!("all".parse(), Ok(Retention::default()));
        assert_eq!(" last=3, daily=7 ".parse::<Retention>().unwrap().to_string(), "last=3,daily=7");
        let zero = Retention { keep_daily: Some(0), ..Retention::default() };
        assert_eq!(zero.check(), Err(RetentionError::Count { word: "daily", count: "0".into() }));
    }
}
