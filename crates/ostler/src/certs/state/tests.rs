//! The steps of a job: each transition in a table, and a crash between every two actions.

use std::collections::VecDeque;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> SystemTime {
    UNIX_EPOCH + DAY * 20_000
}

fn names() -> Names {
    "a.example, b.example".parse().unwrap()
}

fn held(from: SystemTime) -> Held {
    Held {
        not_before: from,
        not_after: from + DAY * 90,
        luck: 0,
    }
}

fn fresh() -> Job {
    Job::restore(names(), None, None, Pace::calm(), now())
}

fn proof() -> Proof {
    Proof {
        name: "a.example".to_owned(),
        token: "token".to_owned(),
        text: "token.thumb".to_owned(),
        digest: "digest".to_owned(),
    }
}

fn ordered() -> Event {
    Event::Ordered {
        url: "ca/order/1".to_owned(),
    }
}

fn seen(status: Status) -> Event {
    let proofs = match status {
        Status::Pending => vec![proof()],
        _ => Vec::new(),
    };
    let why = (status == Status::Invalid).then(|| "wrong answer".to_owned());
    Event::Seen(View {
        status,
        proofs,
        why,
    })
}

fn key_made() -> Event {
    Event::KeyMade {
        pem: "KEY".to_owned(),
    }
}

fn chain() -> Event {
    Event::Chain {
        pem: "CHAIN".to_owned(),
    }
}

fn failed(whose: Whose) -> Event {
    Event::Failed(Trouble::new(whose, "trouble"))
}

/// The actions in short: a word each.
fn short(actions: &[Action]) -> String {
    let words: Vec<&str> = actions
        .iter()
        .map(|action| match action {
            Action::Save(_) => "save",
            Action::Check => "check",
            Action::Reserve { renewal: false } => "reserve",
            Action::Reserve { renewal: true } => "reserve-renewal",
            Action::Order { replaces: false } => "order",
            Action::Order { replaces: true } => "order-replacing",
            Action::Read { .. } => "read",
            Action::Present(_) => "present",
            Action::Announce { .. } => "announce",
            Action::Look { .. } => "look",
            Action::Withdraw(_) => "withdraw",
            Action::MakeKey => "make-key",
            Action::Count => "count",
            Action::Finalize { .. } => "finalize",
            Action::Fetch { .. } => "fetch",
            Action::Install { .. } => "install",
            Action::AskWindow => "ask-window",
            Action::Blame => "blame",
            Action::ForgetAccount => "forget-account",
            Action::Say(_) => "say",
        })
        .collect();
    words.join(" ")
}

/// The events of an attempt that goes well, each with what it leads to.
fn well() -> Vec<(Event, &'static str)> {
    vec![
        (Event::Tick, "say check"),
        (Event::Checked, "reserve"),
        (Event::Granted, "order"),
        (ordered(), "save read"),
        (seen(Status::Pending), "save present"),
        (Event::Presented, "announce"),
        (Event::Announced, "look"),
        (seen(Status::Pending), "look"),
        (seen(Status::Ready), "withdraw save make-key"),
        (key_made(), "save count finalize"),
        (seen(Status::Processing), "look"),
        (seen(Status::Valid), "fetch"),
        (chain(), "install"),
        (Event::Installed(held(now())), "save say"),
    ]
}

/// A job after the first `steps` events of an attempt that goes well.
fn after(steps: usize) -> Job {
    let mut job = fresh();
    for (event, _) in well().into_iter().take(steps) {
        job = job.step(event, now()).0;
    }
    job
}

#[track_caller]
fn check(job: Job, event: Event, expected: &str) -> Job {
    let (job, actions) = job.step(event, now());
    assert_eq!(short(&actions), expected);
    job
}

#[test]
fn an_order_goes_well() {
    let mut job = fresh();
    for (event, expected) in well() {
        job = check(job, event, expected);
    }
    assert_eq!(job.due(), now() + DAY * 60);
    assert_eq!(job.order, None);
    // What is held is asked about at once, and then rests.
    let job = check(job, Event::Tick, "ask-window");
    assert_eq!(job.next_look(), Some(now() + ASK_AGAIN));
    check(job, Event::Tick, "");
}

