//! One client connection: heads in, exchanges one after the other, a clean end.

use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use crate::logs::AccessWriter;

use super::buffer::Buffer;
use super::deadline::{Deadline, Elapsed};
use super::h1::head::{Head, Progress, parse};
use super::http2;
use super::io::Io;
use super::outgoing::{ClientGone, Outgoing};
use super::patience::Patience;
pub use super::peer::Peer;
use super::peers::Place;
use super::reason::Reason;
use super::row::Row;
use super::sending::After;
use super::site::Site;
use super::{Edge, Phase, Thread};

/// Bytes of unread request body that are read and dropped so that the connection can be used again
/// or the client sees the answer (threats E-05).
pub const LINGER_BYTES: usize = 64 * 1024;

/// A request that is on its way when the server stops is still served; it must be here by then.
const LAST_REQUEST: Duration = Duration::from_millis(100);

/// A connection and the buffers it reuses from request to request.
pub struct Connection {
    pub io: Io,
    pub peer: Peer,
    pub edge: Arc<Edge>,
    pub thread: Arc<Thread>,
    /// What the request under way is served by.
    pub site: Arc<Site>,
    pub place: Place,
    pub buffer: Buffer,
    pub head: Head,
    pub out: Outgoing,
    pub deadline: Deadline,
    /// The request under way.
    pub row: Row,
    pub https: bool,
    /// Its body has been read to the end.
    pub body_read: bool,
    /// Some of it will never be read: no other request can follow.
    pub body_is_left: bool,
    /// An answer of ours has said that the connection ends with it.
    pub told_end: bool,
    /// Seconds for `Retry-After` of the answer being made.
    pub retry_after: Option<u32>,
    /// Spare memory for the frame to a worker.
    pub frame: Vec<u8>,
    pub access: Option<Arc<Mutex<AccessWriter>>>,
    /// The response head, for the access log.
    pub sent_head: Vec<u8>,
}

/// Serves a connection to its end.
pub async fn serve(io: Io, peer: Peer, edge: Arc<Edge>, thread: Arc<Thread>, place: Place) {
    if io.chose_http2() {
        // Boxed, as an exchange is.
        return Box::pin(http2::serve(io, peer, edge, thread, place)).await;
    }
    let mut connection = Connection::new(io, peer, edge, thread, place);
    let after = loop {
        match connection.next_head().await {
            Next::Head => {}
            Next::Refused(reason) => break connection.refuse_head(reason).await,
            Next::End => return,
        }
        // Boxed: most connections are idle most of the time, and keep no room for an exchange.
        match Box::pin(connection.exchange()).await {
            After::KeepAlive => {}
            after => break after,
        }
    };
    connection.end(after).await;
}

/// Answers a connection on which no request will be read, and closes it.
pub async fn refuse(
    reason: Reason,
    io: Io,
    peer: Peer,
    edge: Arc<Edge>,
    thread: Arc<Thread>,
    place: Place,
) {
    let mut connection = Connection::new(io, peer, edge, thread, place);
    let after = connection.refuse_head(reason).await;
    connection.end(after).await;
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Streams end all the time; their connection says when it is idle.
        if !self.io.is_stream() {
            self.thread.freed.notify_one();
        }
    }
}

enum Next {
    Head,
    Refused(Reason),
    End,
}

impl Connection {
    pub(super) fn new(
        io: Io,
        peer: Peer,
        edge: Arc<Edge>,
        thread: Arc<Thread>,
        place: Place,
    ) -> Self {
        let access = thread.access.clone();
        Self {
            io,
            peer,
            site: Arc::clone(edge.routes.nowhere()),
            out: Outgoing::new(place.share()),
            edge,
            thread,
            place,
            buffer: Buffer::default(),
            head: Head::default(),
            deadline: Deadline::new(Instant::now()),
            row: Row::default(),
            https: false,
            body_read: false,
            body_is_left: false,
            told_end: false,
            retry_after: None,
            frame: Vec::new(),
            access,
            sent_head: Vec::new(),
        }
    }

    /// What the client sent behind its head.
    pub fn take_early(&mut self) -> Vec<u8> {
        let early = self.buffer.data().to_vec();
        self.buffer.consume(early.len());
        early
    }

