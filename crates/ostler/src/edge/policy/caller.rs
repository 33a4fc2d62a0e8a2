//! Who sends a request.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::auth::jwt::Looked;
use crate::auth::{Busy, Caller, Proof, Shown};
use crate::config::serve::By;
use crate::edge::connection::Connection;
use crate::edge::forwarded::Sender;
use crate::edge::reason::Reason;
use crate::edge::sending::After;

/// What came of asking.
pub enum Asked {
    In(Caller),
    /// The one who was asked about it has sent the client an answer.
    Answered(After),
}

impl Connection {
    /// Asks who is there, where the site wants to know; of several ways one is enough. Files and the app are for those
    /// who were asked.
    pub async fn caller(&mut self, sender: &Sender) -> Result<Asked, Reason> {
        let policy = &self.site.policy;
        if policy.certified && !self.peer.certified {
            return Err(Reason::CertificateMissing);
        }
        let ours = policy.keys.is_some() || policy.users.is_some() || policy.tokens.is_some();
        let authority = policy.authority.clone();
        let mut found = None;
        if ours {
            found = match self.known() {
                Some(user) => Some(user),
                None => self.bearer().await,
            };
            if found.is_none() {
                // Boxed: who has shown a good one comes by without it.
                found = Box::pin(self.prove(sender)).await?;
            }
        }
        match (found, authority) {
            (Some(user), _) => self.let_in(user),
            // Boxed: few sites have one, and every connection would have room for it.
            (None, Some(authority)) => Box::pin(self.ask_authority(&authority, sender)).await,
            (None, None) if ours => Err(self.stranger()),
            (None, None) => Ok(Asked::In(Caller::Anyone)),
        }
    }

    pub(super) fn let_in(&mut self, user: Arc<str>) -> Result<Asked, Reason> {
        self.row.user = Some(Arc::clone(&user));
        self.charge(By::Key, user.as_bytes())?;
        Ok(Asked::In(Caller::User(user)))
    }

    fn shown(&self) -> Shown<'_> {
        Shown {
            authorization: self.head.field(b"authorization"),
            api_key: self.head.field(b"x-api-key"),
        }
    }

    /// Whom a look is enough for.
    fn known(&self) -> Option<Arc<str>> {
        let policy = &self.site.policy;
        let by_key = policy
            .keys
            .as_ref()
            .and_then(|keys| keys.known(self.shown()));
        by_key.or_else(|| policy.users.as_ref()?.known(self.shown()))
    }

    /// Whose token it is, with what the token says.
    async fn bearer(&mut self) -> Option<Arc<str>> {
        let tokens = self.site.policy.tokens.clone()?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        let mut looked = tokens.bearer(self.shown(), now);
        if looked == Looked::UnknownKey && tokens.renewed().await {
            looked = tokens.bearer(self.shown(), now);
        }
        let Looked::Good(bearer) = looked else {
            return None;
        };
        let user = Arc::clone(&bearer.user);
        self.row.bearer = Some(bearer);
        Some(user)
    }

    /// Whom only a slow function can tell.
    async fn prove(&mut self, sender: &Sender) -> Result<Option<Arc<str>>, Reason> {
        let address = sender.ip();
        let site = Arc::clone(&self.site);
        let slow = site.policy.keys.as_ref().filter(|keys| keys.is_slow());
        if let Some(keys) = slow {
            let shown: Vec<Vec<u8>> = self.shown().keys().map(<[u8]>::to_vec).collect();
            for key in shown {
                self.may_guess(address)?;
                let proof = keys.prove(key).await;
                if let Some(user) = self.outcome(proof, address).await? {
                    return Ok(Some(user));
                }
            }
        }
        if let Some(users) = &site.policy.users
            && let Some(credentials) = self.shown().basic()
        {
            self.may_guess(address)?;
            let proof = users.prove(credentials).await;
            return self.outcome(proof, address).await;
        }
        Ok(None)
    }

    /// Whom a proof names. Only what was wrong counts as a guess, but before anybody else has a turn: many at once are
    /// as few as one after the other.
    async fn outcome(
        &mut self,
        proof: Result<Proof, Busy>,
        address: Option<IpAddr>,
    ) -> Result<Option<Arc<str>>, Reason> {
        let busy = |Busy| Reason::AuthBusy;
        let mut trial = match proof.map_err(busy)? {
            Proof::Known(Some(user)) => return Ok(Some(user)),
            // Found out by another, and wrong of both.
            Proof::Known(None) => return self.guessed(address).map(|()| None),
            Proof::Open(trial) => trial,
        };
        self.may_guess(address)?;
        // Dropped before the trial is, whose turn is the next one's then.
        let guess = self.guess(address);
        let found = trial.run().await;
        if !matches!(found, Ok(None)) {
            guess.forgive();
        }
        found.map_err(busy)
    }

    /// Why nobody was found.
    fn stranger(&mut self) -> Reason {
        let tokens = self.site.policy.tokens.as_ref();
        if tokens.is_some_and(|tokens| tokens.is_empty()) && self.shown().bearer().is_some() {
            return Reason::TokenKeys;
        }
        if let Some(users) = &self.site.policy.users {
            let challenge = format!(
                "WWW-Authenticate: Basic realm=\"{}\", charset=\"UTF-8\"\r\n",
                users.realm()
            );
            self.row.lines.extend_from_slice(challenge.as_bytes());
            return Reason::Credentials;
        }
        if self.site.policy.tokens.is_some() {
            // RFC 6750 section 3.
            let error = self
                .shown()
                .bearer()
                .map_or("", |_| " error=\"invalid_token\"");
            let challenge = format!("WWW-Authenticate: Bearer{error}\r\n");
            self.row.lines.extend_from_slice(challenge.as_bytes());
            return Reason::Token;
        }
        match self.shown().keys().next() {
            None => Reason::KeyMissing,
            Some(_) => Reason::KeyUnknown,
        }
    }
}
