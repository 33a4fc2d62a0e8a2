//! Which workers should run: a pure state machine. Events and the time go in, actions come out; it
//! touches no process, socket or clock.
//!
//! A generation is one zygote and its workers. The live generation serves; during a reload the next
//! one starts beside it and takes over when all its workers are ready. A worker that must go
//! (served its share, timed out, misbehaved) is leaving: its replacement starts first.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{PoolState, WorkerId};
use crate::sys::{Exit, Signal};

/// How many workers, and how patient to be.
#[derive(Debug, Clone)]
pub struct Policy {
    pub workers: u32,
    /// A draining worker has this long to finish.
    pub graceful: Duration,
    /// The old generation must be gone before the next one starts (state in one process).
    pub stop_first: bool,
}

/// A worker may import for this long before it is given up.
const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// Between SIGABRT (Python may still say where it hangs) and SIGKILL.
const ABORT_GRACE: Duration = Duration::from_secs(2);

/// Restart delays double from the first to the last (threats W-05).
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(30);

/// This many unexpected exits within the window are a crash loop.
const LOOP_EXITS: usize = 5;
const LOOP_WINDOW: Duration = Duration::from_secs(30);

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The zygote has loaded the app, or is ready to import it in each worker.
    Loaded {
        generation: u64,
    },
    LoadFailed {
        generation: u64,
        exit: u8,
        text: String,
    },
    ZygoteGone {
        generation: u64,
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
    TimedOut {
        worker: WorkerId,
    },
    Recycle {
        worker: WorkerId,
        why: String,
    },
    Reload,
    Adjust {
        by: i32,
    },
    Policy(Policy),
    /// `graceful` false ends everything at once.
    Stop {
        graceful: bool,
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
    Fork {
        generation: u64,
        worker: WorkerId,
        age: u64,
    },
    RetireZygote {
        generation: u64,
    },
    KillZygote {
        generation: u64,
    },
    /// The pool must not lease this worker any more.
    Drain {
        worker: WorkerId,
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
    /// A hook of gunicorn's master is due.
    WhenReady,
    WorkersChanged {
        new: u32,
        old: u32,
    },
    Reloaded,
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
        since: Instant,
    },
    Ready,
    /// Its replacement is starting; it serves until then.
    Leaving,
    Draining {
        until: Instant,
        aborted: bool,
    },
}

#[derive(Debug)]
struct Worker {
    generation: u64,
    phase: Phase,
    /// It said why it could not start.
    failed: Option<(u8, String)>,
}

/// All generations and workers.
#[derive(Debug)]
pub struct Fleet {
    policy: Policy,
    workers: BTreeMap<WorkerId, Worker>,
    /// Loaded zygotes.
    loaded: Vec<u64>,
    /// Zygotes that have been told to go, or are gone.
    retired: Vec<u64>,
    live: u64,
    /// The generation that is to take over.
    next: Option<u64>,
    last_generation: u64,
    last_worker: u64,
    ever_ready: bool,
    exits: Vec<Instant>,
    delay: Duration,
    /// No fork before this.
    hold: Option<Instant>,
    looping: bool,
    serving: bool,
    stopping: bool,
    finished: bool,
}

impl Fleet {
    /// A fleet whose first generation (1) is being loaded.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            workers: BTreeMap::new(),
            loaded: Vec::new(),
            retired: Vec::new(),
            live: 1,
            next: None,
            last_generation: 1,
            last_worker: 0,
            ever_ready: false,
            exits: Vec::new(),
            delay: FIRST_DELAY,
            hold: None,
            looping: false,
            serving: false,
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
        match event {
            Event::Loaded { generation } => self.loaded.push(generation),
            Event::LoadFailed {
                generation,
                exit,
                text,
            } => {
                self.load_failed(generation, exit, text, &mut actions);
            }
            Event::ZygoteGone { generation } => self.zygote_gone(generation, now, &mut actions),
            Event::Ready { worker } => self.ready(worker, now, &mut actions),
            Event::BootFailed { worker, exit, text } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.failed = Some((exit, text));
                }
            }
            Event::Exited { worker, exit } => self.exited(worker, exit, now, &mut actions),
            Event::TimedOut { worker } => self.timed_out(worker, now, &mut actions),
            Event::Recycle { worker, why } => self.recycle(worker, &why, &mut actions),
            Event::Tick => {}
            Event::Reload => self.reload(now, &mut actions),
            Event::Adjust { by } => self.adjust(by, now, &mut actions),
            Event::Policy(policy) => self.policy = policy,
            Event::Stop { graceful } => self.stop(graceful, now, &mut actions),
        }
        self.settle(now, &mut actions);
        actions
    }

    /// When to call [`Fleet::step`] with [`Event::Tick`] at the latest.
    pub fn next_look(&self) -> Option<Instant> {
        let workers = self
            .workers
            .values()
            .filter_map(|worker| match worker.phase {
                Phase::Booting { since } => Some(since + BOOT_LIMIT),
                Phase::Draining { until, .. } => Some(until),
                Phase::Ready | Phase::Leaving => None,
            });
        workers.chain(self.hold).min()
    }

    /// Workers that are ready, of those that should be.
    pub fn count(&self) -> (u32, u32) {
        let ready = |worker: &&Worker| matches!(worker.phase, Phase::Ready | Phase::Leaving);
        (
            self.workers.values().filter(ready).count() as u32,
            self.policy.workers,
        )
    }

    // What follows from every event.

    fn settle(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.enforce(now, actions);
        if self.stopping {
            return self.settle_stop(actions);
        }
        if self.hold.is_some_and(|hold| now >= hold) {
            self.hold = None;
        }
        self.fork_missing(now, actions);
        self.switch_when_ready(now, actions);
        self.shrink(now, actions);
        self.say_state(actions);
    }

    /// Deadlines of workers that boot or drain.
    fn enforce(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for (&id, worker) in &mut self.workers {
            match worker.phase {
                Phase::Booting { since } if now >= since + BOOT_LIMIT => {
                    say(
                        actions,
                        Level::Error,
                        format!(
                            "worker {} was not ready within {} s and is killed",
                            id.0,
                            BOOT_LIMIT.as_secs()
                        ),
                    );
                    worker.phase = Phase::Draining {
                        until: now + ABORT_GRACE,
                        aborted: true,
                    };
                    actions.push(Action::Signal {
                        worker: id,
                        signal: Signal::Kill,
                    });
                }
                Phase::Draining {
                    until,
                    aborted: false,
                } if now >= until => {
                    say(
                        actions,
                        Level::Warning,
                        format!(
                            "worker {} did not finish within the graceful timeout and is aborted",
                            id.0
                        ),
                    );
                    worker.phase = Phase::Draining {
                        until: now + ABORT_GRACE,
                        aborted: true,
                    };
                    actions.push(Action::Signal {
                        worker: id,
                        signal: Signal::Abort,
                    });
                }
                Phase::Draining {
                    until,
                    aborted: true,
                } if now >= until => {
                    worker.phase = Phase::Draining {
                        until: now + ABORT_GRACE,
                        aborted: true,
                    };
                    actions.push(Action::Signal {
                        worker: id,
                        signal: Signal::Kill,
                    });
                }
                _ => {}
            }
        }
    }

    /// Starts what is missing: in the live generation, and in the next one.
    fn fork_missing(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for generation in [Some(self.live), self.next].into_iter().flatten() {
            if !self.loaded.contains(&generation) {
                continue;
            }
            while self.hold.is_none() && self.staying(generation) < self.policy.workers {
                self.last_worker += 1;
                let worker = WorkerId(self.last_worker);
                let phase = Phase::Booting { since: now };
                self.workers.insert(
                    worker,
                    Worker {
                        generation,
                        phase,
                        failed: None,
                    },
                );
                actions.push(Action::Fork {
                    generation,
                    worker,
                    age: self.last_worker,
                });
            }
        }
    }

    /// Workers of a generation that are to stay.
    fn staying(&self, generation: u64) -> u32 {
        let stays = |worker: &&Worker| {
            worker.generation == generation
                && matches!(worker.phase, Phase::Ready | Phase::Booting { .. })
        };
        self.workers.values().filter(stays).count() as u32
    }

    fn ready_in(&self, generation: u64) -> u32 {
        let ready = |worker: &&Worker| {
            worker.generation == generation && matches!(worker.phase, Phase::Ready)
        };
        self.workers.values().filter(ready).count() as u32
    }

    /// The next generation takes over when it is complete.
    fn switch_when_ready(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(next) = self.next else { return };
        if self.ready_in(next) < self.policy.workers {
            return;
        }
        let old = std::mem::replace(&mut self.live, next);
        self.next = None;
        actions.push(Action::Switch { generation: next });
        self.drain_generation(old, now, actions);
        self.retire(old, actions);
        actions.push(Action::Reloaded);
    }

    fn drain_generation(&mut self, generation: u64, now: Instant, actions: &mut Vec<Action>) {
        let ids: Vec<_> = self.ids(|worker| worker.generation == generation);
        for id in ids {
            self.drain(id, now, actions);
        }
    }

    fn ids(&self, chosen: impl Fn(&Worker) -> bool) -> Vec<WorkerId> {
        self.workers
            .iter()
            .filter(|(_, worker)| chosen(worker))
            .map(|(&id, _)| id)
            .collect()
    }

    fn drain(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let until = now + self.policy.graceful;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        match worker.phase {
            Phase::Draining { .. } => {}
            Phase::Booting { .. } => {
                worker.phase = Phase::Draining {
                    until,
                    aborted: false,
                };
                actions.push(Action::Signal {
                    worker: id,
                    signal: Signal::Kill,
                });
            }
            Phase::Ready | Phase::Leaving => {
                worker.phase = Phase::Draining {
                    until,
                    aborted: false,
                };
                actions.push(Action::Drain { worker: id });
            }
        }
    }

    fn retire(&mut self, generation: u64, actions: &mut Vec<Action>) {
        self.loaded.retain(|&loaded| loaded != generation);
        if !self.retired.contains(&generation) {
            self.retired.push(generation);
            actions.push(Action::RetireZygote { generation });
        }
    }

    /// Drains what is too much: workers that leave and are replaced, or a smaller target.
    fn shrink(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let live = self.live;
        if self.ready_in(live) >= self.policy.workers {
            let leaving =
                self.ids(|worker| worker.generation == live && worker.phase == Phase::Leaving);
            for id in leaving {
                self.drain(id, now, actions);
            }
        }
        let ready = self.ids(|worker| worker.generation == live && worker.phase == Phase::Ready);
        let surplus = (ready.len() as u32).saturating_sub(self.policy.workers) as usize;
        for &id in ready.iter().take(surplus) {
            self.drain(id, now, actions);
        }
    }

    fn say_state(&mut self, actions: &mut Vec<Action>) {
        let serving = self.count().0 > 0;
        if serving && !self.serving {
            actions.push(Action::Pool(PoolState::Serving));
        }
        self.serving = serving;
    }

    // One event each.

    fn load_failed(&mut self, generation: u64, exit: u8, text: String, actions: &mut Vec<Action>) {
        say(actions, Level::Error, text);
        if self.next == Some(generation) {
            return self.abandon(generation, "its app could not be loaded", actions);
        }
        if generation == self.live && !self.ever_ready {
            return self.finish(exit, actions);
        }
        if generation == self.live {
            self.retire(generation, actions);
        }
    }

    /// A new generation that cannot start leaves the old one as it is.
    fn abandon(&mut self, generation: u64, why: &str, actions: &mut Vec<Action>) {
        say(
            actions,
            Level::Error,
            format!("reload failed: {why}; the running workers stay"),
        );
        self.next = None;
        self.loaded.retain(|&loaded| loaded != generation);
        self.retired.push(generation);
        actions.push(Action::KillZygote { generation });
    }

    /// Its workers die with a zygote; the pidfds say so one by one. The generation starts anew.
    fn zygote_gone(&mut self, generation: u64, now: Instant, actions: &mut Vec<Action>) {
        let expected = self.retired.contains(&generation);
        self.loaded.retain(|&loaded| loaded != generation);
        for id in self.ids(|worker| worker.generation == generation) {
            self.exited(id, Exit::Unknown, now, actions);
        }
        if expected || self.finished || self.stopping {
            return;
        }
        if self.next == Some(generation) {
            return self.abandon(generation, "its zygote ended", actions);
        }
        if generation == self.live {
            if !self.ever_ready {
                return self.finish(1, actions);
            }
            say(
                actions,
                Level::Error,
                "the zygote ended unexpectedly; a new one starts".to_owned(),
            );
            self.last_generation += 1;
            self.live = self.last_generation;
            actions.push(Action::StartZygote {
                generation: self.live,
            });
            actions.push(Action::Switch {
                generation: self.live,
            });
        }
    }

    fn ready(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if !matches!(worker.phase, Phase::Booting { .. }) {
            return;
        }
        worker.phase = Phase::Ready;
        self.hold = None;
        if self.looping {
            self.looping = false;
            say(actions, Level::Info, "a worker is ready again".to_owned());
        }
        self.exits.retain(|&exit| now - exit < LOOP_WINDOW);
        if self.exits.is_empty() {
            self.delay = FIRST_DELAY;
        }
        if !self.ever_ready && self.ready_in(self.live) >= self.policy.workers {
            self.ever_ready = true;
            actions.push(Action::WhenReady);
        }
    }

    fn exited(&mut self, id: WorkerId, exit: Exit, now: Instant, actions: &mut Vec<Action>) {
        let Some(worker) = self.workers.remove(&id) else {
            return;
        };
        actions.push(Action::Gone { worker: id, exit });
        if matches!(worker.phase, Phase::Draining { .. }) || self.stopping {
            return;
        }
        let booted = !matches!(worker.phase, Phase::Booting { .. });
        let (code, why) = match worker.failed {
            Some((code, text)) => (Some(code), text),
            None => (None, format!("worker {} ended unexpectedly: {exit}", id.0)),
        };
        if self.next == Some(worker.generation) {
            say(actions, Level::Error, why);
            let generation = worker.generation;
            for id in self.ids(|worker| worker.generation == generation) {
                self.drain(id, now, actions);
            }
            return self.abandon(generation, "a new worker could not start", actions);
        }
        if !self.ever_ready
            && !booted
            && let Some(code) = code
        {
            say(actions, Level::Error, why);
            return self.finish(code, actions);
        }
        if !self.looping {
            say(actions, Level::Error, why);
        }
        self.crashed(now, actions);
    }

    /// Books an unexpected exit: the next start waits, longer each time.
    fn crashed(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.exits.retain(|&exit| now - exit < LOOP_WINDOW);
        self.exits.push(now);
        let many = self.exits.len() >= LOOP_EXITS;
        if many && !self.ever_ready {
            say(
                actions,
                Level::Error,
                "workers keep ending before the first one is ready".to_owned(),
            );
            return self.finish(1, actions);
        }
        // The first crash in a while is replaced at once: a lone crash should cost no capacity.
        if self.exits.len() > 1 || !self.ever_ready {
            self.hold = Some(now + self.delay);
            self.delay = (self.delay * 2).min(LAST_DELAY);
        }
        let none_ready = self.count().0 == 0;
        if many && none_ready {
            let retry_after = self.delay.as_secs().max(1) as u32;
            if !self.looping {
                say(
                    actions,
                    Level::Error,
                    format!(
                        "crash loop: {} workers ended within {} s; the next start waits, visitors get 503",
                        self.exits.len(),
                        LOOP_WINDOW.as_secs()
                    ),
                );
            }
            self.looping = true;
            actions.push(Action::Pool(PoolState::CrashLooping { retry_after }));
        }
    }

    /// Takes nothing new at once; its replacement has started before it is told to go.
    fn timed_out(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if matches!(worker.phase, Phase::Draining { .. }) {
            return;
        }
        worker.phase = Phase::Leaving;
        actions.push(Action::Signal {
            worker: id,
            signal: Signal::Dump,
        });
        if !self.stopping {
            self.hold = None;
            self.fork_missing(now, actions);
        }
        self.drain(id, now, actions);
    }

    fn recycle(&mut self, id: WorkerId, why: &str, actions: &mut Vec<Action>) {
        if let Some(worker) = self.workers.get_mut(&id)
            && worker.phase == Phase::Ready
        {
            worker.phase = Phase::Leaving;
            say(
                actions,
                Level::Info,
                format!("worker {} is replaced: {why}", id.0),
            );
        }
    }

    fn reload(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.stopping {
            return;
        }
        if let Some(next) = self.next.take() {
            // The newest files win: what was starting is of no use any more.
            self.drain_generation(next, now, actions);
            self.loaded.retain(|&loaded| loaded != next);
            self.retired.push(next);
            actions.push(Action::KillZygote { generation: next });
        }
        self.last_generation += 1;
        say(
            actions,
            Level::Info,
            format!("reload: generation {} starts", self.last_generation),
        );
        if self.policy.stop_first {
            let old = std::mem::replace(&mut self.live, self.last_generation);
            self.drain_generation(old, now, actions);
            self.retire(old, actions);
            actions.push(Action::Switch {
                generation: self.live,
            });
        } else {
            self.next = Some(self.last_generation);
        }
        actions.push(Action::StartZygote {
            generation: self.last_generation,
        });
    }

    fn adjust(&mut self, by: i32, now: Instant, actions: &mut Vec<Action>) {
        let old = self.policy.workers;
        self.policy.workers = old.saturating_add_signed(by).max(1);
        if self.policy.workers != old {
            let new = self.policy.workers;
            say(actions, Level::Info, format!("workers: {old} → {new}"));
            actions.push(Action::WorkersChanged { new, old });
            self.shrink(now, actions);
        }
    }

    fn stop(&mut self, graceful: bool, now: Instant, actions: &mut Vec<Action>) {
        if !self.stopping {
            self.stopping = true;
            actions.push(Action::Pool(PoolState::Stopping));
        }
        for id in self.ids(|_| true) {
            if graceful {
                self.drain(id, now, actions);
            } else if let Some(worker) = self.workers.get_mut(&id) {
                // Python may still run its worker_int hook; the kernel has the last word.
                worker.phase = Phase::Draining {
                    until: now + ABORT_GRACE,
                    aborted: true,
                };
                actions.push(Action::Signal {
                    worker: id,
                    signal: Signal::Quit,
                });
            }
        }
    }

    fn settle_stop(&mut self, actions: &mut Vec<Action>) {
        if self.workers.is_empty() && !self.finished {
            for generation in std::mem::take(&mut self.loaded) {
                actions.push(Action::RetireZygote { generation });
            }
            self.finish(0, actions);
        }
    }

    fn finish(&mut self, code: u8, actions: &mut Vec<Action>) {
        self.finished = true;
        actions.push(Action::Finish { code });
    }
}

fn say(actions: &mut Vec<Action>, level: Level, text: String) {
    actions.push(Action::Say { level, text });
}
