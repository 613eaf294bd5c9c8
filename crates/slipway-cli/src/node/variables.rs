//! `${name}` in the texts of definitions.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Values by name, and which names were met.
#[derive(Debug, Default)]
pub(crate) struct Variables {
    values: BTreeMap<String, String>,
    used: BTreeSet<String>,
    missing: BTreeSet<String>,
}

impl Variables {
    pub(crate) fn new(values: BTreeMap<String, String>) -> Self {
        Self { values, ..Self::default() }
    }

    /// Fills in all texts of a value. Names of fields stay as they are. `$${` stands for `${`.
    ///
    /// # Errors
    /// The text in which a `${` has no name or no end.
    pub(crate) fn fill(&mut self, value: &mut Value) -> Result<(), String> {
        match value {
            Value::String(text) => {
                *text = self.filled(text)?;
                Ok(())
            }
            Value::Array(items) => items.iter_mut().try_for_each(|item| self.fill(item)),
            Value::Object(fields) => fields.values_mut().try_for_each(|field| self.fill(field)),
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
        }
    }

    /// Names that were met and have no value.
    pub(crate) fn missing(&self) -> Vec<&str> {
        self.missing.iter().map(String::as_str).collect()
    }

    /// Names that have a value and were not met: probably mistyped.
    pub(crate) fn unused(&self) -> Vec<&str> {
        self.values.keys().filter(|name| !self.used.contains(*name)).map(String::as_str).collect()
    }

    fn filled(&mut self, text: &str) -> Result<String, String> {
        let (mut out, mut rest) = (String::with_capacity(text.len()), text);
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                out.push_str(&rest[..at - 1]);
                out.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let inner = &rest[at + 2..];
            let end = inner.find('}').ok_or_else(|| text.to_owned())?;
            let name = &inner[..end];
            if !name_fits(name) {
                return Err(text.to_owned());
            }
            match self.values.get(name) {
                Some(value) => {
                    out.push_str(value);
                    self.used.insert(name.to_owned());
                }
                None => {
                    self.missing.insert(name.to_owned());
                }
            }
            rest = &inner[end + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// Letters, digits, `_`, `.` and `-`, no digit first.
pub(crate) fn name_fits(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    first && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::Variables;

    #[test]
    fn texts_are_filled() {
        let values =
            [("host", "s1.lab"), ("n", "3"), ("odd", "${n}")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut variables = Variables::new(values.into());
        for (text, filled) in [
            ("${host}:/x/${n}", Ok("s1.lab:/x/3")),
            ("plain $HOME $ {n}", Ok("plain $HOME $ {n}")),
            ("$${host} $$", Ok("${host} $$")),
            // What is filled in is not looked at again.
            ("${odd}", Ok("${n}")),
            ("${none}", Ok("")),
            ("${host", Err("${host")),
            ("${}", Err("${}")),
            ("${a b}", Err("${a b}")),
            ("ä${n}ö", Ok("ä3ö")),
        ] {
            assert_eq!(variables.filled(text).as_deref().map_err(String::as_str), filled, "{text}");
        }
        assert_eq!((variables.missing(), variables.unused().len()), (vec!["none"], 0));
        let mut value = serde_json::json!({"${n}": ["${n}", 5, null, {"a": "${n}"}]});
        variables.fill(&mut value).unwrap();
        assert_eq!(value, serde_json::json!({"${n}": ["3", 5, null, {"a": "3"}]}));
        assert_eq!(Variables::new([("x".to_owned(), String::new())].into()).unused(), ["x"]);
    }
}