#[test]
fn an_order_that_is_further_than_expected_is_taken_up_there() {
    // The CA still knows the names to be ours.
    check(after(4), seen(Status::Ready), "make-key");
    // All challenges are answered already.
    let none = View {
        status: Status::Pending,
        proofs: Vec::new(),
        why: None,
    };
    check(after(4), Event::Seen(none), "look");
    check(after(10), seen(Status::Valid), "fetch");
    // The CA is slow to see our request: it is not sent twice.
    check(after(10), seen(Status::Ready), "look");
    check(after(11), seen(Status::Ready), "look");
    // Issued for a key that is lost.
    let job = check(after(4), seen(Status::Valid), "save say");
    assert_eq!(job.order, None);
}

#[test]
fn failures_end_or_keep_the_order_by_whose_they_are() {
    for steps in 1..14 {
        let fails = |whose: Whose| {
            let (job, actions) = after(steps).step(failed(whose), now());
            assert!(!job.busy(), "{steps}");
            assert_eq!(job.failing().unwrap().times, 1);
            (job, short(&actions))
        };
        let had = after(steps).order;
        let proofs = had.as_ref().is_some_and(|order| !order.proofs.is_empty());
        let withdraw = if proofs { "withdraw " } else { "" };
        for whose in [Whose::Operator, Whose::Ca, Whose::Limit] {
            let (job, actions) = fails(whose);
            assert_eq!(actions, "save say", "{steps}");
            assert_eq!(job.order, had, "{steps}");
        }
        let (job, actions) = fails(Whose::Refused);
        assert_eq!(actions, format!("blame {withdraw}save say"), "{steps}");
        assert_eq!(job.order, None);
        assert_eq!(fails(Whose::Order).1, format!("{withdraw}save say"));
        let (_, actions) = fails(Whose::Account);
        assert_eq!(actions, format!("forget-account {withdraw}save say"));
    }
}

#[test]
fn an_order_that_becomes_invalid_is_a_refusal_with_its_reason() {
    for steps in [4, 7, 8, 10, 11] {
        let (job, actions) = after(steps).step(seen(Status::Invalid), now());
        assert!(short(&actions).starts_with("blame"), "{steps}");
        let failing = job.failing().unwrap();
        assert_eq!(
            (failing.whose, failing.text.as_str()),
            (Whose::Refused, "wrong answer")
        );
        assert!(job.due() >= now() + Duration::from_secs(60));
    }
}

#[test]
fn a_failed_attempt_is_resumed_when_it_is_time() {
    let job = check(after(8), failed(Whose::Ca), "save say");
    check(job.clone(), Event::Tick, "");
    let due = job.next_look().unwrap();
    assert!(due > now() && due < now() + Duration::from_secs(10));
    let (job, actions) = job.step(Event::Tick, due);
    assert_eq!(short(&actions), "say read");
    // Each further failure waits for longer.
    let (job, _) = job.step(failed(Whose::Ca), due);
    assert_eq!(job.failing().unwrap().times, 2);
    assert!(job.due() >= due + Duration::from_secs(10));
}

#[test]
fn the_cas_patience_and_ours_end() {
    for (steps, event) in [(8, Status::Pending), (11, Status::Processing)] {
        let (job, actions) = after(steps).step(seen(event), now() + CA_PATIENCE);
        assert_eq!(short(&actions), "save say", "{steps}");
        let failing = job.failing().unwrap();
        assert_eq!(failing.whose, Whose::Ca);
        assert!(failing.text.contains("5 minutes"), "{}", failing.text);
        assert!(job.order.is_some());
    }
}

#[test]
fn looks_are_further_and_further_apart() {
    let mut job = after(7);
    let mut waits = Vec::new();
    for _ in 0..6 {
        let (next, actions) = job.step(seen(Status::Pending), now());
        let [Action::Look { after, .. }] = &actions[..] else {
            panic!("{actions:?}");
        };
        waits.push(after.as_secs());
        job = next;
    }
    assert_eq!(waits, [2, 4, 8, 15, 15, 15]);
}

