//! The cases, by area.

mod attach;
mod container;
mod fault;
mod hostile;
mod mount;
mod reference;
mod state;
mod wire;

use super::Case;
use super::bench::{Bench, Outcome};

const fn case(name: &'static str, run: fn(&Bench) -> Outcome) -> Case {
    Case { name, differs: None, run }
}

const fn differs(name: &'static str, original: &'static str, run: fn(&Bench) -> Outcome) -> Case {
    Case { name, differs: Some(original), run }
}

pub(super) fn all() -> Vec<Case> {
    [
        wire::CASES,
        attach::CASES,
        mount::CASES,
        reference::CASES,
        container::CASES,
        state::CASES,
        fault::CASES,
        hostile::CASES,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn each_case_has_a_name_of_its_own() {
        let all = super::all();
        let names: BTreeSet<_> = all.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), all.len());
    }
}
