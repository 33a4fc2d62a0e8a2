//! All certificates that a CA gives: one task for each, and the table that handshakes read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::errand::Errand;
use super::look::Look;
use super::served::{Served, Table};
use super::settings::{Settings, Wanted};
use super::shared::Shared;
use super::state::Pace;
use super::{CertsError, Status, keys};
use crate::client;

/// The certificates that a CA gives.
pub struct Engine {
    pub(super) shared: Arc<Shared>,
    wanted: watch::Sender<Vec<Wanted>>,
}

/// What has panicked once may do so again, and must not do it all the time.
const PANIC_PAUSE: Duration = Duration::from_secs(600);

impl Engine {
    /// Reads what is in the folder of `settings`. Blocks on the disk.
    pub fn open(settings: Settings, served: Arc<Served>) -> Result<Self, CertsError> {
        Self::open_at(Pace::calm(), settings, served)
    }

    pub fn open_at(
        pace: Pace,
        settings: Settings,
        served: Arc<Served>,
    ) -> Result<Self, CertsError> {
        let tls =
            client::roots(settings.acme.ca_root_text.as_deref()).map_err(CertsError::Roots)?;
        let shared = Shared::open(settings, pace, tls, served).map_err(CertsError::State)?;
        Ok(Self {
            shared: Arc::new(shared),
            wanted: watch::Sender::new(Vec::new()),
        })
    }

    /// Keeps the certificates until `stop` is true or its sender is gone.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        // Another server may have asked the CA since the folder was opened.
        self.shared.recount();
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

    pub fn look(&self) -> Look {
        Look::new(Arc::clone(&self.shared), self.wanted.borrow().clone())
    }

    pub fn status(&self) -> Vec<Status> {
        let now = SystemTime::now();
        let rows = self.shared.rows().into_iter();
        rows.map(|(names, row)| Status {
            names: names.iter().map(str::to_owned).collect(),
            state: row.state,
            expires: row.held.map(|held| held.not_after),
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
        for Wanted { names, .. } in wanted {
            let found = self.shared.installed(names).map(|(key, _)| key);
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
            match keys::self_signed(names.iter()).map(Arc::new) {
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
    let errand = Errand::open(shared, wanted.names, wanted.challenge);
    tokio::time::sleep(pause).await;
    errand.run().await;
}
