//! One upstream: an address, how it is, what it has to do, and the connections to it that are idle.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::health::{Change, Health, Rule, Standing};
use super::stream::{Stream, Tls, Trouble};

/// Where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

pub struct One {
    pub place: Place,
    /// As it is configured, with the address where that is another: for people.
    pub shown: String,
    /// The value of its own `Host`.
    pub authority: String,
    pub weight: u32,
    /// What a client's cookie says that stays here.
    pub mark: String,
    tls: Option<Tls>,
    /// Requests that it has now.
    pub in_flight: AtomicU32,
    pub requests: AtomicU64,
    pub failures: AtomicU64,
    pub connections: AtomicU64,
    /// There is something in `health` to look at.
    troubled: AtomicBool,
    /// Guards how it is; nothing else happens under it.
    health: Mutex<Health>,
    /// Guards the idle connections of each edge thread, the latest last. Another thread only ever clears old ones away.
    idle: Vec<Mutex<Vec<Idle>>>,
}

struct Idle {
    stream: Stream,
    since: Instant,
}

/// A connection, and whether it carried requests before.
#[derive(Debug)]
pub struct Link {
    pub stream: Stream,
    pub reused: bool,
}

/// How it stands, for those who ask.
#[derive(Debug, Clone)]
pub struct Look {
    pub shown: String,
    pub weight: u32,
    pub in_flight: u32,
    pub requests: u64,
    pub failures: u64,
    pub connections: u64,
    /// Why it is out, and for how long it has been.
    pub out: Option<(String, Duration)>,
}

impl One {
    pub fn new(
        place: Place,
        (shown, authority, mark): (String, String, String),
        weight: u32,
        tls: Option<Tls>,
        rule: Rule,
        threads: usize,
    ) -> Self {
        Self {
            place,
            shown,
            authority,
            weight,
            mark,
            tls,
            in_flight: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            troubled: AtomicBool::new(false),
            health: Mutex::new(Health::new(rule)),
            idle: (0..threads).map(|_| Mutex::default()).collect(),
        }
    }

    pub fn standing(&self) -> Standing {
        match self.troubled.load(Ordering::Relaxed) {
            false => Standing::In,
            true => lock(&self.health).standing(Instant::now()),
        }
    }

    pub fn begin_trial(&self) {
        lock(&self.health).begin_trial();
    }

    pub fn end_trial(&self) {
        if self.troubled.load(Ordering::Relaxed) {
            lock(&self.health).end_trial();
        }
    }

    pub fn succeeded(&self) {
        if self.troubled.load(Ordering::Relaxed) {
            let change = self.judge(Health::succeeded);
            self.tell(change, "");
        }
    }

    pub fn failed(&self, why: &str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let change = self.judge(|health| health.failed(why, Instant::now()));
        self.tell(change, why);
    }

    pub fn checked(&self, answer: Result<(), String>) {
        let why = answer.as_ref().err().cloned().unwrap_or_default();
        let change = self.judge(|health| health.checked(answer, Instant::now()));
        self.tell(change, &why);
    }

    fn judge(&self, act: impl FnOnce(&mut Health) -> Change) -> Change {
        let mut health = lock(&self.health);
        let change = act(&mut health);
        self.troubled.store(!health.is_clean(), Ordering::Relaxed);
        change
    }

    fn tell(&self, change: Change, why: &str) {
        match change {
            Change::WentOut => tracing::warn!("upstream {} is out: {why}", self.shown),
            Change::CameIn => tracing::info!("upstream {} is in again", self.shown),
            Change::Nothing => {}
        }
    }

    /// An idle connection of this edge thread that is not older than `age` `now`, if there is one. `surely`: the request
    /// cannot be sent twice, so the kernel is asked whether it is still open.
    pub fn reuse(&self, thread: usize, age: Duration, now: Instant, surely: bool) -> Option<Link> {
        loop {
            let Idle { mut stream, since } = lock(self.idle.get(thread)?).pop()?;
            if now.saturating_duration_since(since) > age {
                // Those before it are older still.
                lock(&self.idle[thread]).clear();
                return None;
            }
            if (!surely || stream.is_surely_quiet()) && stream.is_quiet() {
                return Some(Link {
                    stream,
                    reused: true,
                });
            }
        }
    }

    pub async fn connect(&self) -> Result<Link, Trouble> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let stream = match &self.place {
            Place::Tcp(address) => Stream::connect_tcp(*address, self.tls.as_ref()).await?,
            Place::Unix(path) => Stream::connect_unix(path).await?,
        };
        Ok(Link {
            stream,
            reused: false,
        })
    }

    /// Keeps a connection for the next request of this thread, unless there are `most` already.
    pub fn keep(&self, stream: Stream, thread: usize, most: usize) {
        if let Some(idle) = self.idle.get(thread) {
            let mut idle = lock(idle);
            if idle.len() < most {
                let since = Instant::now();
                idle.push(Idle { stream, since });
            }
        }
    }

    /// Closes connections that are idle for longer than `age`.
    pub fn sweep(&self, age: Duration) {
        for idle in &self.idle {
            lock(idle).retain(|one| one.since.elapsed() <= age);
        }
    }

    pub fn look(&self) -> Look {
        let health = lock(&self.health);
        let out = health.out();
        Look {
            shown: self.shown.clone(),
            weight: self.weight,
            in_flight: self.in_flight.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            connections: self.connections.load(Ordering::Relaxed),
            out: out.map(|out| (out.why.clone(), out.since.elapsed())),
        }
    }
}

/// Locks plain data that a panicking holder leaves usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
