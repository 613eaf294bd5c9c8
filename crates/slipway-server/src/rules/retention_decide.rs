//! Which versions rules keep: a pure decision over numbers and times, as backup programs make it.
//!
//! Each rule walks from the newest version to the oldest and keeps the first one that it meets in each period, until it has met as many periods
//! as it has to keep; periods without a version do not count. What one rule keeps is kept. A version that is pinned is kept besides, and counts
//! for the rules like any other, so that taking a pin off never changes what happens to another version. Refused: rules that begin where another
//! ends (a version's fate would depend on all rules at once), and times of the owner's zone (a change of zone would delete).

use jiff::Timestamp;
use jiff::tz::TimeZone;
use slipway_api::Retention;
use std::collections::BTreeSet;

/// What the newest version says of itself.
pub(crate) const NEWEST: &str = "newest";
/// What every version says where there is no rule.
pub(crate) const ALL: &str = "all";

/// The period of a rule that a time lies in, in UTC. Numbers that are equal within a period and nowhere else.
fn period(rule: &str, at: Timestamp, number: u64) -> (i64, i64) {
    let zoned = at.to_zoned(TimeZone::UTC);
    let date = zoned.date();
    let (year, month, day) = (i64::from(date.year()), i64::from(date.month()), i64::from(date.day()));
    let days = year * 10_000 + month * 100 + day;
    match rule {
        "hourly" => (days, i64::from(zoned.hour())),
        "daily" => (days, 0),
        "weekly" => {
            let week = date.iso_week_date();
            (i64::from(week.year()), i64::from(week.week()))
        }
        "monthly" => (year, month),
        "yearly" => (year, 0),
        // `last`: each version is a period of its own.
        _ => (i64::try_from(number).unwrap_or(i64::MAX), 0),
    }
}

