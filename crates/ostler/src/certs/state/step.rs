//! What each event does to a job.

use std::time::SystemTime;

use super::{
    ASK_AGAIN, Action, CA_PATIENCE, Event, Failing, Held, Job, Order, Proof, Say, Status, Trouble,
    View, Wait, Whose,
};

impl Job {
    /// One step. An event that the job does not wait for changes nothing.
    pub fn step(mut self, event: Event, now: SystemTime) -> (Self, Vec<Action>) {
        let actions = match (self.wait, event) {
            (Wait::Time, Event::Tick) => self.look(now),
            (_, Event::Window { window, ask }) => {
                self.window = window;
                self.ask = ask;
                Vec::new()
            }
            (Wait::Time, _) | (_, Event::Tick) => Vec::new(),
            (_, Event::Failed(trouble)) => self.fail(trouble, now),
            (Wait::Check, Event::Checked) => {
                let renewal = self.held.is_some();
                self.waits(Wait::Grant, [Action::Reserve { renewal }])
            }
            (Wait::Grant, Event::Granted) => {
                // A CA that chokes on `replaces` is asked without it the next time.
                let replaces = self.held.is_some() && self.failing.is_none();
                self.waits(Wait::Order, [Action::Order { replaces }])
            }
            (Wait::Order, Event::Ordered { url }) => {
                self.order = Some(Order {
                    url,
                    proofs: Vec::new(),
                    key: None,
                });
                self.next = now;
                let mut actions = vec![Action::Save(self.record())];
                actions.extend(self.read());
                actions
            }
            (Wait::Presented, Event::Presented) => {
                let order = self.url();
                self.waits(Wait::Announced, [Action::Announce { order }])
            }
            (Wait::Announced, Event::Announced) => self.look_at_order(now, false),
            (Wait::Key, Event::KeyMade { pem }) => {
                if let Some(order) = &mut self.order {
                    order.key = Some(pem);
                }
                let mut actions = vec![Action::Save(self.record())];
                actions.extend(self.finalize());
                actions
            }
            (
                Wait::Authorizations
                | Wait::Validation { .. }
                | Wait::Finalized
                | Wait::Issue { .. },
                Event::Seen(view),
            ) => self.seen(view, now),
            (Wait::Chain, Event::Chain { pem }) => match self.key() {
                Some(key) => self.waits(Wait::Installed, [Action::Install { key, chain: pem }]),
                None => self.keyless(now),
            },
            (Wait::Installed, Event::Installed(held)) => self.installed(held, now),
            (_, stray) => {
                debug_assert!(false, "{stray:?} while waiting for {:?}", self.wait);
                Vec::new()
            }
        };
        (self, actions)
    }

    /// Begins or resumes an attempt when it is time, or asks when that will be.
    fn look(&mut self, now: SystemTime) -> Vec<Action> {
        if now >= self.due() {
            return match &self.order {
                Some(_) => {
                    let mut actions = vec![Action::Say(Say::Resuming)];
                    actions.extend(self.read());
                    actions
                }
                None => self.waits(Wait::Check, [Action::Say(Say::Ordering), Action::Check]),
            };
        }
        if self.held.is_some() && now >= self.ask {
            self.ask = now + ASK_AGAIN;
            return vec![Action::AskWindow];
        }
        Vec::new()
    }

    /// The order as it stands decides what comes next, whatever was known before.
    fn seen(&mut self, view: View, now: SystemTime) -> Vec<Action> {
        match view.status {
            Status::Pending => match self.wait {
                Wait::Authorizations if !view.proofs.is_empty() => self.present(view.proofs),
                _ => self.look_at_order(now, false),
            },
            // It was told already: the CA is only slow to see it.
            Status::Ready if matches!(self.wait, Wait::Finalized | Wait::Issue { .. }) => {
                self.look_at_order(now, true)
            }
            Status::Ready => {
                let mut actions = self.withdraw();
                match self.key() {
                    Some(_) => actions.extend(self.finalize()),
                    None => actions.extend(self.waits(Wait::Key, [Action::MakeKey])),
                }
                actions
            }
            Status::Processing => {
                let mut actions = self.withdraw();
                actions.extend(self.look_at_order(now, true));
                actions
            }
            Status::Valid => match self.key() {
                Some(_) => {
                    let mut actions = self.withdraw();
                    let order = self.url();
                    actions.extend(self.waits(Wait::Chain, [Action::Fetch { order }]));
                    actions
                }
                None => self.keyless(now),
            },
            Status::Invalid => {
                let why = view
                    .why
                    .unwrap_or_else(|| "the CA refuses without a reason".to_owned());
                self.fail(Trouble::new(Whose::Refused, why), now)
            }
        }
    }

