use super::{
    Bench, bytes_of, configured, count, each, image_add, image_ref, meddle, number, push, refused, upload_new,
    user_add, verbs, work,
};
use crate::core::{Caller, CallerUser, Core};
use crate::db::sql;
use crate::rules::channel::channel_set;
use crate::rules::image::image_trash;
use crate::rules::retention::{
    account_retention_get, account_retention_set, retention_get, retention_preview, retention_run, retention_set,
};
use crate::rules::upload::upload_create;
use crate::rules::version::{version_change, version_restore, version_trash};
use crate::scope::Scopes;
use crate::workers::{Stop, Worker};
use slipway_api::{
    ChannelSet, Code, Retention, RetentionPlan, RetentionRun, RetentionSet, RetentionSource, Role, Scope, UploadFormat,
    UploadNew, VersionChange,
};
use std::collections::BTreeSet;
use std::time::Duration;

const DAY: i64 = 86_400_000;

fn rules(text: &str) -> Retention {
    text.parse().unwrap()
}

fn own(text: &str) -> RetentionSet {
    RetentionSet { rules: Some(rules(text)) }
}

/// Gives the versions of an image these ages in days, the first for number 0.
async fn ages(core: &Core, days: &[i64]) {
    for (number, days) in days.iter().enumerate() {
        let age = sql("UPDATE version SET created_at = created_at - $1 WHERE number = $2");
        meddle(core, age.bind(days * DAY).bind(number as u64)).await;
    }
}

fn going(plan: &RetentionPlan) -> Vec<u64> {
    plan.versions.iter().filter(|version| version.keep.is_empty()).map(|version| version.number).collect()
}

fn why(plan: &RetentionPlan, number: u64) -> Vec<&str> {
    let version = plan.versions.iter().find(|version| version.number == number).unwrap();
    version.keep.iter().map(String::as_str).collect()
}

