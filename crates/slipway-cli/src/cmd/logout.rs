//! `slipway logout`: ends the token that login made and forgets it.

use crate::context::{Context, client_new};
use crate::credentials;
use crate::failure::{Failure, exit};

/// End the kept token and forget it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway logout
  slipway logout --keep-token")]
pub(crate) struct Args {
    /// Only forget the token; it stays valid on the server
    #[arg(long)]
    keep_token: bool,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let path = credentials::path().ok_or_else(|| Failure::usage("neither XDG_CONFIG_HOME nor HOME is set"))?;
    let Some(kept) = credentials::read(&path)? else {
        cx.note("Nobody is logged in here.");
        return Ok(());
    };
    let revoked = match args.keep_token {
        true => Ok(()),
        false => token_end(&kept).await,
    };
    // The file goes whatever the server says: who logs out wants the secret off this machine.
    credentials::remove(&path)?;
    match revoked {
        Ok(()) => {
            cx.note(&format!("Logged out of {}.", kept.url));
            Ok(())
        }
        Err(why) if why.exit == exit::AUTH => {
            cx.note(&format!("Logged out of {}; the token had already ended.", kept.url));
            Ok(())
        }
        Err(why) => Err(Failure::new(
            why.exit,
            format!("the token was forgotten here but not ended on the server: {}", why.what),
        )
        .next("'slipway token ls' and 'slipway token rm' after the next login")),
    }
}

async fn token_end(kept: &credentials::Credentials) -> Result<(), Failure> {
    let client = client_new(&kept.url, Some(kept.token.clone()), kept.ca.clone().map(String::into_bytes))?;
    let me = client.me().await?;
    Ok(client.token_revoke(me.token).await?)
}
