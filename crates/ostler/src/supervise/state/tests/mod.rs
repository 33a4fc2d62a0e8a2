//! The fleet in scenes: what happens, and what must follow. No process, no clock, no waiting.

mod crashes;
mod leaving;
mod reload;
mod starting;
mod stopping;

use super::*;

const SEGV: Exit = Exit::Signal {
    number: 11,
    core_dumped: false,
};
const KILL: Exit = Exit::Signal {
    number: 9,
    core_dumped: false,
};
const OK: Exit = Exit::Code(0);

/// A fleet and the time on its clock.
struct Scene {
    fleet: Fleet,
    now: Instant,
    /// Everything that was said.
    log: Vec<(Level, String)>,
}

fn policy(workers: u32) -> Policy {
    Policy {
        workers,
        graceful: Duration::from_secs(30),
        stop_first: false,
    }
}

fn alone() -> Policy {
    Policy {
        stop_first: true,
        ..policy(1)
    }
}

fn w(id: u64) -> WorkerId {
    WorkerId(id)
}

fn stop(seconds: u64) -> Event {
    Event::Stop {
        within: Some(secs(seconds)),
    }
}

/// An action in short, except for lines.
fn short(action: &Action) -> Option<String> {
    Some(match action {
        Action::StartZygote { generation } => format!("start {generation}"),
        Action::Load { generation } => format!("load {generation}"),
        Action::Fork {
            generation, worker, ..
        } => format!("fork {generation}/{}", worker.0),
        Action::RetireZygote { generation } => format!("retire {generation}"),
        Action::KillZygote { generation } => format!("kill-zygote {generation}"),
        Action::Admit { worker } => format!("admit {}", worker.0),
        Action::Drain { worker, .. } => format!("drain {}", worker.0),
        Action::Signal { worker, signal } => format!("{signal:?} {}", worker.0).to_lowercase(),
        Action::Switch { generation } => format!("switch {generation}"),
        Action::Gone { worker, exit } => format!("gone {} {exit}", worker.0),
        Action::Pool(state) => format!("pool {state:?}"),
        Action::WhenReady => "when-ready".to_owned(),
        Action::WorkersChanged { new, old } => format!("workers {old:?}->{new}"),
        Action::Reloading => "reloading".to_owned(),
        Action::Finish { code } => format!("finish {code}"),
        Action::Say { .. } | Action::Serves { .. } | Action::GaveUp { .. } => return None,
    })
}

impl Scene {
    fn new(policy: Policy) -> Self {
        let fleet = Fleet::new(policy, false);
        Self {
            fleet,
            now: Instant::now(),
            log: Vec::new(),
        }
    }

    /// A scene whose first generation serves: workers 1 to `policy.workers`.
    fn serving(policy: Policy) -> Self {
        let mut scene = Self::new(policy.clone());
        scene.boot(1, policy);
        scene
    }

    /// Brings a generation up to all its workers being ready.
    fn boot(&mut self, generation: u64, policy: Policy) -> Vec<String> {
        let mut actions = self.on(Event::ZygoteStarted { generation, policy });
        actions.extend(self.on(Event::Loaded { generation }));
        actions.extend(self.all_ready());
        actions
    }

    fn all_ready(&mut self) -> Vec<String> {
        let booting = self.booting();
        booting
            .into_iter()
            .flat_map(|worker| self.on(Event::Ready { worker }))
            .collect()
    }

    fn booting(&self) -> Vec<WorkerId> {
        self.fleet
            .ids(|worker| matches!(worker.phase, Phase::Booting { .. }))
    }

    fn on(&mut self, event: Event) -> Vec<String> {
        let actions = self.fleet.step(event, self.now);
        for action in &actions {
            if let Action::Say { level, text } = action {
                self.log.push((*level, text.clone()));
            }
        }
        actions.iter().filter_map(short).collect()
    }

