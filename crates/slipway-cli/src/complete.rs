//! What a shell offers for the word under the cursor: besides commands and options also the images, versions, channels, people and
//! contexts that there are. A server is asked for at most a moment, with the settings that the command itself would use; what cannot be
//! had is not offered, and nothing is ever said about why.

use crate::args::Cli;
use crate::credentials;
use crate::settings::{Flags, Settings};
use clap::{Arg, Command, CommandFactory};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use slipway_api::{Client, ClientConfig, ImageRef, PageQuery};
use std::ffi::OsStr;
use std::future::Future;
use std::time::Duration;

/// Longer nobody waits for a completion.
const LIMIT: Duration = Duration::from_millis(1500);
/// What is offered at most; a longer list is not read.
const MOST: u32 = 500;

/// The command line with its completers. They are found by what an argument is called, so that a new command has them by itself.
pub(crate) fn command() -> Command {
    dress(Cli::command(), "")
}

fn dress(command: Command, above: &str) -> Command {
    let name = format!("{above} {}", command.get_name());
    let command = command.mut_args(|arg| match completer(&arg, &name) {
        Some(complete) => arg.add(ArgValueCompleter::new(complete)),
        None => arg,
    });
    command.mut_subcommands(|below| dress(below, &name))
}

type Complete = fn(&OsStr) -> Vec<CompletionCandidate>;

/// How the values of an argument are found, if they can be.
fn completer(arg: &Arg, command: &str) -> Option<Complete> {
    let value = arg.get_value_names().and_then(<[_]>::first).map_or("", |name| name.as_str());
    match arg.get_id().as_str() {
        "reference" | "references" | "from" | "to" | "parent" => Some(versions),
        // 'version' is also what clap calls its own flag.
        "version" if arg.is_positional() => Some(versions),
        "image" | "images" => Some(images),
        "owner" | "user" | "add" | "remove" if arg.get_action().takes_values() => Some(people),
        "name" if command.contains(" user") && !command.ends_with(" add") => Some(people),
        "name" | "names" | "object" | "objects" if command.contains(" node ") && arg.is_positional() => {
            Some(node_containers)
        }
        "context" => Some(contexts),
        _ if value == "CONTEXT" => Some(contexts),
        _ => None,
    }
}

fn matching(words: impl IntoIterator<Item = (String, Option<String>)>, begun: &str) -> Vec<CompletionCandidate> {
    let fits = words.into_iter().filter(|(word, _)| word.starts_with(begun));
    fits.map(|(word, help)| CompletionCandidate::new(word).help(help.map(Into::into))).collect()
}

fn contexts(begun: &OsStr) -> Vec<CompletionCandidate> {
    let Some(begun) = begun.to_str() else { return Vec::new() };
    let kept = credentials::path().and_then(|path| credentials::read(&path).ok()).unwrap_or_default();
    matching(kept.contexts.into_iter().map(|(name, entry)| (name, Some(entry.url))), begun)
}

fn images(begun: &OsStr) -> Vec<CompletionCandidate> {
    let Some(begun) = begun.to_str() else { return Vec::new() };
    matching(asked(images_named).unwrap_or_default(), begun)
}

/// `owner/name`, and after a `:` the numbers and channels of that image.
fn versions(begun: &OsStr) -> Vec<CompletionCandidate> {
    let Some(begun) = begun.to_str() else { return Vec::new() };
    let Some((image, _)) = begun.split_once(':') else { return images(OsStr::new(begun)) };
    let Ok(wanted) = image.parse::<ImageRef>() else { return Vec::new() };
    let found = asked(async |client| {
        let read = client.image_get(&wanted).await.ok()?;
        let channels = read
            .channels
            .iter()
            .map(|channel| (channel.name.to_string(), Some(format!("version {}", channel.version))));
        let versions = read
            .versions
            .iter()
            .flatten()
            .map(|version| (version.number.to_string(), Some(crate::human::short(&version.message, 40))));
        let latest = std::iter::once(("latest".to_owned(), None));
        let all = latest.chain(channels).chain(versions).map(|(word, help)| (format!("{image}:{word}"), help));
        Some(all.collect::<Vec<_>>())
    });
    matching(found.unwrap_or_default(), begun)
}

