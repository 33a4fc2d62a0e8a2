//! One certificate and how it is had: a pure state machine. Events and the time go in, actions come
//! out; it touches no socket, disk or clock.
//!
//! The shell performs the actions of a step in order and one at a time. Each that can fail or bring
//! something gives one event back. What must not be lost is saved (`Action::Save`) before the action
//! that uses it, so a job that is restored from what is on disk goes on wherever it was cut off.

mod failing;
mod renewal;
mod step;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::names::Names;

pub use failing::{Failing, Pace, Trouble, Whose};
pub use renewal::{Held, Window};

/// A CA may take this long to validate or to issue before the attempt counts as failed; the order
/// is kept. Let's Encrypt says minutes; pebble sleeps up to 15 s for each name.
const CA_PATIENCE: Duration = Duration::from_secs(300);

/// How long until the CA is asked again for its window when it did not say.
const ASK_AGAIN: Duration = Duration::from_secs(6 * 3600);

/// A certificate that is wanted, and how far it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    names: Names,
    wait: Wait,
    /// The order in hand. It outlives a failed attempt unless the CA has ended it.
    order: Option<Order>,
    /// The certificate that is served.
    held: Option<Held>,
    window: Option<Window>,
    /// When to ask the CA for its window.
    ask: SystemTime,
    failing: Option<Failing>,
    /// No attempt before this.
    next: SystemTime,
    pace: Pace,
}

/// What a job waits for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wait {
    /// The time of the next attempt.
    Time,
    /// Whether the CA would find us.
    Check,
    /// Whether the budget has room for an order.
    Grant,
    /// The new order's URL.
    Order,
    /// The order with its authorizations.
    Authorizations,
    /// The answers to the challenges to be in place.
    Presented,
    /// The CA to know that they are.
    Announced,
    /// The CA to have looked.
    Validation { looks: u32, until: SystemTime },
    /// A private key.
    Key,
    /// The CA to take the signing request.
    Finalized,
    /// The CA to issue.
    Issue { looks: u32, until: SystemTime },
    /// The certificate itself.
    Chain,
    /// The certificate to be on disk and served.
    Installed,
}

/// An order at the CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub url: String,
    /// Answers to challenges that are in place, or may be.
    #[serde(default)]
    pub proofs: Vec<Proof>,
    /// PEM of the private key, once there is one: the CA may have been told of it.
    #[serde(default)]
    pub key: Option<String>,
}

/// The answer to one challenge (RFC 8555 section 8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The host, without `*.`.
    pub name: String,
    pub token: String,
    /// The key authorization, which HTTP-01 answers with.
    pub text: String,
    /// Base64url of its SHA-256, which DNS-01 puts in a TXT record.
    pub digest: String,
}

/// What is on disk about a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub names: Names,
    pub order: Option<Order>,
    pub failing: Option<Failing>,
    /// No attempt before this, in milliseconds since 1970.
    pub next: u64,
}

/// How an order stands (RFC 8555 section 7.1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Pending,
    Ready,
    Processing,
    Valid,
    Invalid,
}

/// An order as the CA tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub status: Status,
    /// Challenges that are still to be answered; only asked for by `Action::Read`.
    pub proofs: Vec<Proof>,
    /// Why it is invalid.
    pub why: Option<String>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time passed; see [`Job::next_look`].
    Tick,
    /// The CA would find us, as far as we can tell.
    Checked,
    /// The order is within the budget and counted.
    Granted,
    Ordered {
        url: String,
    },
    Seen(View),
    Presented,
    Announced,
    KeyMade {
        pem: String,
    },
    Chain {
        pem: String,
    },
    Installed(Held),
    /// The CA's window, and when to ask again.
    Window {
        window: Option<Window>,
        ask: SystemTime,
    },
    /// The action could not be done. What was to follow it is left out.
    Failed(Trouble),
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write to disk, and be sure that it is there.
    Save(Record),
    /// Look whether the CA would find us.
    Check,
    /// Count an order, if the budget has room for it.
    Reserve {
        renewal: bool,
    },
    /// Ask for a new order; if `replaces`, naming the certificate that is held.
    Order {
        replaces: bool,
    },
    /// Ask for the order and its authorizations.
    Read {
        order: String,
    },
    /// Put the answers to the challenges in place.
    Present(Vec<Proof>),
    /// Tell the CA that they are.
    Announce {
        order: String,
    },
    /// Ask for the order after this time, or later if the CA says so.
    Look {
        order: String,
        after: Duration,
    },
    /// Take the answers away. A failure is logged, no more.
    Withdraw(Vec<Proof>),
    MakeKey,
    /// Count a certificate: the CA may issue from now on.
    Count,
    /// Send the signing request.
    Finalize {
        order: String,
        key: String,
    },
    Fetch {
        order: String,
    },
    /// Check the certificate, write it to disk and serve it.
    Install {
        key: String,
        chain: String,
    },
    /// Ask when to renew what is held.
    AskWindow,
    /// Count a refusal of these names.
    Blame,
    /// The CA does not know our account.
    ForgetAccount,
    Say(Say),
}

