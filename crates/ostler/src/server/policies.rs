//! The rules of a configuration → what the edge judges requests by. What several sites use is made once.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::Context as _;
use rustls::ClientConfig;

use crate::auth::jwt::Tokens;
use crate::auth::{self, Keys, SlowLine, Users};
use crate::client;
use crate::config::serve::{KeySource, Rules, TokenKeys, TokenSource};
use crate::edge::{Authority, Behind, Doors, Policy, Press, Rates};
use crate::keeper::protocol::MarkKey;
use crate::upstream::{Caretaker, Group};

/// Users with the hashes of their passwords, and what the password is for.
type Listed = (Vec<(String, String)>, String);

/// What the policies of all sites share.
pub(super) struct Policies {
    hidden: BTreeMap<String, String>,
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
    /// How servers are checked that we ask; read when there is one to be asked.
    roots: Mutex<Option<Arc<ClientConfig>>>,
    pub(super) upstreams: Caretaker,
}

impl Policies {
    /// Copies of files are made in `folder`; `hidden` are variables that the environment does not have; cookies name
    /// upstreams with `marks`.
    pub(super) fn new(folder: PathBuf, hidden: BTreeMap<String, String>, marks: &MarkKey) -> Self {
        Self {
            hidden,
            line: Arc::default(),
            rates: Arc::default(),
            press: Arc::new(Press::new(folder)),
            keys: Mutex::default(),
            users: Mutex::default(),
            tokens: Mutex::default(),
            roots: Mutex::default(),
            upstreams: Caretaker::new(&marks.0),
        }
    }

    /// Those that the rules name.
    ///
    /// # Errors
    /// Their certificates cannot be checked as the rules say.
    pub(super) fn group(
        &self,
        rules: &Rules,
        about: &str,
        threads: usize,
    ) -> anyhow::Result<Option<Behind>> {
        let Some(said) = &rules.upstreams else {
            return Ok(None);
        };
        let ca = match &said.ca {
            None => None,
            Some(path) => {
                let read = std::fs::read_to_string(path);
                Some(read.with_context(|| format!("{about}proxy.ca: {}", path.display()))?)
            }
        };
        let project = about.trim_end_matches(": ");
        let group = self
            .upstreams
            .open(said, project, ca, client_config, threads);
        let group: Arc<Group> =
            group.map_err(|what| anyhow::anyhow!("{about}upstreams: {what}"))?;
        Ok(Some(Behind::Upstreams(group)))
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
        let authority = access.authority.as_ref().map(|said| -> anyhow::Result<_> {
            let named = format!("{about}access.forward_auth");
            let roots = self.roots(&said.url).context(named.clone())?;
            let authority = Authority::new(said, roots, about).map_err(anyhow::Error::msg);
            Ok(Arc::new(authority.context(named)?))
        });
        let doors = Doors {
            keys: keys.transpose()?,
            users,
            tokens: tokens.transpose()?,
            authority: authority.transpose()?,
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
        let roots = match &source.keys {
            TokenKeys::File(_) => None,
            TokenKeys::Url(url) => self
                .roots(url)
                .with_context(|| format!("{about}access.jwt_keys"))?,
        };
        let tokens = auth::jwt::open(source, roots, about, again);
        let tokens = tokens.map_err(|what| anyhow::anyhow!("{about}access.jwt_keys: {what}"))?;
        known.insert(source.clone(), Arc::downgrade(&tokens));
        Ok(tokens)
    }

    /// What a server is checked with; nothing for one without TLS.
    fn roots(&self, url: &str) -> anyhow::Result<Option<Arc<ClientConfig>>> {
        if !url.starts_with("https://") {
            return Ok(None);
        }
        let mut known = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            *known = Some(client::roots(None).map_err(anyhow::Error::msg)?);
        }
        Ok(known.clone())
    }

    /// The same source is read and followed once, and what it said last stays in force over a reload.
    fn keys(&self, source: &KeySource, about: &str, again: bool) -> anyhow::Result<Arc<Keys>> {
        let mut known = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, keys| keys.strong_count() > 0);
        if let Some(keys) = known.get(source).and_then(Weak::upgrade) {
            return Ok(keys);
        }
        let hidden = self.hidden.get(&source.variable).cloned();
        let variable = hidden.or_else(|| std::env::var(&source.variable).ok());
        let keys = auth::open(source, variable, about, &self.line, again);
        let keys = keys.with_context(|| about.trim_end_matches(": ").to_owned())?;
        known.insert(source.clone(), Arc::downgrade(&keys));
        Ok(keys)
    }
}

/// How the certificates of upstreams are checked.
fn client_config(pem: Option<&str>) -> Result<Arc<rustls::ClientConfig>, String> {
    let mut config = (*client::roots(pem)?).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