    /// The connection carries no requests any more, and needs none of their buffers.
    pub fn become_socket(&mut self) {
        self.place.becomes_socket();
        self.forget();
    }

    /// Gives back the memory of the last request.
    fn forget(&mut self) {
        self.buffer.release();
        self.out.release();
        self.head = Head::default();
        self.frame = Vec::new();
        self.thread.freed.notify_one();
    }

    /// Waits for a request and reads its head.
    async fn next_head(&mut self) -> Next {
        if self.buffer.is_empty() && !self.wait_for_request().await {
            return Next::End;
        }
        self.place.busy();
        while let Some(successor) = self.edge.successor.get() {
            self.edge = Arc::clone(successor);
        }
        let mut limit_set = false;
        loop {
            match parse(self.buffer.data(), &self.edge.limits, &mut self.head) {
                Ok(Progress::Complete { consumed }) => {
                    self.buffer.consume(consumed);
                    return Next::Head;
                }
                Ok(Progress::Partial) => {}
                Err(reason) => return Next::Refused(reason),
            }
            if !limit_set {
                // The whole head has this long, however it is cut into packets (threats E-15).
                self.deadline.set(Instant::now() + self.edge.times.head);
                limit_set = true;
            }
            let (buffer, io) = (&mut self.buffer, &mut self.io);
            match self
                .deadline
                .bound(poll_fn(|cx| buffer.poll_fill(cx, io)))
                .await
            {
                Ok(Ok(0) | Err(_)) if self.buffer.is_empty() => return Next::End,
                Ok(Ok(0)) => return Next::Refused(Reason::HeadIncomplete),
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return Next::End,
                Err(Elapsed) => return Next::Refused(Reason::HeadTimeout),
            }
        }
    }

    /// Waits for the first byte of a request; false when the connection should end without a word
    /// (the client left, it was idle for too long, the server stops, its address needs the place).
    async fn wait_for_request(&mut self) -> bool {
        self.place.idle();
        let now = Instant::now();
        let idle = now + self.edge.times.idle;
        // Most clients that come back do so at once. One that does not costs no buffer.
        let first_look = (now + self.edge.times.release).min(idle);
        match self.first_byte(first_look).await {
            Some(came) => came,
            None if first_look == idle => false,
            None => {
                self.forget();
                self.first_byte(idle).await.unwrap_or(false)
            }
        }
    }

