//! Colours and widths: only where a terminal shows them, and as people have said in the environment.

use std::env::var_os;
use std::os::fd::AsFd;

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless NO_COLOR or TERM=dumb says otherwise; CLICOLOR_FORCE says so even in a pipe.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Paints words, or leaves them as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paint(bool);

impl Paint {
    /// Leaves everything as it is.
    #[cfg(test)]
    pub(crate) const NONE: Self = Self(false);

    /// Decides for one of our outputs, as <https://no-color.org> and <https://bixense.com/clicolors> ask for.
    pub(crate) fn decide(colour: Colour, is_terminal: bool) -> Self {
        let set = |name: &str| var_os(name).is_some_and(|value| !value.is_empty());
        let forced = set("CLICOLOR_FORCE") && var_os("CLICOLOR_FORCE").is_some_and(|value| value != "0");
        Self::decided(colour, is_terminal, set("NO_COLOR"), forced, terminal_dumb())
    }

    fn decided(colour: Colour, is_terminal: bool, refused: bool, forced: bool, dumb: bool) -> Self {
        Self(match colour {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto if refused => false,
            Colour::Auto if forced => true,
            Colour::Auto => is_terminal && !dumb,
        })
    }

    /// Whether anything is painted.
    pub(crate) fn is_on(self) -> bool {
        self.0
    }

    /// What went wrong.
    pub(crate) fn bad(self, text: &str) -> String {
        self.painted("1;31", text)
    }

    /// What may go wrong.
    pub(crate) fn warn(self, text: &str) -> String {
        self.painted("33", text)
    }

    /// What is as it should be.
    pub(crate) fn good(self, text: &str) -> String {
        self.painted("32", text)
    }

    /// What the eye should find.
    pub(crate) fn strong(self, text: &str) -> String {
        self.painted("1", text)
    }

    fn painted(self, code: &str, text: &str) -> String {
        match self.0 {
            true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        }
    }
}

/// A terminal that can neither paint nor go back on its line.
pub(crate) fn terminal_dumb() -> bool {
    var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Columns of the terminal behind this output; `None` for a pipe or file, whose lines are as long as they are.
pub(crate) fn columns(output: impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(output).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// What the command line says of colours, before it is read as a whole: errors in it are painted too.
pub(crate) fn colour_early(args: impl IntoIterator<Item = std::ffi::OsString>) -> clap::ColorChoice {
    let mut args = args.into_iter().take_while(|arg| arg != "--");
    let mut said = None;
    while let Some(arg) = args.next() {
        let arg = arg.to_string_lossy();
        match arg.strip_prefix("--color") {
            Some("") => said = args.next().map(|value| value.to_string_lossy().into_owned()),
            Some(rest) => said = rest.strip_prefix('=').map(str::to_owned).or(said),
            None => {}
        }
    }
    match said.as_deref() {
        Some("always") => clap::ColorChoice::Always,
        Some("never") => clap::ColorChoice::Never,
        Some(_) | None => clap::ColorChoice::Auto,
    }
}

#[cfg(test)]
mod tests {
    use super::{Colour, Paint, colour_early};
    use clap::ColorChoice;

    #[test]
    fn colours_are_where_they_are_wanted() {
        for (colour, terminal, refused, forced, dumb, on) in [
            (Colour::Auto, true, false, false, false, true),
            (Colour::Auto, false, false, false, false, false),
            (Colour::Auto, true, true, false, false, false),
            (Colour::Auto, true, false, false, true, false),
            (Colour::Auto, false, false, true, false, true),
            (Colour::Auto, false, true, true, false, false),
            (Colour::Always, false, true, false, true, true),
            (Colour::Never, true, false, true, false, false),
        ] {
            let paint = Paint::decided(colour, terminal, refused, forced, dumb);
            assert_eq!(paint.is_on(), on, "{colour:?} {terminal} {refused} {forced} {dumb}");
        }
        assert_eq!(Paint(true).bad("x"), "\u{1b}[1;31mx\u{1b}[0m");
        assert_eq!(Paint::NONE.bad("x"), "x");
    }

    #[test]
    fn the_command_line_is_heard_early() {
        for (args, choice) in [
            (&["slipway", "--color", "always", "x"][..], ColorChoice::Always),
            (&["slipway", "x", "--color=never"], ColorChoice::Never),
            (&["slipway", "--color"], ColorChoice::Auto),
            (&["slipway", "--", "--color=never"], ColorChoice::Auto),
            (&["slipway", "--colorful"], ColorChoice::Auto),
        ] {
            assert_eq!(colour_early(args.iter().map(std::ffi::OsString::from)), choice, "{args:?}");
        }
    }
}
