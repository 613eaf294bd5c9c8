//! Reads and verifies what is stored, and names the versions that are hurt.

use crate::core::{Caller, Core, Nudge};
use crate::db::{DbError, TxError, sql, tx};
use crate::rules::finding_row::{BlobName, findings_close_others, findings_record, findings_whole, kind_word};
use crate::rules::upload_fill::blocking;
use crate::workers::Worker;
use crate::workers::run::{Halt, Running, Stop, TaskWork, halt, task_pass};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;
use slipway_api::{CheckResult, Code, Finding, Problem, TaskKind};
use slipway_chunk::Root;
use slipway_store::{BlobId, CheckReport, CheckSpec, ContentRef, SpaceId};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Findings in one result at most; a store that is hurt worse than this needs more than a list.
const FINDINGS_MAX: usize = 10_000;

/// What a task is to look at: everything, or some blobs that a reader or the scrub called damaged.
#[derive(Debug, Deserialize)]
struct Input {
    #[serde(default)]
    quick: bool,
    #[serde(default)]
    repair: bool,
    #[serde(default)]
    blobs: Vec<BlobName>,
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
            let result = match input.blobs.is_empty() {
                false => blobs_check(core, input.blobs).await?,
                true => check(core, running, CheckSpec { read_data: !input.quick, repair: input.repair }).await?,
            };
            serde_json::to_value(result).map_err(|error| Halt::Failed(Problem::new(Code::Internal, error.to_string())))
        })
    }
}

/// Looks at some blobs, puts right what it can, and brings what is known of them up to what it saw.
async fn blobs_check(core: &Arc<Core>, blobs: Vec<BlobName>) -> Result<CheckResult, Halt> {
    let (store, ledger, names) = (core.store.clone(), core.ledger(), blobs.clone());
    let report = blocking(move || store.blobs_verify(&names, &ledger));
    let report = report.await?.map_err(|error| halt("checking a blob", error))?;
    let server = Caller::server();
    let kept: Result<(), TxError> = tx!(&core.db, &server, |tx| {
        let mut whole = Vec::new();
        for (space, kind, name) in &blobs {
            let row =
                sql("SELECT id FROM blob WHERE space = $1 AND kind = $2 AND name = $3 AND state IN ('live', 'doomed')");
            for row in tx.rows(row.bind(space.as_str()).bind(kind.as_str()).bind(name)).await? {
                let id: BlobId = row.parsed("id")?;
                if report.findings.iter().all(|finding| finding.blob != Some(id)) {
                    whole.push(id);
                }
            }
        }
        findings_whole(tx, &whole).await?;
        // Contents that lack something else are not what was asked about.
        let about: Vec<_> = report.findings.iter().filter(|finding| finding.blob.is_some()).cloned().collect();
        findings_record(tx, "check", &about).await?;
        Ok(())
    });
    kept?;
    result_make(core, &report).await
}

async fn check(core: &Arc<Core>, running: &Running, spec: CheckSpec) -> Result<CheckResult, Halt> {
    let (store, ledger, reports) = (core.store.clone(), core.ledger(), running.clone());
    let report = blocking(move || store.check(&spec, &ledger, &mut |at| reports.report(at)));
    let report = report.await?.map_err(|error| halt("checking the store", error))?;
    let server = Caller::server();
    let kept: Result<(), TxError> = tx!(&core.db, &server, |tx| {
        let seen = findings_record(tx, "check", &report.findings).await?;
        // Who did not read the packs cannot say that they are whole.
        if spec.read_data {
            findings_close_others(tx, &seen).await?;
        }
        Ok(())
    });
    kept?;
    result_make(core, &report).await
}

async fn result_make(core: &Core, report: &CheckReport) -> Result<CheckResult, Halt> {
    let (hit, all) = versions_hit(core, report).await?;
    let mut hurt: BTreeSet<&String> = BTreeSet::new();
    let mut findings = Vec::new();
    for finding in &report.findings {
        let mut versions: Vec<String> = Vec::new();
        for name in finding.hits.iter().filter_map(|hit_by| hit.get(&content_key(hit_by))).flatten() {
            hurt.insert(name);
            versions.push(name.clone());
        }
        let kind = match &finding.repaired {
            Some(_) => "repaired",
            None => kind_word(finding.kind),
        };
        let detail = match &finding.repaired {
            Some(repaired) => format!("{}; {repaired}", finding.detail),
            None => finding.detail.clone(),
        };
        findings.push(Finding { kind: kind.to_owned(), object: finding.name.clone(), detail, versions });
    }
    findings.truncate(FINDINGS_MAX);
    Ok(CheckResult {
        clean: report.is_clean(),
        blobs: report.blobs,
        bytes_read: report.bytes_read,
        versions: all - hurt.len() as u64,
        findings,
    })
}

/// `owner/name:N` of versions, by root and spaces.
type ByContent = HashMap<(Root, BTreeSet<SpaceId>), Vec<String>>;

fn content_key(content: &ContentRef) -> (Root, BTreeSet<SpaceId>) {
    (content.root, content.spaces.iter().cloned().collect())
}

/// The versions that something hurts, those in the trash too, and how many versions there are.
async fn versions_hit(core: &Core, report: &CheckReport) -> Result<(ByContent, u64), DbError> {
    let mut hit: ByContent =
        report.findings.iter().flat_map(|finding| &finding.hits).map(|hit| (content_key(hit), Vec::new())).collect();
    let mut tx = core.db.read().await?;
    let all = tx.row_must(sql("SELECT COUNT(*) AS versions FROM version")).await?.size("versions")?;
    if hit.is_empty() {
        return Ok((hit, all));
    }
    let query = sql(
        "SELECT account.name AS owner_name, image.slug, version.number, content.root, content.spaces FROM version \
         JOIN content ON content.id = version.content_id JOIN image ON image.id = version.image_id \
         JOIN account ON account.id = image.account_id ORDER BY account.name, image.slug, version.number",
    );
    tx.rows_each(query, |row| {
        let content = ContentRef { root: row.parsed("root")?, spaces: row.json("spaces")? };
        if let Some(versions) = hit.get_mut(&content_key(&content)) {
            versions.push(format!("{}/{}:{}", row.text("owner_name")?, row.text("slug")?, row.int("number")?));
        }
        Ok(())
    })
    .await?;
    Ok((hit, all))
}
