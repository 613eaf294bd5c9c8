//! Secrets of definitions: out of a file or stdin, never from the command line, which every user of the machine can read.

use crate::ask::line_read;
use crate::failure::Failure;
use std::path::Path;

/// The most bytes that are read of a file that holds one secret.
const MAX: u64 = 64 << 10;

/// The secret in a file, or on a line of stdin for `-`. An end of line is not part of it.
pub(crate) fn read(option: &str, path: &Path) -> Result<String, Failure> {
    let text = match path.to_str() {
        Some("-") => line_read()?.unwrap_or_default(),
        _ => {
            let meta = std::fs::metadata(path).map_err(|why| Failure::io("reading", path, &why))?;
            if meta.len() > MAX {
                return Err(Failure::usage(format!("{} is too large for a secret", path.display()))
                    .next(format!("name the file that holds only the secret with {option}")));
            }
            std::fs::read_to_string(path).map_err(|why| Failure::io("reading", path, &why))?
        }
    };
    let secret = text.trim_end_matches(['\r', '\n']).to_owned();
    match secret.is_empty() {
        true => Err(Failure::usage(format!("the secret in {} is empty", path.display()))
            .next(format!("write it into the file that {option} names, or pass it on stdin with {option} -"))),
        false => Ok(secret),
    }
}
