//! What should run, and making it so.
//!
//! [`state`] decides, as a pure machine. [`shell`] carries out: it speaks to zygotes and workers,
//! watches processes, and tells the pool which slots there are. Nothing here knows a request.

pub mod control;
mod hooks;
mod memory;
mod shell;
mod state;

use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use crate::sys::Exit;
pub use hooks::Hooks;
pub use shell::{Supervisor, Zygote};
pub use state::Policy;

use state::Event;

/// The number of a worker, counted from 1 over the life of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u64);

/// How an app is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interface {
    Wsgi,
    Asgi,
}

/// Whether requests can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolState {
    /// No worker was ready yet: requests wait in line.
    Starting,
    Serving,
    /// Workers keep dying; `retry_after` is in seconds.
    CrashLooping {
        retry_after: u32,
    },
    Stopping,
}

/// What the pool learns of workers, in the order in which it happens.
#[derive(Debug)]
pub enum SlotEvent {
    /// A worker serves. `sockets` are non-blocking: one per thread of a WSGI worker, one per edge
    /// thread of an ASGI worker.
    WorkerReady {
        worker: WorkerId,
        generation: u64,
        pid: i32,
        interface: Interface,
        sockets: Vec<OwnedFd>,
    },
    /// A WSGI worker has one more thread.
    SlotAdded {
        worker: WorkerId,
        socket: OwnedFd,
    },
    /// No more leases; each slot is closed as its request ends.
    Draining {
        worker: WorkerId,
    },
    /// The process has ended.
    Gone {
        worker: WorkerId,
        how: Exit,
    },
    /// Workers of this generation serve from now on, and only they.
    GenerationSwitched {
        generation: u64,
    },
    State(PoolState),
}

/// What the supervisor is told to run and how.
#[derive(Debug, Clone)]
pub struct Plan {
    pub policy: Policy,
    /// The `load` message for a zygote; `generation` is filled in.
    pub load: serde_json::Value,
    /// Threads of a WSGI worker.
    pub threads: u32,
    /// Sockets of an ASGI worker.
    pub edge_threads: u32,
    /// Bytes of private memory over which a worker is replaced, and over which it is killed.
    pub memory_soft: Option<u64>,
    pub memory_hard: Option<u64>,
}

/// What the supervisor asks of the rest of the server.
#[derive(Debug)]
pub enum Request {
    /// The keeper is to start a zygote.
    StartZygote { generation: u64 },
    /// All workers of the first generation serve.
    Ready { interface: Interface },
    /// Everything has ended.
    Finish { code: u8 },
}

/// Speaks to the supervisor from anywhere in the server.
#[derive(Debug, Clone)]
pub struct SupervisorHandle {
    events: mpsc::UnboundedSender<shell::Input>,
}

impl SupervisorHandle {
    fn tell(&self, event: Event) {
        // The supervisor outlives every sender but at the very end, when nothing is left to do.
        let _ = self.events.send(shell::Input::Event(event));
    }

    /// A request got no response head in time.
    pub fn timed_out(&self, worker: WorkerId) {
        self.tell(Event::TimedOut { worker });
    }

    /// The worker has served its share.
    pub fn recycle(&self, worker: WorkerId, why: String) {
        self.tell(Event::Recycle { worker, why });
    }

    /// The worker broke the rules of the wire.
    pub fn misbehaved(&self, worker: WorkerId, text: String) {
        tracing::error!(worker = worker.0, "the worker broke the protocol: {text}");
        self.tell(Event::Recycle {
            worker,
            why: "it broke the protocol".to_owned(),
        });
    }

    pub fn reload(&self) {
        self.tell(Event::Reload);
    }

    /// More or fewer workers.
    pub fn adjust(&self, by: i32) {
        self.tell(Event::Adjust { by });
    }

    /// Ends all workers; not gracefully means at once.
    pub fn stop(&self, graceful: bool) {
        self.tell(Event::Stop { graceful });
    }

    /// The keeper has started a zygote; `plan` is what the config files say now.
    pub fn zygote_started(&self, zygote: Zygote, plan: Plan) {
        let _ = self
            .events
            .send(shell::Input::Zygote(zygote, Box::new(plan)));
    }

    /// The keeper could not start a zygote, or its config file is broken.
    pub fn zygote_failed(&self, generation: u64, exit: u8, text: String) {
        self.tell(Event::LoadFailed {
            generation,
            exit,
            text,
        });
    }
}

/// How often workers' memory is looked at.
const MEMORY_EVERY: Duration = Duration::from_secs(2);
