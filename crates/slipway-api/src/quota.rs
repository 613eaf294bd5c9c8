//! How much an account may keep, and how much it keeps.

use crate::name::AccountName;
use serde::{Deserialize, Serialize};

/// One kind of thing that is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct QuotaLine {
    /// How much there is now, the trash counted.
    pub used: u64,
    /// How much there may be; `null`: as much as fits.
    pub limit: Option<u64>,
    /// The limit is the account's own and not the server's default.
    #[serde(default)]
    pub own: bool,
}

/// What an account keeps and may keep. What is in the trash counts until it is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Quota {
    /// The account.
    pub account: AccountName,
    /// Bytes of the packs in which its images' chunks lie, of images open to everyone what their versions added, and bytes of uploads that
    /// still run.
    pub stored_bytes: QuotaLine,
    /// The sum of its versions' sizes, holes counted.
    pub logical_bytes: QuotaLine,
    /// Images that it owns.
    pub images: QuotaLine,
    /// Versions of them.
    pub versions: QuotaLine,
    /// Uploads that it has begun and that take bytes.
    pub uploads: QuotaLine,
    /// Of its versions, those in the trash, alone or with their image.
    pub versions_in_trash: u64,
}

/// A limit as an admin sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum QuotaLimit {
    /// So much.
    Number(u64),
    /// A word.
    Word(QuotaWord),
}

/// A limit that is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuotaWord {
    /// What the server's settings say.
    Default,
    /// No limit.
    Unlimited,
}

/// A change of an account's limits; what is absent stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct QuotaChange {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stored_bytes: Option<QuotaLimit>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub logical_bytes: Option<QuotaLimit>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub images: Option<QuotaLimit>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub versions: Option<QuotaLimit>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uploads: Option<QuotaLimit>,
}

#[cfg(test)]
mod tests {
    use super::{QuotaChange, QuotaLimit, QuotaWord};

    #[test]
    fn a_limit_is_a_number_or_a_word() {
        let text = r#"{"stored_bytes":5,"images":"unlimited","uploads":"default"}"#;
        let change: QuotaChange = serde_json::from_str(text).unwrap();
        assert_eq!(change.stored_bytes, Some(QuotaLimit::Number(5)));
        assert_eq!(change.images, Some(QuotaLimit::Word(QuotaWord::Unlimited)));
        assert_eq!(change.uploads, Some(QuotaLimit::Word(QuotaWord::Default)));
        assert_eq!(serde_json::to_string(&change).unwrap(), text);
        for bad in [r#"{"images":-1}"#, r#"{"images":"many"}"#, r#"{"disks":1}"#] {
            assert!(serde_json::from_str::<QuotaChange>(bad).is_err(), "{bad}");
        }
    }
}
