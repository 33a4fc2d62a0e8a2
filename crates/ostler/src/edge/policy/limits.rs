//! Who may come at all, and how often.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::rate::{Limit, Rates, subject};
use crate::config::serve::By;
use crate::edge::connection::Connection;
use crate::edge::forwarded::Sender;
use crate::edge::reason::Reason;

impl Connection {
    /// Refuses whom the site does not let in, whatever they could show.
    pub fn admit(&mut self, sender: &Sender) -> Result<(), Reason> {
        let policy = &self.site.policy;
        let address = sender.ip();
        if !policy.admits(address) {
            return Err(Reason::AddressDenied);
        }
        if policy.is_closed() {
            return Err(Reason::Maintenance);
        }
        // Who comes too often costs the others nothing of what they share.
        self.charge(By::Address, &subject(address))?;
        self.charge(By::Route, b"")
    }

    /// Counts a request of `who` by all rates of this kind, if each of them lets it in.
    pub(super) fn charge(&mut self, by: By, who: &[u8]) -> Result<(), Reason> {
        let policy = &self.site.policy;
        if policy.limits.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let limits = || policy.limits.iter().filter(|limit| limit.rate.by == by);
        let refused = limits().any(|limit| policy.rates.look(limit, who, now).wait.is_some());
        let mut wait = None;
        for limit in limits() {
            let verdict = match refused {
                true => policy.rates.look(limit, who, now),
                false => policy.rates.take(limit, who, now),
            };
            limit.tell(&verdict, &mut self.row.lines);
            wait = wait.max(verdict.wait);
        }
        self.unless(wait)
    }

    fn unless(&mut self, wait: Option<u32>) -> Result<(), Reason> {
        match wait {
            None => Ok(()),
            Some(_) => {
                self.retry_after = wait;
                Err(Reason::RateLimited)
            }
        }
    }

    /// Refuses an address from which too many wrong guesses came.
    pub(super) fn may_guess(&mut self, address: Option<IpAddr>) -> Result<(), Reason> {
        let policy = &self.site.policy;
        let look = |limit: &Limit| {
            let verdict = policy.rates.look(limit, &subject(address), Instant::now());
            verdict.wait
        };
        let wait = policy.wrong.as_ref().and_then(look);
        self.unless(wait)
    }

    /// Counts a wrong guess; refuses one too many.
    pub(super) fn guessed(&mut self, address: Option<IpAddr>) -> Result<(), Reason> {
        let wait = self.guess(address).count();
        self.unless(wait)
    }

    /// One whose outcome is not known yet.
    pub(super) fn guess(&self, address: Option<IpAddr>) -> Guess {
        let policy = &self.site.policy;
        Guess {
            rates: Arc::clone(&policy.rates),
            limit: policy.wrong,
            subject: subject(address),
        }
    }
}

/// A guess: a wrong one unless it is said to be none, also where nobody waits for its outcome any more.
pub(super) struct Guess {
    rates: Arc<Rates>,
    limit: Option<Limit>,
    subject: [u8; 9],
}

impl Guess {
    /// It was none.
    pub(super) fn forgive(mut self) {
        self.limit = None;
    }

    /// Seconds until the next one may come, when this was one too many.
    fn count(mut self) -> Option<u32> {
        let limit = self.limit.take()?;
        let verdict = self.rates.take(&limit, &self.subject, Instant::now());
        verdict.wait
    }
}

impl Drop for Guess {
    fn drop(&mut self) {
        if let Some(limit) = &self.limit {
            self.rates.take(limit, &self.subject, Instant::now());
        }
    }
}
