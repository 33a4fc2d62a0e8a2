//! The bytes of an HTTP/2 connection between `h2` and the socket: what comes is counted, who takes
//! nothing is given up, and the last bytes arrive.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::edge::Times;
use crate::edge::connection::LINGER_BYTES;
use crate::edge::deadline::{Deadline, Elapsed};
use crate::edge::io::Io;
use crate::edge::outgoing::ClientGone;
use crate::edge::patience::Patience;

use super::meter::Meter;
use super::session::Shared;

/// A client's connection, as `h2` sees it.
pub struct Wire {
    io: Io,
    meter: Meter,
    shared: Arc<Shared>,
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
    pub fn new(io: Io, times: Times, shared: Arc<Shared>) -> Self {
        let now = Instant::now();
        Self {
            io,
            meter: Meter::new(now),
            shared,
            patience: Patience::default(),
            deadline: Deadline::new(now),
            times,
            held_at: None,
            dropped: None,
        }
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
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.shared.flood().is_some() {
            // Nothing more of it is looked at; the session ends it at once.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let came = &buf.filled()[before..];
        if let Some(flood) = this.meter.take(came, Instant::now()) {
            this.shared.set_flood(flood);
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
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.io).poll_write(cx, buf);
        this.watch(cx, wrote)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.watch(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        this.watch(cx, flushed)
    }

    /// Closes our side, then reads what still comes for a moment: closing over unread bytes resets
    /// the connection, and the client would not see the GOAWAY.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.dropped.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            this.deadline.set(Instant::now() + this.times.linger);
        }
        let dropped = this.dropped.get_or_insert(0);
        while *dropped <= LINGER_BYTES {
            let mut space = [0; 4096];
            let mut space = ReadBuf::new(&mut space);
            match Pin::new(&mut this.io).poll_read(cx, &mut space) {
                Poll::Ready(Ok(())) if !space.filled().is_empty() => {
                    *dropped += space.filled().len();
                }
                Poll::Ready(_) => break,
                Poll::Pending => return this.deadline.poll(cx).map(|Elapsed| Ok(())),
            }
        }
        Poll::Ready(Ok(()))
    }
}
