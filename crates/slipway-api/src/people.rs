//! Users, roles, tokens and how a caller proves who it is.

use crate::name::AccountName;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a person may do beyond their own things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Their own things and what is shared with them.
    User,
    /// Also the system's images, and sees all users.
    Moderator,
    /// Everything.
    Admin,
}

/// What a token may do: `VERB` or `VERB:PATTERN`. Verbs: `*`, `image:read`, `image:write`, `image:delete`, `image:share`, `people`, `store`.
/// A pattern, for the image verbs only, is `owner/name` in which a final `*` stands for any rest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct Scope(pub String);

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct User {
    /// The account's name.
    pub name: AccountName,
    /// The person's name.
    pub full_name: String,
    /// Where to write to them.
    pub email: Option<String>,
    /// What they may do.
    pub role: Role,
    /// A disabled user cannot sign in and their tokens do not work.
    pub disabled: bool,
    /// When the account was made.
    pub created_at: Timestamp,
    /// The row's revision; also the `ETag`.
    pub revision: u64,
}

/// A new user.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserNew {
    /// The account's name.
    pub name: AccountName,
    /// The person's name.
    #[serde(default)]
    pub full_name: String,
    /// Where to write to them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub email: Option<String>,
    /// `user` if not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub role: Option<Role>,
    /// 10 to 1024 characters; without one the user works with tokens only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub password: Option<String>,
}

/// A change of a user; what is absent stays. Only an admin changes role and disabled.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct UserChange {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub full_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub role: Option<Role>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub disabled: Option<bool>,
}

/// A new password. A user must give the old one; an admin need not for others.
#[derive(Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasswordChange {
    /// The password so far.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub old: Option<String>,
    /// 10 to 1024 characters.
    pub new: String,
}

/// Who the caller is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Me {
    /// The user.
    pub user: User,
    /// The token's id.
    pub token: Uuid,
    /// What the token may do.
    pub scopes: Vec<Scope>,
    /// When the token ends.
    pub expires_at: Timestamp,
}

/// A sign-in with name and password.
#[derive(Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The account's name.
    pub user: String,
    /// The password.
    pub password: String,
    /// How long the token shall live, in seconds: 60 to 90 days; 24 hours if not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ttl_seconds: Option<u64>,
}

/// Redeems the one-time code of a new server and makes its first admin.
#[derive(Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// The code that the server printed at its first start.
    pub code: String,
    /// The admin's account name; `admin` if not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<AccountName>,
    /// 10 to 1024 characters.
    pub password: String,
}

/// A token just made at a sign-in.
#[derive(Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Session {
    /// The secret, shown once.
    pub token: String,
    /// Whose it is.
    pub user: AccountName,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Token {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub user: AccountName,
    /// What its maker calls it.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
}

/// A new token.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenNew {
    /// What to call it.
    pub name: String,
    /// Whose; the caller's if not given. Only an admin makes tokens for others.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user: Option<AccountName>,
    /// What it may do; never more than the token that makes it. Everything the user may if not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scopes: Option<Vec<Scope>>,
    /// Seconds it lives: 60 to 90 days; 24 hours if not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ttl_seconds: Option<u64>,
}

/// A token with its secret, shown once.
#[derive(Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenMade {
    /// The secret: `slp_` and letters and digits.
    pub secret: String,
    /// The token.
    pub token: Token,
}
