//! A network connection → a request with a known route → a response.
//!
//! The edge knows HTTP, clients and limits. It knows nothing of processes: a worker is a lease of
//! the pool. Read `handle.rs` for the request line, `connection.rs` for what surrounds it.

mod answer;
mod body;
mod bridge;
mod buffer;
mod challenge;
mod compress;
mod connection;
mod counted;
mod deadline;
mod disk;
mod ending;
mod engineio;
pub mod files;
mod forward;
mod forwarded;
pub mod h1;
mod handle;
mod http2;
mod io;
mod listen;
pub mod meter;
mod outgoing;
mod patience;
mod peer;
mod peers;
mod penalties;
mod policy;
#[cfg(test)]
mod proxy_invariants;
pub mod proxy_protocol;
mod reason;
mod redirect;
mod relay;
pub mod reply;
mod row;
mod sending;
mod share;
mod site;
mod spool;
mod subscriber;
pub mod tls;
mod trace;
mod tunnel;
mod upload;
mod websocket;
mod worker_file;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, watch};

use crate::certs::Served;
use crate::logs::{AccessLog, AccessWriter};
use crate::routes::Table;
use crate::store::Inbox;
use crate::sys;

pub use compress::Press;
pub use disk::THREADS as DISK_THREADS;
pub use forwarded::{Forwarding, TrustedProxies};
pub use listen::{Listener, run as accept};
pub use peer::Peer;
pub use peers::Peers;
pub use policy::{Authority, Doors, Policy, Rates};
pub use redirect::Entrance;
pub use site::{App, Behind, Site};
pub use spool::Budget;
pub use websocket::Settings as WebSocketSettings;

/// How long a client may take for each step.
#[derive(Debug, Clone)]
pub struct Times {
    /// The TLS handshake: 10 s.
    pub handshake: Duration,
    /// A whole request head, from its first byte: 10 s.
    pub head: Duration,
    /// Between two requests: 75 s, longer than the 60 s after which load balancers close, so that
    /// they never reuse a connection that we are closing.
    pub idle: Duration,
    /// An idle connection keeps its buffers this long: 2 s.
    pub release: Duration,
    /// Silence within a body: 30 s.
    pub body_silence: Duration,
    /// A body may be slower than `min_rate` for this long: 10 s.
    pub body_grace: Duration,
    /// Bytes per second that a body must average after its grace: 500; 0 is no limit.
    pub min_rate: u64,
    /// A client that takes none of its response for this long is given up: 30 s.
    pub write_stall: Duration,
    /// Reading what a client still sends when its answer is complete: 1 s.
    pub linger: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            release: Duration::from_secs(2),
            body_silence: Duration::from_secs(30),
            body_grace: Duration::from_secs(10),
            min_rate: 500,
            write_stall: Duration::from_secs(30),
            linger: Duration::from_secs(1),
        }
    }
}

impl Times {
    /// The time in which a client at the minimum rate moves `bytes`.
    fn earned(&self, bytes: u64) -> Duration {
        /// Longer than any connection lasts.
        const ANY: Duration = Duration::from_secs(365 * 86_400);
        let micros = bytes.saturating_mul(1_000_000).checked_div(self.min_rate);
        micros.map_or(ANY, Duration::from_micros)
    }
}

/// How far the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Serving,
    /// Another server accepts connections. Those that are open here are served to their next end.
    Draining,
    /// No connection that is idle stays open.
    Stopping,
}

/// Everything the edge threads share.
pub struct Edge {
    /// What is served, and where.
    pub routes: Table<Arc<Site>>,
    pub peers: Arc<Peers>,
    pub tls: Option<Arc<tls::Tls>>,
    /// What a CA is answered that comes to see whether a name is ours.
    pub certs: Arc<Served>,
    pub limits: h1::head::Limits,
    pub times: Times,
    pub forwarding: forwarded::Forwarding,
    /// Who speaks the PROXY protocol to us.
    pub proxies: Option<proxy_protocol::Proxies>,
    pub spool: Arc<Budget>,
    pub phase: watch::Receiver<Phase>,
    /// Numbers requests; starts at a random place so that ids differ between runs.
    pub next_id: Arc<AtomicU64>,
    /// What has taken its place.
    pub successor: OnceLock<Arc<Edge>>,
}

