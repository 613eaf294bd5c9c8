//! What only guest kernels can measure of the node service, for `cargo xtask bench node`: containers beside crun, which needs control groups of
//! version 2, and one image brought to several nodes at once. Prints JSON. Needs root; the guests run this same program as `inside`.

mod beside;
mod image;
mod inside;
mod several;

use serde_json::Value;
use std::path::Path;
use std::process::ExitCode;

/// Errors are words for whoever runs the measures.
type Tried<T> = Result<T, String>;

const USAGE: &str = "guests beside AGENT IMAGE RUNS\nguests several AGENT FOLDER ROUNDS COUNT[,COUNT…]\n";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["beside", agent, image, runs] => number(runs).and_then(|runs| beside::run(agent, Path::new(image), runs)),
        ["several", agent, folder, rounds, counts] => counts
            .split(',')
            .map(number)
            .collect::<Tried<Vec<_>>>()
            .and_then(|counts| several::run(agent, Path::new(folder), number(rounds)?, &counts)),
        ["inside", "beside", agent, image, runs] => {
            number(runs).and_then(|runs| inside::beside(agent, Path::new(image), runs))
        }
        ["inside", "begin"] => inside::begin(),
        ["inside", "end"] => inside::end(),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(found) => {
            println!("{found}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("guests: {why}");
            ExitCode::FAILURE
        }
    }
}

fn number(word: &str) -> Tried<usize> {
    word.parse().map_err(|_| format!("'{word}' is no number\n{USAGE}"))
}

/// An error of the system, and what it was about.
fn wrong(what: &str) -> impl Fn(std::io::Error) -> String {
    move |why| format!("{what}: {why}")
}

/// This program's path, which is the same in a guest.
fn program() -> Tried<String> {
    std::env::current_exe().map(|path| path.display().to_string()).map_err(wrong("looking for this program"))
}

/// What a command in a guest printed, which is JSON.
fn said(output: &slipway_lab::Output) -> Tried<Value> {
    match output.code {
        0 => serde_json::from_str(&output.stdout).map_err(|why| format!("{why}: {output:?}")),
        code => Err(format!("in the guest, exit code {code}: {}{}", output.stdout, output.stderr)),
    }
}
