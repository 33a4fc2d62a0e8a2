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
        if policy.maintenance {
            return Err(Reason::Maintenance);
        }
        self.charge(By::Route, b"")?;
        self.charge(By::Address, &subject(address))
    }

    /// Counts a request of `who` by all rates of this kind.
    pub(super) fn charge(&mut self, by: By, who: &[u8]) -> Result<(), Reason> {
        let policy = &self.site.policy;
        let mut wait = None;
        for limit in policy.limits.iter().filter(|limit| limit.rate.by == by) {
            let verdict = policy.rates.take(limit, who, Instant::now());
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

    /// Refuses an address from which too many wrong credentials came.
    pub(super) fn not_guessing(&mut self, address: Option<IpAddr>) -> Result<(), Reason> {
        let policy = &self.site.policy;
        let look = |limit: &Limit| {
            policy
                .rates
                .look(limit, &subject(address), Instant::now())
                .wait
        };
        let wait = policy.wrong.as_ref().and_then(look);
        self.unless(wait)
    }

    /// Remembers a wrong credential.
    pub(super) fn guessed(&self, address: Option<IpAddr>) {
        let policy = &self.site.policy;
        if let Some(limit) = &policy.wrong {
            policy.rates.take(limit, &subject(address), Instant::now());
        }
    }
}
