//! Which workers should run: a pure state machine. Events and the time go in, actions come out; it
//! touches no process, socket or clock.
//!
//! A generation is one zygote and its workers. The live generation serves; during a reload the next
//! one starts beside it and takes over when all its workers are ready. Workers leave in one of two
//! ways: *leaving* (served its share, too much memory, lost a slot) it serves until its replacement
//! is ready; *draining* it takes nothing new and has until a deadline to end by itself.

mod crashes;
mod events;
mod look;
mod settle;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::{PoolState, WorkerId};
use crate::sys::{Exit, Signal};
use crashes::{Crashes, Lines};
pub use look::Stands;

/// How many workers, and how patient to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub workers: u32,
    /// A draining worker has this long to finish.
    pub graceful: Duration,
    /// The state of the app lives in its one process: there are never two of them, so a worker
    /// ends before its replacement starts, in a reload too.
    pub stop_first: bool,
}

/// A worker may import for this long before it is given up, and a zygote too.
const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// Between SIGABRT (Python may still say where it hangs) and SIGKILL.
const ABORT_GRACE: Duration = Duration::from_secs(2);

/// Exit handlers and lifespans have at least this long after the last request has ended.
const EXIT_GRACE: Duration = Duration::from_secs(5);

/// A worker that is told to end when the time of a stop is over is aborted after this, unless it
/// turns out to hold no request: the pool says so within moments.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A zygote without workers that was told to go has this long for the app's exit handlers.
const RETIRE_GRACE: Duration = Duration::from_secs(10);

/// A worker that has been ready for this long has proved itself, busy or not.
const PROVEN_AFTER: Duration = Duration::from_secs(10);

/// Most workers that TTIN can ask for: more is a mistake on any machine this runs on.
const MOST_WORKERS: u32 = 1024;

/// A generation has at most this many processes for each worker it should have, and one more: the
/// others are draining. Hung workers and a short timeout would otherwise pile up.
const PROCESSES_PER_WORKER: u32 = 2;

/// The exit code for an app that was not there in time, as gunicorn's for a failed boot.
const BOOT_FAILED: u8 = 3;

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The keeper has started a zygote, whose config file asks for this.
    ZygoteStarted {
        generation: u64,
        policy: Policy,
    },
    /// The zygote has loaded the app, or is ready to import it in each worker.
    Loaded {
        generation: u64,
    },
    /// There is no zygote, its settings cannot be served, or it could not load the app.
    LoadFailed {
        generation: u64,
        exit: u8,
        text: String,
    },
    ZygoteGone {
        generation: u64,
        exit: Exit,
    },
    Forked {
        worker: WorkerId,
        pid: u32,
    },
    Ready {
        worker: WorkerId,
    },
    /// The worker could not start; its exit follows.
    BootFailed {
        worker: WorkerId,
        exit: u8,
        text: String,
    },
    Exited {
        worker: WorkerId,
        exit: Exit,
    },
    /// It has answered its first request.
    Served {
        worker: WorkerId,
    },
    TimedOut {
        worker: WorkerId,
    },
    /// It should be replaced, in its turn.
    Recycle {
        worker: WorkerId,
        why: String,
    },
    /// It should be killed, in its turn.
    Excess {
        worker: WorkerId,
        why: String,
    },
    /// It serves less than it should and is to be replaced now.
    Replace {
        worker: WorkerId,
        why: String,
    },
    /// Its last request has ended while it was draining.
    Drained {
        worker: WorkerId,
    },
    Reload,
    Adjust {
        by: i32,
    },
    /// Requests may go on for this long; `None` ends everything at once.
    Stop {
        within: Option<Duration>,
    },
    /// Time passed; see [`Fleet::next_look`].
    Tick,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    StartZygote {
        generation: u64,
    },
    /// The zygote may load the app.
    Load {
        generation: u64,
    },
    Fork {
        generation: u64,
        worker: WorkerId,
        age: u64,
    },
    /// The zygote ends when its last worker has ended.
    RetireZygote {
        generation: u64,
    },
    KillZygote {
        generation: u64,
    },
    /// The pool may lease this worker.
    Admit {
        worker: WorkerId,
    },
    /// The pool must not lease this worker any more, whose requests have this long to end.
    Drain {
        worker: WorkerId,
        within: Duration,
    },
    Signal {
        worker: WorkerId,
        signal: Signal,
    },
    /// Workers of this generation serve from now on.
    Switch {
        generation: u64,
    },
    Gone {
        worker: WorkerId,
        exit: Exit,
    },
    Pool(PoolState),
    Say {
        level: Level,
        text: String,
    },
    /// All workers of the first generation are ready.
    WhenReady,
    /// Hooks of gunicorn's master are due.
    WorkersChanged {
        new: u32,
        old: Option<u32>,
    },
    Reloading,
    /// All workers that this generation should have are ready.
    Serves {
        generation: u64,
    },
    /// This generation could not start, or a worker of it.
    GaveUp {
        generation: u64,
        why: String,
    },
    /// Nothing is left to do; the server ends with this code.
    Finish {
        code: u8,
    },
}

