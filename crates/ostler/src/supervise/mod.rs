//! What should run, and making it so.
//!
//! [`state`] decides, as a pure machine. [`shell`] carries out: it speaks to zygotes and workers,
//! watches processes, and tells the pool which slots there are. Nothing here knows a request.

pub mod control;
mod hooks;
mod memory;
mod shell;
mod state;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

pub use crate::sys::Exit;
use crate::sys::fds;
pub use hooks::Hooks;
pub use memory::private as private_memory;
pub use shell::{Look, WorkerLook};
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
    /// No worker is ready, but one should be soon: requests wait in line.
    Starting,
    Serving,
    /// No worker is ready, and workers keep dying; `retry_after` is in seconds.
    CrashLooping {
        retry_after: u32,
    },
    Stopping,
}

/// What the pool learns of workers, in the order in which it happens. A worker is first heard of by
/// [`SlotEvent::WorkerReady`], once its generation serves.
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
        /// Where workers of its generation take requests by themselves; WSGI only.
        backlog: Option<Arc<Backlog>>,
    },
    /// A WSGI worker has one more thread.
    SlotAdded {
        worker: WorkerId,
        socket: OwnedFd,
    },
    /// No more leases; each slot is closed as its request ends, which have this long for that.
    Draining {
        worker: WorkerId,
        within: Duration,
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

/// A socket that keeps packets whole, from which all workers of a generation take requests.
#[derive(Debug)]
pub struct Backlog {
    /// Does not wait.
    pub sender: OwnedFd,
    pub receiver: OwnedFd,
}

impl Backlog {
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        let (sender, receiver) = fds::seqpacket_pair()?;
        Ok(Self { sender, receiver })
    }
}

/// What the supervisor is told to run and how.
#[derive(Debug, Clone)]
pub struct Plan {
    pub policy: Policy,
    /// The `load` message for a zygote; `type` and `generation` are filled in.
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
    /// Another generation serves from now on; `applied` when its settings are in force.
    Switched {
        generation: u64,
        applied: oneshot::Sender<()>,
    },
    /// The answer to each [`SupervisorHandle::reload`], in their order: this generation comes of it.
    Reloads { generation: u64 },
    /// All workers of a generation serve.
    Serves { generation: u64 },
    /// A generation did not come to that.
    GaveUp { generation: u64, why: String },
    /// Something went wrong: it is in the log as well.
    Trouble { text: String },
    /// Everything has ended.
    Finish { code: u8 },
}

/// Who asks how things stand waits this long: a supervisor that sends to a process that does not read
/// is back after a second.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// Speaks to the supervisor from anywhere in the server. No call waits.
#[derive(Debug, Clone)]
pub struct SupervisorHandle {
    inputs: mpsc::Sender<shell::Input>,
}

impl SupervisorHandle {
    fn tell(&self, event: Event) {
        self.send(shell::Input::Event(event));
    }

    fn send(&self, input: shell::Input) {
        // Closed: the supervisor outlives every sender but at the very end, when nothing is left
        // to do. Full: it hangs, and what it is not told now it would not hear anyway.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.inputs.try_send(input) {
            tracing::error!("the supervisor does not keep up; an event is lost");
        }
    }

    /// The worker has answered its first request. Called once for each worker: until then its end
    /// counts as that of an app which cannot serve.
    pub fn served(&self, worker: WorkerId) {
        self.tell(Event::Served { worker });
    }

    /// A request got no response head in time.
    pub fn timed_out(&self, worker: WorkerId) {
        self.tell(Event::TimedOut { worker });
    }

    /// The worker has served its share; it serves on until its turn to be replaced has come.
    pub fn recycle(&self, worker: WorkerId, why: String) {
        self.tell(Event::Recycle { worker, why });
    }

    /// The worker broke the rules of the wire; its other requests may end.
    pub fn misbehaved(&self, worker: WorkerId, text: String) {
        tracing::error!(worker = worker.0, "the worker broke the protocol: {text}");
        self.tell(Event::Replace {
            worker,
            why: "it broke the protocol".to_owned(),
        });
    }

    /// The worker has a slot less than it should have.
    pub fn lost_slot(&self, worker: WorkerId) {
        self.tell(Event::Replace {
            worker,
            why: "a slot was given up".to_owned(),
        });
    }

    /// The worker lives, but an edge thread cannot reach it any more.
    pub fn lost_channel(&self, worker: WorkerId) {
        self.tell(Event::Replace {
            worker,
            why: "it closed a socket to the server".to_owned(),
        });
    }

    /// A draining worker's last request has ended.
    pub fn drained(&self, worker: WorkerId) {
        self.tell(Event::Drained { worker });
    }

    /// How its workers stand; `None` when it has ended, or has too much to do to say so.
    pub async fn look(&self) -> Option<Look> {
        let (answer, looked) = oneshot::channel();
        self.send(shell::Input::Look(answer));
        let looked = tokio::time::timeout(LOOK_LIMIT, looked).await;
        looked.ok()?.ok()
    }

    /// Starts a generation in the place of the one that serves; the answer is [`Request::Reloads`].
    pub fn reload(&self) {
        self.send(shell::Input::Reload);
    }

    /// More or fewer workers.
    pub fn adjust(&self, by: i32) {
        self.tell(Event::Adjust { by });
    }

    /// Ends all workers. Their requests may go on for `within`; `None` means at once.
    pub fn stop(&self, within: Option<Duration>) {
        self.tell(Event::Stop { within });
    }

    /// The keeper has started a zygote; `plan` is what the config files say now.
    pub fn zygote_started(&self, zygote: Zygote, plan: Plan) {
        self.send(shell::Input::Zygote(zygote, Box::new(plan)));
    }

    /// The keeper could not start a zygote, its config file is broken, or what that asks for cannot
    /// be served.
    pub fn zygote_failed(&self, generation: u64, exit: u8, text: String) {
        self.tell(Event::LoadFailed {
            generation,
            exit,
            text,
        });
    }

    /// A zygote has ended.
    pub fn zygote_gone(&self, generation: u64, exit: Exit) {
        self.send(shell::Input::ZygoteExited(generation, exit));
    }
}
