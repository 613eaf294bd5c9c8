//! Retention: rules say which versions of an image are kept, and the others go into the trash, never further. A preview and a run make the same
//! plan; what is protected, named by a channel or the parent of a running upload stays, with its reason.

use crate::core::{Caller, Core, Nudge};
use crate::db::{DbError, Tx, TxError, sql, tx};
use crate::policy::{self, Action, Object};
use crate::rules::image_row::{ImageRow, image_by_id, image_find, image_find_locked, image_lock, image_touch};
use crate::rules::retention_decide::retention_decide;
use crate::rules::retention_freed::{Freed, freed_count};
use crate::rules::user::{account_allowed, name_of};
use crate::rules::version::versions_of;
use serde_json::json;
use slipway_api::{
    Code, ImageRef, Problem, Retention, RetentionPlan, RetentionRun, RetentionSet, RetentionShown, RetentionSource,
    RetentionVersion, Version,
};
use std::collections::HashMap;
use uuid::Uuid;

/// Refuses rules that are none.
fn rules_check(rules: Option<Retention>) -> Result<(), Problem> {
    let bad = |error: slipway_api::RetentionError| {
        Problem::new(Code::InvalidRequest, error.to_string()).field("rules").hint("`{}` keeps everything")
    };
    rules.unwrap_or_default().check().map_err(bad)
}

fn every(core: &Core) -> Option<u64> {
    core.config.retention_every.map(|every| every.as_secs())
}

/// An image's own rules, and its owner's.
async fn rules_read(tx: &mut Tx, image: &Uuid) -> Result<[Option<Retention>; 2], DbError> {
    let row = tx
        .row_must(
            sql("SELECT image.retention AS own, account.retention AS theirs FROM image \
                 JOIN account ON account.id = image.account_id WHERE image.id = $1")
            .bind(image),
        )
        .await?;
    Ok([row.json_or_null("own")?, row.json_or_null("theirs")?])
}

fn shown(core: &Core, own: Option<Retention>, theirs: Option<Retention>, of: RetentionSource) -> RetentionShown {
    let (rules, from) = match (own, theirs) {
        (Some(rules), _) => (rules, of),
        (None, Some(rules)) => (rules, RetentionSource::Account),
        (None, None) => (core.config.retention, RetentionSource::Server),
    };
    RetentionShown { own, rules, from, every_seconds: every(core) }
}

async fn shown_of_image(tx: &mut Tx, core: &Core, image: &Uuid) -> Result<RetentionShown, DbError> {
    let [own, theirs] = rules_read(tx, image).await?;
    Ok(shown(core, own, theirs, RetentionSource::Image))
}

/// The rules in force for an image.
pub async fn retention_get(core: &Core, who: &Caller, reference: &ImageRef) -> Result<RetentionShown, Problem> {
    let got: Result<RetentionShown, TxError> = async {
        let mut tx = core.db.read().await?;
        let image = image_find(&mut tx, who, reference, Action::ImageRead).await?;
        Ok(shown_of_image(&mut tx, core, &image.id).await?)
    }
    .await;
    Ok(got?)
}

/// Sets an image's own rules. They are applied unasked one period later at the earliest, so that there is time to look at a preview.
pub async fn retention_set(
    core: &Core,
    who: &Caller,
    reference: &ImageRef,
    set: RetentionSet,
) -> Result<RetentionShown, Problem> {
    rules_check(set.rules)?;
    let done: Result<RetentionShown, TxError> = tx!(&core.db, who, |tx| {
        // Rules delete, only later; so who sets them must be allowed to delete.
        let image = image_find_locked(tx, who, reference, Action::ImageDelete).await?;
        image.trash_check()?;
        let now = tx.now();
        let update = sql("UPDATE image SET retention = $1, retained_at = $2 WHERE id = $3")
            .bind(set.rules.map(|rules| json!(rules).to_string()))
            .bind(now)
            .bind(image.id);
        tx.run(update).await?;
        image_touch(tx, &image.id).await?;
        tx.journal("retention_set", image.reference(), json!(set));
        Ok(shown_of_image(tx, core, &image.id).await?)
    });
    Ok(done?)
}

/// The rules for the images of an account that have none of their own.
pub async fn account_retention_get(core: &Core, who: &Caller, name: &str) -> Result<RetentionShown, Problem> {
    let name = name_of(who, name)?;
    let got: Result<RetentionShown, TxError> = async {
        let mut tx = core.db.read().await?;
        let account = account_allowed(&mut tx, who, Action::UserRead, &name).await?;
        Ok(shown_of_account(&mut tx, core, &account.id).await?)
    }
    .await;
    Ok(got?)
}

