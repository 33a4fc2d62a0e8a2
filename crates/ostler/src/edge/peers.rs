//! Who is connected: the cap on connections per address (of IPv6: per /64), and closing idle ones when we stop.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::penalties::Penalties;
use super::share::{Account, STREAM, Share};
use super::subscriber::Subscriber;

/// Open connections by address. Shared by all edge threads.
#[derive(Debug)]
pub struct Peers {
    /// Connections that one address may hold; 0 is no limit.
    cap: AtomicUsize,
    started: Instant,
    /// Loops that accept connections.
    doors: AtomicUsize,
    /// Connections of every kind.
    total: AtomicUsize,
    /// Those of them that have become WebSockets or tunnels.
    sockets: AtomicUsize,
    /// Those of them that carry streams, each of which has a place of its own.
    carriers: AtomicUsize,
    /// One of the sums became equal to the other, or fell to zero.
    emptied: Notify,
    /// Nobody accepts connections any more.
    closed: Notify,
    /// Guards the connections of each address.
    open: Mutex<HashMap<Subscriber, Address>>,
    penalties: Penalties,
}

/// Who is connected from one address, and what that makes us hold.
#[derive(Debug)]
struct Address {
    seats: Vec<Arc<Seat>>,
    /// Connections, with those that were asked to leave and are still there.
    connections: usize,
    account: Arc<Account>,
}

/// What the rest of the server may know of one open connection.
#[derive(Debug)]
pub struct Seat {
    /// Milliseconds since the server's start at which the connection became idle; `BUSY` while a
    /// request is under way.
    idle_since: AtomicU64,
    leave: Notify,
}

const BUSY: u64 = u64::MAX;

/// Connections of one address that get all the room that a connection of HTTP/2 may use.
const FEW: usize = 4;

impl Seat {
    /// Asks an idle connection to close; resolves in the connection that was asked.
    pub async fn asked_to_leave(&self) {
        self.leave.notified().await;
    }
}

/// Connections come in as long as one of these is there.
#[derive(Debug)]
pub struct Door(Arc<Peers>);

impl Drop for Door {
    fn drop(&mut self) {
        if self.0.doors.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.closed.notify_waiters();
        }
    }
}

/// A connection's place among those of its address; gives it up when dropped.
#[derive(Debug)]
pub struct Place {
    peers: Arc<Peers>,
    pub seat: Arc<Seat>,
    /// What is held for its address; `None` for one that is not counted.
    account: Option<Arc<Account>>,
    /// What a stream holds as long as it is open; a connection has a seat instead.
    held: Option<Box<Share>>,
    /// Its address has more than [`FEW`] connections.
    pub is_one_of_many: bool,
    kind: Kind,
}

/// What a connection is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Requests,
    Socket,
    Streams,
}

impl Peers {
    pub fn new(cap: usize) -> Arc<Self> {
        Arc::new(Self {
            cap: AtomicUsize::new(cap),
            started: Instant::now(),
            doors: AtomicUsize::new(0),
            total: AtomicUsize::new(0),
            sockets: AtomicUsize::new(0),
            carriers: AtomicUsize::new(0),
            emptied: Notify::new(),
            closed: Notify::new(),
            open: Mutex::default(),
            penalties: Penalties::default(),
        })
    }

