//! One HTTP/2 connection: it accepts streams, keeps the clocks and ends well.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;

use crate::edge::connection::{Connection, Peer};
use crate::edge::deadline::{Deadline, Elapsed};
use crate::edge::h1::head::Limits;
use crate::edge::io::Io;
use crate::edge::peers::Place;
use crate::edge::reason::Reason as Refusal;
use crate::edge::{Edge, Phase, Thread, lock};

use super::head;
use super::meter::Breach;
use super::stream::{FRAME, PIECE, Stream};
use super::wire::Wire;

/// Streams of one connection that are open at once: what RFC 9113 section 6.5.2 names as the least that
/// does not hurt, and what browsers reach with a page of images.
const STREAMS: usize = 100;

/// DATA of one stream that may come before an app or a file has taken it, in bytes: 10 Mbit/s at a
/// round trip of 100 ms.
const STREAM_WINDOW: u32 = 128 * 1024;

/// The same of a whole connection: what it may hold in memory of bodies that nobody takes.
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// The same of one of many connections of an address: what each connection begins with (RFC 9113 section 6.9.2).
const LEAST_WINDOW: u32 = 65_535;

/// Errors of a client that end a stream and not the connection, in all its life. Each makes us reset a
/// stream, which may have reached an app (CVE-2025-8671).
const STREAM_ERRORS: usize = 200;

/// How many clients a trusted proxy counts for: what it passes on comes from all of those behind it.
const PROXIED: u32 = 10;

/// What the parts of one connection know of each other.
#[derive(Debug, Default)]
pub struct Shared {
    pub is_tls: bool,
    /// Streams whose exchange is not over, whatever the client has done to them.
    open: AtomicUsize,
    /// Bytes the kernel got rid of while it held the connection up.
    drained: AtomicU64,
    breach: OnceLock<Breach>,
    /// Guards the session's waker, for when a stream ends.
    session: Mutex<Option<Waker>>,
}

impl Shared {
    pub fn drained(&self) -> u64 {
        self.drained.load(Ordering::Relaxed)
    }

    pub fn drain(&self, bytes: u64) {
        self.drained.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn breach(&self) -> Option<Breach> {
        self.breach.get().copied()
    }

    pub fn set_breach(&self, breach: Breach) {
        let _ = self.breach.set(breach);
    }

    fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// An open stream of a connection.
#[derive(Debug)]
pub struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }

    pub fn connection(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let before = self.0.open.fetch_sub(1, Ordering::Relaxed);
        // The session waits for the last one, and for one less than it may have.
        if (before == 1 || before == STREAMS)
            && let Some(waker) = lock(&self.0.session).take()
        {
            waker.wake();
        }
    }
}

/// Serves a connection that has chosen HTTP/2, to its end.
pub async fn serve(io: Io, peer: Peer, edge: Arc<Edge>, thread: Arc<Thread>, mut place: Place) {
    let shared = Arc::new(Shared {
        is_tls: io.is_tls(),
        ..Shared::default()
    });
    let now = Instant::now();
    let clients = if edge.trusts(&peer) { PROXIED } else { 1 };
    let wire = Wire::new(io, edge.times.clone(), clients, Arc::clone(&shared));
    let mut deadline = Deadline::new(now);
    deadline.set(now + edge.times.head);
    let shaken = deadline
        .bound(settings(&edge.limits, clients, place.is_one_of_many).handshake(wire.clone()))
        .await;
    let Ok(Ok(connection)) = shaken else {
        return;
    };
    place.carries_streams();
    let (stops, seat) = (Arc::clone(&thread), Arc::clone(&place.seat));
    // Before the look at what it tells of, so that a stop in between is not missed.
    let mut stop = pin!(stops.stopping.notified());
    let mut drain = pin!(stops.draining.notified());
    let mut leave = pin!(seat.asked_to_leave());
    let mut session = Session {
        connection,
        wire,
        peer,
        edge,
        thread,
        place,
        shared,
        deadline,
        is_idle: false,
        is_leaving: false,
        is_broken: false,
    };
    if session.edge.phase() != Phase::Serving {
        session.leave();
    }
    let next = poll_fn(|cx| {
        if !session.is_leaving
            && (stop.as_mut().poll(cx).is_ready()
                || drain.as_mut().poll(cx).is_ready()
                || leave.as_mut().poll(cx).is_ready())
        {
            session.leave();
        }
        session.poll(cx)
    });
    next.await;
}

fn settings(limits: &Limits, clients: u32, is_one_of_many: bool) -> server::Builder {
    let (window, unsent) = match is_one_of_many {
        true => (LEAST_WINDOW, FRAME),
        false => (CONNECTION_WINDOW, PIECE),
    };
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(STREAMS as u32)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(window)
        .max_header_list_size(u32::try_from(limits.total).unwrap_or(u32::MAX))
        .max_send_buffer_size(unsent)
        // What is refused is remembered: frames that were on their way are no errors of the client.
        .max_concurrent_reset_streams(STREAMS)
        .max_local_error_reset_streams(Some(STREAM_ERRORS * clients as usize))
        .enable_connect_protocol();
    builder
}

