//! What an operator or a log sees when something does not work: what, on what, why, and the next step.

use slipway_transfer::TransferError;

/// The end of a command that did not work; exit codes as in `docs/exit-codes.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) what: String,
    pub(crate) next: String,
    pub(crate) exit: u8,
}

impl Failure {
    /// What went wrong, with its exit code and the next step: no failure is without one.
    pub(crate) fn new(exit: u8, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what: what.into(), next: next.into(), exit }
    }

    /// Two lines for stderr, in which nothing can steer a terminal.
    pub(crate) fn rendered(&self) -> String {
        format!("slipway-agent: {}\n  next: {}\n", clean(&self.what), clean(&self.next))
    }
}

/// Control and bidirectional characters escaped; texts of the server and of the command line pass through here.
pub(crate) fn clean(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().flat_map(|c| if steers(c) { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

impl From<TransferError> for Failure {
    fn from(why: TransferError) -> Self {
        let exit = why.exit_code();
        let hint = match &why {
            TransferError::Api(slipway_api::ApiError::Problem(problem)) => {
                problem.hint.clone().filter(|hint| hint != problem.code.hint())
            }
            _ => None,
        };
        let mut what = why.to_string();
        let mut source = std::error::Error::source(&why);
        while let Some(inner) = source {
            let said = inner.to_string();
            let said = said.split(" (os error").next().unwrap_or(&said);
            if !what.contains(said) {
                what.push_str(": ");
                what.push_str(said);
            }
            source = inner.source();
        }
        Self::new(exit, what, hint.unwrap_or_else(|| step(exit).to_owned()))
    }
}

/// What helps with failures of this exit code.
pub(crate) fn step(exit: u8) -> &'static str {
    match exit {
        2 => "'slipway-agent flash --help' shows what is expected",
        3 => "check the reference and the target; 'lsblk' lists the devices of this machine",
        4 => "check SLIPWAY_TOKEN, and that the token may read the image",
        6 => "make room on the target, then run the same command again",
        7 => "an admin should run 'slipway check' on the server; other versions may still be whole",
        9 => "check SLIPWAY_URL, SLIPWAY_CA and the network, then run the same command again",
        10 => "choose another target, or end what uses this one: 'lsblk -o NAME,SIZE,MODEL,SERIAL,MOUNTPOINTS'",
        _ => "run the same command again: a flash goes on where it stopped",
    }
}

#[cfg(test)]
mod tests {
    use super::Failure;

    #[test]
    fn nothing_steers_the_terminal() {
        let text = Failure::new(3, "a\u{1b}[2J\u{202e}b\nc", "d\r").rendered();
        assert_eq!(text, "slipway-agent: a\\u{1b}[2J\\u{202e}b\\nc\n  next: d\\r\n");
    }
}
