//! Accounts as owners: a name, `me` replaced by the caller, and its id.

use crate::core::Caller;
use crate::db::{DbError, Tx, sql};
use crate::policy::{self, Action, Object};
use crate::rules::page::batches;
use slipway_api::Problem;
use slipway_store::SpaceId;
use std::collections::HashMap;
use uuid::Uuid;

/// An account that owns things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
}

impl Owner {
    /// The space that only this account reads.
    pub fn space(&self) -> SpaceId {
        SpaceId::new(&format!("u-{}", self.id.simple()))
            .expect("'u-' and 32 hexadecimal digits are within a space id's alphabet")
    }
}

/// The name that `text` stands for: `me` is the caller.
pub fn owner_name<'a>(who: &'a Caller, text: &'a str) -> Result<&'a str, Problem> {
    match (text, &who.user) {
        ("me", Some(user)) => Ok(&user.name),
        ("me", None) => Err(policy::unauthenticated()),
        _ => Ok(text),
    }
}

/// The account of this name, if there is one. One that is deleted and only kept for its trash owns nothing new.
pub async fn owner_find(tx: &mut Tx, name: &str) -> Result<Option<Owner>, DbError> {
    match tx.row(sql("SELECT id, name FROM account WHERE name = $1 AND kind <> 'deleted'").bind(name)).await? {
        Some(row) => Ok(Some(Owner { id: row.parsed("id")?, name: row.text("name")? })),
        None => Ok(None),
    }
}

/// The account with this id, if it is still there.
pub async fn owner_by_id(tx: &mut Tx, id: &Uuid) -> Result<Option<Owner>, DbError> {
    match tx.row(sql("SELECT id, name FROM account WHERE id = $1").bind(id)).await? {
        Some(row) => Ok(Some(Owner { id: row.parsed("id")?, name: row.text("name")? })),
        None => Ok(None),
    }
}

/// Names of accounts by id.
pub async fn names_of(tx: &mut Tx, ids: &[Uuid]) -> Result<HashMap<Uuid, String>, DbError> {
    let mut names = HashMap::new();
    for (text, batch) in batches("SELECT id, name FROM account WHERE id IN", ids) {
        for row in tx.rows(sql(text).bind_all(batch)).await? {
            names.insert(row.parsed("id")?, row.text("name")?);
        }
    }
    Ok(names)
}

/// An account that somebody names in a request: who may not see users learns nothing but that the name is taken or not, which every shared
/// reference says as well.
pub fn no_account(name: &str) -> Problem {
    policy::missing(&Object::NoUser { name }.label())
}

/// Asks the policy about the server as a whole.
pub fn server_allowed(who: &Caller, action: Action) -> Result<(), Problem> {
    policy::allowed(who, action, &Object::Server)
}
