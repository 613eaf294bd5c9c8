//! Words of the API's closed sets, as options take them and tables show them.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;
use serde::de::DeserializeOwned;
use slipway_api::{FileSystem, ImageType, Role};

/// The word that the wire has for a value.
pub(crate) fn text<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Reads the words of a closed set. The list is given for help and for "did you mean"; a test compares it with the type.
fn words<T: DeserializeOwned + Clone + Send + Sync + 'static>(
    list: &'static [&'static str],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(list).try_map(|word| serde_json::from_value::<T>(serde_json::Value::String(word)))
}

const ROLES: &[&str] = &["user", "moderator", "admin"];
const TYPES: &[&str] = &["base", "boot", "system", "user", "temporal", "init", "machine"];
const FILE_SYSTEMS: &[&str] = &["ext4", "xfs", "btrfs", "fat32", "squashfs", "erofs", "swap", "disk", "raw"];

/// user, moderator, admin.
pub(crate) fn role() -> impl TypedValueParser<Value = Role> {
    words(ROLES)
}

/// base, boot, system, user, temporal, init, machine.
pub(crate) fn image_type() -> impl TypedValueParser<Value = ImageType> {
    words(TYPES)
}

/// ext4, xfs, btrfs, fat32, squashfs, erofs, swap, disk, raw.
pub(crate) fn file_system() -> impl TypedValueParser<Value = FileSystem> {
    words(FILE_SYSTEMS)
}

#[cfg(test)]
mod tests {
    use super::{FILE_SYSTEMS, ROLES, TYPES};
    use serde::de::DeserializeOwned;

    fn check<T: DeserializeOwned>(list: &[&str]) {
        for word in list {
            assert!(serde_json::from_value::<T>((*word).into()).is_ok(), "{word}");
        }
        // serde names all words that it knows when it meets one that it does not.
        let known = serde_json::from_value::<T>("no such word".into()).err().unwrap().to_string();
        assert_eq!(known.matches('`').count() / 2 - 1, list.len(), "{known}");
    }

    #[test]
    fn the_lists_are_the_types() {
        check::<slipway_api::Role>(ROLES);
        check::<slipway_api::ImageType>(TYPES);
        check::<slipway_api::FileSystem>(FILE_SYSTEMS);
    }
}
