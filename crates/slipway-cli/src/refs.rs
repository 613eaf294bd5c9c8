//! References from the command line.

use crate::failure::Failure;
use slipway_api::{ImageRef, VersionPick, VersionRef};

/// `owner/name`.
pub(crate) fn image_ref(text: &str) -> Result<ImageRef, Failure> {
    Ok(text.parse::<ImageRef>()?)
}

/// `owner/name[:N|:channel][@root]`.
pub(crate) fn version_ref(text: &str) -> Result<VersionRef, Failure> {
    Ok(text.parse::<VersionRef>()?)
}

/// What a verb acts on that takes a whole image or one version of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Object {
    /// The image with all its versions.
    Image(ImageRef),
    /// One version, by number: a channel could move between looking and acting.
    Version(ImageRef, u64),
}

/// `owner/name` or `owner/name:N`. `owner/name:latest` is refused and never read as the whole image.
pub(crate) fn object(text: &str) -> Result<Object, Failure> {
    if !text.contains(':') {
        return Ok(Object::Image(image_ref(text)?));
    }
    let read = version_ref(text)?;
    match (read.pick, read.root) {
        (VersionPick::Number(number), None) => Ok(Object::Version(read.image, number)),
        (VersionPick::Number(_), Some(_)) => {
            Err(Failure::usage(format!("'{text}' has a root, which is not looked at here"))
                .next("leave out the part after '@'"))
        }
        (VersionPick::Latest | VersionPick::Channel(_), _) => {
            Err(Failure::usage(format!("'{text}' does not name a version by its number"))
                .next(format!("'slipway image log {}' shows the numbers", read.image)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Object, image_ref, object};

    #[test]
    fn latest_is_never_the_whole_image() {
        let os = image_ref("me/os").unwrap();
        assert_eq!(object("me/os").unwrap(), Object::Image(os.clone()));
        assert_eq!(object("me/os:3").unwrap(), Object::Version(os, 3));
        for text in ["me/os:latest", "me/os:stable", "me/os:", "os", "me/os@x"] {
            assert_eq!(object(text).unwrap_err().exit, 2, "{text}");
        }
    }
}
