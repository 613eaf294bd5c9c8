//! One byte range of a request (RFC 9110, section 14).

use slipway_api::{Code, Problem};

/// What a `Range` header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Everything: no header, another unit, or more ranges than the one we answer. RFC 9110 allows to ignore those.
    All,
    /// These bytes.
    Part { from: u64, len: u64 },
}

/// Reads a `Range` header for a content of `size` bytes.
pub(crate) fn range_read(header: Option<&str>, size: u64) -> Result<Wanted, Problem> {
    let Some(ranges) = header.and_then(|text| text.strip_prefix("bytes=")) else { return Ok(Wanted::All) };
    if ranges.contains(',') {
        return Ok(Wanted::All);
    }
    let bad = || Problem::new(Code::InvalidRequest, "the Range header is not of the form bytes=FROM-TO").field("range");
    let outside = || Problem::new(Code::RangeNotSatisfiable, format!("the range lies outside of the {size} bytes"));
    let (from, to) = ranges.trim().split_once('-').ok_or_else(bad)?;
    let number = |text: &str| -> Result<u64, Problem> {
        // `parse` would also take a plus sign.
        match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => Ok(text.parse().unwrap_or(u64::MAX)),
            false => Err(bad()),
        }
    };
    let (from, end) = match (from, to) {
        ("", "") => return Err(bad()),
        ("", last) => (size.saturating_sub(number(last)?), size),
        (from, "") => (number(from)?, size),
        (from, to) => {
            let (from, to) = (number(from)?, number(to)?);
            if to < from {
                return Err(bad());
            }
            (from, size.min(to.saturating_add(1)))
        }
    };
    if from >= end {
        return Err(outside());
    }
    Ok(Wanted::Part { from, len: end - from })
}

#[cfg(test)]
mod tests {
    use super::{Wanted, range_read};

    #[test]
    fn ranges_are_read_ignored_or_refused() {
        let part = |from, len| Ok(Wanted::Part { from, len });
        for (header, expected) in [
            (None, Ok(Wanted::All)),
            (Some("bytes=0-9"), part(0, 10)),
            (Some("bytes=0-0"), part(0, 1)),
            (Some("bytes=90-"), part(90, 10)),
            (Some("bytes=-10"), part(90, 10)),
            (Some("bytes=-1000"), part(0, 100)),
            (Some("bytes=50-1000"), part(50, 50)),
            (Some("bytes=0-99999999999999999999999999"), part(0, 100)),
            (Some("bytes=0-1,5-6"), Ok(Wanted::All)),
            (Some("lines=0-1"), Ok(Wanted::All)),
            (Some("bytes=100-"), Err(416)),
            (Some("bytes=99999999999999999999999999-"), Err(416)),
            (Some("bytes=-0"), Err(416)),
            (Some("bytes=5-4"), Err(400)),
            (Some("bytes=-"), Err(400)),
            (Some("bytes=+1-2"), Err(400)),
            (Some("bytes=a-b"), Err(400)),
            (Some("bytes=5"), Err(400)),
        ] {
            assert_eq!(range_read(header, 100).map_err(|p| p.status), expected, "{header:?}");
        }
        assert_eq!(range_read(Some("bytes=0-"), 0).unwrap_err().status, 416);
    }
}