#[test]
fn a_certificate_is_renewed_in_its_time_and_served_meanwhile() {
    let job = Job::restore(names(), None, Some(held(now())), Pace::calm(), now());
    let later = now() + DAY * 60;
    let (job, actions) = job.step(Event::Tick, later);
    assert_eq!(short(&actions), "say check");
    let (job, actions) = job.step(Event::Checked, later);
    assert_eq!(short(&actions), "reserve-renewal");
    let (job, actions) = job.step(Event::Granted, later);
    assert_eq!(short(&actions), "order-replacing");
    // Once that was refused, the CA is not told what is replaced.
    let (job, _) = job.step(failed(Whose::Refused), later);
    assert_eq!(job.held(), Some(&held(now())));
    let later = job.due();
    let (job, _) = job.step(Event::Tick, later);
    let (job, _) = job.step(Event::Checked, later);
    let (_, actions) = job.step(Event::Granted, later);
    assert_eq!(short(&actions), "order");
}

#[test]
fn the_cas_window_moves_the_renewal() {
    let job = Job::restore(names(), None, Some(held(now())), Pace::calm(), now());
    let job = check(job, Event::Tick, "ask-window");
    let window = Window {
        start: now() + DAY * 3,
        end: now() + DAY * 5,
    };
    let ask = now() + HOUR;
    let event = Event::Window {
        window: Some(window),
        ask,
    };
    let job = check(job, event, "");
    assert_eq!(job.due(), now() + DAY * 3);
    assert_eq!(job.next_look(), Some(ask));
    // The CA revokes: at the next look it says that the time is over.
    let event = Event::Window {
        window: Some(Window {
            start: now() - DAY,
            end: now() - HOUR,
        }),
        ask: ask + HOUR,
    };
    let (job, _) = job.step(event, ask);
    assert_eq!(short(&job.step(Event::Tick, ask).1), "say check");
}

#[test]
fn a_budget_that_is_spent_is_waited_for() {
    let trouble = Trouble {
        not_before: Some(now() + DAY * 3),
        ..Trouble::new(Whose::Limit, "enough")
    };
    let (job, actions) = after(2).step(Event::Failed(trouble), now());
    assert_eq!(short(&actions), "save say");
    assert_eq!(job.due(), now() + DAY * 3);
}

#[test]
fn waiting_survives_a_restart() {
    let (job, _) = after(7).step(seen(Status::Invalid), now());
    let text = serde_json::to_string(&job.record()).unwrap();
    let record: Record = serde_json::from_str(&text).unwrap();
    let again = Job::restore(names(), Some(record.clone()), None, Pace::calm(), now());
    let millisecond = Duration::from_millis(1);
    assert!(job.due().duration_since(again.due()).unwrap() < millisecond);
    assert_eq!(again.failing(), job.failing());
    assert_eq!(short(&again.step(Event::Tick, now()).1), "");
    // The record of other names is not ours.
    let other: Names = "c.example".parse().unwrap();
    let other = Job::restore(other, Some(record.clone()), None, Pace::calm(), now());
    assert_eq!(short(&other.step(Event::Tick, now()).1), "say check");
    // A clock that was a year ahead does not stop us for a year.
    let far = Record {
        next: record.next + 365 * 86_400_000,
        ..record
    };
    let again = Job::restore(names(), Some(far), None, Pace::calm(), now());
    assert!(again.due() <= now() + Pace::LONGEST);
}

/// A CA, a disk and a server that do what they are told, as long as nobody pulls the plug.
#[derive(Default)]
struct World {
    disk: Option<Record>,
    installed: Option<Held>,
    /// Orders at the CA: how far each is, and for which key it was finalized.
    orders: Vec<(Status, Option<String>)>,
    presented: Vec<Proof>,
    keys: u32,
}

