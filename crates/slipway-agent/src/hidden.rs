//! Verbs that the service runs and people do not: this program, executed again, as a container's shim.

use std::path::Path;
use std::process::ExitCode;

/// The words that make this program a shim; the container's directory follows.
pub(crate) const SHIM: &str = "shim";

/// Runs a hidden verb, if the command line is one.
pub(crate) fn verb_run() -> Option<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let (verb, place) = (words.next()?, words.next()?);
    if words.next().is_some() {
        return None;
    }
    match verb.to_str()? {
        SHIM => Some(slipway_node::shim_run(Path::new(&place))),
        _ => None,
    }
}
