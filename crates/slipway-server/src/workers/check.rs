//! Reads and verifies what is stored, and names the versions that are hurt.

use crate::core::{Core, Nudge};
use crate::db::{DbError, sql};
use crate::rules::upload_fill::blocking;
use crate::workers::Worker;
use crate::workers::run::{Halt, Running, Stop, TaskWork, halt, task_pass};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;
use slipway_api::{CheckResult, Code, Finding, Problem, TaskKind};
use slipway_chunk::PackId;
use slipway_store::{CheckReport, CheckSpec, FindingKind, SpaceId};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Findings in one result at most; a store that is hurt worse than this needs more than a list.
const FINDINGS_MAX: usize = 10_000;

/// What a task is to look at: everything, or one pack that a reader called damaged.
#[derive(Debug, Deserialize)]
struct Input {
    #[serde(default)]
    quick: bool,
    #[serde(default)]
    repair: bool,
    pack: Option<PackId>,
    space: Option<SpaceId>,
}

/// Sees to tasks of kind check.
pub(crate) struct Check;

impl Worker for Check {
    fn name(&self) -> &'static str {
        "check"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn wakes(&self, nudge: Nudge) -> bool {
        nudge == Nudge::Queued(TaskKind::Check)
    }

    fn pass<'a>(&'a self, core: &'a Arc<Core>, stop: &'a Stop) -> BoxFuture<'a, Result<bool, DbError>> {
        Box::pin(task_pass(core, self, stop))
    }
}

impl TaskWork for Check {
    fn kind(&self) -> TaskKind {
        TaskKind::Check
    }

    fn run<'a>(&'a self, core: &'a Arc<Core>, running: &'a Running) -> BoxFuture<'a, Result<Value, Halt>> {
        Box::pin(async move {
            let input: Input = serde_json::from_value(running.task.input.clone()).map_err(|error| {
                Halt::Failed(Problem::new(Code::Internal, format!("reading the request of a check: {error}")))
            })?;
            let result = match (input.pack, input.space) {
                (Some(pack), Some(space)) => pack_check(core, pack, space).await?,
                _ => check(core, running, CheckSpec { read_data: !input.quick, repair: input.repair }).await?,
            };
            serde_json::to_value(result).map_err(|error| Halt::Failed(Problem::new(Code::Internal, error.to_string())))
        })
    }
}

/// Looks at one pack. Which versions it hurts only a check of everything tells.
async fn pack_check(core: &Arc<Core>, pack: PackId, space: SpaceId) -> Result<CheckResult, Halt> {
    let (store, ledger) = (core.store.clone(), core.ledger());
    let report = blocking(move || store.pack_verify(&[space], &pack, &ledger));
    let report = report.await?.map_err(|error| halt("checking a pack", error))?;
    Ok(result_of(&report, &HashMap::new()))
}

async fn check(core: &Arc<Core>, running: &Running, spec: CheckSpec) -> Result<CheckResult, Halt> {
    let (store, ledger, reports) = (core.store.clone(), core.ledger(), running.clone());
    let report = blocking(move || store.check(&spec, &ledger, &mut |at| reports.report(at)));
    let report = report.await?.map_err(|error| halt("checking the store", error))?;
    Ok(result_of(&report, &versions_by_root(core).await?))
}

fn result_of(report: &CheckReport, by_root: &HashMap<String, Vec<String>>) -> CheckResult {
    let mut hurt: BTreeSet<&String> = BTreeSet::new();
    let mut findings = Vec::new();
    for finding in &report.findings {
        let versions = match finding.kind {
            FindingKind::BrokenContent => by_root.get(&finding.name).map_or(&[][..], Vec::as_slice),
            FindingKind::MissingBlob
            | FindingKind::DamagedBlob
            | FindingKind::Unreadable
            | FindingKind::UnknownBlob => &[],
        };
        hurt.extend(versions);
        let kind = match (&finding.repaired, finding.kind) {
            (Some(_), _) => "repaired",
            (None, FindingKind::MissingBlob) => "missing",
            (None, FindingKind::UnknownBlob) => "unknown",
            (None, FindingKind::DamagedBlob | FindingKind::Unreadable | FindingKind::BrokenContent) => "damaged",
        };
        let detail = match &finding.repaired {
            Some(repaired) => format!("{}; {repaired}", finding.detail),
            None => finding.detail.clone(),
        };
        findings.push(Finding {
            kind: kind.to_owned(),
            object: finding.name.clone(),
            detail,
            versions: versions.to_vec(),
        });
    }
    findings.truncate(FINDINGS_MAX);
    let all: usize = by_root.values().map(Vec::len).sum();
    CheckResult {
        clean: report.is_clean(),
        blobs: report.blobs,
        bytes_read: report.bytes_read,
        versions: (all - hurt.len()) as u64,
        findings,
    }
}

/// `owner/name:N` of every version, by its root; those in the trash too.
async fn versions_by_root(core: &Core) -> Result<HashMap<String, Vec<String>>, DbError> {
    let mut tx = core.db.read().await?;
    let rows = tx
        .rows(sql("SELECT account.name AS owner_name, image.slug, version.number, content.root FROM version \
             JOIN content ON content.id = version.content_id JOIN image ON image.id = version.image_id \
             JOIN account ON account.id = image.account_id ORDER BY account.name, image.slug, version.number"))
        .await?;
    let mut by_root: HashMap<String, Vec<String>> = HashMap::new();
    for row in rows {
        let reference = format!("{}/{}:{}", row.text("owner_name")?, row.text("slug")?, row.int("number")?);
        by_root.entry(row.text("root")?).or_default().push(reference);
    }
    Ok(by_root)
}