impl World {
    fn perform(&mut self, action: Action) -> Option<Event> {
        let at = |url: &str| url.parse::<usize>().unwrap();
        match action {
            Action::Save(record) => {
                let text = serde_json::to_string(&record).unwrap();
                self.disk = serde_json::from_str(&text).unwrap();
                None
            }
            Action::Check => Some(Event::Checked),
            Action::Reserve { .. } => Some(Event::Granted),
            Action::Order { .. } => {
                self.orders.push((Status::Pending, None));
                let url = (self.orders.len() - 1).to_string();
                let saved = self.disk.as_ref().and_then(|disk| disk.order.as_ref());
                assert!(saved.is_none(), "an order is in hand");
                Some(Event::Ordered { url })
            }
            Action::Read { order } => {
                self.saved(&order);
                let status = self.orders[at(&order)].0;
                Some(seen(status))
            }
            Action::Present(proofs) => {
                let record = self.disk.as_ref().unwrap();
                let saved = &record.order.as_ref().unwrap().proofs;
                assert!(proofs.iter().all(|proof| saved.contains(proof)));
                self.presented = proofs;
                Some(Event::Presented)
            }
            Action::Announce { order } => {
                assert!(!self.presented.is_empty());
                self.orders[at(&order)].0 = Status::Ready;
                Some(Event::Announced)
            }
            Action::Look { order, .. } => {
                let order = &mut self.orders[at(&order)];
                if order.0 == Status::Processing {
                    order.0 = Status::Valid;
                }
                Some(seen(order.0))
            }
            Action::Withdraw(_) => {
                self.presented.clear();
                None
            }
            Action::MakeKey => {
                self.keys += 1;
                Some(Event::KeyMade {
                    pem: format!("key {}", self.keys),
                })
            }
            Action::Finalize { order, key } => {
                let saved = self.saved(&order);
                assert_eq!(saved, Some(key.clone()), "the key is on disk first");
                self.orders[at(&order)] = (Status::Processing, Some(key));
                Some(seen(Status::Processing))
            }
            Action::Fetch { order } => Some(Event::Chain { pem: order }),
            Action::Install { key, chain } => {
                assert_eq!(self.orders[at(&chain)].1, Some(key));
                self.installed = Some(held(now()));
                Some(Event::Installed(held(now())))
            }
            Action::Say(_) | Action::AskWindow | Action::Count => None,
            Action::Blame | Action::ForgetAccount => panic!("nobody refuses"),
        }
    }

    /// The key of the order on disk, which must be `order`.
    fn saved(&self, order: &str) -> Option<String> {
        let record = self.disk.as_ref().expect("saved before it is used");
        let saved = record.order.as_ref().expect("saved before it is used");
        assert_eq!(saved.url, order);
        saved.key.clone()
    }

    /// Goes on from the disk, for at most `most` actions. Whether that was the end.
    fn run(&mut self, most: usize) -> bool {
        let (disk, pace) = (self.disk.clone(), Pace::calm());
        let job = Job::restore(names(), disk, self.installed, pace, now());
        // What was put in place in memory is gone with the process.
        self.presented.clear();
        let (mut job, actions) = job.step(Event::Tick, now());
        let mut todo = VecDeque::from(actions);
        for _ in 0..most {
            let Some(action) = todo.pop_front() else {
                return true;
            };
            if let Some(event) = self.perform(action) {
                let (next, actions) = job.step(event, now());
                job = next;
                todo.extend(actions);
            }
        }
        todo.is_empty()
    }
}

#[test]
fn a_crash_between_any_two_actions_loses_nothing() {
    let mut cut = 0;
    loop {
        let mut world = World::default();
        let whole = world.run(cut);
        assert!(world.run(100), "cut after {cut}");
        assert!(world.installed.is_some(), "cut after {cut}");
        // Only an order whose URL never reached the disk is made again.
        assert!(world.orders.len() <= 2, "cut after {cut}");
        let left = world.disk.unwrap().order;
        assert_eq!(left, None, "cut after {cut}");
        if whole {
            break;
        }
        cut += 1;
    }
    assert!(cut > 15, "{cut}");
}

#[test]
fn a_crash_after_every_action_still_gets_there() {
    // Each life performs three actions more than it takes to get back to where it was.
    let mut world = World::default();
    for most in 3..60 {
        if world.run(most) && world.installed.is_some() {
            return;
        }
    }
    panic!("never there");
}
