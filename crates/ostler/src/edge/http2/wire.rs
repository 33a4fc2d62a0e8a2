//! The bytes of an HTTP/2 connection between `h2` and the socket: what comes is counted, what goes is
//! gathered, who takes nothing is given up, and the last bytes arrive.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::edge::connection::LINGER_BYTES;
use crate::edge::deadline::{Deadline, Elapsed};
use crate::edge::io::Io;
use crate::edge::outgoing::ClientGone;
use crate::edge::patience::Patience;
use crate::edge::{Times, lock};

use super::meter::Meter;
use super::session::Shared;

/// Bytes that are gathered before the socket is asked: a full record of TLS and the next. `h2` writes and
/// flushes each frame by itself, which made 3.7 system calls and as many records for a file of 1 KiB.
const GATHERED: usize = 32 * 1024;

/// Memory that the gathered bytes keep.
const KEEP: usize = 64 * 1024;

/// A client's connection. `h2` has one end of it, the session the other, which flushes.
#[derive(Clone)]
pub struct Wire(Arc<Mutex<Line>>);

/// What both share; the lock is never waited for, since both run in one task.
struct Line {
    io: Io,
    meter: Meter,
    shared: Arc<Shared>,
    /// Gathered bytes, and how many of them are sent.
    out: Vec<u8>,
    sent: usize,
    /// The socket may hold some of what was written.
    needs_flush: bool,
    /// With the client, while there are bytes for it that the socket does not take.
    patience: Patience,
    deadline: Deadline,
    times: Times,
    /// Bytes the client had taken when it was last seen to hold us up; `None` while it does not.
    held_at: Option<u64>,
    /// Bytes read and dropped since our side was closed.
    dropped: Option<usize>,
}

impl Wire {
    /// `clients` speak on it: one, or those of a proxy.
    pub fn new(io: Io, times: Times, clients: u32, shared: Arc<Shared>) -> Self {
        let now = Instant::now();
        Self(Arc::new(Mutex::new(Line {
            io,
            meter: Meter::new(now, clients),
            shared,
            out: Vec::new(),
            sent: 0,
            needs_flush: false,
            patience: Patience::default(),
            deadline: Deadline::new(now),
            times,
            held_at: None,
            dropped: None,
        })))
    }

    /// Sends what was gathered; ready when the socket has all of it.
    pub fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).poll_drain(cx)
    }

    /// Since when the head of a request is on its way.
    pub fn head_since(&self) -> Option<Instant> {
        lock(&self.0).meter.head_since()
    }

    /// Gives memory back.
    pub fn release(&self) {
        let mut line = lock(&self.0);
        if line.out.is_empty() {
            line.out = Vec::new();
        }
    }
}

impl Line {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            let wrote = Pin::new(&mut self.io).poll_write(cx, &self.out[self.sent..]);
            match ready!(self.watch(cx, wrote))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
            self.needs_flush = true;
        }
        self.out.clear();
        self.sent = 0;
        if self.out.capacity() > KEEP {
            self.out = Vec::new();
        }
        if self.needs_flush {
            let flushed = Pin::new(&mut self.io).poll_flush(cx);
            ready!(self.watch(cx, flushed))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Follows what a write came to.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            if self.held_at.take().is_some() {
                self.patience = Patience::default();
            }
            return wrote;
        }
        let taken = self.io.taken();
        if let Some(before) = self.held_at.replace(taken) {
            self.shared.drain(taken.saturating_sub(before));
        }
        let given_up = self
            .patience
            .poll(cx, &self.io, &self.times, &mut self.deadline);
        given_up.map(|ClientGone| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Ready when there is room for more bytes.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.out.len() {
            0..GATHERED => Poll::Ready(Ok(())),
            _ => self.poll_drain(cx),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let line = &mut *lock(&self.0);
        if line.shared.breach().is_some() {
            // Nothing more of it is looked at; the session ends it at once.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut line.io).poll_read(cx, buf))?;
        let taken = line
            .meter
            .take(&mut buf.filled_mut()[before..], Instant::now());
        if let Some(breach) = taken.breach {
            line.shared.set_breach(breach);
            buf.set_filled(before + taken.good);
            if taken.good == 0 {
                // As above; nothing read would mean the end.
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut line = lock(&self.0);
        ready!(line.poll_room(cx))?;
        line.out.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut line = lock(&self.0);
        ready!(line.poll_room(cx))?;
        bufs.iter().for_each(|buf| line.out.extend_from_slice(buf));
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Only says that more may be written: the session flushes when `h2` has nothing more to write.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).poll_room(cx)
    }

    /// Closes our side, then reads what still comes for a moment: closing over unread bytes resets
    /// the connection, and the client would not see the GOAWAY.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let line = &mut *lock(&self.0);
        ready!(line.poll_drain(cx))?;
        if line.dropped.is_none() {
            ready!(Pin::new(&mut line.io).poll_shutdown(cx))?;
            line.deadline.set(Instant::now() + line.times.linger);
        }
        let dropped = line.dropped.get_or_insert(0);
        while *dropped <= LINGER_BYTES {
            let mut space = [0; 4096];
            let mut space = ReadBuf::new(&mut space);
            match Pin::new(&mut line.io).poll_read(cx, &mut space) {
                Poll::Ready(Ok(())) if !space.filled().is_empty() => {
                    *dropped += space.filled().len();
                }
                Poll::Ready(_) => break,
                Poll::Pending => return line.deadline.poll(cx).map(|Elapsed| Ok(())),
            }
        }
        Poll::Ready(Ok(()))
    }
}
