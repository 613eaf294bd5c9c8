//! Definitions brought onto a node: what is there already stays, what is missing is made, and what was made goes again when
//! something fails on the way.

use super::definition::{Definition, Placed};
use super::differences::{Difference, attach_equal, container_differences, definition_again, mount_equal};
use super::find::{Everything, key};
use crate::cmd::node::{not_started, stopped};
use crate::failure::{Failure, exit};
use serde::Serialize;
use slipway_api::node::{Container, ContainerKey, ContainerState, NodeClient, NodeError, ObjectId};
use std::sync::atomic::{AtomicBool, Ordering};

/// What is to be done for one definition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// It is there as described.
    Unchanged(ObjectId),
    /// It is there as described, and does not run.
    Start(ObjectId),
    /// It is not there.
    Create,
    /// A container of this name is there, and is another one.
    Replace(Box<Container>, Vec<Difference>),
}

/// What came of one definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Row {
    /// `attach`, `mount` or `container`.
    pub(crate) object: &'static str,
    /// A container's name, else its kind and its place in the file.
    pub(crate) name: String,
    /// Its number, once it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<ObjectId>,
    /// `unchanged`, `started`, `created` or `replaced`.
    pub(crate) result: &'static str,
}

/// Decides for each definition what is to be done.
pub(crate) fn plan(definitions: &[Placed], all: &Everything) -> Vec<Step> {
    let mut taken: Vec<ObjectId> = Vec::new();
    let mut steps = Vec::new();
    for placed in definitions {
        let step = match &placed.definition {
            Definition::Attach(wanted) => {
                let mut fitting = all.attaches.iter().filter(|found| attach_equal(wanted, found));
                let found = fitting.find(|found| all.is_asked_for(found.id, found.refs) && !taken.contains(&found.id));
                found.map_or(Step::Create, |found| Step::Unchanged(found.id))
            }
            Definition::Mount(wanted) => {
                let mut fitting = all.mounts.iter().filter(|found| mount_equal(wanted, found));
                let found = fitting.find(|found| all.is_asked_for(found.id, found.refs) && !taken.contains(&found.id));
                found.map_or(Step::Create, |found| Step::Unchanged(found.id))
            }
            Definition::Container(wanted) => container_plan(wanted, all),
        };
        // Two equal definitions are two objects.
        if let Step::Unchanged(id) = step {
            taken.push(id);
        }
        steps.push(step);
    }
    steps
}

fn container_plan(wanted: &Container, all: &Everything) -> Step {
    let Some(found) = all.containers.iter().find(|found| found.name == wanted.name) else { return Step::Create };
    let differences = container_differences(wanted, found);
    let runs = found.state == ContainerState::Running;
    match (differences.is_empty(), wanted.state == ContainerState::Running && !runs) {
        (false, _) => Step::Replace(Box::new(found.clone()), differences),
        (true, true) => Step::Start(found.id),
        (true, false) => Step::Unchanged(found.id),
    }
}

/// What a plan would come to.
pub(crate) fn foretold(definitions: &[Placed], steps: &[Step]) -> Vec<Row> {
    let rows = definitions.iter().zip(steps).map(|(placed, step)| {
        let (id, result) = match step {
            Step::Unchanged(id) => (Some(*id), "unchanged"),
            Step::Start(id) => (Some(*id), "started"),
            Step::Create => (None, "created"),
            Step::Replace(..) => (None, "replaced"),
        };
        Row { object: object(&placed.definition), name: placed.called.clone(), id, result }
    });
    rows.collect()
}

fn object(definition: &Definition) -> &'static str {
    match definition {
        Definition::Attach(_) => "attach",
        Definition::Mount(_) => "mount",
        Definition::Container(_) => "container",
    }
}

/// The refusal of a plan that would replace what nobody said may be replaced.
pub(crate) fn replacement_refused(definitions: &[Placed], steps: &[Step]) -> Option<Failure> {
    const MOST: usize = 5;
    let mut parts = Vec::new();
    for (placed, step) in definitions.iter().zip(steps) {
        let Step::Replace(_, differences) = step else { continue };
        let mut lines: Vec<String> = differences
            .iter()
            .take(MOST)
            .map(|found| format!("{} is {} there, {} in the file", found.at, found.found, found.wanted))
            .collect();
        if differences.len() > MOST {
            lines.push(format!("and {} more", differences.len() - MOST));
        }
        parts.push(format!("container {} is another one on the node: {}", placed.called, lines.join("; ")));
    }
    let next = "--replace stops and removes it, with what it has changed, and makes it as in the file; or give the other one another name";
    (!parts.is_empty()).then(|| Failure::new(exit::CONFLICT, parts.join("; ")).next(next))
}

