//! One function for each event of the fleet.

use std::time::{Duration, Instant};

use super::{
    ABORT_GRACE, Action, BOOT_FAILED, EXIT_GRACE, Event, Exit, Fleet, LAST_WORD, Level,
    MOST_WORKERS, Phase, Policy, Signal, Stage, Then, Turn, Worker, WorkerId, crashes,
    look::gave_up, name, say,
};

/// Exit codes by which a worker says that the app cannot be imported or is not there: as gunicorn.
const HOPELESS: [i32; 2] = [3, 4];

impl Fleet {
    pub(super) fn take(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        match event {
            Event::ZygoteStarted { generation, policy } => {
                self.zygote_started(generation, policy, now, actions);
            }
            Event::Loaded { generation } => self.loaded(generation, actions),
            Event::LoadFailed {
                generation,
                exit,
                text,
            } => {
                self.load_failed(generation, exit, text, now, actions);
            }
            Event::ZygoteGone { generation, exit } => {
                self.zygote_gone(generation, exit, now, actions);
            }
            Event::Forked { worker, pid } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.pid = Some(pid);
                }
            }
            Event::Ready { worker } => self.ready(worker, now, actions),
            Event::BootFailed { worker, exit, text } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.failed = Some((exit, text));
                }
            }
            Event::Exited { worker, exit } => self.exited(worker, exit, now, actions),
            Event::Served { worker } => self.served(worker, actions),
            Event::TimedOut { worker } => self.timed_out(worker, now, actions),
            Event::Recycle { worker, why } => self.wait_for_turn(worker, why, false),
            Event::Excess { worker, why } => self.excess(worker, why, now, actions),
            Event::Replace { worker, why } => self.replace(worker, &why, now, actions),
            Event::Drained { worker } => self.drained(worker, now),
            Event::Reload => self.reload(now, actions),
            Event::Adjust { by } => self.adjust(by, actions),
            Event::Stop { within } => self.stop(within, now, actions),
            Event::Tick => {}
        }
    }

    // Zygotes

    fn zygote_started(
        &mut self,
        number: u64,
        policy: Policy,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Some(generation) = self.generations.get_mut(&number) else {
            // It was given up while it started.
            return actions.push(Action::KillZygote { generation: number });
        };
        generation.target = policy.workers;
        generation.policy = policy;
        generation.stage = Stage::Configured;
        if self.next == Some(number) {
            actions.push(Action::Reloading);
            if self.stop_first(number) || self.stop_first(self.live) {
                for id in self.ids(|worker| worker.generation != number) {
                    self.drain(id, now, actions);
                }
            }
        }
        let old = self.target(self.live);
        let new = self.target(number);
        if !self.announced {
            actions.push(Action::WorkersChanged { new, old: None });
        } else if new != old {
            actions.push(Action::WorkersChanged {
                new,
                old: Some(old),
            });
        }
    }

    fn loaded(&mut self, number: u64, actions: &mut Vec<Action>) {
        if let Some(generation) = self.generations.get_mut(&number)
            && matches!(generation.stage, Stage::Loading { .. })
        {
            generation.stage = Stage::Loaded;
            if number == self.live {
                actions.push(Action::Switch { generation: number });
            }
        }
    }

    pub(super) fn load_failed(
        &mut self,
        number: u64,
        exit: u8,
        text: String,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        if !self.generations.contains_key(&number) || self.stopping {
            return;
        }
        if self.next == Some(number) {
            say(actions, Level::Error, text);
            return self.abandon(number, "it could not be loaded", now, actions);
        }
        if number == self.live {
            say(actions, Level::Error, text);
            gave_up(actions, number, "it could not be loaded");
            self.generations.remove(&number);
            actions.push(Action::KillZygote { generation: number });
            match self.ever_ready {
                true => self.lost_zygote(now, actions),
                false => self.finish(exit.max(1), actions),
            }
        }
    }

    /// A new generation that cannot start leaves the old one as it is.
    fn abandon(&mut self, number: u64, why: &str, now: Instant, actions: &mut Vec<Action>) {
        let stopped = self.stop_first(number) && self.stage(number) != Some(Stage::Asked);
        let kept = match stopped {
            true => "the app starts again as it was",
            false => "the running workers stay",
        };
        say(
            actions,
            Level::Error,
            format!("reload failed: {why}; {kept}"),
        );
        gave_up(actions, number, &format!("{why}; {kept}"));
        self.give_up(number, now, actions);
    }

    /// Kills a generation that the pool has never heard of.
    fn give_up(&mut self, number: u64, now: Instant, actions: &mut Vec<Action>) {
        for id in self.ids(|worker| worker.generation == number) {
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.failed = None;
            }
            self.kill(id, now, actions);
        }
        self.next = None;
        self.generations.remove(&number);
        actions.push(Action::KillZygote { generation: number });
    }

    /// Workers die with their zygote, so they are gone as well.
    fn zygote_gone(&mut self, number: u64, exit: Exit, now: Instant, actions: &mut Vec<Action>) {
        let Some(generation) = self.generations.remove(&number) else {
            return;
        };
        let left = self.ids(|worker| worker.generation == number);
        let retiring = matches!(generation.stage, Stage::Retiring { .. });
        if retiring && exit.is_success() {
            // It ends after its last worker, whose own end is told by another way and still to come.
            return;
        }
        for &id in &left {
            self.workers.remove(&id);
            self.forget(id);
            actions.push(Action::Gone {
                worker: id,
                exit: Exit::Unknown,
            });
        }
        if self.stopping || (retiring && left.is_empty()) {
            return;
        }
        let text = format!("the zygote of generation {number} ended unexpectedly: {exit}");
        say(actions, Level::Error, text);
        if self.next == Some(number) {
            self.abandon(number, "its zygote ended", now, actions);
        } else if number == self.live {
            gave_up(actions, number, "its zygote ended");
            match self.ever_ready {
                true => self.lost_zygote(now, actions),
                false => self.finish(code_of(exit), actions),
            }
        }
    }

    /// The live generation has no zygote any more: another is asked for, after a wait.
    fn lost_zygote(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let Some(next) = self.next {
            // One is on its way already. Better a little early than nobody at all.
            return self.go_live(next, actions);
        }
        let wait = self.book_crash(now, actions);
        let text = format!("a new zygote starts in {}", seconds(wait));
        say(actions, Level::Info, text);
        self.retry = Some(now + wait);
    }

    // Workers

    fn ready(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if !matches!(worker.phase, Phase::Booting { .. }) {
            return;
        }
        worker.phase = Phase::Ready { since: now };
        say(actions, Level::Info, format!("{} is up", name(id, worker)));
        if worker.generation == self.live {
            self.ever_ready = true;
            actions.push(Action::Admit { worker: id });
        }
    }

    fn served(&mut self, id: WorkerId, actions: &mut Vec<Action>) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.served = true;
            if worker.generation == self.live && self.crashes.any() {
                self.forgive(actions);
            }
        }
    }

    fn exited(&mut self, id: WorkerId, exit: Exit, now: Instant, actions: &mut Vec<Action>) {
        let Some(worker) = self.workers.remove(&id) else {
            return;
        };
        self.forget(id);
        actions.push(Action::Gone { worker: id, exit });
        let draining = matches!(worker.phase, Phase::Draining { .. });
        if (draining && worker.failed.is_none()) || self.stopping {
            let level = if exit.is_success() {
                Level::Info
            } else {
                Level::Warning
            };
            return say(
                actions,
                level,
                format!("{} has ended: {exit}", name(id, &worker)),
            );
        }
        self.crashed += 1;
        if self.next == Some(worker.generation) {
            say(actions, Level::Error, obituary(id, &worker, exit));
            return self.abandon(
                worker.generation,
                "a new worker could not start",
                now,
                actions,
            );
        }
        if worker.generation != self.live {
            return say(actions, Level::Warning, obituary(id, &worker, exit));
        }
        if !self.ever_ready {
            return self.failed_start(id, &worker, exit, now, actions);
        }
        self.crashed(id, &worker, exit, now, actions);
    }

    /// Nothing has ever run: what cannot start ends the server, what dies by accident is tried
    /// again a few times.
    fn failed_start(
        &mut self,
        id: WorkerId,
        worker: &Worker,
        exit: Exit,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        say(actions, Level::Error, obituary(id, worker, exit));
        let hopeless = match (&worker.failed, exit) {
            (Some((code, _)), _) => Some((*code).max(1)),
            (None, Exit::Code(code)) if HOPELESS.contains(&code) => Some(code_of(exit)),
            (None, Exit::Code(_) | Exit::Signal { .. } | Exit::Unknown) => None,
        };
        if let Some(code) = hopeless {
            return self.finish(code, actions);
        }
        let wait = self.crashes.book(now);
        self.hold = Some(now + wait);
        if self.crashes.looping() {
            let text = "workers keep ending before the first one is up".to_owned();
            say(actions, Level::Error, text);
            self.finish(code_of(exit), actions);
        }
    }

    /// A worker of a running app died. One that had proved itself is replaced at once; after
    /// others the next start waits.
    fn crashed(
        &mut self,
        id: WorkerId,
        worker: &Worker,
        exit: Exit,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let mut text = obituary(id, worker, exit);
        let allowed = self.lines.next(now);
        if matches!(worker.phase, Phase::Booting { .. }) || worker.failed.is_some() {
            gave_up(actions, worker.generation, &text);
        }
        if !worker.proven(now) {
            let wait = self.book_crash(now, actions);
            self.hold = Some(self.hold.unwrap_or(now).max(now + wait));
            text += &format!("; the next one starts in {}", seconds(wait));
        }
        match allowed {
            Some(0) => say(actions, Level::Error, text),
            Some(muted) => say(
                actions,
                Level::Error,
                format!("{text} ({muted} more before)"),
            ),
            None => {}
        }
    }

    fn book_crash(&mut self, now: Instant, actions: &mut Vec<Action>) -> Duration {
        let before = self.crashes.looping();
        let wait = self.crashes.book(now);
        if self.crashes.looping() && !before {
            let (exits, window) = (crashes::LOOP_EXITS, crashes::LOOP_WINDOW.as_secs());
            let text = format!(
                "crash loop: {exits} ends within {window} s without a request served; \
                 visitors get 503 while no worker is up"
            );
            say(actions, Level::Error, text);
        }
        wait
    }

    fn forget(&mut self, id: WorkerId) {
        self.queue.retain(|turn| turn.worker != id);
        if self.recycling == Some(id) {
            self.recycling = None;
        }
    }

    /// Takes nothing new at once; its replacement starts before it is told to go.
    fn timed_out(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let stop_first = self.stop_first(self.live);
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.timed_out = true;
        actions.push(Action::Signal {
            worker: id,
            signal: Signal::Dump,
        });
        if !matches!(worker.phase, Phase::Ready { .. } | Phase::Leaving { .. }) {
            return;
        }
        say(
            actions,
            Level::Warning,
            format!("{} is replaced: it timed out", name(id, worker)),
        );
        worker.leave();
        if !self.stopping && !stop_first {
            self.fork_missing(now, actions);
        }
        self.drain(id, now, actions);
    }

    fn wait_for_turn(&mut self, id: WorkerId, why: String, kill: bool) {
        if self.queue.iter().all(|turn| turn.worker != id) {
            self.queue.push_back(Turn {
                worker: id,
                why,
                kill,
            });
        }
    }

    /// A worker that endangers the machine goes before those that have merely served their share.
    fn excess(&mut self, id: WorkerId, why: String, now: Instant, actions: &mut Vec<Action>) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        match worker.phase {
            Phase::Ready { .. } => {
                self.queue.retain(|turn| turn.worker != id);
                let kills = self.queue.iter().take_while(|turn| turn.kill).count();
                self.queue.insert(
                    kills,
                    Turn {
                        worker: id,
                        why,
                        kill: true,
                    },
                );
            }
            Phase::Draining {
                then: Then::Kill, ..
            } => {}
            Phase::Booting { .. } | Phase::Leaving { .. } | Phase::Draining { .. } => {
                say(
                    actions,
                    Level::Warning,
                    format!("{} is killed: {why}", name(id, worker)),
                );
                self.kill(id, now, actions);
            }
        }
    }

    fn replace(&mut self, id: WorkerId, why: &str, now: Instant, actions: &mut Vec<Action>) {
        let stop_first = self.stop_first(self.live);
        if let Some(worker) = self.workers.get(&id)
            && matches!(worker.phase, Phase::Ready { .. } | Phase::Leaving { .. })
        {
            // For a slot that was closed it could take one more request, and not say so.
            actions.push(Action::Signal {
                worker: id,
                signal: Signal::TakeNoMore,
            });
        }
        if let Some(worker) = self.workers.get_mut(&id)
            && matches!(worker.phase, Phase::Ready { .. })
            && !self.stopping
        {
            say(
                actions,
                Level::Warning,
                format!("{} is replaced: {why}", name(id, worker)),
            );
            worker.leave();
            if stop_first {
                self.drain(id, now, actions);
            }
        }
    }

    /// Only exit handlers are left. After a timeout there is the hung request as well, whose
    /// visitor has had his answer: nobody waits for it.
    fn drained(&mut self, id: WorkerId, now: Instant) {
        if let Some(worker) = self.workers.get_mut(&id)
            && let Phase::Draining {
                until,
                then: Then::Abort,
            } = &mut worker.phase
        {
            let exit = now + EXIT_GRACE;
            *until = match worker.timed_out {
                true => exit.min(*until),
                false => exit.max(*until),
            };
        }
    }

    // Orders

    fn reload(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.stopping {
            return;
        }
        if self.retry.take().is_some() {
            // There is nothing to stand beside: what was to be tried again is tried now.
            say(
                actions,
                Level::Info,
                "reload: a new zygote starts now".to_owned(),
            );
            self.forgive(actions);
            self.live = self.start_generation(actions);
            return;
        }
        if let Some(next) = self.next {
            if self.stage(next) == Some(Stage::Asked) {
                // It has not read anything yet that could be out of date.
                return;
            }
            say(
                actions,
                Level::Info,
                format!("reload: generation {next} is given up for a newer one"),
            );
            self.give_up(next, now, actions);
        }
        let number = self.start_generation(actions);
        self.next = Some(number);
        say(
            actions,
            Level::Info,
            format!("reload: generation {number} starts"),
        );
    }

    fn adjust(&mut self, by: i32, actions: &mut Vec<Action>) {
        let live = self.live;
        let Some(generation) = self.generations.get_mut(&live) else {
            return;
        };
        let old = generation.target;
        if generation.policy.stop_first {
            let text = "the number of workers stays 1 (--single-process)".to_owned();
            return say(actions, Level::Warning, text);
        }
        generation.target = old
            .saturating_add_signed(by)
            .clamp(1, MOST_WORKERS.max(old));
        let new = generation.target;
        if new != old {
            say(actions, Level::Info, format!("workers: {old} → {new}"));
            actions.push(Action::WorkersChanged {
                new,
                old: Some(old),
            });
        }
    }

    fn stop(&mut self, within: Option<Duration>, now: Instant, actions: &mut Vec<Action>) {
        let first = !std::mem::replace(&mut self.stopping, true);
        if first {
            self.say_stop(within, actions);
            if let Some(next) = self.next {
                self.give_up(next, now, actions);
            }
        }
        let graceful = within.unwrap_or_default();
        for id in self.ids(|_| true) {
            self.shorten(graceful, id, now);
            self.drain_within(graceful.max(LAST_WORD), id, now, actions);
            if within.is_none() {
                self.quit(id, now, actions);
            }
        }
        if first {
            self.retry = None;
            self.hold = None;
            self.generations
                .retain(|&generation, state| match state.stage {
                    Stage::Retiring { .. } => true,
                    Stage::Loaded => {
                        state.stage = Stage::Retiring { until: None };
                        actions.push(Action::RetireZygote { generation });
                        true
                    }
                    Stage::Asked | Stage::Configured | Stage::Loading { .. } => {
                        actions.push(Action::KillZygote { generation });
                        false
                    }
                });
        }
    }

    /// A worker that drained before the stop has no longer than the others. Whether it still holds a
    /// request is not known, so its exit handlers have their time.
    fn shorten(&mut self, graceful: Duration, id: WorkerId, now: Instant) {
        if let Some(worker) = self.workers.get_mut(&id)
            && let Phase::Draining {
                until,
                then: Then::Abort,
            } = &mut worker.phase
        {
            *until = (*until).min(now + graceful.max(EXIT_GRACE));
        }
    }

    fn say_stop(&self, within: Option<Duration>, actions: &mut Vec<Action>) {
        let workers = match self.workers.len() {
            0 => return,
            1 => "1 worker ends".to_owned(),
            many => format!("{many} workers end"),
        };
        let text = match within {
            Some(within) => {
                let whole = within.max(EXIT_GRACE).as_secs_f64().ceil();
                format!("stopping: {workers}, within {whole} s")
            }
            None => format!("stopping: {workers} at once"),
        };
        say(actions, Level::Info, text);
    }

    /// Leaves its request and ends in order, or else.
    fn quit(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        if let Some(worker) = self.workers.get_mut(&id)
            && !matches!(
                worker.phase,
                Phase::Draining {
                    then: Then::Kill,
                    ..
                }
            )
        {
            worker.phase = Phase::Draining {
                until: now + ABORT_GRACE,
                then: Then::Kill,
            };
            actions.push(Action::Signal {
                worker: id,
                signal: Signal::Quit,
            });
        }
    }
}

/// Why a worker is no more: its own words, or how the kernel saw it.
fn obituary(id: WorkerId, worker: &Worker, exit: Exit) -> String {
    match &worker.failed {
        Some((_, text)) => text.clone(),
        None => format!("{} ended unexpectedly: {exit}", name(id, worker)),
    }
}

/// The exit code of a server whose last hope ended like this: that of the worker, or as a shell
/// shows a signal.
fn code_of(exit: Exit) -> u8 {
    let code = match exit {
        Exit::Code(0) | Exit::Unknown => i32::from(BOOT_FAILED),
        Exit::Code(code) => code,
        Exit::Signal { number, .. } => 128 + number,
    };
    u8::try_from(code).unwrap_or(BOOT_FAILED)
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}
