//! The error document: RFC 9457 `application/problem+json` with a stable code, the field at fault and a hint.

use crate::Code;
use serde::{Deserialize, Serialize};

/// An error as it travels: what, on what, why, what next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// A URI that names the code: `urn:slipway:problem:CODE`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP status.
    pub status: u16,
    /// The stable code.
    pub code: Code,
    /// What went wrong, on what and why, as one sentence without a final stop.
    pub title: String,
    /// The member of the request that is at fault, as a path like `labels.os`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub field: Option<String>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
    /// Where an upload stands, with `offset_mismatch`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub offset: Option<u64>,
    /// Seconds to wait before asking again, with `slow_down`; also the header `Retry-After`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retry_after: Option<u32>,
    /// Finds the request in the server's log.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request_id: Option<String>,
}

impl Problem {
    /// A problem of this code. `title` names the act and the object once.
    pub fn new(code: Code, title: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:slipway:problem:{}", code.as_str()),
            status: code.status(),
            code,
            title: title.into(),
            field: None,
            hint: None,
            offset: None,
            retry_after: None,
            request_id: None,
        }
    }

    /// Names the member of the request that is at fault.
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Says how many seconds to wait before asking again.
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Says what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.title)
    }
}

impl std::error::Error for Problem {}