/// Something that was done, and can be undone.
enum Done {
    Attach(ObjectId),
    Mount(ObjectId),
    Container(ObjectId),
    Started(ObjectId),
    /// It is gone; this is how it was, if that is known, and whether it ran.
    Removed {
        name: String,
        again: Option<Box<Container>>,
        ran: bool,
    },
}

/// One attempt to bring definitions onto a node.
pub(crate) struct Attempt<'a> {
    client: &'a NodeClient,
    done: Vec<Done>,
    /// Somebody wants it to end; looked at between two steps.
    stop: &'a AtomicBool,
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(client: &'a NodeClient, stop: &'a AtomicBool) -> Self {
        Self { client, done: Vec::new(), stop }
    }

    /// Does what was planned; or nothing, as far as that can be.
    pub(crate) async fn run(mut self, definitions: &[Placed], steps: &[Step]) -> Result<Vec<Row>, Failure> {
        let mut rows = foretold(definitions, steps);
        // What replaces comes last: until everything else is there, nothing was taken away.
        let order = |late: bool| (0..steps.len()).filter(move |at| matches!(steps[*at], Step::Replace(..)) == late);
        for at in order(false).chain(order(true)) {
            match self.step(&definitions[at], &steps[at]).await {
                Ok(id) => rows[at].id = id.or(rows[at].id),
                Err(failure) => return Err(self.undo(failure).await),
            }
            if self.stop.load(Ordering::Relaxed) {
                let failure =
                    Failure::new(exit::INTERRUPTED, "interrupted").next("run the command again when you like");
                return Err(self.undo(failure).await);
            }
        }
        Ok(rows)
    }

    async fn step(&mut self, placed: &Placed, step: &Step) -> Result<Option<ObjectId>, Failure> {
        match step {
            Step::Unchanged(_) => Ok(None),
            Step::Start(id) => {
                let started = self.client.container_state(&ContainerKey::Id(*id), ContainerState::Running).await;
                let started = started.map_err(|why| named(placed, why))?;
                self.done.push(Done::Started(*id));
                not_started(&started).map_or(Ok(None), Err)
            }
            Step::Create => self.create(placed).await.map(Some),
            Step::Replace(old, _) => {
                let ran = matches!(old.state, ContainerState::Running | ContainerState::Paused);
                let again = definition_again(old).map(Box::new);
                stopped(self.client, old, None).await?;
                self.client.container_delete(&key(old), false).await?;
                self.done.push(Done::Removed { name: old.name.clone(), again, ran });
                self.create(placed).await.map(Some)
            }
        }
    }

    async fn create(&mut self, placed: &Placed) -> Result<ObjectId, Failure> {
        let told = |why: NodeError| named(placed, why);
        match &placed.definition {
            Definition::Attach(attach) => {
                let id = self.client.attach_create(attach).await.map_err(told)?.id;
                self.done.push(Done::Attach(id));
                Ok(id)
            }
            Definition::Mount(mount) => {
                let id = self.client.mount_create(mount).await.map_err(told)?.id;
                self.done.push(Done::Mount(id));
                Ok(id)
            }
            Definition::Container(container) => {
                let made = self.client.container_create(container).await.map_err(told)?;
                self.done.push(Done::Container(made.id));
                not_started(&made).map_or(Ok(made.id), Err)
            }
        }
    }

    /// Takes away what was made, last first, and says so.
    async fn undo(mut self, failure: Failure) -> Failure {
        let mut left = Vec::new();
        let any = !self.done.is_empty();
        while let Some(done) = self.done.pop() {
            if let Err(why) = self.undo_one(done).await {
                left.push(why);
            }
        }
        let what = match (any, left.is_empty()) {
            (false, _) => format!("{}; nothing was changed", failure.what),
            (true, true) => format!("{}; everything is as it was before", failure.what),
            (true, false) => format!("{}; not everything is as it was before: {}", failure.what, left.join("; ")),
        };
        Failure { what, ..failure }
    }

    async fn undo_one(&self, done: Done) -> Result<(), String> {
        let said = |why: NodeError| why.to_string();
        match done {
            Done::Attach(id) => self.client.attach_delete(id, false).await.map(drop).map_err(said),
            Done::Mount(id) => self.client.mount_delete(id, false).await.map(drop).map_err(said),
            Done::Container(id) => {
                self.client.container_delete(&ContainerKey::Id(id), true).await.map(drop).map_err(said)
            }
            Done::Started(id) => {
                self.client.container_state(&ContainerKey::Id(id), ContainerState::Exited).await.map(drop).map_err(said)
            }
            Done::Removed { name, again: None, .. } => Err(format!(
                "container {name} is gone, and cannot be made again as it was, since its secrets are not known"
            )),
            Done::Removed { again: Some(mut again), ran, .. } => {
                again.state = if ran { ContainerState::Running } else { ContainerState::Created };
                self.client.container_create(&again).await.map(drop).map_err(said)
            }
        }
    }
}

