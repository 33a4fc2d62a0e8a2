//! The rules of a configuration → what the edge judges requests by. What several sites use is made once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::Context as _;

use crate::auth::{self, Keys, SlowLine};
use crate::config::serve::{KeySource, Rules};
use crate::edge::Policy;

/// What the policies of all sites share.
#[derive(Default)]
pub(super) struct Policies {
    line: Arc<SlowLine>,
    /// Keys that are in use. Guards the map alone: it is only touched when sites are made.
    keys: Mutex<HashMap<KeySource, Weak<Keys>>>,
}

impl Policies {
    /// Makes the policy of a site. `about` begins lines of the log; with `again` nothing that was good once and is
    /// not any more may keep a server from starting.
    ///
    /// # Errors
    /// What the rules name cannot be used.
    pub(super) fn policy(&self, rules: &Rules, about: &str, again: bool) -> anyhow::Result<Policy> {
        let keys = rules.access.keys.as_ref();
        let keys = keys.map(|source| self.keys(source, about, again));
        Ok(Policy {
            keys: keys.transpose()?,
        })
    }

    /// The same source is read and followed once, and what it said last stays in force over a reload.
    fn keys(&self, source: &KeySource, about: &str, again: bool) -> anyhow::Result<Arc<Keys>> {
        let mut known = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, keys| keys.strong_count() > 0);
        if let Some(keys) = known.get(source).and_then(Weak::upgrade) {
            return Ok(keys);
        }
        let variable = std::env::var(&source.variable).ok();
        let keys = auth::open(source, variable, about, &self.line, again);
        let keys = keys.with_context(|| about.trim_end_matches(": ").to_owned())?;
        known.insert(source.clone(), Arc::downgrade(&keys));
        Ok(keys)
    }
}
