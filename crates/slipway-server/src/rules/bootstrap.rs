//! `--admin-token-file`: the first admin of a server that a script starts.
//!
//! The file comes first and the database after it. A crash between the two leaves a file with a token that does not work yet and no admin;
//! the next start finds exactly that and completes it with the token of the file.

use crate::core::{Caller, Core};
use crate::db::{TxError, sql, tx};
use crate::rules::login::{admin_is_missing, first_admin, first_admin_lock};
use crate::rules::token::{TTL_MAX, TokenRow, token_authenticate, token_insert};
use crate::rules::user::{account_find, account_insert};
use crate::scope::Scopes;
use crate::secret::TokenSecret;
use rustix::fs::OFlags;
use serde_json::json;
use slipway_api::{Code, Problem, Role};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The user that is made.
const ADMIN: &str = "admin";

/// What stands in the file.
enum Found {
    Missing,
    Empty,
    Token(TokenSecret),
}

/// At the first start: makes the user `admin` and writes a token of theirs to the file, and says nothing. Later: leaves things alone, and
/// says what to do if the file is missing or its token does not work. A person who cannot sign in any more puts an empty file there, of
/// which only who runs the server is capable; it is filled with a new token.
///
/// # Errors
/// The file can be neither read nor written, is readable by others, or holds something else: the server should not start.
pub async fn admin_token_bootstrap(core: &Core, path: &Path) -> Result<Option<String>, Problem> {
    let found = blocking(path, file_read).await?;
    let first = admin_is_missing(&mut core.db.read().await?).await?;
    match (first, found) {
        (true, Found::Missing) => {
            let secret = file_fill(path, false).await?;
            admin_write(core, &secret).await
        }
        (_, Found::Empty) => {
            let secret = file_fill(path, true).await?;
            admin_write(core, &secret).await
        }
        (true, Found::Token(secret)) => admin_write(core, &secret).await,
        (false, Found::Missing) => Ok(Some(advice(path, "is not there"))),
        (false, Found::Token(secret)) => match token_authenticate(core, secret.reveal()).await {
            Ok(who) if who.user.as_ref().is_some_and(|user| user.role == Role::Admin) => Ok(None),
            Ok(_) => Ok(Some(advice(path, "holds a token whose user is no admin any more"))),
            Err(problem) if problem.code == Code::Unauthenticated => {
                Ok(Some(advice(path, "holds a token that does not work any more")))
            }
            Err(problem) => Err(problem),
        },
    }
}

fn advice(path: &Path, what: &str) -> String {
    let path = path.display();
    format!(
        "the admin token file {path} {what}; an admin who can sign in makes another token with `slipway token new`; if nobody can, \
         put an empty file there (`install -m 600 /dev/null {path}`) and start again: a new token is written into it"
    )
}

fn fault(act: &str, path: &Path, why: impl std::fmt::Display) -> Problem {
    Problem::new(Code::Internal, format!("{act} the admin token file {}: {why}", path.display()))
}

/// Runs file work on a thread for it.
async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(&Path) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let path = path.to_owned();
    let name = path.clone();
    let done = tokio::task::spawn_blocking(move || work(&path)).await;
    done.unwrap_or_else(|_| Err(fault("handling", &name, "the work was interrupted")))
}

fn file_read(path: &Path) -> Result<Found, Problem> {
    let nofollow = OFlags::NOFOLLOW.bits() as i32 | OFlags::NONBLOCK.bits() as i32;
    let file = match OpenOptions::new().read(true).custom_flags(nofollow).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
        Err(error) => return Err(fault("opening", path, error)),
    };
    let facts = file.metadata().map_err(|error| fault("reading", path, error))?;
    if !facts.is_file() {
        return Err(fault("reading", path, "it is no regular file"));
    }
    // A token that others could have read or placed there proves nothing.
    if facts.permissions().mode() & 0o077 != 0 || facts.uid() != rustix::process::geteuid().as_raw() {
        return Err(fault("reading", path, "it must belong to the server's user with mode 0600")
            .hint("chmod 600 it, or remove it"));
    }
    let mut text = String::new();
    let read = file.take(4096).read_to_string(&mut text);
    read.map_err(|error| fault("reading", path, error))?;
    match text.trim() {
        "" => Ok(Found::Empty),
        text => TokenSecret::parse(text).map(Found::Token).ok_or_else(|| {
            fault("reading", path, "it holds something that is no token").hint("name another file, or remove this one")
        }),
    }
}

/// Removed on drop unless it was kept.
struct Partial {
    path: PathBuf,
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn file_fill(path: &Path, over_empty: bool) -> Result<TokenSecret, Problem> {
    blocking(path, move |path| {
        let secret = TokenSecret::random();
        let written = file_write(path, secret.reveal(), over_empty);
        written.map_err(|error| fault("writing", path, error)).map(|()| secret)
    })
    .await
}

/// The name appears when the content is complete and durable: who waits for the file never reads half a token.
fn file_write(path: &Path, text: &str, over_empty: bool) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}", uuid::Uuid::new_v4().simple()));
    let partial = Partial { path: folder.join(temporary) };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial.path)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    match over_empty {
        true => std::fs::rename(&partial.path, path)?,
        // A link, unlike a rename, never replaces a file that came there meanwhile.
        false => std::fs::hard_link(&partial.path, path)?,
    }
    drop(partial);
    File::open(folder)?.sync_all()
}

/// Makes the user if there is none, and the token's row.
async fn admin_write(core: &Core, secret: &TokenSecret) -> Result<Option<String>, Problem> {
    let new = first_admin(ADMIN.parse().map_err(|_| Problem::new(Code::Internal, "'admin' is an account name"))?);
    let made: Result<(), TxError> = tx!(&core.db, &Caller::server(), |tx| {
        first_admin_lock(tx).await?;
        let account = match account_find(tx, ADMIN).await? {
            Some(account) => account,
            None => {
                let account = account_insert(tx, &new, None).await?;
                tx.journal("user_create", ADMIN, json!({ "role": Role::Admin, "first_start": true }));
                account
            }
        };
        if account.user.role != Role::Admin || account.user.disabled {
            // Who starts the server with an empty file, or on a database without an admin, wants an admin.
            let raise = sql("UPDATE account SET role = 'admin', disabled = 0, revision = revision + 1 WHERE id = $1");
            tx.run(raise.bind(account.id)).await?;
            tx.journal("user_change", ADMIN, json!({ "role": Role::Admin, "disabled": false }));
        }
        tx.run(sql("DELETE FROM setup_code")).await?;
        let scopes = Scopes::all();
        let row = TokenRow {
            account: account.id,
            account_name: ADMIN,
            name: "admin token file",
            scopes: &scopes,
            ttl: TTL_MAX,
            sign_in: false,
        };
        token_insert(tx, &row, secret).await?;
        Ok(())
    });
    made?;
    Ok(None)
}
