//! How the workers of an app stand, for people.

use std::time::Duration;

use super::super::state::Stands;
use super::{Event, Interface, Request, Supervisor, WorkerId};

/// How things stand.
#[derive(Debug)]
pub struct Look {
    pub interface: Option<Interface>,
    /// The generation that serves, or should.
    pub generation: u64,
    /// The one that is to take over.
    pub next: Option<u64>,
    /// Workers that ended although nobody wanted them to.
    pub crashes: u64,
    /// Workers that were ever started.
    pub starts: u64,
    /// Oldest first.
    pub workers: Vec<WorkerLook>,
}

/// One worker.
#[derive(Debug)]
pub struct WorkerLook {
    pub id: WorkerId,
    pub generation: u64,
    /// 0 until it is forked.
    pub pid: u32,
    /// `starting`, `ready`, `leaving` or `draining`.
    pub phase: &'static str,
    pub age: Duration,
}

impl Supervisor {
    /// Takes an order to reload, and says which generation comes of it.
    pub(super) async fn reload(&mut self) -> bool {
        let ended = self.step(Event::Reload).await;
        let now = self.fleet.look();
        let generation = now.next.unwrap_or(now.live);
        self.ask(Request::Reloads { generation });
        ended
    }

    pub(super) fn look(&self) -> Look {
        let now = self.fleet.look();
        let workers = now.workers.into_iter().map(|stands: Stands| {
            let known = self.workers.get(&stands.id);
            WorkerLook {
                id: stands.id,
                generation: stands.generation,
                pid: stands.pid,
                phase: stands.phase,
                age: known.map_or(Duration::ZERO, |worker| worker.started.elapsed()),
            }
        });
        Look {
            interface: self.interface,
            generation: now.live,
            next: now.next,
            crashes: now.crashes,
            starts: now.starts,
            workers: workers.collect(),
        }
    }
}
