//! How often who may come: one clock for each of them (the generic cell rate algorithm, as ATM has it), shared by all
//! edge threads and within a fixed memory.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::serve::{By, Rate};
use crate::edge::subscriber::Subscriber;

/// Parts of the table, each with a lock of its own, so that edge threads seldom meet.
const SHARDS: usize = 16;

/// Who is counted at once in each part: 131,072 in all take about 5 MiB. Who comes when it is full takes the place of
/// one of a few whose time is over soonest.
const MOST: usize = 8192;

/// So many are compared then.
const SAMPLE: usize = 8;

/// Who is counted. Survives reloads.
pub struct Rates {
    shards: [Mutex<HashMap<u64, u64>>; SHARDS],
    /// Keys are hashes under a secret: nobody can aim at the place of another.
    secret: RandomState,
    start: Instant,
}

/// A rate of one route or project, with its number in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub rate: Rate,
    id: u64,
}

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Seconds until the next one may come; `None`: this one may.
    pub wait: Option<u32>,
    /// How many more may come at once.
    pub remaining: u32,
    /// Seconds until all of them may.
    pub reset: u32,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            secret: RandomState::new(),
            start: Instant::now(),
        }
    }
}

/// Whose requests are counted together: those of a subscriber, and those that come without an address.
pub fn subject(address: Option<IpAddr>) -> [u8; 9] {
    address.map_or([0; 9], |address| Subscriber::of(address).bytes())
}

impl Rates {
    /// `place` tells rates with the same numbers apart.
    pub fn limit(&self, place: &str, rate: Rate) -> Limit {
        let id = self.secret.hash_one((place, rate));
        Limit { rate, id }
    }

    /// Counts a request.
    pub fn take(&self, limit: &Limit, subject: &[u8], now: Instant) -> Verdict {
        let (key, now) = self.place(limit, subject, now);
        let mut shard = self.shard(key);
        let clock = shard.get(&key).map_or(now, |clock| (*clock).max(now));
        let verdict = limit.verdict(clock, now);
        if verdict.wait.is_none() {
            if !shard.contains_key(&key) && shard.len() >= MOST {
                make_room(&mut shard, now);
            }
            shard.insert(key, clock + limit.step());
        }
        verdict
    }

    /// What [`Rates::take`] would say, without counting.
    pub fn look(&self, limit: &Limit, subject: &[u8], now: Instant) -> Verdict {
        let (key, now) = self.place(limit, subject, now);
        let clock = self
            .shard(key)
            .get(&key)
            .map_or(now, |clock| (*clock).max(now));
        limit.verdict(clock, now)
    }

    fn place(&self, limit: &Limit, subject: &[u8], now: Instant) -> (u64, u64) {
        let key = self.secret.hash_one((limit.id, subject));
        (key, nanos(now.saturating_duration_since(self.start)))
    }

    fn shard(&self, key: u64) -> std::sync::MutexGuard<'_, HashMap<u64, u64>> {
        // Numbers alone: a panic elsewhere leaves good ones.
        self.shards[key as usize % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_room(shard: &mut HashMap<u64, u64>, now: u64) {
    let some = shard.iter().take(SAMPLE);
    let over: Vec<u64> = some
        .clone()
        .filter(|(_, clock)| **clock <= now)
        .map(|(key, _)| *key)
        .collect();
    let soonest = some.min_by_key(|(_, clock)| **clock).map(|(key, _)| *key);
    for key in over.into_iter().chain(soonest) {
        shard.remove(&key);
    }
}

impl Limit {
    /// Nanoseconds that one request takes.
    fn step(&self) -> u64 {
        (nanos(self.rate.window) / u64::from(self.rate.quota)).max(1)
    }

    /// `clock` is when the requests so far are paid for.
    fn verdict(&self, clock: u64, now: u64) -> Verdict {
        let step = self.step();
        let allowed = step.saturating_mul(self.rate.burst.into());
        let after = clock + step - now;
        let late = after.saturating_sub(allowed);
        let seconds = |nanos: u64| u32::try_from(nanos.div_ceil(1_000_000_000)).unwrap_or(u32::MAX);
        Verdict {
            wait: (late > 0).then(|| seconds(late)),
            remaining: (allowed.saturating_sub(after) / step) as u32,
            reset: seconds(if late > 0 { clock - now } else { after }),
        }
    }

    /// The fields that tell a client, with their CRLF (draft-ietf-httpapi-ratelimit-headers-10).
    pub fn tell(&self, verdict: &Verdict, lines: &mut Vec<u8>) {
        let name = match self.rate.by {
            By::Address => "address",
            By::Key => "key",
            By::Route => "route",
        };
        let Rate { quota, window, .. } = self.rate;
        let mut text = String::new();
        let _ = write!(
            text,
            "RateLimit-Policy: \"{name}\";q={quota};w={}\r\nRateLimit: \"{name}\";r={};t={}\r\n",
            window.as_secs(),
            verdict.remaining,
            verdict.reset
        );
        lines.extend_from_slice(text.as_bytes());
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(quota: u32, burst: u32) -> Rate {
        Rate {
            quota,
            window: Duration::from_secs(60),
            burst,
            by: By::Address,
        }
    }

    #[test]
    fn a_burst_is_let_in_and_then_one_at_a_time() {
        let rates = Rates::default();
        let limit = rates.limit("shop", rate(60, 3));
        let mut now = rates.start;
        for remaining in [2, 1, 0] {
            let verdict = rates.take(&limit, b"ada", now);
            assert_eq!((verdict.wait, verdict.remaining), (None, remaining));
        }
        let refused = rates.take(&limit, b"ada", now);
        assert_eq!(
            (refused.wait, refused.remaining, refused.reset),
            (Some(1), 0, 3)
        );
        assert_eq!(
            rates.take(&limit, b"eve", now).wait,
            None,
            "others are not counted"
        );
        let other = rates.limit("blog", rate(60, 3));
        assert_eq!(rates.take(&other, b"ada", now).wait, None, "nor elsewhere");
        now += Duration::from_secs(1);
        assert_eq!(rates.look(&limit, b"ada", now).wait, None);
        assert_eq!(rates.take(&limit, b"ada", now).wait, None);
        assert_eq!(
            rates.take(&limit, b"ada", now).wait,
            Some(1),
            "a look counts nothing, a request does"
        );
        now += Duration::from_secs(3600);
        assert_eq!(
            rates.take(&limit, b"ada", now).remaining,
            2,
            "nothing is saved up beyond the burst"
        );
    }

    #[test]
    fn a_subscriber_is_counted_once() {
        let of = |text: &str| subject(Some(text.parse().expect("an address")));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("0.0.0.0"), subject(None));
    }

    #[test]
    fn many_strangers_take_no_more_memory() {
        let rates = Rates::default();
        let limit = rates.limit("shop", rate(1, 1));
        for number in 0..(2 * SHARDS * MOST) as u64 {
            rates.take(&limit, &number.to_le_bytes(), rates.start);
        }
        let counted: usize = rates
            .shards
            .iter()
            .map(|shard| shard.lock().expect("no panic").len())
            .sum();
        assert!(
            counted <= SHARDS * MOST && counted > SHARDS * MOST * 9 / 10,
            "{counted}"
        );
    }
}
