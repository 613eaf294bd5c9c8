//! A service in a guest, asked there.

use serde_json::Value;
use slipway_lab::Guest;

pub(crate) const SOCKET: &str = "/run/slipway/node.sock";

/// Status and body of a request.
#[track_caller]
pub(crate) fn ask(guest: &Guest, method: &str, path: &str, body: Option<&Value>) -> (u64, Value) {
    let data = body.map_or(String::new(), |_| "-H 'Content-Type: application/json' --data-binary @-".into());
    let body = body.map_or(Value::Null, Clone::clone);
    let said = guest.ok(&format!(
        "curl -s --max-time 80 -w '\\n%{{http_code}}' --unix-socket {SOCKET} -X {method} {data} 'http://node/imageapi/v1{path}' <<'BODY'\n{body}\nBODY"
    ));
    let (body, status) = said.trim_end().rsplit_once('\n').unwrap_or_else(|| panic!("{said}"));
    (status.parse().unwrap(), serde_json::from_str(body).unwrap_or_else(|_| panic!("{said}")))
}
