//! What a client can look at: its settings, the way to the server, the server's certificate and clock, the token.

mod network;

use crate::cmd::serve::ServeFlags;
use crate::context::Context;
use crate::credentials::{self, Credentials};
use crate::human::count;
use crate::settings::{Ca, Settings};
use slipway_server::doctor::Probe;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The variables that a client reads; those of a server are in `slipway_server::SERVE_VARIABLES`.
const VARIABLES: &[&str] =
    &["SLIPWAY_URL", "SLIPWAY_TOKEN", "SLIPWAY_CA", "SLIPWAY_CONTEXT", "SLIPWAY_LOG", "SLIPWAY_COMPLETE"];
/// Those of a node: how a client finds its service, and what the service itself reads.
const VARIABLES_NODE: &[&str] = &[
    "SLIPWAY_NODE",
    "SLIPWAY_NODE_TOKEN",
    "SLIPWAY_NODE_CA",
    "SLIPWAY_NODE_CERT",
    "SLIPWAY_NODE_KEY",
    "SLIPWAY_NODE_CONFIG",
    "SLIPWAY_NODE_SOCKET",
    "SLIPWAY_NODE_SOCKET_GROUP",
    "SLIPWAY_NODE_LISTEN",
    "SLIPWAY_NODE_RUN_DIR",
    "SLIPWAY_NODE_STATE_DIR",
    "SLIPWAY_NODE_TLS_CERT",
    "SLIPWAY_NODE_TLS_KEY",
    "SLIPWAY_NODE_TLS_CLIENT_CA",
    "SLIPWAY_NODE_POLICY",
    "SLIPWAY_NODE_CONNECTIONS_MAX",
    "SLIPWAY_NODE_DEADLINE_SECONDS",
    "SLIPWAY_NODE_LOG_MAX_BYTES",
];
/// What tests and packages set.
const VARIABLES_INTERNAL: &[&str] = &["SLIPWAY_ACCEPT", "SLIPWAY_CRASH_AT", "SLIPWAY_NODE_CRASH_AT"];

/// Everything that a command needs before it can begin.
pub(crate) async fn client_examine(cx: &Context) -> Vec<Probe> {
    let mut report = client_settings(cx);
    report.extend(variables_unknown());
    // What is wrong with the settings is in the report already.
    if let Ok(settings) = cx.settings() {
        report.extend(network::network_examine(&settings).await);
    }
    report
}

/// Everything that a server needs before it can start.
pub(crate) async fn server_examine(flags: &ServeFlags) -> Vec<Probe> {
    let mut report = server_settings(flags);
    report.extend(variables_unknown());
    if let Ok((options, _)) = flags.decide() {
        report.extend(slipway_server::doctor::server_examine(&options).await);
    }
    report
}

/// The settings of a server: names, values, what cannot go together.
pub(crate) fn server_settings(flags: &ServeFlags) -> Vec<Probe> {
    vec![match flags.decide() {
        Err(failure) => Probe::fail("settings", failure.what, failure.next.unwrap_or_default()),
        Ok((_, lines)) => {
            let set = lines.iter().filter(|line| line.origin != slipway_server::Origin::Default).count();
            Probe::ok("settings", format!("{} set, the others at their defaults", count(set as u64, "setting")))
        }
    }]
}

/// The settings of a client: who says which server, and whether the file with the tokens is as it should be.
pub(crate) fn client_settings(cx: &Context) -> Vec<Probe> {
    let mut report = Vec::new();
    match credentials::path() {
        None => report.push(Probe::warn(
            "credentials",
            "neither XDG_CONFIG_HOME nor HOME is set, so nothing can be kept",
            "set HOME, or use SLIPWAY_URL and SLIPWAY_TOKEN",
        )),
        Some(path) => report.extend(kept(&path)),
    }
    report.push(match cx.settings().and_then(|settings| chosen(&settings)) {
        Ok(what) => Probe::ok("settings", what),
        Err(failure) => Probe::fail("settings", failure.what, failure.next.unwrap_or_default()),
    });
    report
}

fn chosen(settings: &Settings) -> Result<String, crate::failure::Failure> {
    let url = crate::context::url_checked(settings.url()?)?;
    let ca = settings.ca.value.as_ref().map(Ca::pem).transpose()?;
    crate::context::client_new(url, None, ca)?;
    Ok(format!("{url} ({})", settings.url.origin))
}

