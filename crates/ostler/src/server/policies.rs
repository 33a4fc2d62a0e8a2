//! The rules of a configuration → what the edge judges requests by. What several sites use is made once.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::Context as _;

use crate::auth::jwt::Tokens;
use crate::auth::{self, Keys, SlowLine, Users};
use crate::config::serve::{KeySource, Rules, TokenSource};
use crate::edge::{Doors, Policy, Press, Rates};

/// Users with the hashes of their passwords, and what the password is for.
type Listed = (Vec<(String, String)>, String);

/// What the policies of all sites share.
pub(super) struct Policies {
    line: Arc<SlowLine>,
    rates: Arc<Rates>,
    /// Copies of files outlive reloads.
    press: Arc<Press>,
    /// Keys that are in use. Guards the map alone: it is only touched when sites are made.
    keys: Mutex<HashMap<KeySource, Weak<Keys>>>,
    /// The same of users, whose passwords are known once they were shown.
    users: Mutex<HashMap<Listed, Weak<Users>>>,
    /// The same of tokens.
    tokens: Mutex<HashMap<TokenSource, Weak<Tokens>>>,
}

impl Policies {
    /// Copies of files are made in `folder`.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            line: Arc::default(),
            rates: Arc::default(),
            press: Arc::new(Press::new(folder)),
            keys: Mutex::default(),
            users: Mutex::default(),
            tokens: Mutex::default(),
        }
    }

    /// Makes the policy of a site. `about` begins lines of the log; with `again` nothing that was good once and is
    /// not any more may keep a server from starting.
    ///
    /// # Errors
    /// What the rules name cannot be used.
    pub(super) fn policy(
        &self,
        rules: &Rules,
        number: usize,
        about: &str,
        again: bool,
    ) -> anyhow::Result<Policy> {
        let access = &rules.access;
        let project = about.trim_end_matches(": ");
        let keys = access
            .keys
            .as_ref()
            .map(|source| self.keys(source, about, again));
        let tokens = access
            .tokens
            .as_ref()
            .map(|source| self.tokens(source, about, again));
        let users = match access.users.is_empty() {
            true => None,
            false => Some(self.users(&access.users, &access.realm, about)?),
        };
        let doors = Doors {
            keys: keys.transpose()?,
            users,
            tokens: tokens.transpose()?,
        };
        let policy = Policy::new(rules, doors, &self.rates, project, number);
        let mut policy = policy.map_err(|(path, error)| {
            anyhow::anyhow!("{about}the page {} cannot be read: {error}", path.display())
        })?;
        policy.press = rules.compress.then(|| Arc::clone(&self.press));
        Ok(policy)
    }

    /// The same list is kept over a reload, with who has shown a good password.
    fn users(
        &self,
        listed: &[(String, String)],
        realm: &str,
        about: &str,
    ) -> anyhow::Result<Arc<Users>> {
        let mut known = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, users| users.strong_count() > 0);
        let list = (listed.to_vec(), realm.to_owned());
        if let Some(users) = known.get(&list).and_then(Weak::upgrade) {
            return Ok(users);
        }
        let users = Users::new(listed, realm, &self.line).map_err(|(name, what)| {
            anyhow::anyhow!("{about}the password hash of `{name}` in access.users: {what}")
        })?;
        let users = Arc::new(users);
        known.insert(list, Arc::downgrade(&users));
        Ok(users)
    }

    fn tokens(
        &self,
        source: &TokenSource,
        about: &str,
        again: bool,
    ) -> anyhow::Result<Arc<Tokens>> {
        let mut known = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, tokens| tokens.strong_count() > 0);
        if let Some(tokens) = known.get(source).and_then(Weak::upgrade) {
            return Ok(tokens);
        }
        let tokens = auth::jwt::open(source, about, again);
        let tokens = tokens.map_err(|what| anyhow::anyhow!("{about}access.jwt_keys: {what}"))?;
        known.insert(source.clone(), Arc::downgrade(&tokens));
        Ok(tokens)
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
