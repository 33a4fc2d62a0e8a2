//! The end of a server: requests first, then WebSockets, then workers, then what it has written.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use crate::edge::{Peers, Phase};
use crate::keeper::protocol::ProjectId;
use crate::pool;
use crate::supervise::Request;

use super::{Server, plural};

/// What is still being sent when the last worker is gone has this long.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// WebSockets have this long to close when the server stops: a second more than a client that does
/// not answer a close frame is waited for.
const SOCKETS_CLOSE: Duration = Duration::from_secs(6);

impl Server {
    /// Stops accepting, lets requests end, then the workers.
    pub(super) fn begin_stop(&mut self, graceful: bool) {
        // Asked again, only an end at once is news.
        if std::mem::replace(&mut self.stopping, true) && graceful {
            return;
        }
        self.listeners.clear();
        tracing::info!(
            "stopping: no new connections{}",
            if graceful {
                "; requests under way may finish"
            } else {
                ""
            }
        );
        self.phase.send_replace(Phase::Stopping);
        self.drain = None;
        for thread in &self.threads {
            thread.thread.stopping.notify_waiters();
        }
        let graceful_timeouts = self
            .projects
            .iter()
            .map(|project| project.settings().workers.graceful_timeout);
        let patience = graceful_timeouts.max().filter(|_| graceful);
        let apps: Vec<_> = self
            .projects
            .iter()
            .map(|project| (Arc::clone(&project.pool), project.handle.clone()))
            .collect();
        let (shared, requests) = (self.shared.clone(), self.requests.clone());
        let policies = Arc::clone(&self.policies);
        tokio::spawn(async move {
            let farewell = || {
                apps.iter().for_each(|(pool, _)| pool.say_farewell());
                policies.upstreams.say_farewell();
            };
            let left = match patience {
                Some(patience) => Some(let_end(&shared.peers, farewell, patience).await),
                None => {
                    farewell();
                    None
                }
            };
            apps.iter().for_each(|(_, handle)| handle.stop(left));
            if apps.is_empty() {
                // Nobody else will say so.
                let _ = requests.send((ProjectId::RUN, Request::Finish { code: 0 }));
            }
        });
    }

    /// Ends the edge threads, then the logs: the last lines must be written.
    pub(super) async fn end(&mut self) {
        // Who was answered gets the answer, whoever still waits hears that there is none.
        self.doors.drain(..).for_each(|door| door.abort());
        self.reloads = Default::default();
        let _ = timeout(LAST_BYTES, self.places.empty()).await;
        // The workers are gone; their last answers may still be on their way.
        let _ = timeout(LAST_BYTES, self.shared.peers.empty()).await;
        for thread in &mut self.threads {
            if let Some(stop) = thread.stop.take() {
                let _ = stop.send(());
            }
        }
        for thread in &mut self.threads {
            if let Some(joined) = thread.joined.take() {
                let _ = joined.join();
            }
        }
        if let Some(log) = &self.log {
            log.close(LAST_BYTES);
        }
        tracing::info!("stopped");
        self.logs.close();
    }
}

/// Waits for requests, then for WebSockets, at most `patience` for both; returns what is left of it
/// for the workers that served them.
async fn let_end(peers: &Peers, farewell_all: impl Fn(), patience: Duration) -> Duration {
    let began = Instant::now();
    let (farewell, deadline) = (began + patience.mul_f64(pool::FAREWELL), began + patience);
    let _ = timeout_at(farewell, peers.quiet()).await;
    match peers.sockets() {
        0 => {}
        count => tracing::info!(
            "stopping: {} told to come again",
            plural(count, "WebSocket")
        ),
    }
    farewell_all();
    let all_ended = async {
        let _ = timeout(SOCKETS_CLOSE, peers.empty()).await;
        peers.quiet().await;
    };
    let _ = timeout_at(deadline, all_ended).await;
    deadline.saturating_duration_since(Instant::now())
}
