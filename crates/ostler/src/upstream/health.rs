//! Whether one upstream is well: what requests have met there, and what it says when it is asked. Pure; `now` comes in.

use std::time::{Duration, Instant};

/// Answers in a row that are not good, after which it is out.
const BAD_CHECKS: u32 = 2;

/// The longest time it is out before a request tries it again.
const LONGEST: Duration = Duration::from_secs(60);

/// What it takes to be out.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Failures in a row within `time`; 0 never.
    pub fails: u32,
    pub time: Duration,
}

/// Whether requests go there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    In,
    /// Its time is over: one request may try it.
    Trial,
    /// Requests have failed there; it is still better than none.
    Out,
    /// It says itself that it is not well.
    Unwell,
}

/// What became of it, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Nothing,
    WentOut,
    CameIn,
}

/// Why it is out, and since when.
#[derive(Debug, Clone)]
pub struct Out {
    pub since: Instant,
    pub why: String,
}

#[derive(Debug)]
pub struct Health {
    rule: Rule,
    /// Failures in a row, and when the first of them was.
    failures: u32,
    first: Option<Instant>,
    /// Out because of what requests met, until then, for so long.
    out: Option<(Out, Instant, Duration)>,
    /// A request is on its way to try it.
    trial: bool,
    bad_checks: u32,
    unwell: Option<Out>,
}

impl Health {
    pub fn new(rule: Rule) -> Self {
        Self {
            rule,
            failures: 0,
            first: None,
            out: None,
            trial: false,
            bad_checks: 0,
            unwell: None,
        }
    }

    /// There is nothing to remember.
    pub fn is_clean(&self) -> bool {
        self.failures == 0 && self.out.is_none() && self.unwell.is_none()
    }

    pub fn standing(&self, now: Instant) -> Standing {
        match (&self.unwell, &self.out) {
            (Some(_), _) => Standing::Unwell,
            (None, None) => Standing::In,
            (None, Some((_, until, _))) if now >= *until && !self.trial => Standing::Trial,
            (None, Some(_)) => Standing::Out,
        }
    }

    /// Why it is out, where it is.
    pub fn out(&self) -> Option<&Out> {
        let passive = self.out.as_ref().map(|(out, ..)| out);
        self.unwell.as_ref().or(passive)
    }

    /// A request goes there to try it.
    pub fn begin_trial(&mut self) {
        self.trial = true;
    }

    /// A request that tried it ended before anything was known.
    pub fn end_trial(&mut self) {
        self.trial = false;
    }

    /// A request was answered.
    pub fn succeeded(&mut self) -> Change {
        (self.failures, self.first, self.trial) = (0, None, false);
        match self.out.take() {
            Some(_) if self.unwell.is_none() => Change::CameIn,
            _ => Change::Nothing,
        }
    }

    /// A request failed there: no connection, no answer in time, none that can be sent on.
    pub fn failed(&mut self, why: &str, now: Instant) -> Change {
        if self.rule.fails == 0 {
            return Change::Nothing;
        }
        let out = Out {
            since: now,
            why: why.to_owned(),
        };
        if let Some((first, until, back_off)) = &mut self.out {
            // Requests that were under way when it went out say nothing new.
            if self.trial || now >= *until {
                *back_off = (*back_off * 2).min(LONGEST.max(self.rule.time));
                *until = now + *back_off;
                first.why = out.why;
            }
            self.trial = false;
            return Change::Nothing;
        }
        let fresh = self.first.is_none_or(|first| now - first > self.rule.time);
        if fresh {
            (self.failures, self.first) = (0, Some(now));
        }
        self.failures += 1;
        if self.failures < self.rule.fails {
            return Change::Nothing;
        }
        (self.failures, self.first) = (0, None);
        self.out = Some((out, now + self.rule.time, self.rule.time));
        match self.unwell {
            None => Change::WentOut,
            Some(_) => Change::Nothing,
        }
    }

