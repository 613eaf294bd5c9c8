//! Clients name their version; one that is too old is told so before it does anything.

use axum::http::HeaderMap;
use slipway_api::{CLIENT_HEADER, Code, Problem};

use super::json::printable;

/// The oldest client that this server accepts.
pub(crate) const OLDEST_CLIENT: &str = "0.1.0";

/// Refuses a client that says it is older than [`OLDEST_CLIENT`]. Who says nothing (a browser, curl) is welcome.
pub(crate) fn client_check(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(CLIENT_HEADER) else { return Ok(()) };
    let text = value.to_str().unwrap_or_default();
    let bad = || {
        let title = format!("the header {CLIENT_HEADER} is '{}', which is no version", printable(text));
        Problem::new(Code::InvalidRequest, title).field(CLIENT_HEADER)
    };
    let given = version(text).ok_or_else(bad)?;
    match Some(given) >= version(OLDEST_CLIENT) {
        true => Ok(()),
        false => Err(Problem::new(
            Code::ClientTooOld,
            format!("this server accepts clients from version {OLDEST_CLIENT} on; this one is {}", printable(text)),
        )
        .hint("install a newer slipway")),
    }
}

/// Major, minor, patch; what follows a hyphen or plus does not count.
fn version(text: &str) -> Option<[u32; 3]> {
    let plain = text.split(['-', '+']).next()?;
    let mut parts = plain.split('.').map(|part| part.parse::<u32>().ok());
    let read = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(read)
}

#[cfg(test)]
mod tests {
    use super::{CLIENT_HEADER, HeaderMap, client_check};

    #[test]
    fn old_clients_are_refused() {
        for (text, status) in [
            ("0.1.0", 0),
            ("0.10.0-rc.1", 0),
            ("1.0.0", 0),
            ("0.0.9", 426),
            ("new", 400),
            ("1.0", 400),
            ("1.0.0.0", 400),
        ] {
            let headers = HeaderMap::from_iter([(CLIENT_HEADER.parse().unwrap(), text.parse().unwrap())]);
            assert_eq!(client_check(&headers).map_or_else(|p| p.status, |()| 0), status, "{text}");
        }
        assert!(client_check(&HeaderMap::new()).is_ok());
        assert!(
            client_check(&HeaderMap::from_iter([(
                CLIENT_HEADER.parse().unwrap(),
                slipway_api::VERSION.parse().unwrap()
            )]))
            .is_ok()
        );
    }
}
