//! What follows from every event: deadlines, turns, forks, the switch to the next generation.

use std::time::{Duration, Instant};

use super::{
    ABORT_GRACE, Action, BOOT_FAILED, BOOT_LIMIT, Fleet, Generation, Level, PROCESSES_PER_WORKER,
    PROVEN_AFTER, Phase, Policy, PoolState, RETIRE_GRACE, Signal, Stage, Then, Turn, Worker,
    WorkerId, count, name, say,
};

impl Fleet {
    pub(super) fn settle(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.enforce(now, actions);
        if self.stopping {
            self.settle_stop(actions);
        } else if !self.finished {
            self.forgive_if_proven(now, actions);
            self.ask_again(now, actions);
            self.load_next(now, actions);
            self.take_turns(now, actions);
            self.fork_missing(now, actions);
            self.switch_when_ready(now, actions);
            self.release_leaving(now, actions);
            self.shrink(now, actions);
        }
        self.retire_empty(now, actions);
        self.tell_pool(now, actions);
        self.announce(actions);
        self.say_who_serves(actions);
    }

    /// Deadlines of workers that boot or drain, and of zygotes that load.
    fn enforce(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for (&id, worker) in &mut self.workers {
            match worker.phase {
                Phase::Booting { until } if now >= until => {
                    let limit = BOOT_LIMIT.as_secs();
                    let text = format!("{} was not ready within {limit} s", name(id, worker));
                    worker.failed = Some((BOOT_FAILED, text));
                    worker.phase = Phase::Draining {
                        until: now + ABORT_GRACE,
                        then: Then::Kill,
                    };
                    actions.push(Action::Signal {
                        worker: id,
                        signal: Signal::Abort,
                    });
                }
                Phase::Draining {
                    until,
                    then: Then::Abort,
                } if now >= until => {
                    let text = format!("{} did not end in time and is aborted", name(id, worker));
                    say(actions, Level::Warning, text);
                    worker.phase = Phase::Draining {
                        until: now + ABORT_GRACE,
                        then: Then::Kill,
                    };
                    actions.push(Action::Signal {
                        worker: id,
                        signal: Signal::Abort,
                    });
                }
                Phase::Draining {
                    until,
                    then: Then::Kill,
                } if now >= until => {
                    let text = format!("{} is still there and is killed", name(id, worker));
                    say(actions, Level::Warning, text);
                    worker.phase = Phase::Draining {
                        until: now + ABORT_GRACE,
                        then: Then::Kill,
                    };
                    actions.push(Action::Signal {
                        worker: id,
                        signal: Signal::Kill,
                    });
                }
                Phase::Booting { .. }
                | Phase::Ready { .. }
                | Phase::Leaving { .. }
                | Phase::Draining { .. } => {}
            }
        }
        let late = |generation: &Generation| match generation.stage {
            Stage::Loading { until } => now >= until,
            _ => false,
        };
        let hung = self
            .generations
            .iter()
            .find(|(_, generation)| late(generation));
        if let Some((&generation, _)) = hung {
            let text = format!("the app was not imported within {} s", BOOT_LIMIT.as_secs());
            self.load_failed(generation, BOOT_FAILED, text, now, actions);
        }
    }

    /// A worker that has been ready for a while ends the back-off, although nobody asked it
    /// anything.
    fn forgive_if_proven(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let proven = self.workers.values().any(|worker| {
            worker.generation == self.live
                && matches!(worker.phase, Phase::Ready { since } if now >= since + PROVEN_AFTER)
        });
        if proven && self.crashes.any() {
            self.forgive(actions);
        }
    }

    pub(super) fn forgive(&mut self, actions: &mut Vec<Action>) {
        self.hold = None;
        if self.crashes.forgive() {
            say(
                actions,
                Level::Info,
                "the crash loop is over: a worker serves".to_owned(),
            );
        }
    }

    /// Asks for a zygote again once the wait is over.
    fn ask_again(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.retry.is_some_and(|at| now >= at) {
            self.retry = None;
            self.live = self.start_generation(actions);
        }
        if self.hold.is_some_and(|at| now >= at) {
            self.hold = None;
        }
    }

    pub(super) fn start_generation(&mut self, actions: &mut Vec<Action>) -> u64 {
        self.last_generation += 1;
        let number = self.last_generation;
        // Until its own config file has spoken, what holds is what held.
        let policy = self
            .generations
            .values()
            .next_back()
            .map(|last| last.policy.clone());
        let policy = policy.unwrap_or(Policy {
            workers: 1,
            graceful: Duration::from_secs(30),
            stop_first: false,
        });
        let target = policy.workers;
        self.generations.insert(
            number,
            Generation {
                stage: Stage::Asked,
                policy,
                target,
            },
        );
        actions.push(Action::StartZygote { generation: number });
        number
    }

