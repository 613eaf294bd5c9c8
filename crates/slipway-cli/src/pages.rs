//! Lists that come page by page.

use crate::failure::Failure;
use slipway_api::{ApiError, Page};
use std::future::Future;

/// Rows asked for at a time.
pub(crate) const PAGE_ROWS: u32 = 500;

/// All rows of a list, or the first `most`; `fetch` gets the cursor of the page to ask for.
pub(crate) async fn pages_all<T, F, R>(most: Option<usize>, mut fetch: F) -> Result<Vec<T>, Failure>
where
    F: FnMut(Option<String>) -> R,
    R: Future<Output = Result<Page<T>, ApiError>>,
{
    let most = most.unwrap_or(usize::MAX);
    let mut items = Vec::new();
    let mut cursor = None;
    loop {
        let page = fetch(cursor).await?;
        items.extend(page.items);
        cursor = page.next;
        if cursor.is_none() || items.len() >= most {
            items.truncate(most);
            return Ok(items);
        }
    }
}