/// What is worth a line in the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Say {
    Ordering,
    Resuming,
    Issued {
        days: i64,
    },
    Failed {
        trouble: Trouble,
        next: SystemTime,
        days: Option<i64>,
    },
}

impl Job {
    /// A job from what is on disk: nothing at all, a record, a certificate, or both.
    pub fn restore(
        names: Names,
        record: Option<Record>,
        held: Option<Held>,
        pace: Pace,
        now: SystemTime,
    ) -> Self {
        let record = record.filter(|record| record.names == names);
        let (order, failing, next) = match record {
            None => (None, None, UNIX_EPOCH),
            Some(record) => (
                record.order,
                record.failing,
                UNIX_EPOCH + Duration::from_millis(record.next),
            ),
        };
        // A clock that was wrong when the record was written must not stop us for years.
        let next = next.min(now + Pace::LONGEST);
        Self {
            names,
            wait: Wait::Time,
            order,
            held,
            window: None,
            ask: now,
            failing,
            next,
            pace,
        }
    }

    pub fn names(&self) -> &Names {
        &self.names
    }

    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    pub fn failing(&self) -> Option<&Failing> {
        self.failing.as_ref()
    }

    /// Answers to challenges that are in place, or may be.
    pub fn proofs(&self) -> &[Proof] {
        self.order.as_ref().map_or(&[], |order| &order.proofs)
    }

    /// When the next attempt is due.
    pub fn due(&self) -> SystemTime {
        match (&self.held, &self.order, &self.failing) {
            // Something is under way or went wrong: as the record says.
            (_, Some(_), _) | (None, _, _) => self.next,
            (Some(held), None, _) => self.next.max(held.renewal(self.window.as_ref())),
        }
    }

    /// When a `Tick` is due, if nothing is being done.
    pub fn next_look(&self) -> Option<SystemTime> {
        match self.wait {
            Wait::Time if self.held.is_some() => Some(self.due().min(self.ask)),
            Wait::Time => Some(self.due()),
            _ => None,
        }
    }

    /// In a few words, for people.
    pub fn words(&self) -> &'static str {
        match self.wait {
            Wait::Time => match (&self.failing, &self.held) {
                (Some(_), _) => "failed, waits for the next attempt",
                (None, Some(_)) => "valid",
                (None, None) => "waits for its turn",
            },
            Wait::Check => "looks whether the CA would find us",
            Wait::Grant | Wait::Order | Wait::Authorizations => "orders",
            Wait::Presented | Wait::Announced => "answers the CA's challenges",
            Wait::Validation { .. } => "waits for the CA to validate",
            Wait::Key | Wait::Finalized | Wait::Issue { .. } => "waits for the CA to issue",
            Wait::Chain | Wait::Installed => "takes the certificate",
        }
    }

    /// Whether an attempt is under way.
    pub fn busy(&self) -> bool {
        self.wait != Wait::Time
    }

    fn record(&self) -> Record {
        let next = self.next.duration_since(UNIX_EPOCH).unwrap_or_default();
        Record {
            names: self.names.clone(),
            order: self.order.clone(),
            failing: self.failing.clone(),
            next: u64::try_from(next.as_millis()).unwrap_or(u64::MAX),
        }
    }
}
