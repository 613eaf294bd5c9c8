//! One-shot upload: the body is the image.

use axum::http::StatusCode;
use serde::Deserialize;
use slipway_api::{Code, Outcome, Problem, UploadFormat, UploadNew};
use slipway_chunk::{Digest, Root};
use slipway_format::{Said, Wrap};

use crate::http::answer::{self, Answered};
use crate::http::ask::Ask;
use crate::http::json::printable;
use crate::http::repr::ReprCheck;
use crate::http::stream::{body_channel, body_seat};
use crate::rules;
use crate::rules::upload::FillChecks;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PutQuery {
    message: String,
    new: bool,
    parent: Option<u64>,
    sector_size: Option<u32>,
    format: Option<String>,
    root: Option<Root>,
    digest: Option<Digest>,
}

/// What the body is, if somebody said so: the query before `Content-Encoding`; else its content tells.
fn body_said(format: Option<&str>, encoding: Option<&str>) -> Result<Said, Problem> {
    match (format.map(str::parse), encoding) {
        (Some(Ok(said)), _) if said != Said::Auto => Ok(said),
        (Some(Err(())), _) => {
            let other = printable(format.unwrap_or_default());
            let title = format!("format '{other}' is unknown; known are {}", Said::WORDS);
            Err(Problem::new(Code::InvalidRequest, title).field("format"))
        }
        (_, None | Some("" | "identity")) => Ok(Said::Auto),
        (_, Some("gzip" | "x-gzip")) => Ok(Said::Wrapped(Wrap::Gzip)),
        (_, Some("xz")) => Ok(Said::Wrapped(Wrap::Xz)),
        (_, Some("zstd")) => Ok(Said::Wrapped(Wrap::Zstd)),
        (_, Some(other)) => {
            let title = format!("Content-Encoding '{}' is not supported; gzip, xz and zstd are", printable(other));
            Err(Problem::new(Code::UnsupportedMedia, title).field("content-encoding"))
        }
    }
}

pub(crate) async fn content_put(ask: Ask) -> Answered {
    let query: PutQuery = ask.query()?;
    let image = ask.image()?;
    let said = body_said(query.format.as_deref(), ask.header("content-encoding")?)?;
    let check = ReprCheck::from_headers(ask.headers())?;
    ask.site.space_check()?;
    let max = ask.core().config.image_size_max;
    let new = UploadNew {
        image: image.to_string(),
        format: UploadFormat::Raw,
        parent: query.parent,
        size: None,
        sector_size: query.sector_size,
        message: query.message,
        new: query.new,
        source_format: None,
        digest: None,
    };
    let checks = FillChecks { root: query.root, digest: query.digest, replace: false };
    let _seat = body_seat()?;
    let (pump, reader) = body_channel(check);
    let Ask { site, who, body, .. } = ask;
    let filling = rules::upload::upload_fill(&site.core, &who, new, said, Box::new(reader), checks, pump.cut());
    // The pump ends when the body does, or when the reader is gone; so both always end.
    let (filled, ()) = tokio::join!(filling, pump.run(body, max, None, &site));
    site.metrics.upload_ended(filled.is_ok());
    let committed = filled?;
    answer::json(outcome_status(committed.outcome), &committed)
}

/// 201 for a new version, 200 when there was nothing to make.
pub(super) fn outcome_status(outcome: Outcome) -> StatusCode {
    match outcome {
        Outcome::Created => StatusCode::CREATED,
        Outcome::Unchanged => StatusCode::OK,
    }
}

#[cfg(test)]
mod tests {
    use super::{Said, Wrap, body_said};
    use slipway_format::Format;

    #[test]
    fn the_query_wins_over_the_header() {
        for (format, encoding, expected) in [
            (None, None, Ok(Said::Auto)),
            (Some("auto"), None, Ok(Said::Auto)),
            (Some("raw"), Some("gzip"), Ok(Said::Disk(Format::Raw))),
            (Some("qcow2"), Some("gzip"), Ok(Said::Disk(Format::Qcow2))),
            (Some("auto"), Some("xz"), Ok(Said::Wrapped(Wrap::Xz))),
            (None, Some("zstd"), Ok(Said::Wrapped(Wrap::Zstd))),
            (None, Some("identity"), Ok(Said::Auto)),
            (None, Some("br"), Err(415)),
            (Some("rar"), None, Err(400)),
        ] {
            assert_eq!(body_said(format, encoding).map_err(|p| p.status), expected, "{format:?} {encoding:?}");
        }
    }
}
