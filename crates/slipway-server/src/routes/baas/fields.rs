//! Input as BAAS reads it: a JSON object whose keys match without regard to case, and whose unknown keys are ignored.

use std::collections::HashMap;

use serde_json::{Map, Value};
use slipway_api::Problem;

use super::errors::bad;
use crate::http::ask::Ask;
use crate::http::json::{JSON_MAX, json_read};

/// The members of a body by their keys in lower case. `null` counts as absent.
pub(super) struct Fields(HashMap<String, Value>);

impl Fields {
    /// Reads a body; `refusal` is what is said of one that is no JSON object. A `Content-Type` is not asked for: curl's -d sends another.
    pub(super) async fn read(ask: &mut Ask, refusal: &str) -> Result<Self, Problem> {
        let body = ask.bytes(JSON_MAX).await?;
        let object: Map<String, Value> = json_read(&body).map_err(|problem| bad(refusal).hint(problem.title))?;
        Ok(Self::of(object))
    }

    fn of(object: Map<String, Value>) -> Self {
        let members = object.into_iter().filter(|(_, value)| !value.is_null());
        Self(members.map(|(key, value)| (key.to_lowercase(), value)).collect())
    }

    /// A text; an empty one is given back as such.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, Problem> {
        match self.0.get(&key.to_lowercase()) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(bad(format!("{key} is not text"))),
        }
    }

    /// A text that is not empty.
    pub(super) fn filled(&self, key: &str) -> Result<Option<&str>, Problem> {
        Ok(self.text(key)?.filter(|text| !text.is_empty()))
    }

    /// True or false.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, Problem> {
        match self.0.get(&key.to_lowercase()) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(bad(format!("{key} is neither true nor false"))),
        }
    }

    /// A whole number from 1 on.
    pub(super) fn count(&self, key: &str) -> Result<Option<u64>, Problem> {
        match self.0.get(&key.to_lowercase()) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(count) if count > 0 => Ok(Some(count)),
                _ => Err(bad(format!("{key} is not a whole number from 1 on"))),
            },
        }
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<String>>, Problem> {
        let wrong = || bad(format!("{key} is not a list of texts"));
        match self.0.get(&key.to_lowercase()) {
            None => Ok(None),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong))
                .collect::<Result<_, _>>()
                .map(Some),
            Some(_) => Err(wrong()),
        }
    }

    /// Whether a list is there that holds something.
    pub(super) fn has_items(&self, key: &str) -> bool {
        matches!(self.0.get(&key.to_lowercase()), Some(Value::Array(items)) if !items.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::Fields;
    use serde_json::json;

    #[test]
    fn keys_match_without_regard_to_case() {
        let serde_json::Value::Object(object) = json!({ "NAME": "a", "sIze": 3, "Versioned": false, "x": {}, "Type": null, "Associated": ["b"], "Filesystem": "" })
        else {
            panic!()
        };
        let fields = Fields::of(object);
        assert_eq!(fields.text("Name").unwrap(), Some("a"));
        assert_eq!(fields.count("Size").unwrap(), Some(3));
        assert_eq!(fields.flag("Versioned").unwrap(), Some(false));
        assert_eq!(fields.text("Type").unwrap(), None);
        assert_eq!((fields.text("Filesystem").unwrap(), fields.filled("Filesystem").unwrap()), (Some(""), None));
        assert_eq!(fields.texts("Associated").unwrap(), Some(vec!["b".to_owned()]));
        assert!(fields.has_items("associated") && !fields.has_items("Name"));
        for refused in [
            fields.text("Size").is_err(),
            fields.flag("Name").is_err(),
            fields.count("Name").is_err(),
            fields.texts("x").is_err(),
        ] {
            assert!(refused);
        }
    }
}