fn people(begun: &OsStr) -> Vec<CompletionCandidate> {
    let Some(begun) = begun.to_str() else { return Vec::new() };
    let found = asked(async |client| {
        let page = PageQuery { limit: Some(MOST), ..PageQuery::default() };
        // Only moderators may list people; everybody knows the owners of what they see.
        Some(match client.user_list(&page).await {
            Ok(page) => page.items.into_iter().map(|user| (user.name.to_string(), Some(user.full_name))).collect(),
            Err(_) => client
                .image_list(&page)
                .await
                .ok()?
                .items
                .into_iter()
                .map(|image| (image.owner.to_string(), None))
                .collect(),
        })
    });
    let mut found: Vec<(String, Option<String>)> = found.unwrap_or_default();
    found.push(("me".into(), None));
    found.sort();
    found.dedup_by(|one, other| one.0 == other.0);
    matching(found, begun)
}

/// Containers of the node that the environment names: by name, else by number.
fn node_containers(begun: &OsStr) -> Vec<CompletionCandidate> {
    let Some(begun) = begun.to_str() else { return Vec::new() };
    let found = crate::node::connection::client_of_environment()
        .and_then(|client| moment(async move { client.container_list().await.ok() }));
    let words = found.unwrap_or_default().into_iter().map(|container| {
        let help = format!("{}: {}", container.state.as_str(), crate::human::short(&container.command, 40));
        (crate::node::find::called(&container), Some(help))
    });
    matching(words, begun)
}

/// All images that may be read, each under its owner's name, one's own also under `me`.
async fn images_named(client: Client) -> Option<Vec<(String, Option<String>)>> {
    let page = PageQuery { limit: Some(MOST), ..PageQuery::default() };
    let items = client.image_list(&page).await.ok()?.items;
    let me = client.me().await.ok().map(|me| me.user.name);
    let mine = items.iter().filter(|image| me.as_ref() == Some(&image.owner));
    let mine = mine.map(|image| (format!("me/{}", image.slug), Some(image.title.clone())));
    Some(mine.chain(items.iter().map(|image| (image.reference.clone(), Some(image.title.clone())))).collect())
}

/// Asks the server that the settings name; `None` when there is none, or no answer in time.
fn asked<T, F: Future<Output = Option<T>>>(ask: impl FnOnce(Client) -> F) -> Option<T> {
    let settings = Settings::load(&Flags::default()).ok()?;
    let ca_pem = settings.ca.value.as_ref().map(crate::settings::Ca::pem).transpose().ok()?;
    let url = settings.url().ok()?;
    let token = settings.token().ok()?.to_owned();
    let client =
        Client::new(&ClientConfig { token: Some(token), ca_pem, attempts: 1, ..ClientConfig::new(url) }).ok()?;
    moment(ask(client))
}

/// The answer, if it comes in time.
fn moment<T>(answer: impl Future<Output = Option<T>>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let answer = runtime.block_on(async { tokio::time::timeout(LIMIT, answer).await.ok().flatten() });
    // A name that is being looked up must not hold the shell up.
    runtime.shutdown_background();
    answer
}

#[cfg(test)]
mod tests {
    use super::{command, completer};

    /// Every argument that takes what a server knows has a completer, whoever adds it.
    #[test]
    fn references_are_completed_everywhere() {
        fn walk(command: &clap::Command, above: &str, found: &mut Vec<String>) {
            let name = format!("{above} {}", command.get_name());
            for arg in command.get_arguments() {
                if completer(arg, &name).is_some() {
                    found.push(format!("{name} {}", arg.get_id()));
                }
            }
            command.get_subcommands().for_each(|below| walk(below, &name, found));
        }
        let mut found = Vec::new();
        walk(&command(), "", &mut found);
        for wanted in [
            " slipway context",
            " slipway push image",
            " slipway flash reference",
            " slipway image rm references",
            " slipway channel set version",
            " slipway image share add",
            " slipway user show name",
            " slipway context use name",
            " slipway node exec name",
            " slipway node stop names",
            " slipway node rm objects",
        ] {
            assert!(found.iter().any(|found| found == wanted), "{wanted} is not completed: {found:?}");
        }
        assert!(!found.iter().any(|found| found == " slipway user add name" || found == " slipway node run name"));
    }
}
