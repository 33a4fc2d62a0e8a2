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
mod errand;
mod http;
mod keys;
mod names;
mod served;
mod settings;
mod shared;
mod state;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use errand::Errand;
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
        let mut running: HashMap<Names, (Challenge, AbortHandle)> = HashMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let list = wanted.borrow_and_update().clone();
            let listed: HashMap<Names, Challenge> = list
                .into_iter()
                .filter_map(|wanted| match wanted.source {
                    Source::Acme(challenge) => Some((wanted.names, challenge)),
                    Source::Files { .. } => None,
                })
                .collect();
            running.retain(|names, (challenge, task)| {
                let stays = listed.get(names) == Some(challenge) && !task.is_finished();
                if !stays {
                    task.abort();
                    self.shared.forget(names);
                }
                stays
            });
            for (names, challenge) in listed {
                running.entry(names.clone()).or_insert_with(|| {
                    let errand = Errand::open(Arc::clone(&self.shared), names, challenge);
                    (challenge, tasks.spawn(errand.run()))
                });
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                _ = wanted.changed() => {}
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(%error, "a certificate's errand has failed, and begins anew");
                    }
                }
            }
        }
        tasks.shutdown().await;
    }

    /// These are wanted from now on, and no others. Blocks on the disk.
    pub fn wanted(&self, wanted: Vec<Wanted>) {
        self.shared.served.replace(self.table(&wanted));
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
        for Wanted { names, .. } in wanted {
            let installed = self.shared.installed(names).map(|(key, _)| key);
            match installed.map_or_else(|| keys::self_signed(names).map(Arc::new), Ok) {
                Ok(key) => table.insert(names, &key),
                Err(error) => tracing::error!(%error, "{names}: no certificate can be made"),
            }
        }
        table
    }
}
