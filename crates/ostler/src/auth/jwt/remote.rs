//! Keys of tokens that are at a server: fetched, kept, and asked for anew when a token names one that is not known.
//! The last good ones stay while the server is away.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use rustls::ClientConfig;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Set, Tokens};
use crate::client::{self, Target};

/// Largest set, in bytes; those of issuers have a few thousand.
const LARGEST: usize = 1 << 20;

/// For one answer, with its connection and redirects.
const ANSWER: Duration = Duration::from_secs(10);

/// However many tokens name keys that nobody knows, the server is asked no more often than this.
const AGAIN: Duration = Duration::from_secs(10);

/// A request whose token names such a key waits for the answer this long.
const PATIENCE: Duration = Duration::from_secs(3);

/// When its server does not say how long a set is good; and the bounds of what it says: a key that was withdrawn must
/// not count for weeks, and nobody is asked all the time.
const REFRESH: Duration = Duration::from_secs(3600);
const SOONEST: Duration = Duration::from_secs(300);
const LATEST: Duration = Duration::from_secs(24 * 3600);

/// While there is none yet, and while the server is away: twice as long each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// What requests and the one who fetches tell each other.
#[derive(Debug, Default)]
pub(super) struct Remote {
    wanted: Notify,
    /// When the server was asked last.
    asked: watch::Sender<Option<Instant>>,
}

impl Tokens {
    /// Has the keys asked for anew, if that may be now, and waits for the answer: whether there was one.
    pub async fn renewed(&self) -> bool {
        let Some(remote) = &self.remote else {
            return false;
        };
        let mut asked = remote.asked.subscribe();
        let last = *asked.borrow_and_update();
        // Kept until it may be, so that a new key is known then.
        remote.wanted.notify_one();
        if last.is_some_and(|last| last.elapsed() < AGAIN) {
            return false;
        }
        matches!(timeout(PATIENCE, asked.changed()).await, Ok(Ok(())))
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        if let Some(remote) = &self.remote {
            remote.wanted.notify_one();
        }
    }
}

/// Who fetches the keys of one source.
pub(super) struct Fetcher {
    pub(super) url: String,
    pub(super) target: Target,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) issuers: Vec<String>,
    pub(super) about: String,
}

impl Fetcher {
    /// Fetches as long as the keys are in use.
    pub(super) async fn run(self, tokens: Weak<Tokens>, remote: Arc<Remote>) {
        let mut known = String::new();
        let mut retry = FIRST_RETRY;
        let mut told = false;
        loop {
            let fetched = self.fetch().await;
            let asked = Instant::now();
            let Some(tokens) = tokens.upgrade() else {
                return;
            };
            let wait = match fetched {
                Ok((text, set, good_for)) => {
                    let count = set.keys.len();
                    let is_new = text != known;
                    if is_new {
                        *tokens.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(set);
                        known = text;
                    }
                    if is_new || told {
                        tracing::info!(
                            "{}keys of tokens read from {}: {count}",
                            self.about,
                            self.url
                        );
                    }
                    (retry, told) = (FIRST_RETRY, false);
                    good_for.unwrap_or(REFRESH).clamp(SOONEST, LATEST)
                }
                Err(what) => {
                    if !std::mem::replace(&mut told, true) {
                        let until = match known.is_empty() {
                            true => "until there are some nobody gets in with a token",
                            false => "the last ones stay",
                        };
                        tracing::error!(
                            "{}no keys of tokens from {}: {what}; {until}",
                            self.about,
                            self.url
                        );
                    }
                    let now = retry;
                    retry = LAST_RETRY.min(2 * retry);
                    now
                }
            };
            drop(tokens);
            remote.asked.send_replace(Some(asked));
            tokio::select! {
                () = sleep(wait) => {}
                () = remote.wanted.notified() => sleep_until(asked + AGAIN.min(wait)).await,
            }
        }
    }

    /// The set, as text too, and how long it is good.
    async fn fetch(&self) -> Result<(String, Set, Option<Duration>), String> {
        let tls = self.tls.as_ref();
        let mut fetched = client::fetch(&self.target, tls, LARGEST, ANSWER).await?;
        if let Some(target) = self.discovered(&fetched.body)? {
            fetched = client::fetch(&target, tls, LARGEST, ANSWER)
                .await
                .map_err(|what| format!("{}{}: {what}", target.authority, target.path))?;
        }
        let text = String::from_utf8_lossy(&fetched.body).into_owned();
        let set = Set::parse(&text)?;
        Ok((text, set, fetched.max_age))
    }

    /// Where the keys are, when this is what an OpenID provider says of itself (OpenID Connect Discovery 1.0, section 3).
    fn discovered(&self, body: &[u8]) -> Result<Option<Target>, String> {
        let told: Value = serde_json::from_slice(body).unwrap_or_default();
        let Some(uri) = told.get("jwks_uri").and_then(Value::as_str) else {
            return Ok(None);
        };
        let issuer = told.get("issuer").and_then(Value::as_str).unwrap_or("");
        if !self.issuers.iter().any(|known| known == issuer) {
            return Err(format!(
                "it is of the issuer `{issuer}`; hint: jwt_issuer has others"
            ));
        }
        let target = Target::parse(uri)?;
        match target.https || (target.is_loopback() && self.target.is_loopback()) {
            true => Ok(Some(target)),
            false => Err(format!("its jwks_uri, {uri}, is without TLS")),
        }
    }
}