    /// Connections that come from now on meet this cap.
    pub fn set_cap(&self, cap: usize) {
        self.cap.store(cap, Ordering::Relaxed);
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Subscriber, Address>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a door to connections.
    pub fn open_door(self: &Arc<Self>) -> Door {
        self.doors.fetch_add(1, Ordering::AcqRel);
        Door(Arc::clone(self))
    }

    /// Resolves when no connection is open and none can come.
    pub async fn empty(&self) {
        let reached = |peers: &Self| peers.total.load(Ordering::Acquire) == 0;
        self.wait_for(reached).await;
    }

    /// Resolves when the only open connections are WebSockets and tunnels, and none can come.
    pub async fn quiet(&self) {
        self.wait_for(Self::is_quiet).await;
    }

    /// Open connections of every kind.
    pub fn total(&self) -> u32 {
        self.total.load(Ordering::Acquire) as u32
    }

    /// Open WebSockets and tunnels.
    pub fn sockets(&self) -> u32 {
        self.sockets.load(Ordering::Acquire) as u32
    }

    fn is_quiet(&self) -> bool {
        let quiet = self.sockets.load(Ordering::Acquire) + self.carriers.load(Ordering::Acquire);
        self.total.load(Ordering::Acquire) <= quiet
    }

    async fn wait_for(&self, reached: impl Fn(&Self) -> bool) {
        told(&self.closed, || self.doors.load(Ordering::Acquire) == 0).await;
        told(&self.emptied, || reached(self)).await;
    }

    /// After every change that may have left no request.
    fn tell_if_quiet(&self) {
        if self.is_quiet() {
            self.emptied.notify_waiters();
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Slows down whoever wears us out: its address gets few connections for a while. True when it was
    /// not slowed down already.
    pub fn penalise(&self, address: IpAddr) -> bool {
        self.penalties.add(Subscriber::of(address), Instant::now())
    }

    /// Seats a new connection. `counted` is its address when the cap applies to it (a peer that is
    /// no trusted proxy). At the cap the address's oldest idle connection is asked to leave; `None`
    /// when every one of them is busy, or when the address is kept off.
    pub fn seat(self: &Arc<Self>, counted: Option<IpAddr>) -> Option<Place> {
        let seat = Arc::new(Seat {
            idle_since: AtomicU64::new(BUSY),
            leave: Notify::new(),
        });
        let cap = self.cap.load(Ordering::Relaxed);
        let counted = counted.map(Subscriber::of);
        let address = counted.filter(|_| cap > 0);
        if counted.is_some_and(|address| self.penalties.keeps_off(address, Instant::now())) {
            return None;
        }
        let (mut account, mut is_one_of_many) = (None, false);
        if let Some(address) = address {
            let mut open = self.open();
            let known = open.entry(address).or_insert_with(|| Address {
                seats: Vec::new(),
                connections: 0,
                account: Arc::new(Account::new(address)),
            });
            let seats = &mut known.seats;
            if known.connections >= cap.saturating_mul(2) {
                // They are asked to leave faster than they do.
                return None;
            }
            if seats.len() >= cap {
                let oldest = (0..seats.len())
                    .min_by_key(|&index| seats[index].idle_since.load(Ordering::Relaxed))
                    .filter(|&index| seats[index].idle_since.load(Ordering::Relaxed) != BUSY)?;
                // It leaves the count at once, so that the next one asked is another.
                seats.swap_remove(oldest).leave.notify_one();
            }
            seats.push(Arc::clone(&seat));
            known.connections += 1;
            is_one_of_many = seats.len() > FEW;
            account = Some(Arc::clone(&known.account));
        }
        self.total.fetch_add(1, Ordering::AcqRel);
        Some(Place {
            peers: Arc::clone(self),
            seat,
            account,
            held: None,
            is_one_of_many,
            kind: Kind::Requests,
        })
    }
}

/// Resolves when what is told of has been `reached`.
async fn told(of: &Notify, reached: impl Fn() -> bool) {
    loop {
        // Before the look at what it tells of, so that a change in between is not missed.
        let changed = of.notified();
        if reached() {
            return;
        }
        changed.await;
    }
}

impl Place {
    /// The place of a stream of this connection, which is counted as the connection is; `None` when its address holds
    /// too much.
    pub fn for_stream(&self) -> Option<Self> {
        let mut held = self.share();
        if !held.hold(STREAM) {
            return None;
        }
        let mut stream = self.peers.seat(None)?;
        stream.account.clone_from(&self.account);
        stream.held = Some(Box::new(held));
        Some(stream)
    }

    /// Of the memory that its address may take.
    pub fn share(&self) -> Share {
        Share::of_memory(self.account.clone())
    }

    /// Marks the connection as waiting for a request.
    pub fn idle(&self) {
        self.seat
            .idle_since
            .store(self.peers.now_ms(), Ordering::Relaxed);
    }

    /// Marks the connection as one that serves no request any more.
    pub fn becomes_socket(&mut self) {
        if self.kind == Kind::Requests {
            self.kind = Kind::Socket;
            self.peers.sockets.fetch_add(1, Ordering::AcqRel);
            self.peers.tell_if_quiet();
        }
    }

    /// Marks the connection as one of HTTP/2: its requests are its streams'.
    pub fn carries_streams(&mut self) {
        if self.kind == Kind::Requests {
            self.kind = Kind::Streams;
            self.peers.carriers.fetch_add(1, Ordering::AcqRel);
            self.peers.tell_if_quiet();
        }
    }

    /// Marks the connection as serving one.
    pub fn busy(&self) {
        self.seat.idle_since.store(BUSY, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match self.kind {
            Kind::Requests => {}
            Kind::Socket => drop(self.peers.sockets.fetch_sub(1, Ordering::AcqRel)),
            Kind::Streams => drop(self.peers.carriers.fetch_sub(1, Ordering::AcqRel)),
        }
        self.peers.total.fetch_sub(1, Ordering::AcqRel);
        self.peers.tell_if_quiet();
        let counted = self.account.as_ref().filter(|_| self.held.is_none());
        let Some(address) = counted.map(|account| account.of) else {
            return;
        };
        let mut open = self.peers.open();
        if let Some(known) = open.get_mut(&address) {
            known.seats.retain(|seat| !Arc::ptr_eq(seat, &self.seat));
            known.connections -= 1;
            if known.connections == 0 {
                open.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1));

    #[test]
    fn at_the_cap_the_oldest_idle_connection_leaves() {
        let peers = Peers::new(2);
        let first = peers.seat(Some(A)).expect("room");
        let second = peers.seat(Some(A)).expect("room");
        assert!(peers.seat(Some(A)).is_none(), "both are busy");
        second.idle();
        let _third = peers.seat(Some(A)).expect("the idle one makes room");
        assert!(peers.seat(Some(A)).is_none());
        drop(first);
        assert!(peers.seat(Some(A)).is_some());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let peers = Peers::new(2);
        let seat = |address: &str| peers.seat(Some(address.parse().expect("an address")));
        let first = seat("2001:db8::1").expect("room");
        let _second = seat("2001:db8::ffff:2").expect("room");
        assert!(seat("2001:db8::3").is_none(), "both are busy");
        let _other = seat("2001:db8:0:1::1").expect("another's");
        let mut held = first.share();
        assert!(held.hold(20 << 20));
        first.idle();
        let third = seat("2001:db8::4").expect("the idle one makes room");
        assert!(!third.share().hold(20 << 20), "what it holds counts");
        assert!(peers.penalise("2001:db8::1".parse().expect("an address")));
        assert!(!peers.penalise("2001:db8::2".parse().expect("an address")));
    }

    #[test]
    fn nobody_is_there_once_nobody_can_come() {
        let peers = Peers::new(0);
        let (first, last) = (peers.open_door(), peers.open_door());
        let mut empty = std::pin::pin!(peers.empty());
        let mut is_empty = || {
            let mut cx = Context::from_waker(Waker::noop());
            empty.as_mut().poll(&mut cx).is_ready()
        };
        assert!(!is_empty(), "two accept");
        drop(first);
        assert!(!is_empty(), "one accepts");
        let place = peers.seat(Some(A)).expect("room");
        drop(last);
        assert!(!is_empty(), "one is there");
        drop(place);
        assert!(is_empty());
    }

    #[test]
    fn who_was_asked_to_leave_and_stays_is_remembered() {
        let peers = Peers::new(2);
        let seat = || {
            let place = peers.seat(Some(A));
            place.inspect(|place| place.idle())
        };
        let stays = [seat(), seat()];
        let mut held = stays[0].as_ref().expect("room").share();
        assert!(held.hold(20 << 20));
        let come = [seat(), seat()];
        assert!(
            come.iter().all(Option::is_some) && seat().is_none(),
            "twice the cap"
        );
        drop(come);
        let again = seat().expect("room again");
        assert!(!again.share().hold(20 << 20), "what the others hold counts");
        drop((held, stays));
        assert!(again.share().hold(20 << 20));
        drop(again);
        assert!(peers.open().is_empty());
    }

    #[test]
    fn another_cap_holds_for_those_who_come_then() {
        let peers = Peers::new(3);
        let _places: Vec<_> = (0..3).map(|_| peers.seat(Some(A)).expect("room")).collect();
        peers.set_cap(4);
        let _fourth = peers.seat(Some(A)).expect("room");
        peers.set_cap(1);
        assert!(peers.seat(Some(A)).is_none());
    }

    #[test]
    fn uncounted_peers_and_no_cap_are_never_refused() {
        let peers = Peers::new(1);
        let _places: Vec<_> = (0..10).map(|_| peers.seat(None).expect("room")).collect();
        let free = Peers::new(0);
        let _more: Vec<_> = (0..10).map(|_| free.seat(Some(A)).expect("room")).collect();
    }
}
