//! What the pool knows of one worker process. It never signals or starts one: that is the
//! supervisor's part.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::supervise::{Exit, WorkerId};

/// How long to wait for the kernel's word on a worker whose socket is at its end. The pidfd fires
/// within microseconds of the last descriptor closing; a worker that only closed a socket and lives
/// on is what this bound is for. Longer than the supervisor waits for the zygote's word.
const DEATH_WAIT: Duration = Duration::from_secs(3);

/// One worker, shared by its slots, its channels and the requests it serves.
#[derive(Debug)]
pub struct Worker {
    pub id: WorkerId,
    pub pid: i32,
    /// Set once, under the lock of the pool's state; a draining worker is leased no more. This and
    /// `in_flight` are in one order for all threads: of who begins to drain and who ends the last
    /// request at the same time, one sees what the other did and reports the worker as drained.
    draining: AtomicBool,
    /// Set by the first request that ended as it should.
    proven: AtomicBool,
    /// True once its WebSockets are to be closed.
    farewell: watch::Sender<bool>,
    in_flight: AtomicU32,
    served: AtomicU64,
    exit: OnceLock<Exit>,
    gone: Notify,
}

impl Worker {
    pub fn new(id: WorkerId, pid: i32) -> Self {
        Self {
            id,
            pid,
            draining: AtomicBool::new(false),
            proven: AtomicBool::new(false),
            farewell: watch::Sender::new(false),
            in_flight: AtomicU32::new(0),
            served: AtomicU64::new(0),
            exit: OnceLock::new(),
            gone: Notify::new(),
        }
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Closes its WebSockets and tunnels, those to come as well.
    pub(super) fn say_farewell(&self) {
        self.farewell.send_replace(true);
    }

    /// Resolves when its WebSockets are to be closed.
    pub fn farewell(&self) -> impl Future<Output = ()> + use<> {
        let mut told = self.farewell.subscribe();
        async move {
            // Without its sender the worker is gone, and so is what it carried.
            let _ = told.wait_for(|told| *told).await;
        }
    }

    /// True for the first request that this worker ended as it should.
    pub(super) fn prove(&self) -> bool {
        // Read first: after the first request nobody writes to a line that every thread reads.
        !self.proven.load(Ordering::Relaxed) && !self.proven.swap(true, Ordering::Relaxed)
    }

    /// Requests that this worker is serving now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Requests that it has served.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    pub(super) fn lease_began(&self) {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
    }

    /// A request left before it was sent.
    pub(super) fn lease_abandoned(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }

    /// Counts a finished request; gives how many there were.
    pub(super) fn lease_ended(&self) -> u64 {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.served.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn exited(&self, exit: Exit) {
        let _ = self.exit.set(exit);
        self.gone.notify_waiters();
    }

    /// How the process ended; `None` when it is alive after [`DEATH_WAIT`].
    pub async fn exit(&self) -> Option<Exit> {
        let gone = self.gone.notified();
        if self.exit.get().is_none() {
            let _ = tokio::time::timeout(DEATH_WAIT, gone).await;
        }
        self.exit.get().cloned()
    }
}
