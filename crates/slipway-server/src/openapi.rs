//! The OpenAPI 3.1 document, made from the route table and the wire types.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::http::path::path_params;
use crate::routes::baas;
use crate::routes::shape::Shape;
use crate::routes::table::{Access, Route, routes};

/// The document as text, pretty and in a stable order.
pub fn openapi_text() -> String {
    let mut schemas: BTreeMap<String, Value> = BTreeMap::new();
    schema_add(&mut schemas, crate::routes::shape::json::<slipway_api::Problem>());
    let mut paths: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
    for route in routes() {
        schema_add(&mut schemas, route.body);
        route.answers.iter().for_each(|(_, shape)| schema_add(&mut schemas, *shape));
        let path = route.path.replace("...}", "}");
        paths.entry(path).or_default().insert(route.method.as_str().to_lowercase(), operation(route));
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Slipway",
            "version": slipway_api::VERSION,
            "description": "Versions of disk images: push, keep, pull and flash. Errors are problem documents (RFC 9457) with a stable code. \
                            JSON resources carry an ETag, changes take If-Match, creations take Idempotency-Key.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" }
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "A token: slp_… Also taken from X-Auth-Token." },
                "capability": { "type": "apiKey", "in": "query", "name": "c", "description": "A capability for one pack, from a layout." }
            }
        }
    });
    // Values made of our own text and numbers always can be written.
    let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
    text.push('\n');
    text
}

fn schema_add(schemas: &mut BTreeMap<String, Value>, shape: Shape) {
    let Shape::Json(_, all) = shape else { return };
    for (name, schema) in all() {
        schemas.entry(name).or_insert_with(|| json!(schema));
    }
}

fn content(shape: Shape) -> Option<Value> {
    match shape {
        Shape::Nothing => None,
        Shape::Json(name, _) => {
            let reference = format!("#/components/schemas/{}", name());
            Some(json!({ "application/json": { "schema": { "$ref": reference } } }))
        }
        Shape::Bytes("application/json") => Some(json!({ "application/json": { "schema": { "type": "object" } } })),
        Shape::Bytes(media) => Some(json!({ media: { "schema": { "type": "string", "format": "binary" } } })),
        Shape::Text(media) => Some(json!({ media: { "schema": { "type": "string" } } })),
    }
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = path_params(route.path)
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    if let Some(query) = route.query {
        parameters.extend(query().into_iter().map(|parameter| json!(parameter)));
    }
    parameters.extend(route.extra.iter().map(|(name, about, kind)| {
        json!({ "name": name, "in": "query", "required": false, "description": about, "schema": { "type": kind } })
    }));
    let mut responses: BTreeMap<String, Value> = BTreeMap::new();
    for (status, shape) in &route.answers {
        let mut answer = json!({ "description": status_words(*status) });
        if let Some(content) = content(*shape) {
            answer["content"] = content;
        }
        responses.insert(status.to_string(), answer);
    }
    let problem = match baas::path_is(route.path) {
        true => json!({ "text/plain": { "schema": { "type": "string" } } }),
        false => json!({ "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } }),
    };
    responses.insert("default".to_owned(), json!({ "description": "What went wrong", "content": problem }));
    let mut operation = json!({
        "operationId": route.id,
        "summary": route.about,
        "tags": [tag(route.path)],
        "parameters": parameters,
        "responses": responses,
        "x-slipway-role": access_words(route.access),
    });
    if let Some(content) = content(route.body) {
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    match route.access {
        Access::Open => {}
        Access::Capability => operation["security"] = json!([{ "capability": [] }]),
        Access::Loopback | Access::Role(_) => operation["security"] = json!([{ "token": [] }]),
    }
    operation
}

fn tag(path: &str) -> &str {
    match path.strip_prefix("/api/v1/") {
        Some(rest) => rest.split('/').next().unwrap_or("server"),
        // The dialect's rows are in the same table, so that the same tests hold them.
        None if baas::path_is(path) => "baas",
        None => "server",
    }
}

/// Who may call a route, in one word.
pub(crate) fn access_words(access: Access) -> &'static str {
    match access {
        Access::Open => "open",
        Access::Capability => "capability",
        Access::Loopback => "loopback",
        Access::Role(slipway_api::Role::User) => "user",
        Access::Role(slipway_api::Role::Moderator) => "moderator",
        Access::Role(slipway_api::Role::Admin) => "admin",
    }
}

fn status_words(status: u16) -> &'static str {
    match status {
        201 => "Made",
        202 => "Begun; the task says how it goes",
        204 => "Done",
        206 => "The range",
        501 => "Not yet; the text says what is missing",
        308 => "It is there",
        _ => "As asked",
    }
}

#[cfg(test)]
mod tests {
    use super::openapi_text;

    /// Every reference within the document leads somewhere.
    #[test]
    fn references_are_kept() {
        let text = openapi_text();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut count = 0;
        for (at, _) in text.match_indices("#/components/schemas/") {
            let name = text[at + 21..].split('"').next().unwrap();
            assert!(document["components"]["schemas"].get(name).is_some(), "{name} is nowhere");
            count += 1;
        }
        assert!(count > 50, "{count} references");
    }

    /// The document is a promise: a change of it is accepted on purpose, with `SLIPWAY_ACCEPT=1`.
    #[test]
    fn the_document_is_the_golden_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        let now = openapi_text();
        if std::env::var_os("SLIPWAY_ACCEPT").is_some() {
            std::fs::write(path, &now).unwrap();
        }
        let golden = std::fs::read_to_string(path).unwrap_or_default();
        let first = now.lines().zip(golden.lines()).position(|(a, b)| a != b);
        assert!(
            now == golden,
            "the API's description differs from docs/openapi.json from line {:?} on; if that is meant, run \
             `SLIPWAY_ACCEPT=1 cargo test -p slipway-server openapi` and commit the file",
            first.map(|line| line + 1)
        );
    }
}