    /// `None` when `until` passed first.
    async fn first_byte(&mut self, until: Instant) -> Option<bool> {
        let (stopping, seat) = (&self.thread.stopping, &self.place.seat);
        // Before the look at what it tells of, so that a stop in between is not missed.
        let mut stop = std::pin::pin!(stopping.notified());
        let mut ending = self.edge.phase() == Phase::Stopping;
        let until = if ending {
            Instant::now() + LAST_REQUEST
        } else {
            until
        };
        self.deadline.set(until);
        let (buffer, io, deadline) = (&mut self.buffer, &mut self.io, &mut self.deadline);
        let mut leave = std::pin::pin!(seat.asked_to_leave());
        poll_fn(|cx| {
            if let Poll::Ready(read) = poll_when_readable(cx, io, buffer) {
                return Poll::Ready(Some(matches!(read, Ok(1..))));
            }
            if leave.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Some(false));
            }
            if !ending && stop.as_mut().poll(cx).is_ready() {
                ending = true;
                deadline.set(Instant::now() + LAST_REQUEST);
            }
            deadline.poll(cx).map(|Elapsed| ending.then_some(false))
        })
        .await
    }

    /// Sends what is in `out`, all of it, as long as the client keeps taking it.
    pub async fn flush(&mut self) -> Result<(), ClientGone> {
        let (out, io, deadline) = (&mut self.out, &mut self.io, &mut self.deadline);
        let (times, mut patience) = (&self.edge.times, Patience::default());
        poll_fn(|cx| match out.poll_send(cx, io) {
            Poll::Ready(sent) => Poll::Ready(sent),
            Poll::Pending => patience.poll(cx, io, times, deadline).map(Err),
        })
        .await
    }

    /// As [`Connection::flush`], for an answer that is sent in parts with one patience.
    pub async fn flush_part(&mut self, patience: &mut Patience) -> Result<(), ClientGone> {
        let (out, io, deadline) = (&mut self.out, &mut self.io, &mut self.deadline);
        let times = &self.edge.times;
        poll_fn(|cx| match out.poll_step(cx, io) {
            Poll::Ready(sent) => Poll::Ready(sent),
            Poll::Pending => patience.poll(cx, io, times, deadline).map(Err),
        })
        .await
    }

    /// Reads and drops what the client still sends of a body, within bounds; false when there is
    /// more than that, so that the connection cannot be used again.
    pub async fn drop_rest(&mut self, mut body: super::body::BodyReader) -> bool {
        self.deadline.set(Instant::now() + self.edge.times.linger);
        let mut dropped = Vec::new();
        while !body.is_done() && dropped.len() <= LINGER_BYTES {
            let (io, buffer) = (&mut self.io, &mut self.buffer);
            let piece = poll_fn(|cx| body.poll_piece(cx, io, buffer, &mut dropped));
            let piece = self.deadline.bound(piece).await;
            self.row.received = body.received();
            if !matches!(piece, Ok(Ok(()))) {
                return false;
            }
        }
        body.is_done()
    }

    async fn end(&mut self, after: After) {
        match after {
            After::Gone | After::KeepAlive => {}
            After::Abort => self.abort(),
            After::Close => self.close().await,
        }
    }

    /// Closes the connection so that the client gets the last bytes: our side first, then what the
    /// client still sends is read for a moment, since closing over unread bytes resets the
    /// connection (RFC 9112 section 9.6).
    pub async fn close(&mut self) {
        self.deadline.set(Instant::now() + self.edge.times.linger);
        if !matches!(self.deadline.bound(self.io.shutdown()).await, Ok(Ok(()))) {
            return;
        }
        let mut dropped = 0;
        while dropped <= LINGER_BYTES {
            let rest = self.buffer.data().len();
            self.buffer.consume(rest);
            let (buffer, io) = (&mut self.buffer, &mut self.io);
            match self
                .deadline
                .bound(poll_fn(|cx| buffer.poll_fill(cx, io)))
                .await
            {
                Ok(Ok(count @ 1..)) => dropped += count,
                _ => return,
            }
        }
    }

    /// Resets the connection: a response that ends without its last chunk or byte must not look
    /// like one that ended well to a client that reads until the end.
    fn abort(&mut self) {
        self.io.end_by_reset();
    }
}

/// What a client does while its answer is being made.
pub enum Sign {
    /// It has sent its next request, or a part of it.
    More,
    /// It sends nothing more. It may still read, but nearly all that do this are gone.
    End,
    /// Its connection is broken.
    Gone,
}

/// Waits for a sign of a client that has sent all of its request; never ready once something is
/// read that belongs to the next one.
pub fn poll_sign(cx: &mut Context<'_>, io: &mut Io, buffer: &mut Buffer) -> Poll<Sign> {
    if let Io::Stream(stream) = io {
        return stream.poll_gone(cx).map(|()| Sign::End);
    }
    if !buffer.is_empty() {
        return Poll::Pending;
    }
    match ready!(buffer.poll_fill(cx, io)) {
        Ok(0) => Poll::Ready(Sign::End),
        Ok(_) => Poll::Ready(Sign::More),
        Err(_) => Poll::Ready(Sign::Gone),
    }
}

/// Reads into `buffer` without giving it memory before there is something to read.
fn poll_when_readable(
    cx: &mut Context<'_>,
    io: &mut Io,
    buffer: &mut Buffer,
) -> Poll<std::io::Result<usize>> {
    if !buffer.has_memory() {
        // rustls holds its own buffers; ours is small beside them.
        ready!(io.poll_readable(cx))?;
    }
    buffer.poll_fill(cx, io)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, D, E, F>(_: impl Fn(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    /// What an idle connection takes is its task; an exchange is several times as large.
    #[test]
    fn an_idle_connection_keeps_no_room_for_an_exchange() {
        let size = size_of_future(serve);
        assert!(size <= 1312, "{size}");
    }
}
