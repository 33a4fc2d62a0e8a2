//! What the calls of a run come to. Pure: lines go in, sums come out.

use std::collections::HashMap;

use serde::Serialize;

use super::histogram::Histogram;
use super::line::Line;

/// Different names that are kept apart: 10 to 30 KiB each. Those beyond are one.
const MOST_NAMES: usize = 2_000;

/// The name of the others.
const OTHERS: &[u8] = b"(other)";

/// Bad lines that are named; all are counted.
pub const BAD_NAMED: usize = 10;

/// A run, read to its end.
#[derive(Debug, Default)]
pub struct Summary {
    pub calls: u64,
    pub errors: u64,
    /// The first start and the last end, in µs since the epoch.
    pub first: Option<u64>,
    pub last: Option<u64>,
    /// Lines that are none of ours, the first of them as `file:line`.
    pub bad: u64,
    pub bad_places: Vec<String>,
    /// Files whose last line has no end: it is being written, or a disk was full.
    pub cut: u64,
    /// Files that could not be read, with the reason.
    pub unread: Vec<String>,
    names: HashMap<Vec<u8>, Sums>,
}

/// All calls of one name.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    pub errors: u64,
    /// µs.
    pub total: u64,
    pub longest: u64,
    pub times: Histogram,
}

/// The same, for people and programs. Times are in µs, percentiles within 0.8 %.
#[derive(Debug, Serialize)]
pub struct Call {
    pub name: String,
    pub calls: u64,
    pub errors: u64,
    pub total: u64,
    pub mean: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub longest: u64,
}

impl Summary {
    pub fn add(&mut self, line: &Line<'_>) {
        self.calls += 1;
        self.errors += u64::from(line.is_error());
        self.first = Some(self.first.map_or(line.start, |first| first.min(line.start)));
        self.last = Some(self.last.map_or(line.end(), |last| last.max(line.end())));
        let known = self.names.len() < MOST_NAMES || self.names.contains_key(line.name);
        let name = if known { line.name } else { OTHERS };
        match self.names.get_mut(name) {
            Some(sums) => sums.add(line),
            None => self.names.entry(name.to_vec()).or_default().add(line),
        }
    }

    pub fn add_bad(&mut self, file: &str, number: u64) {
        self.bad += 1;
        if self.bad_places.len() < BAD_NAMED {
            self.bad_places.push(format!("{file}:{number}"));
        }
    }

    pub fn sums(&self, name: &[u8]) -> Option<&Sums> {
        self.names.get(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.names.keys()
    }

    /// By the time that they took together, the longest first.
    pub fn by_time(&self) -> Vec<Call> {
        let calls = self.names.iter().map(|(name, sums)| sums.call(name));
        let mut calls: Vec<Call> = calls.collect();
        calls.sort_by(|a, b| b.total.cmp(&a.total).then_with(|| a.name.cmp(&b.name)));
        calls
    }
}

impl Sums {
    fn add(&mut self, line: &Line<'_>) {
        self.errors += u64::from(line.is_error());
        self.total = self.total.saturating_add(line.duration);
        self.longest = self.longest.max(line.duration);
        self.times.add(line.duration);
    }

    /// The middle of the bucket may lie beyond the longest call.
    pub fn percentile(&self, share: f64) -> u64 {
        self.times.percentile(share).min(self.longest)
    }

    fn call(&self, name: &[u8]) -> Call {
        let calls = self.times.total();
        Call {
            name: String::from_utf8_lossy(name).into_owned(),
            calls,
            errors: self.errors,
            total: self.total,
            mean: self.total / calls.max(1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            longest: self.longest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(summary: &mut Summary, line: &str) {
        summary.add(&Line::parse(line.as_bytes()).expect("good"));
    }

    #[test]
    fn names_beyond_the_limit_are_one() {
        let mut summary = Summary::default();
        for number in 0..MOST_NAMES + 50 {
            added(&mut summary, &format!("1\t2\tname {number}\tok"));
        }
        added(&mut summary, "1\t2\tname 0\tok");
        assert_eq!(summary.names.len(), MOST_NAMES + 1);
        assert_eq!(summary.sums(OTHERS).expect("there").times.total(), 50);
        assert_eq!(summary.sums(b"name 0").expect("there").times.total(), 2);
        assert_eq!(summary.calls, MOST_NAMES as u64 + 51);
    }

    #[test]
    fn what_took_longest_together_comes_first() {
        let mut summary = Summary::default();
        added(&mut summary, "100\t900\tslow\t500");
        for _ in 0..100 {
            added(&mut summary, "200\t10\toften\tok");
        }
        let calls = summary.by_time();
        assert_eq!((&calls[0].name[..], calls[0].total), ("often", 1000));
        assert_eq!(
            (calls[1].errors, calls[1].p99, calls[1].longest),
            (1, 899, 900)
        );
        assert_eq!((summary.first, summary.last), (Some(100), Some(1000)));
    }
}
