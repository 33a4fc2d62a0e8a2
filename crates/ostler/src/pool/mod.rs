//! A request → a free slot: lease, wait in line, give back.
//!
//! The pool knows which slots of the live version are free and who waits. It neither starts nor
//! stops workers (the supervisor does, and tells the pool through [`SlotEvent`]s) and never looks
//! into a request.
//!
//! A slot has a home edge thread. There is a free list per thread and one line: a thread leases its
//! own slots first, last used first, so that the rest stay cold; a slot of another thread changes
//! home. A returned slot goes to the head of the line, wherever that request lives: no request
//! waits while a slot that may serve it is free. While none is, workers take the head of the line by
//! themselves (`backlog`).

mod affinity;
mod backlog;
mod channel;
mod grant;
mod lease;
mod line;
mod look;
mod rest;
mod slot;
#[cfg(test)]
mod tests;
mod worker;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::supervise::{Backlog, Interface, PoolState, SlotEvent, SupervisorHandle, WorkerId};

use affinity::Affinity;
pub use affinity::Session;
pub use channel::Channel;
pub use grant::Grant;
pub use lease::Lease;
use line::{HandedOn, Lost, Served, State, Waiter};
pub use look::Look;
pub use rest::Rest;
pub use slot::{Fault, Frame, Slot};
pub use worker::Worker;

/// WebSockets are told to close after this part of the time that a worker or the server has to end:
/// the rest of it is for the closing itself and what apps do after it.
pub const FAREWELL: f64 = 0.75;

/// Bounds of the line and of what a worker may serve.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests that may wait. The default is 1,000: at 10 ms each through one slot, ten seconds.
    pub line_length: usize,
    /// Bytes of buffered requests that may wait. The default is 64 MiB.
    pub line_bytes: usize,
    /// How long an answer that nobody waits for may take before its slot is given up: 30 s, or as long
    /// as an answer may take.
    pub unwanted: Duration,
    /// Concurrent requests on one event loop.
    pub streams_per_worker: u32,
    /// Requests after which a worker is replaced; 0 is never.
    pub max_requests: u64,
    /// Up to this many requests are added to `max_requests`, differently for each worker, so that
    /// workers do not leave together.
    pub max_requests_jitter: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line_length: 1000,
            line_bytes: 64 << 20,
            unwanted: Duration::from_secs(30),
            streams_per_worker: 1000,
            max_requests: 0,
            max_requests_jitter: 0,
        }
    }
}

/// How long a worker may take from taking a request to saying so: a system call, and its share of a
/// busy machine.
const TAKEN_IS_SAID: Duration = Duration::from_secs(2);

/// What waits in line.
#[derive(Debug, Default)]
pub struct Asks {
    /// The whole request on no stream, when any worker may take it by itself; empty otherwise.
    pub frame: Vec<u8>,
    /// What it holds in memory, in bytes.
    pub bytes: usize,
    /// When it began to wait; `None` for what is no request.
    pub since: Option<Instant>,
}

/// Why no slot was leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The line holds as many requests as it may.
    LineFull,
    /// The line holds as many bytes as it may.
    LineBytes,
    /// The kernel refused to watch one more slot.
    Overloaded,
    /// A worker took the request and died.
    WorkerLost,
    /// The app's workers keep dying; try again in `retry_after` seconds.
    CrashLooping { retry_after: u32 },
    /// The server is stopping.
    Stopping,
}

/// All slots of the live version.
pub struct Pool {
    /// Guards the free lists and the line together: an idle slot and a request that waits for one
    /// never coexist.
    state: Mutex<State>,
    /// Guards what a reload replaces whole.
    limits: RwLock<Limits>,
    supervisor: SupervisorHandle,
    affinity: Affinity,
    /// The app runs on event loops.
    streams: AtomicBool,
    /// Requests served and retries made, for the retry budget.
    leases: AtomicU64,
    retries: AtomicU64,
    /// The edge threads' runtimes: a channel must be registered on its own.
    threads: Vec<Handle>,
}