/// Why each version is kept, for versions from the newest to the oldest; nothing: it goes.
pub(crate) fn retention_decide(rules: &Retention, versions: &[(u64, Timestamp)]) -> Vec<Vec<&'static str>> {
    let mut reasons: Vec<Vec<&'static str>> = vec![Vec::new(); versions.len()];
    if let Some(first) = reasons.first_mut() {
        first.push(NEWEST);
    }
    if rules.keeps_all() {
        reasons.iter_mut().for_each(|why| why.push(ALL));
        return reasons;
    }
    for (rule, count) in rules.rules() {
        // A set and not only the last one: a clock that was set back must not give a period a second turn.
        let mut met: BTreeSet<(i64, i64)> = BTreeSet::new();
        for (why, (number, at)) in reasons.iter_mut().zip(versions) {
            let period = period(rule, *at, *number);
            if met.contains(&period) {
                continue;
            }
            if met.len() >= count as usize {
                break;
            }
            met.insert(period);
            why.push(rule);
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::{Timestamp, period, retention_decide};
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use slipway_api::Retention;
    use std::collections::BTreeSet;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The numbers that stay; times from the newest to the oldest, the last one is number 0.
    fn kept(rules: &str, times: &[&str]) -> Vec<u64> {
        let versions: Vec<_> = times.iter().rev().enumerate().map(|(n, text)| (n as u64, at(text))).rev().collect();
        let reasons = retention_decide(&rules.parse().unwrap(), &versions);
        versions.iter().zip(reasons).filter(|(_, why)| !why.is_empty()).map(|((n, _), _)| *n).collect()
    }

    #[test]
    fn the_newest_of_each_period_stays() {
        let days: Vec<String> = (1..=20).rev().map(|day| format!("2026-03-{day:02}T12:00:00Z")).collect();
        let days: Vec<&str> = days.iter().map(String::as_str).collect();
        let twice = [
            "2026-03-02T23:59:59Z",
            "2026-03-02T00:00:00Z",
            "2026-03-01T23:59:59Z",
            "2026-02-28T08:30:00Z",
            "2026-02-28T08:29:00Z",
            "2025-12-31T23:00:00Z",
        ];
        for (rules, times, numbers) in [
            ("last=3", &days[..], vec![19, 18, 17]),
            ("daily=2", &days[..], vec![19, 18]),
            // Weeks begin on Monday: the 16th, the 9th and the 2nd of March 2026 are Mondays.
            ("weekly=3", &days[..], vec![19, 14, 7]),
            ("last=1,weekly=2", &days[..], vec![19, 14]),
            ("monthly=5", &days[..], vec![19]),
            ("daily=3", &twice[..], vec![5, 3, 2]),
            ("hourly=4", &twice[..], vec![5, 4, 3, 2]),
            ("monthly=2", &twice[..], vec![5, 2]),
            ("yearly=2", &twice[..], vec![5, 0]),
            ("daily=2,yearly=2", &twice[..], vec![5, 3, 0]),
            ("last=100", &twice[..], vec![5, 4, 3, 2, 1, 0]),
            ("all", &twice[..], vec![5, 4, 3, 2, 1, 0]),
            ("last=1", &[][..], vec![]),
            // A clock that was set back for one version: its day has had its turn.
            ("daily=2", &["2026-03-03T01:00:00Z", "2026-03-02T01:00:00Z", "2026-03-03T00:00:00Z"][..], vec![2, 1]),
            // ISO weeks go over the end of a year: the last days of 2026 are of week 53, and so are the first of 2027.
            ("weekly=1", &["2027-01-03T00:00:00Z", "2026-12-28T00:00:00Z"][..], vec![1]),
        ] {
            assert_eq!(kept(rules, times), numbers, "{rules}");
        }
    }

    proptest! {
        /// For any times, even such that jump back: the newest stays; each rule keeps at most its count, of different periods, and as many as
        /// there are; more rules never keep less; nothing is kept without a reason.
        #[test]
        fn rules_keep_what_they_say(
            hours in proptest::collection::vec(0u32..20_000, 0..60),
            counts in proptest::collection::vec(any::<Option<u8>>(), 6),
        ) {
            let count = |n: usize| counts[n].map(|count| u32::from(count) % 12 + 1);
            let rules = Retention {
                keep_last: count(0), keep_hourly: count(1), keep_daily: count(2),
                keep_weekly: count(3), keep_monthly: count(4), keep_yearly: count(5),
            };
            let versions: Vec<(u64, Timestamp)> = hours.iter().enumerate().rev()
                .map(|(n, hour)| (n as u64, Timestamp::from_second(1_700_000_000 + i64::from(*hour) * 3600).unwrap()))
                .collect();
            let reasons = retention_decide(&rules, &versions);
            prop_assert_eq!(reasons.len(), versions.len());
            prop_assert!(reasons.first().is_none_or(|why| why.contains(&"newest")));
            for (rule, count) in rules.rules() {
                let periods: BTreeSet<_> = versions.iter().map(|(n, at)| period(rule, *at, *n)).collect();
                let with: Vec<_> = versions.iter().zip(&reasons).filter(|(_, why)| why.contains(&rule)).collect();
                let of_rule: BTreeSet<_> = with.iter().map(|((n, at), _)| period(rule, *at, *n)).collect();
                prop_assert_eq!(with.len(), of_rule.len(), "two of one period");
                prop_assert_eq!(with.len(), periods.len().min(count as usize), "{}", rule);
                for ((n, at), _) in with {
                    let newer = versions.iter().any(|(m, t)| m > n && period(rule, *t, *m) == period(rule, *at, *n));
                    prop_assert!(!newer, "{} is not the newest of its period", n);
                }
            }
            let fewer = Retention { keep_daily: None, ..rules };
            if !fewer.keeps_all() {
                for (less, more) in retention_decide(&fewer, &versions).iter().zip(&reasons) {
                    prop_assert!(less.is_empty() || !more.is_empty(), "one more rule let a version go");
                }
            }
        }
    }
}
