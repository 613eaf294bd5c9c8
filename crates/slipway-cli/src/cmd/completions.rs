//! `slipway completions`: what a shell needs to complete commands, options, and what the server knows.

use crate::args::Cli;
use crate::failure::{Failure, exit};
use clap::CommandFactory;
use clap_complete::env::{CompleteEnv, Shells};

/// The variable by which a shell asks the program itself.
const ASKED_BY: &str = "SLIPWAY_COMPLETE";

/// Print the completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The shell asks slipway itself at each Tab, so images, versions, channels, people and contexts are completed too, \
and new commands without a new script. --static prints a script that knows only commands and options.

Examples:
  slipway completions bash > ~/.local/share/bash-completion/completions/slipway
  slipway completions zsh > ~/.zfunc/_slipway    # with 'fpath+=~/.zfunc' before compinit in ~/.zshrc
  slipway completions fish > ~/.config/fish/completions/slipway.fish
  slipway completions bash --static")]
pub(crate) struct Args {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_enum, hide_possible_values = true)]
    shell: clap_complete::Shell,
    /// Never ask the program: only commands and options
    #[arg(long = "static")]
    fixed: bool,
}

/// bash takes ':' for the end of a word, and references have one in the middle: the words are put together for the program, and what is
/// in front of the last ':' is taken off its answers, because bash replaces only what comes after it.
const BASH_COLONS: &str = r#"
_slipway_colons() {
    local -a words=()
    local word at
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        at=$(( ${#words[@]} - 1 ))
        if (( at > 0 )) && [[ $word == :* || ${words[at]} == *: ]]; then
            words[at]+=$word
        else
            words+=("$word")
        fi
    done
    at=$(( ${#words[@]} - 1 ))
    local whole=${words[at]}
    local -a COMP_WORDS=("${words[@]}")
    local COMP_CWORD=$at
    _clap_complete_slipway "$1" "$whole" "${words[at - 1]}"
    if [[ $whole == *:* && $COMP_WORDBREAKS == *:* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${whole%:*}:"}")
    fi
}
complete -o nospace -o bashdefault -F _slipway_colons slipway
"#;

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let mut text = Vec::new();
    if args.fixed {
        clap_complete::generate(args.shell, &mut Cli::command(), "slipway", &mut text);
    } else {
        let name = args.shell.to_string();
        let written = Shells::builtins()
            .completer(&name)
            .ok_or_else(|| std::io::Error::other("no such shell"))
            .and_then(|shell| shell.write_registration(ASKED_BY, "slipway", "slipway", "slipway", &mut text));
        written.map_err(|why| {
            Failure::new(exit::FAILED, format!("making the completions for {name}: {why}"))
                .next(format!("'slipway completions {name} --static'"))
        })?;
        if args.shell == clap_complete::Shell::Bash {
            text.extend_from_slice(BASH_COLONS.as_bytes());
        }
    }
    crate::output::print(&String::from_utf8_lossy(&text))
}

/// Answers a shell that asks for completions; true when it was one.
pub(crate) fn answer_shell() -> bool {
    if std::env::var_os(ASKED_BY).is_none() {
        return false;
    }
    let here = std::env::current_dir().ok();
    // What goes wrong here would be drawn into the line that somebody is typing.
    CompleteEnv::with_factory(crate::complete::command)
        .var(ASKED_BY)
        .try_complete(std::env::args_os(), here.as_deref())
        .unwrap_or(true)
}
