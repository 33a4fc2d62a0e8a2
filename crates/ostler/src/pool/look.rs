//! How a pool stands, for people.

use std::time::{Duration, Instant};

use crate::supervise::{PoolState, WorkerId};

use super::Pool;

/// How things stand.
#[derive(Debug)]
pub struct Look {
    pub serving: PoolState,
    /// Requests that wait for a slot.
    pub line: usize,
    /// How long the first of them has waited.
    pub oldest: Option<Duration>,
    pub workers: Vec<WorkerLook>,
}

/// One worker that may be leased, or was.
#[derive(Debug)]
pub struct WorkerLook {
    pub id: WorkerId,
    /// Requests that it serves now.
    pub busy: u32,
    /// Requests that it has served.
    pub served: u64,
}

impl Pool {
    pub fn look(&self) -> Look {
        let now = Instant::now();
        let state = self.state();
        let waiting = state.line.iter().chain(state.tickets.waiting());
        let first = waiting.filter_map(|waiter| waiter.since).min();
        let workers = state.workers.values().map(|worker| WorkerLook {
            id: worker.id,
            busy: worker.in_flight(),
            served: worker.served(),
        });
        Look {
            serving: state.serving,
            line: state.line.len() + state.tickets.len(),
            oldest: first.map(|first| now.saturating_duration_since(first)),
            workers: workers.collect(),
        }
    }
}