/// The edge as it is set now. A reload puts another one in its place, which connections that are open take
/// with their next request.
pub struct Live(RwLock<Arc<Edge>>);

impl Live {
    pub fn new(edge: Edge) -> Arc<Self> {
        Arc::new(Self(RwLock::new(Arc::new(edge))))
    }

    /// For a new connection.
    pub fn now(&self) -> Arc<Edge> {
        // Only ever replaced whole: a panic elsewhere leaves a good one.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn replace(&self, edge: Edge) {
        let edge = Arc::new(edge);
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Only ever set here, where it is replaced for good.
        let _ = now.successor.set(Arc::clone(&edge));
        *now = edge;
    }
}

impl Edge {
    fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    fn trusts(&self, peer: &Peer) -> bool {
        self.forwarding.trusts(peer.address)
    }

    fn request_id(&self) -> u64 {
        // Scrambled, so that an id tells nobody how many requests there were.
        self.next_id
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

/// Memory goes back to the system once in this time, at most.
const GIVE_BACK: Duration = Duration::from_secs(1);

/// What the connections of one edge thread share.
pub struct Thread {
    /// Number of the thread, from 0.
    pub index: usize,
    /// Guards the date line, made anew once a second.
    date: Mutex<(u64, [u8; 29])>,
    /// Where this thread's connections wait for files that are not in memory.
    disk: disk::Disk,
    /// For the traces of its requests.
    ids: trace::Ids,
    /// Codes its responses.
    spare: Arc<compress::Spare>,
    /// Where what upstreams send is read to.
    memory: forward::Memory,
    /// Wakes idle connections when the server stops.
    pub stopping: Notify,
    /// Wakes connections of HTTP/2, which can tell their clients, when another server takes its place.
    pub draining: Notify,
    /// Wakes [`Thread::give_back`].
    freed: Notify,
    /// What it counts that belongs to no project.
    pub tally: meter::Tally,
    /// Where its rows of the request log go.
    requests: Option<Arc<Inbox>>,
    /// Formats this thread's rows; guards its buffer.
    access: Option<Arc<Mutex<AccessWriter>>>,
}

impl Thread {
    pub fn new(
        index: usize,
        access: Option<&AccessLog>,
        requests: Option<Arc<Inbox>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            index,
            date: Mutex::new((0, h1::date::imf_fixdate(0))),
            disk: disk::Disk::default(),
            ids: trace::Ids::seeded(),
            spare: Arc::default(),
            memory: forward::Memory::default(),
            stopping: Notify::new(),
            draining: Notify::new(),
            freed: Notify::new(),
            tally: meter::Tally::default(),
            requests,
            access: access.map(|access| Arc::new(Mutex::new(access.writer()))),
        })
    }

    /// Gives memory back to the system soon after connections have freed it. The allocator does so
    /// only when something is freed a second later: what a burst of requests took would stay.
    /// Never ends; runs on this thread.
    pub async fn give_back(&self) {
        loop {
            self.freed.notified().await;
            // Those that came together go idle together.
            tokio::time::sleep(GIVE_BACK).await;
            sys::memory::give_back();
        }
    }

    /// The value of a `Date` field now.
    fn date(&self) -> [u8; 29] {
        let seconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        let mut date = lock(&self.date);
        if date.0 != seconds {
            *date = (seconds, h1::date::imf_fixdate(seconds));
        }
        date.1
    }
}

/// Locks plain data that a panicking holder leaves usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Microseconds since `start`.
fn micros_since(start: Instant) -> u64 {
    start.elapsed().as_micros() as u64
}
