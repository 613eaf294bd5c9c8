//! The command line as clap reads it; one arm for each verb.

use crate::cmd;
use crate::style::Colour;
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Keeps every version of a disk image and puts them onto machines.
#[derive(Debug, Parser)]
#[command(
    name = "slipway",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    help_template = "{about}\n\n{usage-heading} {usage}\n\nCommands:\n{subcommands}{after-help}",
    after_help = "\
Options of every command:
      --url URL       The server (else SLIPWAY_URL, else what login kept); token: SLIPWAY_TOKEN
      --context NAME  Another kept server      --ca FILE      Trust these certificates
  -q, --quiet         Only data and errors     -v, --verbose  Say more; twice: everything
      --no-input      Never ask, fail instead  --color WHEN   auto, always or never

Examples:
  slipway push disk.raw me/os -m \"6.9 kernel\"
  slipway flash me/os:1 /dev/sdb"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command. They are hidden in each command's help, which must fit on one screen; `slipway --help` shows them.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Global {
    /// The server
    #[arg(long, global = true, hide = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Trust these certificates
    #[arg(long, global = true, hide = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) ca: Option<PathBuf>,
    /// One of the servers that 'slipway context ls' lists
    #[arg(long, global = true, hide = true, value_name = "CONTEXT", conflicts_with = "url")]
    pub(crate) context: Option<String>,
    /// auto, always or never
    #[arg(
        long,
        global = true,
        hide = true,
        value_name = "WHEN",
        value_enum,
        default_value = "auto",
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub(crate) color: Colour,
    /// Only data and errors
    #[arg(short, long, global = true, hide = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more; twice: say everything
    #[arg(short, long, global = true, hide = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Never ask, fail instead
    #[arg(long, global = true, hide = true)]
    pub(crate) no_input: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Push(cmd::push::Args),
    Pull(cmd::pull::Args),
    Flash(cmd::flash::Args),
    Verify(cmd::verify::Args),
    NbdExport(cmd::nbd_export::Args),
    DiskView(Box<cmd::disk_view::Args>),
    Node(Box<cmd::node::Args>),
    #[command(subcommand)]
    Image(cmd::image::Command),
    #[command(subcommand)]
    Channel(cmd::channel::Command),
    Login(cmd::login::Args),
    Logout(cmd::logout::Args),
    #[command(subcommand)]
    Context(cmd::context::Command),
    #[command(subcommand)]
    User(cmd::user::Command),
    Quota(cmd::quota::Args),
    #[command(subcommand)]
    Token(cmd::token::Command),
    #[command(subcommand)]
    Task(cmd::task::Command),
    Prune(cmd::prune::Args),
    Check(cmd::check::Args),
    #[command(subcommand)]
    Scrub(cmd::scrub::Command),
    Journal(cmd::journal::Args),
    Serve(Box<cmd::serve::Args>),
    #[command(subcommand)]
    Config(cmd::config::Command),
    Doctor(Box<cmd::doctor::Args>),
    Man(cmd::man::Args),
    Completions(cmd::completions::Args),
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::{Command, CommandFactory};

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    /// The words of a line as a shell reads them, up to what ends a command; enough of a shell for examples.
    fn words(line: &str) -> Vec<Vec<String>> {
        let (mut commands, mut words, mut word, mut quote) = (Vec::new(), Vec::new(), None::<String>, None);
        for c in line.chars() {
            match (quote, c) {
                (Some(open), _) if c == open => quote = None,
                (None, '\'' | '"') => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                (None, ' ') => words.extend(word.take()),
                (None, '|' | '&' | ';' | '(' | ')') => {
                    words.extend(word.take());
                    commands.push(std::mem::take(&mut words));
                }
                (None, '#') if word.is_none() => break,
                _ => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        commands.push(words);
        commands
    }

    /// The parts of a line that run slipway, without variables in front and redirections behind.
    fn calls(line: &str) -> Vec<Vec<String>> {
        let own = |words: Vec<String>| {
            let start = words.iter().position(|word| !word.contains('=') && word != "sudo")?;
            (words[start] == "slipway").then(|| {
                let redirected =
                    |word: &String| word.starts_with('>') || word.starts_with('<') || word.starts_with("2>");
                words[start..].iter().take_while(|word| !redirected(word)).cloned().collect()
            })
        };
        words(line).into_iter().filter_map(own).collect()
    }

    fn walk(command: &Command, name: &str, tried: &mut Vec<String>, wrong: &mut Vec<String>) {
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples: Vec<&str> = after.lines().skip_while(|line| *line != "Examples:").skip(1).collect();
        if examples.len() < 2 {
            wrong.push(format!("{name} has fewer than two examples"));
        }
        // Lines of other programs may follow, such as those that use what the command offers.
        let mut own = 0;
        for line in examples {
            let calls = calls(line.trim());
            own += usize::from(!calls.is_empty());
            for call in calls {
                tried.push(line.to_owned());
                if let Err(why) = Cli::command().try_get_matches_from(&call)
                    && why.use_stderr()
                {
                    wrong.push(format!("{name}: the example {line:?} cannot be read: {why}"));
                }
            }
        }
        if own == 0 {
            wrong.push(format!("{name} has no example that runs slipway"));
        }
        for below in command.get_subcommands() {
            walk(below, &format!("{name} {}", below.get_name()), tried, wrong);
        }
    }

    #[test]
    fn every_example_can_be_read() {
        let (mut tried, mut wrong) = (Vec::new(), Vec::new());
        walk(&Cli::command(), "slipway", &mut tried, &mut wrong);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(tried.len() > 80, "only {} examples were found", tried.len());
    }

    #[test]
    fn examples_are_taken_apart_as_a_shell_does() {
        for (line, wanted) in [
            ("slipway image ls", &[&["slipway", "image", "ls"][..]][..]),
            ("A=b slipway push x me/os -m \"a b\" > log", &[&["slipway", "push", "x", "me/os", "-m", "a b"]]),
            (
                "zstd -dc x | slipway push - me/os && slipway image ls  # all",
                &[&["slipway", "push", "-", "me/os"], &["slipway", "image", "ls"]],
            ),
            (
                "A=$(slipway token new x) slipway image ls",
                &[&["slipway", "token", "new", "x"], &["slipway", "image", "ls"]],
            ),
            ("mount /dev/x /y", &[]),
        ] {
            let found = calls(line);
            let found: Vec<Vec<&str>> = found.iter().map(|call| call.iter().map(String::as_str).collect()).collect();
            assert_eq!(found, wanted, "{line}");
        }
    }
}