    /// It was asked how it is.
    pub fn checked(&mut self, answer: Result<(), String>, now: Instant) -> Change {
        let before = self.out().is_some();
        match answer {
            Ok(()) => {
                // What requests have met is forgotten too: it has answered.
                (self.bad_checks, self.unwell, self.out) = (0, None, None);
            }
            Err(why) => {
                self.bad_checks += 1;
                if self.bad_checks >= BAD_CHECKS {
                    let since = self.unwell.as_ref().map_or(now, |out| out.since);
                    self.unwell = Some(Out { since, why });
                }
            }
        }
        match (before, self.out().is_some()) {
            (false, true) => Change::WentOut,
            (true, false) => Change::CameIn,
            _ => Change::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn health() -> Health {
        Health::new(Rule {
            fails: 3,
            time: 10 * SECOND,
        })
    }

    #[test]
    fn failures_in_a_row_put_it_out_and_one_request_tries_it_again() {
        let (mut health, start) = (health(), Instant::now());
        assert_eq!(health.failed("a", start), Change::Nothing);
        assert_eq!(health.failed("b", start + SECOND), Change::Nothing);
        assert_eq!(health.standing(start + SECOND), Standing::In);
        assert_eq!(health.failed("c", start + 2 * SECOND), Change::WentOut);
        assert_eq!(health.standing(start + 11 * SECOND), Standing::Out);
        assert_eq!(health.standing(start + 12 * SECOND), Standing::Trial);
        health.begin_trial();
        assert_eq!(health.standing(start + 12 * SECOND), Standing::Out);
        assert_eq!(health.failed("d", start + 13 * SECOND), Change::Nothing);
        // Twice as long now.
        assert_eq!(health.standing(start + 32 * SECOND), Standing::Out);
        assert_eq!(health.standing(start + 33 * SECOND), Standing::Trial);
        assert_eq!(health.out().map(|out| out.why.as_str()), Some("d"));
        assert_eq!(health.succeeded(), Change::CameIn);
        assert_eq!(health.standing(start), Standing::In);
        assert!(health.is_clean());
    }

    #[test]
    fn failures_far_apart_or_with_answers_between_say_nothing() {
        let (mut health, start) = (health(), Instant::now());
        for number in 0..20 {
            assert_eq!(
                health.failed("x", start + number * 6 * SECOND),
                Change::Nothing
            );
        }
        let mut health = self::health();
        for _ in 0..20 {
            health.failed("x", start);
            health.failed("x", start);
            assert_eq!(health.succeeded(), Change::Nothing);
        }
        let mut never = Health::new(Rule {
            fails: 0,
            time: SECOND,
        });
        for _ in 0..20 {
            assert_eq!(never.failed("x", start), Change::Nothing);
        }
        assert_eq!(never.standing(start), Standing::In);
    }

    #[test]
    fn two_bad_checks_put_it_out_and_a_good_one_lets_it_in() {
        let (mut health, now) = (health(), Instant::now());
        let bad = || Err("503".to_owned());
        assert_eq!(health.checked(bad(), now), Change::Nothing);
        assert_eq!(health.checked(bad(), now), Change::WentOut);
        assert_eq!(health.checked(bad(), now), Change::Nothing);
        assert_eq!(health.standing(now + 1000 * SECOND), Standing::Unwell);
        assert_eq!(health.succeeded(), Change::Nothing);
        assert_eq!(health.checked(Ok(()), now), Change::CameIn);
        assert_eq!(health.checked(bad(), now), Change::Nothing);
        assert!(health.is_clean());
    }

    proptest! {
        /// Whatever happens, it is in again after an answer and a good check, and what is told adds up.
        #[test]
        fn what_is_told_adds_up(events in proptest::collection::vec(0u8..5, 0..200)) {
            let (mut health, mut now) = (health(), Instant::now());
            let mut out = false;
            for event in events {
                now += SECOND;
                let change = match event {
                    0 => health.failed("x", now),
                    1 => health.succeeded(),
                    2 => health.checked(Ok(()), now),
                    3 => health.checked(Err("y".to_owned()), now),
                    _ => {
                        if health.standing(now) == Standing::Trial {
                            health.begin_trial();
                        }
                        Change::Nothing
                    }
                };
                match change {
                    Change::WentOut => { prop_assert!(!out); out = true; }
                    Change::CameIn => { prop_assert!(out); out = false; }
                    Change::Nothing => {}
                }
                prop_assert_eq!(health.out().is_some(), out);
                prop_assert_eq!(health.standing(now) == Standing::In, !out);
            }
            health.succeeded();
            health.checked(Ok(()), now);
            prop_assert!(health.is_clean());
        }
    }
}
