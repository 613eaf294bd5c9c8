//! The user rows.

use axum::http::StatusCode;
use serde::Deserialize;
use slipway_api::{AccountName, PageQuery, Problem, UserChange, UserNew};

use super::errors::bad;
use super::fields::Fields;
use super::shapes::{BaasUser, json, role_read, text};
use crate::http::answer::Answered;
use crate::http::ask::Ask;
use crate::policy::Action;
use crate::rules::user::{user_change_as, user_create as rule_create, user_get as rule_get, user_list as rule_list};
use crate::rules::user_leave::user_leave;
use crate::rules::user_rename::user_rename;

const REFUSAL: &str = "invalid user given";

/// A name as BAAS has them, which may have upper case.
pub(super) fn name_read(given: &str) -> Result<AccountName, Problem> {
    given.to_lowercase().parse().map_err(|why| bad(format!("Username: {why}")))
}

/// `{name}` of the path.
pub(super) fn name_of_path(ask: &Ask) -> String {
    ask.param("name").to_lowercase()
}

pub(super) async fn user_list(ask: Ask) -> Answered {
    let mut users = Vec::new();
    let mut query = PageQuery { limit: Some(1000), ..PageQuery::default() };
    loop {
        let page = rule_list(ask.core(), &ask.who, &query).await?;
        users.extend(page.items.into_iter().map(BaasUser::of));
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => return json(StatusCode::OK, &users),
        }
    }
}

pub(super) async fn user_create(mut ask: Ask) -> Answered {
    let fields = Fields::read(&mut ask, REFUSAL).await?;
    let filled = |key, missing: &str| fields.filled(key)?.ok_or_else(|| bad(missing));
    let new = UserNew {
        name: name_read(filled("Username", "No username given")?)?,
        full_name: filled("Name", "No name given")?.to_owned(),
        email: Some(filled("Email", "No email given")?.to_owned()),
        role: Some(role_read(filled("Role", "No role given")?)?),
        password: None,
    };
    rule_create(ask.core(), &ask.who, new).await?;
    Ok(text("Successfully created user"))
}

pub(super) async fn user_me(ask: Ask) -> Answered {
    json(StatusCode::OK, &BaasUser::of(rule_get(ask.core(), &ask.who, "me").await?))
}

pub(super) async fn user_get(ask: Ask) -> Answered {
    json(StatusCode::OK, &BaasUser::of(rule_get(ask.core(), &ask.who, &name_of_path(&ask)).await?))
}

pub(super) async fn user_change(mut ask: Ask) -> Answered {
    let mut name = name_of_path(&ask);
    let now = rule_get(ask.core(), &ask.who, &name).await?;
    let fields = Fields::read(&mut ask, REFUSAL).await?;
    // Whoever sends back what they were shown changes nothing by it.
    let role = fields.filled("Role")?.map(role_read).transpose()?.filter(|role| *role != now.role);
    let change = UserChange {
        full_name: fields.filled("Name")?.map(str::to_owned),
        email: fields.filled("Email")?.map(str::to_owned),
        role,
        disabled: None,
    };
    let rename = fields.filled("Username")?.map(name_read).transpose()?.filter(|new| *new != now.name);
    let mut user = user_change_as(ask.core(), &ask.who, Action::UserManage, &name, change, None).await?;
    if let Some(new) = rename {
        name = user.name.into();
        user = user_rename(ask.core(), &ask.who, &name, new).await?;
    }
    json(StatusCode::OK, &BaasUser::of(user))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LeaveQuery {
    to: Option<String>,
}

pub(super) async fn user_delete(ask: Ask) -> Answered {
    let query: LeaveQuery = ask.query()?;
    let to = query.to.as_deref().map(name_read).transpose()?;
    user_leave(ask.core(), &ask.who, &name_of_path(&ask), to.as_ref().map(AccountName::as_str)).await?;
    Ok(text("Successfully deleted user"))
}
