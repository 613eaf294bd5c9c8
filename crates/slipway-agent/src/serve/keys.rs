//! Idempotency keys: a request that is repeated with its key gives the object that it made, and makes no second one.
//!
//! The key is a label of the object, so it is on stable storage before the kernel is asked, survives what the object survives, and goes
//! with it. Kept are hashes, of the body without its secrets.

use sha2::{Digest as _, Sha256};
use slipway_api::node::ObjectId;
use slipway_node::access::Caller;
use slipway_node::{Claim, Refusal, Table, What, secrets_blank};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

/// The label.
pub(crate) const LABEL: &str = "slipway.idempotency";
/// Bytes of a key.
const KEY_MAX: usize = 128;

/// A key, and what was asked for with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// Of the key and who sent it: one caller's keys are nobody else's.
    who: String,
    body: String,
}

impl Key {
    /// The key of a request, if it has one.
    pub(crate) fn of(header: Option<&[u8]>, caller: &Caller, what: What) -> Result<Option<Self>, Refusal> {
        let Some(key) = header else { return Ok(None) };
        if key.is_empty() || key.len() > KEY_MAX || !key.iter().all(u8::is_ascii_graphic) {
            let hint = format!("Idempotency-Key: 1 to {KEY_MAX} visible ASCII characters, no spaces");
            return Err(Refusal::new(400, "invalid data type").hint(hint));
        }
        let mut what = what;
        secrets_blank(&mut what);
        let body = serde_json::to_vec(&what).map_err(|_| Refusal::new(500, "internal server error"))?;
        let who = hash(&[what.kind().as_str().as_bytes(), caller.name.as_bytes(), key]);
        Ok(Some(Self { who, body: hash(&[&body]) }))
    }

    /// The label's value.
    pub(crate) fn label(&self) -> String {
        format!("{}.{}", self.who, self.body)
    }

    /// The object that was made with this key.
    pub(crate) fn find(&self, table: &Table) -> Result<Option<ObjectId>, Refusal> {
        let found = table.iter().find_map(|entry| {
            // Only who made something by itself had a key.
            let own = entry.claims.contains(&Claim::Creator);
            let (who, body) = labels(&entry.what).get(LABEL)?.split_once('.')?;
            (own && who == self.who).then_some((entry.id, body == self.body))
        });
        match found {
            None => Ok(None),
            Some((id, true)) => Ok(Some(id)),
            Some((id, false)) => Err(Refusal::new(422, "this Idempotency-Key was used with another body")
                .hint(format!("it made object {id}; send another key"))),
        }
    }
}

/// A label of ours cannot be asked for: it would answer for somebody's key.
pub(crate) fn label_refuse(labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    match labels.contains_key(LABEL) {
        true => Err(Refusal::invalid(619, format!("labels.{LABEL} in body is readOnly"))),
        false => Ok(()),
    }
}

fn labels(what: &What) -> &BTreeMap<String, String> {
    match what {
        What::Attach(attach) => &attach.labels,
        What::Mount(mount) => &mount.labels,
        What::Container(container) => &container.labels,
    }
}

/// 128 bits are enough to tell keys apart.
fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().take(16).fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// The keys of requests that are being worked on.
#[derive(Debug, Default)]
pub(crate) struct KeysBusy(Mutex<BTreeSet<String>>);

/// A key that is being worked on; free again when this is dropped.
pub(crate) struct KeyTurn<'a> {
    busy: &'a KeysBusy,
    who: String,
}

impl KeysBusy {
    /// Takes a key for one request.
    pub(crate) fn turn(&self, key: &Key) -> Result<KeyTurn<'_>, Refusal> {
        let mut busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match busy.insert(key.who.clone()) {
            true => Ok(KeyTurn { busy: self, who: key.who.clone() }),
            false => {
                Err(Refusal::busy(Vec::new()).hint("a request with this Idempotency-Key is under way; repeat it later"))
            }
        }
    }
}

impl Drop for KeyTurn<'_> {
    fn drop(&mut self) {
        self.busy.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.who);
    }
}

#[cfg(test)]
mod tests {
    use super::{Key, KeysBusy, LABEL};
    use slipway_api::node::{Attach, Mount};
    use slipway_node::access::{Caller, Role};
    use slipway_node::{Draft, Table, What};

    fn key(word: &str, name: &str, json: &str) -> Key {
        let caller = Caller { name: name.into(), role: Role::Admin, is_local_root: false };
        let mount: Mount = serde_json::from_str(json).unwrap();
        Key::of(Some(word.as_bytes()), &caller, What::Mount(Box::new(mount))).unwrap().unwrap()
    }

    const BIND: &str = r#"{"kind":"bind","bind":{"path":"/","base":"root"}}"#;

    #[test]
    fn a_key_finds_what_it_made_and_nothing_else() {
        let mut table = Table::default();
        let made = key("k", "a", BIND);
        let mut mount: Mount = serde_json::from_str(BIND).unwrap();
        mount.labels.insert(LABEL.into(), made.label());
        let over: Mount =
            serde_json::from_value(serde_json::json!({"kind": "overlay", "overlay": {"lower": [mount.clone()]}}))
                .unwrap();
        // One that somebody nested with the label is not the key's.
        table.admit(Draft::mount(over).unwrap(), 0).unwrap();
        assert_eq!(made.find(&table).unwrap(), None);
        let id = table.admit(Draft::mount(mount).unwrap(), 0).unwrap()[0];
        assert_eq!(made.find(&table).unwrap(), Some(id));
        assert_eq!(key("k", "b", BIND).find(&table).unwrap(), None);
        assert_eq!(key("l", "a", BIND).find(&table).unwrap(), None);
        let other = key("k", "a", r#"{"kind":"bind","bind":{"path":"/x","base":"root"}}"#);
        assert_eq!(other.find(&table).unwrap_err().status, 422);
    }

    #[test]
    fn secrets_are_not_in_the_hash() {
        let of = |password: &str| {
            let json = serde_json::json!({"kind": "iscsi", "iscsi": {"target": "t", "password": password}});
            let caller = Caller { name: "a".into(), role: Role::Admin, is_local_root: false };
            let attach: Attach = serde_json::from_value(json).unwrap();
            Key::of(Some(b"k"), &caller, What::Attach(Box::new(attach))).unwrap().unwrap()
        };
        assert_eq!(of("one"), of("two"));
    }

    #[test]
    fn one_request_at_a_time_has_a_key() {
        let (busy, key) = (KeysBusy::default(), key("k", "a", BIND));
        let turn = busy.turn(&key).unwrap();
        assert_eq!(busy.turn(&key).err().unwrap().status, 409);
        drop(turn);
        busy.turn(&key).unwrap();
    }
}