async fn run(bench: &Bench) -> RetentionPlan {
    retention_run(&bench.core, &bench.jan, &image_ref("jan/os"), RetentionRun::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_put_into_the_trash_what_nothing_keeps() {
    each(async |bench| {
        let (core, os) = (&bench.core, image_ref("jan/os"));
        image_add(core, &bench.jan, "jan/os").await;
        for seed in 0..8 {
            push(core, &bench.jan, "jan/os", bytes_of(seed, 4)).await;
        }
        ages(core, &[70, 60, 50, 40, 30, 20, 10, 0]).await;
        // Without rules everything stays.
        let plan = retention_preview(core, &bench.jan, &os, None).await.unwrap();
        assert_eq!((plan.from, plan.going, why(&plan, 0)), (RetentionSource::Server, 0, vec!["all"]));
        let shown = retention_set(core, &bench.jan, &os, own("last=2")).await.unwrap();
        assert_eq!((shown.own, shown.from), (Some(rules("last=2")), RetentionSource::Image));
        channel_set(core, &bench.jan, &os, &"stable".parse().unwrap(), ChannelSet { version: 1 }).await.unwrap();
        let protect = VersionChange { message: None, protected: Some(true) };
        version_change(core, &bench.jan, &os, &number(2), protect).await.unwrap();
        let parent = UploadNew { parent: Some(3), ..upload_new("jan/os", UploadFormat::Raw) };
        let upload = upload_create(core, &bench.jan, parent).await.unwrap();
        version_trash(core, &bench.jan, &os, &number(5)).await.unwrap();
        let plan = retention_preview(core, &bench.jan, &os, None).await.unwrap();
        assert_eq!(going(&plan), [4, 0]);
        assert_eq!((plan.done, plan.going, plan.bytes_exact), (false, 2, true));
        assert!(plan.bytes_freed > 2 * 4 * 4096, "{plan:?}");
        assert_eq!(why(&plan, 7), ["newest", "last"]);
        assert_eq!((why(&plan, 6), why(&plan, 1)), (vec!["last"], vec!["channel stable"]));
        assert_eq!((why(&plan, 2), why(&plan, 3)), (vec!["protected"], vec![&*format!("upload {}", upload.id)]));
        assert!(
            plan.versions.iter().all(|version| version.number != 5),
            "what is in the trash is no business of rules"
        );
        // A preview changes nothing; other rules may be asked for.
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM version WHERE trashed_at IS NOT NULL").await, 1);
        let other = retention_preview(core, &bench.jan, &os, Some(rules("monthly=12"))).await.unwrap();
        assert_eq!(other.from, RetentionSource::Given);
        let done = run(&bench).await;
        assert_eq!(RetentionPlan { done: false, ..done.clone() }, plan, "the run is what the preview said");
        assert!(done.done);
        let written = verbs(core).await;
        assert_eq!(written.iter().filter(|verb| *verb == "version_trash").count(), 3);
        assert_eq!(written.iter().filter(|verb| *verb == "retention_run").count(), 1);
        // Never further than the trash, and not twice.
        assert_eq!(version_restore(core, &bench.jan, &os, 0).await.unwrap().number, 0);
        version_trash(core, &bench.jan, &os, &number(0)).await.unwrap();
        assert_eq!(run(&bench).await.going, 0);
        assert_eq!(count(core, "SELECT COUNT(*) AS n FROM version").await, 8);
        assert_eq!(core.tallies.read()[2], 2);
        // Once, with other rules than those in force.
        let once = RetentionRun { rules: Some(rules("last=1")) };
        assert_eq!(going(&retention_run(core, &bench.jan, &os, once).await.unwrap()), [6]);
        assert_eq!(retention_get(core, &bench.jan, &os).await.unwrap().rules, rules("last=2"));
    })
    .await;
}

/// What is said to become free is what is free when it is all over: frame by frame, with versions that share chunks, in one space.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bytes_of_a_preview_are_those_that_a_prune_frees() {
    each(async |mut bench| {
        // Every pack with a dead frame is written anew, so that nothing dead stays in a pack.
        configured(&mut bench, |config| config.rewrite_below = 2.0);
        let (core, os) = (&bench.core, image_ref("jan/os"));
        image_add(core, &bench.jan, "jan/os").await;
        image_add(core, &bench.jan, "jan/other").await;
        let (common, base) = (bytes_of(100, 96), bytes_of(101, 96));
        for seed in 0..5 {
            let bytes = [base.clone(), bytes_of(seed, 64), common[..(seed as usize) * 16 * 4096].to_vec()].concat();
            push(core, &bench.jan, "jan/os", bytes).await;
        }
        push(core, &bench.jan, "jan/other", [bytes_of(1, 64), bytes_of(55, 8)].concat()).await;
        let stored = "SELECT CAST(COALESCE(SUM(CASE WHEN kind = 'pack' THEN frames_len ELSE len END), 0) AS BIGINT) AS n \
                      FROM blob WHERE state = 'live'";
        super::pruning::prune(&bench, false).await;
        super::pruning::prune(&bench, false).await;
        let before = count(core, stored).await;
        retention_set(core, &bench.jan, &os, own("last=1")).await.unwrap();
        let plan = retention_preview(core, &bench.jan, &os, None).await.unwrap();
        assert_eq!((going(&plan), plan.bytes_exact), (vec![3, 2, 1, 0], true));
        let done = run(&bench).await;
        assert_eq!((done.bytes_freed, done.bytes_exact), (plan.bytes_freed, true));
        super::trash_age(core).await;
        work(core).await;
        for _ in 0..3 {
            super::pruning::prune(&bench, false).await;
        }
        let freed = before - count(core, stored).await;
        assert_eq!(freed as u64, plan.bytes_freed, "of {before}");
        assert!(plan.bytes_freed > 2 * 64 * 4096 && plan.bytes_freed < before as u64 / 2, "{plan:?}");
    })
    .await;
}

/// Whatever the rules, pins and times: nothing goes that a rule, a pin or a protection keeps, all else goes, and the preview is the run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_goes_that_anything_keeps() {
    each(async |bench| {
        let (core, os) = (&bench.core, image_ref("jan/os"));
        image_add(core, &bench.jan, "jan/os").await;
        for seed in 0..12 {
            push(core, &bench.jan, "jan/os", bytes_of(seed, 1)).await;
        }
        for round in 0u64..12 {
            let mut dice = crate::rules::catalogue_test::bytes_of(round + 1000, 1).into_iter();
            let mut roll = |sides: u8| dice.next().unwrap() % sides;
            meddle(core, sql("UPDATE version SET trashed_at = NULL, protected = 0")).await;
            meddle(core, sql("DELETE FROM channel")).await;
            let (mut pinned, mut trashed) = (BTreeSet::new(), BTreeSet::new());
            for n in 0..12u64 {
                let at = 1_790_000_000_000 + i64::from(roll(250)) * 3_600_000 * i64::from(roll(40) + 1);
                meddle(core, sql("UPDATE version SET created_at = $1 WHERE number = $2").bind(at).bind(n)).await;
                match roll(8) {
                    0 => {
                        meddle(core, sql("UPDATE version SET protected = 1 WHERE number = $1").bind(n)).await;
                        pinned.insert(n);
                    }
                    1 => {
                        let name = format!("c{n}").parse().unwrap();
                        channel_set(core, &bench.jan, &os, &name, ChannelSet { version: n }).await.unwrap();
                        pinned.insert(n);
                    }
                    2 => {
                        version_trash(core, &bench.jan, &os, &number(n)).await.unwrap();
                        trashed.insert(n);
                    }
                    _ => {}
                }
            }
            let mut count_of = || Some(u32::from(roll(4))).filter(|count| *count > 0);
            let rules = Retention {
                keep_last: count_of(),
                keep_hourly: count_of(),
                keep_daily: count_of(),
                keep_weekly: count_of(),
                keep_monthly: count_of(),
                keep_yearly: count_of(),
            };
            let preview = retention_preview(core, &bench.jan, &os, Some(rules)).await.unwrap();
            let left: Vec<_> = preview.versions.iter().map(|version| (version.number, version.created_at)).collect();
            let decided = crate::rules::retention_decide::retention_decide(&rules, &left);
            let kept: BTreeSet<u64> =
                left.iter().zip(decided).filter(|(_, why)| !why.is_empty()).map(|((n, _), _)| *n).collect();
            let run = RetentionRun { rules: Some(rules) };
            let done = retention_run(core, &bench.jan, &os, run).await.unwrap();
            assert_eq!(RetentionPlan { done: false, ..done.clone() }, preview, "round {round}");
            let gone: BTreeSet<u64> = going(&done).into_iter().collect();
            for n in 0..12 {
                let stays = kept.contains(&n) || pinned.contains(&n) || trashed.contains(&n);
                assert_eq!(gone.contains(&n), !stays, "round {round}, version {n}, {rules}");
            }
            let in_trash = count(core, "SELECT COUNT(*) AS n FROM version WHERE trashed_at IS NOT NULL").await;
            assert_eq!(in_trash as usize, gone.len() + trashed.len(), "round {round}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_default_holds_where_there_are_no_own_rules() {
    each(async |mut bench| {
        configured(&mut bench, |config| config.retention = rules("last=9"));
        let (core, os) = (&bench.core, image_ref("jan/os"));
        image_add(core, &bench.jan, "jan/os").await;
        let shown = retention_get(core, &bench.jan, &os).await.unwrap();
        assert_eq!((shown.own, shown.rules, shown.from), (None, rules("last=9"), RetentionSource::Server));
        assert_eq!(shown.every_seconds, Some(86_400));
        account_retention_set(core, &bench.jan, "me", own("daily=5")).await.unwrap();
        let shown = retention_get(core, &bench.jan, &os).await.unwrap();
        assert_eq!((shown.rules, shown.from), (rules("daily=5"), RetentionSource::Account));
        retention_set(core, &bench.jan, &os, own("all")).await.unwrap();
        let shown = retention_get(core, &bench.jan, &os).await.unwrap();
        assert_eq!((shown.own, shown.from), (Some(Retention::default()), RetentionSource::Image));
        retention_set(core, &bench.jan, &os, RetentionSet { rules: None }).await.unwrap();
        assert_eq!(retention_get(core, &bench.jan, &os).await.unwrap().rules, rules("daily=5"));
        assert_eq!(account_retention_get(core, &bench.jan, "jan").await.unwrap().own, Some(rules("daily=5")));
        account_retention_set(core, &bench.admin, "jan", RetentionSet { rules: None }).await.unwrap();
        assert_eq!(retention_get(core, &bench.jan, &os).await.unwrap().from, RetentionSource::Server);
        assert_eq!(verbs(core).await.iter().filter(|verb| *verb == "retention_set").count(), 4);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_delete_sets_no_rules() {
    each(async |bench| {
        let (core, os) = (&bench.core, image_ref("jan/os"));
        image_add(core, &bench.jan, "jan/os").await;
        push(core, &bench.jan, "jan/os", bytes_of(1, 1)).await;
        let mona = user_add(core, "mona", Role::Moderator).await;
        let narrow = |scope: &str| {
            let user = CallerUser { role: Role::User, ..bench.jan.user.clone().unwrap() };
            Caller::user(user, None, Scopes::parse(&[Scope(scope.to_owned())], "jan").unwrap())
        };
        let run = RetentionRun::default();
        for (who, code) in [
            (&bench.eva, Code::NotFound),
            (&mona, Code::NotFound),
            (&narrow("image:write"), Code::Forbidden),
            (&narrow("image:delete:jan/other"), Code::Forbidden),
            (&Caller::nobody(), Code::Unauthenticated),
        ] {
            refused(retention_set(core, who, &os, own("last=1")).await, code);
            refused(retention_run(core, who, &os, run).await, code);
            refused(retention_preview(core, who, &os, None).await, code);
        }
        retention_set(core, &narrow("image:delete:jan/os"), &os, own("last=1")).await.unwrap();
        // The default reaches every image, so a right to delete some is not enough.
        for (who, code) in [
            (&bench.eva, Code::NotFound),
            (&mona, Code::Forbidden),
            (&narrow("image:delete:jan/os"), Code::Forbidden),
            (&narrow("image:write"), Code::Forbidden),
        ] {
            refused(account_retention_set(core, who, "jan", own("last=1")).await, code);
        }
        account_retention_set(core, &narrow("image:delete:jan/*"), "jan", own("last=1")).await.unwrap();
        let zero = RetentionSet { rules: Some(Retention { keep_last: Some(0), ..Retention::default() }) };
        let problem = refused(retention_set(core, &bench.jan, &os, zero).await, Code::InvalidRequest);
        assert_eq!(problem.field.as_deref(), Some("rules"));
        refused(account_retention_set(core, &bench.jan, "jan", zero).await, Code::InvalidRequest);
        image_trash(core, &bench.jan, &os, None).await.unwrap();
        refused(retention_set(core, &bench.jan, &os, own("last=1")).await, Code::Conflict);
        refused(retention_run(core, &bench.jan, &os, run).await, Code::Conflict);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_worker_applies_rules_once_in_a_period() {
    each(async |mut bench| {
        configured(&mut bench, |config| config.retention_every = Some(Duration::from_secs(3600)));
        let (core, os) = (&bench.core, image_ref("jan/os"));
        for image in ["jan/os", "jan/free", "jan/gone"] {
            image_add(core, &bench.jan, image).await;
            for seed in 0..3 {
                push(core, &bench.jan, image, bytes_of(seed, 1)).await;
            }
        }
        let trashed = "SELECT COUNT(*) AS n FROM version WHERE trashed_at IS NOT NULL";
        let turn = async || {
            let more = crate::workers::retention::Retaining.pass(core, &Stop::never()).await.unwrap();
            assert!(!more);
            count(core, trashed).await
        };
        let age = || {
            meddle(core, sql("UPDATE image SET retained_at = retained_at - 3600001, created_at = created_at - 3600001"))
        };
        age().await;
        assert_eq!(turn().await, 0, "there are no rules");
        account_retention_set(core, &bench.jan, "me", own("last=1")).await.unwrap();
        retention_set(core, &bench.jan, &image_ref("jan/free"), own("all")).await.unwrap();
        image_trash(core, &bench.jan, &image_ref("jan/gone"), None).await.unwrap();
        assert_eq!(turn().await, 0, "new rules have one period to be looked at");
        age().await;
        assert_eq!(turn().await, 2);
        version_restore(core, &bench.jan, &os, 0).await.unwrap();
        assert_eq!(turn().await, 1, "the image had its turn");
        age().await;
        assert_eq!(turn().await, 2);
        let written = verbs(core).await;
        assert_eq!(written.iter().filter(|verb| *verb == "retention_run").count(), 2);
        let by = sql("SELECT COUNT(*) AS n FROM journal WHERE verb = 'version_trash' AND actor = 'server'");
        let mut tx = core.db.read().await.unwrap();
        assert_eq!(tx.row_must(by).await.unwrap().int("n").unwrap(), 3);
    })
    .await;
}
