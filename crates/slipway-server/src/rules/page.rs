//! Lists: limits and opaque cursors.

use crate::ledger::BATCH;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use slipway_api::{Code, Page, Problem};

/// Rows of a page if none were asked for.
const LIMIT: u32 = 100;
/// Rows of a page at most.
const LIMIT_MAX: u32 = 1000;

/// The number of rows that was asked for.
pub fn limit_check(limit: Option<u32>) -> Result<usize, Problem> {
    match limit.unwrap_or(LIMIT) {
        n @ 1..=LIMIT_MAX => Ok(n as usize),
        n => {
            Err(Problem::new(Code::InvalidRequest, format!("limit {n} is not between 1 and {LIMIT_MAX}"))
                .field("limit"))
        }
    }
}

/// A cursor from the key of the last row shown.
pub fn cursor_encode(key: &[&str]) -> String {
    URL_SAFE_NO_PAD.encode(key.join("\n"))
}

/// The key in a cursor of `N` parts.
pub fn cursor_decode<const N: usize>(cursor: Option<&str>) -> Result<Option<[String; N]>, Problem> {
    let Some(cursor) = cursor else { return Ok(None) };
    let bad = || {
        Problem::new(Code::InvalidRequest, "the cursor is not from this list")
            .field("cursor")
            .hint("pass 'next' of the page before, unchanged")
    };
    let text = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(bad)?;
    // PostgreSQL keeps no NUL in a text; none of our keys has one.
    if text.contains('\0') {
        return Err(bad());
    }
    let parts: Vec<String> = text.split('\n').map(str::to_owned).collect();
    parts.try_into().map(Some).map_err(|_| bad())
}

/// A page from up to `limit + 1` rows: the one too many says that there are more.
pub fn page_of<T>(mut items: Vec<T>, limit: usize, key: impl Fn(&T) -> String) -> Page<T> {
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(key) } else { None };
    Page { items, next }
}

/// `head (…)` for each batch of ids, with its placeholders from `$1`.
pub fn batches<'a, T>(head: &'a str, ids: &'a [T]) -> impl Iterator<Item = (String, &'a [T])> + 'a {
    ids.chunks(BATCH).map(move |batch| (format!("{head} ({})", crate::db::placeholders(1, batch.len())), batch))
}

/// A pattern for `LIKE … ESCAPE '\'` that finds the text anywhere, whatever signs it has.
pub fn like_anywhere(text: &str) -> String {
    let mut pattern = String::from("%");
    for sign in text.to_lowercase().chars() {
        if matches!(sign, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(sign);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::{cursor_decode, cursor_encode, like_anywhere, limit_check, page_of};

    #[test]
    fn cursors_come_back_and_foreign_ones_are_refused() {
        let cursor = cursor_encode(&["jan", "os"]);
        assert_eq!(cursor_decode::<2>(Some(&cursor)).unwrap(), Some(["jan".to_owned(), "os".to_owned()]));
        assert_eq!(cursor_decode::<2>(None).unwrap(), None);
        assert!(cursor_decode::<1>(Some(&cursor)).is_err());
        assert!(cursor_decode::<2>(Some("%%")).is_err());
        assert!(cursor_decode::<2>(Some("")).is_err());
        assert!(cursor_decode::<1>(Some(&cursor_encode(&["a\0"]))).is_err());
    }

    #[test]
    fn limits_and_pages() {
        assert_eq!(limit_check(None).unwrap(), 100);
        assert!(limit_check(Some(0)).is_err());
        assert!(limit_check(Some(1001)).is_err());
        let page = page_of(vec![1, 2, 3], 2, |n| n.to_string());
        assert_eq!((page.items, page.next.as_deref()), (vec![1, 2], Some("2")));
        assert_eq!(page_of(vec![1, 2], 2, |n| n.to_string()).next, None);
    }

    #[test]
    fn signs_of_patterns_are_taken_as_they_are() {
        assert_eq!(like_anywhere("5%_A\\"), "%5\\%\\_a\\\\%");
    }
}
