//! One slot's socket: frames in, frames out, and the request body that follows its head.
//!
//! Knows frames and the GIL, not what a request or a response means. Receiving is tried with the
//! GIL held when that has worked lately, and blocks with the GIL released.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use ostler_wire::{BACKLOG_FRAME, FrameHead, HEAD_LEN, Kind, MAX_PAYLOAD};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::gil::GilCell;
use super::sys;
use crate::ClientDisconnected;

/// The socket, shared by everything that serves or reads the request in flight.
pub struct Channel {
    fd: RawFd,
    receive: GilCell<Receive>,
}

/// Where requests lie that any worker of the generation may take: the receiving end of a socket that
/// keeps packets whole. The kernel gives each to one of those who ask.
struct Backlog {
    fd: RawFd,
    /// The frame that was taken; it is served after the request in flight.
    taken: Vec<u8>,
    /// Bytes of it; 0 when there is none.
    len: usize,
    /// How many were taken one after the other.
    run: u32,
}

/// What was received and not yet used.
pub struct Receive {
    fd: RawFd,
    buf: Vec<u8>,
    /// Bytes of `buf` that wait to be used.
    pending: Range<usize>,
    fds: Vec<OwnedFd>,
    body: Body,
    /// Counts requests, so that a body reader of an old one cannot take the next one's bytes.
    serial: u64,
    backlog: Option<Backlog>,
    /// The request in flight came from the backlog: its bytes are there, and this is its number.
    ticket: u32,
    cancelled: bool,
    eof: bool,
    /// How many of the last tries to receive without waiting found nothing, at most [`GIVE_UP`].
    misses: u32,
    turn: u32,
}

/// Where the streamed body of the request in flight stands.
#[derive(Clone, Copy, PartialEq)]
enum Body {
    /// All of it was taken, or there is none.
    Ended,
    /// The next bytes are a frame head.
    BetweenFrames,
    /// This many payload bytes are to come in this frame.
    InFrame { left: usize, last: bool },
    /// The client went away before its end.
    Broken,
}

/// What the slot has for its thread.
pub enum Next {
    /// A `ReqHead`: where its payload is in [`Receive::bytes`], and the descriptor with it.
    Request(Range<usize>, Option<OwnedFd>),
    Eof,
}

/// A first receive of this many bytes takes any usual head with its inline body.
const BUFFER: usize = 64 * 1024;

/// A buffer that one large frame made larger than this is given back after the request.
const KEEP: usize = 256 * 1024;

/// After so many requests from the backlog, the next one comes over the slot's own socket: what the
/// server has sent there meanwhile, a `Cancel` for each client that left, is read before it piles up.
const LONGEST_RUN: u32 = 64;

/// Set when this worker is to serve what it has and nothing more.
static TAKE_NO_MORE: AtomicBool = AtomicBool::new(false);

/// From now on no channel of this process takes from the backlog. May be called by a signal handler.
pub fn take_no_more() {
    TAKE_NO_MORE.store(true, Ordering::Relaxed);
}

/// After so many misses, waiting starts at once; every [`PROBE`]th receive tries again.
const GIVE_UP: u32 = 3;
const PROBE: u32 = 32;

/// Pieces that one `sendmsg` takes (`IOV_MAX`).
const MOST_PARTS: usize = 1024;

impl Channel {
    /// A channel on a connected stream socket; it and the backlog stay the caller's to close.
    pub fn new(fd: RawFd, backlog: Option<RawFd>) -> Self {
        sys::set_blocking(fd);
        let backlog = backlog.map(|fd| Backlog {
            fd,
            taken: vec![0; BACKLOG_FRAME],
            len: 0,
            run: 0,
        });
        Self {
            fd,
            receive: GilCell::new(Receive {
                fd,
                buf: vec![0; BUFFER],
                pending: 0..0,
                fds: Vec::new(),
                body: Body::Ended,
                serial: 0,
                backlog,
                ticket: 0,
                cancelled: false,
                eof: false,
                misses: 0,
                turn: 0,
            }),
        }
    }

    pub fn fd(&self) -> RawFd {
        self.fd
    }