struct Session {
    connection: server::Connection<Wire, Bytes>,
    wire: Wire,
    peer: Peer,
    edge: Arc<Edge>,
    thread: Arc<Thread>,
    place: Place,
    shared: Arc<Shared>,
    /// Of the wait for a stream while there is none.
    deadline: Deadline,
    is_idle: bool,
    /// The client was told to open no more streams.
    is_leaving: bool,
    /// It was told that it is too much.
    is_broken: bool,
}

impl Session {
    /// Serves what comes; ready when the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.remember(cx);
        loop {
            // A client that resets its streams does not thereby get more exchanges than these.
            let polled = match self.shared.open() < STREAMS {
                true => self.connection.poll_accept(cx),
                false => self.connection.poll_closed(cx).map(|_| None),
            };
            match polled {
                Poll::Ready(Some(Ok((request, respond)))) => self.begin(request, respond),
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "an HTTP/2 connection failed");
                    if error.reason() == Some(Reason::ENHANCE_YOUR_CALM) && error.is_library() {
                        self.penalise("frames that cost more than they bring");
                    }
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => match self.shared.breach() {
                    Some(breach) if !self.is_broken => self.break_off(breach),
                    _ => break,
                },
            }
        }
        if let Poll::Ready(Err(error)) = self.wire.poll_drain(cx) {
            tracing::debug!(%error, "an HTTP/2 connection is lost");
            return Poll::Ready(());
        }
        if self.is_head_late(cx) {
            return Poll::Ready(());
        }
        self.poll_idle(cx)
    }

    fn remember(&self, cx: &Context<'_>) {
        let mut session = lock(&self.shared.session);
        if !session
            .as_ref()
            .is_some_and(|known| known.will_wake(cx.waker()))
        {
            *session = Some(cx.waker().clone());
        }
    }

    /// Starts the exchange of a stream.
    fn begin(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        while let Some(successor) = self.edge.successor.get() {
            self.edge = Arc::clone(successor);
        }
        self.is_idle = false;
        self.place.busy();
        // Not one of its address's connections: that one has been counted.
        let Some(place) = self.place.for_stream() else {
            // Without a row: its fields are not worth reading.
            self.thread.tally.refused(Refusal::AddressFull.code());
            return respond.send_reset(Reason::REFUSED_STREAM);
        };
        let (parts, body) = request.into_parts();
        let head = head::read(&parts, body.is_end_stream(), &self.edge.limits);
        let stream = Stream::new(body, respond, Open::new(&self.shared));
        let connection = Connection::new(
            Io::Stream(Box::new(stream)),
            self.peer.clone(),
            Arc::clone(&self.edge),
            Arc::clone(&self.thread),
            place,
        );
        tokio::spawn(connection.stream(head));
    }

    /// A head must be whole in its time, however it is cut into frames (threats E-15); `h2` gives a
    /// connection for that as long as it likes.
    fn is_head_late(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(since) = self.wire.head_since() else {
            return false;
        };
        // The next wait is a new one.
        self.is_idle = false;
        self.deadline.set(since + self.edge.times.head);
        self.deadline.poll(cx).is_ready()
    }

    /// Ready when a connection without streams has had its time.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.open() > 0 || self.wire.head_since().is_some() {
            return Poll::Pending;
        }
        if !self.is_idle {
            self.is_idle = true;
            self.place.idle();
            self.wire.release();
            self.thread.freed.notify_one();
            let times = &self.edge.times;
            let time = if self.is_leaving {
                times.linger
            } else {
                times.idle
            };
            self.deadline.set(Instant::now() + time);
        }
        while let Poll::Ready(Elapsed) = self.deadline.poll(cx) {
            if self.is_leaving {
                return Poll::Ready(());
            }
            self.leave();
            self.deadline.set(Instant::now() + self.edge.times.linger);
            // The GOAWAY goes out.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Tells the client to open no more streams; those that are open are served to their end.
    fn leave(&mut self) {
        self.is_leaving = true;
        self.is_idle = false;
        self.connection.graceful_shutdown();
    }

    /// Ends the connection of a client that wears us out (RFC 9113 section 10.5), or that sends what is no HTTP/2.
    fn break_off(&mut self, breach: Breach) {
        (self.is_leaving, self.is_broken) = (true, true);
        if let Some(flood) = breach.flood() {
            self.penalise(flood);
        }
        self.connection.abrupt_shutdown(breach.reason());
    }

    /// Its address gets few connections for a while, unless it is one that speaks for many.
    fn penalise(&self, what: &str) {
        let counted = self.peer.address.filter(|_| !self.edge.trusts(&self.peer));
        if let Some(address) = counted
            && self.edge.peers.penalise(address)
        {
            tracing::warn!(%address, "a client of HTTP/2 sends too many {what}: it is slowed down for a minute");
        }
    }
}
