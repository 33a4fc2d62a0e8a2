//! One server in the place of another: beside it until its apps serve, and the end of the one before.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::admin::api::{Change, Outcome, Reloaded};
use crate::edge::Phase;
use crate::keeper::protocol::{AdminSocket, ProjectId, ToKeeper};

use super::project::Project;
use super::reloads::{Asked, Since};
use super::{Server, admin};

/// Where it is asked how things stand.
pub(super) struct Doors {
    pub(super) admin: Option<AdminSocket>,
    pub(super) metrics: Vec<OwnedFd>,
}

/// Apps are starting that have to serve before connections are accepted.
pub(super) struct Arrival {
    outcome: oneshot::Receiver<Reloaded>,
    doors: Doors,
}

/// What came of an arrival, once.
pub(super) async fn outcome(arrival: &mut Option<Arrival>) -> Reloaded {
    match arrival {
        Some(Arrival { outcome, .. }) => outcome.await.unwrap_or_else(|_| {
            let text = "error: it was ended meanwhile\n";
            Reloaded::failed(text.to_owned())
        }),
        None => std::future::pending().await,
    }
}

/// Resolves when the task has ended, if there is one.
pub(super) async fn ended(task: &mut Option<JoinHandle<()>>) {
    match task {
        Some(task) => drop(task.await),
        None => std::future::pending().await,
    }
}

impl Server {
    /// Waits for these apps as for those of a reload.
    pub(super) fn arrive(&mut self, awaited: &[ProjectId], doors: Doors) {
        let (answer, outcome) = oneshot::channel();
        let awaited = |project: &&Project| awaited.contains(&project.id);
        let projects = self.projects.iter().filter(awaited);
        let awaited = projects.map(|project| admin::awaited(project, Since::Generation(1)));
        let awaited = awaited.collect();
        let asked = Asked { wait: true, answer };
        self.reloads.begun(asked, Vec::new(), Vec::new(), awaited);
        self.arrival = Some(Arrival { outcome, doors });
    }

    /// Accepts connections from now on, or says why not: then the keeper ends this server.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) async fn arrived(&mut self, outcome: Reloaded) -> anyhow::Result<()> {
        let arrival = self.arrival.take();
        if outcome.outcome == Outcome::Failed {
            let problems = outcome.problems;
            self.tell_keeper(ToKeeper::NotReady { problems }).await;
            return Ok(());
        }
        self.listen()?;
        if let Some(Arrival { doors, .. }) = arrival {
            self.open(doors)?;
        }
        self.announce_listeners();
        self.tell_keeper(ToKeeper::Ready).await;
        Ok(())
    }

    /// # Errors
    /// No descriptor is left.
    pub(super) fn open(&mut self, doors: Doors) -> anyhow::Result<()> {
        if let Some(socket) = doors.admin {
            self.open_admin(socket)?;
        }
        self.open_metrics(doors.metrics)
    }

    /// Another server accepts connections: this one ends with those it has, which have so long.
    pub(super) async fn begin_drain(&mut self, within: Duration) {
        self.listeners.clear();
        self.doors.drain(..).for_each(|door| door.abort());
        let stops = *self.phase.borrow() != Phase::Serving;
        if !stops {
            self.phase.send_replace(Phase::Draining);
        }
        self.certs.end().await;
        self.tell_keeper(ToKeeper::Drains).await;
        if stops {
            return;
        }
        for thread in &self.threads {
            thread.thread.draining.notify_waiters();
        }
        tracing::info!(
            "another server accepts connections; {} may end here within {} s",
            super::plural(self.shared.peers.total(), "connection"),
            within.as_secs()
        );
        let peers = std::sync::Arc::clone(&self.shared.peers);
        self.drain = Some(tokio::spawn(async move {
            let _ = timeout(within, peers.empty()).await;
        }));
    }

    /// Tells who asked for it.
    pub(super) fn upgraded(&mut self, ticket: u64, what: String) {
        let Some(asked) = self.reloads.answered(ticket) else {
            return;
        };
        let change = Change {
            project: String::new(),
            what,
        };
        // Who has asked may have left.
        let _ = asked.answer.send(Reloaded {
            outcome: Outcome::Done,
            upgraded: true,
            changes: vec![change],
            ..Reloaded::failed(String::new())
        });
    }
}
