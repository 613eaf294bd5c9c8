//! Verbs that the service runs and people do not: this program, executed again, as a container's shim or an attachment's export.

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

/// The words that make this program a shim; the container's directory follows.
pub(crate) const SHIM: &str = "shim";
/// The word that makes it the helper of a program beside a container's init; its order comes by its standard input.
pub(crate) const EXEC: &str = "exec";
/// The word that makes it the export of an attachment of kind `slipway`; the attachment's directory follows.
pub(crate) const EXPORT: &str = "export";
/// A CA file for the server, between the word and the directory.
pub(crate) const EXPORT_CA: &str = "--ca";

/// Runs a hidden verb, if the command line is one.
pub(crate) fn verb_run() -> Option<ExitCode> {
    let words: Vec<_> = std::env::args_os().skip(1).take(5).collect();
    let words: Vec<&OsStr> = words.iter().map(AsRef::as_ref).collect();
    match words[..] {
        [verb, place] if verb == SHIM => Some(slipway_node::shim_run(Path::new(place))),
        [verb] if verb == EXEC => Some(slipway_node::exec_run()),
        [verb, place] if verb == EXPORT => Some(crate::export::run(Path::new(place), None)),
        [verb, flag, ca, place] if verb == EXPORT && flag == EXPORT_CA => {
            Some(crate::export::run(Path::new(place), Some(Path::new(ca))))
        }
        _ => None,
    }
}
