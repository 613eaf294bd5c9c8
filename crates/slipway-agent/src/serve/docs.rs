//! The API's description, for programs and for people. The page is part of this program and loads nothing from elsewhere.

use super::answer::{Answered, typed};
use super::site::Site;
use axum::http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use axum::http::{HeaderValue, StatusCode};
use std::sync::Arc;

/// The OpenAPI 2.0 document.
const SWAGGER: &str = include_str!("swagger.json");

/// The page may run its own script and ask this service.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
                      frame-ancestors 'none'; form-action 'none'";

pub(crate) async fn swagger(_: Arc<Site>) -> Answered {
    Ok(typed(StatusCode::OK, "application/json", SWAGGER))
}

pub(crate) async fn page(_: Arc<Site>) -> Answered {
    let mut answer = typed(StatusCode::OK, "text/html; charset=utf-8", include_str!("page/page.html"));
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    answer.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(answer)
}

pub(crate) async fn script(_: Arc<Site>) -> Answered {
    Ok(typed(StatusCode::OK, "text/javascript; charset=utf-8", include_str!("page/page.js")))
}

pub(crate) async fn style(_: Arc<Site>) -> Answered {
    Ok(typed(StatusCode::OK, "text/css; charset=utf-8", include_str!("page/page.css")))
}

#[cfg(test)]
mod tests {
    use super::SWAGGER;
    use crate::serve::routes::ROUTES;
    use serde_json::Value;

    fn spec() -> Value {
        serde_json::from_str(SWAGGER).unwrap()
    }

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let spec = spec();
        let mut described: Vec<String> = Vec::new();
        for (base, part) in [("/imageapi/v1", "paths"), ("", "x-root-paths")] {
            for (path, methods) in spec[part].as_object().unwrap() {
                for (method, operation) in methods.as_object().unwrap() {
                    assert!(operation["description"].is_string() && operation["responses"].is_object(), "{path}");
                    described.push(format!("{} {base}{path}", method.to_uppercase()));
                }
            }
        }
        // The files of the page belong to the page.
        let served = ROUTES.iter().filter(|route| !route.path.starts_with("/imageapi/v1/docs/"));
        let mut served: Vec<String> = served.map(|route| format!("{} {}", route.method, route.path)).collect();
        described.sort();
        served.sort();
        assert_eq!(described, served);
    }

    /// The wire types as their sources have them: (definition, fields).
    fn wire() -> Vec<(String, Vec<String>)> {
        let sources = [
            include_str!("../../../slipway-api/src/node/attach.rs"),
            include_str!("../../../slipway-api/src/node/mount.rs"),
            include_str!("../../../slipway-api/src/node/container.rs"),
            include_str!("../../../slipway-api/src/node/exec.rs"),
            include_str!("../../../slipway-api/src/node/mod.rs"),
        ];
        let mut found = Vec::new();
        for source in sources {
            let (mut inside, mut renamed): (Option<(String, Vec<String>)>, Option<String>) = (None, None);
            for line in source.lines() {
                if let Some(name) = line.strip_prefix("pub struct ").and_then(|rest| rest.strip_suffix(" {")) {
                    inside = Some((definition(name), Vec::new()));
                } else if line == "}" {
                    found.extend(inside.take());
                } else if let Some((_, fields)) = &mut inside {
                    if let Some((_, rest)) = line.split_once("rename = \"") {
                        renamed = rest.split('"').next().map(str::to_owned);
                    }
                    if let Some((name, _)) = line.strip_prefix("    pub ").and_then(|rest| rest.split_once(": ")) {
                        fields.push(renamed.take().unwrap_or_else(|| name.to_owned()));
                    }
                }
            }
        }
        // What the host takes of an exec.
        found.retain(|(name, _)| name != "exec_request");
        found
    }

    fn definition(name: &str) -> String {
        match name {
            "NodeProblem" => return "error".into(),
            "NodeEvent" => return "event".into(),
            "ExecNew" => return "exec".into(),
            _ => {}
        }
        let mut snake = String::new();
        for (n, c) in name.chars().enumerate() {
            if c.is_uppercase() && n > 0 {
                snake.push('_');
            }
            snake.extend(c.to_lowercase());
        }
        snake
    }

    #[test]
    fn every_field_of_the_wire_is_described() {
        let spec = spec();
        let wire = wire();
        assert!(wire.len() > 20);
        for (name, fields) in wire {
            let properties = spec["definitions"][&name]["properties"].as_object().unwrap_or_else(|| panic!("{name}"));
            for field in fields {
                let said = properties.get(&field).unwrap_or_else(|| panic!("{name}.{field} is not described"));
                assert!(
                    said.get("type").is_some() || said.get("$ref").is_some() || field == "detail",
                    "{name}.{field}"
                );
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let spec = spec();
        let definitions = spec["definitions"].as_object().unwrap();
        for part in SWAGGER.split("\"#/definitions/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(definitions.contains_key(name), "{name}");
        }
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        for text in [include_str!("page/page.html"), include_str!("page/page.js"), include_str!("page/page.css")] {
            let elsewhere = text.match_indices("://").filter(|(at, _)| !text[..*at].ends_with("'http")).count();
            assert_eq!(elsewhere, 0);
            assert!(!text.contains("innerHTML") && !text.contains("style=\""));
        }
    }
}
