//! `slipway logout`: ends the token that login made and forgets it.

use crate::context::{Context, client_new};
use crate::credentials;
use crate::failure::{Failure, exit};

/// End the kept token and forget it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Other contexts stay; 'slipway context ls' lists them.

Examples:
  slipway logout
  slipway logout --context lab
  slipway logout --keep-token")]
pub(crate) struct Args {
    /// Only forget the token; it stays valid on the server
    #[arg(long)]
    keep_token: bool,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let path = credentials::path_must()?;
    let kept = credentials::read(&path)?;
    let Some(name) = crate::settings::context_named(&cx.flags(), &kept).value else {
        cx.note("Nobody is logged in here.");
        return Ok(());
    };
    let entry = kept.named(&name)?.clone();
    let revoked = match (args.keep_token, &entry.token) {
        (true, _) | (_, None) => Ok(()),
        (false, Some(token)) => token_end(&entry, token).await,
    };
    // It goes whatever the server says: who logs out wants the secret off this machine.
    let left = credentials::change(&path, |kept| {
        kept.contexts.remove(&name);
        kept.current.take_if(|current| *current == name);
        Ok(kept.contexts.len())
    })?;
    if left > 0 {
        cx.note("Other servers are still kept: 'slipway context use NAME' chooses one.");
    }
    match revoked {
        Ok(()) => {
            cx.note(&format!("Logged out of {}.", entry.url));
            Ok(())
        }
        Err(why) if why.exit == exit::AUTH => {
            cx.note(&format!("Logged out of {}; the token had already ended.", entry.url));
            Ok(())
        }
        Err(why) => Err(Failure::new(
            why.exit,
            format!("the token was forgotten here but not ended on the server: {}", why.what),
        )
        .next("'slipway token ls' and 'slipway token rm' after the next login")),
    }
}

async fn token_end(entry: &credentials::Credentials, token: &str) -> Result<(), Failure> {
    let client = client_new(&entry.url, Some(token.to_owned()), entry.ca.clone().map(String::into_bytes))?;
    let me = client.me().await?;
    Ok(client.token_revoke(me.token).await?)
}
