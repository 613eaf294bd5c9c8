//! How much there is of what: for the metrics.

use crate::core::Core;
use crate::db::sql;
use crate::metrics::ScrubGauges;
use crate::rules::finding_row::findings_open;
use slipway_api::Problem;

/// What is counted.
pub(crate) struct Counts {
    /// (kind, state, how many).
    pub(crate) tasks: Vec<(String, String, u64)>,
    /// (kind, state, how many, bytes).
    pub(crate) blobs: Vec<(String, String, u64, u64)>,
    pub(crate) uploads_open: u64,
    pub(crate) versions: u64,
    /// (kind, how many are open).
    pub(crate) findings: Vec<(String, u64)>,
    pub(crate) scrub: ScrubGauges,
    pub(crate) versions_in_trash: u64,
}

/// Counts rows. Who may ask is the caller's question.
pub(crate) async fn counts_get(core: &Core) -> Result<Counts, Problem> {
    let mut tx = core.db.read().await?;
    let mut tasks = Vec::new();
    for row in
        tx.rows(sql("SELECT kind, state, COUNT(*) AS n FROM task GROUP BY kind, state ORDER BY kind, state")).await?
    {
        tasks.push((row.text("kind")?, row.text("state")?, row.size("n")?));
    }
    let mut blobs = Vec::new();
    let read = "SELECT kind, state, COUNT(*) AS n, CAST(COALESCE(SUM(len), 0) AS BIGINT) AS bytes FROM blob \
                GROUP BY kind, state ORDER BY kind, state";
    for row in tx.rows(sql(read)).await? {
        blobs.push((row.text("kind")?, row.text("state")?, row.size("n")?, row.size("bytes")?));
    }
    let open = tx.row_must(sql("SELECT COUNT(*) AS n FROM upload WHERE state = 'open'")).await?.size("n")?;
    let versions = tx.row_must(sql("SELECT COUNT(*) AS n FROM version")).await?.size("n")?;
    let findings = findings_open(&mut tx).await?;
    let row = tx.row_must(sql("SELECT * FROM scrub WHERE name = 'store'")).await?;
    let under_way = row.int_or_null("begun_at")?.is_some();
    let now = |column: &str| if under_way { row.size(column) } else { Ok(0) };
    let scrub = ScrubGauges {
        age_seconds: row
            .int_or_null("last_ended_at")?
            .map(|ended| u64::try_from((tx.now() - ended) / 1000).unwrap_or(0)),
        passes: row.size("pass")?.saturating_sub(u64::from(under_way)),
        blobs: now("blobs")?,
        bytes: now("bytes")?,
        findings: now("findings")?,
        paused: row.flag("paused")?,
    };
    let trash = "SELECT COUNT(*) AS n FROM version JOIN image ON image.id = version.image_id \
                 WHERE version.trashed_at IS NOT NULL OR image.trashed_at IS NOT NULL";
    let trash = tx.row_must(sql(trash)).await?.size("n")?;
    Ok(Counts { tasks, blobs, uploads_open: open, versions, findings, scrub, versions_in_trash: trash })
}
