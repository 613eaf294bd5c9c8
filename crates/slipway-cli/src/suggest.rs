//! What can be said about a failure when it is known which names there are: "did you mean". Only what the caller may read is named.

use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::near::nearest;
use crate::pages::{PAGE_ROWS, pages_all};
use slipway_api::{Client, ImageRef, PageQuery};
use std::time::Duration;

/// A hint is not worth a longer wait.
const LIMIT: Duration = Duration::from_secs(2);
/// Images that are compared; a name among more is found by 'image ls'.
const MOST: usize = 5000;

/// The failure with a better next step, if there is one.
pub(crate) async fn failure_enrich(failure: Failure, cx: &Context) -> Failure {
    if failure.exit == exit::AUTH
        && let Some(next) = cx.token_expired()
    {
        return failure.next(next);
    }
    let Some(missing) = Missing::read(&failure) else { return failure };
    let meant = async { meant(&cx.client_hasty().ok()?, &missing).await };
    match tokio::time::timeout(LIMIT, meant).await {
        Ok(Some(meant)) => {
            let rest = failure.next.as_deref().map(|next| format!(" Else {next}")).unwrap_or_default();
            failure.next(format!("did you mean {meant}?{rest}"))
        }
        Ok(None) | Err(_) => failure,
    }
}

/// What a server said is not there.
#[derive(Debug, PartialEq, Eq)]
enum Missing {
    Image(ImageRef),
    Channel(ImageRef, String),
    User(String),
}

impl Missing {
    fn read(failure: &Failure) -> Option<Self> {
        if failure.exit != exit::NOT_FOUND {
            return None;
        }
        let mut words = failure.what.split(' ');
        match (words.next()?, words.next()?) {
            ("image", image) => {
                let image = image.parse().ok()?;
                match failure.what.split_once(" has no channel '") {
                    Some((_, channel)) => Some(Self::Channel(image, channel.trim_end_matches('\'').to_owned())),
                    None => Some(Self::Image(image)),
                }
            }
            ("user", name) => Some(Self::User(name.to_owned())),
            _ => None,
        }
    }
}

async fn meant(client: &Client, missing: &Missing) -> Option<String> {
    match missing {
        Missing::Image(image) => {
            let images = pages_all(Some(MOST), |cursor| async move {
                client.image_list(&PageQuery { limit: Some(PAGE_ROWS), cursor, ..PageQuery::default() }).await
            });
            let names: Vec<String> = images.await.ok()?.into_iter().map(|image| image.reference).collect();
            let wanted = image.to_string();
            if let Some(near) = nearest(&wanted, names.iter().map(String::as_str)) {
                return Some(near.to_owned());
            }
            // The right name under another owner.
            let slug = wanted.split_once('/')?.1;
            names.iter().find(|name| name.split_once('/').is_some_and(|(_, other)| other == slug)).cloned()
        }
        Missing::Channel(image, channel) => {
            let channels = client.image_get(image).await.ok()?.channels;
            let names: Vec<String> = channels.into_iter().map(|channel| channel.name.to_string()).collect();
            nearest(channel, names.iter().map(String::as_str)).map(|near| format!("{image}:{near}"))
        }
        Missing::User(name) => {
            let users = pages_all(Some(MOST), |cursor| async move {
                client.user_list(&PageQuery { limit: Some(PAGE_ROWS), cursor, ..PageQuery::default() }).await
            });
            let names: Vec<String> = users.await.ok()?.into_iter().map(|user| user.name.to_string()).collect();
            nearest(name, names.iter().map(String::as_str)).map(str::to_owned)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Missing;
    use crate::failure::{Failure, exit};

    #[test]
    fn what_is_missing_is_read_from_what_the_server_says() {
        let image = || "jan/os".parse().unwrap();
        for (code, what, missing) in [
            (exit::NOT_FOUND, "image jan/os does not exist or is not yours to see", Some(Missing::Image(image()))),
            (exit::NOT_FOUND, "image jan/os has no channel 'stabel'", Some(Missing::Channel(image(), "stabel".into()))),
            (exit::NOT_FOUND, "user eva does not exist or is not yours to see", Some(Missing::User("eva".into()))),
            (exit::NOT_FOUND, "reading disk.raw: no such file or directory", None),
            (exit::NOT_FOUND, "image", None),
            (exit::CONFLICT, "image jan/os exists already", None),
        ] {
            assert_eq!(Missing::read(&Failure::new(code, what).next("x")), missing, "{what}");
        }
    }
}