    /// Lets configured zygotes load: at once, or where two processes must not meet, when the old
    /// ones are gone.
    fn load_next(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let busy = !self.workers.is_empty();
        let live_alone = self.stop_first(self.live);
        for (&number, generation) in &mut self.generations {
            let waits = busy && (generation.policy.stop_first || live_alone);
            if generation.stage == Stage::Configured && !waits {
                generation.stage = Stage::Loading {
                    until: now + BOOT_LIMIT,
                };
                actions.push(Action::Load { generation: number });
            }
        }
    }

    /// Starts the next replacement when none is under way.
    fn take_turns(&mut self, now: Instant, actions: &mut Vec<Action>) {
        while self.recycling.is_none()
            && let Some(turn) = self.queue.pop_front()
        {
            let Turn {
                worker: id,
                why,
                kill,
            } = turn;
            let stop_first = self
                .policy(self.live)
                .is_some_and(|policy| policy.stop_first);
            let Some(worker) = self.workers.get_mut(&id) else {
                continue;
            };
            if worker.generation != self.live || !matches!(worker.phase, Phase::Ready { .. }) {
                continue;
            }
            self.recycling = Some(id);
            let end = if kill { "killed" } else { "replaced" };
            say(
                actions,
                Level::Info,
                format!("{} is {end}: {why}", name(id, worker)),
            );
            match (kill, stop_first) {
                (true, _) => self.kill(id, now, actions),
                (false, true) => self.drain(id, now, actions),
                (false, false) => worker.leave(),
            }
        }
    }

    /// Starts what is missing: in the live generation, and in the next one.
    pub(super) fn fork_missing(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for generation in [Some(self.live), self.next].into_iter().flatten() {
            let held = generation == self.live && (self.hold.is_some() || self.gives_way());
            let loaded = self.stage(generation) == Some(Stage::Loaded);
            if held || !loaded {
                continue;
            }
            let missing = self
                .target(generation)
                .saturating_sub(self.staying(generation));
            let room = self.room(generation);
            for _ in 0..missing.min(room) {
                self.fork(generation, now, actions);
            }
            if missing > room && !self.stop_first(generation) {
                self.hurry(generation, now, actions);
            }
        }
    }

    fn fork(&mut self, generation: u64, now: Instant, actions: &mut Vec<Action>) {
        self.last_worker += 1;
        let worker = WorkerId(self.last_worker);
        self.workers.insert(
            worker,
            Worker {
                generation,
                phase: Phase::Booting {
                    until: now + BOOT_LIMIT,
                },
                pid: None,
                served: false,
                timed_out: false,
                failed: None,
            },
        );
        actions.push(Action::Fork {
            generation,
            worker,
            age: self.last_worker,
        });
    }

    /// The live generation makes room for the next one, which must not meet it.
    fn gives_way(&self) -> bool {
        self.next.is_some_and(|next| {
            let configured = !matches!(self.stage(next), None | Some(Stage::Asked));
            configured && (self.stop_first(next) || self.stop_first(self.live))
        })
    }

    /// How many more processes a generation may have.
    fn room(&self, generation: u64) -> u32 {
        let target = self.target(generation);
        let most = match self.stop_first(generation) {
            true => target,
            false => target * PROCESSES_PER_WORKER + 1,
        };
        let of_it = |worker: &&Worker| worker.generation == generation;
        most.saturating_sub(count(self.workers.values().filter(of_it)))
    }

    /// Too many are draining to replace the rest: the one that has been at it longest goes now.
    fn hurry(&mut self, generation: u64, now: Instant, actions: &mut Vec<Action>) {
        let of_it = |worker: &&Worker| worker.generation == generation;
        let ending = |worker: &Worker| {
            matches!(
                worker.phase,
                Phase::Draining {
                    then: Then::Kill,
                    ..
                }
            )
        };
        if self.workers.values().filter(of_it).any(ending) {
            // One at a time: when it has ended there is room, and the next step looks again.
            return;
        }
        let mut draining = self
            .workers
            .iter_mut()
            .filter_map(|(&id, worker)| match worker.phase {
                Phase::Draining {
                    until,
                    then: Then::Abort,
                } if worker.generation == generation => Some((until, id, worker)),
                _ => None,
            });
        let Some(first) = draining.next() else { return };
        let (_, id, worker) = draining.fold(first, |a, b| if b.0 < a.0 { b } else { a });
        let text = format!(
            "{} is aborted: too many workers are draining",
            name(id, worker)
        );
        say(actions, Level::Warning, text);
        worker.phase = Phase::Draining {
            until: now + ABORT_GRACE,
            then: Then::Kill,
        };
        actions.push(Action::Signal {
            worker: id,
            signal: Signal::Abort,
        });
    }

    /// The next generation takes over when it is complete.
    fn switch_when_ready(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(next) = self.next else { return };
        let complete =
            self.stage(next) == Some(Stage::Loaded) && self.ready_in(next) >= self.target(next);
        if complete {
            let old = self.live;
            self.go_live(next, actions);
            self.retire(old, now, actions);
            say(
                actions,
                Level::Info,
                format!("reload complete: generation {next} serves"),
            );
        }
    }

