//! What the jobs of all certificates share: settings, our folder, the budget, and what is served.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::ClientConfig;
use rustls::sign::CertifiedKey;
use tokio::sync::Semaphore;

use super::budget::{Budget, Over};
use super::certificate::Certificate;
use super::disk::Disk;
use super::keys;
use super::names::Names;
use super::served::Served;
use super::settings::Settings;
use super::state::{Held, Pace, Trouble, Whose};

/// Orders under way at once: a CA that takes its time for one name does not hold up all others, and
/// a hundred new names are no burst.
pub const AT_ONCE: usize = 4;

pub struct Shared {
    pub settings: Settings,
    pub pace: Pace,
    pub disk: Disk,
    pub tls: Arc<ClientConfig>,
    pub served: Arc<Served>,
    /// Attempts that may be under way.
    pub turns: Semaphore,
    /// Whoever may open the account.
    pub account: Semaphore,
    /// Held while certificates are read or written and then served, so that what is served is never
    /// older than what is on disk.
    publishing: Arc<Mutex<()>>,
    /// What was asked of the CA. Held while it is written to disk.
    budget: Arc<Mutex<Budget>>,
    rows: Mutex<BTreeMap<Names, Row>>,
}

/// How a certificate is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub state: &'static str,
    pub held: Option<Held>,
    pub error: Option<String>,
    pub next: Option<SystemTime>,
}

impl Shared {
    pub fn open(
        settings: Settings,
        pace: Pace,
        tls: Arc<ClientConfig>,
        served: Arc<Served>,
    ) -> io::Result<Self> {
        let disk = Disk::open(&settings.state, &settings.acme.directory)?;
        let budget = disk.budget().unwrap_or_else(|error| {
            tracing::error!(%error, "what was asked of the CA is counted anew");
            Budget::default()
        });
        let budget = Arc::new(Mutex::new(budget));
        Ok(Self {
            settings,
            pace,
            disk,
            tls,
            served,
            turns: Semaphore::new(AT_ONCE),
            account: Semaphore::new(1),
            publishing: Arc::default(),
            budget,
            rows: Mutex::default(),
        })
    }

    /// Takes what was asked of the CA from the disk anew.
    pub fn recount(&self) {
        if let Ok(budget) = self.disk.budget() {
            *lock(&self.budget) = budget;
        }
    }

    /// The certificate in our folder for exactly these names, if it can be used.
    pub fn installed(&self, names: &Names) -> Option<(Arc<CertifiedKey>, Held)> {
        let pem = match self.disk.certificate(names) {
            Ok(pem) => pem?,
            Err(error) => {
                tracing::warn!(%error, "{names}: the certificate is asked for anew");
                return None;
            }
        };
        match usable(&pem, &pem, names) {
            Ok(found) => Some(found),
            Err(error) => {
                tracing::warn!("{names}: the certificate is asked for anew: {error}");
                None
            }
        }
    }

    /// Every certificate in our folder that is valid now.
    pub fn all_installed(&self) -> Vec<(Arc<CertifiedKey>, Certificate)> {
        let now = SystemTime::now();
        let all = self.disk.all_certificates().into_iter();
        all.filter_map(|pem| {
            let key = keys::from_pem(&pem, &pem).ok()?;
            let certificate = Certificate::read(&key.cert[0]).ok()?;
            (certificate.not_before <= now && now < certificate.not_after)
                .then(|| (Arc::new(key), certificate))
        })
        .collect()
    }

    /// Checks a new certificate, writes it and serves it.
    pub async fn install(&self, names: Names, key: &str, chain: &str) -> Result<Held, Trouble> {
        let (certified, held) = usable(key, chain, &names).map_err(|error| {
            let text = format!("what the CA has issued cannot be used: {error}");
            Trouble::new(Whose::Order, text)
        })?;
        let pem = format!("{}\n{chain}", key.trim_end());
        let (served, publishing) = (Arc::clone(&self.served), Arc::clone(&self.publishing));
        self.on_disk(move |disk| {
            let _alone = lock(&publishing);
            disk.save_certificate(&names, &pem)?;
            served.put(&names, &certified);
            Ok(())
        })
        .await?;
        Ok(held)
    }

    /// Reads certificates and serves them, while nobody else does.
    pub fn publish<T>(&self, read: impl FnOnce(&Served) -> T) -> T {
        let _alone = lock(&self.publishing);
        read(&self.served)
    }

    /// Counts an order, if the budget has room for it.
    pub async fn reserve(&self, names: Names, life: Option<Duration>) -> Result<(), Trouble> {
        let counted = self.with_budget(move |budget, now| budget.order(&names, life, now));
        counted.await?.map_err(|over| Trouble {
            whose: Whose::Limit,
            text: over.text,
            not_before: Some(over.until),
            nonce: false,
        })
    }

    /// Why there would be no room for an order now, when there is none.
    pub fn over_budget(&self, names: &Names) -> Option<Over> {
        let mut budget = lock(&self.budget).clone();
        budget.order(names, None, SystemTime::now()).err()
    }

    pub async fn spend(
        &self,
        count: impl FnOnce(&mut Budget, SystemTime) + Send + 'static,
    ) -> Result<(), Trouble> {
        self.with_budget(count).await
    }

    /// Changes the budget and writes it before anything else is asked of the CA.
    async fn with_budget<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Budget, SystemTime) -> T + Send + 'static,
    ) -> Result<T, Trouble> {
        let shared = Arc::clone(&self.budget);
        self.on_disk(move |disk| {
            let mut budget = lock(&shared);
            let outcome = change(&mut budget, SystemTime::now());
            disk.save_budget(&budget)?;
            Ok(outcome)
        })
        .await
    }

    /// Works on our folder without holding up the runtime.
    pub async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Trouble> {
        let disk = self.disk.clone();
        let done = tokio::task::spawn_blocking(move || work(&disk)).await;
        let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
        done.map_err(|error| Trouble::new(Whose::Operator, error.to_string()))
    }

    pub fn tell(&self, names: &Names, row: Row) {
        lock(&self.rows).insert(names.clone(), row);
    }

    pub fn forget(&self, names: &Names) {
        lock(&self.rows).remove(names);
    }

    pub fn rows(&self) -> BTreeMap<Names, Row> {
        lock(&self.rows).clone()
    }
}

/// Key and chain for `names`, checked.
pub fn usable(key: &str, chain: &str, names: &Names) -> Result<(Arc<CertifiedKey>, Held), String> {
    let certified = keys::from_pem(key, chain)?;
    let certificate = Certificate::read(&certified.cert[0])?;
    check_names(&certificate, names)?;
    Ok((Arc::new(certified), certificate.held()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a certificate is for all of the names.
pub fn check_names(certificate: &Certificate, names: &Names) -> Result<(), String> {
    match names.iter().find(|name| !certificate.covers(name)) {
        None => Ok(()),
        Some(name) => Err(format!("the certificate is not for {name}")),
    }
}
