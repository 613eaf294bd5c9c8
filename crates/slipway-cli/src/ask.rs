//! Questions to the person at the terminal, and secrets that must not be on the command line.

use crate::context::Context;
use crate::failure::{Failure, exit};
use std::io::{BufRead, Write};
use std::path::Path;

/// Asks a yes-or-no question; anything but yes is no.
pub(crate) async fn confirm(question: &str) -> Result<bool, Failure> {
    let answer = typed(&format!("{question} [y/N]")).await?;
    Ok(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Asks, and gives the line that is typed.
pub(crate) async fn typed(question: &str) -> Result<String, Failure> {
    eprint!("{} ", crate::human::clean(question));
    let _ = std::io::stderr().flush();
    // On a thread of its own, so that Ctrl-C is heard while nobody answers.
    let answer = tokio::task::spawn_blocking(line_read).await;
    let answer = answer
        .map_err(|why| Failure::new(exit::FAILED, format!("reading stdin: {why}")).next("say it with --yes"))??
        .unwrap_or_default();
    Ok(answer.trim().to_owned())
}

/// Reads a line from stdin; `None` at its end.
pub(crate) fn line_read() -> Result<Option<String>, Failure> {
    let mut line = String::new();
    let read =
        std::io::stdin().lock().read_line(&mut line).map_err(|why| Failure::io("reading", Path::new("stdin"), &why))?;
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok((read > 0).then_some(line))
}

/// Where a secret comes from.
pub(crate) struct Secrets<'a> {
    /// The surroundings.
    pub(crate) cx: &'a Context,
    /// Read it from stdin, a line for each.
    pub(crate) stdin: bool,
    /// The option that makes `stdin` true, for the hint.
    pub(crate) option: &'static str,
}

impl Secrets<'_> {
    /// A secret that exists already.
    pub(crate) fn known(&self, what: &str) -> Result<String, Failure> {
        self.read(what, false)
    }

    /// A secret that is made now: typed twice.
    pub(crate) fn new_one(&self, what: &str) -> Result<String, Failure> {
        self.read(what, true)
    }

    fn read(&self, what: &str, twice: bool) -> Result<String, Failure> {
        let secret = match self.stdin {
            true => line_read()?.unwrap_or_default(),
            false if self.cx.can_ask() => prompt(what, twice)?,
            false => {
                return Err(Failure::usage(format!("the {what} cannot be asked for without a terminal"))
                    .next(format!("pass it on stdin with {}", self.option)));
            }
        };
        match secret.is_empty() {
            true => Err(Failure::usage(format!("the {what} is empty"))
                .next(format!("pass it on stdin with {}, one line", self.option))),
            false => Ok(secret),
        }
    }
}

fn prompt(what: &str, twice: bool) -> Result<String, Failure> {
    let mut password = dialoguer::Password::new().with_prompt(capital(what));
    if twice {
        password = password.with_confirmation(format!("{} again", capital(what)), "They differ; once more, please");
    }
    password.interact().map_err(|why| {
        Failure::new(exit::FAILED, format!("reading the {what}: {why}"))
            .next("pass it on stdin; '--help' names the option")
    })
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().into_iter().flat_map(char::to_uppercase).chain(chars).collect()
}