/// How loud a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Info,
    Warning,
    Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Booting {
        until: Instant,
    },
    Ready {
        since: Instant,
    },
    /// Its replacement is starting; it serves until then.
    Leaving {
        since: Instant,
    },
    Draining {
        until: Instant,
        then: Then,
    },
}

/// What comes when a draining worker is still there at its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Abort,
    /// And again, should the kernel take its time (a process in uninterruptible sleep).
    Kill,
}

#[derive(Debug)]
struct Worker {
    generation: u64,
    phase: Phase,
    pid: Option<u32>,
    served: bool,
    timed_out: bool,
    /// Why it could not start, with its exit code.
    failed: Option<(u8, String)>,
}

impl Worker {
    /// Serves on until it is replaced, if it serves.
    fn leave(&mut self) {
        if let Phase::Ready { since } = self.phase {
            self.phase = Phase::Leaving { since };
        }
    }

    /// Its end does not speak against the app.
    fn proven(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Ready { since } | Phase::Leaving { since } => {
                self.served || now >= since + PROVEN_AFTER
            }
            Phase::Booting { .. } | Phase::Draining { .. } => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The keeper is starting the zygote.
    Asked,
    /// It has read its config file and waits until it may load the app.
    Configured,
    Loading {
        until: Instant,
    },
    Loaded,
    /// It ends with its last worker, or at this moment once there is none.
    Retiring {
        until: Option<Instant>,
    },
}

#[derive(Debug)]
struct Generation {
    stage: Stage,
    policy: Policy,
    /// Workers wanted: the policy's, and TTIN and TTOU since.
    target: u32,
}

/// A worker that waits for its turn to be replaced.
#[derive(Debug)]
struct Turn {
    worker: WorkerId,
    why: String,
    kill: bool,
}

/// All generations and workers.
#[derive(Debug)]
pub struct Fleet {
    workers: BTreeMap<WorkerId, Worker>,
    generations: BTreeMap<u64, Generation>,
    live: u64,
    /// The generation that is to take over.
    next: Option<u64>,
    last_generation: u64,
    last_worker: u64,
    /// A worker was ready, in this server or in one before it.
    ever_ready: bool,
    announced: bool,
    crashes: Crashes,
    /// All of them, for those who count.
    crashed: u64,
    lines: Lines,
    /// No fork in the live generation before this.
    hold: Option<Instant>,
    /// The live generation has no zygote; a new one is asked for at this moment.
    retry: Option<Instant>,
    /// At most one worker is replaced at a time; the others wait for their turn.
    recycling: Option<WorkerId>,
    queue: VecDeque<Turn>,
    told: Option<PoolState>,
    /// The last generation that was said to serve.
    said_to_serve: u64,
    stopping: bool,
    finished: bool,
}

impl Fleet {
    /// A fleet whose first generation (1) is being started. `resumed`: a server before this one
    /// had it running, so trouble is met with patience and not with an exit.
    pub fn new(policy: Policy, resumed: bool) -> Self {
        let target = policy.workers;
        let first = Generation {
            stage: Stage::Asked,
            policy,
            target,
        };
        Self {
            workers: BTreeMap::new(),
            generations: BTreeMap::from([(1, first)]),
            live: 1,
            next: None,
            last_generation: 1,
            last_worker: 0,
            ever_ready: resumed,
            announced: false,
            crashes: Crashes::default(),
            crashed: 0,
            lines: Lines::default(),
            hold: None,
            retry: None,
            recycling: None,
            queue: VecDeque::new(),
            told: None,
            said_to_serve: 0,
            stopping: false,
            finished: false,
        }
    }

    /// Takes one event in; the actions are to be carried out in order.
    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.finished {
            return actions;
        }
        self.take(event, now, &mut actions);
        self.settle(now, &mut actions);
        if self.finished {
            // What follows the end is nobody's to carry out.
            let end = actions
                .iter()
                .position(|action| matches!(action, Action::Finish { .. }));
            actions.truncate(end.map_or(actions.len(), |end| end + 1));
        }
        actions
    }