async fn shown_of_account(tx: &mut Tx, core: &Core, account: &Uuid) -> Result<RetentionShown, DbError> {
    let row = tx.row_must(sql("SELECT retention FROM account WHERE id = $1").bind(account)).await?;
    Ok(shown(core, row.json_or_null("retention")?, None, RetentionSource::Account))
}

/// Sets them. They need the right to delete any image of the account.
pub async fn account_retention_set(
    core: &Core,
    who: &Caller,
    name: &str,
    set: RetentionSet,
) -> Result<RetentionShown, Problem> {
    let name = name_of(who, name)?;
    rules_check(set.rules)?;
    let done: Result<RetentionShown, TxError> = tx!(&core.db, who, |tx| {
        let account = account_allowed(tx, who, Action::UserRead, &name).await?;
        let all = Object::Name { owner: account.id, owner_name: &name, slug: "*", system_type: false };
        policy::allowed(who, Action::ImageDelete, &all)?;
        let now = tx.now();
        let update = sql("UPDATE account SET retention = $1 WHERE id = $2")
            .bind(set.rules.map(|rules| json!(rules).to_string()))
            .bind(account.id);
        tx.run(update).await?;
        let restart = sql("UPDATE image SET retained_at = $1 WHERE account_id = $2 AND retention IS NULL");
        tx.run(restart.bind(now).bind(account.id)).await?;
        tx.journal("retention_set", &*name, json!(set));
        Ok(shown_of_account(tx, core, &account.id).await?)
    });
    Ok(done?)
}

/// A plan and the versions that go by it.
struct Planned {
    plan: RetentionPlan,
    going: Vec<Version>,
}

/// Decides for every version of an image that is not in the trash.
async fn plan_make(tx: &mut Tx, core: &Core, image: &ImageRow, given: Option<Retention>) -> Result<Planned, DbError> {
    let RetentionShown { rules, from, .. } = shown_of_image(tx, core, &image.id).await?;
    let (rules, from) = given.map_or((rules, from), |rules| (rules, RetentionSource::Given));
    let versions = versions_of(tx, image, false).await?;
    let times: Vec<_> = versions.iter().map(|version| (version.number, version.created_at)).collect();
    let leased = parents_leased(tx, &image.id).await?;
    let mut lines = Vec::with_capacity(versions.len());
    let mut going = Vec::new();
    for (version, reasons) in versions.into_iter().zip(retention_decide(&rules, &times)) {
        let mut keep: Vec<String> = reasons.into_iter().map(str::to_owned).collect();
        keep.extend(version.protected.then(|| "protected".to_owned()));
        keep.extend(version.channels.iter().map(|name| format!("channel {name}")));
        keep.extend(leased.get(&version.number).map(|upload| format!("upload {upload}")));
        let (number, created_at, size) = (version.number, version.created_at, version.size);
        if keep.is_empty() {
            going.push(version);
        }
        lines.push(RetentionVersion { number, created_at, size, keep });
    }
    let plan = RetentionPlan {
        image: image.reference(),
        rules,
        from,
        done: false,
        versions: lines,
        going: going.len() as u64,
        bytes_freed: 0,
        bytes_exact: true,
    };
    Ok(Planned { plan, going })
}

/// Versions that an upload is being made from, and such an upload.
async fn parents_leased(tx: &mut Tx, image: &Uuid) -> Result<HashMap<u64, Uuid>, DbError> {
    let now = tx.now();
    let rows = tx
        .rows(
            sql("SELECT parent, id FROM upload WHERE image_id = $1 AND parent IS NOT NULL \
                 AND ((state = 'open' AND lease_until > $2) OR state = 'committing')")
            .bind(image)
            .bind(now),
        )
        .await?;
    rows.iter().map(|row| Ok((row.size("parent")?, row.parsed("id")?))).collect()
}

/// Says what the rules in force, or the given ones, would put into the trash, and what that would free.
pub async fn retention_preview(
    core: &Core,
    who: &Caller,
    reference: &ImageRef,
    given: Option<Retention>,
) -> Result<RetentionPlan, Problem> {
    rules_check(given)?;
    let planned: Result<Planned, TxError> = async {
        let mut tx = core.db.read().await?;
        let image = image_find(&mut tx, who, reference, Action::ImageDelete).await?;
        image.trash_check()?;
        Ok(plan_make(&mut tx, core, &image, given).await?)
    }
    .await;
    freed_fill(core, planned?).await
}