    /// Workers of `generation` serve from now on, those that are ready at once.
    pub(super) fn go_live(&mut self, generation: u64, actions: &mut Vec<Action>) {
        self.live = generation;
        self.next = None;
        self.queue.clear();
        self.recycling = None;
        self.hold = None;
        self.retry = None;
        self.crashes.forgive();
        actions.push(Action::Switch { generation });
        let ready = |worker: &Worker| matches!(worker.phase, Phase::Ready { .. });
        for worker in self.ids(|worker| worker.generation == generation && ready(worker)) {
            self.ever_ready = true;
            actions.push(Action::Admit { worker });
        }
    }

    /// Drains a generation; its zygote ends with its last worker.
    fn retire(&mut self, generation: u64, now: Instant, actions: &mut Vec<Action>) {
        for id in self.ids(|worker| worker.generation == generation) {
            self.drain(id, now, actions);
        }
        match self.generations.get_mut(&generation) {
            // It has not even started; when it has, nobody will want it.
            Some(Generation {
                stage: Stage::Asked,
                ..
            })
            | None => {
                self.generations.remove(&generation);
            }
            Some(old) => {
                old.stage = Stage::Retiring { until: None };
                actions.push(Action::RetireZygote { generation });
            }
        }
    }

    /// A leaving worker drains once everything it is to be replaced by is ready.
    fn release_leaving(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.ready_in(self.live) >= self.target(self.live) {
            for id in self.ids(|worker| matches!(worker.phase, Phase::Leaving { .. })) {
                self.drain(id, now, actions);
            }
        }
    }

    /// Ends what is too much after TTOU: of the ready ones the oldest, as gunicorn does.
    fn shrink(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let live = self.live;
        let target = self.target(live);
        while self.staying(live) > target {
            let ready = |worker: &Worker| matches!(worker.phase, Phase::Ready { .. });
            let booting = |worker: &Worker| matches!(worker.phase, Phase::Booting { .. });
            let surplus = match self.ready_in(live) > target {
                true => self
                    .ids(|worker| worker.generation == live && ready(worker))
                    .first()
                    .copied(),
                false => self
                    .ids(|worker| worker.generation == live && booting(worker))
                    .last()
                    .copied(),
            };
            let Some(surplus) = surplus else { return };
            self.drain(surplus, now, actions);
        }
    }

    /// Says once that the app is up.
    fn announce(&mut self, actions: &mut Vec<Action>) {
        let up = self.stage(self.live) == Some(Stage::Loaded)
            && self.ready_in(self.live) >= self.target(self.live);
        if up && !self.announced && !self.stopping {
            self.announced = true;
            actions.push(Action::WhenReady);
        }
    }

    /// Zygotes that were told to go and have no worker any more end soon, or are killed.
    fn retire_empty(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let mut overdue = Vec::new();
        for (&number, generation) in &mut self.generations {
            let empty = !self
                .workers
                .values()
                .any(|worker| worker.generation == number);
            match generation.stage {
                Stage::Retiring { until: None } if empty => {
                    generation.stage = Stage::Retiring {
                        until: Some(now + RETIRE_GRACE),
                    };
                }
                Stage::Retiring { until: Some(until) } if now >= until => overdue.push(number),
                _ => {}
            }
        }
        for generation in overdue {
            self.generations.remove(&generation);
            actions.push(Action::KillZygote { generation });
        }
    }

    fn settle_stop(&mut self, actions: &mut Vec<Action>) {
        if self.workers.is_empty() && !self.finished {
            say(actions, Level::Info, "all workers have ended".to_owned());
            self.finish(0, actions);
        }
    }

    fn tell_pool(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let state = self.pool_state(now);
        // The seconds of a crash loop are told when it begins and with each new wait, not as they
        // pass.
        let same = match (self.told, state) {
            (
                Some(PoolState::CrashLooping { retry_after: told }),
                PoolState::CrashLooping { retry_after },
            ) => retry_after <= told,
            (told, state) => told == Some(state),
        };
        if !same {
            self.told = Some(state);
            actions.push(Action::Pool(state));
        }
    }

    pub(super) fn pool_state(&self, now: Instant) -> PoolState {
        let serves = |worker: &Worker| {
            worker.generation == self.live
                && matches!(worker.phase, Phase::Ready { .. } | Phase::Leaving { .. })
        };
        if self.stopping {
            PoolState::Stopping
        } else if self.workers.values().any(serves) {
            PoolState::Serving
        } else if self.crashes.looping() {
            let next_try = self.hold.into_iter().chain(self.retry).max();
            let wait = next_try.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
            PoolState::CrashLooping {
                retry_after: wait.as_secs() as u32 + 1,
            }
        } else {
            PoolState::Starting
        }
    }
}
