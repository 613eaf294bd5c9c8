//! The arrows of ARCHITECTURE.md: which crate may know which, and which libraries stay in which files.

use crate::run::{cargo, read, top};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;

/// crate → the crates of this workspace that it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("slipway-chunk", &[]),
    ("slipway-format", &["slipway-chunk"]),
    ("slipway-api", &["slipway-chunk"]),
    ("slipway-store", &["slipway-chunk"]),
    ("slipway-disk", &["slipway-chunk", "slipway-format"]),
    ("slipway-transfer", &["slipway-chunk", "slipway-disk", "slipway-api"]),
    ("slipway-server", &["slipway-chunk", "slipway-api", "slipway-store", "slipway-format"]),
    ("slipway-node", &["slipway-api", "slipway-format"]),
    ("slipway-agent", &["slipway-chunk", "slipway-api", "slipway-transfer", "slipway-disk", "slipway-node"]),
    (
        "slipway-cli",
        &["slipway-chunk", "slipway-api", "slipway-transfer", "slipway-disk", "slipway-format", "slipway-server"],
    ),
    // In nobody's list: only tests and examples (which measure) may use it, and they are not asked.
    ("slipway-lab", &[]),
    ("xtask", &[]),
];

/// crate → libraries that it must never link, directly.
const NEVER: &[(&str, &[&str])] = &[
    ("slipway-chunk", &["tokio", "reqwest", "hyper", "sqlx", "jiff", "rustix"]),
    ("slipway-format", &["tokio", "reqwest", "hyper", "sqlx"]),
    ("slipway-api", &["sqlx", "axum", "object_store"]),
    ("slipway-store", &["sqlx", "axum"]),
    ("slipway-disk", &["tokio", "reqwest", "hyper", "sqlx"]),
    ("slipway-transfer", &["sqlx", "axum", "object_store", "clap", "indicatif"]),
    ("slipway-node", &["sqlx", "axum", "object_store"]),
    // It serves the node API, so it has axum; it keeps no catalogue and no blobs.
    ("slipway-agent", &["sqlx", "object_store"]),
    ("slipway-cli", &["sqlx", "axum", "object_store"]),
];

/// In the server, a library's name → the only places that may name it.
const PLACES: &[(&str, &[&str])] = &[
    ("sqlx", &["src/db/", "src/rules/", "src/workers/", "src/ledger.rs", "src/core.rs"]),
    ("axum", &["src/routes/", "src/http/", "src/openapi.rs", "src/serve.rs", "src/metrics.rs"]),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

/// Fails with every arrow that points the wrong way.
pub(crate) fn layers_check() -> Result<()> {
    let text = read(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Metadata = serde_json::from_str(&text).context("reading cargo metadata")?;
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let never: BTreeMap<_, _> = NEVER.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let Some(allowed) = arrows.get(package.name.as_str()) else {
            wrong.push(format!("{} has no row in xtask/src/layers.rs: say what it may depend on", package.name));
            continue;
        };
        let linked = package.dependencies.iter().filter(|d| d.kind.as_deref() != Some("dev"));
        for dependency in linked {
            let name = dependency.name.as_str();
            if arrows.contains_key(name) && !allowed.contains(&name) {
                wrong.push(format!("{} must not depend on {name}", package.name));
            }
            if never.get(package.name.as_str()).is_some_and(|list| list.contains(&name)) {
                wrong.push(format!("{} must not link {name}", package.name));
            }
        }
    }
    places_check(&mut wrong)?;
    if !wrong.is_empty() {
        bail!("layers:\n  {}", wrong.join("\n  "));
    }
    println!("layers: {} crates, every arrow as drawn", metadata.packages.len());
    Ok(())
}

fn places_check(wrong: &mut Vec<String>) -> Result<()> {
    let server = top().join("crates/slipway-server");
    for file in read(std::process::Command::new("git").current_dir(&server).args(["ls-files", "src"]))?.lines() {
        if !file.ends_with(".rs") || !server.join(file).exists() {
            continue;
        }
        let text = std::fs::read_to_string(server.join(file)).with_context(|| format!("reading {file}"))?;
        for (library, places) in PLACES {
            let named = text.contains(&format!("{library}::"));
            if named && !places.iter().any(|place| file.starts_with(place)) {
                wrong.push(format!(
                    "crates/slipway-server/{file} names {library}, which belongs in {}",
                    places.join(", ")
                ));
            }
        }
    }
    Ok(())
}
