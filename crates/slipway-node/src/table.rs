//! The rules: which objects there are, who wants them to stay, and what follows when one goes. No call of the kernel is made here.

use crate::object::{Claim, Entry, Phase, Proof, Type, What};
use crate::plan::{Child, Draft};
use crate::refusal::{Refusal, object_holder};
use slipway_api::node::{Holder, ObjectId, StepError};
use std::collections::{BTreeMap, BTreeSet};

/// Every object of a node.
#[derive(Debug, Default)]
pub struct Table {
    entries: BTreeMap<ObjectId, Entry>,
    names: BTreeMap<String, ObjectId>,
    last_id: ObjectId,
    /// What is there and yet not well; the kernel is asked for it again and again, so it is not kept.
    troubles: BTreeMap<ObjectId, StepError>,
}

impl Table {
    /// What was kept, after a start. Numbers go on behind `last_id`.
    pub fn restored(entries: impl IntoIterator<Item = Entry>, last_id: ObjectId) -> Self {
        let mut entries: BTreeMap<_, _> = entries.into_iter().map(|entry| (entry.id, entry)).collect();
        let stands_on: Vec<(ObjectId, ObjectId)> =
            entries.values().flat_map(|entry| entry.children.iter().map(|child| (*child, entry.id))).collect();
        for entry in entries.values_mut() {
            entry.claims.retain(|claim| *claim == Claim::Creator);
        }
        // Who stands on what follows from the descriptions, whatever had been noted when the service ended.
        for (child, parent) in stands_on {
            if let Some(entry) = entries.get_mut(&child) {
                entry.claims.insert(Claim::Parent(parent));
            }
        }
        let names = entries.values().filter_map(|entry| Some((name_of(&entry.what)?.to_owned(), entry.id))).collect();
        let last_id = entries.keys().next_back().copied().unwrap_or(0).max(last_id);
        Self { entries, names, last_id, troubles: BTreeMap::new() }
    }

    /// The number that was given last; kept, so that none is given twice.
    pub fn last_id(&self) -> ObjectId {
        self.last_id
    }

    /// One object.
    pub fn get(&self, id: ObjectId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// One object of a type.
    ///
    /// # Errors
    /// 404 when there is none of that number and type.
    pub fn of_type(&self, id: ObjectId, kind: Type) -> Result<&Entry, Refusal> {
        let found = self.entries.get(&id).filter(|entry| entry.what.kind() == kind);
        found.ok_or_else(|| Refusal::not_found(kind.as_str(), id))
    }

    /// The container of a name.
    pub fn named(&self, name: &str) -> Option<&Entry> {
        self.names.get(name).and_then(|id| self.entries.get(id))
    }

    /// All of them, by number.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.values()
    }

    /// Takes a request in: gives numbers, claims what it stands on, and lists what is to be made, in order. Nothing is changed by an error.
    ///
    /// # Errors
    /// 404 for a reference to nothing, 409 for one to what is going or not there yet, 409 for a name that is taken.
    pub fn admit(&mut self, draft: Draft, now_ms: i64) -> Result<Vec<ObjectId>, Refusal> {
        for child in draft.objects.iter().flat_map(|object| &object.children) {
            if let Child::There(id, kind) = child {
                self.usable(*id, *kind)?;
            }
        }
        for name in draft.objects.iter().filter_map(|object| name_of(&object.what)) {
            if let Some(id) = self.names.get(name) {
                return Err(Refusal::new(409, "object is busy")
                    .hint(format!("the name '{name}' is taken by container {id}; choose another or delete that one")));
            }
        }
        let first = self.last_id + 1;
        let ids: Vec<ObjectId> = (first..first + draft.objects.len() as u64).collect();
        let asked = ids.last().copied().unwrap_or(self.last_id);
        self.last_id = asked;
        for (object, &id) in draft.objects.into_iter().zip(&ids) {
            let children: Vec<ObjectId> = object
                .children
                .iter()
                .map(|child| match child {
                    Child::Drafted(n) => ids[*n],
                    Child::There(id, _) => *id,
                })
                .collect();
            for child in &children {
                if let Some(entry) = self.entries.get_mut(child) {
                    entry.claims.insert(Claim::Parent(id));
                }
            }
            if let Some(name) = name_of(&object.what) {
                self.names.insert(name.to_owned(), id);
            }
            let claims = if id == asked { BTreeSet::from([Claim::Creator]) } else { BTreeSet::new() };
            let entry = Entry {
                id,
                what: object.what,
                children,
                claims,
                phase: Phase::Making,
                proof: None,
                created_at_ms: now_ms,
            };
            self.entries.insert(id, entry);
        }
        Ok(ids)
    }

