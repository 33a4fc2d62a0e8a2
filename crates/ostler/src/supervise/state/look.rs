//! How the fleet stands, for those who look and those who wait for it.

use super::{Action, Fleet, Phase, WorkerId};

/// How things stand.
#[derive(Debug, Clone)]
pub struct Now {
    /// The generation that serves, or should.
    pub live: u64,
    /// The one that is to take over.
    pub next: Option<u64>,
    /// Workers that ended although nobody wanted them to.
    pub crashes: u64,
    /// Workers that were ever started.
    pub starts: u64,
    pub workers: Vec<Stands>,
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stands {
    pub id: WorkerId,
    pub generation: u64,
    /// 0 until it is forked.
    pub pid: u32,
    pub phase: &'static str,
}

impl Fleet {
    /// Every worker there is, oldest first.
    pub fn look(&self) -> Now {
        let workers = self.workers.iter().map(|(&id, worker)| Stands {
            id,
            generation: worker.generation,
            pid: worker.pid.unwrap_or(0),
            phase: match worker.phase {
                Phase::Booting { .. } => "starting",
                Phase::Ready { .. } => "ready",
                Phase::Leaving { .. } => "leaving",
                Phase::Draining { .. } => "draining",
            },
        });
        Now {
            live: self.live,
            next: self.next,
            crashes: self.crashed,
            starts: self.last_worker,
            workers: workers.collect(),
        }
    }

    /// Says it once of each generation.
    pub(super) fn say_who_serves(&mut self, actions: &mut Vec<Action>) {
        let live = self.live;
        let complete = self.ready_in(live) > 0 && self.ready_in(live) >= self.target(live);
        if complete && self.said_to_serve < live {
            self.said_to_serve = live;
            actions.push(Action::Serves { generation: live });
        }
    }
}

/// Tells those who wait for a generation that it does not come.
pub(super) fn gave_up(actions: &mut Vec<Action>, generation: u64, why: &str) {
    let why = why.to_owned();
    actions.push(Action::GaveUp { generation, why });
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::{Event, Policy};
    use super::*;
    use crate::sys::Exit;

    fn policy() -> Policy {
        Policy {
            workers: 2,
            graceful: Duration::from_secs(30),
            stop_first: false,
        }
    }

    /// What those hear who wait for a generation.
    fn heard(fleet: &mut Fleet, event: Event) -> Vec<String> {
        let actions = fleet.step(event, Instant::now());
        let told = actions.iter().filter_map(|action| match action {
            Action::Serves { generation } => Some(format!("{generation} serves")),
            Action::GaveUp { generation, why } => Some(format!("{generation}: {why}")),
            _ => None,
        });
        told.collect()
    }

    fn boot(fleet: &mut Fleet, generation: u64, workers: [u64; 2]) -> Vec<String> {
        let policy = policy();
        let mut told = heard(fleet, Event::ZygoteStarted { generation, policy });
        told.extend(heard(fleet, Event::Loaded { generation }));
        for worker in workers.map(WorkerId) {
            told.extend(heard(fleet, Event::Ready { worker }));
        }
        told
    }

    #[test]
    fn generation_is_said_to_serve_once_when_all_its_workers_are_ready() {
        let mut fleet = Fleet::new(policy(), true);
        assert_eq!(boot(&mut fleet, 1, [1, 2]), ["1 serves"]);
        let exit = Exit::Code(1);
        let worker = WorkerId(1);
        assert_eq!(heard(&mut fleet, Event::Served { worker }), [""; 0]);
        assert_eq!(heard(&mut fleet, Event::Exited { worker, exit }), [""; 0]);
        let worker = WorkerId(3);
        assert_eq!(heard(&mut fleet, Event::Ready { worker }), [""; 0]);
        assert_eq!(fleet.look().crashes, 1);
        heard(&mut fleet, Event::Reload);
        assert_eq!((fleet.look().live, fleet.look().next), (1, Some(2)));
        assert_eq!(boot(&mut fleet, 2, [4, 5]), ["2 serves"]);
        assert_eq!(fleet.look().workers.len(), 4, "the old ones drain");
    }

    #[test]
    fn generation_that_does_not_come_is_told_with_its_reason() {
        let failed = |generation| Event::LoadFailed {
            generation,
            exit: 3,
            text: "Traceback".to_owned(),
        };
        let mut fleet = Fleet::new(policy(), true);
        assert_eq!(heard(&mut fleet, failed(1)), ["1: it could not be loaded"]);
        let mut fleet = Fleet::new(policy(), true);
        boot(&mut fleet, 1, [1, 2]);
        heard(&mut fleet, Event::Reload);
        let kept = "2: it could not be loaded; the running workers stay";
        assert_eq!(heard(&mut fleet, failed(2)), [kept]);
        // One that is given up for a newer one has not failed: who waits for it waits for that.
        heard(&mut fleet, Event::Reload);
        let (generation, policy) = (3, policy());
        heard(&mut fleet, Event::ZygoteStarted { generation, policy });
        assert_eq!(heard(&mut fleet, Event::Reload), [""; 0]);
        assert_eq!(boot(&mut fleet, 4, [3, 4]), ["4 serves"]);
    }
}
