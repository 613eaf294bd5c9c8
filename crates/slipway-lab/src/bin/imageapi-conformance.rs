//! Runs the cases of the ImageAPI against a service.

use slipway_lab::conformance::{Client, Sights, Verdict, cases, run};
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "imageapi-conformance --url URL --root FOLDER [OPTIONS]

Runs the flows and refusals of the ImageAPI's contract against a service, and says of each case whether it passed.

  --url URL           unix:/path, or http://host:port/imageapi/v1
  --root FOLDER       where files for the cases are made; the service must see them under the same name
  --only WORD         only cases with this in their name; may be given more than once
  --token-file FILE   a bearer token to send
  --run-dir FOLDER    the service's run directory, to see what is left in it
  --groups NAME       the name of the service's control groups, to see what is left in them
  -o json             one JSON array instead of lines
  --list              the names of the cases
  --differences       where the service differs from the first implementation on purpose, and how

Exit codes: 0 all passed, 1 some failed, 2 wrong arguments, 3 no service or no files.
";

#[derive(Default)]
struct Args {
    url: Option<String>,
    root: Option<PathBuf>,
    only: Vec<String>,
    token_file: Option<PathBuf>,
    sights: Sights,
    json: bool,
}

fn main() -> ExitCode {
    let mut args = Args::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} wants a value"));
        let taken = match word.as_str() {
            "--url" => value().map(|value| args.url = Some(value)),
            "--root" => value().map(|value| args.root = Some(value.into())),
            "--only" => value().map(|value| args.only.push(value)),
            "--token-file" => value().map(|value| args.token_file = Some(value.into())),
            "--run-dir" => value().map(|value| args.sights.run_dir = Some(value.into())),
            "--groups" => value().map(|value| args.sights.groups = Some(value)),
            "-o" => value().and_then(|value| match value.as_str() {
                "json" => {
                    args.json = true;
                    Ok(())
                }
                other => Err(format!("-o {other}: only json")),
            }),
            "--list" => return list(false),
            "--differences" => return list(true),
            "--help" | "-h" => {
                print!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            _ => Err(format!("'{word}' is not known")),
        };
        if let Err(why) = taken {
            eprintln!("imageapi-conformance: {why}\nnext: imageapi-conformance --help");
            return ExitCode::from(2);
        }
    }
    cases_run(&args)
}

fn list(differences: bool) -> ExitCode {
    for case in cases() {
        match (differences, case.differs) {
            (false, _) => println!("{}", case.name),
            (true, Some(original)) => println!("{}: the first implementation {original}", case.name),
            (true, None) => {}
        }
    }
    ExitCode::SUCCESS
}

fn cases_run(args: &Args) -> ExitCode {
    let (Some(url), Some(root)) = (&args.url, &args.root) else {
        eprintln!("imageapi-conformance: --url and --root are needed\nnext: imageapi-conformance --help");
        return ExitCode::from(2);
    };
    let token = args.token_file.as_ref().map(std::fs::read_to_string).transpose();
    let verdicts = token
        .map_err(|why| format!("reading the token: {why}"))
        .and_then(|token| Client::new(url, token.map(|token| token.trim().to_owned())))
        .and_then(|client| {
            let heard = |verdict: &Verdict| {
                if !args.json {
                    println!("{}", verdict_text(verdict));
                }
            };
            run(client, root, &args.sights, &args.only, heard)
        });
    let verdicts = match verdicts {
        Ok(verdicts) => verdicts,
        Err(why) => {
            eprintln!(
                "imageapi-conformance: {why}\nnext: see that the service runs, and that {} can be written",
                root.display()
            );
            return ExitCode::from(3);
        }
    };
    let failed = verdicts.iter().filter(|verdict| verdict.failure.is_some()).count();
    if args.json {
        println!("{}", serde_json::Value::Array(verdicts.iter().map(verdict_json).collect()));
    } else {
        println!("{} cases: {} passed, {failed} failed", verdicts.len(), verdicts.len() - failed);
    }
    ExitCode::from(u8::from(failed > 0))
}

fn verdict_text(verdict: &Verdict) -> String {
    let took = verdict.took.as_millis();
    match &verdict.failure {
        None => format!("pass {} ({took} ms)", verdict.name),
        Some(failure) => {
            format!("FAIL {} ({took} ms)\n     {}", verdict.name, failure.trim_end().replace('\n', "\n     "))
        }
    }
}

fn verdict_json(verdict: &Verdict) -> serde_json::Value {
    serde_json::json!({
        "case": verdict.name,
        "passed": verdict.failure.is_none(),
        "failure": verdict.failure,
        "differs": verdict.differs,
        "ms": verdict.took.as_millis() as u64,
    })
}
