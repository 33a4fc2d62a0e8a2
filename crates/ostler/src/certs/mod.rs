//! Certificates: had from a CA through ACME (RFC 8555) and renewed, or read from the operator's files,
//! and handed to the edge. Knows nothing of routes, requests and connections.
//!
//! `state` decides and touches nothing; `errand` is the shell of one certificate; `ca` speaks to the
//! CA; `disk` is what survives a crash; `served` is what handshakes read.

mod answers;
mod budget;
mod ca;
mod certificate;
mod disk;
mod dns;
mod errand;
mod files;
mod http;
pub mod import;
mod keys;
mod names;
mod precheck;
mod served;
mod settings;
mod shared;
mod state;
#[cfg(test)]
mod stub;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use errand::Errand;
use files::Files;
use served::Table;
use shared::Shared;
use state::Pace;

pub use names::{NameError, Names};
pub use served::{ACME_TLS, Served};
pub use settings::{
    Challenge, Eab, KeyKind, LETS_ENCRYPT, STAGING, Settings, Source, Wanted, WantedError,
};

/// All certificates of a server.
pub struct Certs {
    shared: Arc<Shared>,
    wanted: watch::Sender<Vec<Wanted>>,
}

/// What has panicked once may do so again, and must not do it all the time.
const PANIC_PAUSE: Duration = Duration::from_secs(600);

/// Why certificates cannot be kept at all. The operator must act.
#[derive(Debug)]
pub enum CertsError {
    /// Our folder cannot be used.
    State(io::Error),
    /// Nobody could tell the CA from somebody else.
    Roots(String),
}

impl fmt::Display for CertsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(error) => write!(f, "certificates cannot be kept: {error}"),
            Self::Roots(text) => write!(f, "the CA cannot be spoken to: {text}"),
        }
    }
}

impl std::error::Error for CertsError {}

/// How one certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub names: Names,
    /// In a few words.
    pub state: &'static str,
    /// Until it expires, rounded down; negative after that; `None` while there is none.
    pub days_left: Option<i64>,
    pub last_error: Option<String>,
    pub next_attempt: Option<SystemTime>,
}

impl Certs {
    /// Reads what is in the folder of `settings` and hands it out. Blocks on the disk.
    pub fn open(settings: Settings, wanted: Vec<Wanted>) -> Result<Self, CertsError> {
        Self::open_at(Pace::calm(), settings, wanted)
    }

    fn open_at(pace: Pace, settings: Settings, wanted: Vec<Wanted>) -> Result<Self, CertsError> {
        let tls = http::client_config(settings.ca_root.as_deref()).map_err(CertsError::Roots)?;
        let shared = Shared::open(settings, pace, tls).map_err(CertsError::State)?;
        let certs = Self {
            shared: Arc::new(shared),
            wanted: watch::Sender::new(Vec::new()),
        };
        certs.wanted(wanted);
        Ok(certs)
    }

    /// Keeps the certificates until `stop` is true or its sender is gone.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        let mut wanted = self.wanted.subscribe();
        let mut running: HashMap<Wanted, AbortHandle> = HashMap::new();
        let mut tasks = JoinSet::new();
        let mut pause = Duration::ZERO;
        loop {
            let listed: HashSet<Wanted> = wanted.borrow_and_update().iter().cloned().collect();
            running.retain(|wanted, task| {
                let stays = listed.contains(wanted) && !task.is_finished();
                if !stays {
                    task.abort();
                    self.shared.forget(&wanted.names);
                }
                stays
            });
            for wanted in listed {
                let start = |wanted: &Wanted| {
                    tasks.spawn(keep(Arc::clone(&self.shared), wanted.clone(), pause))
                };
                running.entry(wanted).or_insert_with_key(start);
            }
            pause = Duration::ZERO;
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                _ = wanted.changed() => {}
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(%error, "a certificate is kept no more; begins anew in a while");
                        pause = PANIC_PAUSE;
                    }
                }
            }
        }
        tasks.shutdown().await;
    }

    /// These are wanted from now on, and no others. Blocks on the disk.
    pub fn wanted(&self, wanted: Vec<Wanted>) {
        self.shared
            .publish(|served| served.replace(self.table(&wanted)));
        self.wanted.send_replace(wanted);
    }

    /// What gives handshakes their certificate.
    pub fn resolver(&self) -> Arc<Served> {
        Arc::clone(&self.shared.served)
    }

    /// What `/.well-known/acme-challenge/<token>` is answered with. A token that is not ours belongs
    /// to the app.
    pub fn http_token(&self, token: &str) -> Option<String> {
        self.shared.token(token)
    }

    pub fn status(&self) -> Vec<Status> {
        let now = SystemTime::now();
        let rows = self.shared.rows().into_iter();
        rows.map(|(names, row)| Status {
            names,
            state: row.state,
            days_left: row.held.map(|held| held.days(now)),
            last_error: row.error,
            next_attempt: row.next,
        })
        .collect()
    }

    /// The best there is for each wanted name: its own certificate, another one of ours that is for
    /// it, or one that nobody trusts.
    fn table(&self, wanted: &[Wanted]) -> Table {
        let mut table = Table::default();
        let mut without = Vec::new();
        for Wanted { names, source } in wanted {
            let found = match source {
                Source::Acme(_) => self.shared.installed(names).map(|(key, _)| key),
                Source::Files { certificate, key } => {
                    let mut files = Files::new(names.clone(), certificate.clone(), key.clone());
                    files.look().and_then(|pair| Some(pair.ok()?.key))
                }
            };
            match found {
                Some(key) => table.insert(names.iter(), &key),
                None => without.push(names),
            }
        }
        if without.is_empty() {
            return table;
        }
        let others = self.shared.all_installed();
        for names in without {
            match keys::self_signed(names).map(Arc::new) {
                Ok(key) => table.insert(names.iter(), &key),
                Err(error) => tracing::error!(%error, "{names}: no certificate can be made"),
            }
            for name in names.iter() {
                let covering = others.iter().filter(|(_, of)| of.covers(name));
                if let Some((key, _)) = covering.max_by_key(|(_, of)| of.not_after) {
                    table.insert([name], key);
                }
            }
        }
        table
    }
}

/// Keeps one certificate, for as long as this is polled.
async fn keep(shared: Arc<Shared>, wanted: Wanted, pause: Duration) {
    let Wanted { names, source } = wanted;
    match source {
        Source::Acme(challenge) => {
            let errand = Errand::open(shared, names, challenge);
            tokio::time::sleep(pause).await;
            errand.run().await;
        }
        Source::Files { certificate, key } => {
            Files::new(names, certificate, key).run(shared).await;
        }
    }
}
