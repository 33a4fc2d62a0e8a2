//! Two runs side by side: what became slower, and whether the counts can tell.

use serde::Serialize;

use super::summary::{Summary, Sums};

/// Standard deviations around a percentile within which its true place is looked for: 0.3 % of the intervals of one
/// run miss it, and two that do not touch are more than chance. Calls that come together are alike (a full machine, a
/// cold cache), which no count of them shows; so a difference has to be large as well.
const SPREAD: f64 = 3.0;

/// A difference below this share is none, whatever the counts say.
const SMALLEST: f64 = 0.05;

/// Nor is one below this, in µs: times are whole ones.
const SMALLEST_MICROS: u64 = 2;

/// Calls below which nothing is said.
const FEW: u64 = 20;

/// One name in both runs. Times are in µs, percentiles within 0.8 %.
#[derive(Debug, Serialize)]
pub struct Compared {
    pub name: String,
    pub calls: (u64, u64),
    pub errors: (u64, u64),
    pub p50: (u64, u64),
    pub p99: (u64, u64),
    /// Second by first; `None` without the name in one of them.
    pub p50_ratio: Option<f64>,
    pub p99_ratio: Option<f64>,
    pub verdict: Verdict,
    #[serde(skip)]
    weight: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No difference that the counts can tell.
    Same,
    Slower,
    Faster,
    /// The usual call is as before, the slowest of a hundred is not.
    TailSlower,
    TailFaster,
    /// Too few calls to say.
    Few,
    /// Only in the second run.
    New,
    /// Only in the first.
    Gone,
}

/// Every name of two runs, by the time it took in the one where it took more.
pub fn compare(first: &Summary, second: &Summary) -> Vec<Compared> {
    let only_second = second.names().filter(|name| first.sums(name).is_none());
    let names = first.names().chain(only_second);
    let mut all: Vec<Compared> = names
        .map(|name| compared(name, first.sums(name), second.sums(name)))
        .collect();
    all.sort_by(|a, b| b.weight.cmp(&a.weight).then_with(|| a.name.cmp(&b.name)));
    all
}

fn compared(name: &[u8], first: Option<&Sums>, second: Option<&Sums>) -> Compared {
    let both = |of: &dyn Fn(&Sums) -> u64| (first.map_or(0, of), second.map_or(0, of));
    let (p50, p99) = (
        both(&|it| it.percentile(0.5)),
        both(&|it| it.percentile(0.99)),
    );
    let total = both(&|it| it.total);
    // A time below a microsecond is written as 0.
    let ratio = |(a, b): (u64, u64)| b as f64 / a.max(1) as f64;
    let there = first.is_some() && second.is_some();
    Compared {
        name: String::from_utf8_lossy(name).into_owned(),
        calls: both(&|it| it.times.total()),
        errors: both(&|it| it.errors),
        p50,
        p99,
        p50_ratio: there.then(|| ratio(p50)),
        p99_ratio: there.then(|| ratio(p99)),
        verdict: match (first, second) {
            (Some(first), Some(second)) => verdict(first, second),
            (None, _) => Verdict::New,
            (_, None) => Verdict::Gone,
        },
        weight: total.0.max(total.1),
    }
}

fn verdict(first: &Sums, second: &Sums) -> Verdict {
    if first.times.total().min(second.times.total()) < FEW {
        return Verdict::Few;
    }
    match (apart(first, second, 0.5), apart(first, second, 0.99)) {
        (Some(true), _) => Verdict::Slower,
        (Some(false), _) => Verdict::Faster,
        (None, Some(true)) => Verdict::TailSlower,
        (None, Some(false)) => Verdict::TailFaster,
        (None, None) => Verdict::Same,
    }
}

/// Whether this percentile differs by more than chance, and whether the second is the slower one.
fn apart(first: &Sums, second: &Sums, share: f64) -> Option<bool> {
    let (a, b) = (first.percentile(share), second.percentile(share));
    let difference = a.abs_diff(b);
    if difference < SMALLEST_MICROS || (difference as f64) < SMALLEST * a as f64 {
        return None;
    }
    let first = first.times.interval(share, SPREAD)?;
    let second = second.times.interval(share, SPREAD)?;
    match (first.1 < second.0, second.1 < first.0) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::line::Line;

    /// `count` calls that take from `from` µs up, evenly, to `from` and a half.
    fn run(name: &str, count: u64, from: u64) -> Summary {
        let mut summary = Summary::default();
        for number in 0..count {
            let duration = from + number * from / 2 / count;
            let line = format!("1\t{duration}\t{name}\tok");
            summary.add(&Line::parse(line.as_bytes()).expect("good"));
        }
        summary
    }

    fn said(first: &Summary, second: &Summary) -> Verdict {
        compare(first, second)[0].verdict
    }

    #[test]
    fn a_difference_has_to_be_larger_than_chance() {
        let before = run("a", 1000, 1000);
        assert_eq!(said(&before, &run("a", 1000, 1300)), Verdict::Slower);
        assert_eq!(said(&run("a", 1000, 1300), &before), Verdict::Faster);
        assert_eq!(said(&before, &run("a", 1000, 1020)), Verdict::Same);
        // The same difference in fewer calls says nothing.
        assert_eq!(
            said(&run("a", 25, 1000), &run("a", 25, 1100)),
            Verdict::Same
        );
        assert_eq!(
            said(&run("a", 19, 1000), &run("a", 1000, 9000)),
            Verdict::Few
        );
        // Twice as long, and a microsecond.
        assert_eq!(said(&run("a", 9000, 1), &run("a", 9000, 2)), Verdict::Same);
    }

    #[test]
    fn a_tail_is_told_apart_from_the_usual_call() {
        let mut after = run("a", 3000, 1000);
        for _ in 0..90 {
            after.add(&Line::parse(b"1\t90000\ta\tok").expect("good"));
        }
        assert_eq!(said(&run("a", 3000, 1000), &after), Verdict::TailSlower);
        assert_eq!(said(&after, &run("a", 3000, 1000)), Verdict::TailFaster);
    }

    #[test]
    fn names_may_be_in_one_run_only() {
        let both = compare(&run("old", 50, 10), &run("new", 50, 20));
        let told: Vec<_> = both
            .iter()
            .map(|one| (&one.name[..], one.verdict))
            .collect();
        assert_eq!(told, [("new", Verdict::New), ("old", Verdict::Gone)]);
        assert!(both[0].p50_ratio.is_none());
    }
}