impl Pool {
    pub fn new(limits: Limits, supervisor: SupervisorHandle, threads: Vec<Handle>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(threads.len())),
            limits: RwLock::new(limits),
            supervisor,
            affinity: Affinity::default(),
            streams: AtomicBool::new(false),
            leases: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            threads,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change below leaves the state whole before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limits(&self) -> Limits {
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests and workers that come from now on have these limits.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// Remembers which worker opened a session.
    pub fn learn_session(&self, session: &[u8], worker: &Worker) {
        self.affinity.learn(session, worker.id);
    }

    /// Leases a slot to a request on edge thread `thread`, or waits in line for one, as long as the
    /// caller does. A worker may take it by itself meanwhile ([`Grant::is_begun`]). Its frame comes
    /// back in any case.
    pub async fn lease(
        self: &Arc<Self>,
        thread: usize,
        asks: Asks,
        session: Session<'_>,
    ) -> Result<(Lease, Vec<u8>), Refused> {
        let wanted = match session {
            Session::Of(id) => self.affinity.worker(id),
            Session::None | Session::Opens => None,
        };
        let limits = self.limits();
        let mut waiting = {
            let mut state = self.state();
            let wanted = match session {
                Session::None => None,
                Session::Of(_) => wanted.filter(|id| state.takes_requests(*id)),
                Session::Opens => state.idlest(),
            };
            let per_worker = limits.streams_per_worker;
            if let Some(grant) = state.take_free(thread, wanted, per_worker) {
                drop(state);
                return Ok((self.begin(grant, thread)?, asks.frame));
            }
            state.refusal()?;
            state.room_for(asks.bytes, &limits)?;
            let (place, served) = oneshot::channel();
            state.line_bytes += asks.bytes;
            state.line.push_back(Waiter {
                thread,
                wanted: wanted.filter(|_| matches!(session, Session::Of(_))),
                bytes: asks.bytes,
                since: asks.since,
                frame: asks.frame,
                place,
            });
            state.lay_ahead();
            Waiting {
                pool: self,
                thread,
                place: served,
                served: false,
            }
        };
        let grant = (&mut waiting.place).await;
        waiting.served = true;
        match grant {
            Ok(Ok((grant, frame))) => Ok((self.begin(grant, thread)?, frame)),
            Ok(Err(Lost)) => Err(Refused::WorkerLost),
            Err(_line_was_cleared) => {
                Err(self.state().refusal().err().unwrap_or(Refused::Stopping))
            }
        }
    }

    fn begin(self: &Arc<Self>, mut grant: Grant, thread: usize) -> Result<Lease, Refused> {
        if let Grant::Slot(slot) = &mut grant
            && let Err(error) = slot.move_to(thread)
        {
            // Only a full descriptor table can refuse the registration.
            tracing::error!(%error, "a slot could not be watched; its worker is replaced");
            self.supervisor
                .misbehaved(slot.worker.id, format!("slot lost: {error}"));
            self.abandoned(&slot.worker);
            return Err(Refused::Overloaded);
        }
        self.leases.fetch_add(1, Ordering::Relaxed);
        Ok(Lease {
            pool: Arc::clone(self),
            grant: Some(grant),
        })
    }

    /// Whether the app runs on event loops, so that bodies may stream to it.
    pub fn streams(&self) -> bool {
        self.streams.load(Ordering::Relaxed)
    }

    /// How long an answer that nobody waits for may take before its slot is given up.
    pub fn unwanted(&self) -> Duration {
        self.limits().unwanted
    }

    /// Takes one retry from the budget: at most a tenth of all requests are asked twice, so that a
    /// dying app is not asked twice as often as a living one.
    pub fn may_retry(&self) -> bool {
        let retries = self.retries.load(Ordering::Relaxed);
        let allowed = retries < 10 + self.leases.load(Ordering::Relaxed) / 10;
        if allowed {
            self.retries.fetch_add(1, Ordering::Relaxed);
        }
        allowed
    }

    /// Applies what the supervisor reports, until it ends.
    pub async fn run(self: Arc<Self>, mut events: mpsc::Receiver<SlotEvent>) {
        while let Some(event) = events.recv().await {
            self.apply(event);
        }
    }

    fn apply(self: &Arc<Self>, event: SlotEvent) {
        match event {
            SlotEvent::WorkerReady { generation, .. } if self.parks(generation) => {
                self.state().parked.push(event);
            }
            SlotEvent::WorkerReady {
                worker,
                pid,
                interface,
                sockets,
                backlog,
                ..
            } => {
                let worker = Arc::new(Worker::new(worker, pid));
                self.admit(&worker, backlog);
                let streams = interface == Interface::Asgi;
                self.streams.store(streams, Ordering::Relaxed);
                match interface {
                    Interface::Wsgi => sockets
                        .into_iter()
                        .for_each(|socket| self.offer(Slot::new(Arc::clone(&worker), socket))),
                    Interface::Asgi => self.connect(&worker, sockets),
                }
            }
            SlotEvent::SlotAdded { worker, socket } => {
                let known = self.state().workers.get(&worker).cloned();
                if let Some(worker) = known {
                    self.offer(Slot::new(worker, socket));
                }
            }
            SlotEvent::Draining { worker, within } => self.drain(worker, within),
            SlotEvent::Gone { worker, how } => {
                self.drain(worker, Duration::ZERO);
                let gone = {
                    let mut state = self.state();
                    let gone = state.workers.remove(&worker);
                    self.lose_in_a_moment(state.recall());
                    state.lay_ahead();
                    if state.serving == PoolState::Stopping && state.workers.is_empty() {
                        // Nobody will come for those who wait.
                        state.clear_line();
                    }
                    gone
                };
                if let Some(gone) = gone {
                    gone.exited(how);
                }
            }
            SlotEvent::GenerationSwitched { generation } => {
                let parked = {
                    let mut state = self.state();
                    state.generation = generation;
                    std::mem::take(&mut state.parked)
                };
                parked.into_iter().for_each(|event| self.apply(event));
            }
            SlotEvent::State(serving) => self.enter(serving),
        }
    }

    /// Closes every WebSocket: the server is about to stop.
    pub fn say_farewell(&self) {
        let state = self.state();
        state
            .workers
            .values()
            .for_each(|worker| worker.say_farewell());
    }

    /// True for a worker of a generation that does not serve yet.
    fn parks(&self, generation: u64) -> bool {
        let current = self.state().generation;
        current != 0 && generation > current
    }

    fn enter(&self, serving: PoolState) {
        let mut state = self.state();
        state.serving = serving;
        if matches!(
            serving,
            PoolState::CrashLooping { .. } | PoolState::Stopping
        ) && state.workers.is_empty()
        {
            // Dropping the senders tells every waiting request.
            state.clear_line();
        }
    }

    /// Books a new worker, which brings the backlog of its generation.
    fn admit(&self, worker: &Arc<Worker>, backlog: Option<Arc<Backlog>>) {
        let mut state = self.state();
        state.workers.insert(worker.id, Arc::clone(worker));
        state.change_backlog(backlog);
    }

    /// Hands a slot on to the request that its worker took.
    fn hand_on(self: &Arc<Self>, slot: Slot, ticket: u32) {
        let worker = Arc::clone(&slot.worker);
        let thread = slot.home().unwrap_or_default();
        let handed = self.state().hand_on(slot, ticket);
        match handed {
            HandedOn::Served => {}
            HandedOn::Unwanted(slot) => self.wait_out(slot, thread),
            HandedOn::Unknown => {
                let text = "it took a request that was not there".to_owned();
                self.supervisor.misbehaved(worker.id, text);
            }
        }
    }

    /// Has the answer to a request waited out whose client has left.
    fn wait_out(self: &Arc<Self>, slot: Slot, thread: usize) {
        if let Ok(lease) = self.begin(Grant::Slot(slot), thread) {
            tokio::spawn(lease.wait_out(Rest::default(), self.unwanted(), false));
        }
    }

    /// Tells those who hold `tickets` that the worker which took them is gone.
    fn lose(&self, tickets: &[u32]) {
        let lost = self.state().tickets.lose(tickets);
        for waiter in lost {
            let _ = waiter.place.send(Err(Lost));
        }
    }

    /// A worker died. Requests that do not lie in the backlog any more were taken, by others who say
    /// so at once, or by the one who is gone.
    fn lose_in_a_moment(self: &Arc<Self>, tickets: Vec<u32>) {
        if tickets.is_empty() {
            return;
        }
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(TAKEN_IS_SAID).await;
            pool.lose(&tickets);
        });
    }

    /// Takes a worker's idle slots out; those in use follow as their requests end, which have
    /// `within` for that.
    fn drain(&self, id: WorkerId, within: Duration) {
        let (idle, channels, worker) = {
            let mut state = self.state();
            let Some(worker) = state.workers.get(&id).cloned() else {
                return;
            };
            worker.drain();
            let mut idle = Vec::new();
            for list in &mut state.free {
                idle.extend(list.extract_if(.., |slot| slot.worker.id == id));
            }
            let mut channels = Vec::new();
            for list in &mut state.channels {
                channels.extend(list.extract_if(.., |channel| channel.worker.id == id));
            }
            state.release_those_who_want(id);
            (idle, channels, worker)
        };
        drop(idle);
        for channel in channels {
            channel.drain();
        }
        self.serve_line_from_channels();
        if worker.in_flight() == 0 {
            return self.supervisor.drained(id);
        }
        tokio::spawn(async move {
            tokio::time::sleep(within.mul_f64(FAREWELL)).await;
            worker.say_farewell();
        });
    }

    /// Registers an event loop's sockets, one per edge thread, each on its own.
    fn connect(self: &Arc<Self>, worker: &Arc<Worker>, sockets: Vec<OwnedFd>) {
        for (thread, (handle, socket)) in self.threads.iter().zip(sockets).enumerate() {
            let (pool, worker) = (Arc::clone(self), Arc::clone(worker));
            handle.spawn(async move {
                let channel = match Channel::new(Arc::clone(&worker), socket) {
                    Ok(channel) => Arc::new(channel),
                    Err(error) => {
                        return pool
                            .supervisor
                            .misbehaved(worker.id, format!("no channel: {error}"));
                    }
                };
                if !pool.state().join(thread, &channel) {
                    return;
                }
                tokio::spawn(Arc::clone(&channel).write_loop());
                tokio::spawn(Arc::clone(&channel).ping_loop());
                pool.serve_line_from_channels();
                let fault = channel.read_loop().await;
                pool.lost_channel(&worker, thread, &fault).await;
            });
        }
    }

    /// Takes a channel out that has ended.
    async fn lost_channel(&self, worker: &Arc<Worker>, thread: usize, fault: &Fault) {
        self.state().channels[thread].retain(|channel| channel.worker.id != worker.id);
        match fault {
            Fault::Wire(_) | Fault::Descriptor | Fault::Taken => {
                self.supervisor.misbehaved(worker.id, fault.to_string());
            }
            // We close the channel of a worker that drains, and the kernel that of one that died.
            Fault::Closed if worker.is_draining() || worker.exit().await.is_some() => {}
            Fault::Closed => self.supervisor.lost_channel(worker.id),
        }
    }

    /// Gives an idle slot to the head of the line, or to the free list; closes that of a worker
    /// that drains.
    fn offer(&self, slot: Slot) {
        let closed = self.state().offer(slot);
        drop(closed);
    }

    /// Lets waiting requests onto event loops that have room.
    fn serve_line_from_channels(&self) {
        let per_worker = self.limits().streams_per_worker;
        let mut state = self.state();
        let mut place = 0;
        while let Some((thread, wanted)) = state.waiter(place) {
            let Some(stream) = state.open_stream(thread, wanted, per_worker) else {
                if wanted.is_none() {
                    return;
                }
                place += 1;
                continue;
            };
            // A request that has left the line drops its stream, which cancels nothing: no frame
            // of it was sent.
            if let Some(waiter) = state.take_waiter(place)
                && let Some(Grant::Stream(stream)) = waiter.serve(Grant::Stream(stream))
            {
                self.abandoned(stream.worker());
            }
        }
    }

    /// Books a slot or stream that nobody used.
    fn abandoned(&self, worker: &Worker) {
        worker.lease_abandoned();
        if worker.is_draining() && worker.in_flight() == 0 {
            self.supervisor.drained(worker.id);
        }
    }

    /// Books a finished request and replaces a worker that has served its share.
    fn ended(&self, worker: &Worker) {
        let served = worker.lease_ended();
        let limits = self.limits();
        if limits.max_requests > 0 && served == share(worker, &limits) {
            self.supervisor
                .recycle(worker.id, format!("served {served} requests"));
        }
        if worker.is_draining() && worker.in_flight() == 0 {
            self.supervisor.drained(worker.id);
        }
    }
}

/// The number of requests after which `worker` is replaced.
fn share(worker: &Worker, limits: &Limits) -> u64 {
    // Fibonacci hashing of the worker's number: spread evenly, the same on every call.
    let spread = worker.id.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    limits.max_requests + spread % (limits.max_requests_jitter + 1)
}

/// A request in line. Dropped unserved (its deadline passed, its client left), it gives up its
/// place, and a slot that reached it in the same moment goes on to the next.
struct Waiting<'a> {
    pool: &'a Arc<Pool>,
    thread: usize,
    place: oneshot::Receiver<Served>,
    served: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.served {
            return;
        }
        self.place.close();
        match self.place.try_recv() {
            Ok(Ok((Grant::Slot(slot), _))) if slot.ticket() != 0 => {
                self.pool.wait_out(slot, self.thread);
            }
            Ok(Ok((grant, _))) => {
                let worker = Arc::clone(grant.worker());
                match grant {
                    Grant::Slot(slot) => self.pool.offer(slot),
                    Grant::Stream(stream) => drop(stream),
                }
                self.pool.abandoned(&worker);
            }
            Ok(Err(Lost)) => {}
            Err(_) => self.pool.state().forget_leavers(),
        }
    }
}
