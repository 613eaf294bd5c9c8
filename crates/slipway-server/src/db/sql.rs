//! A statement with its values, and a row: the narrow part of SQL that both databases agree on.

use crate::db::DbError;
use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Row as _};
use std::borrow::Cow;
use std::str::FromStr;
use uuid::Uuid;

/// A value of one of the two column types.
#[derive(Clone, Debug)]
pub enum Value {
    /// A text column.
    Text(Option<String>),
    /// A number column.
    Int(Option<i64>),
}

macro_rules! value_from {
    ($($from:ty => |$it:ident| $make:expr;)*) => {
        $(impl From<$from> for Value {
            fn from($it: $from) -> Self {
                $make
            }
        })*
    };
}

/// Sizes and counts stay far below 2^63; a larger one cannot come from a checked input.
fn signed(it: u64) -> i64 {
    i64::try_from(it).unwrap_or(i64::MAX)
}

value_from! {
    &str => |it| Value::Text(Some(it.to_owned()));
    String => |it| Value::Text(Some(it));
    &String => |it| Value::Text(Some(it.clone()));
    Option<String> => |it| Value::Text(it);
    Option<&str> => |it| Value::Text(it.map(str::to_owned));
    Uuid => |it| Value::Text(Some(it.to_string()));
    &Uuid => |it| Value::Text(Some(it.to_string()));
    Option<Uuid> => |it| Value::Text(it.map(|id| id.to_string()));
    i64 => |it| Value::Int(Some(it));
    Option<i64> => |it| Value::Int(it);
    u64 => |it| Value::Int(Some(signed(it)));
    Option<u64> => |it| Value::Int(it.map(signed));
    u32 => |it| Value::Int(Some(i64::from(it)));
    bool => |it| Value::Int(Some(i64::from(it)));
}

/// One statement with its values.
#[derive(Clone, Debug)]
pub struct Sql {
    text: Cow<'static, str>,
    values: Vec<Value>,
}

/// A statement. Only constants and generated placeholders belong into the text; every value is bound.
pub fn sql(text: impl Into<Cow<'static, str>>) -> Sql {
    Sql { text: text.into(), values: Vec::new() }
}

impl Sql {
    /// Binds the next `$n`.
    pub fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Binds several.
    pub fn bind_all<V: Into<Value>>(mut self, values: impl IntoIterator<Item = V>) -> Self {
        self.values.extend(values.into_iter().map(Into::into));
        self
    }

    /// The statement's first words, for errors; values are not shown.
    pub(crate) fn act(&self) -> String {
        let words: Vec<&str> = self.text.split_whitespace().take(6).collect();
        format!("running '{} …'", words.join(" "))
    }

    pub(crate) fn query(self) -> sqlx::query::Query<'static, Any, sqlx::any::AnyArguments> {
        let text = match self.text {
            Cow::Borrowed(text) => AssertSqlSafe(text.to_owned()),
            Cow::Owned(text) => AssertSqlSafe(text),
        };
        self.values.into_iter().fold(sqlx::query(text), |query, value| match value {
            Value::Text(text) => query.bind(text),
            Value::Int(number) => query.bind(number),
        })
    }
}

/// `$from, $from+1, …` for a list of values.
pub fn placeholders(from: usize, count: usize) -> String {
    (from..from + count).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ")
}

/// A row.
pub struct Row(pub(crate) AnyRow);

impl Row {
    fn bad(column: &str, detail: impl ToString) -> DbError {
        DbError::Column { column: column.to_owned(), detail: detail.to_string() }
    }

    /// A text, or null.
    pub fn text_or_null(&self, column: &str) -> Result<Option<String>, DbError> {
        self.0.try_get(column).map_err(|error| Self::bad(column, error))
    }

    /// A text.
    pub fn text(&self, column: &str) -> Result<String, DbError> {
        self.text_or_null(column)?.ok_or_else(|| Self::bad(column, "is null"))
    }

    /// A number, or null.
    pub fn int_or_null(&self, column: &str) -> Result<Option<i64>, DbError> {
        self.0.try_get(column).map_err(|error| Self::bad(column, error))
    }

    /// A number.
    pub fn int(&self, column: &str) -> Result<i64, DbError> {
        self.int_or_null(column)?.ok_or_else(|| Self::bad(column, "is null"))
    }

    /// A size or count.
    pub fn size(&self, column: &str) -> Result<u64, DbError> {
        u64::try_from(self.int(column)?).map_err(|error| Self::bad(column, error))
    }

    /// A size or count, or null.
    pub fn size_or_null(&self, column: &str) -> Result<Option<u64>, DbError> {
        self.int_or_null(column)?.map(|it| u64::try_from(it).map_err(|error| Self::bad(column, error))).transpose()
    }

    /// A flag.
    pub fn flag(&self, column: &str) -> Result<bool, DbError> {
        Ok(self.int(column)? != 0)
    }

    /// A text that parses: an id, a name, a digest.
    pub fn parsed<T: FromStr<Err: std::fmt::Display>>(&self, column: &str) -> Result<T, DbError> {
        self.text(column)?.parse().map_err(|error| Self::bad(column, error))
    }

    /// A text that parses, or null.
    pub fn parsed_or_null<T: FromStr<Err: std::fmt::Display>>(&self, column: &str) -> Result<Option<T>, DbError> {
        self.text_or_null(column)?.map(|text| text.parse().map_err(|error| Self::bad(column, error))).transpose()
    }

    /// JSON text.
    pub fn json<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<T, DbError> {
        serde_json::from_str(&self.text(column)?).map_err(|error| Self::bad(column, error))
    }

    /// JSON text, or null.
    pub fn json_or_null<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<Option<T>, DbError> {
        self.text_or_null(column)?
            .map(|text| serde_json::from_str(&text).map_err(|error| Self::bad(column, error)))
            .transpose()
    }

    /// The name of a variant, as serde writes it.
    pub fn word<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<T, DbError> {
        serde_json::from_value(serde_json::Value::String(self.text(column)?)).map_err(|error| Self::bad(column, error))
    }

    /// A time in milliseconds.
    pub fn time(&self, column: &str) -> Result<jiff::Timestamp, DbError> {
        time_of(self.int(column)?).map_err(|error| Self::bad(column, error))
    }

    /// A time in milliseconds, or null.
    pub fn time_or_null(&self, column: &str) -> Result<Option<jiff::Timestamp>, DbError> {
        self.int_or_null(column)?.map(|ms| time_of(ms).map_err(|error| Self::bad(column, error))).transpose()
    }
}

/// Milliseconds since 1970 as a timestamp.
pub fn time_of(ms: i64) -> Result<jiff::Timestamp, jiff::Error> {
    jiff::Timestamp::from_millisecond(ms)
}

/// The name of a variant, as serde writes it: what [`Row::word`] reads.
pub fn word_of<T: serde::Serialize>(variant: &T) -> String {
    match serde_json::to_value(variant) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("a unit variant is written as a string, not {other:?}"),
    }
}