    fn read(&mut self) -> Vec<Action> {
        let order = self.url();
        self.waits(Wait::Authorizations, [Action::Read { order }])
    }

    /// What is put in place is on disk first, so that it can be taken away after a crash.
    fn present(&mut self, proofs: Vec<Proof>) -> Vec<Action> {
        if let Some(order) = &mut self.order {
            for proof in &proofs {
                if !order.proofs.contains(proof) {
                    order.proofs.push(proof.clone());
                }
            }
        }
        let save = Action::Save(self.record());
        self.waits(Wait::Presented, [save, Action::Present(proofs)])
    }

    fn finalize(&mut self) -> Vec<Action> {
        let (order, key) = (self.url(), self.key().unwrap_or_default());
        let finalize = Action::Finalize { order, key };
        self.waits(Wait::Finalized, [Action::Count, finalize])
    }

    /// Another look at the order, or the end of patience.
    fn look_at_order(&mut self, now: SystemTime, issuing: bool) -> Vec<Action> {
        let (looks, until) = match (self.wait, issuing) {
            (Wait::Validation { looks, until }, false) | (Wait::Issue { looks, until }, true) => {
                (looks + 1, until)
            }
            _ => (0, now + CA_PATIENCE),
        };
        if now >= until {
            let what = if issuing { "issue" } else { "validate" };
            let minutes = CA_PATIENCE.as_secs() / 60;
            let text = format!("the CA did not {what} within {minutes} minutes");
            return self.fail(Trouble::new(Whose::Ca, text), now);
        }
        let wait = match issuing {
            true => Wait::Issue { looks, until },
            false => Wait::Validation { looks, until },
        };
        let (order, after) = (self.url(), self.pace.look(looks));
        self.waits(wait, [Action::Look { order, after }])
    }

    fn withdraw(&mut self) -> Vec<Action> {
        let Some(order) = &mut self.order else {
            return Vec::new();
        };
        let proofs = std::mem::take(&mut order.proofs);
        match proofs.is_empty() {
            true => Vec::new(),
            false => vec![Action::Withdraw(proofs), Action::Save(self.record())],
        }
    }

    fn installed(&mut self, held: Held, now: SystemTime) -> Vec<Action> {
        self.order = None;
        self.failing = None;
        self.window = None;
        self.held = Some(held);
        self.next = now;
        self.ask = now;
        self.wait = Wait::Time;
        let days = held.days(now);
        vec![
            Action::Save(self.record()),
            Action::Say(Say::Issued { days }),
        ]
    }

    fn keyless(&mut self, now: SystemTime) -> Vec<Action> {
        let text = "the CA has issued the certificate for a key that we do not have";
        self.fail(Trouble::new(Whose::Order, text), now)
    }

    /// Ends the attempt. The order stays unless it is what failed, and with it the answers to its
    /// challenges: the CA may still look.
    fn fail(&mut self, trouble: Trouble, now: SystemTime) -> Vec<Action> {
        let failing = Failing::again(self.failing.as_ref(), &trouble);
        let luck = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |time| u64::from(time.subsec_micros()));
        self.next = self.pace.next(&failing, trouble.not_before, luck, now);
        self.failing = Some(failing);
        self.wait = Wait::Time;
        let mut actions = Vec::new();
        let ended = match trouble.whose {
            Whose::Operator | Whose::Ca | Whose::Limit => None,
            Whose::Refused => {
                actions.push(Action::Blame);
                self.order.take()
            }
            Whose::Order => self.order.take(),
            Whose::Account => {
                actions.push(Action::ForgetAccount);
                self.order.take()
            }
        };
        if let Some(Order { proofs, .. }) = ended
            && !proofs.is_empty()
        {
            actions.push(Action::Withdraw(proofs));
        }
        actions.push(Action::Save(self.record()));
        actions.push(Action::Say(Say::Failed {
            trouble,
            next: self.next,
            days: self.held.map(|held| held.days(now)),
        }));
        actions
    }

    fn waits<const N: usize>(&mut self, wait: Wait, actions: [Action; N]) -> Vec<Action> {
        self.wait = wait;
        actions.into()
    }

    fn url(&self) -> String {
        self.order
            .as_ref()
            .map(|order| order.url.clone())
            .unwrap_or_default()
    }

    fn key(&self) -> Option<String> {
        self.order.as_ref()?.key.clone()
    }
}
