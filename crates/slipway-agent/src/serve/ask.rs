//! A request as a handler sees it: who asks, the query read as the ImageAPI reads it, the body within its limits.

use super::peer::Line;
use super::site::Site;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, EXPECT};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use serde::de::DeserializeOwned;
use serde_json::Value;
use slipway_node::access::{Act, Caller, allowed};
use slipway_node::{Refusal, schema};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a body.
pub(crate) const BODY_MAX: usize = 1 << 20;
/// How long bytes of a body that is too large are thrown away, so that its sender hears why.
const DISCARD_WAIT: Duration = Duration::from_secs(5);

/// A request.
pub(crate) struct Ask {
    pub(crate) site: Arc<Site>,
    pub(crate) caller: Caller,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Incoming,
    /// The connection, for a handler that takes it over.
    pub(crate) upgrade: Option<OnUpgrade>,
    /// To see whether whoever asks is still there.
    pub(crate) line: Option<Line>,
}

impl Ask {
    /// The one place that asks the policy about an object.
    pub(crate) fn allow(&self, act: Act<'_>) -> Result<(), Refusal> {
        permit(&self.site, &self.caller, act)
    }

    /// The JSON of the body, checked against its schema. `name` is the body's in the ImageAPI.
    pub(crate) async fn json<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        check: fn(&Value) -> Result<(), Refusal>,
    ) -> Result<T, Refusal> {
        let bytes = body_read(&self.headers, &mut self.body, self.site.patience).await?;
        if bytes.is_empty() {
            return Err(Refusal::invalid(602, format!("{name} in body is required")));
        }
        media_check(&self.headers)?;
        json_parse(name, &bytes, check)
    }
}

/// Asks the policy.
pub(crate) fn permit(site: &Site, caller: &Caller, act: Act<'_>) -> Result<(), Refusal> {
    let policy = site.policy();
    site.host.read(|table| allowed(caller, &policy, table, act))
}

fn media_check(headers: &HeaderMap) -> Result<(), Refusal> {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/octet-stream");
    let kind = given.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let shown: String = given.chars().take(100).collect();
    Err(Refusal::new(415, format!("unsupported media type {shown:?}, only [application/json] are allowed"))
        .hint("send 'Content-Type: application/json'"))
}

fn json_parse<T: DeserializeOwned>(
    name: &str,
    bytes: &[u8],
    check: fn(&Value) -> Result<(), Refusal>,
) -> Result<T, Refusal> {
    let wrong = |why: String| Refusal::new(400, format!("parsing {name} body from \"\" failed, because {why}"));
    if !schema::is_shallow(bytes) {
        return Err(wrong(format!("it nests deeper than {} levels", schema::DEPTH_MAX)));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    // The depth was counted above.
    reader.disable_recursion_limit();
    let mut value = <Value as serde::Deserialize>::deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|why| wrong(why.to_string()))?;
    check(&value)?;
    schema::nulls_drop(&mut value);
    T::deserialize(value).map_err(|why| wrong(why.to_string()))
}

fn too_large() -> Refusal {
    Refusal::new(413, format!("the body is larger than {BODY_MAX} bytes"))
        .hint("no object of this API needs so much; send files by other ways")
}

async fn body_read(headers: &HeaderMap, body: &mut Incoming, patience: Duration) -> Result<Bytes, Refusal> {
    let announced = body.size_hint().lower() > BODY_MAX as u64;
    if announced && headers.contains_key(EXPECT) {
        // It waits to be asked for the body, and is not.
        return Err(too_large());
    }
    let mut whole = Vec::new();
    let reading = async {
        if announced {
            return Ok(false);
        }
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|why| Refusal::new(400, format!("reading the body: {why}")))?;
            if let Ok(data) = frame.into_data() {
                if whole.len() + data.len() > BODY_MAX {
                    return Ok(false);
                }
                whole.extend_from_slice(&data);
            }
        }
        Ok(true)
    };
    match tokio::time::timeout(patience, reading).await {
        Ok(Ok(true)) => Ok(whole.into()),
        Ok(Ok(false)) => {
            // Thrown away piece by piece: closing at once would reset the connection before its end is read.
            let discarding = async { while let Some(Ok(_)) = body.frame().await {} };
            let _ = tokio::time::timeout(DISCARD_WAIT, discarding).await;
            Err(too_large())
        }
        Ok(Err(refusal)) => Err(refusal),
        Err(_) => Err(Refusal::new(408, format!("the body did not come within {patience:?}"))),
    }
}

/// The parameters of a query. An empty one is absent, of several the last one counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// A number; one below zero is nobody's.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        self.text(name)
            .map(|text| match text.parse::<i64>() {
                Ok(number) => Ok(u64::try_from(number).unwrap_or_default()),
                Err(_) => {
                    let shown: String = text.chars().take(100).collect();
                    Err(Refusal::invalid(601, format!("{name} in query must be of type int64: {shown:?}")))
                }
            })
            .transpose()
    }

    /// A truth: some words mean yes, everything else no.
    pub(crate) fn flag(&self, name: &str) -> bool {
        const YES: &[&str] = &["true", "1", "yes", "ok", "y", "on", "selected", "checked", "t", "enabled"];
        self.text(name).is_some_and(|text| YES.contains(&text.to_ascii_lowercase().as_str()))
    }

    /// One of some words.
    pub(crate) fn one_of(&self, name: &str, known: &[&'static str]) -> Result<Option<&'static str>, Refusal> {
        self.text(name)
            .map(|text| {
                known.iter().find(|word| **word == text).copied().ok_or_else(|| {
                    Refusal::invalid(606, format!("{name} in query should be one of [{}]", known.join(" ")))
                })
            })
            .transpose()
    }
}

/// A parameter that must be there.
pub(crate) fn required<T>(name: &str, value: Option<T>) -> Result<T, Refusal> {
    value.ok_or_else(|| Refusal::invalid(602, format!("{name} in query is required")))
}

#[cfg(test)]
mod tests {
    use super::Query;

    #[test]
    fn queries_are_read_as_the_imageapi_reads_them() {
        let query = Query::parse("id=3&id=&id=7&name=&force=YES&bad=maybe&n=x&neg=-1&a=%20b");
        assert_eq!(query.number("id").unwrap(), Some(7));
        assert_eq!((query.text("name"), query.text("none"), query.text("a")), (None, None, Some(" b")));
        assert!(query.flag("force") && !query.flag("bad") && !query.flag("none"));
        assert_eq!(query.number("neg").unwrap(), Some(0));
        let refusal = query.number("n").unwrap_err();
        assert_eq!((refusal.status, refusal.problem.code), (422, 601));
        assert_eq!(refusal.problem.message, "n in query must be of type int64: \"x\"");
        let refusal = query.one_of("bad", &["a", "b"]).unwrap_err();
        assert_eq!(
            (refusal.problem.code, refusal.problem.message.as_str()),
            (606, "bad in query should be one of [a b]")
        );
        // The last one counts, also when it is empty.
        assert_eq!(Query::parse("id=3&id=").number("id").unwrap(), None);
    }
}