fn kept(path: &Path) -> Vec<Probe> {
    let shown = crate::failure::path_shown(path);
    let kept = match credentials::read(path) {
        Ok(kept) => kept,
        Err(failure) => return vec![Probe::fail("credentials", failure.what, failure.next.unwrap_or_default())],
    };
    let mut report = vec![match kept.contexts.len() {
        0 => Probe::ok("credentials", format!("nothing is kept in {shown}")),
        many => {
            Probe::ok("credentials", format!("{} in {shown}, which only you can read", count(many as u64, "context")))
        }
    }];
    // Who may write the folder may put another file in its place.
    if let Some(folder) = path.parent()
        && let Ok(meta) = std::fs::metadata(folder)
        && meta.mode() & 0o022 != 0
    {
        let folder = crate::failure::path_shown(folder);
        let what =
            format!("others may write {folder} (mode {:o}), and so give you another server", meta.mode() & 0o777);
        report.push(Probe::fail("credentials", what, format!("'chmod 700 {folder}'")));
    }
    report.extend(kept.contexts.iter().filter_map(|(name, entry)| context(name, entry)));
    report
}

/// What is wrong with a kept context, without asking its server.
fn context(name: &str, entry: &Credentials) -> Option<Probe> {
    let made = crate::context::client_new(&entry.url, None, entry.ca.clone().map(String::into_bytes));
    if let Err(failure) = made {
        let next = format!("'slipway context rm {name}', then 'slipway login URL --context {name}'");
        return Some(Probe::fail("context", format!("context '{name}': {}", failure.what), next));
    }
    let login = format!("'slipway login --context {name}' makes a new one");
    match (&entry.token, entry.expires_at) {
        (None, _) => Some(Probe::warn("context", format!("context '{name}' has no token"), login)),
        (Some(_), Some(at)) if at <= jiff::Timestamp::now() => Some(Probe::warn(
            "context",
            format!("the token of context '{name}' ended on {}", crate::human::time(at)),
            login,
        )),
        (Some(_), _) => None,
    }
}

/// Variables that look like ours and that nobody reads.
pub(crate) fn variables_unknown() -> Vec<Probe> {
    let set = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    set.filter_map(|name| variable_unknown(&name)).collect()
}

fn variable_unknown(name: &str) -> Option<Probe> {
    let known = || {
        let own = VARIABLES.iter().chain(VARIABLES_NODE).chain(VARIABLES_INTERNAL);
        own.chain(slipway_server::SERVE_VARIABLES).copied()
    };
    let ours = name.starts_with("SLIPWAY_") && !name.starts_with("SLIPWAY_TEST_");
    if !ours || known().any(|known| known == name) {
        return None;
    }
    let shown = crate::human::clean(name);
    let next = match crate::near::nearest_exact(name, known()) {
        Some(near) => format!("did you mean {near}? 'unset {shown}' takes it away"),
        None => format!("'unset {shown}' takes it away; 'slipway config show --server' lists what a server reads"),
    };
    Some(Probe::warn("variable", format!("nobody reads the variable {shown}"), next))
}

#[cfg(test)]
mod tests {
    use super::{VARIABLES, VARIABLES_INTERNAL, variable_unknown};

    #[test]
    fn mistyped_variables_are_found() {
        for (name, next) in [
            ("SLIPWAY_TOKN", Some("did you mean SLIPWAY_TOKEN?")),
            ("SLIPWAY_LISTN", Some("did you mean SLIPWAY_LISTEN?")),
            ("SLIPWAY_COLOUR_OF_THE_SHED", Some("'unset SLIPWAY_COLOUR_OF_THE_SHED'")),
            ("SLIPWAY_URL", None),
            ("SLIPWAY_TEST_SEED", None),
            ("HOME", None),
        ] {
            let probe = variable_unknown(name);
            assert_eq!(probe.is_some(), next.is_some(), "{name}");
            if let Some(probe) = probe {
                assert!(probe.next.as_deref().unwrap().starts_with(next.unwrap()), "{probe:?}");
            }
        }
    }

    /// A variable that some code reads and the list does not know would be called a mistake.
    #[test]
    fn every_variable_that_is_read_is_known() {
        let mut seen = 0;
        let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut folders: Vec<_> =
            std::fs::read_dir(top).unwrap().map(|entry| entry.unwrap().path().join("src")).collect();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                for quoted in text.split('"').skip(1).step_by(1).filter(|quoted| quoted.starts_with("SLIPWAY_")) {
                    let name = quoted.chars().all(|c| c.is_ascii_uppercase() || c == '_') && !quoted.ends_with('_');
                    let mistyped = ["SLIPWAY_TOKN", "SLIPWAY_LISTN", "SLIPWAY_COLOUR_OF_THE_SHED"].contains(&quoted);
                    if name && !mistyped {
                        seen += 1;
                        assert!(
                            variable_unknown(quoted).is_none(),
                            "{} reads {quoted}, which no list has",
                            path.display()
                        );
                    }
                }
            }
        }
        assert!(seen > VARIABLES.len() + VARIABLES_INTERNAL.len(), "{seen}");
    }
}