fn named(placed: &Placed, why: NodeError) -> Failure {
    let failure = Failure::from(why);
    Failure { what: format!("{}: {}", placed.called, failure.what), ..failure }
}

#[cfg(test)]
mod tests {
    use super::{Step, plan, replacement_refused};
    use crate::node::definition::read;
    use crate::node::find::Everything;
    use crate::node::variables::Variables;
    use serde_json::from_str;

    fn node() -> Everything {
        Everything {
            attaches: vec![from_str(r#"{"id":1,"kind":"loopback","refs":1,"loopback":{"path":"/a"}}"#).unwrap()],
            mounts: vec![
                from_str(r#"{"id":2,"kind":"bind","refs":1,"bind":{"path":"/inline"}}"#).unwrap(),
                from_str(r#"{"id":3,"kind":"bind","refs":1,"bind":{"path":"/asked"}}"#).unwrap(),
            ],
            containers: vec![
                from_str(r#"{"id":4,"name":"web","command":"/x","state":"running","mount":{"id":2,"kind":"bind","refs":1,"bind":{"path":"/inline"}}}"#).unwrap(),
            ],
        }
    }

    fn planned(text: &str) -> Vec<Step> {
        plan(&read("x", text, false, &mut Variables::default()).unwrap(), &node())
    }

    #[test]
    fn what_is_there_stays() {
        assert_eq!(planned("kind: loopback\nloopback: {path: /a}\n"), [Step::Unchanged(1)]);
        assert_eq!(planned("kind: loopback\nloopback: {path: /b}\n"), [Step::Create]);
        assert_eq!(
            planned("kind: bind\nbind: {path: /asked}\n---\nkind: bind\nbind: {path: /asked}\n"),
            [Step::Unchanged(3), Step::Create]
        );
        // One that goes with the container that it was made for is not the one that is asked for.
        assert_eq!(planned("kind: bind\nbind: {path: /inline}\n"), [Step::Create]);
        let web = "name: web\ncommand: /x\nstate: running\nmount: {kind: bind, bind: {path: /inline}}\n";
        assert_eq!(planned(web), [Step::Unchanged(4)]);
        let other = web.replace("/x", "/y");
        let steps = planned(&other);
        assert!(matches!(&steps[..], [Step::Replace(_, differences)] if differences.len() == 1));
        let placed = read("x", &other, false, &mut Variables::default()).unwrap();
        let refused = replacement_refused(&placed, &steps).unwrap();
        assert_eq!(refused.what, "container web is another one on the node: command is '/x' there, '/y' in the file");
        assert_eq!(refused.exit, 5);
    }

    #[test]
    fn what_does_not_run_is_started() {
        let mut all = node();
        all.containers[0].state = slipway_api::node::ContainerState::Exited;
        let web = "name: web\ncommand: /x\nmount: {kind: bind, bind: {path: /inline}}\n";
        for (text, step) in [(web.to_owned(), Step::Unchanged(4)), (format!("{web}state: running\n"), Step::Start(4))] {
            let placed = read("x", &text, false, &mut Variables::default()).unwrap();
            assert_eq!(plan(&placed, &all), [step]);
        }
    }
}
