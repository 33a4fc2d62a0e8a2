//! Why a certificate cannot be had, looked at because somebody asks (`ostler doctor`). Asks the CA nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::budget::Budget;
use super::disk::Disk;
use super::precheck;
use super::settings::{Settings, Wanted};
use super::shared::Shared;
use super::state::Trouble;
use crate::config::serve::Challenge;

/// Names that are looked at, and how many at once: whoever asks waits for all of them.
const MOST: usize = 200;
const AT_ONCE: usize = 16;

/// For one name: some addresses, each with its own deadline.
const NAME: Duration = Duration::from_secs(45);

/// What was seen of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    pub name: String,
    /// Why there can be no certificate now, and what to do.
    pub problem: Option<String>,
    pub unclear: Vec<String>,
}

/// A look from within the server: it comes to its own names as the CA would.
pub struct Look {
    shared: Arc<Shared>,
    wanted: Vec<Wanted>,
}

impl Look {
    pub(super) fn new(shared: Arc<Shared>, mut wanted: Vec<Wanted>) -> Self {
        wanted.truncate(MOST);
        Self { shared, wanted }
    }

    pub async fn run(self) -> Vec<Looked> {
        let looks = self.wanted.into_iter().map(|wanted| {
            let shared = Arc::clone(&self.shared);
            async move { look(&shared, &wanted).await }
        });
        all(looks).await
    }
}

async fn look(shared: &Shared, wanted: &Wanted) -> Looked {
    let name = wanted.names.to_string();
    // The answer of TLS-ALPN-01 that an order has put there must not be taken away.
    let turns = super::shared::AT_ONCE as u32;
    let alone = match wanted.challenge {
        Challenge::TlsAlpn01 => Some(shared.turns.try_acquire_many(turns)),
        Challenge::Http01 | Challenge::Dns01 => None,
    };
    if matches!(alone, Some(Err(_))) {
        let unclear = format!("{name}: an order is under way; look again when it has ended");
        return Looked {
            name,
            problem: None,
            unclear: vec![unclear],
        };
    }
    let checked = precheck::check(shared, &wanted.names, wanted.challenge);
    let looked = looked(name, timeout(NAME, checked).await);
    let held = shared
        .rows()
        .get(&wanted.names)
        .is_some_and(|row| row.held.is_some());
    match looked.problem {
        // With a certificate there is time.
        None if !held => Looked {
            problem: shared.over_budget(&wanted.names).map(|over| over.told()),
            ..looked
        },
        _ => looked,
    }
}

/// The same while no server runs, with what is on disk about each name.
pub async fn look_without_us(settings: Settings, mut wanted: Vec<Wanted>) -> Vec<Looked> {
    wanted.truncate(MOST);
    let settings = Arc::new(settings);
    all(wanted.into_iter().map(|wanted| {
        let settings = Arc::clone(&settings);
        async move { without_us(&settings, &wanted).await }
    }))
    .await
}

async fn without_us(settings: &Settings, wanted: &Wanted) -> Looked {
    let disk = Disk::at(&settings.state, &settings.acme.directory);
    let name = wanted.names.to_string();
    let checked = precheck::check_without_us(&settings.acme, &name, wanted.challenge);
    let checked = timeout(NAME, checked).await;
    let mut looked = looked(name, checked);
    // What cannot be read is of somebody else, and said by who needs it.
    let record = disk.record(&wanted.names).ok().flatten();
    if let Some(failing) = record.and_then(|record| record.failing) {
        looked.unclear.push(format!(
            "{}: the last attempt failed: {}",
            looked.name, failing.text
        ));
    }
    let mut budget: Budget = disk.budget().unwrap_or_default();
    let held = disk.certificate(&wanted.names).ok().flatten().is_some();
    let over = budget.order(&wanted.names, None, std::time::SystemTime::now());
    if let (Err(over), false, None) = (over, held, &looked.problem) {
        looked.problem = Some(over.told());
    }
    looked
}

fn looked(
    name: String,
    checked: Result<Result<Vec<String>, Trouble>, tokio::time::error::Elapsed>,
) -> Looked {
    let (problem, unclear) = match checked {
        Ok(Ok(unclear)) => (None, unclear),
        Ok(Err(trouble)) => (Some(trouble.text), Vec::new()),
        Err(_) => {
            let text = format!("{name}: no end within {} s", NAME.as_secs());
            (None, vec![text])
        }
    };
    Looked {
        name,
        problem,
        unclear,
    }
}

/// Some at once, in the order of their names at the end.
async fn all<F>(looks: impl Iterator<Item = F>) -> Vec<Looked>
where
    F: Future<Output = Looked> + Send + 'static,
{
    let mut running = JoinSet::new();
    let mut done = Vec::new();
    for look in looks {
        if running.len() >= AT_ONCE {
            done.extend(running.join_next().await.and_then(Result::ok));
        }
        running.spawn(look);
    }
    while let Some(looked) = running.join_next().await {
        done.extend(looked.ok());
    }
    done.sort_by(|one, other| one.name.cmp(&other.name));
    done
}