    pub fn receive<'a>(&'a self, py: Python<'a>) -> PyResult<std::cell::RefMut<'a, Receive>> {
        self.receive.borrow(py)
    }

    /// Sends all of `parts` as one stretch; `false` when the server is gone. `passed` travels with
    /// the first byte.
    pub fn send(
        &self,
        py: Python<'_>,
        parts: &mut [IoSlice<'_>],
        passed: Option<BorrowedFd<'_>>,
    ) -> PyResult<bool> {
        self.send_all(py, parts, passed, false)
    }

    /// Sends the end of a response. When it says that a request was `taken`, no exception of a signal
    /// handler comes in between: the request would be served unsaid, and its answer be another's.
    pub fn send_end(
        &self,
        py: Python<'_>,
        parts: &mut [IoSlice<'_>],
        taken: bool,
    ) -> PyResult<bool> {
        self.send_all(py, parts, None, taken)
    }

    fn send_all(
        &self,
        py: Python<'_>,
        parts: &mut [IoSlice<'_>],
        mut passed: Option<BorrowedFd<'_>>,
        mut begun: bool,
    ) -> PyResult<bool> {
        let mut rest = parts;
        IoSlice::advance_slices(&mut rest, 0);
        let mut wait = false;
        while !rest.is_empty() {
            let now = &rest[..rest.len().min(MOST_PARTS)];
            let sent = if wait {
                py.detach(|| sys::send(self.fd, now, passed, true))
            } else {
                sys::send(self.fd, now, passed, false)
            };
            match sent {
                Ok(count) => {
                    IoSlice::advance_slices(&mut rest, count);
                    passed = None;
                    (wait, begun) = (true, true);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => wait = true,
                    // A frame that was begun must be finished, or the next one cannot be told from
                    // its bytes: the signal's handler runs a little later.
                    io::ErrorKind::Interrupted if begun => {}
                    io::ErrorKind::Interrupted => py.check_signals()?,
                    _ => return Ok(false),
                },
            }
        }
        Ok(true)
    }
}

impl Receive {
    /// The bytes a range of [`Next::Request`] points into; valid until the next receive.
    pub fn bytes(&self) -> &[u8] {
        match &self.backlog {
            Some(backlog) if self.ticket != 0 => &backlog.taken,
            _ => &self.buf,
        }
    }

    /// Takes a request from the backlog if there is one, to be served next: the frame that says so,
    /// which must be sent. Never waits.
    pub fn take_next(&mut self) -> Option<[u8; HEAD_LEN]> {
        let backlog = self.backlog.as_mut()?;
        if self.eof || backlog.run == LONGEST_RUN || TAKE_NO_MORE.load(Ordering::Relaxed) {
            return None;
        }
        let len = sys::recv(backlog.fd, &mut backlog.taken, &mut Vec::new()).ok()?;
        let head = FrameHead::decode(&backlog.taken[..len]).ok()??;
        backlog.len = len;
        backlog.run += 1;
        let taken = FrameHead {
            len: 0,
            kind: Kind::Taken,
            flags: 0,
            stream: head.stream,
        };
        Some(taken.encode())
    }

    /// The request that was taken from the backlog.
    fn taken_request(&mut self) -> PyResult<Option<Next>> {
        let Some(backlog) = &mut self.backlog else {
            return Ok(None);
        };
        let len = std::mem::take(&mut backlog.len);
        if len == 0 {
            backlog.run = 0;
            return Ok(None);
        }
        let frame = &backlog.taken[..len];
        match FrameHead::decode(frame) {
            Ok(Some(head)) if head.kind == Kind::ReqHead && HEAD_LEN + head.len as usize == len => {
                self.ticket = head.stream;
                Ok(Some(Next::Request(HEAD_LEN..len, None)))
            }
            _ => Err(protocol("the backlog holds what is no request")),
        }
    }

    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Waits for the next request. A late `Cancel` of the one before is dropped.
    pub fn next_request(&mut self, py: Python<'_>) -> PyResult<Next> {
        self.serial += 1;
        self.cancelled = false;
        self.body = Body::Ended;
        self.ticket = 0;
        if let Some(next) = self.taken_request()? {
            return Ok(next);
        }
        if self.pending.is_empty() {
            self.fds.clear();
            if self.buf.len() > KEEP {
                self.buf = vec![0; BUFFER];
                self.pending = 0..0;
            }
        }
        loop {
            let Some((head, payload)) = self.frame(py)? else {
                return Ok(Next::Eof);
            };
            match head.kind {
                Kind::ReqHead => {
                    let passed = if head.has_fd() {
                        if self.fds.is_empty() {
                            return Err(protocol("a request without its descriptor"));
                        }
                        Some(self.fds.remove(0))
                    } else {
                        None
                    };
                    return Ok(Next::Request(payload, passed));
                }
                Kind::Cancel | Kind::Drain => {}
                kind => return Err(protocol(&format!("an idle slot received {kind:?}"))),
            }
        }
    }

    /// Says that a streamed body follows the head just received.
    pub fn expect_body(&mut self) {
        self.body = Body::BetweenFrames;
    }

    /// Has the server called off the request in flight? Looks at what has arrived, never waits. The
    /// end of the socket is no such sign: a graceful stop ends it while responses still go out.
    pub fn poll_cancel(&mut self, py: Python<'_>) -> PyResult<bool> {
        // A body that nobody reads stays in the socket: looking further ahead would buffer it all.
        while !self.cancelled && !self.eof && self.pending.len() < BUFFER && self.try_fill(py)? {}
        self.cancelled = self.cancelled || self.cancel_is_pending();
        Ok(self.cancelled)
    }

    /// Is a `Cancel` among the bytes that were received already?
    pub fn cancel_is_pending(&self) -> bool {
        let mut rest = &self.buf[self.pending.clone()];
        if let Body::InFrame { left, .. } = self.body {
            rest = rest.get(left..).unwrap_or_default();
        }
        while let Ok(Some(head)) = FrameHead::decode(rest) {
            // One that came late, for the request before, has another ticket.
            if head.kind == Kind::Cancel && head.stream == self.ticket {
                return true;
            }
            rest = rest.get(HEAD_LEN + head.len as usize..).unwrap_or_default();
        }
        false
    }

    /// Appends up to `most` bytes of the streamed body to `out`, waiting for the first of them;
    /// 0 is its end.
    pub fn read_body(&mut self, py: Python<'_>, out: &mut Vec<u8>, most: usize) -> PyResult<usize> {
        let taken = self.take_body(py, most)?;
        out.extend_from_slice(&self.buf[taken.clone()]);
        Ok(taken.len())
    }

    /// Throws away what is left of the streamed body, waiting for its end.
    pub fn drain_body(&mut self, py: Python<'_>) -> PyResult<()> {
        loop {
            match self.take_body(py, usize::MAX) {
                Ok(taken) if taken.is_empty() => return Ok(()),
                Ok(_) => {}
                Err(_) if self.body == Body::Broken => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn take_body(&mut self, py: Python<'_>, most: usize) -> PyResult<Range<usize>> {
        loop {
            match self.body {
                Body::Ended => return Ok(0..0),
                Body::Broken => return Err(disconnected()),
                Body::BetweenFrames => self.body_frame(py)?,
                Body::InFrame { left: 0, last } => {
                    self.body = if last {
                        Body::Ended
                    } else {
                        Body::BetweenFrames
                    };
                }
                Body::InFrame { left, last } => {
                    if self.pending.is_empty() && !self.fill(py)? {
                        self.body = Body::Broken;
                        continue;
                    }
                    let count = self.pending.len().min(left).min(most);
                    let taken = self.pending.start..self.pending.start + count;
                    self.pending.start += count;
                    let left = left - count;
                    self.body = Body::InFrame { left, last };
                    return Ok(taken);
                }
            }
        }
    }

    fn body_frame(&mut self, py: Python<'_>) -> PyResult<()> {
        let Some(head) = self.head(py)? else {
            self.body = Body::Broken;
            return Ok(());
        };
        self.pending.start += HEAD_LEN;
        self.body = match head.kind {
            Kind::ReqBody => Body::InFrame {
                left: head.len as usize,
                last: head.is_end(),
            },
            Kind::Cancel => {
                self.cancelled = true;
                Body::Broken
            }
            kind => return Err(protocol(&format!("{kind:?} inside a request body"))),
        };
        Ok(())
    }

    /// The next frame head, which stays in the buffer; `None` at the end of the socket.
    fn head(&mut self, py: Python<'_>) -> PyResult<Option<FrameHead>> {
        loop {
            let decoded = FrameHead::decode(&self.buf[self.pending.clone()]);
            match decoded.map_err(|error| protocol(&error.to_string()))? {
                Some(head) => return Ok(Some(head)),
                None if self.fill(py)? => {}
                None => return Ok(None),
            }
        }
    }

    /// Takes the next whole frame: its head, and where its payload is in the buffer.
    fn frame(&mut self, py: Python<'_>) -> PyResult<Option<(FrameHead, Range<usize>)>> {
        let Some(head) = self.head(py)? else {
            return Ok(None);
        };
        let whole = HEAD_LEN + head.len as usize;
        self.make_room(whole);
        while self.pending.len() < whole {
            if !self.fill(py)? {
                return Ok(None);
            }
        }
        let payload = self.pending.start + HEAD_LEN..self.pending.start + whole;
        self.pending.start = payload.end;
        Ok(Some((head, payload)))
    }

    /// Makes `buf` hold `whole` bytes from the start of what is pending.
    fn make_room(&mut self, whole: usize) {
        debug_assert!(whole <= HEAD_LEN + MAX_PAYLOAD as usize);
        if self.pending.start + whole > self.buf.len() {
            self.move_to_front();
            if whole > self.buf.len() {
                self.buf.resize(whole, 0);
            }
        }
    }

    fn move_to_front(&mut self) {
        self.buf.copy_within(self.pending.clone(), 0);
        self.pending = 0..self.pending.len();
    }

    /// Receives more, waiting for it; `false` at the end of the socket.
    fn fill(&mut self, py: Python<'_>) -> PyResult<bool> {
        self.turn = self.turn.wrapping_add(1);
        if (self.misses < GIVE_UP || self.turn.is_multiple_of(PROBE)) && self.try_fill(py)? {
            return Ok(true);
        }
        while !self.eof {
            self.free_space();
            let (fd, at, buf, fds) = (self.fd, self.pending.end, &mut self.buf, &mut self.fds);
            let received = py.detach(|| {
                sys::wait_readable(fd)?;
                sys::recv(fd, &mut buf[at..], fds)
            });
            if self.received(py, received)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Receives what is there; `false` when there is nothing.
    fn try_fill(&mut self, py: Python<'_>) -> PyResult<bool> {
        if self.eof {
            return Ok(false);
        }
        self.free_space();
        let at = self.pending.end;
        let received = sys::recv(self.fd, &mut self.buf[at..], &mut self.fds);
        let found = self.received(py, received)?;
        self.misses = if found {
            0
        } else {
            GIVE_UP.min(self.misses + 1)
        };
        Ok(found)
    }

    fn free_space(&mut self) {
        if self.pending.is_empty() {
            self.pending = 0..0;
        } else if self.pending.end == self.buf.len() {
            if self.pending.start == 0 {
                self.buf.resize(self.buf.len() + BUFFER, 0);
            } else {
                self.move_to_front();
            }
        }
    }

    fn received(&mut self, py: Python<'_>, received: io::Result<usize>) -> PyResult<bool> {
        match received {
            Ok(0) => self.eof = true,
            Ok(count) => {
                self.pending.end += count;
                return Ok(true);
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => {}
                io::ErrorKind::Interrupted => py.check_signals()?,
                io::ErrorKind::ConnectionReset => self.eof = true,
                _ => return Err(error.into()),
            },
        }
        Ok(false)
    }
}

fn protocol(what: &str) -> PyErr {
    PyRuntimeError::new_err(format!("the server broke the protocol: {what}"))
}

/// What an app sees when the client is gone before its body was.
pub fn disconnected() -> PyErr {
    ClientDisconnected::new_err("client disconnected")
}
