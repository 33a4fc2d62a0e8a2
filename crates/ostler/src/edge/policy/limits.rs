//! Who may come at all, and how often.

use std::net::IpAddr;
use std::time::Instant;

use super::rate::{Limit, subject};
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

    /// Counts a guess before the work that it costs, so that many at once are as few as one after the other; refuses
    /// an address from which too many wrong ones came.
    pub(super) fn guess(&mut self, address: Option<IpAddr>) -> Result<(), Reason> {
        let policy = &self.site.policy;
        let take = |limit: &Limit| {
            policy
                .rates
                .take(limit, &subject(address), Instant::now())
                .wait
        };
        let wait = policy.wrong.as_ref().and_then(take);
        self.unless(wait)
    }

    /// It was no guess.
    pub(super) fn knew(&self, address: Option<IpAddr>) {
        let policy = &self.site.policy;
        if let Some(limit) = &policy.wrong {
            policy
                .rates
                .give_back(limit, &subject(address), Instant::now());
        }
    }
}