    fn exit(&mut self, id: u64, exit: Exit) -> Vec<String> {
        self.on(Event::Exited {
            worker: w(id),
            exit,
        })
    }

    /// Lets the time pass up to the next look, which must not be later than `limit` from now.
    fn next(&mut self, limit: Duration) -> Vec<String> {
        let look = self.fleet.next_look().expect("something to look at");
        assert!(
            look <= self.now + limit,
            "the next look is too late: {:?}",
            look - self.now
        );
        self.now = self.now.max(look);
        self.on(Event::Tick)
    }

    fn pass(&mut self, seconds: u64) -> Vec<String> {
        self.now += Duration::from_secs(seconds);
        self.on(Event::Tick)
    }

    fn said(&self, words: &str) -> usize {
        self.log
            .iter()
            .filter(|(_, text)| text.contains(words))
            .count()
    }

    fn phases(&self) -> Vec<(u64, &'static str)> {
        let phase = |worker: &Worker| match worker.phase {
            Phase::Booting { .. } => "booting",
            Phase::Ready { .. } => "ready",
            Phase::Leaving { .. } => "leaving",
            Phase::Draining { .. } => "draining",
        };
        let workers = self.fleet.workers.iter();
        workers.map(|(id, worker)| (id.0, phase(worker))).collect()
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Whatever happens in whatever order, a look that is due changes what is looked at: no busy loop,
/// no panic, and a stop comes to its end.
#[test]
fn any_order_of_events_comes_to_rest() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    for round in 0..300 {
        let mut scene = Scene::new(policy(1 + random(3) as u32));
        for _ in 0..random(120) {
            let worker = w(1 + random(scene.fleet.last_worker + 1));
            let generation = 1 + random(scene.fleet.last_generation + 1);
            let policy = if random(5) == 0 {
                alone()
            } else {
                policy(1 + random(3) as u32)
            };
            let (why, text) = ("why".to_owned(), "text".to_owned());
            let exit = [OK, SEGV, Exit::Code(3), Exit::Unknown][random(4) as usize];
            let event = match random(20) {
                0 => Event::Reload,
                1 => Event::Adjust {
                    by: random(5) as i32 - 2,
                },
                2 => Event::TimedOut { worker },
                3 => Event::Recycle { worker, why },
                4 => Event::Excess { worker, why },
                5 => Event::Replace { worker, why },
                6 => Event::Drained { worker },
                7 => Event::Exited { worker, exit },
                8 => Event::BootFailed {
                    worker,
                    exit: 3,
                    text,
                },
                9 => Event::LoadFailed {
                    generation,
                    exit: 3,
                    text,
                },
                10 => Event::ZygoteGone { generation, exit },
                11 => Event::Served { worker },
                12 | 13 => Event::ZygoteStarted { generation, policy },
                14 | 15 => Event::Loaded { generation },
                _ => Event::Ready { worker },
            };
            scene.on(event);
            scene.now += Duration::from_millis(random(3000));
            for _ in 0..50 {
                match scene.fleet.next_look() {
                    Some(look) if look <= scene.now => drop(scene.on(Event::Tick)),
                    _ => break,
                }
            }
            let due = scene
                .fleet
                .next_look()
                .is_some_and(|look| look <= scene.now);
            assert!(
                scene.fleet.finished || !due,
                "round {round}: {:#?}",
                scene.fleet
            );
            let target = scene.fleet.target(scene.fleet.live);
            let live = scene
                .fleet
                .ids(|worker| worker.generation == scene.fleet.live)
                .len();
            assert!(live as u32 <= 2 * MOST_WORKERS && target <= MOST_WORKERS);
        }
        scene.on(Event::Stop {
            within: (random(2) == 0).then(|| secs(30)),
        });
        for worker in scene.fleet.ids(|_| true) {
            scene.exit(worker.0, KILL);
        }
        assert!(scene.fleet.finished, "round {round}: {:#?}", scene.fleet);
    }
}
