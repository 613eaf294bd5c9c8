//! What every command gets: the server's client, and how to talk to the person who runs it.

use crate::args::Global;
use crate::failure::Failure;
use crate::settings::{Flags, Settings};
use crate::style::Paint;
use slipway_api::{Client, ClientConfig};
use slipway_transfer::{Cancel, Control, Event};
use std::io::IsTerminal;
use std::sync::{Arc, Mutex};

/// What Ctrl-C means for a command.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt {
    /// The next step of the person.
    pub(crate) next: String,
    /// The command has something to put in order first.
    pub(crate) tidy: bool,
}

/// The surroundings of a command.
#[derive(Clone)]
pub(crate) struct Context {
    global: Global,
    on_interrupt: Arc<Mutex<Option<Interrupt>>>,
    cancel: Cancel,
}

impl Context {
    /// The surroundings of a command line with these options.
    pub(crate) fn new(global: Global) -> Self {
        Self { global, on_interrupt: Arc::default(), cancel: Cancel::new() }
    }

    /// Server, token and CA.
    pub(crate) fn settings(&self) -> Result<Settings, Failure> {
        Settings::load(&self.flags())
    }

    /// What the command line says of the server.
    pub(crate) fn flags(&self) -> Flags {
        Flags { url: self.global.url.clone(), ca: self.global.ca.clone(), context: self.global.context.clone() }
    }

    /// A client with the token, for questions that a person waits for: a server that is not there is soon said.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        self.client_with(ATTEMPTS)
    }

    /// A client for long transfers, which outlives a restart of the server.
    pub(crate) fn client_patient(&self) -> Result<Client, Failure> {
        self.client_with(ATTEMPTS_PATIENT)
    }

    /// A client for a question that only adds to an answer: asked once.
    pub(crate) fn client_hasty(&self) -> Result<Client, Failure> {
        self.client_with(1)
    }

    fn client_with(&self, attempts: u32) -> Result<Client, Failure> {
        let settings = self.settings()?;
        let token = settings.token()?.to_owned();
        let ca_pem = settings.ca.value.as_ref().map(crate::settings::Ca::pem).transpose()?;
        let url = url_checked(settings.url()?)?;
        Ok(Client::new(&ClientConfig { token: Some(token), ca_pem, attempts, ..ClientConfig::new(url) })?)
    }

    /// Says something that is neither data nor an error.
    pub(crate) fn note(&self, text: &str) {
        if !self.global.quiet {
            eprintln!("{}", crate::human::clean(text));
        }
    }

    /// Says something that only those who asked for more want to know.
    pub(crate) fn detail(&self, text: &str) {
        if self.global.verbose > 0 {
            eprintln!("{}", crate::human::clean(text));
        }
    }

    /// Progress may be drawn: on a terminal that can go back on its line.
    pub(crate) fn bars(&self) -> bool {
        !self.global.quiet && std::io::stderr().is_terminal() && !crate::style::terminal_dumb()
    }

    /// How what goes to stderr is painted.
    pub(crate) fn paint_err(&self) -> Paint {
        Paint::decide(self.global.color, std::io::stderr().is_terminal())
    }

    /// How what goes to stdout is painted.
    pub(crate) fn paint_out(&self) -> Paint {
        Paint::decide(self.global.color, std::io::stdout().is_terminal())
    }

    /// When an expired token of a kept context is the reason why the server lets nobody in, the command that makes another one.
    pub(crate) fn token_expired(&self) -> Option<String> {
        let settings = self.settings().ok()?;
        let ended = settings.expires_at.filter(|at| *at <= jiff::Timestamp::now())?;
        Some(format!(
            "{} makes a new token; the one that was kept ended on {}",
            settings.login_hint(),
            crate::human::time(ended)
        ))
    }

    /// A person can answer questions.
    pub(crate) fn can_ask(&self) -> bool {
        !self.global.no_input && std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
    }

    /// How much the person wants to hear.
    pub(crate) fn verbosity(&self) -> u8 {
        self.global.verbose
    }

    /// How a transfer is watched, and stopped by Ctrl-C.
    pub(crate) fn control(&self, events: impl Fn(Event) + Send + Sync + 'static) -> Control {
        let mut control = Control::new(events);
        control.cancel = self.cancel.clone();
        control
    }

    /// Asks whatever transfer runs to put things in order and end.
    pub(crate) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// What to say when Ctrl-C ends the command from now on.
    pub(crate) fn on_interrupt(&self, next: impl Into<String>) {
        self.on_interrupt_set(Interrupt { next: next.into(), tidy: false });
    }

    /// The same for a command that then needs a moment, to leave a target or folder in order.
    pub(crate) fn on_interrupt_tidy(&self, next: impl Into<String>) {
        self.on_interrupt_set(Interrupt { next: next.into(), tidy: true });
    }

    fn on_interrupt_set(&self, interrupt: Interrupt) {
        if let Ok(mut slot) = self.on_interrupt.lock() {
            *slot = Some(interrupt);
        }
    }

    /// What Ctrl-C means now.
    pub(crate) fn interrupt(&self) -> Option<Interrupt> {
        self.on_interrupt.lock().ok()?.clone()
    }
}

const ATTEMPTS: u32 = 3;
const ATTEMPTS_PATIENT: u32 = 8;

/// A client for a server, to log in and out.
pub(crate) fn client_new(url: &str, token: Option<String>, ca_pem: Option<Vec<u8>>) -> Result<Client, Failure> {
    let url = url_checked(url)?;
    Ok(Client::new(&ClientConfig { token, ca_pem, attempts: ATTEMPTS, ..ClientConfig::new(url) })?)
}

/// An address that can be one: with a scheme, without credentials in it.
pub(crate) fn url_checked(url: &str) -> Result<&str, Failure> {
    let shown = crate::human::clean(url);
    let refuse = |why: &str| {
        Failure::usage(format!("server address '{shown}' {why}"))
            .next("write it like https://slip.lab or http://127.0.0.1:8440")
    };
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))
        .ok_or_else(|| refuse("does not begin with http:// or https://"))?;
    let host = rest.split(['/', '?', '#']).next().unwrap_or("");
    match host {
        "" => Err(refuse("names no host")),
        _ if host.contains('@') => Err(refuse("has a name or password in it")),
        _ if url.chars().any(|c| c.is_whitespace() || c.is_control()) => {
            Err(refuse("has a space or control character in it"))
        }
        _ => Ok(url),
    }
}

#[cfg(test)]
mod tests {
    use super::url_checked;

    #[test]
    fn addresses_are_checked() {
        for (url, fine) in [
            ("http://127.0.0.1:1", true),
            ("https://slip.lab/base/", true),
            ("slip.lab", false),
            ("ftp://slip.lab", false),
            ("http://", false),
            ("http:///x", false),
            ("https://jan:pw@slip.lab", false),
            ("https://slip.lab\n", false),
        ] {
            assert_eq!(url_checked(url).is_ok(), fine, "{url:?}");
        }
    }
}
