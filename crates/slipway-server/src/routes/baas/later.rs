//! What comes with later parts of Slipway: whoever may call it hears what is missing, and nobody else learns even that.

use super::errors::not_yet;
use super::users::name_of_path;
use crate::http::answer::Answered;
use crate::http::ask::Ask;
use crate::rules;

pub(super) async fn login(_: Ask) -> Answered {
    Err(not_yet(
        "signing in with GitHub is not served yet",
        "use an API token: `slipway token new`, sent as `Authorization: Bearer TOKEN`",
    ))
}

/// Set-ups are for their owner and for moderators.
pub(super) async fn setup(ask: Ask) -> Answered {
    rules::user::user_get(ask.core(), &ask.who, &name_of_path(&ask)).await?;
    Err(not_yet(
        "image set-ups are not served yet",
        "they come with the fleet; images can be used one by one until then",
    ))
}

pub(super) async fn machine(_: Ask) -> Answered {
    Err(not_yet(
        "machines, their boots and their agents are not served yet",
        "they come with the fleet; `slipway-agent flash` writes an image to a disk until then",
    ))
}