    fn usable(&self, id: ObjectId, kind: Type) -> Result<(), Refusal> {
        let entry = self.of_type(id, kind)?;
        match &entry.phase {
            Phase::Ready => Ok(()),
            Phase::Making | Phase::Pending(_) => {
                Err(Refusal::new(409, "object is busy").hint(format!("{} {id} is still being made", kind.as_str())))
            }
            Phase::Removing(_) => {
                Err(Refusal::new(409, "object is busy").hint(format!("{} {id} is being removed", kind.as_str())))
            }
            Phase::Lost(error) => {
                let mut refusal = Refusal::failed(error.clone());
                refusal.problem.hint = Some(format!("{} {id} is lost; delete it and make it again", kind.as_str()));
                Err(refusal)
            }
        }
    }

    /// The kernel has it.
    pub fn made(&mut self, id: ObjectId, proof: Option<Proof>) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.phase = Phase::Ready;
            entry.proof = proof;
        }
    }

    /// What is not well now, of all objects.
    pub fn troubles_set(&mut self, troubles: BTreeMap<ObjectId, StepError>) {
        self.troubles = troubles;
    }

    /// What is not well with an object that is there.
    pub fn trouble(&self, id: ObjectId) -> Option<&StepError> {
        self.troubles.get(&id)
    }

    /// A call has not come back in its time.
    pub fn stuck(&mut self, id: ObjectId, error: StepError) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.phase = Phase::Pending(error);
        }
    }

    /// It is being made again.
    pub(crate) fn making(&mut self, id: ObjectId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.phase = Phase::Making;
        }
    }

    /// The kernel has it no more.
    pub fn lost(&mut self, id: ObjectId, error: StepError) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.phase = Phase::Lost(error);
        }
    }

    /// A request has ended early: what it asked for by itself is wanted no more. Gives what nobody wants now.
    pub fn abandon(&mut self, id: ObjectId) -> Vec<ObjectId> {
        let Some(entry) = self.entries.get_mut(&id) else { return Vec::new() };
        entry.claims.remove(&Claim::Creator);
        let unwanted = entry.claims.is_empty();
        if unwanted { vec![id] } else { Vec::new() }
    }

    /// Begins to remove what somebody named; gives it as it was.
    ///
    /// # Errors
    /// 404; 409 with its holders when another object stands on it (unless forced), or when it is being made or removed.
    pub fn removal_begin(&mut self, id: ObjectId, kind: Type, force: bool) -> Result<Entry, Refusal> {
        let entry = self.of_type(id, kind)?;
        match &entry.phase {
            Phase::Ready | Phase::Lost(_) => {}
            Phase::Removing(Some(_)) => {}
            Phase::Making | Phase::Pending(_) => {
                return Err(Refusal::busy(Vec::new()).hint(format!("{} {id} is still being made", kind.as_str())));
            }
            Phase::Removing(None) => {
                return Err(Refusal::busy(Vec::new()).hint(format!("{} {id} is already being removed", kind.as_str())));
            }
        }
        let holders = self.holders(entry);
        if !holders.is_empty() && !force {
            return Err(Refusal::busy(holders).hint("delete what stands on it first, or use force=true"));
        }
        let was = entry.clone();
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.phase = Phase::Removing(None);
        }
        Ok(was)
    }

    /// Begins to remove what nobody wants; false if somebody does by now, or somebody is at it.
    pub fn collection_begin(&mut self, id: ObjectId) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        let free = matches!(entry.phase, Phase::Ready | Phase::Lost(_) | Phase::Making | Phase::Removing(Some(_)));
        let unwanted = entry.claims.is_empty();
        if free && unwanted {
            entry.phase = Phase::Removing(None);
        }
        free && unwanted
    }

    /// It could not be removed: what is wanted is as it was before, what nobody wants waits to be tried again.
    pub fn removal_failed(&mut self, id: ObjectId, was: &Phase, error: StepError) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.phase = match entry.claims.is_empty() {
                true => Phase::Removing(Some(error)),
                false => was.clone(),
            };
        }
    }

    /// It is gone from the kernel: forgets it, and gives what nobody wants any more.
    pub fn removed(&mut self, id: ObjectId) -> Vec<ObjectId> {
        let Some(entry) = self.entries.remove(&id) else { return Vec::new() };
        if let Some(name) = name_of(&entry.what) {
            self.names.remove(name);
        }
        let mut unwanted = Vec::new();
        for child in entry.children {
            if let Some(entry) = self.entries.get_mut(&child) {
                let had = entry.claims.remove(&Claim::Parent(id));
                if had && entry.claims.is_empty() {
                    unwanted.push(child);
                }
            }
        }
        unwanted
    }

    /// What nobody wants, parents first.
    pub fn unwanted(&self) -> Vec<ObjectId> {
        let unwanted = self.entries.values().filter(|entry| entry.claims.is_empty());
        let mut ids: Vec<ObjectId> = unwanted.map(|entry| entry.id).collect();
        ids.reverse();
        ids
    }

    /// The objects that stand on it.
    pub fn holders(&self, entry: &Entry) -> Vec<Holder> {
        let parents = entry.claims.iter().filter_map(|claim| match claim {
            Claim::Creator => None,
            Claim::Parent(id) => self.entries.get(id),
        });
        parents.map(|parent| object_holder(parent.what.kind().as_str(), parent.id)).collect()
    }

    /// Everything below an object that is lost, children before parents.
    pub(crate) fn all_lost_below(&self, id: ObjectId) -> BTreeSet<ObjectId> {
        let (mut lost, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut next = self.entries.get(&id).map(|entry| entry.children.clone()).unwrap_or_default();
        while let Some(id) = next.pop() {
            if let Some(entry) = self.entries.get(&id).filter(|_| seen.insert(id)) {
                next.extend(&entry.children);
                if matches!(entry.phase, Phase::Lost(_)) {
                    lost.insert(id);
                }
            }
        }
        lost
    }

    /// The first thing below an object that is lost, and why.
    pub fn lost_below(&self, entry: &Entry) -> Option<(ObjectId, StepError)> {
        let (mut seen, mut next) = (BTreeSet::new(), entry.children.clone());
        while let Some(id) = next.pop() {
            match self.entries.get(&id) {
                Some(Entry { phase: Phase::Lost(error), .. }) => return Some((id, error.clone())),
                Some(entry) if seen.insert(id) => next.extend(&entry.children),
                _ => {}
            }
        }
        None
    }

    /// Whether all that it stands on is there and well. Chains may be long, so no call is nested.
    pub fn is_whole(&self, entry: &Entry) -> bool {
        let (mut seen, mut next) = (BTreeSet::new(), entry.children.clone());
        while let Some(id) = next.pop() {
            if !seen.insert(id) {
                continue;
            }
            match self.entries.get(&id) {
                None => return false,
                Some(entry) if matches!(entry.phase, Phase::Lost(_)) || self.trouble(id).is_some() => return false,
                Some(entry) => next.extend(&entry.children),
            }
        }
        true
    }
}

/// The name of a container that has one.
pub(crate) fn name_of(what: &What) -> Option<&str> {
    match what {
        What::Container(container) if !container.name.is_empty() => Some(&container.name),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