/// Counts what goes. It is asked after a run too, and answers the same: what is in the trash counts as gone.
async fn freed_fill(core: &Core, planned: Planned) -> Result<RetentionPlan, Problem> {
    let Planned { mut plan, going } = planned;
    let Freed { bytes, exact } = freed_count(core, &going).await?;
    (plan.bytes_freed, plan.bytes_exact) = (bytes, exact);
    Ok(plan)
}

/// Puts what the rules in force, or the given ones, do not keep into the trash, all of it or nothing.
pub async fn retention_run(
    core: &Core,
    who: &Caller,
    reference: &ImageRef,
    run: RetentionRun,
) -> Result<RetentionPlan, Problem> {
    rules_check(run.rules)?;
    let done: Result<Planned, TxError> = tx!(&core.db, who, |tx| {
        let image = image_find_locked(tx, who, reference, Action::ImageDelete).await?;
        image.trash_check()?;
        Ok(plan_do(tx, core, &image, run.rules).await?)
    });
    let planned = done?;
    core.tallies.retention_trashed(planned.plan.going);
    freed_fill(core, planned).await
}

/// Within a transaction that holds the image.
async fn plan_do(tx: &mut Tx, core: &Core, image: &ImageRow, given: Option<Retention>) -> Result<Planned, DbError> {
    let mut planned = plan_make(tx, core, image, given).await?;
    let now = tx.now();
    for version in &planned.going {
        let update = sql("UPDATE version SET trashed_at = $1 WHERE image_id = $2 AND number = $3")
            .bind(now)
            .bind(image.id)
            .bind(version.number);
        tx.run(update).await?;
        let detail = json!({ "retention": planned.plan.rules.to_string() });
        tx.journal("version_trash", image.version_reference(version.number), detail);
    }
    tx.run(sql("UPDATE image SET retained_at = $1 WHERE id = $2").bind(now).bind(image.id)).await?;
    if !planned.going.is_empty() {
        image_touch(tx, &image.id).await?;
        let detail = json!({
            "rules": planned.plan.rules.to_string(), "from": planned.plan.from, "trashed": planned.going.len(),
        });
        tx.journal("retention_run", image.reference(), detail);
        tx.nudge(Nudge::Expiry);
    }
    planned.plan.done = true;
    Ok(planned)
}

/// Images whose rules are due to be applied unasked; at most so many.
pub(crate) async fn retention_due(core: &Core, limit: u64) -> Result<Vec<Uuid>, DbError> {
    let Some(every) = core.config.retention_every else { return Ok(Vec::new()) };
    let mut tx = core.db.read().await?;
    let before = tx.now() - crate::core::ms(every);
    // A default in the server's settings has no time at which it was set: it counts from the image's making.
    let rows = tx
        .rows(
            sql("SELECT image.id FROM image JOIN account ON account.id = image.account_id \
                 WHERE image.trashed_at IS NULL AND COALESCE(image.retained_at, image.created_at) <= $1 \
                 AND (image.retention IS NOT NULL OR account.retention IS NOT NULL OR $2 = 1) \
                 ORDER BY COALESCE(image.retained_at, image.created_at), image.id LIMIT $3")
            .bind(before)
            .bind(!core.config.retention.keeps_all())
            .bind(limit),
        )
        .await?;
    rows.iter().map(|row| row.parsed("id")).collect()
}

/// Applies the rules of one image that is due; says how many versions went.
pub(crate) async fn retention_apply(core: &Core, id: &Uuid) -> Result<u64, TxError> {
    let Some(every) = core.config.retention_every else { return Ok(0) };
    let server = Caller::server();
    let done: Result<u64, TxError> = tx!(&core.db, &server, |tx| {
        image_lock(tx, id).await?;
        let before = tx.now() - crate::core::ms(every);
        // Asked again under the lock: another server may have done it, or the image is in the trash by now.
        let due = sql(
            "SELECT id FROM image WHERE id = $1 AND trashed_at IS NULL AND COALESCE(retained_at, created_at) <= $2",
        );
        if tx.row(due.bind(id).bind(before)).await?.is_none() {
            return Ok(0);
        }
        match image_by_id(tx, id).await? {
            Some(image) => Ok(plan_do(tx, core, &image, None).await?.plan.going),
            None => Ok(0),
        }
    });
    if let Ok(going) = &done {
        core.tallies.retention_trashed(*going);
    }
    done
}
