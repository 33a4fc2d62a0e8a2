//! What went wrong, who must act, and how long to wait before the next attempt.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Who must act before it can go well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whose {
    /// The operator: DNS, a closed port, a hook program, a full disk. The CA was not asked.
    Operator,
    /// The operator: the CA has looked and refused.
    Refused,
    /// The CA: it cannot be reached, is in trouble, or said something that makes no sense.
    Ca,
    /// Nobody: too much was asked for, and time will tell.
    Limit,
    /// We: the order that we had is gone. The next attempt makes a new one.
    Order,
    /// We: the account that we had is gone. The next attempt makes a new one.
    Account,
}

/// Why an action could not be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Trouble {
    pub whose: Whose,
    /// What failed, what was seen, and what to do.
    pub text: String,
    /// Not before this, says the CA or our own budget.
    pub not_before: Option<SystemTime>,
    /// The CA has refused a nonce and done nothing: the same is to be asked again (RFC 8555 section 6.5).
    pub nonce: bool,
}

impl Trouble {
    pub fn new(whose: Whose, text: impl Into<String>) -> Self {
        Self {
            whose,
            text: text.into(),
            not_before: None,
            nonce: false,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Trouble {}

/// The last failures in a row, as long as they are of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    pub whose: Whose,
    pub times: u32,
    pub text: String,
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// After the first failure that only the CA or we could help; doubles each time.
    pub ca: Duration,
    /// After the first failure that the operator can mend; doubles each time.
    pub operator: Duration,
    /// After the first, second and third refusal; a day from then on.
    pub refused: [Duration; 3],
    /// Before the first look at an order; doubles each time.
    pub look: Duration,
}

impl Pace {
    /// What the products of doubling end at.
    const MOST: Duration = Duration::from_secs(3600);

    /// Between two looks at an order.
    const MOST_LOOK: Duration = Duration::from_secs(15);

    /// No wait is longer than this but one that the CA asks for.
    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// The longest wait that is believed: Let's Encrypt's limits are of a week.
    pub const LONGEST: Duration = Duration::from_secs(8 * 24 * 3600);

    /// What a CA that is in no hurry wants of clients: 1, 10, 100 minutes, then daily is Let's
    /// Encrypt's own advice for refusals.
    pub const fn calm() -> Self {
        Self {
            ca: Duration::from_secs(5),
            operator: Duration::from_secs(60),
            refused: [
                Duration::from_secs(60),
                Duration::from_secs(600),
                Duration::from_secs(6000),
            ],
            look: Duration::from_secs(1),
        }
    }

    /// When to try again after `failing`. `luck` (any number) spreads those that failed together
    /// over a tenth of the wait.
    pub fn next(
        &self,
        failing: &Failing,
        not_before: Option<SystemTime>,
        luck: u64,
        now: SystemTime,
    ) -> SystemTime {
        let times = failing.times.max(1);
        let wait = match failing.whose {
            Whose::Ca | Whose::Order | Whose::Account => doubled(self.ca, times, Self::MOST),
            Whose::Operator | Whose::Limit => doubled(self.operator, times, Self::MOST),
            Whose::Refused => *self.refused.get(times as usize - 1).unwrap_or(&Self::DAY),
        };
        let wait = wait + wait.mul_f64((luck % 1000) as f64 / 10_000.0);
        let asked = not_before.map_or(now, |time| time.min(now + Self::LONGEST));
        asked.max(now + wait)
    }

    /// Before the look at an order that follows `looks` of them.
    pub fn look(&self, looks: u32) -> Duration {
        doubled(self.look, looks + 1, Self::MOST_LOOK)
    }
}

/// `first` for the first time, doubled for each one after.
fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first
        .saturating_mul(1 << times.saturating_sub(1).min(20))
        .min(most)
}

impl Failing {
    /// One more failure. Another kind begins to count anew.
    pub fn again(before: Option<&Self>, trouble: &Trouble) -> Self {
        let times = match before {
            Some(before) if before.whose == trouble.whose => before.times.saturating_add(1),
            _ => 1,
        };
        Self {
            whose: trouble.whose,
            times,
            text: trouble.text.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_by_kind() {
        let waits = |whose, count: u32| -> Vec<u64> {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30);
            (1..=count)
                .map(|times| {
                    let failing = Failing {
                        whose,
                        times,
                        text: String::new(),
                    };
                    let next = Pace::calm().next(&failing, None, 0, now);
                    next.duration_since(now).unwrap().as_secs()
                })
                .collect()
        };
        assert_eq!(waits(Whose::Refused, 5), [60, 600, 6000, 86_400, 86_400]);
        assert_eq!(waits(Whose::Ca, 4), [5, 10, 20, 40]);
        assert_eq!(waits(Whose::Operator, 3), [60, 120, 240]);
        assert_eq!(waits(Whose::Ca, 40)[39], 3600);
    }

    #[test]
    fn luck_spreads_and_the_ca_has_the_last_word() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30);
        let failing = Failing::again(None, &Trouble::new(Whose::Refused, "no"));
        let pace = Pace::calm();
        let next = |not_before, luck| pace.next(&failing, not_before, luck, now);
        assert_eq!(next(None, 999), now + Duration::from_secs_f64(65.994));
        let later = now + Duration::from_secs(3600);
        assert_eq!(next(Some(later), 5), later);
        let far = now + Duration::from_secs(400 * 86_400);
        assert_eq!(next(Some(far), 5), now + Pace::LONGEST);
    }

    #[test]
    fn another_kind_of_failure_counts_anew() {
        let refused = Trouble::new(Whose::Refused, "no");
        let once = Failing::again(None, &refused);
        let twice = Failing::again(Some(&once), &refused);
        assert_eq!((once.times, twice.times), (1, 2));
        let away = Trouble::new(Whose::Ca, "away");
        assert_eq!(Failing::again(Some(&twice), &away).times, 1);
    }
}