    /// When to call [`Fleet::step`] with [`Event::Tick`] at the latest.
    pub fn next_look(&self) -> Option<Instant> {
        let waits_for_proof = self.crashes.any();
        let workers = self
            .workers
            .values()
            .filter_map(|worker| match worker.phase {
                Phase::Booting { until } | Phase::Draining { until, .. } => Some(until),
                Phase::Ready { since } if waits_for_proof && worker.generation == self.live => {
                    Some(since + PROVEN_AFTER)
                }
                Phase::Ready { .. } | Phase::Leaving { .. } => None,
            });
        let zygotes = self
            .generations
            .values()
            .filter_map(|generation| match generation.stage {
                Stage::Loading { until } => Some(until),
                Stage::Retiring { until } => until,
                Stage::Asked | Stage::Configured | Stage::Loaded => None,
            });
        workers
            .chain(zygotes)
            .chain(self.hold)
            .chain(self.retry)
            .min()
    }

    // Pieces.

    fn drain(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let generation = self.workers.get(&id).map_or(0, |worker| worker.generation);
        let graceful = self
            .policy(generation)
            .map_or(EXIT_GRACE, |policy| policy.graceful);
        self.drain_within(graceful, id, now, actions);
    }

    /// Drains a worker whose requests may go on for `graceful`.
    fn drain_within(
        &mut self,
        graceful: Duration,
        id: WorkerId,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let (number, phase) = (worker.generation, worker.phase);
        let draining = |until| Phase::Draining {
            until,
            then: Then::Abort,
        };
        let (phase, action) = match phase {
            Phase::Draining { .. } => return,
            // It holds no request; what it may be in the middle of is its own start.
            Phase::Booting { .. } => (
                draining(now + EXIT_GRACE),
                Action::Signal {
                    worker: id,
                    signal: Signal::Term,
                },
            ),
            // The pool never heard of it: this is its end, not the closing of its slots.
            Phase::Ready { .. } if self.next == Some(number) => (
                draining(now + EXIT_GRACE),
                Action::Signal {
                    worker: id,
                    signal: Signal::Term,
                },
            ),
            Phase::Ready { .. } | Phase::Leaving { .. } => {
                let (worker, within) = (id, graceful);
                (draining(now + graceful), Action::Drain { worker, within })
            }
        };
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.phase = phase;
        }
        actions.push(action);
    }

    fn kill(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        if let Some(worker) = self.workers.get_mut(&id) {
            let admitted = matches!(worker.phase, Phase::Ready { .. } | Phase::Leaving { .. })
                && self.next != Some(worker.generation);
            worker.phase = Phase::Draining {
                until: now + ABORT_GRACE,
                then: Then::Kill,
            };
            if admitted {
                let (worker, within) = (id, Duration::ZERO);
                actions.push(Action::Drain { worker, within });
            }
            actions.push(Action::Signal {
                worker: id,
                signal: Signal::Kill,
            });
        }
    }

    fn finish(&mut self, code: u8, actions: &mut Vec<Action>) {
        self.finished = true;
        actions.push(Action::Finish { code });
    }

    fn ids(&self, chosen: impl Fn(&Worker) -> bool) -> Vec<WorkerId> {
        self.workers
            .iter()
            .filter(|(_, worker)| chosen(worker))
            .map(|(&id, _)| id)
            .collect()
    }

    /// Workers of a generation that are to stay. One that could not start is among them until its
    /// end is booked, which decides when the next one starts.
    fn staying(&self, generation: u64) -> u32 {
        let stays = |worker: &Worker| match worker.phase {
            Phase::Ready { .. } | Phase::Booting { .. } => true,
            Phase::Leaving { .. } | Phase::Draining { .. } => worker.failed.is_some(),
        };
        let of_it = self
            .workers
            .values()
            .filter(|worker| worker.generation == generation);
        count(of_it.filter(|worker| stays(worker)))
    }

    fn ready_in(&self, generation: u64) -> u32 {
        count(self.workers.values().filter(|worker| {
            worker.generation == generation && matches!(worker.phase, Phase::Ready { .. })
        }))
    }

    fn policy(&self, generation: u64) -> Option<&Policy> {
        self.generations
            .get(&generation)
            .map(|generation| &generation.policy)
    }

    fn target(&self, generation: u64) -> u32 {
        self.generations
            .get(&generation)
            .map_or(0, |generation| generation.target)
    }

    fn stage(&self, generation: u64) -> Option<Stage> {
        self.generations
            .get(&generation)
            .map(|generation| generation.stage)
    }

    fn stop_first(&self, generation: u64) -> bool {
        self.policy(generation)
            .is_some_and(|policy| policy.stop_first)
    }
}

fn count<T>(some: impl Iterator<Item = T>) -> u32 {
    u32::try_from(some.count()).unwrap_or(u32::MAX)
}

/// A worker as log lines call it.
fn name(id: WorkerId, worker: &Worker) -> String {
    match worker.pid {
        Some(pid) => format!("worker {} (pid {pid})", id.0),
        None => format!("worker {}", id.0),
    }
}

fn say(actions: &mut Vec<Action>, level: Level, text: String) {
    actions.push(Action::Say { level, text });
}
