//! Prints what this machine has of devices, mounts, groups, keys and processes: all, or what was made below a folder.

use slipway_lab::census::{Census, Scope};
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "census [--below FOLDER]\n\nLists loop, rbd, nbd and SCSI devices in use, mounts of every mount namespace, control groups and processes of\ncontainers, network namespaces and keys. With a folder only what was made from files below it, with its files.\n";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let scope = match &args[..] {
        [] => Scope::machine(),
        [word, folder] if word == "--below" => Scope::below(Path::new(folder)).files_in(Path::new(folder)),
        [word] if word == "--help" || word == "-h" => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    for thing in Census::take(&scope).things() {
        println!("{thing}");
    }
    ExitCode::SUCCESS
}
