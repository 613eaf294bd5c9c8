//! Options as they are read off the wire: pure, so that every broken one can be tried without a socket.

use super::wire::{ALLOCATION, Fields};

/// INFO or GO: which export, and what the client wants to know of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice<'a> {
    pub(super) name: &'a str,
    pub(super) wanted: Vec<u16>,
}

/// Reads the data of INFO and GO; `None` if it is not exactly that.
pub(super) fn choice_read(data: &[u8]) -> Option<Choice<'_>> {
    let mut fields = Fields(data);
    let name = fields.string()?;
    let count = fields.u16()?;
    let wanted: Option<Vec<_>> = (0..count).map(|_| fields.u16()).collect();
    fields.0.is_empty().then_some(Choice { name, wanted: wanted? })
}

/// LIST_META_CONTEXT or SET_META_CONTEXT: which export, and whether the queries name `base:allocation`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Contexts<'a> {
    pub(super) name: &'a str,
    /// There was no query at all.
    pub(super) none: bool,
    /// A query is exactly `base:allocation`.
    pub(super) allocation: bool,
    /// A query is `base:`, which lists the namespace and selects nothing.
    pub(super) namespace: bool,
}

/// Reads the data of the two; `None` if it is not exactly that. Other namespaces are for others, and are ignored.
pub(super) fn contexts_read(data: &[u8]) -> Option<Contexts<'_>> {
    let mut fields = Fields(data);
    let mut found = Contexts { name: fields.string()?, none: true, allocation: false, namespace: false };
    // No allocation by this number: each query takes at least four bytes of the data.
    for _ in 0..fields.u32()? {
        let query = fields.string()?;
        found.none = false;
        found.allocation |= query == ALLOCATION;
        found.namespace |= query == "base:";
        query.contains(':').then_some(())?;
    }
    fields.0.is_empty().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::{choice_read, contexts_read};

    /// A string with its length in front.
    fn string(text: &str) -> Vec<u8> {
        [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
    }

    #[test]
    fn choices_are_exact() {
        let good = [&string("me/os")[..], &[0, 2, 0, 3, 0, 1]].concat();
        let choice = choice_read(&good).unwrap();
        assert_eq!((choice.name, &choice.wanted[..]), ("me/os", &[3, 1][..]));
        let nul = [&string("a\0b")[..], &[0, 0]].concat();
        let long = [&string(&"x".repeat(4097))[..], &[0, 0]].concat();
        let not_text = [&[0, 0, 0, 1, 0xff][..], &[0, 0]].concat();
        let huge = [0xff, 0xff, 0xff, 0xff, 0, 0];
        let more = [&good[..], &[0]].concat();
        for bad in [&[][..], &good[..good.len() - 1], &good[..9], &more, &nul, &long, &not_text, &huge] {
            assert_eq!(choice_read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn queries_are_exact() {
        let data = |count: u32, queries: &[&str]| {
            let queries: Vec<u8> = queries.iter().flat_map(|query| string(query)).collect();
            [&string("e")[..], &count.to_be_bytes(), &queries].concat()
        };
        for (queries, none, allocation, namespace) in [
            (&[][..], true, false, false),
            (&["base:allocation"], false, true, false),
            (&["base:"], false, false, true),
            (&["qemu:dirty-bitmap:x", "base:allocation"], false, true, false),
            (&["base:allocation2"], false, false, false),
        ] {
            let read = data(queries.len() as u32, queries);
            let read = contexts_read(&read).unwrap();
            assert_eq!((read.name, read.none, read.allocation, read.namespace), ("e", none, allocation, namespace));
        }
        for bad in [
            data(1, &[]),
            data(u32::MAX, &["base:"]),
            data(0, &["base:"]),
            data(1, &["no colon"]),
            data(1, &["base:\0"]),
            Vec::new(),
        ] {
            assert_eq!(contexts_read(&bad), None, "{bad:?}");
        }
    }
}
